//! Jobs, and training.

use super::Json;
use flotilla_protocol::ErrorCode;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// Starts a training job.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct TrainRequest {
    /// Dataset name.
    pub dataset: String,
    /// Dataset version; the newest by default.
    #[serde(default)]
    pub dataset_version: Option<u32>,
    /// The model that gets a new version.
    pub model: String,
    /// Settings of the algorithm; every one has a default that fits the data.
    #[serde(default)]
    pub config: Json,
    /// Columns of a table that the model does not look at, such as names of rows, or what is known only afterwards.
    #[serde(default)]
    pub leave_out: Vec<String>,
}

/// A job.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct JobView {
    /// Id.
    pub id: String,
    /// train, compress or import.
    pub kind: String,
    /// queued, running, succeeded, failed, cancelling or cancelled.
    pub state: String,
    /// Which attempt runs or ran.
    pub attempt: u32,
    /// How far it is.
    pub progress: Option<ProgressView>,
    /// What was asked for.
    pub spec: Json,
    /// The newest metrics, oldest first.
    pub metrics: Vec<Json>,
    /// What came out; of a job that failed what it found out nevertheless, if anything.
    pub result: Option<Json>,
    /// Why it failed.
    pub failure: Option<FailureView>,
    /// Milliseconds since 1970.
    pub created_at_ms: u64,
    /// Milliseconds since 1970.
    pub finished_at_ms: Option<u64>,
}

impl JobView {
    /// Whether nothing will happen to it any more.
    pub fn is_over(&self) -> bool {
        matches!(self.state.as_str(), "succeeded" | "failed" | "cancelled")
    }
}

/// How far a job is.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct ProgressView {
    /// Steps done.
    pub done: u64,
    /// All steps.
    pub total: u64,
    /// What the steps are.
    pub stage: String,
}

/// Why something failed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct FailureView {
    /// The stable code.
    pub code: String,
    /// For people.
    pub detail: String,
}

impl FailureView {
    /// A failure with this code.
    pub fn new(code: ErrorCode, detail: impl ToString) -> Self {
        Self { code: code.to_string(), detail: detail.to_string() }
    }
}
