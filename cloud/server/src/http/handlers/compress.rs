//! Compressions: what they may cost, the samples that they are judged by, and what came of them.

use super::super::api::{CompressRequest, CompressionView, Json, SampleSetView};
use super::super::problem::Problem;
use super::super::service::{Answer, Call, Handled};
use super::super::spool::Spool;
use super::jobs::{parse, submit};
use super::models::{all, named};
use crate::app::{App, UPLOADS};
use crate::work::{COMPRESS, CompressSpec, Method};
use flotilla_compress::{Budget, Recipe, Report};
use flotilla_data::LOOSE_BYTES;
use flotilla_identity::now_ms;
use flotilla_protocol::board::BoardProfile;
use flotilla_protocol::limits::MIB;
use flotilla_protocol::{DatasetName, DeviceId, Digest, ErrorCode, ModelName, limits};
use flotilla_registry::{ModelVersion, Source};
use flotilla_train::Shrink;
use http::StatusCode;
use serde::de::DeserializeOwned;
use serde_json::json;

/// Weights that one request keeps floats by name.
const KEPT_FLOAT: usize = 256;
/// Versions of a model that are looked at for the newest that is not compressed.
const LISTED: usize = 500;

/// `POST /api/v1/jobs/compress`
pub(crate) async fn start(mut call: Call) -> Handled {
    let request: CompressRequest = call.json().await?;
    let invalid = |detail: String| Problem::new(ErrorCode::InvalidInput, detail);
    let model: ModelName = parse("model", &request.model)?;
    let version = match request.version {
        Some(version) => call.app.registry.version(&model, version).await?,
        None => newest(&call.app, &model).await?,
    };
    let recipe: Option<Recipe> = object("recipe", request.recipe)?;
    let shrink: Option<Shrink> = object("shrink", request.shrink)?;
    if let Some(settings) = &shrink {
        settings.validate().map_err(|e| Problem::new(e.code(), format!("shrink: {e}")))?;
    }
    if let Some(recipe) = &recipe {
        recipe.check()?;
        if request.method != Method::Weights || !request.keep_float.is_empty() {
            return Err(invalid("a recipe says all that is done: leave method and keep_float out".into()));
        }
    }
    if shrink.is_some() && request.method == Method::Weights {
        return Err(invalid("shrink is for smaller networks: give a method other than weights".into()));
    }
    let too_long = |name: &String| name.is_empty() || name.len() > limits::TEXT;
    if request.keep_float.len() > KEPT_FLOAT || request.keep_float.iter().any(too_long) {
        return Err(invalid(format!("keep_float: up to {KEPT_FLOAT} names of weights are possible")));
    }
    let budget = Budget {
        max_drop: request.max_drop,
        max_bytes: request.max_bytes,
        max_latency_ms: request.max_latency_ms,
        max_peak_bytes: request.max_peak_bytes,
    };
    budget.check_numbers()?;
    let board = match &request.board {
        Some(board) => Some(call.app.boards.one(board).await?),
        None => None,
    };
    // A board that was measured, and of which no document tells, bounds times alone.
    let profile = board.as_ref().and_then(|board| board.profile.as_ref());
    let budget = profile.map_or(budget, |profile| within(budget, profile));
    let dataset = match (&request.dataset, request.dataset_version) {
        (Some(name), number) => {
            let name: DatasetName = parse("dataset", name)?;
            let number = call.app.datasets.version(&name, number).await?.version;
            Some((name, number))
        }
        (None, Some(_)) => return Err(invalid("dataset_version is for a dataset: name that, too".into())),
        (None, None) => None,
    };
    let samples = match &request.samples {
        Some(digest) => {
            Some(call.app.datasets.sample_set(&parse::<Digest>("samples", digest)?).await?.digest)
        }
        None => None,
    };
    let measure_on = match &request.measure_on {
        Some(device) => {
            let device: DeviceId = parse("measure_on", device)?;
            call.app.fleet.device(&device).await?;
            Some(device)
        }
        None => None,
    };
    let spec = CompressSpec {
        model,
        version: version.version,
        budget,
        method: request.method,
        four_bit: request.four_bit,
        keep_float: request.keep_float,
        recipe,
        dataset,
        samples,
        board: board.map(|board| board.name),
        measure_on,
        shrink,
    };
    submit(&call, COMPRESS, json!(spec), StatusCode::CREATED).await
}

