//! The trust file: which keys devices believe.

use super::super::api::TrustView;
use super::super::problem::Problem;
use super::super::service::{Answer, Call, Handled};
use flotilla_protocol::{ErrorCode, limits};
use flotilla_registry::CurrentTrust;
use http::StatusCode;

/// `GET /api/v1/trust`
pub(crate) async fn show(call: Call) -> Handled {
    Answer::json(&view(&call.app.registry.trust())?)
}

/// `POST /api/v1/trust`
pub(crate) async fn publish(mut call: Call) -> Handled {
    let envelope = call.bytes(limits::ENVELOPE).await?;
    let trust = call.app.fleet.publish_trust(call.actor()?, envelope).await?;
    call.app.changed();
    Answer::json_with(StatusCode::CREATED, &view(&trust)?)
}

fn view(trust: &CurrentTrust) -> Result<TrustView, Problem> {
    let document = serde_json::to_value(&trust.file).map_err(|e| Problem::new(ErrorCode::Internal, e))?;
    Ok(TrustView { version: trust.file.version, document, envelope: hex::encode(&trust.envelope) })
}
