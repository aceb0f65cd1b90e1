//! The candidates of a search as recipes.

use crate::apply::Workshop;
use crate::compress::Sensitivity;
use crate::search::{Room, Rung, Tuning};
use crate::{Calibration, Form, Means, Options, Recipe, Result, Rounding, Step, Weights};

/// Rounds of equalisation: after these ranges hardly move any more.
const ROUNDS: u8 = 20;
/// Constants with fewer elements are smaller as 32-bit floats than as 16-bit ones with a `Cast`.
const HALF_ELEMENTS: u64 = 16;

/// The candidates of a search as recipes.
pub(crate) struct Ladder<'a> {
    options: &'a Options,
    calibration: Option<&'a Calibration>,
    /// Whether batch normalisation left means to correct biases by.
    pub(crate) norms: bool,
    /// Whether there are layers to equalise.
    pairs: bool,
    pub(crate) layers: Vec<Sensitivity>,
}

/// What leaves all weights floats.
pub(crate) fn float_steps(equalised: bool) -> Vec<Step> {
    let equalise = equalised.then_some(Step::Equalise { rounds: ROUNDS });
    [Step::StripNotes { everywhere: true }, Step::Fold {}].into_iter().chain(equalise).collect()
}

impl<'a> Ladder<'a> {
    pub(crate) fn new(
        options: &'a Options,
        shop: &mut Workshop<'_>,
        calibration: Option<&'a Calibration>,
        layers: Vec<Sensitivity>,
    ) -> Result<Self> {
        let prepared = shop.prepare(&float_steps(true))?;
        let (norms, pairs) = (!prepared.norms.0.is_empty(), !prepared.equalised.pairs.is_empty());
        Ok(Self { options, calibration, norms, pairs, layers })
    }

    pub(crate) fn room(&self) -> Room {
        Room {
            given: self.options.recipe.is_some(),
            layers: self.layers.len(),
            four_bit: self.layers.iter().filter(|layer| layer.int4.is_some()).count(),
            corrected: self.calibration.is_some() || self.norms,
            equalised: self.pairs,
            max_fallbacks: self.options.max_fallbacks,
        }
    }

    /// A candidate's name and recipe; `base` is what the last ones are made from.
    pub(crate) fn candidate(&self, rung: Rung, base: Option<Tuning>) -> (String, Recipe) {
        let base = base.unwrap_or(Tuning::Plain);
        let (name, steps) = match rung {
            Rung::Given => {
                let recipe = self.options.recipe.clone().unwrap_or_default();
                return (recipe.to_string(), recipe);
            }
            Rung::Exact => ("f32, folded".to_owned(), float_steps(false)),
            Rung::Half => ("f16".to_owned(), float_steps(false).into_iter().chain([self.halves()]).collect()),
            Rung::Int8(tuning) => (format!("int8{}", suffix(tuning)), self.integers(tuning, &[], &[])),
            Rung::Float(layers) => {
                let steps = self.integers(base, &self.worst(layers), &[]);
                (format!("int8{}, {layers} in f16", suffix(base)), steps)
            }
            Rung::Four(layers) => {
                let steps = self.integers(base, &[], &self.gentlest(layers));
                (format!("int4 for {layers}, else int8{}", suffix(base)), steps)
            }
        };
        let mut recipe = Recipe::new(steps.into_iter().chain([Step::Tidy {}]).collect());
        if recipe.needs_samples() {
            recipe.calibration = self.calibration.map(Calibration::digest);
        }
        (name, recipe)
    }

    /// Names of the layers that a candidate holds in floats, and of those that it holds in 4 bits.
    pub(crate) fn named(&self, rung: Rung) -> (Vec<String>, Vec<String>) {
        match rung {
            Rung::Float(layers) => (self.worst(layers), Vec::new()),
            Rung::Four(layers) => (Vec::new(), self.gentlest(layers)),
            _ => (Vec::new(), Vec::new()),
        }
    }

    /// Integers, corrected as `tuning` says, and 16-bit floats for the rest.
    fn integers(&self, tuning: Tuning, floats: &[String], four_bit: &[String]) -> Vec<Step> {
        let mut steps = float_steps(tuning == Tuning::Equalised);
        let reconstruct = self.calibration.is_some() && tuning != Tuning::Plain;
        let rounding = if reconstruct { Rounding::Reconstruct } else { Rounding::Nearest };
        let form = self.options.four_bit.form().filter(|_| !four_bit.is_empty());
        // Rounding 4 bits to the nearest is never better where samples show what matters.
        let fine = if self.calibration.is_some() { Rounding::Reconstruct } else { Rounding::Nearest };
        steps.extend(form.map(|form| {
            let only = four_bit.to_vec();
            Step::Weights(Weights { min_elements: 1, rounding: fine, only, ..Weights::new(form) })
        }));
        steps.push(Step::Weights(Weights {
            min_elements: self.options.min_elements,
            rounding,
            half_scales: true,
            except: self.options.keep_float.iter().chain(floats).cloned().collect(),
            ..Weights::new(Form::Int8)
        }));
        let corrects = tuning != Tuning::Plain || !four_bit.is_empty();
        let means = match self.calibration {
            Some(_) => Some(Means::Samples),
            None => self.norms.then_some(Means::Norms),
        };
        steps.extend(means.filter(|_| corrects).map(|by| Step::CorrectBias { by }));
        steps.push(self.halves());
        steps
    }

    fn halves(&self) -> Step {
        let except = self.options.keep_float.clone();
        Step::Weights(Weights { min_elements: HALF_ELEMENTS, except, ..Weights::new(Form::F16) })
    }

    /// The layers that go back to floats first: those that disturb the output most in 8 bits for what they save. Errors of
    /// layers add up about as squares, so it is the square that is set against the elements, as in a greedy knapsack. Of
    /// equal ones that comes first which does in the model.
    fn worst(&self, count: usize) -> Vec<String> {
        let cost = |layer: &&Sensitivity| -layer.int8.powi(2) / layer.entry.site.elements.max(1) as f64;
        names(self.layers.iter().collect(), cost, count)
    }

    /// The layers that go to 4 bits first: those that disturb the output least there for what they save.
    fn gentlest(&self, count: usize) -> Vec<String> {
        let cost = |layer: &&Sensitivity| {
            layer.int4.unwrap_or(f64::INFINITY).powi(2) / layer.entry.site.elements.max(1) as f64
        };
        names(self.layers.iter().filter(|layer| layer.int4.is_some()).collect(), cost, count)
    }
}

/// The names of so many layers that cost least.
fn names<'a>(
    mut layers: Vec<&'a Sensitivity>,
    cost: impl Fn(&&'a Sensitivity) -> f64,
    count: usize,
) -> Vec<String> {
    layers.sort_by(|a, b| cost(a).total_cmp(&cost(b)));
    layers.into_iter().take(count).map(|layer| layer.entry.site.name.clone()).collect()
}

fn suffix(tuning: Tuning) -> &'static str {
    match tuning {
        Tuning::Plain => "",
        Tuning::Corrected => ", corrected",
        Tuning::Equalised => ", equalised and corrected",
    }
}
