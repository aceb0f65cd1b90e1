//! The folder of one attempt: all that its child process sees.

use crate::error::{Error, Result};
use crate::job::Job;
use flotilla_protocol::JobId;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

const SPEC: &str = "job.json";
const INPUT: &str = "in";
const OUTPUT: &str = "out";
/// All metrics of the attempt, one point a line.
pub(crate) const SERIES: &str = "metrics.jsonl";
/// The log of the attempt.
pub(crate) const LOG_FILE: &str = "log.txt";

/// The folder of one attempt.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct JobFolder {
    path: PathBuf,
}

/// What the child is told.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Assignment {
    pub(crate) id: JobId,
    pub(crate) kind: String,
    pub(crate) attempt: u32,
    pub(crate) spec: Value,
}

/// The folder of all attempts of a job.
pub(crate) fn of_job(root: &Path, id: &JobId) -> PathBuf {
    root.join(id.as_str())
}

impl JobFolder {
    /// The folder that is at this path.
    pub(crate) fn at(path: impl Into<PathBuf>) -> Self {
        Self { path: path.into() }
    }

    /// Where the folder of this attempt is, whether it is there or not.
    pub(crate) fn of(root: &Path, id: &JobId, attempt: u32) -> Self {
        Self::at(of_job(root, id).join(format!("attempt-{attempt}")))
    }

    /// Makes the folder of the job's attempt afresh. Blocking.
    pub(crate) fn create(root: &Path, job: &Job) -> Result<Self> {
        let folder = Self::of(root, &job.id, job.attempt);
        // Folders of earlier attempts were left by a worker that died.
        remove(&of_job(root, &job.id))?;
        for path in [folder.path.join(INPUT), folder.path.join(OUTPUT)] {
            fs::create_dir_all(&path).map_err(Error::io("create", &path))?;
        }
        let assignment = Assignment {
            id: job.id.clone(),
            kind: job.kind.clone(),
            attempt: job.attempt,
            spec: job.spec.clone(),
        };
        let path = folder.path.join(SPEC);
        let text = serde_json::to_vec_pretty(&assignment).map_err(io::Error::from);
        text.and_then(|text| fs::write(&path, text)).map_err(Error::io("write", &path))?;
        Ok(folder)
    }

    /// What the child is told.
    pub(crate) fn assignment(&self) -> Result<Assignment> {
        let path = self.path.join(SPEC);
        let text = fs::read(&path).map_err(Error::io("read", &path))?;
        serde_json::from_slice(&text).map_err(|e| Error::io("read", &path)(e.into()))
    }

    /// The folder itself.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// A file for the child to read.
    pub fn input(&self, name: &str) -> PathBuf {
        self.path.join(INPUT).join(name)
    }

    /// A file for the child to write.
    pub fn output(&self, name: &str) -> PathBuf {
        self.path.join(OUTPUT).join(name)
    }

    pub(crate) fn series(&self) -> PathBuf {
        self.path.join(SERIES)
    }

    pub(crate) fn log(&self) -> PathBuf {
        self.path.join(LOG_FILE)
    }
}

/// Removes a folder with everything in it; that it is not there is fine. Blocking.
pub(crate) fn remove(path: &Path) -> Result<()> {
    match fs::remove_dir_all(path) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => Err(Error::io("remove", path)(e)),
        _ => Ok(()),
    }
}
