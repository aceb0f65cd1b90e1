//! Compression jobs: a search over recipes for the weights of any model and, before it, smaller networks of those that were
//! trained here.

mod judge;
mod latency;
mod smaller;

use latency::Timed;
pub use smaller::Method;

use super::train::{result, spec};
use super::{Labels, baseline, quality};
use super::{
    compress_failure, data_failure, io_failure, read, read_json, registry_failure, runtime_failure,
    write_json,
};
use crate::boards::Boards;
use async_trait::async_trait;
use bytes::Bytes;
use flotilla_compress::{
    Breach, Budget, Error, FourBit, Metric, Options, OverBudget, Point, Progress, Recipe, Report,
    RuntimeEvaluator, compress,
};
use flotilla_data::{DatasetVersion, Datasets, SampleFileWriter, Split};
use flotilla_identity::{Actor, now_ms};
use flotilla_jobs::child::ChildContext;
use flotilla_jobs::{Handler, Job, JobFailure, JobFolder, Outputs};
use flotilla_protocol::manifest::Metrics;
use flotilla_protocol::{DatasetName, DeviceId, Digest, ModelName, Pipeline};
use flotilla_registry::{ModelVersion, NewVersion, Registry, Source};
use flotilla_runtime::{Model, Quality};
use flotilla_storage::Batch;
use flotilla_train::Shrink;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::path::Path;
use std::sync::Arc;

/// The kind's name.
pub const COMPRESS: &str = "compress";

/// What a compression job is to do.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct CompressSpec {
    /// The model.
    pub model: ModelName,
    /// The version to compress.
    pub version: u32,
    /// What it may cost.
    pub budget: Budget,
    /// What makes it smaller.
    #[serde(default)]
    pub method: Method,
    /// Whether layers may go to 4 bits.
    #[serde(default = "never")]
    pub four_bit: FourBit,
    /// Weights that stay floats.
    #[serde(default)]
    pub keep_float: Vec<String>,
    /// What to do, where that is known already.
    #[serde(default)]
    pub recipe: Option<Recipe>,
    /// The dataset version that it is judged by; none for the one that it was trained on.
    #[serde(default)]
    pub dataset: Option<(DatasetName, u32)>,
    /// Samples without labels.
    #[serde(default)]
    pub samples: Option<Digest>,
    /// The board that it is for.
    #[serde(default)]
    pub board: Option<String>,
    /// The device that measures the model before the search, and the one that was found after it.
    #[serde(default)]
    pub measure_on: Option<DeviceId>,
    /// How smaller networks learn.
    #[serde(default)]
    pub shrink: Option<Shrink>,
}

/// Jobs of earlier versions never used 4 bits.
fn never() -> FourBit {
    FourBit::Never
}

/// What the child gets beside model and samples.
#[derive(Serialize, Deserialize)]
struct Task {
    pipeline: Pipeline,
    budget: Budget,
    options: Options,
    method: Method,
    shrink: Shrink,
    /// What predicts times, where they are not measured here.
    timed: Option<Timed>,
    judged: Judged,
}

/// What the samples are and what is known of them.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Judged {
    /// Whether the splits of a dataset are there.
    dataset: bool,
    /// What its classes are to the model; none where it says nothing of what the model answers.
    labels: Option<Labels>,
    /// Whether there are samples that came alone.
    samples: bool,
}

/// What the child says when it is done.
#[derive(Serialize, Deserialize)]
struct CompressResult {
    recipe: String,
    /// How a smaller network was made first.
    #[serde(default)]
    network: Option<String>,
    metric: Metric,
    samples: u64,
    bytes_before: u64,
    bytes_after: u64,
    value_before: f64,
    value_after: f64,
    drop: f64,
    drop_interval: Option<[f64; 2]>,
    latency_before_ms: f64,
    latency_after_ms: f64,
    measured: usize,
    /// What a reader of the figures has to know.
    warnings: Vec<String>,
}

/// The control plane's half.
pub(crate) struct CompressHandler {
    pub(super) datasets: Arc<Datasets>,
    pub(super) registry: Arc<Registry>,
    pub(super) boards: Arc<Boards>,
}

impl CompressHandler {
    /// The dataset that the job is judged by: the one that was asked for, else the one that the model was trained on, as far
    /// as it is here.
    async fn dataset(
        &self,
        spec: &CompressSpec,
        version: &ModelVersion,
    ) -> Result<Option<DatasetVersion>, JobFailure> {
        if let Some((name, number)) = &spec.dataset {
            return self.datasets.version(name, Some(*number)).await.map(Some).map_err(data_failure);
        }
        let lineage = &version.lineage;
        let Ok(name) = lineage.dataset.parse::<DatasetName>() else { return Ok(None) };
        match self.datasets.version(&name, Some(lineage.dataset_version)).await {
            Err(flotilla_data::Error::NotFound { .. }) => Ok(None),
            found => found.map(Some).map_err(data_failure),
        }
    }
}

