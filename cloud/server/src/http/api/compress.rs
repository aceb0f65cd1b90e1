//! Compression.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// Starts a compression job.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct CompressRequest {
    /// The model.
    pub model: String,
    /// The version to compress; the newest by default.
    #[serde(default)]
    pub version: Option<u32>,
    /// Largest acceptable drop of test accuracy, absolute.
    #[serde(default = "default_max_drop")]
    pub max_drop: f64,
    /// Largest acceptable size of the file in bytes.
    #[serde(default)]
    pub max_bytes: Option<u64>,
}

/// The default accuracy budget.
pub fn default_max_drop() -> f64 {
    0.01
}

/// A compression report in short.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct CompressionView {
    /// Model.
    pub model: String,
    /// The compressed version.
    pub version: u32,
    /// What was done.
    pub recipe: String,
    /// Size before.
    pub bytes_before: u64,
    /// Size after.
    pub bytes_after: u64,
    /// Test accuracy before.
    pub accuracy_before: f64,
    /// Test accuracy after.
    pub accuracy_after: f64,
    /// Median latency before, in milliseconds.
    pub latency_before_ms: f64,
    /// Median latency after, in milliseconds.
    pub latency_after_ms: f64,
    /// Layer by layer.
    pub layers: Vec<LayerView>,
}

/// What compression did to one layer.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct LayerView {
    /// Name.
    pub name: String,
    /// Bytes before.
    pub bytes_before: u64,
    /// Bytes after.
    pub bytes_after: u64,
    /// Relative error of the model's output with only this layer compressed.
    pub output_error: f64,
}
