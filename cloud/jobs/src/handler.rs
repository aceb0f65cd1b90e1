//! What a kind of job needs besides its child process.

use crate::error::JobFailure;
use crate::folder::JobFolder;
use crate::job::Job;
use async_trait::async_trait;
use flotilla_protocol::Digest;
use flotilla_storage::Batch;
use std::collections::BTreeMap;

/// Published objects by name.
pub type Outputs = BTreeMap<String, Digest>;

/// The control plane's part of one kind of job. It runs in the worker; the work itself runs in the child.
#[async_trait]
pub trait Handler: Send + Sync {
    /// Writes the inputs into the folder.
    async fn prepare(&self, job: &Job, folder: &JobFolder) -> Result<(), JobFailure>;

    /// Takes the outputs from the folder and adds what they mean to the batch, which also ends the job: all of
    /// it happens, or nothing. Objects are put before; what the child said is in the job's `result`.
    ///
    /// Called again, with a new batch, when somebody else changed a record first.
    async fn publish(&self, job: &Job, folder: &JobFolder, batch: &mut Batch) -> Result<Outputs, JobFailure>;
}
