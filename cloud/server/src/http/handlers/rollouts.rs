//! Rollouts: start, control, look.

use super::super::api::{
    ObstacleView, RolloutDevicePage, RolloutDeviceRequest, RolloutPlanView, RolloutView,
};
use super::super::problem::Problem;
use super::super::service::{Answer, Call, Handled};
use super::rollout_request::wanted;
use super::rollout_view::{device_view, policy_words, rollout_view, stage_words, watch_words};
use super::telemetry;
use crate::app::App;
use flotilla_fleet::{DeviceControl, Obstacle, Rollout, RolloutControl, Status};
use flotilla_protocol::{DeviceId, ErrorCode, RolloutId};
use http::StatusCode;

/// Rollouts that one answer lists.
const LISTED: usize = 500;
/// Of these, the newest whose devices are listed, too.
const LISTED_WITH_DEVICES: usize = 10;
/// Devices of each wave that a view of a rollout names.
const SHOWN: usize = 100;
/// Devices on one page.
const PAGE: usize = 1_000;

/// `GET /api/v1/rollouts`
pub(crate) async fn rollouts(call: Call) -> Handled {
    Answer::json(&rollout_views(&call.app).await?)
}

/// The newest rollouts, oldest first.
pub(crate) async fn rollout_views(app: &App) -> Result<Vec<RolloutView>, Problem> {
    let mut rollouts = app.fleet.rollouts(None, LISTED).await?;
    rollouts.sort_by_key(|r| r.created_at_ms);
    let from = rollouts.len().saturating_sub(LISTED_WITH_DEVICES);
    let mut views = Vec::with_capacity(rollouts.len());
    for (place, rollout) in rollouts.iter().enumerate() {
        let shown = if place >= from || rollout.is_active() { SHOWN } else { 0 };
        views.push(view(app, rollout, shown).await?);
    }
    Ok(views)
}

/// The rollouts of these that are not over, newest first, without their devices.
pub(super) async fn under_way(app: &App) -> Result<Vec<RolloutView>, Problem> {
    let mut views = Vec::new();
    for rollout in app.fleet.rollouts(None, LISTED).await?.iter().filter(|rollout| rollout.is_active()) {
        views.push(view(app, rollout, 0).await?);
    }
    Ok(views)
}

/// `POST /api/v1/rollouts`
pub(crate) async fn roll_out(mut call: Call) -> Handled {
    let request = call.json().await?;
    let wanted = wanted(&call.app, request).await?;
    let rollout = call.app.fleet.start_rollout(call.actor()?, wanted).await?;
    one_rollout(&call, &rollout, StatusCode::CREATED).await
}

/// `POST /api/v1/rollouts/plan`
pub(crate) async fn plan(mut call: Call) -> Handled {
    let request = call.json().await?;
    let request = wanted(&call.app, request).await?;
    let mut policy = policy_words(&request.policy);
    let plan = call.app.fleet.preflight(request).await?;
    policy.extend(plan.shadow.as_ref().map(stage_words));
    policy.extend(plan.watch.as_ref().map(watch_words));
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
        supersedes: plan.supersedes.iter().map(RolloutId::to_string).collect(),
        policy,
        obstacles: plan.obstacles.iter().map(obstacle).collect(),
    })
}

/// `GET /api/v1/rollouts/{id}`
pub(crate) async fn rollout(call: Call) -> Handled {
    let rollout = call.app.fleet.rollout(&call.param("id")?).await?;
    if call.query("brief")?.unwrap_or(false) {
        return Answer::json(&view(&call.app, &rollout, 0).await?);
    }
    one_rollout(&call, &rollout, StatusCode::OK).await
}

/// `GET /api/v1/rollouts/{id}/devices`
pub(crate) async fn devices(call: Call) -> Handled {
    let id: RolloutId = call.param("id")?;
    let rollout = call.app.fleet.rollout(&id).await?;
    let state: Option<String> = call.query("state")?;
    if let Some(state) = state.as_deref().filter(|state| !Status::NAMES.contains(state)) {
        let detail = format!("there is no state {state}: ask for {}", Status::NAMES.join(", "));
        return Err(Problem::new(ErrorCode::InvalidInput, detail));
    }
    let from: u32 = call.query("from")?.unwrap_or(0);
    let limit = call.query("limit")?.unwrap_or(PAGE).clamp(1, PAGE);
    let wanted = |status: &Status| state.as_deref().is_none_or(|state| status.as_str() == state);
    let devices = call.app.fleet.some_rollout_devices(&rollout.id, from, limit, wanted).await?;
    let next = (devices.len() == limit).then(|| devices.last().map(|last| last.position + 1)).flatten();
    Answer::json(&RolloutDevicePage { devices: devices.iter().map(device_view).collect(), next })
}

