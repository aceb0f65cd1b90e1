//! How long a candidate takes where it is to run.
//!
//! For a board it is predicted. A job for one device has the model measured there before the search begins: the child,
//! which talks to nobody, predicts candidates by the table of that device's board, brought to what the device measured of
//! the very model that they come from. What the search finds is measured there, too, before it is published.

use super::CompressSpec;
use crate::boards::Boards;
use crate::http::Problem;
use bytes::Bytes;
use flotilla_boards::Predictor;
use flotilla_jobs::JobFailure;
use flotilla_protocol::message::Measured;
use flotilla_protocol::{ErrorCode, Pipeline};
use flotilla_registry::ModelVersion;
use flotilla_runtime::Latency;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

/// What predicts times, and for what.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Timed {
    /// The board or device, for people.
    pub(super) place: String,
    predictor: Predictor,
    /// What the device took for the model before the search.
    before: Option<Measured>,
}

/// What times are predicted by; none where they are measured here.
pub(super) async fn timed(
    boards: &Boards,
    spec: &CompressSpec,
    version: &ModelVersion,
) -> Result<Option<Timed>, JobFailure> {
    if let Some(device) = &spec.measure_on {
        let (predictor, measured) = boards.on_device(device, version).await.map_err(failed)?;
        let before = Some(measured);
        return Ok(Some(Timed { place: format!("device {device}"), predictor, before }));
    }
    let Some(board) = &spec.board else { return Ok(None) };
    // A board of which nothing is known bounds file and memory all the same; times are measured here then.
    let predictor = boards.one(board).await.map_err(failed)?.predictor;
    Ok(predictor.map(|predictor| Timed { place: format!("board {board}"), predictor, before: None }))
}

fn failed(problem: Problem) -> JobFailure {
    JobFailure::new(ErrorCode::from_text(&problem.code), problem.detail)
}

/// Has the device of a job measure what the search found, and says in the report what both took there. What is over the
/// budget there is not published, whatever was predicted.
pub(super) async fn confirm(
    boards: &Boards,
    spec: &CompressSpec,
    timed: Option<&Timed>,
    version: &ModelVersion,
    onnx: Bytes,
    report: &mut Value,
) -> Result<(), JobFailure> {
    let (Some(device), Some(before)) = (&spec.measure_on, timed.and_then(|timed| timed.before)) else {
        return Ok(());
    };
    let after = boards.measure(device, version, onnx).await.map_err(failed)?;
    let took = |measured: Measured| {
        let ms = |us: u64| us as f64 / 1e3;
        json!({ "p50_ms": ms(measured.p50_us), "p95_ms": ms(measured.p95_us), "peak_bytes": measured.peak_bytes })
    };
    report["measured_on"] = json!({ "device": device, "before": took(before), "after": took(after) });
    let after_ms = after.p50_us as f64 / 1e3;
    match spec.budget.max_latency_ms {
        Some(allowed) if after_ms > allowed => {
            let detail = format!(
                "the smaller model takes {after_ms:.3} ms on {device}, {allowed} are allowed; before it took {:.3}. Allow more, or choose a method that makes a smaller network",
                before.p50_us as f64 / 1e3
            );
            Err(JobFailure::new(ErrorCode::OverBudget, detail))
        }
        _ => Ok(()),
    }
}

/// The time of one prediction of a file; none where nothing predicts it, so that the time measured here counts.
pub(super) fn latency_of(timed: &Timed, pipeline: &Pipeline, onnx: &[u8]) -> Option<Latency> {
    let predicted = timed.predictor.predict(pipeline, onnx).ok()?;
    Some(Latency { p50_ms: predicted.ms, p95_ms: predicted.high_ms })
}
