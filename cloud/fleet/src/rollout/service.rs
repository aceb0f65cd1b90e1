//! What an operator starts and asks.

use super::preflight::{self, Obstacle, Preflight};
use super::request::RolloutRequest;
use super::state::{Rollout, RolloutDevice, RolloutState, Status, Tally, Target, Wanted, Wave, resolve};
use super::work::{Board, News};
use crate::changes::Changes;
use crate::connections::Connections;
use crate::error::{Error, Result};
use crate::groups::Groups;
use crate::store::{self, ATTEMPTS, Store};
use flotilla_identity::{Actor, audit};
use flotilla_protocol::{DeviceId, Digest, ModelName, RolloutId};
use flotilla_registry::{Registry, Release};
use flotilla_storage::Batch;
use serde_json::json;
use std::collections::BTreeSet;
use std::sync::Arc;
use tokio::sync::{Mutex, Notify};

/// Devices of one rollout at most.
pub(crate) const ROLLOUT_DEVICES: usize = 100_000;
/// Rollouts at the same time that are not over, drafts and scheduled ones with them.
const ACTIVE: usize = 100;
/// The attribute of a device that names its time zone.
const TIME_ZONE: &str = "timezone";
/// Targets that are written in one commit.
const COMMIT_TARGETS: usize = 1_000;

/// Starts, performs and controls rollouts.
pub(crate) struct Rollouts {
    pub(crate) store: Arc<Store>,
    pub(crate) registry: Arc<Registry>,
    pub(crate) groups: Arc<Groups>,
    pub(crate) connections: Arc<Connections>,
    pub(crate) changes: Changes,
    /// Told when there may be something to do.
    pub(crate) wake: Notify,
    /// Held by a rollout that begins, while it takes its devices from others.
    pub(crate) beginning: Mutex<()>,
    /// What the reconciler has not looked at.
    pub(crate) news: News,
    /// What it shows.
    pub(crate) board: Board,
}

impl Rollouts {
    /// There is news of a device: it reported, was revoked, or was given something else.
    pub(crate) fn hear(&self, device: &DeviceId) {
        self.news.device(device);
        self.wake.notify_one();
    }

    // === operators ===

    /// Starts a rollout. Its devices are resolved now: one that enrols later is not part of it.
    pub(crate) async fn start(&self, actor: &Actor, request: RolloutRequest, now_ms: u64) -> Result<Rollout> {
        self.start_as(new_id(now_ms), actor, request, now_ms).await
    }

    /// Starts a rollout under an id that was given out before; one that has it already is that rollout.
    pub(crate) async fn start_once(
        &self,
        id: RolloutId,
        actor: &Actor,
        request: RolloutRequest,
        now_ms: u64,
    ) -> Result<Rollout> {
        if let Some(found) = self.store.rollouts.get(id.as_str()).await? {
            return Ok(found.value);
        }
        // A start that was cut off has left targets, which may be others than those of now.
        for page in
            store::all(&self.store.rollout_devices, &RolloutDevice::prefix(&id)).await?.chunks(COMMIT_TARGETS)
        {
            let mut batch = Batch::new();
            for target in page {
                self.store.rollout_devices.delete(&mut batch, target)?;
            }
            self.store.commit(batch).await?;
        }
        self.start_as(id, actor, request, now_ms).await
    }

    async fn start_as(
        &self,
        id: RolloutId,
        actor: &Actor,
        request: RolloutRequest,
        now_ms: u64,
    ) -> Result<Rollout> {
        request.check(now_ms)?;
        let deadline_ms = request.deadline_ms(self.longest_probation_s().await?)?;
        let release = release(&self.registry, &request.model, request.release.as_ref()).await?;
        let targets = self.targets(&request).await?;
        let (specs, watch) = (request.waves(targets.len()), request.watch(targets.len())?);
        let shadow = request.stage(targets.len())?;
        let (waves, targets) = resolve(&id, targets, &specs, request.tolerance.as_ref());
        let state = match &request {
            RolloutRequest { draft: true, .. } => RolloutState::Draft,
            RolloutRequest { needs_approval: true, .. } => RolloutState::WaitingForApproval,
            RolloutRequest { starts_at_ms: Some(at), .. } if *at > now_ms => RolloutState::Scheduled,
            _ => RolloutState::Running,
        };
        let rollout = Rollout {
            id,
            model: request.model,
            wanted: Wanted {
                release: release.digest,
                envelope_bytes: release.envelope_bytes,
                version: release.version,
                counter: release.counter,
            },
            waves,
            state,
            wave: 0,
            deadline_ms,
            counted_from_ms: now_ms,
            created_by: actor.id.clone(),
            created_at_ms: now_ms,
            finished_at_ms: None,
            reason: None,
            watch,
            watched: None,
            shadow,
            policy: request.policy,
            starts_at_ms: request.starts_at_ms,
            needs_approval: request.needs_approval,
            approved_waves: 0,
            follows: request.group.filter(|_| request.follows),
            superseded_by: Vec::new(),
            tallies: Vec::new(),
        };
        // The rollout exists once its own record does, which comes last: a start that is cut off has started nothing.
        for page in targets.chunks(COMMIT_TARGETS) {
            let mut batch = Batch::new();
            for target in page {
                self.store.rollout_devices.insert(&mut batch, target)?;
            }
            self.store.commit(batch).await?;
        }
        self.insert(actor, &rollout, targets.len(), now_ms).await?;
        tracing::info!(rollout = %rollout.id, model = %rollout.model, devices = targets.len(), "a rollout begins");
        self.changes.rollout(&rollout.id);
        self.wake.notify_one();
        Ok(rollout)
    }

