//! Signed releases and bundles.

use super::super::api::{ReleaseRequest, ReleaseView};
use super::super::problem::Problem;
use super::super::service::{Answer, Call, Handled};
use crate::app::App;
use bytes::Bytes;
use flotilla_data::Split;
use flotilla_identity::now_ms;
use flotilla_protocol::{DatasetName, Digest, ErrorCode, ModelName};
use flotilla_registry::{ModelVersion, Release};
use flotilla_runtime::{Input, Preprocessor};
use http::StatusCode;

/// Models, and releases a model, that one answer lists.
const LISTED: usize = 500;
/// Golden vectors of a release: samples of the test split, spread evenly.
const GOLDEN: usize = 16;
/// A sample over so many bytes becomes a golden vector in the size of the model's input.
const GOLDEN_INPUT: usize = 16 * 1024;
/// Bytes of all golden vectors, beyond which fewer are taken.
const GOLDEN_BYTES: usize = 1024 * 1024;
/// Largest bundle that is imported.
const BUNDLE: usize = 256 * 1024 * 1024;

/// `GET /api/v1/releases`
pub(crate) async fn list(call: Call) -> Handled {
    Answer::json(&views(&call.app).await?)
}

/// Every release of every model, in the order of their making.
pub(crate) async fn views(app: &App) -> Result<Vec<ReleaseView>, Problem> {
    let mut releases = Vec::new();
    for model in app.registry.models(None, LISTED).await? {
        releases.extend(app.registry.releases(&model.name, None, LISTED).await?);
    }
    releases.sort_by_key(|r| r.created_at_ms);
    Ok(releases.iter().map(view).collect())
}

fn view(release: &Release) -> ReleaseView {
    ReleaseView {
        model: release.model.to_string(),
        version: release.version,
        counter: release.counter,
        digest: release.digest.to_string(),
        bytes: release.total_bytes,
        key_id: release.key_id.0.to_string(),
        accuracy: (release.metrics.samples > 0).then_some(release.metrics.accuracy),
        created_at_ms: release.created_at_ms,
        agent: release.agent.as_ref().map(|agent| agent.version.clone()),
    }
}

/// `POST /api/v1/releases`
pub(crate) async fn create(mut call: Call) -> Handled {
    let request: ReleaseRequest = call.json().await?;
    let wanted = wanted(&call.app, request).await?;
    let release = call.app.registry.release(call.actor()?, wanted, now_ms()).await?;
    call.app.changed();
    Answer::json_with(StatusCode::CREATED, &view(&release))
}

/// The named version with golden inputs.
async fn wanted(app: &App, request: ReleaseRequest) -> Result<flotilla_registry::ReleaseRequest, Problem> {
    let model: ModelName =
        request.model.parse().map_err(|e| Problem::new(ErrorCode::InvalidInput, format!("model: {e}")))?;
    let version = match request.version {
        Some(version) => app.registry.version(&model, version).await?,
        None => app.registry.latest_version(&model).await?,
    };
    let golden = golden_inputs(app, &version).await?;
    let mut wanted = flotilla_registry::ReleaseRequest::newest(model, golden);
    wanted.version = Some(version.version);
    wanted.boards = request.boards;
    Ok(wanted)
}

/// `POST /api/v1/releases/draft`
pub(crate) async fn draft(mut call: Call) -> Handled {
    let request: ReleaseRequest = call.json().await?;
    let wanted = wanted(&call.app, request).await?;
    Answer::bytes(StatusCode::OK, "application/zip", call.app.registry.draft(wanted, now_ms()).await?)
}

/// `POST /api/v1/agent-releases`
pub(crate) async fn create_agent(mut call: Call) -> Handled {
    let missing = || Problem::new(ErrorCode::InvalidInput, "the query parameter version is missing");
    let version: String = call.query("version")?.ok_or_else(missing)?;
    let zip = call.bytes(BUNDLE).await?;
    let read = move || flotilla_registry::AgentRequest::from_zip(version, &zip);
    let request =
        tokio::task::spawn_blocking(read).await.map_err(|e| Problem::new(ErrorCode::Internal, e))??;
    let release = call.app.registry.release_agent(call.actor()?, request, now_ms()).await?;
    call.app.changed();
    Answer::json_with(StatusCode::CREATED, &view(&release))
}

/// Samples of the dataset that the model was trained on.
async fn golden_inputs(app: &App, version: &ModelVersion) -> Result<Vec<Bytes>, Problem> {
    let name: DatasetName = version.lineage.dataset.parse().map_err(|_| {
        let detail =
            format!("{} v{} does not say which dataset it comes from", version.model, version.version);
        Problem::new(ErrorCode::InvalidInput, detail)
    })?;
    let dataset = app.datasets.version(&name, Some(version.lineage.dataset_version)).await?;
    let samples = app.datasets.samples(&dataset, Some(Split::Test)).await?;
    let form = app.datasets.input_form(&dataset).await?;
    let pipeline = app.registry.pipeline(version).await?;
    let preprocessor = Preprocessor::new(&pipeline).map_err(|e| Problem::new(e.code(), e))?;
    let count = samples.len().min(GOLDEN);
    let mut inputs = Vec::with_capacity(count);
    let mut total = 0;
    for index in 0..count {
        let sample = app.datasets.sample_bytes(&samples[index * samples.len() / count]).await?;
        let sample = form.input(sample)?;
        let preprocessor = preprocessor.clone();
        let input = tokio::task::spawn_blocking(move || golden_input(&preprocessor, sample))
            .await
            .map_err(|e| Problem::new(ErrorCode::Internal, e))??;
        total += input.len();
        if total > GOLDEN_BYTES && !inputs.is_empty() {
            break;
        }
        inputs.push(input);
    }
    Ok(inputs)
}

/// A sample as it is, or, where it is a large picture, as small as the model sees it: every device stores it.
fn golden_input(preprocessor: &Preprocessor, sample: Bytes) -> Result<Bytes, Problem> {
    if sample.len() <= GOLDEN_INPUT {
        return Ok(sample);
    }
    let small = preprocessor.miniature(Input::Unsaid(&sample)).map_err(|e| Problem::new(e.code(), e))?;
    Ok(if small.len() < sample.len() { small.into() } else { sample })
}

/// `GET /api/v1/releases/{digest}/bundle`
pub(crate) async fn export(call: Call) -> Handled {
    let digest: Digest = call.param("digest")?;
    Answer::bytes(StatusCode::OK, "application/zip", call.app.registry.export(&digest).await?)
}

/// `POST /api/v1/bundles`
pub(crate) async fn import(mut call: Call) -> Handled {
    let zip = call.bytes(BUNDLE).await?;
    let release = call.app.registry.import_bundle(call.actor()?, zip, now_ms()).await?;
    call.app.changed();
    Answer::json_with(StatusCode::CREATED, &view(&release))
}
