//! Boards, and how long models take there.

use super::super::api::{BoardDetailView, BoardView, CorrectionView, Json, MeasureRequest, PredictionView};
use super::super::problem::Problem;
use super::super::service::{Answer, Call, Handled};
use super::commands::one;
use super::jobs::parse;
use crate::boards::Known;
use flotilla_boards::{CostTable, Predictor};
use flotilla_protocol::{DeviceId, ErrorCode, ModelName, limits};
use flotilla_registry::ModelVersion;
use http::StatusCode;
use serde::Serialize;

/// Largest table that is taken.
const TABLE: usize = 256 * limits::KIB;
/// A measurement that no deadline is named for is given up after so many seconds.
const MEASURE_S: u64 = 600;

/// `GET /api/v1/boards`
pub(crate) async fn list(call: Call) -> Handled {
    let all = call.app.boards.all().await?;
    Answer::json(&all.iter().map(view).collect::<Vec<_>>())
}

/// `GET /api/v1/boards/{name}`
pub(crate) async fn show(call: Call) -> Handled {
    let name: String = call.param("name")?;
    let known = call.app.boards.one(&name).await?;
    Answer::json(&BoardDetailView {
        board: view(&known),
        profile: value(&known.profile)?,
        table: value(&known.predictor.as_ref().map(|predictor| &predictor.table))?,
    })
}

fn value<T: Serialize>(of: &T) -> Result<Json, Problem> {
    serde_json::to_value(of).map_err(|e| Problem::new(ErrorCode::Internal, e))
}

fn view(known: &Known) -> BoardView {
    let profile = known.profile.as_ref();
    let predictor = known.predictor.as_ref();
    BoardView {
        name: known.name.clone(),
        title: profile.map_or_else(|| known.name.clone(), |profile| profile.title.clone()),
        verified: profile.is_some_and(|profile| profile.verified),
        costs: predictor.map(|predictor| costs(predictor).to_owned()),
        spread: predictor.map(|predictor| predictor.table.spread),
        correction: predictor.map(|predictor| {
            let flotilla_boards::Correction { scale, reports, median_error, spread } = predictor.correction;
            CorrectionView { scale, reports, median_error, spread }
        }),
    }
}

fn costs(predictor: &Predictor) -> &'static str {
    if predictor.table.measured { "measured" } else { "derived" }
}

/// `GET /api/v1/boards/{name}/prediction`
pub(crate) async fn predict(call: Call) -> Handled {
    let name: String = call.param("name")?;
    let missing = || Problem::new(ErrorCode::InvalidInput, "the query parameter model is missing");
    let model: ModelName = call.query("model")?.ok_or_else(missing)?;
    let version = version(&call, &model, call.query("version")?).await?;
    let (predictor, prediction) = call.app.boards.predict(&name, &version).await?;
    Answer::json(&PredictionView {
        board: name,
        model: model.to_string(),
        version: version.version,
        ms: prediction.ms,
        low_ms: prediction.low_ms,
        high_ms: prediction.high_ms,
        unknown: prediction.unknown,
        costs: costs(&predictor).to_owned(),
        reports: predictor.correction.reports,
    })
}

async fn version(call: &Call, model: &ModelName, number: Option<u32>) -> Result<ModelVersion, Problem> {
    Ok(match number {
        Some(number) => call.app.registry.version(model, number).await?,
        None => call.app.registry.latest_version(model).await?,
    })
}

/// `POST /api/v1/boards/{name}/table`
pub(crate) async fn keep(mut call: Call) -> Handled {
    let name: String = call.param("name")?;
    let invalid = |detail: String| Problem::new(ErrorCode::InvalidInput, detail);
    let text = String::from_utf8(call.bytes(TABLE).await?.to_vec())
        .map_err(|_| invalid("the table is no text".to_owned()))?;
    let table = CostTable::parse(&text).map_err(|e| invalid(e.to_string()))?;
    if table.board != name {
        return Err(invalid(format!("the table is of board {}, not of {name}", table.board)));
    }
    call.app.boards.keep(call.actor()?, table).await?;
    Answer::json(&view(&call.app.boards.one(&name).await?))
}

/// `POST /api/v1/devices/{id}/measure`
pub(crate) async fn measure(mut call: Call) -> Handled {
    let id: DeviceId = call.param("id")?;
    let request: MeasureRequest = call.json().await?;
    let model: ModelName = parse("model", &request.model)?;
    let version = version(&call, &model, request.version).await?;
    let onnx = call.app.registry.onnx(&version).await?;
    let wanted = call.app.boards.to_measure(&version, onnx).await?;
    let patience_ms = request.deadline_s.unwrap_or(MEASURE_S).saturating_mul(1_000);
    let number = call.app.fleet.ask_to_measure(call.actor()?, &id, wanted, Some(patience_ms)).await?;
    Answer::json_with(StatusCode::ACCEPTED, &one(&call, &id, number).await?)
}
