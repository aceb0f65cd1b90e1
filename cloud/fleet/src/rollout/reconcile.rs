//! Performs rollouts: an idempotent reconciler over what is stored, woken by reports and a timer.
//!
//! Every action is one commit of rollout, device, desired document and audit record, with preconditions on everything
//! the plan was made from. Whoever loses a race has done nothing and plans anew. Between two looks only devices of which
//! there is news, and those that are late, are read.

use super::effect::{self, Standing};
use super::figures;
use super::health::{self, Baseline, Partner};
use super::planner::{ACTIONS, Action, Observation, Observations, Report, plan};
use super::service::{Rollouts, subject};
use super::stage::{self, ShadowSeen};
use super::state::{Rollout, RolloutDevice, RolloutState, Status};
use super::withdrawn::Withdrawn;
use super::work::Work;
use crate::devices::{ModelState, Twin};
use crate::error::Result;
use crate::store;
use flotilla_identity::{Actor, audit, now_ms};
use flotilla_protocol::{ErrorCode, RolloutId};
use flotilla_storage::{Batch, Collection, Entity, Expect, Versioned};
use serde_json::json;
use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};
use tokio_util::sync::CancellationToken;

/// Devices that change in one commit.
const COMMIT_DEVICES: usize = 32;
/// Newer rollouts that take devices from one which stands still; after so many it is ended.
const SUPERSEDED: usize = 64;
/// How often deadlines are looked at.
const TICK: Duration = Duration::from_secs(2);

