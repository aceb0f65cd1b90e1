//! What the jobs do.
//!
//! Each kind has two halves in one file: a handler in the control plane that writes the inputs and publishes
//! the outputs, and a function that does the work in the child process, which sees its folder only.

mod baseline;
mod compress;
mod config;
mod import;
mod labels;
mod pipelines;
mod quality;
mod samples;
mod train;

use crate::boards::Boards;
use flotilla_data::Datasets;
use flotilla_jobs::{JobFailure, Worker, child};
use flotilla_protocol::ErrorCode;
use flotilla_registry::Registry;
use flotilla_storage::Objects;
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;

pub use compress::{COMPRESS, CompressSpec, Method};
pub(crate) use config::config;
pub(crate) use import::Wanted;
pub use import::{IMPORT, ImportSpec};
pub(crate) use labels::Labels;
pub use train::{TRAIN, TrainSpec};

/// Gives a worker the control plane's half of every kind of job.
pub fn equip(
    worker: Worker,
    datasets: &Arc<Datasets>,
    registry: &Arc<Registry>,
    objects: &Objects,
    boards: &Arc<Boards>,
) -> Worker {
    let (datasets, registry, objects) = (datasets.clone(), registry.clone(), objects.clone());
    let train = train::TrainHandler { datasets: datasets.clone(), registry: registry.clone() };
    let compress = compress::CompressHandler {
        datasets: datasets.clone(),
        registry: registry.clone(),
        boards: boards.clone(),
    };
    let import = import::ImportHandler { datasets, registry, objects };
    worker.with(TRAIN, train).with(COMPRESS, compress).with(IMPORT, import)
}

/// The child process of a job.
pub fn child_main(folder: &Path) -> ExitCode {
    child::run(folder, &[(TRAIN, train::run), (COMPRESS, compress::run), (IMPORT, import::run)])
}

/// A job's failure out of any error with a code.
macro_rules! failure {
    ($($name:ident: $error:ty),+ $(,)?) => {$(
        fn $name(error: $error) -> JobFailure {
            JobFailure::caused(error.code(), &error)
        }
    )+};
}

failure! {
    data_failure: flotilla_data::Error,
    registry_failure: flotilla_registry::Error,
    storage_failure: flotilla_storage::Error,
    runtime_failure: flotilla_runtime::Error,
    train_failure: flotilla_train::Error,
    compress_failure: flotilla_compress::Error,
}

fn unsupported(detail: String) -> JobFailure {
    JobFailure::new(ErrorCode::Unsupported, detail)
}

pub(crate) fn io_failure(what: &str, path: &Path, error: &std::io::Error) -> JobFailure {
    let code = match error.kind() {
        std::io::ErrorKind::StorageFull => ErrorCode::StorageFull,
        _ => ErrorCode::StorageIo,
    };
    JobFailure::new(code, format!("{what} {}: {error}", path.display()))
}

/// Writes a JSON file into a job's folder.
fn write_json<T: serde::Serialize>(path: &Path, value: &T) -> Result<(), JobFailure> {
    let text = serde_json::to_vec(value).map_err(|e| JobFailure::new(ErrorCode::Internal, e.to_string()))?;
    std::fs::write(path, text).map_err(|e| io_failure("writing", path, &e))
}

/// Reads a JSON file of a job's folder.
fn read_json<T: serde::de::DeserializeOwned>(path: &Path) -> Result<T, JobFailure> {
    let text = std::fs::read(path).map_err(|e| io_failure("reading", path, &e))?;
    serde_json::from_slice(&text)
        .map_err(|e| JobFailure::new(ErrorCode::Malformed, format!("{}: {e}", path.display())))
}

/// Reads a whole file of a job's folder.
fn read(path: &Path) -> Result<Vec<u8>, JobFailure> {
    std::fs::read(path).map_err(|e| io_failure("reading", path, &e))
}
