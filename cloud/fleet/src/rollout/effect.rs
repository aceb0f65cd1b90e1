//! What each action of a plan changes. Pure: the service stores the outcome, the tests simulate with it.

use super::health::{Follows, WORSE, Watched};
use super::state::{Reason, Rollout, RolloutDevice, RolloutState, Sent, Status};
use super::withdrawn::Withdrawn;
use crate::devices::Twin;
use flotilla_gates::gate::Look;
use flotilla_protocol::ErrorCode;

/// Whether a device may be told anything, at the moment at which it is its turn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Standing {
    /// It may.
    Free,
    /// It is left out, for this reason.
    Out(ErrorCode),
}

/// Tells a device to run the release, if it may have it: a newer desired document, and what to go back to.
pub(super) fn send(
    rollout: &Rollout,
    device: &mut RolloutDevice,
    twin: &mut Twin,
    standing: Standing,
    now_ms: u64,
) {
    if let Standing::Out(code) = standing {
        device.status = Status::Skipped { code, at_ms: now_ms };
        return;
    }
    let wanted = &rollout.wanted;
    // One that is told again goes back to what it ran before the first time.
    let previous = match device.sent.take() {
        None => twin.models.get(&rollout.model).cloned(),
        Some(sent) if is_ours(rollout, &sent, twin) => sent.previous,
        sent @ Some(_) => {
            device.sent = sent;
            device.status = Status::Skipped { code: ErrorCode::WrongState, at_ms: now_ms };
            return;
        }
    };
    match twin.want(&rollout.model, wanted.release, wanted.envelope_bytes, now_ms) {
        Ok(attempt) => {
            let sent = Sent { desired_version: twin.version, attempt, at_ms: now_ms, previous };
            device.sent = Some(Box::new(sent));
            device.tries = device.tries.saturating_add(1);
            device.status = Status::Sent;
        }
        Err(code) => {
            let detail = "its desired document holds as many models as it can".into();
            device.status = Status::Failed { code, detail, at_ms: now_ms };
        }
    }
}

/// Whether the device's document still names what this rollout put there.
fn is_ours(rollout: &Rollout, sent: &Sent, twin: &Twin) -> bool {
    let named = twin.models.get(&rollout.model);
    named.is_some_and(|d| d.release == rollout.wanted.release && d.attempt == sent.attempt)
}

/// Tells a device to go back to what it should run before. A device that another change has given something else
/// meanwhile is left alone.
pub(super) fn revert(
    rollout: &Rollout,
    device: &mut RolloutDevice,
    twin: Option<&mut Twin>,
    withdrawn: Option<&Withdrawn>,
    now_ms: u64,
) {
    let failure = match &device.status {
        Status::Failed { code, .. } | Status::Retrying { code, .. } => Some(*code),
        _ => None,
    };
    let mut desired_version = None;
    if let (Some(twin), Some(sent)) = (twin, &device.sent)
        && is_ours(rollout, sent, twin)
    {
        let previous = sent.previous.clone();
        let previous = match withdrawn {
            Some(withdrawn) => withdrawn.instead(previous),
            None => previous,
        };
        twin.restore(&rollout.model, previous, now_ms);
        desired_version = Some(twin.version);
    }
    device.status = Status::Reverted { desired_version, at_ms: now_ms, failure };
}

impl Rollout {
    /// Devices are updated from now on.
    pub(super) fn begin(&mut self, now_ms: u64) {
        self.state = RolloutState::Running;
        self.counted_from_ms = now_ms;
    }

    pub(super) fn advance(&mut self) {
        self.wave += 1;
        self.watched = None;
    }

    pub(super) fn watch(&mut self, now_ms: u64) {
        self.watched = Some(Watched::from(now_ms));
    }

    /// Remembers what was seen at the end of a window, and does what follows.
    pub(super) fn look(&mut self, look: Look, follows: &Follows, now_ms: u64) {
        if let Some(watched) = &mut self.watched {
            watched.close_window(look, now_ms);
            watched.through = *follows == Follows::Wave;
        }
        self.follow(follows, now_ms);
    }

    pub(super) fn follow(&mut self, follows: &Follows, now_ms: u64) {
        match follows {
            Follows::Window | Follows::Wave => {}
            Follows::Stop(detail) => {
                self.fail(Reason { code: WORSE, detail: detail.clone(), device: None }, now_ms);
            }
            Follows::Pause(detail) => {
                self.ask(Reason { code: ErrorCode::Timeout, detail: detail.clone(), device: None });
            }
        }
    }

    /// Waits for an operator's answer.
    pub(super) fn ask(&mut self, reason: Reason) {
        self.state = RolloutState::Paused;
        self.reason = Some(reason);
    }

    /// An operator lets it go on: what was asked is answered with yes. A wave of which nothing was certain counts as
    /// through, and a wave that had to be approved is.
    pub(super) fn resume(&mut self, now_ms: u64) {
        self.state = RolloutState::Running;
        self.counted_from_ms = now_ms;
        let asked = self.reason.take();
        if asked.as_ref().is_some_and(|reason| reason.code == ErrorCode::ApprovalNeeded) {
            self.approved_waves = self.wave + 1;
        }
        if let Some(watched) = &mut self.watched {
            watched.through |= asked.is_some();
            watched.begin_window(now_ms);
        }
        if let Some(stage) = self.shadow.as_mut().filter(|stage| !stage.over) {
            match &mut stage.watched {
                Some(watched) => {
                    watched.through |= asked.is_some();
                    watched.begin_window(now_ms);
                }
                None => stage.over |= asked.is_some(),
            }
        }
    }

    pub(super) fn finish(&mut self, state: RolloutState, now_ms: u64) {
        self.state = state;
        self.finished_at_ms = Some(now_ms);
    }

    /// Ends because its devices belong to newer rollouts.
    pub(super) fn give_way(&mut self, now_ms: u64) {
        self.reason = Some(self.given_way("its devices belong"));
        self.finish(RolloutState::Aborted, now_ms);
    }

    /// Every wave is through. It says so if others have taken devices from it.
    pub(super) fn succeed(&mut self, superseded: u32, now_ms: u64) {
        if superseded > 0 {
            self.reason = Some(self.given_way(&format!("{superseded} of its devices belong")));
        }
        self.finish(RolloutState::Succeeded, now_ms);
    }

    fn given_way(&self, what: &str) -> Reason {
        let newest = self.superseded_by.last().map(|id| id.to_string()).unwrap_or_default();
        let detail = format!("{what} to a newer rollout: {newest}");
        Reason { code: ErrorCode::Superseded, detail, device: None }
    }

    /// Takes devices into its last wave, which tolerates as large a share of failures as before.
    pub(super) fn take_in(&mut self, devices: u32) {
        if let Some(wave) = self.waves.last_mut() {
            let (before, after) =
                (u64::from(wave.devices.max(1)), u64::from(wave.devices) + u64::from(devices));
            let failures = u64::from(wave.max_failures) * after / before;
            wave.devices = u32::try_from(after).unwrap_or(u32::MAX);
            wave.max_failures = u32::try_from(failures).unwrap_or(u32::MAX);
        }
    }

    /// Its devices are sent back.
    pub(super) fn roll_back(&mut self, reason: Reason) {
        self.state = RolloutState::Stopping;
        self.finished_at_ms = None;
        self.reason = Some(reason);
    }
}
