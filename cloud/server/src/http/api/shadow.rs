//! Releases that run beside confirmed ones.

use super::{FailureView, OrderFailure};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// What is to run beside the confirmed release of a model.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ShadowRequest {
    /// Digest of the release; the newest of the model where none is named.
    #[serde(default)]
    pub release: Option<String>,
    /// The devices; every active one that runs the model where none are named.
    #[serde(default)]
    pub devices: Option<Vec<String>>,
    /// Share of the inputs that it sees, in per mille: 1 to 1000.
    #[serde(default = "all")]
    pub share_per_mille: u32,
}

fn all() -> u32 {
    flotilla_protocol::message::SHARE_ALL
}

/// Where a shadow is to end.
#[derive(Clone, Debug, Default, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ShadowStop {
    /// The devices; every one that has a shadow of the model where none are named.
    #[serde(default)]
    pub devices: Option<Vec<String>>,
}

/// The shadow of a model.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct ShadowView {
    /// The model.
    pub model: String,
    /// Devices that have a shadow of it, or had; in the overview those that have one. The first ones, by id.
    pub devices: Vec<ShadowDeviceView>,
    /// Devices after these, which the totals count, too.
    #[serde(default, skip_serializing_if = "is_none")]
    pub devices_left_out: u64,
    /// All of these together, a shadow and a confirmed release: figures of different pairs are never added up.
    pub totals: Vec<ShadowFiguresView>,
    /// Devices on which the order that this answers was not possible; it is carried out on the others.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub failed: Vec<OrderFailure>,
}

fn is_none(left_out: &u64) -> bool {
    *left_out == 0
}

/// The shadow of a model on one device.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct ShadowDeviceView {
    /// Device id.
    pub device: String,
    /// The release that is wanted beside the confirmed one; none when it was stopped.
    pub release: Option<String>,
    /// `downloading`, `verifying`, `staged`, `probing`, `starting`, `running`, `promoted` (it is the confirmed release by
    /// now), `failed`, `waiting` (the device has not said anything of it yet) or `stopped`.
    pub state: String,
    /// Share of the inputs that it sees, in per mille.
    pub share_per_mille: u32,
    /// Why it failed, or what holds it up.
    pub failure: Option<FailureView>,
    /// How it compares, once the device has told.
    pub figures: Option<ShadowFiguresView>,
}

/// How a shadow compares with a confirmed release on the inputs that both answered.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct ShadowFiguresView {
    /// The shadow.
    pub release: Option<String>,
    /// The confirmed release.
    pub against: Option<String>,
    /// Inputs that both answered.
    pub compared: u64,
    /// Of these with the same label.
    pub agreed: u64,
    /// `agreed / compared`, 0 to 1; none before the first.
    pub agreement: Option<f64>,
    /// Inputs that the shadow had no answer to.
    pub failures: u64,
    /// Inputs of its share that it did not see, because it was busy.
    pub skipped: u64,
    /// Mean score of the confirmed release's labels, 0 to 1.
    pub confirmed_confidence: Option<f64>,
    /// Mean score of the shadow's.
    pub shadow_confidence: Option<f64>,
    /// Median latency of the confirmed release in microseconds; the bound of a bucket, as all latencies are.
    pub confirmed_p50_us: Option<u64>,
    /// Its 95th percentile.
    pub confirmed_p95_us: Option<u64>,
    /// Median latency of the shadow, which runs behind everything else on the device.
    pub shadow_p50_us: Option<u64>,
    /// Its 95th percentile.
    pub shadow_p95_us: Option<u64>,
    /// The pairs of labels that the two disagreed on most often.
    pub disagreements: Vec<DisagreementView>,
}

/// Two labels that were given to the same inputs.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct DisagreementView {
    /// Index of the confirmed release's label.
    pub confirmed: u32,
    /// Index of the shadow's.
    pub shadow: u32,
    /// Inputs.
    pub count: u64,
}
