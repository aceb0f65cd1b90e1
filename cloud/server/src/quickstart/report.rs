//! The report of `quickstart --once`: one JSON object, the last thing on stdout.

use crate::http::api::DriftView;
use serde::Serialize;
use std::collections::BTreeMap;

/// What the whole loop did.
#[derive(Clone, Debug, Default, Serialize)]
pub(crate) struct Report {
    /// The imported dataset.
    pub dataset: DatasetReport,
    /// The training job.
    pub training: TrainingReport,
    /// The compression job.
    pub compression: CompressionReport,
    /// The signed release.
    pub release: ReleaseReport,
    /// The rollout.
    pub rollout: RolloutReport,
    /// The devices.
    pub devices: Vec<DeviceReport>,
    /// MQTT payload that the control plane has sent to these devices since they enrolled: model chunks, desired
    /// documents, replies and acknowledgements.
    pub bytes_over_mqtt: u64,
    /// Wall seconds a stage, and `total`.
    pub seconds: BTreeMap<String, f64>,
}

impl Report {
    /// One line of JSON.
    pub(crate) fn to_json(&self) -> String {
        serde_json::to_string(self).unwrap_or_else(|e| format!("{{\"error\":\"{e}\"}}"))
    }

    /// Seconds from start to end.
    pub(crate) fn total_seconds(&self) -> f64 {
        self.seconds.get("total").copied().unwrap_or_default()
    }
}

/// The imported dataset.
#[derive(Clone, Debug, Default, Serialize)]
pub(crate) struct DatasetReport {
    /// Name.
    pub name: String,
    /// Version.
    pub version: u32,
    /// Samples in all.
    pub samples: u64,
    /// Number of labels.
    pub classes: usize,
    /// Samples of the training split.
    pub train: u64,
    /// Samples of the validation split.
    pub validation: u64,
    /// Samples of the test split.
    pub test: u64,
}

/// The training job.
#[derive(Clone, Debug, Default, Serialize)]
pub(crate) struct TrainingReport {
    /// Job id.
    pub job: String,
    /// Algorithm.
    pub algorithm: String,
    /// Trainable parameters.
    pub parameters: u64,
    /// Epochs run.
    pub epochs: u64,
    /// Seconds of training.
    pub seconds: f64,
    /// Accuracy of the exported file on the test split.
    pub test_accuracy: f64,
}

/// The compression job.
#[derive(Clone, Debug, Default, Serialize)]
pub(crate) struct CompressionReport {
    /// What was done.
    pub recipe: String,
    /// Size before.
    pub bytes_before: u64,
    /// Size after.
    pub bytes_after: u64,
    /// Accuracy of the compressed file on the test split.
    pub test_accuracy: f64,
    /// Accuracy lost, absolute.
    pub accuracy_drop: f64,
}

/// The signed release.
#[derive(Clone, Debug, Default, Serialize)]
pub(crate) struct ReleaseReport {
    /// Model.
    pub model: String,
    /// Model version.
    pub version: u32,
    /// Digest of the signed envelope.
    pub digest: String,
    /// Bytes of all files.
    pub bytes: u64,
    /// The key that signed.
    pub key_id: String,
}

/// The rollout.
#[derive(Clone, Debug, Default, Serialize)]
pub(crate) struct RolloutReport {
    /// Id.
    pub id: String,
    /// Final state.
    pub state: String,
    /// Waves in order.
    pub waves: Vec<WaveReport>,
    /// Seconds from start to end.
    pub seconds: f64,
}

/// One wave.
#[derive(Clone, Debug, Default, Serialize)]
pub(crate) struct WaveReport {
    /// Final state.
    pub state: String,
    /// Devices of the wave.
    pub devices: Vec<String>,
}

/// One device.
#[derive(Clone, Debug, Default, Serialize)]
pub(crate) struct DeviceReport {
    /// Id.
    pub id: String,
    /// Phase.
    pub state: String,
    /// Confirmed release.
    pub release: String,
    /// Slot that serves.
    pub slot: String,
    /// The device's own probe of the release.
    pub probe: ProbeReport,
    /// Predictions asked of its endpoint.
    pub predictions: u64,
    /// Of these right.
    pub correct: u64,
    /// Share of right ones.
    pub accuracy: f64,
    /// Whether every answer equals the control plane's own evaluation.
    pub identical_to_cloud: bool,
    /// Memory of the agent process.
    pub rss_bytes: u64,
    /// How far the test samples, which the device was asked, are from the training data.
    pub drift: Option<DriftView>,
}

/// A probe.
#[derive(Clone, Debug, Default, Serialize)]
pub(crate) struct ProbeReport {
    /// Largest absolute difference from the golden outputs.
    pub max_abs_error: f32,
    /// Median latency in milliseconds.
    pub p50_ms: f64,
}
