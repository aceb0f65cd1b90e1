//! What a device finds when it examines itself.

use super::FailureView;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// The examinations of a device: the one that is asked for, and the last one that was answered.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct DiagnosisView {
    /// Device id.
    pub device: String,
    /// Whether it is connected now; an offline device examines itself when it is back.
    pub connected: bool,
    /// Number of the examination that is asked for and not answered yet.
    pub waiting: Option<u64>,
    /// The last one that was answered.
    pub answer: Option<DiagnosisAnswer>,
}

/// An answered examination.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct DiagnosisAnswer {
    /// Its number.
    pub number: u64,
    /// When the answer came, in milliseconds since 1970.
    pub at_ms: u64,
    /// Why the device could not do it.
    pub failure: Option<FailureView>,
    /// Version of the agent.
    pub agent: String,
    /// What it found.
    pub findings: Vec<FindingView>,
    /// Findings that found no room.
    pub left_out: u32,
}

/// One finding.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct FindingView {
    /// What it is about: `certificates`, `clock`, `disk`, `link`, `slots`, …
    pub subject: String,
    /// `ok`, `warn` or `fail`.
    pub verdict: String,
    /// The stable code, for what is not well.
    pub code: Option<String>,
    /// What was found.
    pub what: String,
    /// What to do about it; empty if nothing.
    pub remedy: String,
}
