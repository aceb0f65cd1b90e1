//! What to do next: a pure function of what is remembered and what devices report.

use super::figures::Figures;
use super::health::{self, Follows, Step};
use super::judge::{judge, judge_again};
use super::policy::{Lately, OnStop, Retry};
use super::stage::{self, ShadowSeen};
use super::state::{Reason, Rollout, RolloutDevice, RolloutState, Sent, Status, Tally};
use super::window::Open;
use flotilla_gates::gate::Look;
use flotilla_protocol::message::{DesiredModel, ModelReport};
use flotilla_protocol::{DeviceId, ErrorCode};
use std::collections::HashMap;

/// Actions of one plan: a plan is performed and made anew, so this bounds how late a new fact is heard, not progress.
pub(super) const ACTIONS: usize = 256;

/// One thing to do. Actions of one plan touch different devices and do not depend on each other.
#[derive(Clone, Debug, PartialEq)]
pub enum Action {
    /// The time of a scheduled rollout has come.
    Begin,
    /// Let the release run as a shadow on a device, if it can.
    Shadow {
        /// Index of the device in the rollout's order.
        index: usize,
    },
    /// End the shadow on a device.
    Unshadow {
        /// Index of the device in the rollout's order.
        index: usize,
        /// Why, if the device could not run it.
        code: Option<ErrorCode>,
    },
    /// Shadows are watched from now on.
    WatchStage {
        /// Devices that were told.
        told: u32,
    },
    /// Remember what the devices say of the shadows, and what follows.
    LookAtStage {
        /// What they say.
        look: Look,
        /// What follows.
        follows: Follows,
    },
    /// No device runs the shadow any more.
    EndStage,
    /// Write a desired document that names the release, unless the device is not to have it any more.
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
    /// Pause until an operator has answered.
    Ask {
        /// What.
        reason: Reason,
    },
    /// Begin the next wave.
    Advance,
    /// The rollout has reached its end.
    Succeed,
    /// Newer rollouts have taken over all of its devices.
    GiveWay,
    /// Stop.
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
    /// What is known of the shadow on it, while the rollout is in that stage.
    pub shadow: Option<ShadowSeen>,
}

/// What a device last reported.
#[derive(Clone, Debug, PartialEq)]
pub struct Report {
    /// The desired version that the report answers.
    pub desired_version: u64,
    /// What it says of the model; `None` if nothing.
    pub model: Option<ModelReport>,
}

/// What is known of devices. Of one that is not in it there is no news.
pub type Observations = HashMap<DeviceId, Observation>;

/// The next actions: first what has become of devices, then what follows for the rollout, then what to tell further
/// devices. Only the first of these that is not empty is returned: the next plan is made from what is remembered then.
///
/// `devices` are in the rollout's order. One pass over those of the waves that have begun, in constant memory beside
/// the actions, of which there are at most so many.
pub fn plan(
    rollout: &Rollout,
    devices: &[RolloutDevice],
    observed: &Observations,
    now_ms: u64,
    most: usize,
) -> Vec<Action> {
    use RolloutState::{
        Aborted, Draft, Failed, Paused, RolledBack, Running, Scheduled, Stopping, Succeeded,
        WaitingForApproval,
    };
    let has_begun = !matches!(rollout.state, Draft | WaitingForApproval | Scheduled | Paused);
    if let Some(stage) = rollout.open_stage().filter(|_| has_begun) {
        return stage::next(rollout, stage, devices, observed, now_ms, most);
    }
    match rollout.state {
        Succeeded | RolledBack | Aborted | Draft | WaitingForApproval => Vec::new(),
        Failed if !rollout.is_active() => Vec::new(),
        Failed | Stopping => reverts(devices, most),
        Scheduled => {
            let due = rollout.starts_at_ms.is_none_or(|at| now_ms >= at);
            due.then_some(Action::Begin).into_iter().collect()
        }
        Running | Paused => {
            let seen = Survey::of(rollout, devices, observed, now_ms, most);
            if !seen.marks.is_empty() || rollout.state == Paused {
                return seen.marks;
            }
            match decide(rollout, devices, observed, &seen, now_ms) {
                Some(decision) => vec![decision],
                None => sends(rollout, devices, &seen, now_ms, most),
            }
        }
    }
}

