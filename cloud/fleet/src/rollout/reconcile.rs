//! Performs rollouts: an idempotent reconciler over what is stored, woken by reports and a timer.
//!
//! Every action is one commit of rollout, device, desired document and audit record, with preconditions on everything
//! the plan was made from. Whoever loses a race has done nothing and plans anew.

use super::effect;
use super::health::{self, Baseline, Figures, Partner};
use super::planner::{Action, Observation, Observations, Report, plan};
use super::service::{Rollouts, subject};
use super::state::{Rollout, RolloutDevice, RolloutState, Status};
use crate::devices::ModelState;
use crate::error::{Error, Result};
use crate::store::{self, ATTEMPTS};
use flotilla_identity::{Actor, audit, now_ms};
use flotilla_protocol::{DeviceId, ErrorCode, ModelName, RolloutId};
use flotilla_storage::{Batch, Collection, Entity, Expect, Versioned};
use serde_json::json;
use std::time::{Duration, Instant};
use tokio_util::sync::CancellationToken;

/// Devices that change in one commit.
const COMMIT_DEVICES: usize = 32;
/// How often deadlines are looked at.
const TICK: Duration = Duration::from_secs(2);

impl Rollouts {
    /// Performs rollouts until stopped.
    pub(crate) async fn run(&self, stop: CancellationToken) {
        loop {
            let began = Instant::now();
            if let Err(error) = self.reconcile(&stop).await {
                tracing::error!(%error, "rollouts cannot be performed now");
            }
            // A large fleet reports all the time: looking at it takes at most a part of this process's time.
            let rest = (began.elapsed() * 2).min(TICK);
            let again = async {
                tokio::time::sleep(rest).await;
                let _ = tokio::time::timeout(TICK - rest, self.wake.notified()).await;
            };
            tokio::select! {
                () = stop.cancelled() => return,
                () = again => {}
            }
        }
    }

    /// Takes every active rollout as far as it goes now.
    pub(crate) async fn reconcile(&self, stop: &CancellationToken) -> Result<()> {
        let mut after: Option<Vec<u8>> = None;
        loop {
            let page =
                self.store.rollouts.lookup(Rollout::BY_STATE, Rollout::ACTIVE, after.as_deref(), 100).await?;
            for rollout in page.items {
                let id = rollout.value.id;
                while !stop.is_cancelled() && self.step(&id).await? {}
            }
            match page.next {
                Some(next) => after = Some(next),
                None => return Ok(()),
            }
        }
    }

    /// Plans once and performs the plan. Says whether there was anything to do.
    pub(crate) async fn step(&self, id: &RolloutId) -> Result<bool> {
        for _ in 0..ATTEMPTS {
            let Some(rollout) = self.store.rollouts.get(id.as_str()).await? else { return Ok(false) };
            let now_ms = now_ms();
            if rollout.value.only_waits(now_ms) {
                return Ok(false);
            }
            let targets = store::all(&self.store.rollout_devices, &RolloutDevice::prefix(id)).await?;
            let observed = self.observe(&rollout.value, &targets, now_ms).await?;
            let devices: Vec<RolloutDevice> = targets.iter().map(|target| target.value.clone()).collect();
            let actions = plan(&rollout.value, &devices, &observed, now_ms);
            if actions.is_empty() {
                return Ok(false);
            }
            if self.perform(&rollout, &targets, &actions, now_ms).await? {
                self.changes.rollout(id);
                return Ok(true);
            }
        }
        Err(Error::Contended(format!("rollout {id}")))
    }

    /// What is known of the devices that are to be told or judged.
    async fn observe(
        &self,
        rollout: &Rollout,
        targets: &[Versioned<RolloutDevice>],
        now_ms: u64,
    ) -> Result<Observations> {
        let mut observed = Observations::new();
        let looks = rollout.is_look_due(now_ms);
        let open = |target: &&Versioned<RolloutDevice>| {
            let again = looks
                && target.value.wave == rollout.wave
                && matches!(target.value.status, Status::Confirmed { .. });
            target.value.wave <= rollout.wave && (again || !target.value.status.is_decided())
        };
        for target in targets.iter().filter(open) {
            let device = &target.value.device;
            let known = self.store.devices.get(device.as_str()).await?;
            let twin = self.store.twins.get(device.as_str()).await?;
            let head = self.store.reports.get(device.as_str()).await?;
            let state = self.store.models.get(ModelState::id_of(device, &rollout.model)).await?;
            let observation = Observation {
                revoked: known.is_none_or(|device| !device.value.is_active()),
                desired: twin.and_then(|twin| twin.value.models.get(&rollout.model).cloned()),
                report: head.map(|head| Report {
                    desired_version: head.value.desired_version,
                    model: state.map(|state| state.value.report),
                }),
                figures: None,
            };
            observed.insert(device.clone(), observation);
        }
        if looks {
            for target in targets.iter().filter(|target| target.value.wave == rollout.wave) {
                let Some(baseline) = &target.value.baseline else { continue };
                let partner = baseline.partner.as_ref().map(|partner| &partner.device);
                for device in std::iter::once(&target.value.device).chain(partner) {
                    let figures = self.figures(device, &rollout.model).await?;
                    observed.entry(device.clone()).or_default().figures = figures;
                }
            }
        }
        Ok(observed)
    }

    /// What a device last said of a model.
    async fn figures(&self, device: &DeviceId, model: &ModelName) -> Result<Option<Figures>> {
        let sample = self.store.samples.get(device.as_str()).await?;
        Ok(sample.and_then(|sample| Figures::of(&sample.value, model)))
    }