impl CompressHandler {
    /// Writes the inputs that came with a model, unless they were made up, and says whether there are any.
    async fn own_samples(&self, version: &ModelVersion, path: &Path) -> Result<bool, JobFailure> {
        let samples = self.registry.samples(version).await.map_err(registry_failure)?;
        let Some(samples) = samples.filter(|samples| !samples.generated && !samples.inputs.is_empty()) else {
            return Ok(false);
        };
        let mut file = SampleFileWriter::create(path).map_err(data_failure)?;
        for input in &samples.inputs {
            file.add(&judge::UNKNOWN, input).map_err(data_failure)?;
        }
        file.finish().map_err(data_failure)?;
        Ok(true)
    }
}

#[async_trait]
impl Handler for CompressHandler {
    async fn prepare(&self, job: &Job, folder: &JobFolder) -> Result<(), JobFailure> {
        let spec: CompressSpec = spec(job)?;
        let version = self.registry.version(&spec.model, spec.version).await.map_err(registry_failure)?;
        let pipeline = self.registry.pipeline(&version).await.map_err(registry_failure)?;
        let onnx = self.registry.onnx(&version).await.map_err(registry_failure)?;
        let path = folder.input("model.onnx");
        std::fs::write(&path, onnx).map_err(|e| io_failure("writing", &path, &e))?;
        let dataset = self.dataset(&spec, &version).await?;
        let mut labels = None;
        if let Some(dataset) = &dataset {
            labels = judge::labels(&pipeline, dataset)?;
            for split in Split::ALL {
                let path = folder.input(&format!("{}.samples", split.as_str()));
                self.datasets.write_split(dataset, split, &path).await.map_err(data_failure)?;
            }
        }
        if let Some(digest) = &spec.samples {
            let set = self.datasets.sample_set(digest).await.map_err(data_failure)?;
            let path = folder.input(judge::SAMPLES);
            self.datasets.write_sample_set(&set, &path).await.map_err(data_failure)?;
        }
        let mut alone = spec.samples.is_some();
        if !alone && dataset.is_none() {
            alone = self.own_samples(&version, &folder.input(judge::SAMPLES)).await?;
        }
        let timed = latency::timed(&self.boards, &spec, &version).await?;
        let judged = Judged { dataset: dataset.is_some(), labels, samples: alone };
        let task = Task {
            pipeline,
            budget: spec.budget,
            options: Options {
                recipe: spec.recipe,
                keep_float: spec.keep_float,
                four_bit: spec.four_bit,
                ..Options::default()
            },
            method: spec.method,
            shrink: spec.shrink.unwrap_or_default(),
            timed,
            judged,
        };
        write_json(&folder.input("task.json"), &task)
    }

    async fn publish(&self, job: &Job, folder: &JobFolder, batch: &mut Batch) -> Result<Outputs, JobFailure> {
        let spec: CompressSpec = spec(job)?;
        let task: Task = read_json(&folder.input("task.json"))?;
        let result: CompressResult = result(job)?;
        let from = self.registry.version(&spec.model, spec.version).await.map_err(registry_failure)?;
        let recipe = match &result.network {
            Some(network) => format!("{network}; {}", result.recipe),
            None => result.recipe.clone(),
        };
        let quality = if task.judged.labels.is_some() { Some(quality::read(folder)?) } else { None };
        let samples = self.registry.samples(&from).await.map_err(registry_failure)?;
        let onnx = Bytes::from(read(&folder.output("model.onnx"))?);
        let mut report: Value = read_json(&folder.output("report.json"))?;
        let timed = task.timed.as_ref();
        latency::confirm(&self.boards, &spec, timed, &from, onnx.clone(), &mut report).await?;
        let licence = from.licence;
        let mut lineage = from.lineage;
        lineage.recipe.clone_from(&recipe);
        let version = NewVersion {
            model: spec.model,
            onnx,
            pipeline: task.pipeline,
            source: Source::Compressed { from_version: spec.version, recipe, job: Some(job.id.clone()) },
            metrics: quality.as_ref().map_or_else(|| metrics(&result), Quality::metrics),
            lineage,
            quality,
            report: Some(report),
            baseline: baseline::read(folder)?,
            licence,
            samples,
        };
        let version = self
            .registry
            .stage_version(batch, &Actor::system(), version, now_ms())
            .await
            .map_err(registry_failure)?;
        Ok(Outputs::from([("model.onnx".to_owned(), version.onnx)]))
    }
}

