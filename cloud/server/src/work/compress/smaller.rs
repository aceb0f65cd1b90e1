//! Smaller networks of what was trained here: pruned, taught anew or trained with rounded weights; then the search for
//! their weights, under the same budget, on held-back data.

use super::super::train::{Watch, load};
use super::super::{JobFailure, train_failure};
use super::{RuntimeEvaluator, Task, failure, tell};
use flotilla_compress::{Compressed, Error, Made, Options, Tried, compress_made, smallest};
use flotilla_data::Split;
use flotilla_jobs::child::ChildContext;
use flotilla_protocol::{Digest, ErrorCode};
use flotilla_train::{Images, Shrink, Source, Way, shrink};
use serde::{Deserialize, Serialize};

/// Room under the budget's bytes that a network leaves for what the search for its weights adds.
const ROOM: f64 = 0.97;
/// Sizes that are tried under a budget of bytes: the largest that fits, and smaller ones.
const BELOW: [f64; 2] = [1.0, 0.7];

/// What makes a model smaller.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum, utoipa::ToSchema,
)]
#[serde(rename_all = "snake_case")]
pub enum Method {
    /// Weights in a smaller form. Any model.
    #[default]
    Weights,
    /// The least important channels go, and what is left learns on; then the weights.
    Prune,
    /// A network with fewer channels learns from the model; then the weights.
    Distil,
    /// The model learns on with rounded weights; then the weights.
    Qat,
    /// What is needed: the weights alone where a limit is met by them, else a pruned network, else one taught anew.
    Auto,
}

/// The smallest network within the budget.
pub(super) fn compress(
    context: &mut ChildContext,
    task: &Task,
    onnx: &[u8],
    evaluator: &mut RuntimeEvaluator<'_, Vec<u8>>,
) -> Result<Compressed, JobFailure> {
    let mut tried = Series { task, onnx, tried: Vec::new() };
    if task.method == Method::Auto {
        tried.weigh(context, evaluator, "weights", None)?;
        let limited = task.budget.max_bytes.is_some()
            || task.budget.max_latency_ms.is_some()
            || task.budget.max_peak_bytes.is_some();
        if limited && tried.fits() {
            return tried.best();
        }
    }
    let source = match Source::read(onnx) {
        Ok(source) if task.judged.labels.is_some() => source,
        // Another tool's model has weights alone.
        Ok(_) | Err(_) if task.method == Method::Auto => return tried.best(),
        Ok(_) => {
            let detail = "a smaller network learns from labelled samples, and there is no dataset with the model's labels: \
                          name one with --dataset, or use --method weights";
            return Err(JobFailure::new(ErrorCode::InvalidInput, detail));
        }
        Err(error) => return Err(train_failure(error)),
    };
    let [train, validation] =
        [Split::Train, Split::Validation].map(|split| learnt_from(context, task, split));
    let (train, validation) = (train?, validation?);
    let ways: &[Method] = match task.method {
        Method::Auto => &[Method::Prune, Method::Distil],
        _ => std::slice::from_ref(&task.method),
    };
    for (index, method) in ways.iter().enumerate() {
        // A student is taught only where no pruned network is within the budget.
        if index > 0 && tried.fits() {
            break;
        }
        let settings = settings(task, *method, source.bytes());
        let how =
            Networks { method: *method, settings, source: &source, train: &train, validation: &validation };
        tried.learn(context, evaluator, &how)?;
    }
    tried.best()
}

/// A split with the model's labels.
fn learnt_from(context: &ChildContext, task: &Task, split: Split) -> Result<Images, JobFailure> {
    let mut images = load(context, &task.pipeline, split)?;
    if let Some(labels) = &task.judged.labels {
        let label = |class: u32| labels.label(class).unwrap_or(u32::MAX);
        images.labels.iter_mut().for_each(|class| *class = label(*class));
    }
    Ok(images)
}

/// How networks of several sizes come about.
struct Networks<'a> {
    method: Method,
    settings: Shrink,
    source: &'a Source,
    train: &'a Images,
    validation: &'a Images,
}

/// The settings that a method and a budget ask for.
fn settings(task: &Task, method: Method, bytes: usize) -> Shrink {
    let mut settings = Shrink { max_drop: task.budget.max_drop.min(1.0), ..task.shrink.clone() };
    match method {
        Method::Distil => settings.way = Way::Student,
        Method::Qat => settings.shares = vec![1.0],
        Method::Weights | Method::Prune | Method::Auto => settings.way = Way::Prune,
    }
    if let Some(limit) = task.budget.max_bytes.filter(|_| method != Method::Qat) {
        let share = ROOM * limit as f64 / bytes.max(1) as f64;
        if share < 1.0 {
            settings.shares = BELOW.iter().map(|part| (part * share).max(0.001)).collect();
            settings.shares.dedup();
        }
    }
    settings
}

/// The networks so far, and what the search for their weights made of them.
struct Series<'a> {
    task: &'a Task,
    onnx: &'a [u8],
    tried: Vec<Tried>,
}

impl Series<'_> {
    /// Whether one of them is within the budget.
    fn fits(&self) -> bool {
        self.tried.iter().any(|tried| tried.result.is_ok())
    }

    fn best(self) -> Result<Compressed, JobFailure> {
        smallest(&self.task.budget, self.tried).map(|(_, compressed)| compressed).map_err(failure)
    }

    fn learn(
        &mut self,
        context: &mut ChildContext,
        evaluator: &mut RuntimeEvaluator<'_, Vec<u8>>,
        how: &Networks<'_>,
    ) -> Result<(), JobFailure> {
        let mut watch = Watch::new(context);
        let made = shrink(&how.settings, how.source, how.train, how.validation, &mut watch);
        let shrunk = match made {
            // What was found before says more than an error would.
            Err(flotilla_train::Error::OutOfReach { .. }) if !self.tried.is_empty() => return Ok(()),
            made => made.map_err(train_failure)?,
        };
        for point in shrunk.points {
            let verb = match how.method {
                Method::Distil => "taught anew",
                Method::Qat => "trained with rounded weights",
                Method::Weights | Method::Prune | Method::Auto => "pruned",
            };
            let name = match how.method {
                Method::Qat => verb.to_owned(),
                _ => format!("{verb} to {:.0} % of the multiplications", share(point.macs, shrunk.macs)),
            };
            let made = Made { how: name.clone(), float: Digest::of(&point.onnx), seed: how.settings.seed };
            self.weigh(context, evaluator, &name, Some((&point.onnx, made)))?;
        }
        Ok(())
    }

    /// The search for the weights of a network.
    fn weigh(
        &mut self,
        context: &ChildContext,
        evaluator: &mut RuntimeEvaluator<'_, Vec<u8>>,
        name: &str,
        network: Option<(&[u8], Made)>,
    ) -> Result<(), JobFailure> {
        let (onnx, made) = match network {
            Some((onnx, made)) => (onnx, Some(made)),
            None => (self.onnx, None),
        };
        let Task { budget, options, .. } = self.task;
        // Names of weights that stay floats are those of every network of the kind.
        let options = Options { recipe: None, ..options.clone() };
        let result = match compress_made(self.onnx, onnx, &options, budget, evaluator, &mut tell(context)) {
            Ok(mut compressed) => {
                compressed.report.made = made;
                Ok(compressed)
            }
            Err(Error::OverBudget(refused)) => Err(refused),
            Err(error) => return Err(failure(error)),
        };
        self.tried.push(Tried { name: name.to_owned(), result });
        Ok(())
    }
}

fn share(part: u64, whole: u64) -> f64 {
    100.0 * part as f64 / whole.max(1) as f64
}
