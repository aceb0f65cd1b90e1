//! Releases and the trust in their signatures.

use super::Json;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// Makes a release of a model version.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ReleaseRequest {
    /// The model.
    pub model: String,
    /// The version; the newest by default.
    #[serde(default)]
    pub version: Option<u32>,
    /// The boards that it is for, by the names of their profiles; every board by default. Others refuse it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub boards: Vec<String>,
}

/// A signed release.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct ReleaseView {
    /// Model.
    pub model: String,
    /// Model version.
    pub version: u32,
    /// Release counter.
    pub counter: u64,
    /// Digest of the signed envelope: the release's identity.
    pub digest: String,
    /// Bytes of all files.
    pub bytes: u64,
    /// The key that signed.
    pub key_id: String,
    /// Accuracy stated in the manifest.
    pub accuracy: Option<f64>,
    /// Milliseconds since 1970.
    pub created_at_ms: u64,
    /// Version of the agent, of a release of the agent itself.
    #[serde(default)]
    pub agent: Option<String>,
    /// Of a release just made: where the inputs are from that devices prove it with, `dataset`, `given` with the model, or
    /// `generated`, which prove that a device computes the same and nothing else.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub proved_by: Option<String>,
}

/// The trust file in force.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct TrustView {
    /// Its version.
    pub version: u64,
    /// What it says.
    pub document: Json,
    /// The signed envelope, hex.
    pub envelope: String,
}