    /// Writes the rollout itself, and takes its devices from older ones if it begins at once.
    async fn insert(&self, actor: &Actor, rollout: &Rollout, devices: usize, now_ms: u64) -> Result<()> {
        let _beginning = self.beginning.lock().await;
        if self.active().await?.len() >= ACTIVE {
            return Err(Error::Busy { what: "rollouts that are not over", bound: ACTIVE });
        }
        for _ in 0..ATTEMPTS {
            let mut batch = Batch::new();
            self.store.rollouts.insert(&mut batch, rollout)?;
            if rollout.state == RolloutState::Running {
                self.supersede(&mut batch, rollout, now_ms).await?;
            }
            let detail = json!({
                "model": rollout.model, "release": rollout.wanted.release, "counter": rollout.wanted.counter,
                "devices": devices, "waves": rollout.waves, "policy": rollout.policy, "state": rollout.state,
            });
            audit::record(&mut batch, actor, "rollout:create", &subject(&rollout.id), detail, now_ms)?;
            if self.store.try_commit(batch).await? {
                return Ok(());
            }
        }
        Err(Error::Contended(format!("rollout {}", rollout.id)))
    }

    /// What such a rollout would do, without doing it.
    pub(crate) async fn preflight(&self, request: RolloutRequest, now_ms: u64) -> Result<Preflight> {
        request.check(now_ms)?;
        let release = release(&self.registry, &request.model, request.release.as_ref()).await?;
        let targets = self.targets(&request).await?;
        let devices = targets.iter().map(|target| &target.device);
        let obstacles = self.obstacles(&release.digest, devices, now_ms).await?;
        let active = self.active().await?.into_iter().map(|active| active.value);
        let older = active.filter(|older| older.model == request.model && older.state.is_under_way());
        let supersedes = older.map(|older| older.id).collect();
        let (specs, watch) = (request.waves(targets.len()), request.watch(targets.len())?);
        let shadow = request.stage(targets.len())?;
        let (waves, _) = resolve(&new_id(now_ms), targets, &specs, request.tolerance.as_ref());
        Ok(Preflight { release, waves, watch, shadow, supersedes, obstacles })
    }

    /// What stands in the way of devices that are to have a release.
    pub(crate) async fn obstacles(
        &self,
        release: &Digest,
        devices: impl Iterator<Item = &DeviceId>,
        now_ms: u64,
    ) -> Result<Vec<Obstacle>> {
        let manifest = self.registry.manifest(release).await?;
        let mut obstacles = Vec::new();
        for id in devices {
            let Some(device) = self.store.devices.get(id.as_str()).await? else { continue };
            let connected = self.connections.get(id).is_some();
            obstacles.extend(preflight::obstacles(&manifest, &device.value, connected, now_ms));
        }
        Ok(obstacles)
    }

    async fn longest_probation_s(&self) -> Result<u64> {
        let mut longest = 0;
        store::each(&self.store.twins, |twin| longest = longest.max(twin.settings.probation_s)).await?;
        Ok(u64::from(longest))
    }

    async fn targets(&self, request: &RolloutRequest) -> Result<Vec<Target>> {
        let (named, group) = (request.devices.as_deref(), request.group.as_ref());
        let targets: BTreeSet<DeviceId> = match (named, group) {
            (Some(_), Some(_)) => {
                return Err(Error::Invalid("a rollout is to devices or to a group, not to both".into()));
            }
            (None, Some(group)) => {
                let members = self.groups.members(group).await?;
                if members.is_empty() {
                    return Err(Error::Invalid(format!("there is no active device in group {group}")));
                }
                members.into_iter().collect()
            }
            (Some(named), None) => {
                let named: BTreeSet<DeviceId> = named.iter().cloned().collect();
                for id in &named {
                    let device = self.store.devices.get(id.as_str()).await?;
                    let device = device.ok_or_else(|| Error::DeviceMissing(id.clone()))?;
                    if !device.value.is_active() {
                        return Err(device.value.refusal());
                    }
                    if !device.value.takes_rollouts() {
                        return Err(Error::DeviceQuarantined(id.clone()));
                    }
                }
                named
            }
            (None, None) => {
                let mut taken = BTreeSet::new();
                store::each(&self.store.devices, |device| {
                    if device.takes_rollouts() {
                        taken.insert(device.id);
                    }
                })
                .await?;
                taken
            }
        };
        if targets.is_empty() {
            return Err(Error::Invalid("there is no active device to roll out to: enrol one first".into()));
        }
        if targets.len() > ROLLOUT_DEVICES {
            return Err(Error::Busy { what: "the devices of one rollout", bound: ROLLOUT_DEVICES });
        }
        let mut with_zones = Vec::with_capacity(targets.len());
        for device in targets {
            // Only hours of the day depend on it.
            let zone = match request.policy.window {
                Some(_) => self.zone(&device).await?,
                None => None,
            };
            with_zones.push(Target { device, zone });
        }
        Ok(with_zones)
    }

