//! Imports: a finished model of another tool becomes a version.

use super::train::{result, spec};
use super::{data_failure, io_failure, read, read_json, registry_failure, storage_failure, write_json};
use crate::examine::{self, Done, ImportTask, ReadOptions, Task, examine, sample_name};
use async_trait::async_trait;
use flotilla_data::{Datasets, Split};
use flotilla_identity::{Actor, now_ms};
use flotilla_jobs::child::ChildContext;
use flotilla_jobs::{Handler, Job, JobFailure, JobFolder, Outputs};
use flotilla_protocol::manifest::Lineage;
use flotilla_protocol::{DatasetName, Digest, ErrorCode, ModelName, Pipeline, limits};
use flotilla_registry::{NewSamples, NewVersion, Registry, Source};
use flotilla_runtime::Quality;
use flotilla_storage::{Batch, Objects};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use std::ops::ControlFlow;
use std::sync::Arc;

/// The kind's name.
pub const IMPORT: &str = "import";

/// What an import is to do. Large parts are objects: a job's record is small.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ImportSpec {
    /// The model that gets a new version.
    pub model: ModelName,
    /// Name of the file, as whoever brought it called it.
    pub name: String,
    /// The file.
    pub file: Digest,
    /// Its size.
    pub bytes: u64,
    /// The JSON of a [`Wanted`].
    pub wanted: Digest,
    /// The dataset that it is measured on, and its version.
    pub dataset: Option<(DatasetName, u32)>,
}

/// How a file becomes a version.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Wanted {
    pub(crate) options: ReadOptions,
    pub(crate) pipeline: Option<Pipeline>,
    pub(crate) accept_guesses: bool,
    pub(crate) licence: Option<String>,
    pub(crate) note: Option<String>,
    /// Inputs that releases are checked with.
    pub(crate) samples: Vec<Digest>,
}

/// The control plane's half.
pub(crate) struct ImportHandler {
    pub(super) datasets: Arc<Datasets>,
    pub(super) registry: Arc<Registry>,
    pub(super) objects: Objects,
}

impl ImportHandler {
    async fn wanted(&self, spec: &ImportSpec) -> Result<Wanted, JobFailure> {
        let bytes = self.objects.get(&spec.wanted).await.map_err(storage_failure)?;
        serde_json::from_slice(&bytes).map_err(|e| JobFailure::caused(ErrorCode::Malformed, &e))
    }
}

#[async_trait]
impl Handler for ImportHandler {
    async fn prepare(&self, job: &Job, folder: &JobFolder) -> Result<(), JobFailure> {
        let spec: ImportSpec = spec(job)?;
        let wanted = self.wanted(&spec).await?;
        let mut classes = Vec::new();
        if let Some((dataset, version)) = &spec.dataset {
            let version = self.datasets.version(dataset, Some(*version)).await.map_err(data_failure)?;
            let path = folder.input(examine::SAMPLES);
            self.datasets.write_split(&version, Split::Test, &path).await.map_err(data_failure)?;
            classes = version.classes;
        }
        for (number, sample) in wanted.samples.iter().enumerate() {
            let path = folder.input(&sample_name(number));
            self.objects.fetch_to(sample, path).await.map_err(storage_failure)?;
        }
        self.objects.fetch_to(&spec.file, folder.input(examine::FILE)).await.map_err(storage_failure)?;
        let import = ImportTask {
            pipeline: wanted.pipeline,
            accept_guesses: wanted.accept_guesses,
            classes,
            samples: wanted.samples.len(),
        };
        let task = Task { options: wanted.options, import: Some(import) };
        write_json(&folder.input(examine::TASK), &task)
    }

    async fn publish(&self, job: &Job, folder: &JobFolder, batch: &mut Batch) -> Result<Outputs, JobFailure> {
        let spec: ImportSpec = spec(job)?;
        let wanted = self.wanted(&spec).await?;
        let done: Done = result(job)?;
        let mut inputs = Vec::with_capacity(done.inputs);
        for number in 0..done.inputs {
            inputs.push(read(&folder.output(&sample_name(number)))?.into());
        }
        let report: Value = read_json(&folder.output(examine::REPORT))?;
        let quality: Option<Quality> = match done.evaluation {
            Some(_) => Some(read_json(&folder.output(examine::QUALITY))?),
            None => None,
        };
        let (dataset, dataset_version) =
            spec.dataset.as_ref().map(|(name, version)| (name.to_string(), *version)).unwrap_or_default();
        let onnx = folder.output(examine::MODEL);
        let version = NewVersion {
            model: spec.model.clone(),
            onnx: read(&onnx)?.into(),
            pipeline: read_json(&folder.output(examine::PIPELINE))?,
            source: Source::Imported { from: origin(&spec, &done, wanted.note.as_deref()) },
            metrics: quality.as_ref().map(Quality::metrics).unwrap_or_default(),
            lineage: Lineage { dataset, dataset_version, ..Lineage::default() },
            quality,
            report: Some(json!({
                "file": { "name": spec.name, "digest": spec.file, "bytes": spec.bytes },
                "note": wanted.note,
                "import": report,
                "notes": done.notes,
            })),
            baseline: None,
            licence: wanted.licence,
            samples: (done.inputs > 0).then_some(NewSamples { generated: done.generated, inputs }),
        };
        let version = self
            .registry
            .stage_version(batch, &Actor::system(), version, now_ms())
            .await
            .map_err(registry_failure)?;
        Ok(Outputs::from([("model.onnx".to_owned(), version.onnx), ("file".to_owned(), spec.file)]))
    }
}

/// Where a version comes from, as one line for people.
fn origin(spec: &ImportSpec, done: &Done, note: Option<&str>) -> String {
    let mut text = format!("{} ({})", spec.name, spec.file.short());
    if !done.producer.trim().is_empty() {
        text = format!("{text}, made by {}", done.producer);
    }
    if let Some(note) = note {
        text = format!("{text}: {note}");
    }
    let mut end = text.len().min(limits::TEXT);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    text.truncate(end);
    text
}

/// The work, in the child process: it watches over another one that has a bound of memory.
pub(crate) fn run(context: &mut ChildContext) -> Result<Value, JobFailure> {
    let program = std::env::current_exe().map_err(|e| {
        JobFailure::new(ErrorCode::Internal, format!("this program does not find itself: {e}"))
    })?;
    let task = context.input(examine::TASK);
    let report = context.output(examine::REPORT);
    let folder = |path: &std::path::Path| {
        path.parent()
            .map(ToOwned::to_owned)
            .ok_or_else(|| io_failure("using", path, &std::io::Error::from(std::io::ErrorKind::NotFound)))
    };
    let done = examine(&program, &folder(&task)?, &folder(&report)?, &mut |news| {
        if let Some((done, total, stage)) = news {
            context.progress(done, Some(total), stage);
        }
        if context.is_cancelled() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    })?;
    for note in &done.notes {
        context.log(note);
    }
    Ok(json!(done))
}
