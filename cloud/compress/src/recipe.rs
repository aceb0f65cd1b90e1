//! What compression does to a model, as data: it can be kept with the model and replayed on the same file.

use std::fmt;

use flotilla_protocol::Digest;
use serde::{Deserialize, Serialize};

use crate::{Calibration, Error, MAX_LAYERS, Result};

mod old;

/// The version of the recipe format that this build writes.
const FORMAT: u16 = 2;
/// Steps of one recipe at most.
const MAX_STEPS: usize = 64;
/// Clipping ratios that are tried for one channel at most.
const MAX_CLIP_RATIOS: usize = 32;
/// Rounds of equalisation at most.
const MAX_ROUNDS: u8 = 100;

/// What compression does to a model: steps, one after another.
///
/// All parameters are integers and text, so that a recipe is the same after any number of trips through JSON or CBOR.
/// The same file, recipe and calibration set give the same bytes. Steps that look at samples run the model, so their
/// roundings are those of one kind of processor: another one, whose sums differ in their last bits, may now and then
/// round a weight the other way. A recipe without such steps gives the same bytes everywhere.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "old::AnyRecipe")]
pub struct Recipe {
    /// Format version: 2. Recipes of version 1 are read, too.
    pub format: u16,
    /// The calibration set that steps look at.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub calibration: Option<Digest>,
    /// The steps, in order.
    pub steps: Vec<Step>,
}

/// One step of a recipe.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "do", rename_all = "snake_case", deny_unknown_fields)]
pub enum Step {
    /// Leaves out what only people read: notes on nodes and tensors, and the declared shapes of inner values, which
    /// engines infer anyway.
    StripNotes {
        /// Whether the notes on model, graph, inputs and outputs go as well.
        #[serde(default)]
        everywhere: bool,
    },
    /// Folds batch normalisation and constant factors and shifts into the layers before them.
    Fold {},
    /// Moves ranges of weights between neighbouring layers.
    Equalise {
        /// How often it goes through all pairs.
        rounds: u8,
    },
    /// Stores weights in a smaller form. Weights that an earlier step has stored are not looked at again.
    Weights(Weights),
    /// Takes back, in the biases, how rounding has moved the means of layers' outputs.
    CorrectBias {
        /// Where means come from.
        by: Means,
    },
    /// Keeps equal constants once and gives inner values short names. Nothing that names a value may come after it.
    Tidy {},
}

/// Where bias correction takes means from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Means {
    /// Calibration samples, run through the model.
    Samples,
    /// What batch normalisation knew, before it was folded. No sample is needed.
    Norms,
}

/// Weights in a smaller form.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Weights {
    /// The form.
    pub form: Form,
    /// Weights with fewer elements stay as they are.
    #[serde(default = "min_elements")]
    pub min_elements: u64,
    /// How the range of a channel is chosen; for 8 bits.
    #[serde(default)]
    pub clip: Clip,
    /// How elements are rounded; for 8 and 4 bits.
    #[serde(default)]
    pub rounding: Rounding,
    /// Whether scales are stored as 16-bit floats where that loses nothing that counts; weights are rounded to the
    /// scales as they are stored.
    #[serde(default)]
    pub half_scales: bool,
    /// Names of the weights that are meant; all, if none is named.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub only: Vec<String>,
    /// Names of weights that are left as they are.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub except: Vec<String>,
}

/// The form in which a weight is stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Form {
    /// 16-bit floats, and a `Cast`. Biases and other constants are weights as well here.
    F16,
    /// 8-bit integers, symmetric, with a scale an output channel: `Cast` and `Mul`.
    Int8,
    /// 4-bit integers in blocks of at most 32, symmetric, unpacked by operators of the standard set when the model is
    /// loaded. As fast as floats, and as large in memory.
    Int4,
    /// 4-bit integers in blocks of 32 with zero points, for dense layers alone, as `MatMulNBits` of `com.microsoft`: it
    /// stays small in memory, and is known to ONNX Runtime and tract, not to the ONNX standard.
    MatMulNBits,
}

/// How the range of a channel is chosen.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Clip {
    /// By the smallest squared error of these ratios, in per cent of the largest magnitude: a grid search as in Nagel et
    /// al., "A White Paper on Neural Network Quantization" (arXiv:2106.08295), section 3.1, and Choukroun et al.,
    /// "Low-bit Quantization of Neural Networks for Efficient Inference" (arXiv:1902.06822).
    Mse(Vec<u8>),
    /// By the magnitude that so many ten-thousandths of the elements stay below.
    Percentile(u16),
}

/// How elements are rounded.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Rounding {
    /// To the nearest.
    #[default]
    Nearest,
    /// So that the layer's output on calibration samples is off least.
    Reconstruct,
}

const fn min_elements() -> u64 {
    256
}

impl Default for Clip {
    fn default() -> Self {
        Self::Mse(vec![100, 95, 90, 85, 80, 75, 70])
    }
}

impl Weights {
    /// All weights in this form, rounded to the nearest.
    #[must_use]
    pub fn new(form: Form) -> Self {
        Self {
            form,
            min_elements: min_elements(),
            clip: Clip::default(),
            rounding: Rounding::Nearest,
            half_scales: false,
            only: Vec::new(),
            except: Vec::new(),
        }
    }
}

