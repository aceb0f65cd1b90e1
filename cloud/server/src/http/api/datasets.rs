//! Datasets and their samples.

use super::Json;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// A dataset and its newest version.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct DatasetView {
    /// Name.
    pub name: String,
    /// Newest version.
    pub version: u32,
    /// What it is for: image_classification, sound_classification, object_detection or table.
    #[serde(default)]
    pub kind: String,
    /// Samples of that version.
    pub samples: u64,
    /// Label names.
    pub class_names: Vec<String>,
    /// Number of labels.
    pub classes: usize,
    /// Samples of the training split.
    pub train: u64,
    /// Samples of the validation split.
    pub validation: u64,
    /// Samples of the test split.
    pub test: u64,
    /// Samples that nobody has labelled; they are in no split.
    #[serde(default)]
    pub unlabelled: u64,
}

/// How far a running import is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ImportProgressView {
    /// What it is doing: `reading`, `finishing` or `done`.
    pub stage: String,
    /// Samples so far.
    pub done: u64,
    /// Samples in all, where that is known before.
    pub total: Option<u64>,
}

/// What an import did.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct ImportView {
    /// The dataset as it is now.
    pub dataset: DatasetView,
    /// Whether the very same content was there already.
    pub unchanged: bool,
    /// Samples imported.
    pub imported: u64,
    /// Samples with the same content as another.
    pub duplicates: u64,
    /// Bad samples in all.
    pub skipped_total: u64,
    /// The first of them.
    pub skipped: Vec<SkippedView>,
}

/// A sample that was not imported.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct SkippedView {
    /// File within the source.
    pub file: String,
    /// Line, for text files.
    pub line: Option<u64>,
    /// Why.
    pub reason: String,
}

/// One sample of a version.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct SampleView {
    /// Content address: the last segment of the sample's route.
    pub digest: String,
    /// Index of its label, if it is of one class.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub label: Option<u32>,
    /// What else is true of it: labels, boxes, values, or whether it is anomalous.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub truth: Option<Json>,
}
