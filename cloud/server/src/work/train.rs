//! Training jobs.

use super::pipelines::Draft;
use super::samples::{class, each_sample};
use super::{baseline, quality};
use super::{
    data_failure, io_failure, read, read_json, registry_failure, runtime_failure, train_failure, unsupported,
    write_json,
};
use async_trait::async_trait;
use flotilla_data::{Datasets, Split};
use flotilla_identity::{Actor, now_ms};
use flotilla_jobs::child::ChildContext;
use flotilla_jobs::{Handler, Job, JobFailure, JobFolder, Outputs};
use flotilla_protocol::manifest::Lineage;
use flotilla_protocol::pipeline::{Input as PipelineInput, Output};
use flotilla_protocol::{DatasetName, ErrorCode, ModelName, Pipeline, Truth};
use flotilla_registry::{NewVersion, Registry, Source};
use flotilla_runtime::engine::Given;
use flotilla_runtime::metrics::Metric;
use flotilla_runtime::{Input, Model, Preprocessor};
use flotilla_storage::Batch;
use flotilla_train::{Aims, Config, EpochMetrics, IMAGES_VALUES, Images, Observer, ROWS_VALUES, Rows};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// The file with the pipeline that the child made.
const PIPELINE: &str = "pipeline.json";
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
    /// Columns of a table that the model does not look at.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub leave_out: Vec<String>,
}