/// What a release says of itself where the version was not judged for itself: accuracy, or another figure by its name.
fn metrics(result: &CompressResult) -> Metrics {
    if result.metric == Metric::Accuracy {
        let correct = (result.value_after * result.samples as f64).round() as u64;
        return Metrics {
            samples: result.samples,
            correct,
            accuracy: result.value_after,
            other: BTreeMap::new(),
        };
    }
    let other = BTreeMap::from([(result.metric.name().to_owned(), result.value_after)]);
    Metrics { samples: 0, correct: 0, accuracy: 0.0, other }
}

/// The work, in the child process.
pub(crate) fn run(context: &mut ChildContext) -> Result<Value, JobFailure> {
    let task: Task = read_json(&context.input("task.json"))?;
    let onnx = read(&context.input("model.onnx"))?;
    let mut evaluator = judge::evaluator(context, &task, &onnx)?;
    let mut compressed = match task.method {
        Method::Weights => compress(&onnx, &task.options, &task.budget, &mut evaluator, &mut tell(context))
            .map_err(failure)?,
        _ => smaller::compress(context, &task, &onnx, &mut evaluator)?,
    };
    let predicted = |timed: &&Timed| latency::latency_of(timed, &task.pipeline, &compressed.onnx).is_some();
    let latency_on = task.timed.as_ref().filter(predicted).map(|timed| timed.place.clone());
    compressed.report.latency_on = latency_on;
    let path = context.output("model.onnx");
    std::fs::write(&path, &compressed.onnx).map_err(|e| io_failure("writing", &path, &e))?;
    write_json(&context.output("report.json"), &compressed.report)?;
    if task.judged.dataset {
        let mut model = Model::load(&task.pipeline, &compressed.onnx).map_err(runtime_failure)?;
        if let Some(labels) = &task.judged.labels {
            quality::judge(context, &mut model, Some(labels))?;
        }
        baseline::write(context, &task.pipeline, &mut model)?;
    }
    Ok(json!(outcome(&compressed.report)))
}

/// Says how far the search is, and stops it when the job is to stop.
fn tell(context: &ChildContext) -> impl FnMut(Progress) -> ControlFlow<()> {
    |progress| {
        let stage = json!(progress.stage).as_str().unwrap_or_default().to_owned();
        context.progress(progress.done as u64, Some(progress.total as u64), &stage);
        if context.is_cancelled() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    }
}

fn outcome(report: &Report) -> CompressResult {
    CompressResult {
        recipe: report.recipe.to_string(),
        network: report.made.as_ref().map(|made| made.how.clone()),
        metric: report.metric,
        samples: report.samples,
        bytes_before: report.bytes_before,
        bytes_after: report.bytes_after,
        value_before: report.value_before,
        value_after: report.value_after,
        drop: report.drop,
        drop_interval: report.drop_interval,
        latency_before_ms: report.latency_before.p50_ms,
        latency_after_ms: report.latency_after.p50_ms,
        measured: report.measured.len(),
        warnings: report.warnings.iter().take(WARNINGS).map(ToString::to_string).collect(),
    }
}

/// Warnings of a job's result; the report has all.
const WARNINGS: usize = 4;

/// Why there is no result; over the budget with the points that are nearest to it.
fn failure(error: Error) -> JobFailure {
    let nearest = match &error {
        Error::OverBudget(refused) => Some(facts(refused)),
        _ => None,
    };
    compress_failure(error).with_facts(nearest)
}

/// A candidate in the result of a job that is over its budget.
#[derive(Serialize)]
struct Nearest<'a> {
    name: &'a str,
    bytes: u64,
    metric: Metric,
    value: f64,
    drop: f64,
    drop_interval: Option<[f64; 2]>,
    latency_ms: f64,
    macs: Option<u64>,
    peak_bytes: Option<u64>,
}

impl<'a> From<&'a Point> for Nearest<'a> {
    fn from(point: &'a Point) -> Self {
        let short = |value: f64| (value * 1e5).round() / 1e5;
        Self {
            name: &point.name,
            bytes: point.bytes,
            metric: point.metric,
            value: short(point.value),
            drop: short(point.drop),
            drop_interval: point.drop_interval.map(|interval| interval.map(short)),
            latency_ms: short(point.latency.p50_ms),
            macs: point.macs,
            peak_bytes: point.peak_bytes,
        }
    }
}

fn facts(refused: &OverBudget) -> Value {
    let nearest: Vec<Nearest<'_>> = refused.nearest.iter().map(Nearest::from).collect();
    let over: Vec<String> = refused.breaches.iter().map(Breach::to_string).collect();
    json!({ "over": over, "measured": refused.measured, "nearest": nearest })
}
