//! Models of other tools on their way into the registry.

use super::Json;
use crate::examine::ReadOptions;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// A file that waits to be looked at and imported.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct UploadView {
    /// By what other requests name it.
    pub id: String,
    /// What it was called.
    pub name: String,
    /// Its size.
    pub bytes: u64,
    /// When it is deleted, in milliseconds since 1970.
    pub expires_at_ms: u64,
}

/// Registers an uploaded model.
#[derive(Clone, Debug, Default, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ModelImportRequest {
    /// The uploaded file: ONNX, or a ModelArts model package.
    pub upload: String,
    /// How it is read.
    #[serde(default)]
    pub options: ReadOptions,
    /// What stands before and after the network, as `proposal.pipeline` of the report has it. Without it the proposed
    /// pipeline is taken, if nothing in it has to be confirmed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pipeline: Option<Json>,
    /// Takes the proposed pipeline with all its guesses.
    #[serde(default)]
    pub accept_guesses: bool,
    /// The dataset whose test split the model is measured on; its samples prove releases, too.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dataset: Option<String>,
    /// Its version; the newest by default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dataset_version: Option<u32>,
    /// The licence that it comes under: an SPDX expression, or a few words.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub licence: Option<String>,
    /// Where it comes from, for people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub note: Option<String>,
    /// Uploaded inputs that devices prove its releases with, where there is no dataset. Without them inputs are made up,
    /// which prove that a device computes the same and nothing else.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub samples: Vec<String>,
}
