//! Rollouts: start, control, look.

use super::super::api::{
    GateFindingView, ObstacleView, RolloutPlanView, RolloutRequest, RolloutView, WatchView, WaveDeviceView,
    WaveView,
};
use super::super::problem::Problem;
use super::super::service::{Answer, Call, Handled};
use super::telemetry;
use crate::app::App;
use flotilla_fleet::{
    Obstacle, Rollout, RolloutControl, RolloutDevice, RolloutState, Status, Watch, Watched, WaveSpec,
};
use flotilla_gates::gate::Finding;
use flotilla_protocol::id::InvalidId;
use flotilla_protocol::{Digest, ErrorCode, RolloutId};
use http::StatusCode;

/// Rollouts that one answer lists.
const LISTED: usize = 500;

/// `GET /api/v1/rollouts`
pub(crate) async fn rollouts(call: Call) -> Handled {
    Answer::json(&rollout_views(&call.app).await?)
}

/// Every rollout, oldest first.
pub(crate) async fn rollout_views(app: &App) -> Result<Vec<RolloutView>, Problem> {
    let mut rollouts = app.fleet.rollouts(None, LISTED).await?;
    rollouts.sort_by_key(|r| r.created_at_ms);
    let mut views = Vec::with_capacity(rollouts.len());
    for rollout in rollouts {
        let (rollout, devices) = app.fleet.rollout(&rollout.id).await?;
        views.push(rollout_view(&rollout, &devices));
    }
    Ok(views)
}

/// `POST /api/v1/rollouts`
pub(crate) async fn roll_out(mut call: Call) -> Handled {
    let request: RolloutRequest = call.json().await?;
    let wanted = wanted(&call.app, request).await?;
    let rollout = call.app.fleet.start_rollout(call.actor()?, wanted).await?;
    one_rollout(&call, &rollout.id, StatusCode::CREATED).await
}

/// `POST /api/v1/rollouts/plan`
pub(crate) async fn plan(mut call: Call) -> Handled {
    let request: RolloutRequest = call.json().await?;
    let plan = call.app.fleet.preflight(wanted(&call.app, request).await?).await?;
    let obstacle = |found: &Obstacle| ObstacleView {
        device: found.device.to_string(),
        code: found.code.to_string(),
        detail: found.detail.clone(),
    };
    Answer::json(&RolloutPlanView {
        model: plan.release.model.to_string(),
        release: plan.release.digest.to_string(),
        devices: plan.waves.iter().map(|wave| wave.devices).sum(),
        waves: plan.waves.iter().map(|wave| wave.devices).collect(),
        obstacles: plan.obstacles.iter().map(obstacle).collect(),
    })
}

/// The request in the fleet's words.
async fn wanted(app: &App, request: RolloutRequest) -> Result<flotilla_fleet::RolloutRequest, Problem> {
    let invalid =
        |what: &str, e: &dyn std::fmt::Display| Problem::new(ErrorCode::InvalidInput, format!("{what}: {e}"));
    let release: Digest = request.release.parse().map_err(|e| invalid("release", &e))?;
    let release = app.registry.find_release(&release).await?;
    let devices = request
        .devices
        .map(|ids| ids.iter().map(|id| id.parse().map_err(|e| invalid("devices", &e))).collect())
        .transpose()?;
    let waves = request
        .waves
        .map(|waves| waves.iter().map(|wave| wave_spec(wave).ok_or_else(|| bad_wave(wave))).collect())
        .transpose()?;
    Ok(flotilla_fleet::RolloutRequest {
        release: Some(release.digest),
        devices,
        group: request
            .group
            .map(|name| name.parse().map_err(|e: InvalidId| invalid("group", &e)))
            .transpose()?,
        waves,
        soak_s: request.soak_s,
        max_soak_s: request.max_soak_s,
        ..flotilla_fleet::RolloutRequest::newest(release.model)
    })
}

/// `GET /api/v1/rollouts/{id}`
pub(crate) async fn rollout(call: Call) -> Handled {
    let id: RolloutId = call.param("id")?;
    one_rollout(&call, &id, StatusCode::OK).await
}

/// `5` or `10%`.
fn wave_spec(text: &str) -> Option<WaveSpec> {
    match text.strip_suffix('%') {
        Some(percent) => percent.parse().ok().filter(|n| (1..=100).contains(n)).map(WaveSpec::Percent),
        None => text.parse().ok().filter(|n| *n > 0).map(WaveSpec::Devices),
    }
}

