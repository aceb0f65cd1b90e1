//! Commands for a device: asked for, and what became of them.

use super::super::api::{CommandRequest, CommandView, FailureView, MeasuredView};
use super::super::problem::Problem;
use super::super::service::{Answer, Call, Handled};
use flotilla_fleet::{Asked, Order, Stage};
use flotilla_protocol::message::{CommandKind, CommandState, LogLevel, LogQuery, Measured};
use flotilla_protocol::{DeviceId, ErrorCode, limits};
use http::StatusCode;

/// `POST /api/v1/devices/{id}/commands`
pub(crate) async fn ask(mut call: Call) -> Handled {
    let id: DeviceId = call.param("id")?;
    let request: CommandRequest = call.json().await?;
    let (order, fleet) = (order(&request)?, &call.app.fleet);
    let patience_ms = request.deadline_s.map(|s| s.saturating_mul(1000));
    let number = fleet.command(call.actor()?, &id, &order, patience_ms).await?;
    Answer::json_with(StatusCode::ACCEPTED, &one(&call, &id, number).await?)
}

/// A command that was just asked for.
pub(super) async fn one(call: &Call, id: &DeviceId, number: u64) -> Result<CommandView, Problem> {
    let all = call.app.fleet.commands(id).await?;
    let asked = all.into_iter().find(|(asked, _)| asked.id == number);
    let gone = || Problem::new(ErrorCode::Internal, "the command is not on record");
    asked.map(view).ok_or_else(gone)
}

/// `GET /api/v1/devices/{id}/commands`
pub(crate) async fn list(call: Call) -> Handled {
    let id: DeviceId = call.param("id")?;
    let all = call.app.fleet.commands(&id).await?;
    Answer::json(&all.into_iter().map(view).collect::<Vec<_>>())
}

/// `GET /api/v1/devices/{id}/commands/{number}/log`
pub(crate) async fn log(call: Call) -> Handled {
    let (id, number): (DeviceId, u64) = (call.param("id")?, call.param("number")?);
    let lines = call.app.fleet.log(&id, number).await?;
    Answer::bytes(StatusCode::OK, "text/plain; charset=utf-8", lines.into())
}

/// Most bytes of a log that are asked for where nobody says.
const LOG_BYTES: u32 = 64 * limits::KIB as u32;

fn order(request: &CommandRequest) -> Result<Order, Problem> {
    let invalid = |detail: String| Problem::new(ErrorCode::InvalidInput, detail);
    let CommandRequest { kind, model, level, from_ms, to_ms, max_bytes, deadline_s: _ } = request;
    let level_of = |level: &String| {
        let levels = [LogLevel::Error, LogLevel::Warn, LogLevel::Info, LogLevel::Debug, LogLevel::Trace];
        let known = levels.into_iter().find(|known| known.as_str() == level);
        known.ok_or_else(|| invalid("`level` is error, warn, info, debug or trace".to_owned()))
    };
    let of_a_log = from_ms.is_some() || to_ms.is_some() || max_bytes.is_some();
    match (kind.as_str(), model, level) {
        ("log_pull", None, level) => Ok(Order::LogPull(LogQuery {
            from_ms: from_ms.unwrap_or(0),
            to_ms: to_ms.unwrap_or(u64::MAX),
            max_bytes: max_bytes.unwrap_or(LOG_BYTES),
            level: level.as_ref().map_or(Ok(LogLevel::Trace), level_of)?,
        })),
        _ if of_a_log => Err(invalid("`from_ms`, `to_ms` and `max_bytes` are for log_pull".to_owned())),
        ("ping", None, None) => Ok(Order::Ping),
        ("diagnostics", None, None) => Ok(Order::Diagnostics),
        ("rotate_certificate", None, None) => Ok(Order::RotateCertificate),
        ("restart_model", Some(model), None) => {
            let model = model.parse().map_err(|e| invalid(format!("`model` is not the name of one: {e}")))?;
            Ok(Order::RestartModel(model))
        }
        ("log_level", None, Some(level)) => level_of(level).map(Order::LogLevel),
        _ => Err(invalid(
            "`kind` is ping, diagnostics, rotate_certificate, restart_model (with `model` alone), log_level (with `level` alone) or log_pull (without `model`)"
                .to_owned(),
        )),
    }
}

fn measured(measured: Measured) -> MeasuredView {
    MeasuredView {
        vectors: measured.vectors,
        p50_ms: measured.p50_us as f64 / 1e3,
        p95_ms: measured.p95_us as f64 / 1e3,
        peak_bytes: measured.peak_bytes,
        max_error: measured.max_error_micro as f64 / 1e6,
        outputs: measured.outputs.to_string(),
    }
}

fn view((asked, stage): (Asked, Stage)) -> CommandView {
    let (kind, subject) = match asked.kind {
        CommandKind::Ping => ("ping", None),
        CommandKind::Diagnostics => ("diagnostics", None),
        CommandKind::RestartModel { model } => ("restart_model", Some(model.to_string())),
        CommandKind::RotateCertificate { serial } => ("rotate_certificate", Some(serial)),
        CommandKind::LogLevel { level } => ("log_level", Some(level.as_str().to_owned())),
        CommandKind::LogPull(query) => ("log_pull", Some(query.level.as_str().to_owned())),
        CommandKind::Measure(wanted) => ("measure", Some(wanted.manifest.short().to_string())),
        CommandKind::Unknown => ("unknown", None),
    };
    let failure = match asked.outcome {
        Some(CommandState::Failed { code, detail }) => Some(FailureView::new(code, detail)),
        Some(CommandState::Done) => None,
        None if stage == Stage::Expired => {
            Some(FailureView::new(ErrorCode::Expired, "the device did not answer before the deadline"))
        }
        None => None,
    };
    CommandView {
        number: asked.id,
        kind: kind.to_owned(),
        subject,
        state: stage.as_str().to_owned(),
        failure,
        by: asked.by.map(|by| by.to_string()).unwrap_or_default(),
        asked_at_ms: asked.at_ms,
        deadline_ms: asked.deadline_ms,
        ended_at_ms: asked.ended_at_ms,
        log_bytes: asked.log.map(|log| log.bytes),
        lines_left_out: asked.log.map(|log| log.left_out),
        measured: asked.measured.map(measured),
    }
}
