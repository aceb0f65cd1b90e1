//! What each action of a plan changes. Pure: the service stores the outcome, the tests simulate with it.

use super::health::{Follows, WORSE, Watched};
use super::state::{Reason, Rollout, RolloutDevice, RolloutState, Sent, Status};
use crate::devices::Twin;
use flotilla_gates::gate::Look;
use flotilla_protocol::ErrorCode;

/// Tells a device to run the release: a newer desired document, and what to go back to.
pub(super) fn send(
    rollout: &Rollout,
    device: &mut RolloutDevice,
    twin: &mut Twin,
    now_ms: u64,
) -> Result<(), ErrorCode> {
    let previous = twin.models.get(&rollout.model).cloned();
    let wanted = &rollout.wanted;
    let attempt = twin.want(&rollout.model, wanted.release, wanted.envelope_bytes, now_ms)?;
    device.sent = Some(Sent { desired_version: twin.version, attempt, at_ms: now_ms, previous });
    device.status = Status::Sent;
    Ok(())
}

/// Tells a device to go back to what it should run before. A device that another change has given something else
/// meanwhile is left alone.
pub(super) fn revert(rollout: &Rollout, device: &mut RolloutDevice, twin: Option<&mut Twin>, now_ms: u64) {
    let failure = match &device.status {
        Status::Failed { code, .. } => Some(*code),
        _ => None,
    };
    let mut desired_version = None;
    if let (Some(twin), Some(sent)) = (twin, &device.sent) {
        let ours = twin
            .models
            .get(&rollout.model)
            .is_some_and(|d| d.release == rollout.wanted.release && d.attempt == sent.attempt);
        if ours {
            twin.restore(&rollout.model, sent.previous.clone(), now_ms);
            desired_version = Some(twin.version);
        }
    }
    device.status = Status::Reverted { desired_version, at_ms: now_ms, failure };
}

impl Rollout {
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
            watched.windows += 1;
            watched.begin_window(now_ms);
            watched.look = Some(look);
            watched.through = *follows == Follows::Wave;
        }
        match follows {
            Follows::Window | Follows::Wave => {}
            Follows::Stop(detail) => self.fail(Reason { code: WORSE, detail: detail.clone(), device: None }),
            Follows::Pause(detail) => {
                self.state = RolloutState::Paused;
                self.reason = Some(Reason { code: ErrorCode::Timeout, detail: detail.clone(), device: None });
            }
        }
    }

    /// An operator lets it go on: a wave of which nothing was certain counts as through.
    pub(super) fn resume(&mut self, now_ms: u64) {
        self.state = RolloutState::Running;
        self.counted_from_ms = now_ms;
        let asked = self.reason.take().is_some();
        if let Some(watched) = &mut self.watched {
            watched.through |= asked;
            watched.begin_window(now_ms);
        }
    }

    pub(super) fn finish(&mut self, state: RolloutState, now_ms: u64) {
        self.state = state;
        self.finished_at_ms = Some(now_ms);
    }

    pub(super) fn fail(&mut self, reason: Reason) {
        self.state = RolloutState::Failed;
        self.reason = Some(reason);
    }
}