    /// The time zone that is written on a device.
    pub(super) async fn zone(&self, id: &DeviceId) -> Result<Option<Box<str>>> {
        let device = self.store.devices.get(id.as_str()).await?;
        let zone = device.and_then(|mut device| device.value.tags.attributes.remove(TIME_ZONE));
        Ok(zone.map(Into::into))
    }

    // === questions ===

    /// A page of the rollouts before `after`, newest first.
    pub(crate) async fn list(&self, after: Option<&RolloutId>, limit: usize) -> Result<Vec<Rollout>> {
        let after = after.map(|id| id.as_str().as_bytes());
        let page = self.store.rollouts.list_backwards(after, limit).await?;
        Ok(page.items.into_iter().map(|rollout| rollout.value).collect())
    }

    /// A rollout.
    pub(crate) async fn get(&self, id: &RolloutId) -> Result<Rollout> {
        let rollout = self.store.rollouts.get(id.as_str()).await?;
        rollout.map(|found| found.value).ok_or_else(|| Error::RolloutMissing(id.clone()))
    }

    /// How many devices of each wave stand where.
    pub(crate) async fn tallies(&self, rollout: &Rollout) -> Result<Vec<Tally>> {
        use RolloutState::{Draft, Scheduled, WaitingForApproval};
        if !rollout.tallies.is_empty() && !rollout.is_active() {
            return Ok(rollout.tallies.clone());
        }
        if let Some(shown) = self.board.get(&rollout.id) {
            return Ok(shown);
        }
        if matches!(rollout.state, Draft | WaitingForApproval | Scheduled) {
            let waiting = |wave: &Wave| Tally { pending: wave.devices, ..Tally::default() };
            return Ok(rollout.waves.iter().map(waiting).collect());
        }
        let tallies = rollout.tally(&self.devices(&rollout.id).await?);
        // Those of one that is over stay as they are: it is counted once.
        self.store
            .modify(&self.store.rollouts, rollout.id.as_str().as_bytes(), |found, _| {
                let is_new = !found.is_active() && found.tallies.is_empty();
                if is_new {
                    found.tallies = tallies.clone();
                }
                Ok(is_new)
            })
            .await?;
        Ok(tallies)
    }

    /// The devices of a rollout, in their order.
    pub(crate) async fn devices(&self, id: &RolloutId) -> Result<Vec<RolloutDevice>> {
        let devices = store::all(&self.store.rollout_devices, &RolloutDevice::prefix(id)).await?;
        Ok(devices.into_iter().map(|device| device.value).collect())
    }

    /// Some devices of a rollout, in their order: those at this place or behind it that stand like this.
    pub(crate) async fn some_devices(
        &self,
        id: &RolloutId,
        from: u32,
        limit: usize,
        wanted: impl Fn(&Status) -> bool,
    ) -> Result<Vec<RolloutDevice>> {
        let (prefix, mut found) = (RolloutDevice::prefix(id), Vec::new());
        let mut after = from.checked_sub(1).map(|place| RolloutDevice::id_of(id, place));
        loop {
            let page = self.store.rollout_devices.list_prefix(
                &prefix,
                after.as_deref(),
                flotilla_storage::PAGE_ENTITIES,
            );
            let page = page.await?;
            let some = page.items.into_iter().map(|device| device.value);
            found.extend(some.filter(|device| wanted(&device.status)).take(limit - found.len()));
            match page.next.filter(|_| found.len() < limit) {
                Some(next) => after = Some(next),
                None => return Ok(found),
            }
        }
    }
}

/// A release of a model that devices do not refuse for its counter: this one, or the newest.
pub(crate) async fn release(
    registry: &Registry,
    model: &ModelName,
    named: Option<&Digest>,
) -> Result<Release> {
    let release = match named {
        Some(digest) => registry.find_release(digest).await?,
        None => {
            let newest = registry.latest_release(model).await?;
            newest.ok_or_else(|| Error::NoRelease(model.clone()))?
        }
    };
    if release.model != *model {
        return Err(Error::Invalid(format!(
            "release {} is one of model {}, not of {model}",
            release.digest.short(),
            release.model,
        )));
    }
    let floor = registry.trust().file.floor(&release.model);
    if release.counter < floor {
        return Err(Error::Invalid(format!(
            "release {} of model {} is below the floor {floor}: devices refuse it",
            release.counter, release.model
        )));
    }
    Ok(release)
}

/// A new id. Ids order by time, so that the newest rollouts can be listed first.
fn new_id(now_ms: u64) -> RolloutId {
    RolloutId::new(format!("rollout-{now_ms:012x}-{:08x}", rand::random::<u32>()))
        .expect("hex digits and dashes make an id")
}

pub(super) fn subject(id: &RolloutId) -> String {
    format!("rollout/{id}")
}
