//! What can go wrong with the queue, and how a job fails.

use crate::bounds::JOB_RESULT;
use crate::state::WrongState;
use flotilla_protocol::{ErrorCode, JobId, limits};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

/// The result of a queue operation.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// A failed queue operation.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// No such job.
    #[error("there is no job {id}: `flotilla job list` shows those there are")]
    NotFound {
        /// The id.
        id: JobId,
    },
    /// The job is not in a state for this.
    #[error("{id}: {source}")]
    WrongState {
        /// The job.
        id: JobId,
        /// What does not fit.
        source: WrongState,
    },
    /// Not a well-formed job.
    #[error("the job's {field} is not usable: {problem}")]
    Invalid {
        /// Which part.
        field: &'static str,
        /// What is wrong.
        problem: String,
    },
    /// More than a bound.
    #[error("{what} has {size}, the bound is {bound}")]
    TooLarge {
        /// What.
        what: &'static str,
        /// Its size.
        size: usize,
        /// The bound.
        bound: usize,
    },
    /// The queue is full.
    #[error("{bound} jobs are waiting: try again when some have run, or cancel some")]
    QueueFull {
        /// The bound.
        bound: usize,
    },
    /// Others changed the job all the time.
    #[error("{id} is being changed by others: try again")]
    Contended {
        /// The job.
        id: JobId,
    },
    /// The file system failed.
    #[error("cannot {action} {}", .path.display())]
    Io {
        /// What was tried.
        action: &'static str,
        /// Where.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// Storing failed.
    #[error(transparent)]
    Storage(#[from] flotilla_storage::Error),
    /// Writing the audit record failed.
    #[error(transparent)]
    Identity(#[from] flotilla_identity::Error),
}

impl Error {
    /// The stable code of this failure.
    pub fn code(&self) -> ErrorCode {
        match self {
            Self::NotFound { .. } => ErrorCode::NotFound,
            Self::WrongState { .. } => ErrorCode::WrongState,
            Self::Invalid { .. } => ErrorCode::InvalidInput,
            Self::TooLarge { .. } => ErrorCode::TooLarge,
            Self::QueueFull { .. } | Self::Contended { .. } => ErrorCode::Busy,
            Self::Io { source, .. } => match source.kind() {
                io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => ErrorCode::StorageFull,
                _ => ErrorCode::StorageIo,
            },
            Self::Storage(error) => error.code(),
            Self::Identity(error) => error.code(),
        }
    }

    pub(crate) fn io(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        move |source| Self::Io { action, path: path.to_path_buf(), source }
    }
}

/// Why a job cannot be done. Given by handlers and by the child's functions.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct JobFailure {
    /// Why, for programs.
    pub code: ErrorCode,
    /// Why, for people; cut to [`limits::TEXT`].
    pub detail: String,
    /// What was found out nevertheless: it becomes the job's result.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub facts: Option<Value>,
}

impl JobFailure {
    /// A failure with this reason.
    pub fn new(code: ErrorCode, detail: impl Into<String>) -> Self {
        Self { code, detail: presentable(&detail.into(), limits::TEXT), facts: None }
    }

    /// The same with what was found out nevertheless; it is left out where it is over the bound of a result.
    #[must_use]
    pub fn with_facts(self, facts: Option<Value>) -> Self {
        Self { facts: facts.filter(|facts| facts.to_string().len() <= JOB_RESULT), ..self }
    }

    /// A failure with an error's text and that of its causes.
    pub fn caused(code: ErrorCode, error: &dyn std::error::Error) -> Self {
        let mut detail = error.to_string();
        let mut cause = error.source();
        while let Some(error) = cause {
            detail = format!("{detail}: {error}");
            cause = error.source();
        }
        Self::new(code, detail)
    }
}

impl fmt::Display for JobFailure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({})", self.detail, self.code)
    }
}

impl std::error::Error for JobFailure {}

impl From<Error> for JobFailure {
    fn from(error: Error) -> Self {
        Self::caused(error.code(), &error)
    }
}

impl From<flotilla_storage::Error> for JobFailure {
    fn from(error: flotilla_storage::Error) -> Self {
        Self::caused(error.code(), &error)
    }
}

/// A text from a child, fit for records and terminals: bounded, and without control characters.
pub(crate) fn presentable(text: &str, bound: usize) -> String {
    let mut out = String::new();
    for c in text.chars() {
        let c = if c == '\n' || !c.is_control() { c } else { ' ' };
        if out.len() + c.len_utf8() > bound {
            break;
        }
        out.push(c);
    }
    out
}