/// The moment from which on a device that was told and says nothing is late.
pub(super) fn due_ms(rollout: &Rollout, sent: &Sent) -> u64 {
    sent.at_ms.max(rollout.counted_from_ms).saturating_add(rollout.deadline_ms)
}

/// Touched devices that have not been told to go back: those left out later, too, for their documents may still name the
/// release.
fn reverts(devices: &[RolloutDevice], most: usize) -> Vec<Action> {
    let is_gone = |status: &Status| {
        matches!(status, Status::Skipped { code: ErrorCode::Revoked | ErrorCode::NotFound, .. })
    };
    let open = |device: &RolloutDevice| {
        device.sent.is_some() && !matches!(device.status, Status::Reverted { .. }) && !is_gone(&device.status)
    };
    let open = devices.iter().enumerate().filter(|(_, device)| open(device));
    let reverts: Vec<Action> = open.take(most).map(|(index, _)| Action::Revert { index }).collect();
    if reverts.is_empty() { vec![Action::RolledBack] } else { reverts }
}

/// The devices of the waves that have begun, seen once.
struct Survey {
    /// What has become of some of them.
    marks: Vec<Action>,
    /// How many stand where, a wave.
    tallies: Vec<Tally>,
    /// The first that has failed, a wave.
    failed: Vec<Option<usize>>,
    /// The first that is still to be told: one of an earlier wave may be told again.
    next: Option<usize>,
    lately: Lately,
}

impl Survey {
    fn of(
        rollout: &Rollout,
        devices: &[RolloutDevice],
        observed: &Observations,
        now_ms: u64,
        most: usize,
    ) -> Self {
        let waves = rollout.wave as usize + 1;
        let mut seen = Self {
            marks: Vec::new(),
            tallies: vec![Tally::default(); waves],
            failed: vec![None; waves],
            next: None,
            lately: Lately::default(),
        };
        for (index, device) in devices.iter().enumerate() {
            if device.wave > rollout.wave {
                break;
            }
            let status = mark(rollout, device, observed, now_ms);
            if let Some(status) = status.filter(|_| seen.marks.len() < most) {
                seen.marks.push(Action::Mark { index, status });
            }
            seen.count(index, device, now_ms);
        }
        seen
    }

    /// Whether any device has confirmed the release. Until one has, the next ones stand for the first wave, whose devices
    /// may have been taken over by another rollout.
    fn is_proven(&self) -> bool {
        self.lately.confirmed > 0
    }

    fn count(&mut self, index: usize, device: &RolloutDevice, now_ms: u64) {
        let wave = device.wave as usize;
        self.tallies[wave].count(&device.status);
        match &device.status {
            Status::Pending | Status::Retrying { .. } => {
                self.next = self.next.or(Some(index));
            }
            Status::Failed { .. } => self.failed[wave] = self.failed[wave].or(Some(index)),
            Status::Sent => self.lately.under_way += 1,
            Status::Confirmed { .. } => self.lately.confirmed += 1,
            _ => {}
        }
        if let Some(sent) = &device.sent {
            self.lately.told(sent.at_ms, now_ms);
        }
    }
}

/// What has become of a device, if there is news.
fn mark(rollout: &Rollout, device: &RolloutDevice, observed: &Observations, now_ms: u64) -> Option<Status> {
    let sent = device.sent.as_deref()?;
    match &device.status {
        Status::Sent => {
            let status = judge(rollout, sent, observed.get(&device.device)?, now_ms)?;
            Some(again(rollout, device, status, now_ms))
        }
        Status::Confirmed { .. } => judge_again(rollout, sent, observed.get(&device.device)?, now_ms),
        _ => None,
    }
}

/// A failure that is tried again.
fn again(rollout: &Rollout, device: &RolloutDevice, status: Status, now_ms: u64) -> Status {
    match status {
        Status::Failed { code, detail, at_ms } => {
            match rollout.policy.retry.again_ms(code, device.tries, now_ms) {
                Some(from_ms) => Status::Retrying { code, detail, from_ms },
                None => Status::Failed { code, detail, at_ms },
            }
        }
        status => status,
    }
}

