//! Devices that examine themselves.

use super::super::api::{DiagnosisAnswer, DiagnosisView, FailureView, FindingView};
use super::super::problem::Problem;
use super::super::service::{Answer, Call, Handled};
use flotilla_fleet::{Examined, Order};
use flotilla_protocol::DeviceId;
use flotilla_protocol::message::CommandState;
use http::StatusCode;

/// `POST /api/v1/devices/{id}/diagnose`
pub(crate) async fn diagnose(call: Call) -> Handled {
    let id: DeviceId = call.param("id")?;
    call.app.fleet.command(call.actor()?, &id, &Order::Diagnostics, None).await?;
    Answer::json_with(StatusCode::ACCEPTED, &view(&call, &id).await?)
}

/// `GET /api/v1/devices/{id}/diagnosis`
pub(crate) async fn diagnosis(call: Call) -> Handled {
    let id: DeviceId = call.param("id")?;
    Answer::json(&view(&call, &id).await?)
}

async fn view(call: &Call, id: &DeviceId) -> Result<DiagnosisView, Problem> {
    let (waiting, last) = call.app.fleet.examination(id).await?;
    let device = call.app.fleet.device(id).await?;
    Ok(DiagnosisView {
        device: id.to_string(),
        connected: device.connected,
        waiting,
        answer: last.map(answer),
    })
}

fn answer(examined: Examined) -> DiagnosisAnswer {
    let failure = match examined.outcome {
        CommandState::Done => None,
        CommandState::Failed { code, detail } => Some(FailureView::new(code, &detail)),
    };
    let diagnosis = examined.diagnosis.unwrap_or_default();
    let finding = |finding: flotilla_protocol::message::Finding| FindingView {
        subject: finding.subject.as_str().to_owned(),
        verdict: finding.verdict.as_str().to_owned(),
        code: finding.code.map(|code| code.to_string()),
        what: finding.what,
        remedy: finding.remedy,
    };
    DiagnosisAnswer {
        number: examined.command,
        at_ms: examined.at_ms,
        failure,
        agent: diagnosis.agent,
        findings: diagnosis.findings.into_iter().map(finding).collect(),
        left_out: diagnosis.left_out,
    }
}
