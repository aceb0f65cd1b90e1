//! Rollouts: what is asked for, how far it has come, what its gates have seen.

use super::ReleaseTelemetryView;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// Starts a rollout to every active device, or to those named.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct RolloutRequest {
    /// Digest of the release.
    pub release: String,
    /// Device ids; all active devices by default.
    #[serde(default)]
    pub devices: Option<Vec<String>>,
    /// A group instead: its devices as they are when the rollout starts.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub group: Option<String>,
    /// How many devices each wave has: `5`, or `10%` of all; what is left makes one more. One device, then the rest, by
    /// default.
    #[serde(default)]
    pub waves: Option<Vec<String>>,
    /// How long each wave is watched at least before the next one begins, in seconds; not at all by default. A wave that
    /// is watched goes on once the release is shown to do no harm, and stops the rollout once it is shown to do worse.
    #[serde(default)]
    pub soak_s: Option<u64>,
    /// After how long a wave of which neither is certain pauses the rollout, in seconds; eight times `soak_s` by default.
    #[serde(default)]
    pub max_soak_s: Option<u64>,
}

/// A rollout.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct RolloutView {
    /// Id.
    pub id: String,
    /// Model.
    pub model: String,
    /// Digest of the release.
    pub release: String,
    /// running, succeeded, failed, rolled_back, aborted …
    pub state: String,
    /// Why it is in that state.
    pub reason: String,
    /// Waves in order.
    pub waves: Vec<WaveView>,
    /// Milliseconds since 1970.
    pub started_at_ms: u64,
    /// Milliseconds since 1970.
    pub finished_at_ms: Option<u64>,
    /// What its devices say of the release; told of a single rollout only.
    #[serde(default)]
    pub telemetry: Option<ReleaseTelemetryView>,
    /// The watch over its waves, if they are watched.
    #[serde(default)]
    pub watch: Option<WatchView>,
}

impl RolloutView {
    /// Whether nothing will happen any more.
    pub fn is_over(&self) -> bool {
        // A failed rollout is still sending its devices back.
        !matches!(self.state.as_str(), "running" | "paused" | "failed")
    }
}

/// One wave.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct WaveView {
    /// waiting, running, done or failed.
    pub state: String,
    /// Its devices.
    pub devices: Vec<WaveDeviceView>,
}

/// A device within a rollout.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct WaveDeviceView {
    /// Device id.
    pub id: String,
    /// pending, sent, confirmed, failed or reverted.
    pub state: String,
    /// Why, for failures.
    pub detail: Option<String>,
}

/// The watch over the waves of a rollout.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct WatchView {
    /// How long a wave is watched at least, in seconds.
    pub soak_s: u64,
    /// After how long a wave of which nothing is certain pauses the rollout, in seconds.
    pub max_soak_s: u64,
    /// Since when the present wave is watched, in milliseconds since 1970.
    pub since_ms: Option<u64>,
    /// Windows of time that are over; each is twice as long as the one before.
    pub windows: u32,
    /// What was found at the end of the last one.
    pub findings: Vec<GateFindingView>,
}

/// What one metric says of the release: the change of updated devices beside that of devices that wait.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct GateFindingView {
    /// errors, latency_p95, memory, drift or confidence.
    pub metric: String,
    /// Devices that were compared, each beside another one.
    pub devices: u32,
    /// By how much the release is worse on average, in words.
    pub change: String,
    /// Natural logarithm of the evidence that it is worse than tolerated.
    pub against: f64,
    /// What that must reach to stop the rollout.
    pub against_needed: f64,
    /// Natural logarithm of the evidence that it does no harm.
    pub in_favour: f64,
    /// What that must reach for the wave to be through.
    pub in_favour_needed: f64,
    /// worse, harmless or open.
    pub verdict: String,
}

/// What a rollout would do.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct RolloutPlanView {
    /// Model.
    pub model: String,
    /// Digest of the release.
    pub release: String,
    /// Its devices.
    pub devices: u32,
    /// Devices of each wave. Which device is in which is decided when the rollout starts.
    pub waves: Vec<u32>,
    /// What stands in its way.
    pub obstacles: Vec<ObstacleView>,
}

/// Why a device may not take a release.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct ObstacleView {
    /// Device id.
    pub device: String,
    /// The stable code.
    pub code: String,
    /// For people.
    pub detail: String,
}
