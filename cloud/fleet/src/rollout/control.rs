//! What an operator does with a rollout that exists.

use super::service::{Rollouts, subject};
use super::state::{Reason, Rollout, RolloutDevice, RolloutState, Status};
use crate::error::{Error, Result};
use crate::store::{self, ATTEMPTS};
use flotilla_identity::{Actor, audit};
use flotilla_protocol::{DeviceId, ErrorCode, RolloutId};
use flotilla_storage::{Batch, Collection, Entity, Expect, Versioned};
use serde::{Deserialize, Serialize};
use serde_json::json;

/// Devices that change in one commit.
const COMMIT_DEVICES: usize = 128;

/// What an operator does to a rollout.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RolloutControl {
    /// A draft begins, once it is approved and its time has come.
    Start,
    /// It may begin.
    Approve,
    /// It may not, and never will.
    Reject,
    /// Touch no further device.
    Pause,
    /// Go on.
    Resume,
    /// Take nobody in any more; it ends once all that are in it have.
    Finish,
    /// Stop; devices keep what they were told.
    Abort,
    /// Stop, and send every touched device back.
    Rollback,
}

impl RolloutControl {
    fn participle(self) -> &'static str {
        match self {
            Self::Start => "started",
            Self::Approve => "approved",
            Self::Reject => "rejected",
            Self::Pause => "paused",
            Self::Resume => "resumed",
            Self::Finish => "finished",
            Self::Abort => "aborted",
            Self::Rollback => "rolled back",
        }
    }
}

/// What an operator does to devices of a rollout.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DeviceControl {
    /// Leave this one out.
    Skip(DeviceId),
    /// Tell those that have failed again, or this one.
    Retry(Option<DeviceId>),
}

impl Rollout {
    /// What follows from an operator's word; `false` if it changes nothing.
    fn controlled(&mut self, actor: &Actor, control: RolloutControl, now_ms: u64) -> Result<bool> {
        use RolloutControl as Control;
        use RolloutState::{
            Aborted, Draft, Failed, Paused, RolledBack, Running, Scheduled, Stopping, Succeeded,
            WaitingForApproval,
        };
        let before = self.state;
        let said = |what: &str| Reason {
            code: ErrorCode::Cancelled,
            detail: format!("{} {what} it", actor.id),
            device: None,
        };
        match (control, self.state) {
            (Control::Start, Scheduled | Running | WaitingForApproval)
            | (Control::Approve, Scheduled | Running)
            | (Control::Pause, Paused)
            | (Control::Resume, Running)
            | (Control::Abort | Control::Reject, Aborted)
            | (Control::Rollback, Stopping | RolledBack) => return Ok(false),
            (Control::Start, Draft) if self.needs_approval => self.state = WaitingForApproval,
            (Control::Start, Draft) | (Control::Approve, WaitingForApproval) => self.state = Scheduled,
            (Control::Reject, WaitingForApproval) => {
                self.reason = Some(said("rejected"));
                self.finish(Aborted, now_ms);
            }
            (Control::Finish, Running | Paused) if self.follows.is_some() => self.follows = None,
            (Control::Pause, Running) => self.state = Paused,
            (Control::Resume, Paused) => self.resume(now_ms),
            (Control::Abort, Draft | WaitingForApproval | Scheduled | Running | Paused) => {
                self.finish(Aborted, now_ms);
            }
            // What has ended well, or was left as it is, may still turn out to be bad.
            (Control::Rollback, Running | Paused | Succeeded | Failed | Aborted) => {
                self.roll_back(said("rolled back"));
            }
            _ => {
                return Err(Error::RolloutState {
                    rollout: self.id.clone(),
                    state: before.as_str(),
                    action: control.participle(),
                });
            }
        }
        Ok(true)
    }
}

impl Rollout {
    /// What had stopped and goes on does so beside the rollouts of its model that have begun meanwhile: their devices are
    /// theirs. Those of which it had taken devices itself have not.
    fn make_way(&mut self, active: &[Versioned<Rollout>]) {
        for other in active.iter().map(|other| &other.value) {
            let newer = other.id != self.id && !other.superseded_by.contains(&self.id);
            let of_model = other.model == self.model && other.state.is_under_way();
            if newer && of_model && !self.superseded_by.contains(&other.id) {
                self.superseded_by.push(other.id.clone());
            }
        }
    }
}

impl Rollouts {
    /// Does what an operator wants with a rollout. Repeating it changes nothing.
    pub(crate) async fn control(
        &self,
        actor: &Actor,
        id: &RolloutId,
        control: RolloutControl,
        now_ms: u64,
    ) -> Result<Rollout> {
        let changed = self
            .store
            .modify(&self.store.rollouts, id.as_str().as_bytes(), |rollout, batch| {
                if !rollout.controlled(actor, control, now_ms)? {
                    return Ok(false);
                }
                let detail = json!({ "control": control, "state": rollout.state });
                audit::record(batch, actor, "rollout:control", &subject(id), detail, now_ms)?;
                Ok(true)
            })
            .await?;
        let rollout = changed.ok_or_else(|| Error::RolloutMissing(id.clone()))?;
        self.changes.rollout(id);
        self.wake.notify_one();
        Ok(rollout)
    }

