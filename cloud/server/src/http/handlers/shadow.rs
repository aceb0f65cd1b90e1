//! Releases that run beside confirmed ones.

use super::super::api::{
    DisagreementView, FailureView, ShadowDeviceView, ShadowFiguresView, ShadowRequest, ShadowStop, ShadowView,
};
use super::super::problem::Problem;
use super::super::service::{Answer, Call, Handled};
use super::orders;
use crate::app::App;
use flotilla_fleet::{Ordered, Shadows};
use flotilla_protocol::message::ShadowTelemetry;
use flotilla_protocol::{DeviceId, Digest, ErrorCode, ModelName, limits};
use http::StatusCode;

/// Devices that one answer lists; the totals are of all.
const LISTED: usize = 500;
/// Devices a model that the console shows.
const SHOWN: usize = 50;

/// `GET /api/v1/models/{model}/shadow`
pub(crate) async fn show(call: Call) -> Handled {
    let model: ModelName = call.param("model")?;
    Answer::json(&view(&call, &model).await?)
}

/// `POST /api/v1/models/{model}/shadow`
pub(crate) async fn start(mut call: Call) -> Handled {
    let request: ShadowRequest = call.json().await?;
    let model: ModelName = call.param("model")?;
    let release = request.release.map(|digest| parse::<Digest>("release", &digest)).transpose()?;
    let devices = devices(request.devices)?;
    let fleet = &call.app.fleet;
    let share = request.share_per_mille;
    let done = fleet.start_shadow(call.actor()?, &model, release.as_ref(), devices, share).await?;
    ordered(&call, &model, done).await
}

/// `POST /api/v1/models/{model}/shadow/stop`
pub(crate) async fn stop(mut call: Call) -> Handled {
    let request: ShadowStop = call.json().await?;
    let model: ModelName = call.param("model")?;
    let done = call.app.fleet.stop_shadow(call.actor()?, &model, devices(request.devices)?).await?;
    ordered(&call, &model, done).await
}

fn parse<T: std::str::FromStr<Err: std::fmt::Display>>(what: &str, text: &str) -> Result<T, Problem> {
    text.parse().map_err(|e| Problem::new(ErrorCode::InvalidInput, format!("{what}: {e}")))
}

fn devices(named: Option<Vec<String>>) -> Result<Option<Vec<DeviceId>>, Problem> {
    named.map(|ids| ids.iter().map(|id| parse("devices", id)).collect()).transpose()
}

async fn ordered(call: &Call, model: &ModelName, done: Vec<Ordered>) -> Handled {
    call.app.changed();
    let (_, failed) = orders::told(done)?;
    Answer::json_with(StatusCode::ACCEPTED, &ShadowView { failed, ..view(call, model).await? })
}

async fn view(call: &Call, model: &ModelName) -> Result<ShadowView, Problem> {
    Ok(whole(model, call.app.fleet.shadows(model, LISTED).await?))
}

/// Every model with a shadow that is wanted somewhere, and where it is.
pub(crate) async fn views(app: &App) -> Result<Vec<ShadowView>, Problem> {
    let all = app.fleet.all_shadows(SHOWN).await?;
    Ok(all.into_iter().map(|(model, shadows)| whole(&model, shadows)).collect())
}

fn whole(model: &ModelName, shadows: Shadows) -> ShadowView {
    ShadowView {
        model: model.to_string(),
        devices: shadows.devices.into_iter().map(device).collect(),
        devices_left_out: shadows.left_out,
        totals: shadows.totals.iter().map(figures).collect(),
        failed: Vec::new(),
    }
}

fn device(one: flotilla_fleet::ShadowView) -> ShadowDeviceView {
    let state = match (&one.wanted, &one.report) {
        (None, _) => "stopped",
        (Some(_), None) => "waiting",
        (Some(_), Some(report)) => report.phase.as_str(),
    };
    let failure = one.report.and_then(|report| report.failure).map(|f| FailureView::new(f.code, &f.detail));
    ShadowDeviceView {
        device: one.device.to_string(),
        release: one.wanted.map(|release| release.to_string()),
        state: state.to_owned(),
        share_per_mille: one.share_per_mille,
        failure,
        figures: one.figures.as_ref().map(figures),
    }
}

fn figures(of: &ShadowTelemetry) -> ShadowFiguresView {
    let text = |digest: Option<Digest>| digest.map(|digest| digest.to_string());
    ShadowFiguresView {
        release: text(of.release),
        against: text(of.against),
        compared: of.compared,
        agreed: of.agreed,
        agreement: (of.compared > 0).then(|| of.agreed as f64 / of.compared as f64),
        failures: of.failures,
        skipped: of.skipped,
        confirmed_confidence: of.confirmed.mean_confidence(of.compared),
        shadow_confidence: of.shadow.mean_confidence(of.compared),
        confirmed_p50_us: of.confirmed.latency.quantile_us(0.5),
        confirmed_p95_us: of.confirmed.latency.quantile_us(0.95),
        shadow_p50_us: of.shadow.latency.quantile_us(0.5),
        shadow_p95_us: of.shadow.latency.quantile_us(0.95),
        disagreements: of
            .disagreements
            .iter()
            .take(limits::DISAGREEMENTS)
            .map(|pair| DisagreementView {
                confirmed: pair.confirmed,
                shadow: pair.shadow,
                count: pair.count,
            })
            .collect(),
    }
}
