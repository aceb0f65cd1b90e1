//! What to do next: a pure function of what is remembered and what devices report.

use super::health::{self, Figures, Follows, Step};
use super::state::{Reason, Rollout, RolloutDevice, RolloutState, Sent, Status};
use flotilla_gates::gate::Look;
use flotilla_protocol::message::{DesiredModel, ModelReport, Phase};
use flotilla_protocol::{DeviceId, ErrorCode};
use std::collections::HashMap;

/// Actions of one plan at most: a plan is performed and made anew, so this bounds memory, not progress.
pub(super) const ACTIONS: usize = 256;

/// One thing to do. Actions of one plan touch different devices and do not depend on each other.
#[derive(Clone, Debug, PartialEq)]
pub enum Action {
    /// Write a desired document that names the release.
    SetDesired {
        /// Index of the device in the rollout's order.
        index: usize,
    },
    /// Remember what became of a device.
    Mark {
        /// Index of the device in the rollout's order.
        index: usize,
        /// What became of it.
        status: Status,
    },
    /// Every device of the wave is decided: it is watched from now on.
    Watch,
    /// Remember what the devices of the wave say, and what follows.
    Look {
        /// What they say.
        look: Look,
        /// What follows.
        follows: Follows,
    },
    /// Begin the next wave.
    Advance,
    /// The rollout has reached its end.
    Succeed,
    /// Stop; the touched devices go back.
    Fail {
        /// Why.
        reason: Reason,
    },
    /// Write a newer desired document with what the device should run before the rollout.
    Revert {
        /// Index of the device in the rollout's order.
        index: usize,
    },
    /// All touched devices have been told to go back.
    RolledBack,
}

/// What is known of a device at the moment of planning.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Observation {
    /// The device may no longer connect, or is gone.
    pub revoked: bool,
    /// What its desired document names for the model.
    pub desired: Option<DesiredModel>,
    /// What it last reported.
    pub report: Option<Report>,
    /// What it last said of the model, if its wave is looked at.
    pub figures: Option<Figures>,
}

/// What a device last reported.
#[derive(Clone, Debug, PartialEq)]
pub struct Report {
    /// The desired version that the report answers.
    pub desired_version: u64,
    /// What it says of the model; `None` if nothing.
    pub model: Option<ModelReport>,
}

/// What is known of the devices. One that is not in it is gone.
pub type Observations = HashMap<DeviceId, Observation>;

/// The next actions: first what has become of devices, then what follows for the rollout, then what to tell further
/// devices. Only the first of these that is not empty is returned: the next plan is made from what is remembered then.
///
/// `devices` are in the rollout's order.
pub fn plan(
    rollout: &Rollout,
    devices: &[RolloutDevice],
    observed: &Observations,
    now_ms: u64,
) -> Vec<Action> {
    match rollout.state {
        RolloutState::Succeeded | RolloutState::RolledBack | RolloutState::Aborted => Vec::new(),
        RolloutState::Failed => reverts(devices),
        RolloutState::Running | RolloutState::Paused => {
            let marks = marks(rollout, devices, observed, now_ms);
            if !marks.is_empty() || rollout.state == RolloutState::Paused {
                return marks;
            }
            match decide(rollout, devices, observed, now_ms) {
                Some(decision) => vec![decision],
                None => sends(rollout, devices),
            }
        }
    }
}

/// Touched devices that have not been told to go back.
fn reverts(devices: &[RolloutDevice]) -> Vec<Action> {
    let open = |device: &RolloutDevice| {
        device.sent.is_some() && !matches!(device.status, Status::Reverted { .. } | Status::Skipped { .. })
    };
    let reverts: Vec<Action> =
        indexes(devices, open).take(ACTIONS).map(|index| Action::Revert { index }).collect();
    if reverts.is_empty() { vec![Action::RolledBack] } else { reverts }
}

fn indexes<'a>(
    devices: &'a [RolloutDevice],
    wanted: impl Fn(&RolloutDevice) -> bool + 'a,
) -> impl Iterator<Item = usize> + 'a {
    devices.iter().enumerate().filter(move |(_, device)| wanted(device)).map(|(index, _)| index)
}

/// What has become of the devices of the waves that are under way.
fn marks(rollout: &Rollout, devices: &[RolloutDevice], observed: &Observations, now_ms: u64) -> Vec<Action> {
    let mut marks = Vec::new();
    for (index, device) in devices.iter().enumerate() {
        if marks.len() == ACTIONS || device.wave > rollout.wave {
            break;
        }
        let gone = Observation { revoked: true, ..Observation::default() };
        let seen = observed.get(&device.device).unwrap_or(&gone);
        let status = match (&device.status, &device.sent) {
            (Status::Pending, _) if seen.revoked => {
                Some(Status::Skipped { code: ErrorCode::Revoked, at_ms: now_ms })
            }
            (Status::Sent, Some(sent)) => judge(rollout, sent, seen, now_ms),
            (Status::Confirmed { .. }, Some(sent)) if observed.contains_key(&device.device) => {
                judge_again(rollout, sent, seen, now_ms)
            }
            _ => None,
        };
        marks.extend(status.map(|status| Action::Mark { index, status }));
    }
    marks
}