/// `POST /api/v1/rollouts/{id}/start`
pub(crate) async fn start(call: Call) -> Handled {
    control(&call, RolloutControl::Start).await
}

/// `POST /api/v1/rollouts/{id}/approve`
pub(crate) async fn approve(call: Call) -> Handled {
    control(&call, RolloutControl::Approve).await
}

/// `POST /api/v1/rollouts/{id}/reject`
pub(crate) async fn reject(call: Call) -> Handled {
    control(&call, RolloutControl::Reject).await
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

/// `POST /api/v1/rollouts/{id}/finish`
pub(crate) async fn finish(call: Call) -> Handled {
    control(&call, RolloutControl::Finish).await
}

/// `POST /api/v1/rollouts/{id}/abort`
pub(crate) async fn abort(call: Call) -> Handled {
    control(&call, RolloutControl::Abort).await
}

/// `POST /api/v1/rollouts/{id}/skip`
pub(crate) async fn skip(mut call: Call) -> Handled {
    let device = device_of(&mut call).await?.ok_or_else(|| {
        Problem::new(ErrorCode::InvalidInput, "name the device that is to be left out: device".to_owned())
    })?;
    control_devices(&call, DeviceControl::Skip(device)).await
}

/// `POST /api/v1/rollouts/{id}/retry`
pub(crate) async fn retry(mut call: Call) -> Handled {
    let device = device_of(&mut call).await?;
    control_devices(&call, DeviceControl::Retry(device)).await
}

async fn device_of(call: &mut Call) -> Result<Option<DeviceId>, Problem> {
    let request: RolloutDeviceRequest = call.json().await?;
    let device = request.device.map(|id| id.parse()).transpose();
    device.map_err(|e| Problem::new(ErrorCode::InvalidInput, format!("device: {e}")))
}

async fn control(call: &Call, control: RolloutControl) -> Handled {
    let rollout = call.app.fleet.control_rollout(call.actor()?, &call.param("id")?, control).await?;
    one_rollout(call, &rollout, StatusCode::OK).await
}

async fn control_devices(call: &Call, control: DeviceControl) -> Handled {
    let id = call.param("id")?;
    let rollout = call.app.fleet.control_rollout_devices(call.actor()?, &id, &control).await?;
    one_rollout(call, &rollout, StatusCode::OK).await
}

async fn one_rollout(call: &Call, rollout: &Rollout, status: StatusCode) -> Handled {
    let told = call.app.fleet.rollout_telemetry(rollout).await?;
    let told = telemetry::release_view(&call.app, rollout.wanted.release, told).await?;
    let view = RolloutView { telemetry: Some(told), ..view(&call.app, rollout, SHOWN).await? };
    Answer::json_with(status, &view)
}

/// A rollout with so many devices of each wave: those that have failed, or are told again, first.
async fn view(app: &App, rollout: &Rollout, shown: usize) -> Result<RolloutView, Problem> {
    let tallies = app.fleet.rollout_tallies(rollout).await?;
    let (mut devices, mut from) = (Vec::new(), 0);
    let is_bad = |status: &Status| matches!(status, Status::Failed { .. } | Status::Retrying { .. });
    if shown > 0 && tallies.iter().any(|tally| tally.failed + tally.retrying > 0) {
        devices.extend(app.fleet.some_rollout_devices(&rollout.id, 0, shown, is_bad).await?);
    }
    for wave in rollout.waves.iter().filter(|_| shown > 0) {
        let some = shown.min(wave.devices as usize);
        let first = app.fleet.some_rollout_devices(&rollout.id, from, some, |_| true).await?;
        devices.extend(first.into_iter().filter(|device| !is_bad(&device.status)));
        from += wave.devices;
    }
    Ok(rollout_view(rollout, &tallies, &devices))
}
