//! What a job is.

use flotilla_protocol::{ActorId, Digest, ErrorCode, JobId};
use flotilla_storage::{Entity, Table};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU16, Ordering};

/// A piece of work that outlives the process that asked for it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Job {
    /// Its id; later jobs have greater ones.
    pub id: JobId,
    /// Which handler and which function of the child it is for.
    pub kind: String,
    /// What is to be done.
    pub spec: Value,
    /// Where it stands.
    pub state: JobState,
    /// Which attempt this is, from 1; 0 before the first.
    pub attempt: u32,
    /// How often its child process has died.
    #[serde(default)]
    pub crashes: u32,
    /// How often the worker has died under it.
    #[serde(default)]
    pub interruptions: u32,
    /// How far it is.
    #[serde(default)]
    pub progress: Progress,
    /// Who asked for it.
    pub submitted_by: ActorId,
    /// When it was asked for, in milliseconds since 1970.
    pub created_at_ms: u64,
    /// When this attempt began.
    pub started_at_ms: Option<u64>,
    /// When it ended, one way or another.
    pub finished_at_ms: Option<u64>,
    /// The newest metrics; all of them: [`crate::Queue::metrics`].
    #[serde(default)]
    pub metrics: Vec<MetricPoint>,
    /// What the child said when it was done, or what it had found out when it failed.
    pub result: Option<Value>,
    /// Objects that were published.
    #[serde(default)]
    pub outputs: BTreeMap<String, Digest>,
    /// The object with all metrics, once the job has ended.
    #[serde(default)]
    pub series: Option<Digest>,
    /// The object with the log of the last attempt, once that has ended.
    #[serde(default)]
    pub log: Option<Digest>,
}

/// Where a job stands.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "name", rename_all = "snake_case")]
pub enum JobState {
    /// It waits for a worker.
    Queued,
    /// A worker runs it.
    Running,
    /// Somebody wants it to stop, and its worker has not said yet that it has.
    Cancelling,
    /// It is done and published.
    Succeeded,
    /// It has failed for good.
    Failed {
        /// Why, for programs.
        code: ErrorCode,
        /// Why, for people.
        detail: String,
    },
    /// It was stopped because somebody wanted it.
    Cancelled,
}

impl JobState {
    /// Whether nothing more will happen.
    pub fn is_final(&self) -> bool {
        matches!(self, Self::Succeeded | Self::Failed { .. } | Self::Cancelled)
    }

    /// Whether a worker has it.
    pub fn is_active(&self) -> bool {
        matches!(self, Self::Running | Self::Cancelling)
    }

    /// The stable name.
    pub fn as_str(&self) -> &'static str {
        match self {
            Self::Queued => "queued",
            Self::Running => "running",
            Self::Cancelling => "cancelling",
            Self::Succeeded => "succeeded",
            Self::Failed { .. } => "failed",
            Self::Cancelled => "cancelled",
        }
    }
}

/// How far a job is.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Progress {
    /// Steps done.
    pub done: u64,
    /// Steps in all, where that is known.
    pub total: Option<u64>,
    /// What it is doing.
    pub stage: String,
}

/// Some values at one step.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct MetricPoint {
    /// The step, for example the epoch.
    pub step: u64,
    /// When, in milliseconds since 1970.
    pub at_ms: u64,
    /// The values by name; finite.
    pub values: BTreeMap<String, f64>,
}

/// The index that finds waiting jobs by kind, and active ones under [`ACTIVE`].
pub(crate) const PHASE: &str = "phase";
/// What no kind is called.
pub(crate) const ACTIVE: &str = "/active";
/// Finds all waiting jobs.
pub(crate) const WAITING: &str = "waiting";

impl Entity for Job {
    const TABLE: Table = Table::new("jobs");

    fn id(&self) -> Vec<u8> {
        self.id.as_str().as_bytes().to_vec()
    }

    fn indexes(&self) -> Vec<(&'static str, Vec<u8>)> {
        match &self.state {
            JobState::Queued => vec![(PHASE, self.kind.clone().into_bytes()), (WAITING, Vec::new())],
            state if state.is_active() => vec![(PHASE, ACTIVE.into())],
            _ => Vec::new(),
        }
    }
}

/// A new id: ordered by time, then by the order in which one process asked, then at random.
pub(crate) fn new_id(now_ms: u64) -> JobId {
    static SEQUENCE: AtomicU16 = AtomicU16::new(0);
    let sequence = SEQUENCE.fetch_add(1, Ordering::Relaxed);
    let random: u32 = rand::random();
    JobId::new(format!("job-{now_ms:012x}-{sequence:04x}{random:08x}")).expect("hex digits make an id")
}