    /// Does what an operator wants with devices of a rollout. Repeating it changes nothing.
    pub(crate) async fn control_devices(
        &self,
        actor: &Actor,
        id: &RolloutId,
        control: &DeviceControl,
        now_ms: u64,
    ) -> Result<Rollout> {
        for _ in 0..ATTEMPTS {
            let found = self.store.rollouts.get(id.as_str()).await?;
            let found = found.ok_or_else(|| Error::RolloutMissing(id.clone()))?;
            if !control.is_possible(&found.value) {
                return Err(Error::RolloutState {
                    rollout: id.clone(),
                    state: found.value.state.as_str(),
                    action: control.participle(),
                });
            }
            let devices = store::all(&self.store.rollout_devices, &RolloutDevice::prefix(id)).await?;
            control.check(id, &devices)?;
            let changed: Vec<_> = devices
                .iter()
                .filter_map(|device| Some((device, control.of(&device.value, now_ms)?)))
                .collect();
            if let Some(rollout) = self.write(actor, &found, &changed, control, now_ms).await? {
                // Whoever keeps them in memory reads them anew.
                self.news.rollout(id);
                self.changes.rollout(id);
                self.wake.notify_one();
                return Ok(rollout);
            }
        }
        Err(Error::Contended(format!("rollout {id}")))
    }

    /// Writes the devices, and last the rollout, whose version rises: whoever has planned with what was before has lost.
    /// `None` if another change came first; what is written then stays, and the next attempt does the rest.
    async fn write(
        &self,
        actor: &Actor,
        found: &Versioned<Rollout>,
        changed: &[(&Versioned<RolloutDevice>, Status)],
        control: &DeviceControl,
        now_ms: u64,
    ) -> Result<Option<Rollout>> {
        let same = Expect::Version(found.version);
        for page in changed.chunks(COMMIT_DEVICES) {
            let mut batch = Batch::new();
            batch.require(Collection::<Rollout>::key(found.value.id()), same);
            for (device, status) in page {
                let value = RolloutDevice { status: status.clone(), ..device.value.clone() };
                self.store.rollout_devices.update(&mut batch, device, &value)?;
            }
            if !self.store.try_commit(batch).await? {
                return Ok(None);
            }
        }
        let _beginning = self.beginning.lock().await;
        let mut rollout = found.value.clone();
        if rollout.state == RolloutState::Failed {
            // One that had stopped for its failures goes on, with what others have left it.
            rollout.reason = None;
            rollout.finished_at_ms = None;
            rollout.tallies.clear();
            rollout.begin(now_ms);
            rollout.make_way(&self.active().await?);
        }
        let mut batch = Batch::new();
        self.store.rollouts.update(&mut batch, found, &rollout)?;
        let detail = json!({ "control": control, "devices": changed.len(), "state": rollout.state });
        audit::record(&mut batch, actor, "rollout:devices", &subject(&rollout.id), detail, now_ms)?;
        Ok(self.store.try_commit(batch).await?.then_some(rollout))
    }
}

impl DeviceControl {
    fn participle(&self) -> &'static str {
        match self {
            Self::Skip(_) => "left out",
            Self::Retry(_) => "told again",
        }
    }

    /// Whether the rollout is in a state that allows it.
    fn is_possible(&self, rollout: &Rollout) -> bool {
        use RolloutState::{Failed, Paused, Running, Stopping};
        match self {
            Self::Skip(_) => rollout.is_active() && !matches!(rollout.state, Stopping | Failed),
            Self::Retry(_) => match rollout.state {
                Running | Paused => true,
                Failed => !rollout.is_active(),
                _ => false,
            },
        }
    }

    /// What becomes of a device; `None` if nothing.
    fn of(&self, device: &RolloutDevice, now_ms: u64) -> Option<Status> {
        match (self, &device.status) {
            (
                Self::Skip(id),
                Status::Pending | Status::Sent | Status::Retrying { .. } | Status::Failed { .. },
            ) if device.device == *id => Some(Status::Skipped { code: ErrorCode::Cancelled, at_ms: now_ms }),
            (Self::Retry(id), Status::Failed { code, detail, .. })
                if id.as_ref().is_none_or(|id| device.device == *id) =>
            {
                Some(Status::Retrying { code: *code, detail: detail.clone(), from_ms: now_ms })
            }
            _ => None,
        }
    }

    /// Refuses where the device that it names does not stand as it must. What is done already is fine.
    fn check(&self, id: &RolloutId, devices: &[Versioned<RolloutDevice>]) -> Result<()> {
        let (Self::Skip(named) | Self::Retry(Some(named))) = self else { return Ok(()) };
        let found = devices.iter().find(|device| device.value.device == *named);
        let found = found.ok_or_else(|| Error::Invalid(format!("device {named} is not in rollout {id}")))?;
        let is_done = match self {
            Self::Skip(_) => matches!(found.value.status, Status::Skipped { .. }),
            Self::Retry(_) => matches!(found.value.status, Status::Retrying { .. }),
        };
        if is_done || self.of(&found.value, 0).is_some() {
            return Ok(());
        }
        Err(Error::RolloutDeviceState {
            rollout: id.clone(),
            device: named.clone(),
            state: found.value.status.as_str(),
            action: self.participle(),
        })
    }
}
