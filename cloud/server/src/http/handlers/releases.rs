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
use http::StatusCode;

/// Models, and releases a model, that one answer lists.
const LISTED: usize = 500;
/// Golden vectors of a release: samples of the test split, spread evenly.
const GOLDEN: usize = 16;
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
    let model: ModelName =
        request.model.parse().map_err(|e| Problem::new(ErrorCode::InvalidInput, format!("model: {e}")))?;
    let version = match request.version {
        Some(version) => call.app.registry.version(&model, version).await?,
        None => call.app.registry.latest_version(&model).await?,
    };
    let golden = golden_inputs(&call.app, &version).await?;
    let mut wanted = flotilla_registry::ReleaseRequest::newest(model, golden);
    wanted.version = Some(version.version);
    let release = call.app.registry.release(call.actor()?, wanted, now_ms()).await?;
    call.app.changed();
    Answer::json_with(StatusCode::CREATED, &view(&release))
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
    let count = samples.len().min(GOLDEN);
    let mut inputs = Vec::with_capacity(count);
    for index in 0..count {
        inputs.push(app.datasets.sample_bytes(&samples[index * samples.len() / count]).await?);
    }
    Ok(inputs)
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