/// The newest version that is not compressed, else the newest.
async fn newest(app: &App, model: &ModelName) -> Result<ModelVersion, Problem> {
    let latest = app.registry.latest_version(model).await?;
    let is_compressed = |version: &ModelVersion| matches!(version.source, Source::Compressed { .. });
    if !is_compressed(&latest) {
        return Ok(latest);
    }
    let behind = latest.version.saturating_sub(LISTED as u32 + 1);
    let versions = app.registry.versions(model, Some(behind), LISTED).await?;
    Ok(versions.into_iter().rev().find(|version| !is_compressed(version)).unwrap_or(latest))
}

/// A JSON object as what it is for; none where there is none.
fn object<T: DeserializeOwned>(what: &str, value: Json) -> Result<Option<T>, Problem> {
    match value {
        Json::Null => Ok(None),
        value => serde_json::from_value(value)
            .map(Some)
            .map_err(|e| Problem::new(ErrorCode::InvalidInput, format!("{what}: {e}"))),
    }
}

/// A budget within what a board leaves a model.
fn within(budget: Budget, profile: &BoardProfile) -> Budget {
    let least = |asked: Option<u64>, mib: u64| {
        let bound = mib.saturating_mul(MIB as u64);
        Some(asked.map_or(bound, |asked| asked.min(bound)))
    };
    Budget {
        max_bytes: least(budget.max_bytes, profile.model.release_mb),
        max_peak_bytes: least(budget.max_peak_bytes, profile.model.memory_mb),
        ..budget
    }
}

/// `POST /api/v1/samples`
pub(crate) async fn samples(mut call: Call) -> Handled {
    let name: String = call.query("file")?.unwrap_or_else(|| "samples".to_owned());
    let _turn = call.app.uploads.clone().try_acquire_owned().map_err(|_| {
        let detail = format!("{UPLOADS} uploads are under way already; try again when one has ended");
        Problem::new(ErrorCode::Busy, detail)
    })?;
    let reserve = flotilla_storage::RecordsConfig::default().reserve_bytes;
    let spools = call.app.spool.clone();
    let advice = "send fewer samples: some hundred are enough";
    let spool = Spool::receive(&spools, &name, call.body(), LOOSE_BYTES, advice, reserve).await?;
    let beside = spool.folder.join(".samples");
    let set = call.app.datasets.add_sample_set(call.actor()?, spool.file.clone(), beside, now_ms()).await?;
    let view = SampleSetView { samples: set.digest.to_string(), count: set.samples, bytes: set.bytes };
    Answer::json_with(StatusCode::CREATED, &view)
}

/// The compression report of a version; none where it was not compressed.
async fn report_of(app: &App, version: &ModelVersion) -> Result<Option<Report>, Problem> {
    let Source::Compressed { .. } = &version.source else { return Ok(None) };
    let Some(report) = app.registry.report(version).await? else { return Ok(None) };
    serde_json::from_value(report).map(Some).map_err(|e| Problem::new(ErrorCode::StorageCorrupt, e))
}

/// The compression reports of every compressed version in short, oldest first.
pub(crate) async fn views(app: &App) -> Result<Vec<CompressionView>, Problem> {
    let mut views = Vec::new();
    for version in all(app).await? {
        let Some(report) = report_of(app, &version).await? else { continue };
        let Source::Compressed { recipe, .. } = &version.source else { continue };
        views.push(CompressionView {
            model: version.model.to_string(),
            version: version.version,
            recipe: recipe.clone(),
            metric: json!(report.metric).as_str().unwrap_or_default().to_owned(),
            bytes_before: report.bytes_before,
            bytes_after: report.bytes_after,
            value_before: report.value_before,
            value_after: report.value_after,
            latency_before_ms: report.latency_before.p50_ms,
            latency_after_ms: report.latency_after.p50_ms,
            warnings: report.warnings.iter().map(ToString::to_string).collect(),
        });
    }
    Ok(views)
}

/// `GET /api/v1/models/{model}/versions/{version}/pareto.svg`
pub(crate) async fn plot(call: Call) -> Handled {
    let version = named(&call).await?;
    let report = report_of(&call.app, &version).await?.ok_or_else(|| {
        let detail = format!("{} v{} was not compressed here", version.model, version.version);
        Problem::new(ErrorCode::NotFound, detail)
    })?;
    Answer::bytes(StatusCode::OK, "image/svg+xml", report.pareto_svg().into())
}
