//! What an operator does with rollouts: start, control, ask.

use super::health::Watch;
use super::preflight::{self, Preflight};
use super::state::{Reason, Rollout, RolloutDevice, RolloutState, Wanted, WaveSpec, resolve};
use crate::changes::Changes;
use crate::connections::Connections;
use crate::error::{Error, Result};
use crate::groups::Groups;
use crate::store::{self, Store};
use flotilla_gates::gate::Health;
use flotilla_identity::{Actor, audit};
use flotilla_protocol::{DeviceId, Digest, ErrorCode, GroupName, ModelName, RolloutId};
use flotilla_registry::{Registry, Release};
use flotilla_storage::Batch;
use serde::{Deserialize, Serialize};
use serde_json::json;
use std::collections::BTreeSet;
use std::sync::Arc;
use tokio::sync::Notify;

/// Devices of one rollout at most.
const ROLLOUT_DEVICES: usize = 100_000;
/// How long a device may take beside its probation, unless the operator says otherwise.
const DEADLINE_S: u64 = 30 * 60;
/// The longest that an operator may say: 90 days.
const DEADLINE_MAX_S: u64 = 90 * 24 * 60 * 60;
/// The longest watch over one wave: 30 days.
const SOAK_MAX_S: u64 = 30 * 24 * 60 * 60;
/// Targets that are written in one commit.
const COMMIT_TARGETS: usize = 1_000;

/// What is to be rolled out, and how.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RolloutRequest {
    /// The model.
    pub model: ModelName,
    /// The release; the newest where none is named.
    #[serde(default)]
    pub release: Option<Digest>,
    /// The devices; every active one where none are named.
    #[serde(default)]
    pub devices: Option<Vec<DeviceId>>,
    /// The devices of this group instead, as they are when the rollout starts.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub group: Option<GroupName>,
    /// The waves; one canary and then the rest where none are named.
    #[serde(default)]
    pub waves: Option<Vec<WaveSpec>>,
    /// How long a device may take, in seconds; its probation and half an hour where nothing is said.
    #[serde(default)]
    pub deadline_s: Option<u64>,
    /// How long a wave is watched at least before the next one begins, in seconds; not at all where nothing is said.
    #[serde(default)]
    pub soak_s: Option<u64>,
    /// After how long a wave of which nothing is certain pauses the rollout, in seconds; eight times the shortest watch
    /// where nothing is said.
    #[serde(default)]
    pub max_soak_s: Option<u64>,
}

impl RolloutRequest {
    /// The newest release of a model to every active device, one canary first.
    pub fn newest(model: ModelName) -> Self {
        Self {
            model,
            release: None,
            devices: None,
            group: None,
            waves: None,
            deadline_s: None,
            soak_s: None,
            max_soak_s: None,
        }
    }
}

/// What an operator does to a rollout that is under way.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RolloutControl {
    /// Touch no further device.
    Pause,
    /// Go on.
    Resume,
    /// Stop; devices keep what they were told.
    Abort,
    /// Stop, and send every touched device back.
    Rollback,
}

impl RolloutControl {
    fn participle(self) -> &'static str {
        match self {
            Self::Pause => "paused",
            Self::Resume => "resumed",
            Self::Abort => "aborted",
            Self::Rollback => "rolled back",
        }
    }
}

/// Starts, performs and controls rollouts.
pub(crate) struct Rollouts {
    pub(crate) store: Arc<Store>,
    pub(crate) registry: Arc<Registry>,
    pub(crate) groups: Arc<Groups>,
    pub(crate) connections: Arc<Connections>,
    pub(crate) changes: Changes,
    /// Told when there may be something to do.
    pub(crate) wake: Notify,
}

impl Rollouts {
    // === operators ===

