//! A device over its life: its admission, what ran on it, and the end of its service.

use super::super::api::{AdmissionRequest, DecommissionRequest, RanView};
use super::super::problem::Problem;
use super::super::service::{Answer, Call, Handled};
use super::groups::{answer, ids};
use flotilla_fleet::Ran;
use flotilla_protocol::{DeviceId, ErrorCode, limits};

/// `POST /api/v1/device-admission`
pub(crate) async fn admit(mut call: Call) -> Handled {
    let request: AdmissionRequest = call.json().await?;
    request.reject.as_deref().map_or(Ok(()), |reason| check_reason("reject", reason))?;
    let devices = request.devices.as_deref().map(ids).transpose()?;
    answer(call.app.fleet.admit(call.actor()?, devices, request.reject).await?)
}

fn check_reason(field: &str, reason: &str) -> Result<(), Problem> {
    if reason.len() <= limits::TEXT {
        return Ok(());
    }
    let detail = format!("`{field}` has {} bytes; {} are possible", reason.len(), limits::TEXT);
    Err(Problem::new(ErrorCode::InvalidInput, detail))
}

/// `POST /api/v1/device-decommission`
pub(crate) async fn decommission(mut call: Call) -> Handled {
    let request: DecommissionRequest = call.json().await?;
    check_reason("reason", &request.reason)?;
    let devices = ids(&request.devices)?;
    answer(call.app.fleet.decommission(call.actor()?, devices, request.reason).await?)
}

/// `GET /api/v1/devices/{id}/history`
pub(crate) async fn history(call: Call) -> Handled {
    let id: DeviceId = call.param("id")?;
    let view = |ran: Ran| RanView {
        at_ms: ran.at_ms,
        model: ran.model.to_string(),
        release: ran.release.to_string(),
        outcome: ran.outcome.as_str().to_owned(),
        code: ran.code.map(|code| code.to_string()),
        rollout: ran.rollout.map(|rollout| rollout.to_string()),
    };
    Answer::json(&call.app.fleet.runs(&id).await?.into_iter().map(view).collect::<Vec<_>>())
}
