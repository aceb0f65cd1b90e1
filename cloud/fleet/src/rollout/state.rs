//! What is remembered of a rollout and of each of its devices.

use super::health::{Baseline, Watch, Watched};
use super::policy::{Failures, Policy, Tolerance};
use super::stage::{ShadowPart, ShadowStage};
use flotilla_protocol::message::DesiredModel;
use flotilla_protocol::{ActorId, DeviceId, Digest, ErrorCode, GroupName, ModelName, RolloutId};
use flotilla_storage::{Entity, Table, compound};
use serde::{Deserialize, Serialize};

/// Waves of one rollout at most.
pub(super) const WAVES: usize = 32;

/// A rollout.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Rollout {
    /// Its id.
    pub id: RolloutId,
    /// The model.
    pub model: ModelName,
    /// The release that devices should run.
    pub wanted: Wanted,
    /// The waves, none of them empty.
    pub waves: Vec<Wave>,
    /// Where it stands.
    pub state: RolloutState,
    /// The wave that is under way, from 0.
    pub wave: u32,
    /// How long a device may take, in milliseconds.
    pub deadline_ms: u64,
    /// No deadline is counted from before this moment: a pause takes no time from anybody.
    pub counted_from_ms: u64,
    /// Who started it.
    pub created_by: ActorId,
    /// When, in milliseconds since 1970.
    pub created_at_ms: u64,
    /// When it came to its end.
    #[serde(default)]
    pub finished_at_ms: Option<u64>,
    /// Why it stopped.
    #[serde(default)]
    pub reason: Option<Reason>,
    /// How each wave is watched before the next one begins; not at all, if there is none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub watch: Option<Watch>,
    /// The watch over the present wave.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub watched: Option<Watched>,
    /// The stage before the first wave, in which the release runs as a shadow; none, if nobody asked for one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub shadow: Option<ShadowStage>,
    /// How it goes about it.
    #[serde(default)]
    pub policy: Policy,
    /// When it is to begin, in milliseconds since 1970; at once, if no time is named.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub starts_at_ms: Option<u64>,
    /// Whether somebody has to approve it before it begins.
    #[serde(default, skip_serializing_if = "is_false")]
    pub needs_approval: bool,
    /// Waves that an operator has approved, where each is asked for.
    #[serde(default)]
    pub approved_waves: u32,
    /// The group whose late comers it takes in.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub follows: Option<GroupName>,
    /// Newer rollouts of the same model: their devices are theirs.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub superseded_by: Vec<RolloutId>,
    /// What had become of its devices when it came to its end.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub tallies: Vec<Tally>,
}

fn is_false(is: &bool) -> bool {
    !is
}

/// The release that a rollout brings.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Wanted {
    /// Digest of the encoded release envelope.
    pub release: Digest,
    /// Size of the encoded release envelope.
    pub envelope_bytes: u32,
    /// The model version, for people.
    pub version: u32,
    /// The release counter.
    pub counter: u64,
}

/// One wave.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Wave {
    /// Its devices.
    pub devices: u32,
    /// Failures that it tolerates.
    pub max_failures: u32,
    /// They are counted once so many of its devices are decided, or all of them.
    #[serde(default)]
    pub counted_after: u32,
}

/// How large a wave is to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum WaveSpec {
    /// So many devices.
    Devices(u32),
    /// So many of a hundred, at least one.
    Percent(u8),
    /// All that are left.
    Rest,
}

/// Where a rollout stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RolloutState {
    /// It waits to be started.
    Draft,
    /// It waits for somebody's approval.
    WaitingForApproval,
    /// It waits for its time.
    Scheduled,
    /// Devices are being updated.
    Running,
    /// No further device is touched until it is resumed.
    Paused,
    /// It has stopped; the devices that it touched are being sent back.
    Stopping,
    /// It has stopped, and the devices that it touched keep what they have.
    Failed,
    /// Every wave is through.
    Succeeded,
    /// It had stopped, and every device that it touched has been told to go back.
    RolledBack,
    /// An operator ended it; devices keep what they were told.
    Aborted,
}

impl RolloutState {
    /// The stable text.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Draft => "draft",
            Self::WaitingForApproval => "waiting_for_approval",
            Self::Scheduled => "scheduled",
            Self::Running => "running",
            Self::Paused => "paused",
            Self::Stopping => "stopping",
            Self::Failed => "failed",
            Self::Succeeded => "succeeded",
            Self::RolledBack => "rolled_back",
            Self::Aborted => "aborted",
        }
    }

    /// Whether it has begun and is not over: it has a say in what its devices run.
    pub(super) fn is_under_way(self) -> bool {
        matches!(self, Self::Running | Self::Paused | Self::Stopping)
    }
}

/// Why a rollout stopped.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reason {
    /// The stable code.
    pub code: ErrorCode,
    /// For people.
    pub detail: String,
    /// The device that gave rise to it.
    pub device: Option<DeviceId>,
}

