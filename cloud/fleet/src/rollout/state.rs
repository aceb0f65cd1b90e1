//! What is remembered of a rollout and of each of its devices.

use super::health::{Baseline, Watch, Watched};
use flotilla_protocol::message::DesiredModel;
use flotilla_protocol::{ActorId, DeviceId, Digest, ErrorCode, ModelName, RolloutId};
use flotilla_storage::{Entity, Table, compound};
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;

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
    /// Devices are being updated.
    Running,
    /// No further device is touched until it is resumed.
    Paused,
    /// It failed; the devices it touched are being sent back.
    Failed,
    /// Every wave is through.
    Succeeded,
    /// It failed, and every device it touched has been told to go back.
    RolledBack,
    /// An operator stopped it; devices keep what they were told.
    Aborted,
}

impl RolloutState {
    /// Whether there may be something left to do.
    pub fn is_active(self) -> bool {
        matches!(self, Self::Running | Self::Paused | Self::Failed)
    }

    /// The stable text.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Running => "running",
            Self::Paused => "paused",
            Self::Failed => "failed",
            Self::Succeeded => "succeeded",
            Self::RolledBack => "rolled_back",
            Self::Aborted => "aborted",
        }
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
    pub sent: Option<Sent>,
    /// What was known of it then, if its wave is watched.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub baseline: Option<Baseline>,
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
    /// It did not make it.
    Failed {
        /// The stable code.
        code: ErrorCode,
        /// For people.
        detail: String,
        /// When that was noticed, in milliseconds since 1970.
        at_ms: u64,
    },
    /// It no longer counts: revoked, or given something else to run by another change.
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
    /// Whether the device's part in its wave is decided.
    pub fn is_decided(&self) -> bool {
        !matches!(self, Self::Pending | Self::Sent)
    }

    /// The stable text.
    pub fn as_str(&self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::Sent => "sent",
            Self::Confirmed { .. } => "confirmed",
            Self::Failed { .. } => "failed",
            Self::Skipped { .. } => "skipped",
            Self::Reverted { .. } => "reverted",
        }
    }
}

impl Rollout {
    pub(crate) const BY_STATE: &'static str = "active";
    /// The index value of rollouts that may have something left to do.
    pub(crate) const ACTIVE: &'static [u8] = b"1";
    /// The unique name under which one rollout at a time may change a model.
    pub(super) const MODEL: &'static str = "model";
}

impl Entity for Rollout {
    const TABLE: Table = Table::new("rollouts");

    fn id(&self) -> Vec<u8> {
        self.id.as_str().into()
    }

    fn indexes(&self) -> Vec<(&'static str, Vec<u8>)> {
        if self.state.is_active() { vec![(Self::BY_STATE, Self::ACTIVE.to_vec())] } else { Vec::new() }
    }

    fn unique(&self) -> Vec<(&'static str, Vec<u8>)> {
        if self.state.is_active() { vec![(Self::MODEL, self.model.as_str().into())] } else { Vec::new() }
    }
}

impl RolloutDevice {
    pub(crate) fn prefix(rollout: &RolloutId) -> Vec<u8> {
        compound([rollout.as_str()])
    }
}

impl Entity for RolloutDevice {
    const TABLE: Table = Table::new("rollout-devices");

    fn id(&self) -> Vec<u8> {
        compound([self.rollout.as_str().as_bytes(), &self.position.to_be_bytes()])
    }
}

/// Puts the devices of a rollout into an order that depends on nothing but its id and theirs, and cuts them into
/// waves. Devices beyond the last wave that is asked for make one more; waves that stay empty are left out.
///
/// The first wave tolerates no failure, a later one a tenth of its devices.
pub fn resolve(
    rollout: &RolloutId,
    devices: BTreeSet<DeviceId>,
    specs: &[WaveSpec],
) -> (Vec<Wave>, Vec<RolloutDevice>) {
    let place = |device: &DeviceId| Digest::of(format!("{rollout}/{device}").as_bytes());
    let mut order: Vec<(Digest, DeviceId)> =
        devices.into_iter().map(|device| (place(&device), device)).collect();
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
            let max_failures = if waves.is_empty() { 0 } else { devices / 10 };
            waves.push(Wave { devices, max_failures });
            left -= devices;
        }
    }
    let wave_of =
        waves.iter().zip(0..).flat_map(|(wave, index)| std::iter::repeat_n(index, wave.devices as usize));
    let devices =
        order.into_iter().zip(wave_of).zip(0..).map(|(((_, device), wave), position)| RolloutDevice {
            rollout: rollout.clone(),
            device,
            position,
            wave,
            status: Status::Pending,
            sent: None,
            baseline: None,
        });
    let devices = devices.collect();
    (waves, devices)
}
