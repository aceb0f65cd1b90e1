//! Which state of a job follows which. Pure: no clock, no I/O.

use crate::bounds::{CRASHES, INTERRUPTIONS};
use crate::error::JobFailure;
use crate::job::{Job, JobState, Progress};
use flotilla_protocol::{Digest, ErrorCode};
use serde_json::Value;
use std::collections::BTreeMap;

/// What happens to a job.
#[derive(Clone, Debug, PartialEq)]
pub enum Event {
    /// A worker begins an attempt.
    Start,
    /// The child's work is done; publishing it is part of the same commit.
    Succeed {
        /// What the child said.
        result: Value,
        /// What was published.
        outputs: BTreeMap<String, Digest>,
    },
    /// The job cannot be done; trying again would not help.
    Fail(JobFailure),
    /// The child process died.
    Crash {
        /// How, with the last lines of its log.
        detail: String,
    },
    /// The worker died, or lost its lease.
    Lose,
    /// The worker stops in good order and gives the job back.
    Release,
    /// Somebody wants it stopped.
    RequestCancel,
    /// The worker has stopped it.
    Stop,
}

/// The event does not fit the state.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the job is {state}: {event} is not possible")]
pub struct WrongState {
    /// The state.
    pub state: &'static str,
    /// The event.
    pub event: &'static str,
}

/// The job after the event. An ended job never changes.
pub fn step(job: &Job, event: Event, now_ms: u64) -> Result<Job, WrongState> {
    let mut next = job.clone();
    let name = event.name();
    let cancelling = job.state == JobState::Cancelling;
    match (&job.state, event) {
        (JobState::Queued, Event::Start) => {
            next.attempt += 1;
            next.started_at_ms = Some(now_ms);
            next.progress = Progress::default();
            next.metrics.clear();
            next.series = None;
            next.log = None;
            next.state = JobState::Running;
        }
        (JobState::Queued, Event::RequestCancel) => next.end(JobState::Cancelled, now_ms),
        (JobState::Running, Event::RequestCancel) => next.state = JobState::Cancelling,
        // Wanting it twice is wanting it.
        (JobState::Cancelling | JobState::Cancelled, Event::RequestCancel) => {}
        // However an attempt ends once the job is to stop: it has stopped, and nothing is published.
        (
            JobState::Cancelling,
            Event::Succeed { .. }
            | Event::Fail(_)
            | Event::Crash { .. }
            | Event::Lose
            | Event::Release
            | Event::Stop,
        ) => next.end(JobState::Cancelled, now_ms),
        (JobState::Running, Event::Succeed { result, outputs }) => {
            next.result = Some(result);
            next.outputs = outputs;
            next.end(JobState::Succeeded, now_ms);
        }
        (JobState::Running, Event::Fail(failure)) => next.fail(failure, now_ms),
        (JobState::Running, Event::Crash { detail }) => {
            next.crashes += 1;
            if next.crashes >= CRASHES {
                next.fail(JobFailure::new(ErrorCode::JobCrashed, detail), now_ms);
            } else {
                next.state = JobState::Queued;
            }
        }
        (JobState::Running, Event::Lose) => {
            next.interruptions += 1;
            if next.interruptions >= INTERRUPTIONS {
                let detail = format!("the job was interrupted {INTERRUPTIONS} times");
                next.fail(JobFailure::new(ErrorCode::JobCrashed, detail), now_ms);
            } else {
                next.state = JobState::Queued;
            }
        }
        (JobState::Running, Event::Release) => next.state = JobState::Queued,
        (state, _) => return Err(WrongState { state: state.as_str(), event: name }),
    }
    debug_assert!(!cancelling || next.state != JobState::Succeeded, "a cancelled job publishes nothing");
    Ok(next)
}

impl Event {
    fn name(&self) -> &'static str {
        match self {
            Self::Start => "starting",
            Self::Succeed { .. } => "succeeding",
            Self::Fail(_) => "failing",
            Self::Crash { .. } => "crashing",
            Self::Lose => "losing",
            Self::Release => "releasing",
            Self::RequestCancel => "cancelling",
            Self::Stop => "stopping",
        }
    }
}

impl Job {
    fn end(&mut self, state: JobState, now_ms: u64) {
        self.state = state;
        self.finished_at_ms = Some(now_ms);
    }

    fn fail(&mut self, JobFailure { code, detail, facts }: JobFailure, now_ms: u64) {
        self.result = facts;
        self.end(JobState::Failed { code, detail }, now_ms);
    }
}

#[cfg(test)]
mod tests;
