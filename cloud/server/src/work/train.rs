//! Training jobs.

use super::samples::{each_sample, pipeline_for};
use super::{baseline, quality};
use super::{
    data_failure, io_failure, read, read_json, registry_failure, runtime_failure, train_failure, write_json,
};
use async_trait::async_trait;
use flotilla_data::{Datasets, Split};
use flotilla_identity::{Actor, now_ms};
use flotilla_jobs::child::ChildContext;
use flotilla_jobs::{Handler, Job, JobFailure, JobFolder, Outputs};
use flotilla_protocol::manifest::Lineage;
use flotilla_protocol::{DatasetName, ErrorCode, ModelName, Pipeline};
use flotilla_registry::{NewVersion, Registry, Source};
use flotilla_runtime::{Input, Model, Preprocessor};
use flotilla_storage::Batch;
use flotilla_train::{Config, EpochMetrics, IMAGES_VALUES, Images, Observer};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use std::sync::Arc;

/// The kind's name.
pub const TRAIN: &str = "train";

/// What a training job is to do.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct TrainSpec {
    /// Dataset.
    pub dataset: DatasetName,
    /// Its version.
    pub dataset_version: u32,
    /// The model that gets a new version.
    pub model: ModelName,
    /// Settings of the algorithm.
    pub config: Config,
}

/// What the child gets beside the samples.
#[derive(Serialize, Deserialize)]
struct Task {
    pipeline: Pipeline,
    config: Config,
}

/// What the child says when it is done.
#[derive(Serialize, Deserialize)]
struct TrainResult {
    algorithm: String,
    parameters: u64,
    epochs: u32,
    best_epoch: u32,
    seconds: f64,
    test_accuracy: f64,
    test_correct: u64,
    test_samples: u64,
}

/// The control plane's half.
pub(crate) struct TrainHandler {
    pub(super) datasets: Arc<Datasets>,
    pub(super) registry: Arc<Registry>,
}

#[async_trait]
impl Handler for TrainHandler {
    async fn prepare(&self, job: &Job, folder: &JobFolder) -> Result<(), JobFailure> {
        let spec: TrainSpec = spec(job)?;
        let version =
            self.datasets.version(&spec.dataset, Some(spec.dataset_version)).await.map_err(data_failure)?;
        let pipeline = pipeline_for(&version)?;
        write_json(&folder.input("task.json"), &Task { pipeline, config: spec.config })?;
        for split in Split::ALL {
            let path = folder.input(&format!("{}.samples", split.as_str()));
            self.datasets.write_split(&version, split, &path).await.map_err(data_failure)?;
        }
        Ok(())
    }

    async fn publish(&self, job: &Job, folder: &JobFolder, batch: &mut Batch) -> Result<Outputs, JobFailure> {
        let spec: TrainSpec = spec(job)?;
        let task: Task = read_json(&folder.input("task.json"))?;
        let quality = quality::read(folder)?;
        let version = NewVersion {
            model: spec.model,
            onnx: read(&folder.output("model.onnx"))?.into(),
            pipeline: task.pipeline,
            source: Source::Trained { job: job.id.clone() },
            metrics: quality.metrics(),
            lineage: Lineage {
                dataset: spec.dataset.to_string(),
                dataset_version: spec.dataset_version,
                training_job: job.id.to_string(),
                recipe: String::new(),
            },
            quality: Some(quality),
            report: Some(read_json(&folder.output("report.json"))?),
            baseline: baseline::read(folder)?,
            licence: None,
            samples: None,
        };
        let version = self
            .registry
            .stage_version(batch, &Actor::system(), version, now_ms())
            .await
            .map_err(registry_failure)?;
        Ok(Outputs::from([("model.onnx".to_owned(), version.onnx)]))
    }
}

/// The job's spec, as its kind knows it.
pub(super) fn spec<T: serde::de::DeserializeOwned>(job: &Job) -> Result<T, JobFailure> {
    serde_json::from_value(job.spec.clone())
        .map_err(|e| JobFailure::new(ErrorCode::InvalidInput, e.to_string()))
}

