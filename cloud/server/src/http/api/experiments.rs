//! Experiments: what is asked for, what the two halves say of each other, what came of it.

use super::WatchView;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use utoipa::ToSchema;

/// Starts an experiment: two releases of a model on two halves of every device, of a group, or of those that an expression
/// is true of.
#[derive(Clone, Debug, Default, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ExperimentRequest {
    /// Digest of the release that stays where there is no difference that matters; what runs already, usually.
    pub a: String,
    /// Digest of the release that is tried.
    pub b: String,
    /// A group; every device by default. Who is in it when the experiment starts takes part.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub group: Option<String>,
    /// An expression over devices instead.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub filter: Option<String>,
    /// So many of a hundred devices run `b`, 1 to 99; 50 by default.
    #[serde(default)]
    pub share: Option<u8>,
    /// How long both are compared at least, in seconds; half an hour by default.
    #[serde(default)]
    pub soak_s: Option<u64>,
    /// When the comparison ends without evidence, in seconds; a day by default.
    #[serde(default)]
    pub max_soak_s: Option<u64>,
    /// What is compared: errors, latency_p95, memory, drift and confidence with their usual bounds by default.
    #[serde(default)]
    pub metrics: Vec<ExperimentMetric>,
    /// `auto`: the evidence decides; `ask`: an operator, by default.
    #[serde(default)]
    pub winner: Option<String>,
    /// What people call it.
    #[serde(default)]
    pub name: String,
}

/// How much worse a release may be in a metric: of latency and memory as a factor, such as 1.1; else as a difference.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ExperimentMetric {
    /// errors, latency_p95, memory, drift or confidence.
    pub metric: String,
    /// So much is tolerated.
    pub tolerated: f64,
    /// So much is harm.
    pub harm: f64,
}

/// Ends an experiment.
#[derive(Clone, Debug, Default, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ExperimentStop {
    /// Whether both halves go back to what they ran before; they keep what they have by default.
    #[serde(default)]
    pub back: bool,
}

/// Promotes one of the releases.
#[derive(Clone, Debug, Default, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ExperimentPromotion {
    /// `a` or `b`; the winner by default.
    #[serde(default)]
    pub side: Option<String>,
    /// Whether it goes to the whole group, or every device, in watched waves; to the other half by default.
    #[serde(default)]
    pub to_all: bool,
}

/// An experiment.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct ExperimentView {
    /// Id.
    pub id: String,
    /// What people call it.
    pub name: String,
    /// Model.
    pub model: String,
    /// running, comparing, decided, promoting, succeeded, stopped or failed.
    pub state: String,
    /// Why it is in that state.
    pub reason: String,
    /// The release that stays where there is no difference that matters.
    pub a: HalfView,
    /// The release that is tried.
    pub b: HalfView,
    /// So many of a hundred devices run `b`.
    pub share: u8,
    /// Devices that take no part, by the code of what is in the way of one of the releases.
    pub left_out: BTreeMap<String, u32>,
    /// auto or ask.
    pub winner: String,
    /// a or b, once there is a decision that names one.
    pub decided: Option<String>,
    /// Why that one, or why none.
    pub decision: Option<String>,
    /// The rollout that brings the promoted release to the others.
    pub promotion: Option<String>,
    /// The release that is promoted: a or b.
    pub promoted: Option<String>,
    /// Who started it.
    pub created_by: String,
    /// Milliseconds since 1970.
    pub created_at_ms: u64,
    /// Milliseconds since 1970.
    pub finished_at_ms: Option<u64>,
}

/// A release and the devices that try it.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct HalfView {
    /// Digest of the release.
    pub release: String,
    /// The model version.
    pub version: u32,
    /// Its devices.
    pub devices: u32,
    /// The rollout that brings it to them; none where all should run it already.
    pub rollout: Option<String>,
    /// What speaks against it, beside the other one, and what says that it does no harm.
    pub watch: WatchView,
}

impl ExperimentView {
    /// Whether nothing happens before somebody does something, or ever again.
    pub fn rests(&self) -> bool {
        matches!(self.state.as_str(), "decided" | "succeeded" | "stopped" | "failed")
    }
}