    /// What is known of a device before it is updated, and of the one that it is compared with.
    async fn baseline(
        &self,
        rollout: &Rollout,
        targets: &[Versioned<RolloutDevice>],
        device: &RolloutDevice,
    ) -> Result<Option<Baseline>> {
        let Some(own) = self.figures(&device.device, &rollout.model).await? else { return Ok(None) };
        let waiting = health::partner(rollout, device).and_then(|place| targets.get(place));
        let partner = match waiting {
            Some(waiting) => {
                let device = waiting.value.device.clone();
                let figures = self.figures(&device, &rollout.model).await?;
                Some(Partner { device, figures })
            }
            None => None,
        };
        Ok(Some(Baseline { own, partner }))
    }

    /// Performs a plan, some devices a commit. `false` where another change came first.
    async fn perform(
        &self,
        rollout: &Versioned<Rollout>,
        targets: &[Versioned<RolloutDevice>],
        actions: &[Action],
        now_ms: u64,
    ) -> Result<bool> {
        for actions in actions.chunks(COMMIT_DEVICES) {
            let mut batch = Batch::new();
            let mut told = Vec::new();
            for action in actions {
                match action {
                    Action::SetDesired { index } | Action::Revert { index } | Action::Mark { index, .. } => {
                        self.change_device(&mut batch, rollout, targets, *index, action, now_ms).await?;
                        told.push(&targets[*index].value.device);
                    }
                    Action::Watch
                    | Action::Look { .. }
                    | Action::Advance
                    | Action::Succeed
                    | Action::Fail { .. }
                    | Action::RolledBack => {
                        self.change_rollout(&mut batch, rollout, action, now_ms)?;
                    }
                }
            }
            if !told.is_empty() {
                // An operator who pauses or aborts at this moment is heard.
                batch.require(
                    Collection::<Rollout>::key(rollout.value.id()),
                    Expect::Version(rollout.version),
                );
            }
            if !self.store.try_commit(batch).await? {
                return Ok(false);
            }
            for device in told {
                self.connections.desired_changed(device);
                self.changes.device(device);
            }
        }
        Ok(true)
    }

    /// Adds one device's change to the batch: its record, its desired document, and the audit record.
    async fn change_device(
        &self,
        batch: &mut Batch,
        rollout: &Versioned<Rollout>,
        targets: &[Versioned<RolloutDevice>],
        index: usize,
        action: &Action,
        now_ms: u64,
    ) -> Result<()> {
        let (rollout, target) = (&rollout.value, &targets[index]);
        let mut device = target.value.clone();
        let found = self.store.twins.get(device.device.as_str()).await?;
        let mut twin = found.as_ref().map(|found| found.value.clone());
        match (action, &mut twin) {
            (Action::SetDesired { .. }, Some(twin)) => {
                if rollout.watch.is_some() {
                    device.baseline = self.baseline(rollout, targets, &device).await?;
                }
                if let Err(code) = effect::send(rollout, &mut device, twin, now_ms) {
                    let detail = "its desired document holds as many models as it can".to_owned();
                    device.status = Status::Failed { code, detail, at_ms: now_ms };
                }
            }
            (Action::SetDesired { .. }, None) => {
                device.status = Status::Skipped { code: ErrorCode::NotFound, at_ms: now_ms };
            }
            (Action::Mark { status, .. }, _) => device.status = status.clone(),
            (Action::Revert { .. }, twin) => effect::revert(rollout, &mut device, twin.as_mut(), now_ms),
            _ => return Ok(()),
        }
        self.store.rollout_devices.update(batch, target, &device)?;
        if let (Some(found), Some(twin)) = (&found, &twin)
            && found.value != *twin
        {
            self.store.twins.update(batch, found, twin)?;
        }
        let detail = json!({
            "device": device.device, "wave": device.wave, "status": device.status,
            "desired_version": twin.map(|twin| twin.version),
        });
        let subject = format!("{}/{}", subject(&rollout.id), device.device);
        audit::record(batch, &Actor::system(), "rollout:device", &subject, detail, now_ms)?;
        Ok(())
    }

    fn change_rollout(
        &self,
        batch: &mut Batch,
        found: &Versioned<Rollout>,
        action: &Action,
        now_ms: u64,
    ) -> Result<()> {
        let mut rollout = found.value.clone();
        match action {
            Action::Watch => rollout.watch(now_ms),
            Action::Look { look, follows } => rollout.look(look.clone(), follows, now_ms),
            Action::Advance => rollout.advance(),
            Action::Succeed => rollout.finish(RolloutState::Succeeded, now_ms),
            Action::Fail { reason } => rollout.fail(reason.clone()),
            Action::RolledBack => rollout.finish(RolloutState::RolledBack, now_ms),
            Action::SetDesired { .. } | Action::Mark { .. } | Action::Revert { .. } => {}
        }
        tracing::info!(rollout = %rollout.id, state = rollout.state.as_str(), wave = rollout.wave + 1, "a rollout goes on");
        self.store.rollouts.update(batch, found, &rollout)?;
        let look = rollout.watched.as_ref().and_then(|watched| watched.look.as_ref());
        let detail =
            json!({ "state": rollout.state, "wave": rollout.wave, "reason": rollout.reason, "look": look });
        audit::record(batch, &Actor::system(), "rollout:progress", &subject(&rollout.id), detail, now_ms)?;
        Ok(())
    }
}
