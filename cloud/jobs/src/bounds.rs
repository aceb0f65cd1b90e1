//! The bounds of jobs.

use flotilla_protocol::limits::{KIB, MIB};

/// A job's specification, as JSON.
pub const JOB_SPEC: usize = 8 * KIB;
/// A job's result, as JSON; larger things are outputs.
pub const JOB_RESULT: usize = 2 * KIB;
/// The newest metrics in a job's record, as JSON.
pub const JOB_METRICS: usize = 2 * KIB;
/// Named outputs of a job.
pub const JOB_OUTPUTS: usize = 8;
/// Values of one metric point.
pub const METRIC_VALUES: usize = 16;
/// Points of a job's series of metrics; later ones replace the newest in the record only.
pub const SERIES_POINTS: usize = 20_000;
/// Jobs that wait.
pub const QUEUED_JOBS: usize = 400;
/// One frame from a child.
pub const FRAME: usize = 64 * KIB;
/// A job's log: at least the last half of it is kept.
pub const LOG: usize = MIB;
/// Bytes at the end of a log that a crash report looks at.
pub const LOG_TAIL: usize = 2 * KIB;
/// How often a job's child process may die before the job has failed.
pub const CRASHES: u32 = 2;
/// How often a worker may die under a job before the job has failed.
pub const INTERRUPTIONS: u32 = 5;
