//! What devices tell of themselves and of their models.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// How far a model's latest inputs and answers are from its training data, as population stability indices: below 0.1
/// is stable, up to 0.25 a moderate shift, above it a major one.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct DriftView {
    /// The largest of the indices.
    pub score: f64,
    /// `stable`, `moderate shift` or `major shift`; what chance alone may make of few training samples is stable.
    pub shift: String,
    /// What is farthest off, chance aside: a feature of the inputs, `classes` or `confidence`.
    pub cause: String,
    /// The latest predictions that were counted.
    pub predictions: u32,
    /// Of the feature of the inputs that is farthest off.
    pub inputs: f64,
    /// Which feature that is.
    pub feature: Option<String>,
    /// Of the answered labels.
    pub classes: f64,
    /// Of the confidence.
    pub confidence: f64,
}

/// Answers with one label.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ClassCount {
    /// The label; `#` and its index where the release is not known here.
    pub label: String,
    /// How many answers.
    pub count: u64,
}

/// A neural processing unit of a device; null for what it does not tell.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct NpuView {
    /// The chip.
    pub chip: String,
    /// Use of its cores, 0 to 100.
    pub utilisation_percent: Option<u32>,
    /// Its memory, in MB.
    pub memory_total_mb: Option<u64>,
    /// What of it is used.
    pub memory_used_mb: Option<u64>,
    /// Its temperature, in degrees Celsius.
    pub temperature_c: Option<i32>,
    /// The power that it takes, in watts.
    pub power_w: Option<f32>,
    /// ok, warning, alarm, critical or unknown.
    pub health: Option<String>,
}

/// The recent past of one device, oldest first.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct DeviceTelemetryView {
    /// Device id.
    pub device: String,
    /// Telemetry samples, in short.
    pub history: Vec<HistoryView>,
    /// What happened.
    pub events: Vec<EventView>,
}

/// One telemetry sample, in short. Latencies are upper bounds, at most twice too high.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct HistoryView {
    /// By the device's clock, in milliseconds since 1970.
    pub at_ms: u64,
    /// CPU use of the whole device, 0 to 100.
    pub cpu_percent: f32,
    /// Memory of the agent.
    pub rss_bytes: u64,
    /// Predictions of all models since the agent's start.
    pub predictions: u64,
    /// Of these failed.
    pub failures: u64,
    /// Median latency in microseconds.
    pub p50_us: Option<u64>,
    /// 95th percentile in microseconds.
    pub p95_us: Option<u64>,
    /// 99th percentile in microseconds.
    pub p99_us: Option<u64>,
    /// Drift score of the model that has drifted most.
    pub drift: Option<f64>,
}

/// Something that happened on a device.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct EventView {
    /// By the device's clock, in milliseconds since 1970.
    pub at_ms: u64,
    /// started, probed, switched, confirmed, reverted, failed, repaired, cloned, drift or unknown.
    pub kind: String,
    /// The model it is about.
    pub model: Option<String>,
    /// The release it is about.
    pub release: Option<String>,
    /// Why, for failures.
    pub code: Option<String>,
    /// For people.
    pub detail: String,
}

/// What all devices that serve one release say of it. Counts are since each agent's start, those of earlier releases of
/// the model on the same device included.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct ReleaseTelemetryView {
    /// Digest of the release.
    pub release: String,
    /// The model version; null for a release that is not known here.
    pub version: Option<u32>,
    /// Devices that serve it.
    pub devices: u64,
    /// Predictions answered.
    pub predictions: u64,
    /// Predictions failed.
    pub failures: u64,
    /// Median latency upper bound in microseconds.
    pub p50_us: Option<u64>,
    /// 95th percentile upper bound in microseconds.
    pub p95_us: Option<u64>,
    /// 99th percentile upper bound in microseconds.
    pub p99_us: Option<u64>,
    /// Answers a label, the most frequent first.
    pub classes: Vec<ClassCount>,
    /// Answers by the score of the answered label, a tenth each from 0; trailing zeros are left out.
    pub confidence: Vec<u64>,
    /// Devices whose inputs and answers are stable.
    pub stable: u64,
    /// Devices with a moderate shift.
    pub moderate: u64,
    /// Devices with a major shift.
    pub major: u64,
    /// The device that has drifted most.
    pub worst_device: Option<String>,
    /// How far.
    pub worst: Option<DriftView>,
}