/// A device in a rollout.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RolloutDevice {
    /// The rollout.
    pub rollout: RolloutId,
    /// The device.
    pub device: DeviceId,
    /// Its place in the order of the rollout.
    pub position: u32,
    /// Its wave, from 0.
    pub wave: u32,
    /// Where it stands.
    pub status: Status,
    /// What it was told, once it was told.
    #[serde(default)]
    pub sent: Option<Box<Sent>>,
    /// What was known of it then, if its wave is watched.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub baseline: Option<Box<Baseline>>,
    /// What it has to do with the shadow stage, if there is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub shadow: Option<Box<ShadowPart>>,
    /// How often it was told.
    #[serde(default)]
    pub tries: u32,
    /// Its time zone, if it has one of its own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub zone: Option<Box<str>>,
}

/// What a device was told.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sent {
    /// Version of the desired document.
    pub desired_version: u64,
    /// The attempt in it.
    pub attempt: u32,
    /// When, in milliseconds since 1970.
    pub at_ms: u64,
    /// What it should run before that.
    pub previous: Option<DesiredModel>,
}

/// Where a device stands in a rollout.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "status")]
pub enum Status {
    /// Not its turn yet.
    Pending,
    /// Its desired document names the release.
    Sent,
    /// It runs the release and has confirmed it.
    Confirmed {
        /// When that was noticed, in milliseconds since 1970.
        at_ms: u64,
    },
    /// It did not make it, and is told again.
    Retrying {
        /// Why it did not: the stable code.
        code: ErrorCode,
        /// For people.
        detail: Box<str>,
        /// Not before this moment, in milliseconds since 1970.
        from_ms: u64,
    },
    /// It did not make it.
    Failed {
        /// The stable code.
        code: ErrorCode,
        /// For people.
        detail: Box<str>,
        /// When that was noticed, in milliseconds since 1970.
        at_ms: u64,
    },
    /// It does not count: revoked, in quarantine, left out by an operator, or given something else to run by another
    /// change or a newer rollout.
    Skipped {
        /// The stable code.
        code: ErrorCode,
        /// When that was noticed, in milliseconds since 1970.
        at_ms: u64,
    },
    /// It was told to go back.
    Reverted {
        /// The newer desired version that says so; `None` where it had been given something else meanwhile.
        desired_version: Option<u64>,
        /// When, in milliseconds since 1970.
        at_ms: u64,
        /// Why it had failed, if it had.
        failure: Option<ErrorCode>,
    },
}

impl Status {
    /// The stable text of each.
    pub const NAMES: [&'static str; 7] =
        ["pending", "sent", "retrying", "confirmed", "failed", "skipped", "reverted"];

    /// Whether the device's part in its wave is decided.
    pub fn is_decided(&self) -> bool {
        !matches!(self, Self::Pending | Self::Sent | Self::Retrying { .. })
    }

    /// The stable text.
    pub fn as_str(&self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::Sent => "sent",
            Self::Retrying { .. } => "retrying",
            Self::Confirmed { .. } => "confirmed",
            Self::Failed { .. } => "failed",
            Self::Skipped { .. } => "skipped",
            Self::Reverted { .. } => "reverted",
        }
    }
}

/// How many devices of a wave stand where.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tally {
    /// Not their turn yet.
    pub pending: u32,
    /// Told, and not decided.
    pub sent: u32,
    /// Failed, and told again.
    pub retrying: u32,
    /// Confirmed.
    pub confirmed: u32,
    /// Failed.
    pub failed: u32,
    /// Left out.
    pub skipped: u32,
    /// Of those left out, those that a newer rollout has taken over.
    pub superseded: u32,
    /// Told to go back.
    pub reverted: u32,
}

impl Tally {
    /// Counts a device.
    pub fn count(&mut self, status: &Status) {
        let counter = match status {
            Status::Pending => &mut self.pending,
            Status::Sent => &mut self.sent,
            Status::Retrying { .. } => &mut self.retrying,
            Status::Confirmed { .. } => &mut self.confirmed,
            Status::Failed { .. } => &mut self.failed,
            Status::Skipped { code, .. } => {
                self.superseded += u32::from(*code == ErrorCode::Superseded);
                &mut self.skipped
            }
            Status::Reverted { .. } => &mut self.reverted,
        };
        *counter += 1;
    }

    /// Devices whose part in the wave is not decided.
    pub fn open(&self) -> u32 {
        self.pending + self.sent + self.retrying
    }

    /// All devices of the wave.
    pub fn devices(&self) -> u32 {
        self.open() + self.confirmed + self.failed + self.skipped + self.reverted
    }
}

impl Rollout {
    pub(crate) const BY_STATE: &'static str = "active";
    /// The index value of rollouts that may have something left to do.
    pub(crate) const ACTIVE: &'static [u8] = b"1";

