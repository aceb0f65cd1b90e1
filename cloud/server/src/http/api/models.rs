//! Model versions.

use flotilla_runtime::Quality;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// A model version.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct ModelVersionView {
    /// Model.
    pub model: String,
    /// Version.
    pub version: u32,
    /// trained, compressed or imported.
    pub source: String,
    /// Digest of the ONNX file.
    pub onnx: String,
    /// Size of the ONNX file.
    pub bytes: u64,
    /// Accuracy on the test split, measured by the runtime on this file.
    pub accuracy: Option<f64>,
    /// Dataset it was trained on.
    pub dataset: String,
    /// Version of that dataset.
    pub dataset_version: u32,
    /// What compression did.
    pub recipe: String,
    /// The job that made it.
    pub job: String,
    /// Of an imported version, where it comes from.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub from: String,
    /// The licence that it comes under, where somebody says.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub licence: Option<String>,
    /// Milliseconds since 1970.
    pub created_at_ms: u64,
}

/// Says under which licence a model version comes.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct LicenceRequest {
    /// An SPDX expression, or a few words; null takes back what was said.
    #[schema(required)]
    pub licence: Option<String>,
}

/// Asks for the accuracy of a model version on a split.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct EvaluateRequest {
    /// Dataset.
    pub dataset: String,
    /// Dataset version.
    pub version: u32,
    /// train, validation or test.
    pub split: String,
}

/// How good a model version is on a split, measured by the runtime in the control plane.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct EvaluationView {
    /// What was measured.
    #[schema(value_type = Object)]
    pub quality: Quality,
    /// Predicted label index a sample, in the order of the samples route; empty of models that do not give one class.
    pub predictions: Vec<u32>,
}