/// What has become of a device that was told to run the release; `None` while that is open.
///
/// A report counts only if it answers the document that was sent, or a later one: what a device says of its earlier
/// life proves nothing.
fn judge(rollout: &Rollout, sent: &Sent, seen: &Observation, now_ms: u64) -> Option<Status> {
    if seen.revoked {
        return Some(Status::Skipped { code: ErrorCode::Revoked, at_ms: now_ms });
    }
    let release = rollout.wanted.release;
    if !seen.desired.as_ref().is_some_and(|d| d.release == release && d.attempt == sent.attempt) {
        return Some(Status::Skipped { code: ErrorCode::WrongState, at_ms: now_ms });
    }
    let answer = seen.report.as_ref().filter(|report| report.desired_version >= sent.desired_version);
    if let Some(model) = answer.and_then(|report| report.model.as_ref()) {
        if model.confirmed == Some(release) && model.candidate.is_none() {
            return Some(Status::Confirmed { at_ms: now_ms });
        }
        let failure = model.failure.as_ref().filter(|failure| failure.release == release);
        if let Some(failure) = failure
            && model.phase == Phase::Failed
            && model.attempt == sent.attempt
        {
            return Some(Status::Failed {
                code: failure.code,
                detail: failure.detail.clone(),
                at_ms: now_ms,
            });
        }
    }
    let due = sent.at_ms.max(rollout.counted_from_ms).saturating_add(rollout.deadline_ms);
    // While paused nobody is late: the devices may be kept from answering by what the pause is for.
    (rollout.state == RolloutState::Running && now_ms >= due).then(|| Status::Failed {
        code: ErrorCode::Timeout,
        detail: format!("no answer within {} s", rollout.deadline_ms / 1000),
        at_ms: now_ms,
    })
}

/// What has become of a device that had confirmed the release, while its wave is watched; `None` while it still runs it.
fn judge_again(rollout: &Rollout, sent: &Sent, seen: &Observation, now_ms: u64) -> Option<Status> {
    let report = seen.report.as_ref();
    let runs = |model: &ModelReport| model.confirmed == Some(rollout.wanted.release);
    match judge(rollout, sent, seen, now_ms)? {
        Status::Confirmed { .. } => None,
        // It has answered long ago. What it says now counts, and not how long it takes.
        Status::Failed { code: ErrorCode::Timeout, .. } => {
            let model = report.and_then(|report| report.model.as_ref()).filter(|model| !runs(model))?;
            let (code, detail) = match &model.failure {
                Some(failure) => (failure.code, failure.detail.clone()),
                None => (ErrorCode::WrongState, "it does not run the release any more".to_owned()),
            };
            Some(Status::Failed { code, detail, at_ms: now_ms })
        }
        other => Some(other),
    }
}

/// What follows for the rollout from what has become of its devices.
fn decide(
    rollout: &Rollout,
    devices: &[RolloutDevice],
    observed: &Observations,
    now_ms: u64,
) -> Option<Action> {
    for (index, wave) in rollout.waves.iter().enumerate().take(rollout.wave as usize + 1) {
        let failed = |device: &&RolloutDevice| {
            device.wave as usize == index && matches!(device.status, Status::Failed { .. })
        };
        if devices.iter().filter(failed).count() > wave.max_failures as usize {
            return devices.iter().find(failed).map(|first| Action::Fail { reason: reason_of(first) });
        }
    }
    let mut current = devices.iter().filter(|device| device.wave == rollout.wave).peekable();
    current.peek()?;
    let mut confirmed = false;
    for device in current {
        if !device.status.is_decided() {
            return None;
        }
        confirmed |= matches!(device.status, Status::Confirmed { .. });
    }
    if !confirmed {
        let detail = format!("no device of wave {} has confirmed the release", rollout.wave + 1);
        return Some(Action::Fail { reason: Reason { code: ErrorCode::WrongState, detail, device: None } });
    }
    if let Some(watch) = &rollout.watch {
        let figures =
            |(device, seen): (&DeviceId, &Observation)| Some((device.clone(), seen.figures.clone()?));
        let now = observed.iter().filter_map(figures).collect();
        match health::step(rollout, watch, devices, &now, now_ms) {
            Step::Begin => return Some(Action::Watch),
            Step::Look(look, follows) => return Some(Action::Look { look, follows }),
            Step::Wait => return None,
            Step::Through => {}
        }
    }
    let last = rollout.wave as usize + 1 >= rollout.waves.len();
    Some(if last { Action::Succeed } else { Action::Advance })
}

fn reason_of(device: &RolloutDevice) -> Reason {
    let (code, detail) = match &device.status {
        Status::Failed { code, detail, .. } => (*code, detail.clone()),
        _ => (ErrorCode::Unknown, String::new()),
    };
    Reason { code, detail, device: Some(device.device.clone()) }
}

/// Devices of the current wave that have not been told yet.
fn sends(rollout: &Rollout, devices: &[RolloutDevice]) -> Vec<Action> {
    let next = |device: &RolloutDevice| device.wave == rollout.wave && device.status == Status::Pending;
    indexes(devices, next).take(ACTIONS).map(|index| Action::SetDesired { index }).collect()
}
