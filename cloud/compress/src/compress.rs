//! Compression from beginning to end: measure layers, measure candidates, choose, report.

use std::collections::HashMap;
use std::ops::ControlFlow;

use flotilla_protocol::Digest;
use flotilla_runtime::metrics::Metric;
use serde::{Deserialize, Serialize};

use crate::apply::{Built, Entry, Workshop};
use crate::evaluate::relative_error;
use crate::ladder::{Ladder, float_steps};
use crate::search::{Rung, Search};
use crate::{
    Budget, Calibration, Error, Evaluate, Evaluation, Form, LayerReport, MAX_CALIBRATION, Point, Precision,
    Recipe, Report, Result, Step, Warning, Weights,
};

/// How a model is compressed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Options {
    /// What to do, where that is known already; without it the best is searched for.
    pub recipe: Option<Recipe>,
    /// Samples on which rounding and biases are calibrated, at most.
    pub calibration_samples: usize,
    /// Samples on which the error of each layer is measured.
    pub layer_samples: usize,
    /// Layers that may be turned back to floats, one a step, to get within the budget.
    pub max_fallbacks: usize,
    /// Weights with fewer elements do not become integers.
    pub min_elements: u64,
    /// Names of weights that stay 32-bit floats.
    pub keep_float: Vec<String>,
    /// Whether layers may go to 4 bits, and how.
    pub four_bit: FourBit,
}

/// Whether layers may go to 4 bits, and how.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FourBit {
    /// They may not.
    Never,
    /// In operators of the ONNX standard: as fast as floats, and as large in memory.
    #[default]
    Standard,
    /// Dense layers alone, as `MatMulNBits`: small in memory too, a little slower, and known to few engines.
    Contrib,
}

impl FourBit {
    pub(crate) fn form(self) -> Option<Form> {
        match self {
            Self::Never => None,
            Self::Standard => Some(Form::Int4),
            Self::Contrib => Some(Form::MatMulNBits),
        }
    }
}

impl Default for Options {
    fn default() -> Self {
        Self {
            recipe: None,
            calibration_samples: 128,
            layer_samples: 32,
            max_fallbacks: 8,
            min_elements: 256,
            keep_float: Vec::new(),
            four_bit: FourBit::default(),
        }
    }
}

impl Options {
    fn check(&self) -> Result<()> {
        let bounded =
            [("calibration_samples", self.calibration_samples), ("layer_samples", self.layer_samples)];
        match bounded.into_iter().find(|(_, samples)| !(1..=MAX_CALIBRATION).contains(samples)) {
            Some((field, samples)) => Err(Error::Option {
                field,
                problem: format!("{samples} is not between 1 and {MAX_CALIBRATION}"),
            }),
            None if self.min_elements == 0 => {
                Err(Error::Option { field: "min_elements", problem: "it must be at least 1".into() })
            }
            None => Ok(()),
        }
    }
}

/// What the work is at.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Progress {
    /// What is being done.
    pub stage: Stage,
    /// Steps of this stage that are done.
    pub done: usize,
    /// Steps of this stage, at most.
    pub total: usize,
    /// The layer or candidate that comes next, where a stage goes through them.
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

/// How one layer takes being rounded alone.
#[derive(Clone, Debug)]
pub(crate) struct Sensitivity {
    pub(crate) entry: Entry,
    /// Relative error of the output with 8 bits.
    pub(crate) int8: f64,
    /// The same with 4 bits; none where the layer cannot have that form.
    pub(crate) int4: Option<f64>,
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
    compress_made(onnx, onnx, options, budget, evaluator, progress)
}

