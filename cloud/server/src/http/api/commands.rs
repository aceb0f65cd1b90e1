//! Commands for a device.

use super::{FailureView, MeasuredView};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// What a device is to do, once.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct CommandRequest {
    /// `ping`, `restart_model`, `rotate_certificate`, `log_level`, `log_pull` or `diagnostics`.
    pub kind: String,
    /// The model that `restart_model` is about.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub model: Option<String>,
    /// `error`, `warn`, `info`, `debug` or `trace`: the level for `log_level`, the least serious one for `log_pull`, which
    /// without it takes all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub level: Option<String>,
    /// The first moment for `log_pull`, in milliseconds since 1970 by the device's clock; its first line if not given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub from_ms: Option<u64>,
    /// The first moment after it; its last line if not given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub to_ms: Option<u64>,
    /// Most bytes for `log_pull`, 1024 to 1048576, of which the newest lines take theirs first; 65536 if not given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_bytes: Option<u32>,
    /// Seconds after which it is given up; a day if not given. `diagnostics` that is open already stays one command, with the
    /// later deadline.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub deadline_s: Option<u64>,
}

/// A command and what became of it.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct CommandView {
    /// Its number, unique a device.
    pub number: u64,
    /// `ping`, `restart_model`, `rotate_certificate`, `log_level`, `log_pull`, `diagnostics` or `measure`.
    pub kind: String,
    /// Its model, level or certificate, if it has one.
    pub subject: Option<String>,
    /// `pending` (the device has not seen it), `running`, `done`, `failed` or `expired` (its deadline passed first).
    pub state: String,
    /// Why it failed.
    pub failure: Option<FailureView>,
    /// Who asked for it; empty where that is not on record.
    pub by: String,
    /// When, in milliseconds since 1970; 0 where that is not on record.
    pub asked_at_ms: u64,
    /// When it is given up, in milliseconds since 1970.
    pub deadline_ms: u64,
    /// When the device's answer came, in milliseconds since 1970.
    pub ended_at_ms: Option<u64>,
    /// Bytes of the lines that it brought, at `…/commands/{number}/log` as long as they are kept.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub log_bytes: Option<u64>,
    /// Older lines that were asked for, too, and found no room.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lines_left_out: Option<u64>,
    /// What it measured.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub measured: Option<MeasuredView>,
}

impl CommandView {
    /// Whether nothing will happen to it any more.
    pub fn is_over(&self) -> bool {
        matches!(self.state.as_str(), "done" | "failed" | "expired")
    }
}
