//! Model versions.

use super::super::api::{EvaluateRequest, EvaluationView, LicenceRequest, ModelVersionView};
use super::super::problem::Problem;
use super::super::service::{Answer, Call, Handled};
use super::datasets::parse_split;
use crate::app::App;
use crate::work::Labels;
use flotilla_identity::now_ms;
use flotilla_protocol::{DatasetName, ErrorCode, ModelName};
use flotilla_registry::{ModelVersion, Source};
use flotilla_runtime::quality::Outcomes;
use flotilla_runtime::{Model, Trial};
use http::StatusCode;
use tokio::sync::mpsc;

/// Models, and versions a model, that one answer lists.
const LISTED: usize = 500;
/// Samples that one evaluation runs.
const EVALUATED: usize = 20_000;
/// Samples that are read ahead of the engine.
const SAMPLES_AHEAD: usize = 16;

/// `GET /api/v1/models`
pub(crate) async fn list(call: Call) -> Handled {
    let versions = all(&call.app).await?;
    Answer::json(&versions.iter().map(view).collect::<Vec<_>>())
}

/// Every version of every model, in the order of their making.
pub(crate) async fn all(app: &App) -> Result<Vec<ModelVersion>, Problem> {
    let mut versions = Vec::new();
    for model in app.registry.models(None, LISTED).await? {
        versions.extend(app.registry.versions(&model.name, None, LISTED).await?);
    }
    versions.sort_by_key(|v| v.created_at_ms);
    Ok(versions)
}

fn view(version: &ModelVersion) -> ModelVersionView {
    let (source, recipe, job) = match &version.source {
        Source::Trained { job } => ("trained", "", job.to_string()),
        Source::Compressed { recipe, job, .. } => {
            ("compressed", recipe.as_str(), job.as_ref().map(ToString::to_string).unwrap_or_default())
        }
        Source::Imported { .. } => ("imported", "", String::new()),
    };
    let from = match &version.source {
        Source::Imported { from } => from.clone(),
        Source::Trained { .. } | Source::Compressed { .. } => String::new(),
    };
    ModelVersionView {
        model: version.model.to_string(),
        version: version.version,
        source: source.to_owned(),
        onnx: version.onnx.to_string(),
        bytes: version.onnx_bytes,
        accuracy: (version.metrics.samples > 0).then_some(version.metrics.accuracy),
        dataset: version.lineage.dataset.clone(),
        dataset_version: version.lineage.dataset_version,
        recipe: recipe.to_owned(),
        job,
        from,
        licence: version.licence.clone(),
        created_at_ms: version.created_at_ms,
    }
}

pub(super) async fn named(call: &Call) -> Result<ModelVersion, Problem> {
    let model: ModelName = call.param("model")?;
    Ok(call.app.registry.version(&model, call.param("version")?).await?)
}

/// `PATCH /api/v1/models/{model}/versions/{version}`
pub(crate) async fn set_licence(mut call: Call) -> Handled {
    let LicenceRequest { licence } = call.json().await?;
    let (model, version): (ModelName, u32) = (call.param("model")?, call.param("version")?);
    let changed = call.app.registry.set_licence(call.actor()?, &model, version, licence, now_ms()).await?;
    call.app.changed();
    Answer::json(&view(&changed))
}

/// `GET /api/v1/models/{model}/versions/{version}/onnx`
pub(crate) async fn onnx(call: Call) -> Handled {
    let version = named(&call).await?;
    Answer::bytes(StatusCode::OK, "application/octet-stream", call.app.registry.onnx(&version).await?)
}

/// `GET /api/v1/models/{model}/versions/{version}/pipeline`
pub(crate) async fn pipeline(call: Call) -> Handled {
    let version = named(&call).await?;
    Answer::json(&call.app.registry.pipeline(&version).await?)
}

/// `GET /api/v1/models/{model}/versions/{version}/report`
pub(crate) async fn report(call: Call) -> Handled {
    let version = named(&call).await?;
    match call.app.registry.report(&version).await? {
        Some(report) => Answer::json(&report),
        None => Err(Problem::new(
            ErrorCode::NotFound,
            format!("{} v{} has no report", version.model, version.version),
        )),
    }
}

/// `POST /api/v1/models/{model}/versions/{version}/evaluate`
pub(crate) async fn evaluate(mut call: Call) -> Handled {
    let request: EvaluateRequest = call.json().await?;
    let version = named(&call).await?;
    let (pipeline, onnx) =
        (call.app.registry.pipeline(&version).await?, call.app.registry.onnx(&version).await?);
    let dataset: DatasetName = request
        .dataset
        .parse()
        .map_err(|e| Problem::new(ErrorCode::InvalidInput, format!("dataset: {e}")))?;
    let dataset = call.app.datasets.version(&dataset, Some(request.version)).await?;
    let samples = call.app.datasets.samples(&dataset, Some(parse_split(&request.split)?)).await?;
    if samples.len() > EVALUATED {
        let detail = format!("{} samples are more than the {EVALUATED} of one evaluation", samples.len());
        return Err(Problem::new(ErrorCode::TooLarge, detail));
    }
    let total = samples.len() as u64;
    let form = call.app.datasets.input_form(&dataset).await?;
    let refused = |(code, detail)| Problem::new(code, detail);
    let labels = Labels::of(&dataset.classes, &pipeline).map_err(refused)?;
    let (to, mut from) = mpsc::channel(SAMPLES_AHEAD);
    let running = tokio::task::spawn_blocking(move || {
        let mut model = Model::load(&pipeline, &onnx)?;
        Trial::run(&mut model, std::iter::from_fn(|| from.blocking_recv()))
    });
    for sample in &samples {
        let bytes = call.app.datasets.sample_bytes(sample).await?;
        let truth = labels.truth(form.truth(&sample.truth, &bytes)?).map_err(refused)?;
        if to.send((form.input(bytes)?, truth)).await.is_err() {
            // It has ended early, and says why.
            break;
        }
    }
    drop(to);
    let trial = running.await.map_err(|e| Problem::new(ErrorCode::Internal, e))??;
    let quality = trial.quality();
    if quality.samples != total {
        let detail = format!("{} of {total} samples were evaluated", quality.samples);
        return Err(Problem::new(ErrorCode::Internal, detail));
    }
    let predictions = match &trial.outcomes {
        Outcomes::Classes(outcomes) => outcomes.iter().map(|outcome| outcome.predicted as u32).collect(),
        _ => Vec::new(),
    };
    Answer::json(&EvaluationView { quality, predictions })
}