fn bad_wave(wave: &str) -> Problem {
    let detail =
        format!("a wave is a number of devices, such as 5, or a share of all, such as 10%: not {wave:?}");
    Problem::new(ErrorCode::InvalidInput, detail)
}

/// `POST /api/v1/rollouts/{id}/pause`
pub(crate) async fn pause(call: Call) -> Handled {
    control(&call, RolloutControl::Pause).await
}

/// `POST /api/v1/rollouts/{id}/resume`
pub(crate) async fn resume(call: Call) -> Handled {
    control(&call, RolloutControl::Resume).await
}

/// `POST /api/v1/rollouts/{id}/rollback`
pub(crate) async fn roll_back(call: Call) -> Handled {
    control(&call, RolloutControl::Rollback).await
}

/// `POST /api/v1/rollouts/{id}/abort`
pub(crate) async fn abort(call: Call) -> Handled {
    control(&call, RolloutControl::Abort).await
}

async fn control(call: &Call, control: RolloutControl) -> Handled {
    let id: RolloutId = call.param("id")?;
    call.app.fleet.control_rollout(call.actor()?, &id, control).await?;
    one_rollout(call, &id, StatusCode::OK).await
}

async fn one_rollout(call: &Call, id: &RolloutId, status: StatusCode) -> Handled {
    let (rollout, devices) = call.app.fleet.rollout(id).await?;
    let told = call.app.fleet.rollout_telemetry(&rollout, &devices).await?;
    let told = telemetry::release_view(&call.app, rollout.wanted.release, told).await?;
    let view = RolloutView { telemetry: Some(told), ..rollout_view(&rollout, &devices) };
    Answer::json_with(status, &view)
}

fn rollout_view(rollout: &Rollout, devices: &[RolloutDevice]) -> RolloutView {
    let waves = (0..rollout.waves.len() as u32).map(|wave| {
        let members: Vec<_> = devices.iter().filter(|d| d.wave == wave).collect();
        let failed =
            members.iter().any(|d| matches!(d.status, Status::Failed { .. } | Status::Reverted { .. }));
        let through = wave < rollout.wave || rollout.state == RolloutState::Succeeded;
        let state = match (failed, through) {
            (true, _) => "failed",
            (false, true) => "done",
            (false, false) if wave == rollout.wave && rollout.state == RolloutState::Running => "running",
            (false, false) => "waiting",
        };
        WaveView { state: state.to_owned(), devices: members.into_iter().map(wave_device).collect() }
    });
    RolloutView {
        id: rollout.id.to_string(),
        model: rollout.model.to_string(),
        release: rollout.wanted.release.to_string(),
        state: rollout.state.as_str().to_owned(),
        reason: rollout.reason.as_ref().map(|r| r.detail.clone()).unwrap_or_default(),
        waves: waves.collect(),
        started_at_ms: rollout.created_at_ms,
        finished_at_ms: rollout.finished_at_ms,
        telemetry: None,
        watch: rollout.watch.as_ref().map(|watch| watch_view(watch, rollout.watched.as_ref())),
    }
}

fn watch_view(watch: &Watch, watched: Option<&Watched>) -> WatchView {
    let findings = watched.and_then(|watched| watched.look.as_ref()).map(|look| look.findings.as_slice());
    WatchView {
        soak_s: watch.soak_ms / 1000,
        max_soak_s: watch.max_soak_ms / 1000,
        since_ms: watched.map(|watched| watched.since_ms),
        windows: watched.map_or(0, |watched| watched.windows),
        findings: findings.unwrap_or_default().iter().map(finding).collect(),
    }
}

fn finding(finding: &Finding) -> GateFindingView {
    GateFindingView {
        metric: finding.metric.as_str().to_owned(),
        devices: finding.pairs,
        change: finding.metric.describe(finding.worsening),
        against: finding.against,
        against_needed: finding.against_needed,
        in_favour: finding.in_favour,
        in_favour_needed: finding.in_favour_needed,
        verdict: finding.verdict.as_str().to_owned(),
    }
}

fn wave_device(device: &RolloutDevice) -> WaveDeviceView {
    let detail = match &device.status {
        Status::Failed { code, detail, .. } => Some(format!("{detail} [{code}]")),
        Status::Skipped { code, .. } => Some(code.to_string()),
        Status::Reverted { failure: Some(code), .. } => Some(code.to_string()),
        _ => None,
    };
    WaveDeviceView { id: device.device.to_string(), state: device.status.as_str().to_owned(), detail }
}
