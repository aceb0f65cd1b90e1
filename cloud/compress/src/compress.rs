//! Compression from beginning to end: quantise, measure, fall back, report.

use std::collections::HashSet;
use std::ops::ControlFlow;

use flotilla_protocol::Digest;
use serde::{Deserialize, Serialize};

use crate::evaluate::relative_error;
use crate::plan::{Layer, Plan};
use crate::search::{Decision, Search};
use crate::{Budget, Error, Evaluate, Evaluation, LayerReport, Point, Precision, Recipe, Report, Result};

/// Samples on which the error of each layer is measured at most.
const MAX_CALIBRATION: usize = 4096;

/// How a model is compressed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Options {
    /// What to do; layers that lose too much are added to those that it keeps in f32.
    pub recipe: Recipe,
    /// Samples on which the error of each layer is measured.
    pub calibration_samples: usize,
    /// Layers that may be turned back to f32, one a step, to get within the budget.
    pub max_fallbacks: usize,
}

impl Default for Options {
    fn default() -> Self {
        Self { recipe: Recipe::default(), calibration_samples: 32, max_fallbacks: 8 }
    }
}

impl Options {
    fn check(&self) -> Result<()> {
        if (1..=MAX_CALIBRATION).contains(&self.calibration_samples) {
            return Ok(());
        }
        let problem = format!("{} is not between 1 and {MAX_CALIBRATION}", self.calibration_samples);
        Err(Error::Option { field: "calibration_samples", problem })
    }
}

/// What the work is at.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Progress {
    /// What is being done.
    pub stage: Stage,
    /// Steps of this stage that are done.
    pub done: usize,
    /// Steps of this stage.
    pub total: usize,
    /// The layer that comes next, where a stage goes through layers.
    pub layer: Option<String>,
}

/// What is being done.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Stage {
    /// The model is read and its weights are quantised.
    Quantise,
    /// The model before compression is measured.
    Baseline,
    /// The error of each layer is measured.
    Layers,
    /// A candidate is measured.
    Candidates,
}

/// A model within the budget.
#[derive(Clone, Debug, PartialEq)]
pub struct Compressed {
    /// The file.
    pub onnx: Vec<u8>,
    /// What was done and what it cost.
    pub report: Report,
}

/// Compresses a model, or fails where that costs more than the budget allows.
///
/// `progress` is called before each step; the work stops with [`Error::Cancelled`] when it says so.
pub fn compress(
    onnx: &[u8],
    options: &Options,
    budget: &Budget,
    evaluator: &mut dyn Evaluate,
    progress: &mut dyn FnMut(Progress) -> ControlFlow<()>,
) -> Result<Compressed> {
    options.check()?;
    budget.check()?;
    let mut tell = |stage, done, total, layer: Option<&str>| {
        let state = Progress { stage, done, total, layer: layer.map(str::to_owned) };
        if progress(state).is_break() { Err(Error::Cancelled) } else { Ok(()) }
    };
    tell(Stage::Quantise, 0, 1, None)?;
    let plan = Plan::new(onnx, &options.recipe)?;
    tell(Stage::Baseline, 0, 1, None)?;
    let before = evaluator.accuracy(onnx)?.checked(None)?;
    let reference = evaluator.outputs(onnx, options.calibration_samples)?;
    let mut errors = Vec::with_capacity(plan.layers.len());
    for (done, layer) in plan.layers.iter().enumerate() {
        let name = &layer.site.name;
        tell(Stage::Layers, done, plan.layers.len(), Some(name))?;
        let alone = plan.build(|other| other.site.name == *name)?;
        let outputs = evaluator.outputs(&alone, options.calibration_samples)?;
        errors.push(relative_error(&reference, &outputs)?);
    }
    let ranking = worst_first(&plan.layers, &errors);
    let mut search = Search::new(*budget, ranking.len(), options.max_fallbacks);
    let mut fallbacks = 0;
    let (candidate, reverted, after) = loop {
        let reverted = &ranking[..fallbacks];
        let candidates = options.max_fallbacks.min(ranking.len() - 1) + 1;
        tell(Stage::Candidates, fallbacks, candidates, reverted.last().copied())?;
        let candidate = plan.build(|layer| !reverted.contains(&layer.site.name.as_str()))?;
        let after = evaluator.accuracy(&candidate)?.checked(Some(before.total))?;
        let kept = reverted.iter().map(|&name| name.to_owned()).collect();
        let point = Point::new(kept, candidate.len() as u64, &before, &after);
        tracing::debug!(%point, "measured a candidate");
        match search.step(point) {
            Decision::Accept => break (candidate, reverted, after),
            Decision::Measure(next) => fallbacks = next,
            Decision::Refuse(refusal) => return Err(Error::OverBudget(refusal)),
        }
    };
    let mut recipe = options.recipe.clone();
    recipe.int8_weights.keep_float.extend(reverted.iter().map(|&name| name.to_owned()));
    let reverted: HashSet<&str> = reverted.iter().copied().collect();
    let layers = plan.layers.iter().zip(&errors);
    let layers = layers.map(|(layer, &error)| layer_report(layer, error, &reverted)).collect();
    let runs = Runs { before, after, points: search.into_points() };
    let report = report(onnx, &candidate, recipe, runs, layers, plan.skipped.clone());
    Ok(Compressed { onnx: candidate, report })
}

/// The layers' names, that with the largest error first; of equal ones that which comes first in the model.
fn worst_first<'a>(layers: &'a [Layer], errors: &[f64]) -> Vec<&'a str> {
    let mut ranking: Vec<(&Layer, f64)> = layers.iter().zip(errors.iter().copied()).collect();
    ranking.sort_by(|(_, a), (_, b)| b.total_cmp(a));
    ranking.into_iter().map(|(layer, _)| layer.site.name.as_str()).collect()
}

fn layer_report(layer: &Layer, output_error: f64, reverted: &HashSet<&str>) -> LayerReport {
    let float = reverted.contains(layer.site.name.as_str());
    LayerReport {
        name: layer.site.name.clone(),
        op: layer.site.op.clone(),
        nodes: layer.site.nodes.clone(),
        precision: if float { Precision::F32 } else { Precision::Int8 },
        elements: layer.site.elements,
        bytes_before: layer.bytes_before,
        bytes_after: if float { layer.bytes_before } else { layer.bytes_after },
        weight_sqnr_db: layer.sqnr_db,
        output_error,
    }
}

struct Runs {
    before: Evaluation,
    after: Evaluation,
    points: Vec<Point>,
}

fn report(
    source: &[u8],
    output: &[u8],
    recipe: Recipe,
    runs: Runs,
    layers: Vec<LayerReport>,
    skipped: Vec<crate::Skipped>,
) -> Report {
    let Runs { before, after, points } = runs;
    Report {
        recipe,
        source: Digest::of(source),
        output: Digest::of(output),
        bytes_before: source.len() as u64,
        bytes_after: output.len() as u64,
        samples: after.total,
        accuracy_before: before.accuracy(),
        accuracy_after: after.accuracy(),
        accuracy_drop: points.last().map_or(0.0, |point| point.drop),
        latency_before: before.latency,
        latency_after: after.latency,
        layers,
        skipped,
        measured: points,
    }
}