    /// Starts a rollout. Its devices are resolved now: one that enrols later is not part of it.
    pub(crate) async fn start(&self, actor: &Actor, request: RolloutRequest, now_ms: u64) -> Result<Rollout> {
        let deadline_s = match request.deadline_s {
            Some(asked) => asked,
            None => (DEADLINE_S + self.longest_probation_s().await?).min(DEADLINE_MAX_S),
        };
        if !(1..=DEADLINE_MAX_S).contains(&deadline_s) {
            return Err(Error::Invalid(format!(
                "a deadline is 1 to {DEADLINE_MAX_S} seconds, not {deadline_s}"
            )));
        }
        let release = release(&self.registry, &request.model, request.release.as_ref()).await?;
        let targets = self.targets(request.devices, request.group).await?;
        if self.store.rollouts.find_unique(Rollout::MODEL, request.model.as_str()).await?.is_some() {
            return Err(Error::RolloutUnderWay(request.model));
        }
        let id = new_id(now_ms);
        let specs = request.waves.unwrap_or_else(|| default_waves(request.soak_s.is_some(), targets.len()));
        let (waves, targets) = resolve(&id, targets, &specs);
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
            state: RolloutState::Running,
            wave: 0,
            deadline_ms: deadline_s * 1000,
            counted_from_ms: now_ms,
            created_by: actor.id.clone(),
            created_at_ms: now_ms,
            finished_at_ms: None,
            reason: None,
            watch: watch(request.soak_s, request.max_soak_s)?,
            watched: None,
        };
        // The rollout exists once its own record does, which comes last: a start that is cut off has started nothing.
        let mut pages = targets.chunks(COMMIT_TARGETS).peekable();
        while let Some(page) = pages.next() {
            let mut batch = Batch::new();
            for target in page {
                self.store.rollout_devices.insert(&mut batch, target)?;
            }
            if pages.peek().is_none() {
                self.store.rollouts.insert(&mut batch, &rollout)?;
                let detail = json!({
                    "model": rollout.model, "release": rollout.wanted.release, "counter": rollout.wanted.counter,
                    "devices": targets.len(), "waves": rollout.waves,
                });
                audit::record(&mut batch, actor, "rollout:create", &subject(&rollout.id), detail, now_ms)?;
            }
            if !self.store.try_commit(batch).await? {
                return Err(Error::RolloutUnderWay(rollout.model));
            }
        }
        tracing::info!(rollout = %rollout.id, model = %rollout.model, devices = targets.len(), "a rollout begins");
        self.changes.rollout(&rollout.id);
        self.wake.notify_one();
        Ok(rollout)
    }

    /// What such a rollout would do, without doing it.
    pub(crate) async fn preflight(&self, request: RolloutRequest, now_ms: u64) -> Result<Preflight> {
        watch(request.soak_s, request.max_soak_s)?;
        let release = release(&self.registry, &request.model, request.release.as_ref()).await?;
        let manifest = self.registry.manifest(&release.digest).await?;
        let targets = self.targets(request.devices, request.group).await?;
        let mut obstacles = Vec::new();
        for id in &targets {
            let Some(device) = self.store.devices.get(id.as_str()).await? else { continue };
            let connected = self.connections.get(id).is_some();
            obstacles.extend(preflight::obstacles(&manifest, &device.value, connected, now_ms));
        }
        let specs = request.waves.unwrap_or_else(|| default_waves(request.soak_s.is_some(), targets.len()));
        let (waves, _) = resolve(&new_id(now_ms), targets, &specs);
        Ok(Preflight { release, waves, obstacles })
    }

    async fn longest_probation_s(&self) -> Result<u64> {
        let twins = store::all(&self.store.twins, &[]).await?;
        Ok(twins.iter().map(|twin| u64::from(twin.value.settings.probation_s)).max().unwrap_or(0))
    }

    async fn targets(
        &self,
        named: Option<Vec<DeviceId>>,
        group: Option<GroupName>,
    ) -> Result<BTreeSet<DeviceId>> {
        let targets: BTreeSet<DeviceId> = match (named, group) {
            (Some(_), Some(_)) => {
                return Err(Error::Invalid("a rollout is to devices or to a group, not to both".into()));
            }
            (None, Some(group)) => {
                let members = self.groups.members(&group).await?;
                if members.is_empty() {
                    return Err(Error::Invalid(format!("there is no active device in group {group}")));
                }
                members.into_iter().collect()
            }
            (Some(named), None) => {
                let named: BTreeSet<DeviceId> = named.into_iter().collect();
                for id in &named {
                    let device = self.store.devices.get(id.as_str()).await?;
                    let device = device.ok_or_else(|| Error::DeviceMissing(id.clone()))?;
                    if !device.value.is_active() {
                        return Err(Error::DeviceRevoked(id.clone()));
                    }
                    if !device.value.takes_rollouts() {
                        return Err(Error::DeviceQuarantined(id.clone()));
                    }
                }
                named
            }
            (None, None) => {
                let all = store::all(&self.store.devices, &[]).await?;
                all.into_iter().filter(|d| d.value.takes_rollouts()).map(|d| d.value.id).collect()
            }
        };
        if targets.is_empty() {
            return Err(Error::Invalid("there is no active device to roll out to: enrol one first".into()));
        }
        if targets.len() > ROLLOUT_DEVICES {
            return Err(Error::Busy { what: "the devices of one rollout", bound: ROLLOUT_DEVICES });
        }
        Ok(targets)
    }

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
                use RolloutState::{Aborted, Failed, Paused, RolledBack, Running};
                match (control, rollout.state) {
                    (RolloutControl::Pause, Paused)
                    | (RolloutControl::Resume, Running)
                    | (RolloutControl::Abort, Aborted)
                    | (RolloutControl::Rollback, Failed | RolledBack) => return Ok(false),
                    (RolloutControl::Pause, Running) => rollout.state = Paused,
                    (RolloutControl::Resume, Paused) => {
                        rollout.resume(now_ms);
                    }
                    (RolloutControl::Abort, Running | Paused) => rollout.finish(Aborted, now_ms),
                    (RolloutControl::Rollback, Running | Paused) => {
                        let detail = format!("{} rolled it back", actor.id);
                        rollout.fail(Reason { code: ErrorCode::Cancelled, detail, device: None });
                    }
                    _ => {
                        return Err(Error::RolloutState {
                            rollout: id.clone(),
                            state: rollout.state.as_str(),
                            action: control.participle(),
                        });
                    }
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

    // === questions ===

    /// A page of the rollouts before `after`, newest first.
    pub(crate) async fn list(&self, after: Option<&RolloutId>, limit: usize) -> Result<Vec<Rollout>> {
        let after = after.map(|id| id.as_str().as_bytes());
        let page = self.store.rollouts.list_backwards(after, limit).await?;
        Ok(page.items.into_iter().map(|rollout| rollout.value).collect())
    }

    /// A rollout and its devices, in their order.
    pub(crate) async fn get(&self, id: &RolloutId) -> Result<(Rollout, Vec<RolloutDevice>)> {
        let rollout = self.store.rollouts.get(id.as_str()).await?;
        let rollout = rollout.ok_or_else(|| Error::RolloutMissing(id.clone()))?.value;
        let devices = store::all(&self.store.rollout_devices, &RolloutDevice::prefix(id)).await?;
        Ok((rollout, devices.into_iter().map(|device| device.value).collect()))
    }
}