/// 8-bit weights and nothing else.
impl Default for Recipe {
    fn default() -> Self {
        Self::new(vec![Step::StripNotes { everywhere: false }, Step::Weights(Weights::new(Form::Int8))])
    }
}

impl Recipe {
    /// These steps.
    #[must_use]
    pub fn new(steps: Vec<Step>) -> Self {
        Self { format: FORMAT, calibration: None, steps }
    }

    /// The model that this recipe makes of `onnx`, without samples. Nothing is measured: that is what
    /// [`crate::compress`] is for.
    pub fn apply(&self, onnx: &[u8]) -> Result<Vec<u8>> {
        Ok(crate::apply::Workshop::new(onnx, None).build(self)?.onnx)
    }

    /// The model that this recipe makes of `onnx` with a calibration set, which must be the one that the recipe names.
    pub fn apply_with(&self, onnx: &[u8], calibration: &Calibration) -> Result<Vec<u8>> {
        self.check_calibration(calibration)?;
        Ok(crate::apply::Workshop::new(onnx, Some(calibration)).build(self)?.onnx)
    }

    /// Refuses another calibration set than the one that the recipe names.
    pub(crate) fn check_calibration(&self, calibration: &Calibration) -> Result<()> {
        let found = calibration.digest();
        match &self.calibration {
            Some(needed) if *needed != found => Err(Error::OtherCalibration { needed: *needed, found }),
            _ => Ok(()),
        }
    }

    /// Whether a step looks at calibration samples.
    #[must_use]
    pub fn needs_samples(&self) -> bool {
        self.steps.iter().any(Step::needs_samples)
    }

    /// Checks the version and every bound.
    pub fn check(&self) -> Result<()> {
        let fail = |field, problem: String| Err(Error::Recipe { field, problem });
        if self.format != FORMAT {
            return fail("format", format!("version {} is not known here, only 1 and {FORMAT}", self.format));
        }
        if self.steps.is_empty() || self.steps.len() > MAX_STEPS {
            return fail("steps", format!("{} steps; give 1 to {MAX_STEPS}", self.steps.len()));
        }
        let tidy = self.steps.iter().position(|step| matches!(step, Step::Tidy {}));
        if tidy.is_some_and(|place| place + 1 != self.steps.len()) {
            return fail("steps", "`tidy` takes names away, so it must be the last step".into());
        }
        self.steps.iter().try_for_each(Step::check)
    }
}

impl Step {
    /// Whether it looks at calibration samples.
    pub(crate) fn needs_samples(&self) -> bool {
        match self {
            Self::Weights(weights) => weights.rounding == Rounding::Reconstruct,
            Self::CorrectBias { by } => *by == Means::Samples,
            _ => false,
        }
    }

    fn check(&self) -> Result<()> {
        let fail = |field, problem: String| Err(Error::Recipe { field, problem });
        let weights = match self {
            Self::Equalise { rounds } if !(1..=MAX_ROUNDS).contains(rounds) => {
                return fail("rounds", format!("{rounds} is not between 1 and {MAX_ROUNDS}"));
            }
            Self::Weights(weights) => weights,
            _ => return Ok(()),
        };
        if weights.min_elements == 0 {
            return fail("min_elements", "it must be at least 1".into());
        }
        match &weights.clip {
            Clip::Mse(ratios) if ratios.is_empty() || ratios.len() > MAX_CLIP_RATIOS => {
                return fail("clip", format!("{} ratios; give 1 to {MAX_CLIP_RATIOS}", ratios.len()));
            }
            Clip::Mse(ratios) => {
                if let Some(ratio) = ratios.iter().find(|ratio| !(1..=100).contains(*ratio)) {
                    return fail("clip", format!("{ratio} is not between 1 and 100"));
                }
            }
            Clip::Percentile(share) if !(1..=10_000).contains(share) => {
                return fail("clip", format!("{share} is not between 1 and 10000"));
            }
            Clip::Percentile(_) => {}
        }
        for (field, names) in [("only", &weights.only), ("except", &weights.except)] {
            if names.len() > MAX_LAYERS {
                return fail(field, format!("{} names; the limit is {MAX_LAYERS}", names.len()));
            }
        }
        Ok(())
    }
}

impl fmt::Display for Form {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::F16 => "f16",
            Self::Int8 => "int8",
            Self::Int4 => "int4",
            Self::MatMulNBits => "4-bit MatMulNBits",
        })
    }
}

impl fmt::Display for Recipe {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut parts: Vec<String> = Vec::new();
        for step in &self.steps {
            parts.push(match step {
                Step::StripNotes { .. } | Step::Tidy {} => continue,
                Step::Fold {} => "folded".into(),
                Step::Equalise { .. } => "equalised".into(),
                Step::CorrectBias { .. } => "biases corrected".into(),
                Step::Weights(weights) => {
                    let named = match (weights.only.len(), weights.except.len()) {
                        (0, 0) => String::new(),
                        (0, kept) => format!(" except {kept}"),
                        (only, _) => format!(" for {only}"),
                    };
                    let rounding = match weights.rounding {
                        Rounding::Nearest => "",
                        Rounding::Reconstruct => ", reconstructed",
                    };
                    format!("{} weights{named}{rounding}", weights.form)
                }
            });
        }
        if parts.is_empty() { f.write_str("tidied") } else { f.write_str(&parts.join(", ")) }
    }
}
