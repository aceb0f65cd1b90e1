//! Signed releases and bundles.

use super::super::api::{ReleaseRequest, ReleaseView};
use super::super::problem::Problem;
use super::super::service::{Answer, Call, Handled};
use crate::app::App;
use crate::golden;
use flotilla_identity::now_ms;
use flotilla_protocol::{Digest, ErrorCode, ModelName};
use flotilla_registry::Release;
use http::StatusCode;

/// Models, and releases a model, that one answer lists.
const LISTED: usize = 500;
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
        proved_by: None,
    }
}

/// `POST /api/v1/releases`
pub(crate) async fn create(mut call: Call) -> Handled {
    let request: ReleaseRequest = call.json().await?;
    let (proof, wanted) = wanted(&call.app, request).await?;
    let release = call.app.registry.release(call.actor()?, wanted, now_ms()).await?;
    call.app.changed();
    let view = ReleaseView { proved_by: Some(proof.as_str().to_owned()), ..view(&release) };
    Answer::json_with(StatusCode::CREATED, &view)
}

/// The named version with golden inputs.
async fn wanted(
    app: &App,
    request: ReleaseRequest,
) -> Result<(golden::From, flotilla_registry::ReleaseRequest), Problem> {
    let model: ModelName =
        request.model.parse().map_err(|e| Problem::new(ErrorCode::InvalidInput, format!("model: {e}")))?;
    let version = match request.version {
        Some(version) => app.registry.version(&model, version).await?,
        None => app.registry.latest_version(&model).await?,
    };
    let (proof, golden) = golden::inputs(&app.registry, &app.datasets, &version).await?;
    let mut wanted = flotilla_registry::ReleaseRequest::newest(model, golden);
    wanted.version = Some(version.version);
    wanted.boards = request.boards;
    Ok((proof, wanted))
}

/// `POST /api/v1/releases/draft`
pub(crate) async fn draft(mut call: Call) -> Handled {
    let request: ReleaseRequest = call.json().await?;
    let (_, wanted) = wanted(&call.app, request).await?;
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