    /// Whether there may be something left to do.
    pub fn is_active(&self) -> bool {
        use RolloutState::{Draft, Failed, Paused, Running, Scheduled, Stopping, WaitingForApproval};
        match self.state {
            Draft | WaitingForApproval | Scheduled | Running | Paused | Stopping => true,
            // An earlier version called those so that were still sending devices back.
            Failed if self.finished_at_ms.is_none() => true,
            // Devices may still run its shadow.
            Failed | RolloutState::Succeeded | RolloutState::RolledBack | RolloutState::Aborted => {
                self.open_stage().is_some()
            }
        }
    }

    /// The group whose late comers it takes in now: a newer rollout of the model takes them from it.
    pub(super) fn followed(&self) -> Option<&GroupName> {
        let follows = self.state == RolloutState::Running && self.superseded_by.is_empty();
        self.follows.as_ref().filter(|_| follows)
    }

    /// How many devices of each wave stand where.
    pub fn tally<'a>(&self, devices: impl IntoIterator<Item = &'a RolloutDevice>) -> Vec<Tally> {
        let mut tallies = vec![Tally::default(); self.waves.len()];
        for device in devices {
            if let Some(tally) = tallies.get_mut(device.wave as usize) {
                tally.count(&device.status);
            }
        }
        tallies
    }
}

impl Entity for Rollout {
    const TABLE: Table = Table::new("rollouts");

    fn id(&self) -> Vec<u8> {
        self.id.as_str().into()
    }

    fn indexes(&self) -> Vec<(&'static str, Vec<u8>)> {
        if self.is_active() { vec![(Self::BY_STATE, Self::ACTIVE.to_vec())] } else { Vec::new() }
    }
}

impl RolloutDevice {
    pub(crate) fn prefix(rollout: &RolloutId) -> Vec<u8> {
        compound([rollout.as_str()])
    }

    pub(super) fn id_of(rollout: &RolloutId, position: u32) -> Vec<u8> {
        compound([rollout.as_str().as_bytes(), &position.to_be_bytes()])
    }
}

impl Entity for RolloutDevice {
    const TABLE: Table = Table::new("rollout-devices");

    fn id(&self) -> Vec<u8> {
        Self::id_of(&self.rollout, self.position)
    }
}

/// Puts the devices of a rollout into an order that depends on nothing but its id and theirs, and cuts them into
/// waves. Devices beyond the last wave that is asked for make one more; waves that stay empty are left out.
///
/// Where nothing is said of failures, the first wave tolerates none, and a later one a tenth of its devices.
pub fn resolve(
    rollout: &RolloutId,
    devices: impl IntoIterator<Item = Target>,
    specs: &[WaveSpec],
    tolerance: Option<&Tolerance>,
) -> (Vec<Wave>, Vec<RolloutDevice>) {
    let place = |target: &Target| Digest::of(format!("{rollout}/{}", target.device).as_bytes());
    let mut order: Vec<(Digest, Target)> =
        devices.into_iter().map(|target| (place(&target), target)).collect();
    order.sort();
    let total = u32::try_from(order.len()).unwrap_or(u32::MAX);
    let (mut waves, mut left) = (Vec::new(), total);
    for spec in specs.iter().take(WAVES - 1).chain([&WaveSpec::Rest]) {
        let asked = match *spec {
            WaveSpec::Devices(devices) => devices,
            WaveSpec::Percent(percent) => (u64::from(total) * u64::from(percent)).div_ceil(100) as u32,
            WaveSpec::Rest => left,
        };
        let devices = asked.min(left);
        if devices > 0 {
            let usual = if waves.is_empty() { Failures::Devices(0) } else { Failures::Percent(10) };
            waves.push(Wave {
                devices,
                max_failures: tolerance.map_or(usual, |of| of.failures).of(devices),
                counted_after: tolerance.map_or(0, |of| of.after),
            });
            left -= devices;
        }
    }
    let wave_of =
        waves.iter().zip(0..).flat_map(|(wave, index)| std::iter::repeat_n(index, wave.devices as usize));
    let devices =
        order.into_iter().zip(wave_of).zip(0..).map(|(((_, target), wave), position)| RolloutDevice {
            rollout: rollout.clone(),
            device: target.device,
            position,
            wave,
            status: Status::Pending,
            sent: None,
            baseline: None,
            shadow: None,
            tries: 0,
            zone: target.zone,
        });
    let devices = devices.collect();
    (waves, devices)
}

/// A device that a rollout is for.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Target {
    /// The device.
    pub device: DeviceId,
    /// Its time zone, if it has one of its own.
    pub zone: Option<Box<str>>,
}

impl From<DeviceId> for Target {
    fn from(device: DeviceId) -> Self {
        Self { device, zone: None }
    }
}
