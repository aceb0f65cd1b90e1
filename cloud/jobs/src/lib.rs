//! The durable job queue and the workers that run its jobs in child processes.
//!
//! - [`Queue`]: submit, watch, list and cancel jobs. A job is a record; nothing is lost in a crash.
//! - [`Worker`]: takes queued jobs under a lease, runs each in a child process of its own and publishes what
//!   came of it in one commit with the job's end. The commit is fenced by the lease: a worker that has been
//!   replaced publishes nothing.
//! - [`Handler`]: what a kind of job needs before (inputs into a folder) and after (outputs from that folder).
//! - [`child`]: the other side. A child sees its job folder and framed standard input and output, nothing
//!   else, so a crash, a leak or a hang in a job costs that job only.
//! - [`state`]: which state follows which; pure.

mod attempt;
mod bounds;
pub mod child;
mod error;
mod folder;
mod frame;
mod handler;
mod job;
mod keeper;
mod log;
mod process;
mod queue;
mod series;
pub mod state;
mod worker;

pub use bounds::*;
pub use error::{Error, JobFailure, Result};
pub use folder::JobFolder;
pub use handler::{Handler, Outputs};
pub use job::{Job, JobState, MetricPoint, Progress};
pub use queue::{JobWatch, Queue};
pub use worker::{Worker, WorkerConfig};