/// What follows for the rollout from what has become of its devices.
fn decide(
    rollout: &Rollout,
    devices: &[RolloutDevice],
    observed: &Observations,
    seen: &Survey,
    now_ms: u64,
) -> Option<Action> {
    for ((wave, tally), first) in rollout.waves.iter().zip(&seen.tallies).zip(&seen.failed) {
        let enough = tally.open() == 0 || tally.devices() - tally.open() >= wave.counted_after;
        let tolerated = if seen.is_proven() { wave.max_failures } else { rollout.waves[0].max_failures };
        if enough && tally.failed > tolerated {
            return first.map(|first| Action::Fail { reason: reason_of(&devices[first]) });
        }
    }
    let tally = seen.tallies.last()?;
    if tally.devices() == 0 || seen.tallies.iter().any(|tally| tally.open() > 0) {
        return None;
    }
    let is_last = rollout.wave as usize + 1 >= rollout.waves.len();
    if tally.confirmed == 0 && tally.superseded == 0 {
        let detail = format!("no device of wave {} has confirmed the release", rollout.wave + 1);
        return Some(Action::Fail { reason: Reason { code: ErrorCode::WrongState, detail, device: None } });
    }
    if tally.confirmed > 0
        && let Some(watch) = &rollout.watch
    {
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
    if is_last {
        if rollout.followed().is_some() {
            // Until somebody ends it, or a newer one begins.
            return None;
        }
        let confirmed: u32 = seen.tallies.iter().map(|tally| tally.confirmed).sum();
        return Some(if confirmed > 0 { Action::Succeed } else { Action::GiveWay });
    }
    if rollout.policy.approve_waves && rollout.approved_waves <= rollout.wave {
        let detail = format!(
            "wave {} is through: resume to begin wave {}, or roll back",
            rollout.wave + 1,
            rollout.wave + 2
        );
        return Some(Action::Ask {
            reason: Reason { code: ErrorCode::ApprovalNeeded, detail, device: None },
        });
    }
    Some(Action::Advance)
}

fn reason_of(device: &RolloutDevice) -> Reason {
    let (code, detail) = match &device.status {
        Status::Failed { code, detail, .. } => (*code, detail.to_string()),
        _ => (ErrorCode::Unknown, String::new()),
    };
    Reason { code, detail, device: Some(device.device.clone()) }
}

/// Devices of the present wave that may be told now: as many as the pace allows, of those whose hours and turn it is.
fn sends(
    rollout: &Rollout,
    devices: &[RolloutDevice],
    seen: &Survey,
    now_ms: u64,
    most: usize,
) -> Vec<Action> {
    let Some(first) = seen.next else { return Vec::new() };
    let mut open = Open::at(rollout.policy.window.as_ref(), now_ms);
    let unproven = rollout.waves.first().map_or(0, |wave| wave.devices).saturating_sub(seen.lately.under_way);
    let room = if seen.is_proven() { most } else { most.min(unproven as usize) };
    let room = rollout.policy.pace.room(&seen.lately).min(room);
    let due = |device: &RolloutDevice| match device.status {
        Status::Pending => true,
        Status::Retrying { from_ms, .. } => Retry::is_due(from_ms, now_ms),
        _ => false,
    };
    let begun = devices.iter().enumerate().skip(first).take_while(|(_, device)| device.wave <= rollout.wave);
    begun
        .filter(|(_, device)| due(device) && open.is_for(device.zone.as_deref()))
        .take(room)
        .map(|(index, _)| Action::SetDesired { index })
        .collect()
}

impl Rollout {
    /// Stops; what becomes of the devices that it touched is in its policy.
    pub(super) fn fail(&mut self, reason: Reason, now_ms: u64) {
        self.reason = Some(reason);
        match self.policy.on_stop {
            OnStop::GoBack => self.state = RolloutState::Stopping,
            OnStop::Hold => self.finish(RolloutState::Failed, now_ms),
        }
    }
}