/// The same for a network that was made of `source`: what is lost, and how much smaller it is, is counted from there. The
/// recipe is for `onnx`.
pub fn compress_made(
    source: &[u8],
    onnx: &[u8],
    options: &Options,
    budget: &Budget,
    evaluator: &mut dyn Evaluate,
    progress: &mut dyn FnMut(Progress) -> ControlFlow<()>,
) -> Result<Compressed> {
    options.check()?;
    budget.check(evaluator.metric())?;
    let mut tell = |stage, done, total, layer: Option<&str>| {
        let state = Progress { stage, done, total, layer: layer.map(str::to_owned) };
        if progress(state).is_break() { Err(Error::Cancelled) } else { Ok(()) }
    };
    tell(Stage::Quantise, 0, 1, None)?;
    let calibration = match &options.recipe {
        Some(recipe) if !recipe.needs_samples() => None,
        _ => evaluator.calibration(options.calibration_samples)?,
    };
    if let (Some(recipe), Some(set)) = (&options.recipe, &calibration) {
        recipe.check_calibration(set)?;
    }
    let mut shop = Workshop::new(onnx, calibration.as_ref());
    let quantised = shop.build(&plain(options))?;

    tell(Stage::Baseline, 0, 1, None)?;
    let before = evaluator.evaluate(source)?.checked(None)?;
    let reference = evaluator.outputs(source, options.layer_samples)?;
    // What a layer does when it is rounded alone is seen beside the network that it is in.
    let own = if source == onnx { None } else { Some(evaluator.outputs(onnx, options.layer_samples)?) };
    let own = own.as_ref().unwrap_or(&reference);

    let mut layers = Vec::with_capacity(quantised.stored.len());
    for (done, entry) in quantised.stored.iter().enumerate() {
        tell(Stage::Layers, done, quantised.stored.len(), Some(&entry.site.name))?;
        layers.push(sensitivity(&mut shop, evaluator, options, own, entry)?);
    }

    let ladder = Ladder::new(options, &mut shop, calibration.as_ref(), layers)?;
    let mut search = Search::new(*budget, ladder.room());
    let mut warnings = warnings(options, budget, &before, calibration.as_ref(), &ladder, evaluator.drawn());
    // Of each candidate the recipe and the digest: files may be large, and are made again as they were.
    let mut made: Vec<(Rung, Recipe, Digest)> = Vec::new();
    let mut measured = 0;
    while let Some(rung) = search.next() {
        let base = search.base().map(|(tuning, _)| tuning);
        let (name, recipe) = ladder.candidate(rung, base);
        tell(Stage::Candidates, measured, search.at_most().max(measured + 1), Some(&name))?;
        measured += 1;
        let built = match shop.build(&recipe) {
            // No weight can have this form, or gains by it.
            Err(Error::NothingToCompress { .. }) if options.recipe.is_none() => {
                search.record(rung, None);
                continue;
            }
            built => built?,
        };
        let point = match measure(evaluator, options, &before, &reference, &name, &built) {
            Ok(point) => point,
            Err(Error::Runtime(problem)) if options.recipe.is_none() => {
                warnings.push(Warning::NotRun { candidate: name, problem: problem.to_string() });
                search.record(rung, None);
                continue;
            }
            Err(error) => return Err(error),
        };
        let (kept_float, four_bit) = ladder.named(rung);
        let point = Point { kept_float, four_bit, ..point };
        tracing::debug!(%point, "measured a candidate");
        search.record(rung, Some(point));
        made.push((rung, recipe, Digest::of(&built.onnx)));
    }

    let chosen = match search.best() {
        Ok((rung, _)) => made.iter().position(|(of, ..)| *of == rung),
        Err(refusal) => return Err(Error::OverBudget(refusal)),
    };
    let unusable = |problem: &str| Error::Evaluator { problem: problem.into() };
    // Recipes and points were recorded side by side.
    let place = chosen.ok_or_else(|| unusable("no candidate ran"))?;
    let (_, recipe, measured) = made.swap_remove(place);
    let built = shop.build(&recipe)?;
    if Digest::of(&built.onnx) != measured {
        return Err(unusable("the recipe made other bytes than those that were measured"));
    }
    let points = search.into_points();
    if points.len() > 1 {
        warnings.push(Warning::SameSamples { candidates: points.len() });
    }
    let report = report((source, budget), recipe, &built, &before, points, place, &ladder.layers, warnings);
    Ok(Compressed { onnx: built.onnx, report })
}

/// 8-bit weights that are rounded to the nearest, or what the caller's recipe does.
fn plain(options: &Options) -> Recipe {
    options.recipe.clone().unwrap_or_else(|| {
        let weights = Weights {
            min_elements: options.min_elements,
            except: options.keep_float.clone(),
            ..Weights::new(Form::Int8)
        };
        Recipe::new(float_steps(false).into_iter().chain([Step::Weights(weights)]).collect())
    })
}

