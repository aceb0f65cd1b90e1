//! The control plane itself.

use super::{
    CompressionView, DatasetView, DeviceView, HardExampleView, JobView, Json, ReleaseView, RolloutView,
    ShadowView,
};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use utoipa::ToSchema;

/// The whole state that the console shows.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct Overview {
    /// The control plane itself.
    pub server: ServerView,
    /// Datasets, oldest first.
    pub datasets: Vec<DatasetView>,
    /// Jobs, oldest first.
    pub jobs: Vec<JobView>,
    /// Compression reports, oldest first.
    pub compression: Vec<CompressionView>,
    /// Releases, oldest first.
    pub releases: Vec<ReleaseView>,
    /// Devices in figures.
    pub fleet: FleetView,
    /// Devices whose models have drifted most, the farthest first.
    pub drifted: Vec<DeviceView>,
    /// Rollouts, oldest first.
    pub rollouts: Vec<RolloutView>,
    /// The first hard examples that wait for a decision.
    pub hard_examples: Vec<HardExampleView>,
    /// Releases that run beside confirmed ones.
    pub shadows: Vec<ShadowView>,
}

/// The devices in figures.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct FleetView {
    /// Devices, those that are revoked with them, but not those that have been decommissioned.
    pub total: usize,
    /// Devices that are connected.
    pub online: usize,
    /// Devices by state.
    pub states: BTreeMap<String, usize>,
    /// Another number than before says that a device has changed: ask for those that you show.
    pub changes: u64,
}

/// The control plane itself.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct ServerView {
    /// Version.
    pub version: String,
    /// The project.
    pub project: String,
    /// Milliseconds since 1970.
    pub started_at_ms: u64,
    /// Chunk bytes sent to devices since the start.
    pub bytes_over_mqtt: u64,
}

/// A one-time address that opens the console.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct LoginView {
    /// Open it once, within ten minutes.
    pub url: String,
}

/// Who a token or session belongs to.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct WhoAmI {
    /// Actor id.
    pub actor: String,
    /// Kind of actor.
    pub kind: String,
}

/// Whether the control plane is up.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct Health {
    /// `ok`.
    pub status: String,
    /// Version of the control plane.
    pub version: String,
}

/// One entry of the audit trail.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct AuditView {
    /// Milliseconds since 1970.
    pub at_ms: u64,
    /// Who.
    pub actor: String,
    /// What was done.
    pub action: String,
    /// To what.
    pub subject: String,
    /// More about it.
    pub detail: Json,
}
