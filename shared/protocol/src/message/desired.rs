//! The wanted state of one device: signed, level-triggered, versioned.

use crate::{DeviceId, Digest, ErrorCode, ModelName, ProjectId, limits};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// The whole wanted state. The device converges to it; a lost copy heals with the next.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Desired {
    /// The device's project.
    pub project: ProjectId,
    /// The device it is for; another device ignores it.
    pub device: DeviceId,
    /// Counts up; a device ignores versions older than the last it accepted.
    pub version: u64,
    /// When it was signed, in milliseconds since 1970: a proof of time for the device.
    pub issued_at_ms: u64,
    /// The release a model. A model that is not named is removed.
    pub models: BTreeMap<ModelName, DesiredModel>,
    /// How the device behaves.
    #[serde(default)]
    pub settings: Settings,
    /// Commands that are not yet reported done.
    #[serde(default)]
    pub commands: Vec<Command>,
    /// The release of the agent itself; without one the device keeps the agent it has.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub agent: Option<DesiredModel>,
}

impl Desired {
    /// Checks the bounds.
    pub fn check(&self) -> Result<(), ErrorCode> {
        let fits =
            self.models.len() <= limits::DESIRED_MODELS && self.commands.len() <= limits::DESIRED_COMMANDS;
        if fits { Ok(()) } else { Err(ErrorCode::TooLarge) }
    }
}

/// The release that one model should run.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DesiredModel {
    /// Digest of the encoded release envelope.
    pub release: Digest,
    /// Size of the encoded release envelope.
    pub envelope_bytes: u32,
    /// Counts up when the operator wants the same release tried again after a failure.
    #[serde(default)]
    pub attempt: u32,
}

/// How a device behaves, as far as the cloud decides it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Settings {
    /// Seconds between telemetry samples.
    pub telemetry_interval_s: u32,
    /// Seconds between telemetry samples while a release is on probation.
    pub probation_telemetry_interval_s: u32,
    /// Seconds that a new release must stay healthy before it is confirmed.
    pub probation_s: u32,
    /// Share of failed predictions during probation, in per mille, above which the release is reverted.
    pub probation_error_per_mille: u32,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            telemetry_interval_s: 900,
            probation_telemetry_interval_s: 60,
            probation_s: 60,
            probation_error_per_mille: 50,
        }
    }
}

/// One open command.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Command {
    /// Unique a device; a device does each id once.
    pub id: u64,
    /// What to do.
    pub kind: CommandKind,
}

/// What a command asks for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CommandKind {
    /// Report that the command was seen.
    Ping,
    /// Load the confirmed release of a model anew.
    RestartModel {
        /// The model.
        model: ModelName,
    },
    /// A command of a newer control plane, reported back as unsupported.
    #[serde(other)]
    Unknown,
}
