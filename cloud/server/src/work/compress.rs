//! Compression jobs.

use super::samples::{class, each_sample, read_split};
use super::train::{result, spec};
use super::{baseline, quality};
use super::{
    compress_failure, data_failure, io_failure, read, read_json, registry_failure, runtime_failure,
    write_json,
};
use async_trait::async_trait;
use flotilla_compress::{Budget, FourBit, Options, Report, RuntimeEvaluator, compress};
use flotilla_data::{Datasets, Split};
use flotilla_identity::{Actor, now_ms};
use flotilla_jobs::child::ChildContext;
use flotilla_jobs::{Handler, Job, JobFailure, JobFolder, Outputs};
use flotilla_protocol::{DatasetName, ErrorCode, ModelName, Pipeline};
use flotilla_registry::{NewVersion, Registry, Source};
use flotilla_runtime::Model;
use flotilla_storage::Batch;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use std::ops::ControlFlow;
use std::sync::Arc;
use std::sync::atomic::Ordering;

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
}

/// What the child gets beside model and samples.
#[derive(Serialize, Deserialize)]
struct Task {
    pipeline: Pipeline,
    budget: Budget,
    options: Options,
}

/// What the child says when it is done.
#[derive(Serialize, Deserialize)]
struct CompressResult {
    recipe: String,
    bytes_before: u64,
    bytes_after: u64,
    accuracy_before: f64,
    accuracy_after: f64,
    accuracy_drop: f64,
    correct: u64,
    samples: u64,
}

/// The control plane's half.
pub(crate) struct CompressHandler {
    pub(super) datasets: Arc<Datasets>,
    pub(super) registry: Arc<Registry>,
}

#[async_trait]
impl Handler for CompressHandler {
    async fn prepare(&self, job: &Job, folder: &JobFolder) -> Result<(), JobFailure> {
        let spec: CompressSpec = spec(job)?;
        let version = self.registry.version(&spec.model, spec.version).await.map_err(registry_failure)?;
        let lineage = &version.lineage;
        let dataset: DatasetName = lineage.dataset.parse().map_err(|_| {
            let detail = format!("{} v{} does not say which dataset can judge it", spec.model, spec.version);
            JobFailure::new(ErrorCode::InvalidInput, detail)
        })?;
        let dataset =
            self.datasets.version(&dataset, Some(lineage.dataset_version)).await.map_err(data_failure)?;
        let pipeline = self.registry.pipeline(&version).await.map_err(registry_failure)?;
        let task = Task {
            pipeline,
            budget: spec.budget,
            options: Options { four_bit: FourBit::Never, ..Options::default() },
        };
        write_json(&folder.input("task.json"), &task)?;
        let onnx = self.registry.onnx(&version).await.map_err(registry_failure)?;
        let path = folder.input("model.onnx");
        std::fs::write(&path, onnx).map_err(|e| io_failure("writing", &path, &e))?;
        for split in Split::ALL {
            let path = folder.input(&format!("{}.samples", split.as_str()));
            self.datasets.write_split(&dataset, split, &path).await.map_err(data_failure)?;
        }
        Ok(())
    }

    async fn publish(&self, job: &Job, folder: &JobFolder, batch: &mut Batch) -> Result<Outputs, JobFailure> {
        let spec: CompressSpec = spec(job)?;
        let task: Task = read_json(&folder.input("task.json"))?;
        let result: CompressResult = result(job)?;
        let quality = quality::read(folder)?;
        let from = self.registry.version(&spec.model, spec.version).await.map_err(registry_failure)?;
        let samples = self.registry.samples(&from).await.map_err(registry_failure)?;
        let licence = from.licence;
        let mut lineage = from.lineage;
        lineage.recipe = result.recipe.clone();
        let version = NewVersion {
            model: spec.model,
            onnx: read(&folder.output("model.onnx"))?.into(),
            pipeline: task.pipeline,
            source: Source::Compressed {
                from_version: spec.version,
                recipe: result.recipe,
                job: Some(job.id.clone()),
            },
            metrics: quality.metrics(),
            lineage,
            quality: Some(quality),
            report: Some(read_json(&folder.output("report.json"))?),
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

/// The work, in the child process.
pub(crate) fn run(context: &mut ChildContext) -> Result<Value, JobFailure> {
    let task: Task = read_json(&context.input("task.json"))?;
    let onnx = read(&context.input("model.onnx"))?;
    let (samples, labels) = read_split(&context.input("test.samples"))?;
    let labels = labels.into_iter().map(|label| label as usize).collect();
    let cancelled = context.cancel_flag();
    let evaluator = RuntimeEvaluator::new(&task.pipeline, samples, labels).map_err(compress_failure)?;
    // Rounding is calibrated on what the model was trained on: the test split is measured on alone.
    let (samples, labels) = spread(&context.input("train.samples"), task.options.calibration_samples)?;
    let evaluator = if samples.is_empty() {
        evaluator
    } else {
        evaluator.calibrated_on(samples, labels).map_err(compress_failure)?
    };
    let mut evaluator = evaluator.cancelled_by(move || cancelled.load(Ordering::Relaxed));
    let compressed = compress(&onnx, &task.options, &task.budget, &mut evaluator, &mut |p| {
        let stage = json!(p.stage).as_str().unwrap_or_default().to_owned();
        context.progress(p.done as u64, Some(p.total as u64), &stage);
        if context.is_cancelled() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    })
    .map_err(compress_failure)?;
    let path = context.output("model.onnx");
    std::fs::write(&path, &compressed.onnx).map_err(|e| io_failure("writing", &path, &e))?;
    write_json(&context.output("report.json"), &compressed.report)?;
    let mut model = Model::load(&task.pipeline, &compressed.onnx).map_err(runtime_failure)?;
    quality::judge(context, &mut model)?;
    baseline::write(context, &task.pipeline, &mut model)?;
    Ok(json!(outcome(&compressed.report)))
}

/// At most so many samples of a split, evenly spread, and their labels.
fn spread(path: &std::path::Path, at_most: usize) -> Result<(Vec<Vec<u8>>, Vec<usize>), JobFailure> {
    let count = each_sample(path)?.count();
    let step = count.div_ceil(at_most.max(1)).max(1);
    let mut chosen = (Vec::new(), Vec::new());
    for sample in each_sample(path)?.step_by(step) {
        let (truth, bytes) = sample?;
        chosen.0.push(bytes);
        chosen.1.push(class(&truth)? as usize);
    }
    Ok(chosen)
}

fn outcome(report: &Report) -> CompressResult {
    CompressResult {
        recipe: report.recipe.to_string(),
        bytes_before: report.bytes_before,
        bytes_after: report.bytes_after,
        accuracy_before: report.value_before,
        accuracy_after: report.value_after,
        accuracy_drop: report.drop,
        correct: (report.value_after * report.samples as f64).round() as u64,
        samples: report.samples,
    }
}
