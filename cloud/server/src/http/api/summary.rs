//! The whole fleet in some numbers.

use super::RolloutView;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use utoipa::ToSchema;

/// The whole fleet: how many devices stand where, what they run, and which need somebody's eye.
#[derive(Clone, Debug, Default, Serialize, Deserialize, ToSchema)]
pub struct FleetSummaryView {
    /// When it was counted, in milliseconds since 1970.
    pub at_ms: u64,
    /// Devices, without those that have been decommissioned.
    pub devices: usize,
    /// Those that have been.
    pub decommissioned: usize,
    /// Devices that are connected.
    pub online: usize,
    /// Devices by their state.
    pub states: BTreeMap<String, usize>,
    /// Devices that may connect by board, most first.
    pub boards: Vec<BoardCount>,
    /// Devices of further boards.
    pub other_boards: usize,
    /// What runs, the models of most devices first.
    pub models: Vec<ModelCounts>,
    /// Devices of which a model has drifted far from its training data.
    pub drifted: usize,
    /// Devices that need somebody's eye: some for each reason, the worst first.
    pub worst: Vec<ConcernView>,
    /// Rollouts that are not over, newest first, without their devices.
    pub rollouts: Vec<RolloutView>,
    /// Bytes of MQTT payload to devices since the start of the control plane.
    pub sent_bytes: u64,
    /// Bytes of MQTT payload from devices since then.
    pub received_bytes: u64,
    /// MQTT messages in both directions since then.
    pub messages: u64,
}

/// Devices of one board.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct BoardCount {
    /// The board's profile, as the devices name it.
    pub board: String,
    /// How many.
    pub devices: usize,
}

/// What runs of one model.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct ModelCounts {
    /// Name.
    pub model: String,
    /// Devices that run it, or are to.
    pub devices: usize,
    /// Devices that have confirmed none of its releases.
    pub none: usize,
    /// Devices that are to run another release than they do.
    pub changing: usize,
    /// Confirmed releases, those of most devices first.
    pub releases: Vec<ReleaseCounts>,
    /// Devices that run further ones.
    pub other_releases: usize,
}

/// How many devices run a release.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct ReleaseCounts {
    /// Digest of the release.
    pub release: String,
    /// The model version, if this registry knows the release.
    pub version: Option<u32>,
    /// Devices.
    pub devices: usize,
}

/// A device that needs somebody's eye.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct ConcernView {
    /// Device id.
    pub device: String,
    /// The name that operators gave it.
    pub name: Option<String>,
    /// failed, quarantined, drifted or offline.
    pub reason: String,
    /// Whether it is connected.
    pub online: bool,
    /// When it was last heard of, in milliseconds since 1970.
    pub last_seen_ms: Option<u64>,
    /// The model that it is about.
    pub model: Option<String>,
    /// The stable code of a failed update.
    pub code: Option<String>,
    /// How far the model has drifted (population stability index).
    pub drift: Option<f64>,
}