/// What the child gets beside the samples.
#[derive(Serialize, Deserialize)]
struct Task {
    draft: Draft,
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
    /// Where the model says classes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    test_accuracy: Option<f64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    test_correct: Option<u64>,
    test_samples: u64,
    /// The figure that it is judged by, and what it is on the test split.
    metric: Metric,
    value: Option<f64>,
    /// Columns that the model does not look at because nothing can be learnt of them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    left_out: Vec<String>,
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
        let draft = Draft::of(&version, &spec.leave_out)?;
        write_json(&folder.input("task.json"), &Task { draft, config: spec.config })?;
        for split in Split::ALL {
            let path = folder.input(&format!("{}.samples", split.as_str()));
            self.datasets.write_split(&version, split, &path).await.map_err(data_failure)?;
        }
        Ok(())
    }

    async fn publish(&self, job: &Job, folder: &JobFolder, batch: &mut Batch) -> Result<Outputs, JobFailure> {
        let spec: TrainSpec = spec(job)?;
        let quality = quality::read(folder)?;
        let version = NewVersion {
            model: spec.model,
            onnx: read(&folder.output("model.onnx"))?.into(),
            pipeline: read_json(&folder.output(PIPELINE))?,
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
    let (pipeline, left_out) = task.draft.learn(&split(context, Split::Train))?;
    write_json(&context.output(PIPELINE), &pipeline)?;
    let preprocessor = Preprocessor::new(&pipeline).map_err(runtime_failure)?;
    let trained = if let PipelineInput::Table(_) = &pipeline.input {
        let of = |part| rows(&split(context, part), &pipeline, &preprocessor);
        let (train, validation) = (of(Split::Train)?, of(Split::Validation)?);
        flotilla_train::train_rows(&task.config, &train, &validation, &mut Watch::new(context))
    } else {
        let of = |part: Split| images(&split(context, part), part, &pipeline, &preprocessor);
        let (train, validation) = (of(Split::Train)?, of(Split::Validation)?);
        flotilla_train::train(&task.config, &train, &validation, &mut Watch::new(context))
    };
    let trained = trained.map_err(train_failure)?;
    let path = context.output("model.onnx");
    std::fs::write(&path, &trained.onnx).map_err(|e| io_failure("writing", &path, &e))?;
    let config = used(&task.config)?;
    let report = json!({ "config": config, "history": trained.history, "left_out": left_out });
    write_json(&context.output("report.json"), &report)?;

    // The exported file is what counts, not the trainer's copy.
    let mut model = Model::load(&pipeline, &trained.onnx).map_err(runtime_failure)?;
    let quality = quality::judge(context, &mut model, None)?;
    baseline::write(context, &pipeline, &mut model)?;
    let classes = matches!(pipeline.output, Output::Classification(_)).then(|| quality.metrics());
    let result = TrainResult {
        algorithm: task.config.algorithm.name().to_owned(),
        parameters: trained.parameters,
        epochs: trained.epochs,
        best_epoch: trained.best_epoch,
        seconds: trained.seconds,
        test_accuracy: classes.as_ref().map(|metrics| metrics.accuracy),
        test_correct: classes.as_ref().map(|metrics| metrics.correct),
        test_samples: quality.samples,
        metric: quality.metric,
        value: quality.headline.value,
        left_out: left_out.into_iter().map(|left_out| left_out.column).collect(),
    };
    Ok(json!(result))
}

/// The settings that the algorithm goes by.
fn used(config: &Config) -> Result<Value, JobFailure> {
    let mut all =
        serde_json::to_value(config).map_err(|e| JobFailure::new(ErrorCode::Internal, e.to_string()))?;
    if let Some(all) = all.as_object_mut() {
        let others: &[&str] = if config.algorithm.takes_rows() { &["augment"] } else { &["hidden", "loss"] };
        others.iter().for_each(|setting| drop(all.remove(*setting)));
    }
    Ok(all)
}

fn split(context: &ChildContext, split: Split) -> PathBuf {
    context.input(&format!("{}.samples", split.as_str()))
}

/// A split of pictures or recordings, with the classes of the dataset.
pub(super) fn load(context: &ChildContext, pipeline: &Pipeline, part: Split) -> Result<Images, JobFailure> {
    let preprocessor = Preprocessor::new(pipeline).map_err(runtime_failure)?;
    images(&split(context, part), part, pipeline, &preprocessor)
}

/// A split of pictures or recordings as training tensors, through the very pre-processing that devices run.
fn images(
    path: &Path,
    split: Split,
    pipeline: &Pipeline,
    preprocessor: &Preprocessor,
) -> Result<Images, JobFailure> {
    let given = preprocessor.given();
    let [Given { shape, .. }] = &given[..] else { return Err(no_image()) };
    let [1, channels, height, width] = shape[..] else { return Err(no_image()) };
    let (mut pixels, mut labels) = (Vec::new(), Vec::new());
    for sample in each_sample(path)? {
        let (truth, bytes) = sample?;
        let tensor = preprocessor.tensor(Input::Unsaid(&bytes)).map_err(runtime_failure)?;
        if pixels.len() + tensor.len() > IMAGES_VALUES {
            return Err(too_many(split, IMAGES_VALUES, labels.len(), &format!("{width} x {height} values")));
        }
        pixels.extend(tensor);
        labels.push(class(&truth)?);
    }
    Ok(Images { channels, height, width, classes: pipeline.labels(), pixels, labels })
}

fn no_image() -> JobFailure {
    unsupported("training takes pictures, recordings and rows only".to_owned())
}

fn too_many(split: Split, bound: usize, samples: usize, size: &str) -> JobFailure {
    let split = split.as_str();
    let detail = format!(
        "the {split} split is over the {bound} values that training takes: {} samples of {size} are too many",
        samples + 1
    );
    JobFailure::new(ErrorCode::TooLarge, detail)
}

/// A split of rows as training tensors, through the very pre-processing that devices run.
fn rows(path: &Path, pipeline: &Pipeline, preprocessor: &Preprocessor) -> Result<Rows, JobFailure> {
    let (mut width, mut values) = (0, Vec::new());
    let (mut labels, mut targets) = (Vec::new(), Vec::new());
    for (index, sample) in each_sample(path)?.enumerate() {
        let (truth, bytes) = sample?;
        let row = preprocessor.tensor(Input::Encoded(&bytes)).map_err(runtime_failure)?;
        width = row.len();
        if values.len() + width > ROWS_VALUES {
            return Err(too_many(Split::Train, ROWS_VALUES, index, &format!("{width} values")));
        }
        values.extend(row);
        match truth {
            Truth::Values(truth) => targets.extend(truth),
            truth => labels.push(class(&truth)?),
        }
    }
    let aims = match &pipeline.output {
        Output::Regression(regression) => {
            let names = regression.targets.iter().map(|target| target.name.clone()).collect();
            Aims::Values { names, values: targets }
        }
        _ => Aims::Classes { names: pipeline.labels(), labels },
    };
    Ok(Rows { width, values, aims })
}

/// Passes what learning shows to the control plane.
pub(super) struct Watch<'a> {
    context: &'a mut ChildContext,
    doing: String,
}

impl<'a> Watch<'a> {
    pub(super) fn new(context: &'a mut ChildContext) -> Self {
        Self { context, doing: "epochs".to_owned() }
    }
}

impl Observer for Watch<'_> {
    fn epoch(&mut self, m: EpochMetrics) {
        let values = [
            ("train_loss", Some(m.train_loss)),
            ("train_accuracy", m.train_accuracy),
            ("validation_loss", Some(m.validation_loss)),
            ("validation_accuracy", m.validation_accuracy),
            ("validation_r2", m.validation_r2),
            ("learning_rate", Some(m.learning_rate)),
            ("seconds", Some(m.seconds)),
        ];
        let values: Vec<_> = values.into_iter().filter_map(|(name, value)| Some((name, value?))).collect();
        self.context.metric(u64::from(m.epoch), &values);
        self.context.progress(u64::from(m.epoch), Some(u64::from(m.of)), &self.doing);
    }

    fn begins(&mut self, what: &str) {
        what.clone_into(&mut self.doing);
        self.context.log(what);
    }

    fn cancelled(&self) -> bool {
        self.context.is_cancelled()
    }
}
