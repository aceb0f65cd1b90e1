//! Commands for a device.

use super::FailureView;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// What a device is to do, once.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct CommandRequest {
    /// `ping`, `restart_model`, `rotate_certificate`, `log_level` or `diagnostics`.
    pub kind: String,
    /// The model that `restart_model` is about.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub model: Option<String>,
    /// The level for `log_level`: `error`, `warn`, `info`, `debug` or `trace`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub level: Option<String>,
    /// Seconds after which it is given up; a day if not given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub deadline_s: Option<u64>,
}

/// A command and what became of it.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct CommandView {
    /// Its number, unique a device.
    pub number: u64,
    /// `ping`, `restart_model`, `rotate_certificate`, `log_level` or `diagnostics`.
    pub kind: String,
    /// Its model, level or certificate, if it has one.
    pub subject: Option<String>,
    /// `pending` (the device has not seen it), `running`, `done`, `failed` or `expired` (its deadline passed first).
    pub state: String,
    /// Why it failed.
    pub failure: Option<FailureView>,
    /// Who asked for it.
    pub by: String,
    /// When, in milliseconds since 1970.
    pub asked_at_ms: u64,
    /// When it is given up, in milliseconds since 1970.
    pub deadline_ms: u64,
    /// When the device's answer came, in milliseconds since 1970.
    pub ended_at_ms: Option<u64>,
}

impl CommandView {
    /// Whether nothing will happen to it any more.
    pub fn is_over(&self) -> bool {
        matches!(self.state.as_str(), "done" | "failed" | "expired")
    }
}
