//! The twin of a device: what it should be beside what it says it is.

use super::{FailureView, Json};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// Both sides of a device's twin.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct TwinView {
    /// Device id.
    pub device: String,
    /// Version of the document that it should follow.
    pub version: u64,
    /// When that changed last, in milliseconds since 1970.
    pub changed_at_ms: u64,
    /// The version that its last report answers; 0 of a device that has never reported.
    pub reported_version: u64,
    /// When that report came, in milliseconds since 1970.
    pub reported_at_ms: Option<u64>,
    /// Model by model, the agent's own release with them.
    pub models: Vec<TwinModelView>,
    /// Where the two sides differ.
    pub differences: Vec<TwinDifference>,
    /// The document that it should follow.
    pub desired: Json,
    /// What it last reported; null of a device that has never reported.
    pub reported: Option<Json>,
}

/// A model on both sides.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct TwinModelView {
    /// Name; `agent` for the agent itself.
    pub model: String,
    /// The release that the device should run.
    pub wanted: Option<String>,
    /// The model version of that, if it is known here.
    pub wanted_version: Option<u32>,
    /// The release that it runs and has confirmed.
    pub running: Option<String>,
    /// The model version of that, if it is known here.
    pub running_version: Option<u32>,
    /// The release on its way in.
    pub candidate: Option<String>,
    /// What the update machine does.
    pub phase: String,
    /// The slot that serves.
    pub slot: Option<String>,
    /// Why a release did not make it.
    pub failure: Option<FailureView>,
    /// Whether it runs another release than it should.
    pub differs: bool,
}

/// Something that is not on the device as it should be.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct TwinDifference {
    /// What: `version`, `models/NAME/release`, `shadows/NAME/release` or `commands/NUMBER`.
    pub at: String,
    /// As it should be; null for what should not be there.
    pub desired: Option<String>,
    /// As the device says it is; null for what is not there.
    pub reported: Option<String>,
    /// Where that stands, for people.
    pub why: String,
}
