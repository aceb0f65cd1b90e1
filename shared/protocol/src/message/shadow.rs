//! A candidate release that runs beside the confirmed one on the same inputs: what is wanted, where it stands, and how the
//! two compare. Its answers never reach applications.

use super::report::Failure;
use super::telemetry::Histogram;
use crate::Digest;
use serde::{Deserialize, Serialize};

/// All of the inputs, in per mille.
pub const SHARE_ALL: u32 = 1_000;
/// A confidence of 1, as it is summed up.
pub const CONFIDENCE_ONE: u64 = 1_000_000;

/// The release that is to run beside a model's confirmed one.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ShadowRelease {
    /// Digest of the encoded release envelope.
    pub release: Digest,
    /// Size of the encoded release envelope.
    pub envelope_bytes: u32,
    /// Counts up when the operator wants the same release tried again after a failure.
    #[serde(default)]
    pub attempt: u32,
    /// Share of the inputs that it is to see, in per mille.
    #[serde(default = "all")]
    pub share_per_mille: u32,
}

fn all() -> u32 {
    SHARE_ALL
}

/// What a device says of a shadow.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ShadowReport {
    /// The release.
    pub release: Digest,
    /// Where it stands.
    #[serde(deserialize_with = "super::lenient::enumeration")]
    pub phase: ShadowPhase,
    /// The attempt of the desired document that this is about.
    #[serde(default)]
    pub attempt: u32,
    /// Verified bytes of its files.
    #[serde(default)]
    pub bytes_done: u64,
    /// All bytes of its files; 0 before its manifest is known.
    #[serde(default)]
    pub bytes_total: u64,
    /// Bytes that were on the device already, in whichever slot, and are not fetched.
    #[serde(default)]
    pub bytes_reused: u64,
    /// Why it failed; or what holds it up.
    #[serde(default)]
    pub failure: Option<Failure>,
}

/// Where a shadow stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ShadowPhase {
    /// Fetching the manifest or files.
    Downloading,
    /// Checking digests.
    Verifying,
    /// Whole on the device; it runs when a confirmed release serves and no update is being tried.
    Staged,
    /// It runs its golden vectors in a child process.
    Probing,
    /// Being loaded.
    Starting,
    /// Beside the confirmed release.
    Running,
    /// It is the confirmed release by now: there is nothing to compare.
    Promoted,
    /// Refused, or given up.
    Failed,
    /// A phase of a newer agent.
    #[serde(other)]
    Unknown,
}

impl ShadowPhase {
    /// The stable text.
    pub fn as_str(self) -> &'static str {
        match self {
            ShadowPhase::Downloading => "downloading",
            ShadowPhase::Verifying => "verifying",
            ShadowPhase::Staged => "staged",
            ShadowPhase::Probing => "probing",
            ShadowPhase::Starting => "starting",
            ShadowPhase::Running => "running",
            ShadowPhase::Promoted => "promoted",
            ShadowPhase::Failed => "failed",
            ShadowPhase::Unknown => "unknown",
        }
    }
}

/// How a shadow compares with the confirmed release on the inputs that both answered, since the two run side by side or
/// the agent started.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct ShadowTelemetry {
    /// The shadow.
    pub release: Option<Digest>,
    /// The confirmed release.
    pub against: Option<Digest>,
    /// Inputs that both answered.
    pub compared: u64,
    /// Of these with the same label.
    pub agreed: u64,
    /// Inputs that the shadow had no answer to.
    pub failures: u64,
    /// Inputs of its share that it did not see, because it was busy.
    pub skipped: u64,
    /// The confirmed release on the inputs that both answered.
    #[serde(default)]
    pub confirmed: ShadowSide,
    /// The shadow on the same ones.
    #[serde(default)]
    pub shadow: ShadowSide,
    /// What they disagreed on most often, the most frequent first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub disagreements: Vec<Disagreement>,
}

/// One side of a comparison.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ShadowSide {
    /// Latency: pre-processing and inference.
    pub latency: Histogram,
    /// Sum of the winning labels' scores, each held within 0 and 1, in millionths.
    pub confidence_sum: u64,
}

impl ShadowSide {
    /// Counts one answer.
    pub fn record(&mut self, latency_us: u64, score: f32) {
        self.latency.record(latency_us);
        // A score that is no number counts as none.
        let millionths = (f64::from(score.clamp(0.0, 1.0)) * CONFIDENCE_ONE as f64).round();
        self.confidence_sum = self.confidence_sum.saturating_add(millionths as u64);
    }

    /// The mean score of so many answers, 0 to 1; `None` for none.
    pub fn mean_confidence(&self, answers: u64) -> Option<f64> {
        let mean = self.confidence_sum as f64 / (answers as f64 * CONFIDENCE_ONE as f64);
        (answers > 0).then_some(mean.min(1.0))
    }
}

/// Two labels that were given to the same inputs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Disagreement {
    /// Index of the confirmed release's label, among its own.
    pub confirmed: u32,
    /// Index of the shadow's label, among its own.
    pub shadow: u32,
    /// Inputs.
    pub count: u64,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn confidence_is_the_mean_of_scores_and_no_score_can_spoil_it() {
        let mut side = ShadowSide::default();
        assert_eq!(side.mean_confidence(0), None);
        for score in [0.5, 1.0, 7.0, -1.0, f32::NAN, f32::INFINITY] {
            side.record(10, score);
        }
        assert_eq!(side.mean_confidence(6), Some(3.5 / 6.0));
        let liar = ShadowSide { confidence_sum: u64::MAX, ..ShadowSide::default() };
        assert_eq!(liar.mean_confidence(1), Some(1.0));
    }
}