/// One device and then the rest. Where waves are watched, the second and third are large enough to show something.
fn default_waves(watched: bool, devices: usize) -> Vec<WaveSpec> {
    let least = Health::default().min_devices;
    let share = |percent: usize| u32::try_from(devices * percent / 100).unwrap_or(u32::MAX).max(least);
    let mut waves = vec![WaveSpec::Devices(1)];
    if watched {
        waves.extend([WaveSpec::Devices(share(4)), WaveSpec::Devices(share(20))]);
    }
    waves.push(WaveSpec::Rest);
    waves
}

/// How waves are watched, if they are.
fn watch(soak_s: Option<u64>, max_soak_s: Option<u64>) -> Result<Option<Watch>> {
    let Some(soak_s) = soak_s else {
        return match max_soak_s {
            None => Ok(None),
            Some(_) => Err(Error::Invalid("a longest watch needs a shortest one: soak_s".into())),
        };
    };
    let max_soak_s = max_soak_s.unwrap_or_else(|| soak_s.saturating_mul(8).min(SOAK_MAX_S));
    if !(1..=SOAK_MAX_S).contains(&soak_s) || !(soak_s..=SOAK_MAX_S).contains(&max_soak_s) {
        return Err(Error::Invalid(format!(
            "a wave is watched for 1 to {SOAK_MAX_S} seconds, at most for as long as at least: not {soak_s} to {max_soak_s}"
        )));
    }
    Ok(Some(Watch { soak_ms: soak_s * 1000, max_soak_ms: max_soak_s * 1000, health: Health::default() }))
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