/// How one layer takes being rounded alone.
fn sensitivity(
    shop: &mut Workshop<'_>,
    evaluator: &mut dyn Evaluate,
    options: &Options,
    reference: &[Vec<f32>],
    entry: &Entry,
) -> Result<Sensitivity> {
    let mut alone = |form: Form| -> Result<Option<f64>> {
        let weights = Weights { min_elements: 1, only: vec![entry.site.name.clone()], ..Weights::new(form) };
        let recipe = Recipe::new(float_steps(false).into_iter().chain([Step::Weights(weights)]).collect());
        let built = shop.build(&recipe)?;
        if built.stored.is_empty() {
            return Ok(None);
        }
        let outputs = evaluator.outputs(&built.onnx, options.layer_samples)?;
        relative_error(reference, &outputs).map(Some)
    };
    let four_bit = if options.recipe.is_some() { None } else { options.four_bit.form() };
    let int8 = if entry.form == Form::F16 { None } else { alone(Form::Int8)? };
    let int4 = match four_bit.map(alone).transpose() {
        // A form that the runtime cannot load is no candidate.
        Err(Error::Runtime(_)) => None,
        int4 => int4?.flatten(),
    };
    Ok(Sensitivity { entry: entry.clone(), int8: int8.unwrap_or_default(), int4 })
}

fn measure(
    evaluator: &mut dyn Evaluate,
    options: &Options,
    before: &Evaluation,
    reference: &[Vec<f32>],
    name: &str,
    built: &Built,
) -> Result<Point> {
    let after = evaluator.evaluate(&built.onnx)?.checked(Some(before))?;
    let outputs = evaluator.outputs(&built.onnx, options.layer_samples)?;
    let point = Point::new(name.to_owned(), built.onnx.len() as u64, before, &after);
    Ok(Point { output_error: Some(relative_error(reference, &outputs)?), ..point })
}

fn warnings(
    options: &Options,
    budget: &Budget,
    before: &Evaluation,
    calibration: Option<&Calibration>,
    ladder: &Ladder<'_>,
    drawn: Option<usize>,
) -> Vec<Warning> {
    let mut warnings = Vec::new();
    match calibration {
        None if options.recipe.is_none() => warnings.push(Warning::NoCalibration { by_norms: ladder.norms }),
        None => {}
        Some(set) => warnings.extend(set.only_class().map(|label| Warning::OneClass { label })),
    }
    if before.metric == Metric::Fidelity {
        warnings.push(Warning::NoLabels);
    }
    warnings.extend(drawn.map(|drawn| Warning::NoSamples { drawn }));
    if before.metric.is_share() && budget.max_drop * (before.total as f64) < 1.0 {
        warnings.push(Warning::FewSamples { samples: before.total });
    }
    warnings
}

#[expect(clippy::too_many_arguments, reason = "each is one field of the report")]
fn report(
    (source, budget): (&[u8], &Budget),
    recipe: Recipe,
    built: &Built,
    before: &Evaluation,
    points: Vec<Point>,
    chosen: usize,
    layers: &[Sensitivity],
    warnings: Vec<Warning>,
) -> Report {
    let after = &points[chosen];
    let stored: HashMap<&str, &Entry> =
        built.stored.iter().map(|entry| (entry.site.name.as_str(), entry)).collect();
    let layer = |sensitivity: &Sensitivity| {
        let Sensitivity { entry, int8, int4 } = sensitivity;
        let now = stored.get(entry.site.name.as_str());
        LayerReport {
            name: entry.site.name.clone(),
            op: entry.site.op.clone(),
            nodes: entry.site.nodes.clone(),
            precision: now.map_or(Precision::F32, |now| now.form.into()),
            elements: entry.site.elements,
            bytes_before: entry.bytes_before,
            bytes_after: now.map_or(entry.bytes_before, |now| now.bytes_after),
            weight_sqnr_db: now.and_then(|now| now.sqnr_db),
            output_error: *int8,
            output_error_int4: *int4,
        }
    };
    Report {
        recipe,
        source: Digest::of(source),
        output: Digest::of(&built.onnx),
        bytes_before: source.len() as u64,
        bytes_after: built.onnx.len() as u64,
        samples: before.total,
        metric: before.metric,
        value_before: before.value,
        value_after: after.value,
        drop: after.drop,
        drop_interval: after.drop_interval,
        latency_before: before.latency,
        latency_after: after.latency,
        macs_before: before.macs,
        peak_bytes_before: before.peak_bytes,
        layers: layers.iter().map(layer).collect(),
        skipped: built.skipped.clone(),
        chosen: Some(chosen),
        measured: points,
        warnings,
        budget: Some(*budget),
        latency_on: None,
        made: None,
    }
}