impl Rollouts {
    /// Performs rollouts until stopped.
    pub(crate) async fn run(&self, stop: CancellationToken) {
        let mut works = BTreeMap::new();
        loop {
            let began = Instant::now();
            if let Err(error) = self.reconcile(&mut works, &stop).await {
                tracing::error!(%error, "rollouts cannot be performed now");
                works.clear();
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
    async fn reconcile(&self, works: &mut BTreeMap<RolloutId, Work>, stop: &CancellationToken) -> Result<()> {
        let news = self.news.take();
        let mut active = self.active().await?;
        active.sort_by_key(|rollout| (u8::MAX - rollout.value.policy.priority, rollout.value.created_at_ms));
        // What only waits has nothing in memory.
        let now_ms = now_ms();
        active.retain(|rollout| match rollout.value.state {
            RolloutState::Draft | RolloutState::WaitingForApproval => false,
            RolloutState::Scheduled => rollout.value.starts_at_ms.is_none_or(|at| now_ms >= at),
            _ => true,
        });
        let wanted: BTreeSet<RolloutId> = active.iter().map(|rollout| rollout.value.id.clone()).collect();
        works.retain(|id, _| wanted.contains(id) && !news.rollouts.contains(id));
        self.board.keep(&wanted);
        works.values_mut().for_each(|work| work.hear(&news.devices));
        for rollout in active {
            let id = rollout.value.id.clone();
            if stop.is_cancelled() {
                return Ok(());
            }
            // One that cannot be performed holds up no other. It is read anew the next time, news included.
            if let Err(error) = self.advance(works, rollout, stop).await {
                tracing::error!(rollout = %id, %error, "a rollout cannot be performed now");
                works.remove(&id);
            }
        }
        Ok(())
    }

    /// Every rollout that may have something to do.
    pub(super) async fn active(&self) -> Result<Vec<Versioned<Rollout>>> {
        let (mut active, mut after) = (Vec::new(), None::<Vec<u8>>);
        loop {
            let page =
                self.store.rollouts.lookup(Rollout::BY_STATE, Rollout::ACTIVE, after.as_deref(), 100).await?;
            active.extend(page.items);
            match page.next {
                Some(next) => after = Some(next),
                None => return Ok(active),
            }
        }
    }

    /// Takes one rollout as far as it goes now.
    async fn advance(
        &self,
        works: &mut BTreeMap<RolloutId, Work>,
        rollout: Versioned<Rollout>,
        stop: &CancellationToken,
    ) -> Result<()> {
        let id = rollout.value.id.clone();
        let mut work = match works.remove(&id) {
            Some(work) => work.again(rollout),
            None => Work::read(&self.store, rollout).await?,
        };
        work.give_way(&self.store).await?;
        self.take_in(&mut work, now_ms()).await?;
        self.board.show(&work);
        while !stop.is_cancelled() {
            let now_ms = now_ms();
            work.hear_late(now_ms);
            let observed = self.observe(&mut work, now_ms).await?;
            let actions = plan(&work.rollout.value, &work.devices, &observed, now_ms, ACTIONS);
            if actions.is_empty() && !work.heard.is_empty() {
                continue;
            }
            if actions.is_empty() {
                works.insert(id, work);
                return Ok(());
            }
            let done = self.perform(&mut work, &actions, now_ms).await?;
            self.board.show(&work);
            self.changes.rollout(&id);
            if !done {
                // Another change came first: what is in memory is not what is stored.
                self.wake.notify_one();
                return Ok(());
            }
        }
        Ok(())
    }

    /// What is known of the devices of which there is news, and of all that are looked at.
    async fn observe(&self, work: &mut Work, now_ms: u64) -> Result<Observations> {
        let rollout = &work.rollout.value;
        if rollout.open_stage().is_some() {
            return self.observe_shadows(work, now_ms).await;
        }
        let mut observed = Observations::new();
        if !matches!(rollout.state, RolloutState::Running | RolloutState::Paused) {
            // Who is sent back is told so whatever it says.
            work.heard.clear();
            return Ok(observed);
        }
        let looks = rollout.is_look_due(now_ms);
        if looks {
            let wave = work.devices.iter().enumerate().filter(|(_, device)| device.wave == rollout.wave);
            work.heard.extend(wave.map(|(place, _)| place));
        }
        work.heard.retain(|place| {
            let device = &work.devices[*place];
            device.wave <= rollout.wave && matches!(device.status, Status::Sent | Status::Confirmed { .. })
        });
        // Some at a time, so that what they say is acted on; who is looked at is heard once.
        let behind = work.heard.iter().nth(ACTIONS).copied().filter(|_| !looks);
        let later = behind.map_or_else(BTreeSet::new, |place| work.heard.split_off(&place));
        let heard = std::mem::replace(&mut work.heard, later);
        for device in heard.iter().map(|place| &work.devices[*place].device) {
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
                ..Observation::default()
            };
            observed.insert(device.clone(), observation);
        }
        if looks {
            for target in work.devices.iter().filter(|target| target.wave == rollout.wave) {
                let Some(baseline) = &target.baseline else { continue };
                let partner = baseline.partner.as_ref().map(|partner| &partner.device);
                for device in std::iter::once(&target.device).chain(partner) {
                    let said = figures::last(&self.store, device, &rollout.model).await?;
                    observed.entry(device.clone()).or_default().figures = said;
                }
            }
        }
        Ok(observed)
    }

    /// What is known of the shadows of which there is news, and of all when they are looked at.
    async fn observe_shadows(&self, work: &mut Work, now_ms: u64) -> Result<Observations> {
        let rollout = &work.rollout.value;
        let (looks, heard) = (rollout.is_stage_due(now_ms), std::mem::take(&mut work.heard));
        let told = work.devices.iter().enumerate().filter(|(_, device)| device.is_shadowed());
        let mut observed = Observations::new();
        for (_, device) in told.filter(|(place, _)| looks || heard.contains(place)) {
            let id = &device.device;
            let known = self.store.devices.get(id.as_str()).await?;
            let report = self.store.shadows.get(ModelState::id_of(id, &rollout.model)).await?;
            let figures = self.store.figures.get(id.as_str()).await?;
            let figures = figures.and_then(|mut kept| kept.value.models.remove(&rollout.model));
            let shadow = ShadowSeen {
                report: report.map(|state| state.value.report),
                received_ms: figures.as_ref().map_or(0, |figures| figures.at_ms),
                figures: figures.map(|figures| figures.total()),
            };
            let revoked = known.is_none_or(|device| !device.value.is_active());
            let seen = Observation { revoked, shadow: Some(shadow), ..Observation::default() };
            observed.insert(id.clone(), seen);
        }
        Ok(observed)
    }

    /// What is known of a device before it is updated, and of the one that it is compared with.
    async fn baseline(&self, work: &Work, device: &RolloutDevice) -> Result<Option<Box<Baseline>>> {
        let rollout = &work.rollout.value;
        let Some(own) = figures::last(&self.store, &device.device, &rollout.model).await? else {
            return Ok(None);
        };
        let partner = match health::partner(rollout, device).and_then(|place| work.devices.get(place)) {
            Some(waiting) => {
                let figures = figures::last(&self.store, &waiting.device, &rollout.model).await?;
                Some(Partner { device: waiting.device.clone(), figures })
            }
            None => None,
        };
        Ok(Some(Box::new(Baseline { own, partner })))
    }

    /// Performs a plan, some devices a commit. `false` where another change came first.
    async fn perform(&self, work: &mut Work, actions: &[Action], now_ms: u64) -> Result<bool> {
        // Of two that begin at the same moment one sees the other.
        let begins = actions.contains(&Action::Begin);
        let _beginning = if begins { Some(self.beginning.lock().await) } else { None };
        for actions in actions.chunks(COMMIT_DEVICES) {
            let (mut batch, mut changed, mut next) = (Batch::new(), Vec::new(), None);
            for action in actions {
                match action {
                    Action::SetDesired { index }
                    | Action::Revert { index }
                    | Action::Mark { index, .. }
                    | Action::Shadow { index }
                    | Action::Unshadow { index, .. } => {
                        let device = self.change_device(&mut batch, work, *index, action, now_ms).await?;
                        changed.push((*index, device));
                    }
                    _ => next = Some(self.change_rollout(&mut batch, work, action, now_ms).await?),
                }
            }
            if !changed.is_empty() {
                // An operator who pauses or aborts at this moment is heard.
                let rollout = &work.rollout;
                batch.require(
                    Collection::<Rollout>::key(rollout.value.id()),
                    Expect::Version(rollout.version),
                );
            }
            let Some(version) = self.store.committed(batch).await? else { return Ok(false) };
            if let Some(value) = next {
                work.rollout = Versioned { value, version };
            }
            let several = self.board.several();
            for (_, device) in &changed {
                self.connections.desired_changed(&device.device);
                self.changes.device(&device.device);
                // Another rollout may have had a say in what it runs.
                if several && device.status == Status::Sent {
                    self.news.device(&device.device);
                }
            }
            work.written(changed, version);
        }
        Ok(true)
    }

    /// Adds one device's change to the batch: its record, its desired document, and the audit record.
    async fn change_device(
        &self,
        batch: &mut Batch,
        work: &Work,
        index: usize,
        action: &Action,
        now_ms: u64,
    ) -> Result<RolloutDevice> {
        let (rollout, target) = (&work.rollout.value, work.found(index));
        let mut device = target.value.clone();
        let found = self.store.twins.get(device.device.as_str()).await?;
        let mut twin = found.as_ref().map(|found| found.value.clone());
        match (action, &mut twin) {
            (Action::SetDesired { .. }, Some(twin)) => {
                let standing = self.standing(work, index).await?;
                if rollout.watch.is_some() && standing == Standing::Free && device.baseline.is_none() {
                    device.baseline = self.baseline(work, &device).await?;
                }
                effect::send(rollout, &mut device, twin, standing, now_ms);
            }
            (Action::SetDesired { .. }, None) => {
                device.status = Status::Skipped { code: ErrorCode::NotFound, at_ms: now_ms };
            }
            // What another rollout has told it is no failure of this one.
            (Action::Mark { status: Status::Skipped { code: ErrorCode::WrongState, at_ms }, .. }, _)
                if work.is_taken(index) =>
            {
                device.status = Status::Skipped { code: ErrorCode::Superseded, at_ms: *at_ms };
            }
            (Action::Mark { status, .. }, _) => device.status = status.clone(),
            (Action::Shadow { .. }, twin) => {
                let standing = self.standing(work, index).await?;
                stage::shadow(rollout, &mut device, twin.as_mut(), standing, now_ms);
            }
            (Action::Unshadow { code, .. }, twin) => {
                stage::unshadow(rollout, &mut device, twin.as_mut(), *code, now_ms);
            }
            (Action::Revert { .. }, twin) => {
                let twin = (found.as_ref(), twin.as_mut());
                self.revert(batch, rollout, &mut device, twin, now_ms).await?;
            }
            _ => {}
        }
        self.remember(batch, rollout, &device, now_ms).await?;
        self.store.rollout_devices.update(batch, &target, &device)?;
        if let (Some(found), Some(twin)) = (&found, &twin)
            && found.value != *twin
        {
            self.store.twins.update(batch, found, twin)?;
        }
        let detail = json!({
            "device": device.device, "wave": device.wave, "status": device.status, "shadow": device.shadow,
            "desired_version": twin.map(|twin| twin.version),
        });
        let subject = format!("{}/{}", subject(&rollout.id), device.device);
        audit::record(batch, &Actor::system(), "rollout:device", &subject, detail, now_ms)?;
        Ok(device)
    }

    /// Sends a device back, or, if something newer stands on it, remembers what that must not go back to.
    async fn revert(
        &self,
        batch: &mut Batch,
        rollout: &Rollout,
        device: &mut RolloutDevice,
        (found, twin): (Option<&Versioned<Twin>>, Option<&mut Twin>),
        now_ms: u64,
    ) -> Result<()> {
        let id = Withdrawn::id_of(&device.device, &rollout.model);
        let noted = self.store.withdrawn.get(id.clone()).await?;
        effect::revert(rollout, device, twin, noted.as_ref().map(|noted| &noted.value), now_ms);
        let stands = matches!(device.status, Status::Reverted { desired_version: None, .. });
        match (&device.sent, found) {
            (Some(sent), Some(found)) if stands => {
                let new = || Withdrawn::new(device.device.clone(), rollout.model.clone());
                let mut withdrawn = noted.as_ref().map_or_else(new, |noted| noted.value.clone());
                withdrawn.note(rollout.wanted.release, sent);
                store::put(&self.store.withdrawn, batch, noted.as_ref(), &withdrawn)?;
                // What stands there now stands there still.
                batch.require(Collection::<Twin>::key(found.value.id()), Expect::Version(found.version));
            }
            _ => {
                let same = noted.as_ref().map_or(Expect::Absent, |noted| Expect::Version(noted.version));
                batch.require(Collection::<Withdrawn>::key(id), same);
            }
        }
        Ok(())
    }

    /// Whether a device may be told now.
    async fn standing(&self, work: &Work, place: usize) -> Result<Standing> {
        let known = self.store.devices.get(work.devices[place].device.as_str()).await?;
        Ok(match known {
            Some(known) if known.value.is_active() => {
                if work.is_taken(place) {
                    Standing::Out(ErrorCode::Superseded)
                } else if known.value.quarantine.is_some() {
                    Standing::Out(ErrorCode::Quarantined)
                } else {
                    Standing::Free
                }
            }
            _ => Standing::Out(ErrorCode::Revoked),
        })
    }

    /// A device that fails again and again comes into quarantine.
    async fn remember(
        &self,
        batch: &mut Batch,
        rollout: &Rollout,
        device: &RolloutDevice,
        now_ms: u64,
    ) -> Result<()> {
        let outcome = match &device.status {
            Status::Confirmed { .. } => None,
            // One that is offline or slow has not failed at anything.
            Status::Failed { code: ErrorCode::Timeout, .. } => return Ok(()),
            Status::Failed { code, detail, .. } => Some((*code, &**detail)),
            _ => return Ok(()),
        };
        let Some(known) = self.store.devices.get(device.device.as_str()).await? else { return Ok(()) };
        let mut changed = known.value.clone();
        let is_new = changed.updated(outcome, &rollout.model, now_ms);
        if changed != known.value {
            self.store.devices.update(batch, &known, &changed)?;
        }
        if is_new {
            let detail = json!({ "quarantine": changed.quarantine });
            let subject = format!("device/{}", device.device);
            audit::record(batch, &Actor::system(), "device:quarantine", &subject, detail, now_ms)?;
        }
        Ok(())
    }

    async fn change_rollout(
        &self,
        batch: &mut Batch,
        work: &Work,
        action: &Action,
        now_ms: u64,
    ) -> Result<Rollout> {
        let found = &work.rollout;
        let mut rollout = found.value.clone();
        match action {
            Action::Begin => {
                rollout.begin(now_ms);
                self.supersede(batch, &rollout, now_ms).await?;
            }
            Action::WatchStage { told } => rollout.watch_stage(*told, now_ms),
            Action::LookAtStage { look, follows } => rollout.look_at_stage(look.clone(), follows, now_ms),
            Action::EndStage => rollout.end_stage(),
            Action::Watch => rollout.watch(now_ms),
            Action::Look { look, follows } => rollout.look(look.clone(), follows, now_ms),
            Action::Ask { reason } => rollout.ask(reason.clone()),
            Action::Advance => rollout.advance(),
            Action::Succeed => {
                let tallies = rollout.tally(&work.devices);
                rollout.succeed(tallies.iter().map(|tally| tally.superseded).sum(), now_ms);
            }
            Action::GiveWay => rollout.give_way(now_ms),
            Action::Fail { reason } => rollout.fail(reason.clone(), now_ms),
            Action::RolledBack => rollout.finish(RolloutState::RolledBack, now_ms),
            Action::SetDesired { .. }
            | Action::Mark { .. }
            | Action::Revert { .. }
            | Action::Shadow { .. }
            | Action::Unshadow { .. } => {}
        }
        if !rollout.is_active() {
            rollout.tallies = rollout.tally(&work.devices);
        }
        tracing::info!(rollout = %rollout.id, state = rollout.state.as_str(), wave = rollout.wave + 1, "a rollout goes on");
        self.store.rollouts.update(batch, found, &rollout)?;
        let watched = match rollout.open_stage() {
            Some(stage) => stage.watched.as_ref(),
            None => rollout.watched.as_ref(),
        };
        let look = watched.and_then(|watched| watched.look.as_ref());
        let detail =
            json!({ "state": rollout.state, "wave": rollout.wave, "reason": rollout.reason, "look": look });
        audit::record(batch, &Actor::system(), "rollout:progress", &subject(&rollout.id), detail, now_ms)?;
        Ok(rollout)
    }

    /// A rollout that begins takes its devices from those of the same model that are under way.
    pub(super) async fn supersede(&self, batch: &mut Batch, rollout: &Rollout, now_ms: u64) -> Result<()> {
        for other in self.active().await? {
            let older = &other.value;
            if older.id == rollout.id || older.model != rollout.model || !older.state.is_under_way() {
                continue;
            }
            let mut changed = older.clone();
            changed.superseded_by.push(rollout.id.clone());
            if changed.superseded_by.len() > SUPERSEDED {
                changed.give_way(now_ms);
            }
            self.store.rollouts.update(batch, &other, &changed)?;
        }
        Ok(())
    }
}
