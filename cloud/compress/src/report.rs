//! What compression did and what it cost.

use flotilla_protocol::Digest;
use flotilla_runtime::Latency;
use serde::{Deserialize, Serialize};

use crate::{Point, Recipe, Skipped};

/// What compression did and what it cost.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Report {
    /// What makes the result of the source; layers turned back to floats stand in it.
    pub recipe: Recipe,
    /// Digest of the file before.
    pub source: Digest,
    /// Digest of the file after.
    pub output: Digest,
    /// Size of the file before.
    pub bytes_before: u64,
    /// Size of the file after.
    pub bytes_after: u64,
    /// Samples on which accuracy and latency were measured.
    pub samples: u64,
    /// Share of the samples that were right before.
    pub accuracy_before: f64,
    /// Share of the samples that are right after.
    pub accuracy_after: f64,
    /// Accuracy lost; negative where some was gained.
    pub accuracy_drop: f64,
    /// Time of one prediction before.
    pub latency_before: Latency,
    /// Time of one prediction after.
    pub latency_after: Latency,
    /// Every layer that was quantised, at least for a trial.
    pub layers: Vec<LayerReport>,
    /// Weights that were left as they are, and why.
    pub skipped: Vec<Skipped>,
    /// Candidates that were measured, in order; the last is the result.
    pub measured: Vec<Point>,
}

/// What compression did to one layer.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct LayerReport {
    /// Name of the weight tensor.
    pub name: String,
    /// Operator that reads it.
    pub op: String,
    /// Names of the nodes that read it.
    pub nodes: Vec<String>,
    /// Form in which the result holds it.
    pub precision: Precision,
    /// Elements of the weight.
    pub elements: u64,
    /// Its bytes in the file before.
    pub bytes_before: u64,
    /// Its bytes in the file after, scales and nodes included.
    pub bytes_after: u64,
    /// Signal to quantisation noise of the weight in int8, in decibels; none where it is exact.
    pub weight_sqnr_db: Option<f64>,
    /// Relative L2 error of the model's output when only this layer is int8.
    pub output_error: f64,
}

/// The form in which a weight is stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Precision {
    /// 8-bit integers with a scale a channel.
    Int8,
    /// 32-bit floats.
    F32,
}