/// What the child said.
pub(super) fn result<T: serde::de::DeserializeOwned>(job: &Job) -> Result<T, JobFailure> {
    serde_json::from_value(job.result.clone().unwrap_or_default())
        .map_err(|e| JobFailure::new(ErrorCode::Malformed, format!("the child's result: {e}")))
}

/// The work, in the child process.
pub(crate) fn run(context: &mut ChildContext) -> Result<Value, JobFailure> {
    let task: Task = read_json(&context.input("task.json"))?;
    let train = load(context, &task.pipeline, Split::Train)?;
    let validation = load(context, &task.pipeline, Split::Validation)?;
    let trained = flotilla_train::train(&task.config, &train, &validation, &mut Watch { context })
        .map_err(train_failure)?;
    let path = context.output("model.onnx");
    std::fs::write(&path, &trained.onnx).map_err(|e| io_failure("writing", &path, &e))?;
    write_json(
        &context.output("report.json"),
        &json!({ "config": task.config, "history": trained.history }),
    )?;

    // The exported file is what counts, not the trainer's copy.
    let mut model = Model::load(&task.pipeline, &trained.onnx).map_err(runtime_failure)?;
    let test = quality::judge(context, &mut model)?.metrics();
    baseline::write(context, &task.pipeline, &mut model)?;
    let result = TrainResult {
        algorithm: task.config.algorithm.name().to_owned(),
        parameters: trained.parameters,
        epochs: trained.epochs,
        best_epoch: trained.best_epoch,
        seconds: trained.seconds,
        test_accuracy: test.accuracy,
        test_correct: test.correct,
        test_samples: test.samples,
    };
    Ok(json!(result))
}

/// A split as training tensors, through the very pre-processing that devices run.
pub(super) fn load(context: &ChildContext, pipeline: &Pipeline, split: Split) -> Result<Images, JobFailure> {
    let preprocessor = Preprocessor::new(pipeline).map_err(runtime_failure)?;
    let Some(pictures) = preprocessor.pictures() else {
        return Err(JobFailure::new(ErrorCode::Unsupported, "training takes pictures only".to_owned()));
    };
    let [_, channels, height, width] = pictures.shape();
    let (mut pixels, mut labels) = (Vec::new(), Vec::new());
    for sample in each_sample(&context.input(&format!("{}.samples", split.as_str())))? {
        let (label, bytes) = sample?;
        let tensor = preprocessor.tensor(Input::Unsaid(&bytes)).map_err(runtime_failure)?;
        if pixels.len() + tensor.len() > IMAGES_VALUES {
            let detail = format!(
                "the {} split is over the {IMAGES_VALUES} pixel values that training takes: {} pictures of {width} x {height} are too many",
                split.as_str(),
                labels.len() + 1
            );
            return Err(JobFailure::new(ErrorCode::TooLarge, detail));
        }
        pixels.extend(tensor);
        labels.push(label);
    }
    Ok(Images { channels, height, width, classes: pipeline.labels(), pixels, labels })
}

/// Passes what training shows to the control plane.
struct Watch<'a> {
    context: &'a mut ChildContext,
}

impl Observer for Watch<'_> {
    fn epoch(&mut self, m: EpochMetrics) {
        let values = [
            ("train_loss", m.train_loss),
            ("train_accuracy", m.train_accuracy),
            ("validation_loss", m.validation_loss),
            ("validation_accuracy", m.validation_accuracy),
            ("learning_rate", m.learning_rate),
            ("seconds", m.seconds),
        ];
        self.context.metric(u64::from(m.epoch), &values);
        self.context.progress(u64::from(m.epoch), Some(u64::from(m.of)), "epochs");
    }

    fn cancelled(&self) -> bool {
        self.context.is_cancelled()
    }
}
