//! Compression.

use super::Json;
use crate::work::Method;
use flotilla_compress::FourBit;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// Starts a compression job.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct CompressRequest {
    /// The model.
    pub model: String,
    /// The version to compress; the newest that is not compressed by default.
    #[serde(default)]
    pub version: Option<u32>,
    /// What may be lost at most, in the unit of the metric: 0.01 of accuracy is one sample in a hundred.
    #[serde(default = "default_max_drop")]
    pub max_drop: f64,
    /// Largest acceptable size of the file in bytes.
    #[serde(default)]
    pub max_bytes: Option<u64>,
    /// Longest acceptable median time of one prediction, in milliseconds.
    #[serde(default)]
    pub max_latency_ms: Option<f64>,
    /// Most memory that one prediction may take, in bytes.
    #[serde(default)]
    pub max_peak_bytes: Option<u64>,
    /// The board that it is for: what its profile leaves a model bounds file and memory.
    #[serde(default)]
    pub board: Option<String>,
    /// A device that measures the model before the search and the one that was found after it; in between times are
    /// predicted for it.
    #[serde(default)]
    pub measure_on: Option<String>,
    /// What makes the model smaller.
    #[serde(default)]
    pub method: Method,
    /// Whether layers may go to 4 bits: `never`, `standard` (operators of the ONNX standard) or `contrib` (`MatMulNBits`).
    #[serde(default = "default_four_bit")]
    #[schema(value_type = String)]
    pub four_bit: FourBit,
    /// Names of weights that stay floats.
    #[serde(default)]
    pub keep_float: Vec<String>,
    /// A recipe to replay, as a report gives it.
    #[serde(default)]
    pub recipe: Json,
    /// The dataset that it is judged by; the one that the model was trained on by default.
    #[serde(default)]
    pub dataset: Option<String>,
    /// Version of that dataset; the newest by default.
    #[serde(default)]
    pub dataset_version: Option<u32>,
    /// Samples without labels (`POST /api/v1/samples`): calibrated on and, where there is no dataset, measured on.
    #[serde(default)]
    pub samples: Option<String>,
    /// How smaller networks learn; every setting has a default.
    #[serde(default)]
    pub shrink: Json,
}

impl CompressRequest {
    /// A request for a model with the default budget.
    pub fn new(model: impl Into<String>) -> Self {
        Self {
            model: model.into(),
            version: None,
            max_drop: default_max_drop(),
            max_bytes: None,
            max_latency_ms: None,
            max_peak_bytes: None,
            board: None,
            measure_on: None,
            method: Method::default(),
            four_bit: default_four_bit(),
            keep_float: Vec::new(),
            recipe: Json::Null,
            dataset: None,
            dataset_version: None,
            samples: None,
            shrink: Json::Null,
        }
    }
}

/// 4 bits cost accuracy in most networks: only who asks for them gets them.
fn default_four_bit() -> FourBit {
    FourBit::Never
}

/// Samples that were sent alone.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct SampleSetView {
    /// What a compression names them by.
    pub samples: String,
    /// How many there are.
    pub count: u64,
    /// Bytes of all of them.
    pub bytes: u64,
}

/// The default accuracy budget.
pub fn default_max_drop() -> f64 {
    0.01
}

/// A compression report in short; the whole is at `/api/v1/models/{model}/versions/{version}/report`.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct CompressionView {
    /// Model.
    pub model: String,
    /// The compressed version.
    pub version: u32,
    /// What was done.
    pub recipe: String,
    /// What was measured: accuracy, map, r2, mae, auc, or fidelity where nothing is known of the samples.
    pub metric: String,
    /// Size before.
    pub bytes_before: u64,
    /// Size after.
    pub bytes_after: u64,
    /// What was measured before, on held-back samples.
    pub value_before: f64,
    /// What was measured after.
    pub value_after: f64,
    /// Median latency before, in milliseconds.
    pub latency_before_ms: f64,
    /// Median latency after, in milliseconds.
    pub latency_after_ms: f64,
    /// What a reader of the figures has to know.
    pub warnings: Vec<String>,
}
