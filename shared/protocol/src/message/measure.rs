//! What a model costs on one device, asked for with the command `measure`: the device runs it in the process that probes
//! candidates, and reports figures. Nothing is activated.

use crate::Digest;
use serde::{Deserialize, Serialize};

/// What is to be measured: a signed manifest of kind [`crate::manifest::ReleaseKind::Measurement`], which brings its files
/// as a release does, and which no device activates.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Measurement {
    /// Digest of its encoded envelope.
    pub manifest: Digest,
    /// Size of its encoded envelope.
    pub envelope_bytes: u32,
}

/// What was measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Measured {
    /// Inputs that it was run on.
    pub vectors: u32,
    /// Median time of a prediction, in microseconds.
    pub p50_us: u64,
    /// 95th percentile, in microseconds.
    pub p95_us: u64,
    /// Largest memory of the process, in bytes; 0 for unknown.
    pub peak_bytes: u64,
    /// Largest difference of a score from what the control plane got, in millionths.
    pub max_error_micro: u64,
    /// Digest of all scores as they came, so that devices can be held against each other.
    pub outputs: Digest,
}
