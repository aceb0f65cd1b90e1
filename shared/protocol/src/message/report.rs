//! What a device says of itself: `hello` once a connection, `reported` on every change.

use super::diagnosis::Diagnosis;
use super::measure::Measured;
use super::shadow::ShadowReport;
use super::telemetry::Epoch;
use crate::{Digest, ErrorCode, ModelName};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// The first message of every connection.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Hello {
    /// Protocol version: 1.
    pub protocol: u16,
    /// Version of the agent.
    pub agent: String,
    /// Counts up with every connection, persistently: a cloned folder shows itself by a repeated value.
    pub counter: u64,
    /// The outbox's epoch.
    pub epoch: Epoch,
    /// Version of the last accepted desired document; 0 for none.
    pub desired_version: u64,
    /// Version of the accepted trust file.
    pub trust_version: u64,
    /// What the device is.
    pub board: BoardFacts,
}

/// What a device is made of.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct BoardFacts {
    /// Name of the board profile.
    pub board: String,
    /// Engines that the agent can run.
    pub engines: Vec<String>,
    /// CPU architecture, as Rust names it.
    pub arch: String,
    /// Logical CPUs.
    pub cpus: u32,
    /// Memory in bytes.
    pub memory_bytes: u64,
    /// Operating system and its version.
    pub os: String,
}

/// What a device runs, in full.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Reported {
    /// Counts up with every report within the hello counter.
    pub version: u64,
    /// The desired version this answers.
    pub desired_version: u64,
    /// Every model on the device or wanted there.
    pub models: BTreeMap<ModelName, ModelReport>,
    /// Commands finished since they were last acknowledged by their absence from `desired`.
    #[serde(default)]
    pub commands: Vec<CommandReport>,
    /// The agent itself; an older agent does not say.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub agent: Option<AgentReport>,
    /// Shadows on the device or wanted there.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub shadows: BTreeMap<ModelName, ShadowReport>,
}

/// The state of the agent itself.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct AgentReport {
    /// Version of the agent that reports.
    pub version: String,
    /// The slot it runs from; none for the binary that was installed with the device.
    pub slot: Option<SlotName>,
    /// Its release: `confirmed` is absent for the installed binary.
    pub upgrade: ModelReport,
}

/// The state of one model on a device.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct ModelReport {
    /// What the update machine does.
    pub phase: Phase,
    /// The release that serves and is confirmed.
    pub confirmed: Option<Digest>,
    /// The release on its way in.
    pub candidate: Option<Digest>,
    /// The attempt of the desired document that `candidate` or `failure` belongs to.
    #[serde(default)]
    pub attempt: u32,
    /// The slot that serves.
    pub slot: Option<SlotName>,
    /// Verified bytes of the candidate.
    #[serde(default)]
    pub bytes_done: u64,
    /// All bytes of the candidate; 0 before its manifest is known.
    #[serde(default)]
    pub bytes_total: u64,
    /// Bytes of the candidate that were on the device already, in whichever slot, and are not fetched.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub bytes_reused: u64,
    /// Bytes of the candidate that were made of the base of a patch and are not fetched.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub bytes_rebuilt: u64,
    /// Bytes of the patches that were fetched for that.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub bytes_patches: u64,
    /// The last probe.
    pub probe: Option<ProbeReport>,
    /// Why the release that it names did not make it; of a candidate on its way in, what holds it up.
    pub failure: Option<Failure>,
}

fn is_zero(number: &u64) -> bool {
    *number == 0
}

/// The phases of an update.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Phase {
    /// Nothing to do and nothing confirmed.
    #[default]
    Idle,
    /// Fetching the manifest or files.
    Downloading,
    /// Checking digests and constraints.
    Verifying,
    /// Complete in the idle slot.
    Staged,
    /// The candidate runs its golden vectors in a child process.
    Probing,
    /// The active slot is being changed.
    Switching,
    /// Serving, under watch.
    Probation,
    /// Serving, confirmed.
    Confirmed,
    /// Going back to the confirmed release.
    Reverting,
    /// The wanted release did not make it; the confirmed one, if any, serves.
    Failed,
}

impl Phase {
    /// The stable text.
    pub fn as_str(self) -> &'static str {
        match self {
            Phase::Idle => "idle",
            Phase::Downloading => "downloading",
            Phase::Verifying => "verifying",
            Phase::Staged => "staged",
            Phase::Probing => "probing",
            Phase::Switching => "switching",
            Phase::Probation => "probation",
            Phase::Confirmed => "confirmed",
            Phase::Reverting => "reverting",
            Phase::Failed => "failed",
        }
    }
}

/// The two slots of a model.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SlotName {
    /// Slot A.
    A,
    /// Slot B.
    B,
}

impl SlotName {
    /// The other slot.
    pub fn other(self) -> Self {
        match self {
            SlotName::A => SlotName::B,
            SlotName::B => SlotName::A,
        }
    }

    /// Folder and display name.
    pub fn as_str(self) -> &'static str {
        match self {
            SlotName::A => "a",
            SlotName::B => "b",
        }
    }
}

/// What the probe measured.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ProbeReport {
    /// Golden vectors run.
    pub vectors: u32,
    /// Largest absolute difference from the golden outputs.
    pub max_abs_error: f32,
    /// Median latency in milliseconds.
    pub p50_ms: f64,
    /// 95th percentile in milliseconds.
    pub p95_ms: f64,
    /// Peak memory of the probe process in bytes.
    pub peak_rss_bytes: u64,
}

/// Why a release did not make it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failure {
    /// The release that failed.
    pub release: Digest,
    /// The stable code.
    pub code: ErrorCode,
    /// For people.
    pub detail: String,
}

/// Where a command stands.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CommandReport {
    /// The command.
    pub id: u64,
    /// Its state.
    pub state: CommandState,
    /// What [`super::CommandKind::Diagnostics`] found. At most one report of a device carries one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub diagnosis: Option<Diagnosis>,
    /// What [`super::CommandKind::Measure`] measured.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub measured: Option<Measured>,
}

/// How a command ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CommandState {
    /// Done.
    Done,
    /// Not possible.
    Failed {
        /// The stable code.
        code: ErrorCode,
        /// For people.
        detail: String,
    },
}
