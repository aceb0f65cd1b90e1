//! What compression did and what it cost.

use std::fmt;

use flotilla_protocol::Digest;
use flotilla_runtime::Latency;
use flotilla_runtime::metrics::Metric;
use serde::{Deserialize, Serialize};

use crate::{Budget, Form, Point, Recipe, Skipped};

mod plot;

/// What compression did and what it cost.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Report {
    /// What makes the result of the source; layers turned back to floats stand in it.
    pub recipe: Recipe,
    /// Digest of the file before.
    pub source: Digest,
    /// Digest of the file after.
    pub output: Digest,
    /// Size of the file before.
    pub bytes_before: u64,
    /// Size of the file after.
    pub bytes_after: u64,
    /// Samples on which metric and latency were measured.
    pub samples: u64,
    /// What was measured.
    #[serde(default)]
    pub metric: Metric,
    /// What came out before.
    #[serde(alias = "accuracy_before")]
    pub value_before: f64,
    /// What came out after.
    #[serde(alias = "accuracy_after")]
    pub value_after: f64,
    /// What is lost, in the unit of the metric; negative where something was gained.
    #[serde(alias = "accuracy_drop")]
    pub drop: f64,
    /// 95 % interval of what is lost, paired sample by sample; none where single samples are not known.
    #[serde(default)]
    pub drop_interval: Option<[f64; 2]>,
    /// Time of one prediction before.
    pub latency_before: Latency,
    /// Time of one prediction after.
    pub latency_after: Latency,
    /// Multiplications and additions of one prediction before.
    #[serde(default)]
    pub macs_before: Option<u64>,
    /// Memory of one prediction at its worst moment, before.
    #[serde(default)]
    pub peak_bytes_before: Option<u64>,
    /// Every layer that was quantised, at least for a trial.
    pub layers: Vec<LayerReport>,
    /// Weights that were left as they are, and why.
    pub skipped: Vec<Skipped>,
    /// Candidates that were measured, in order.
    pub measured: Vec<Point>,
    /// Place of the result among them; none in reports of earlier versions, where it is the last.
    #[serde(default)]
    pub chosen: Option<usize>,
    /// What a reader of the figures has to know.
    #[serde(default)]
    pub warnings: Vec<Warning>,
    /// What it might cost.
    #[serde(default)]
    pub budget: Option<Budget>,
    /// The board for which times were predicted; none where they were measured.
    #[serde(default)]
    pub latency_on: Option<String>,
    /// The smaller network that the recipe is for; none where it is for the source.
    #[serde(default)]
    pub made: Option<Made>,
}

/// A network that training made of the source.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Made {
    /// How it was made, in a few words.
    pub how: String,
    /// Digest of its file, with weights of 32-bit floats.
    pub float: Digest,
    /// Where the randomness of its training came from.
    pub seed: u64,
}

/// What a reader of a report has to know.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Warning {
    /// There were no calibration samples.
    NoCalibration {
        /// Whether biases were corrected by what batch normalisation knew instead.
        by_norms: bool,
    },
    /// All calibration samples are of one class.
    OneClass {
        /// Index of its label.
        label: usize,
    },
    /// There were no labels: the metric says how near the outputs stay to those of the model before.
    NoLabels,
    /// There was no sample at all: candidates were compared on inputs drawn by chance.
    NoSamples {
        /// How many were drawn.
        drawn: usize,
    },
    /// So few samples were measured on that a drop of the budget's size is one sample or less.
    FewSamples {
        /// How many there were.
        samples: u64,
    },
    /// The result was chosen by the same samples that its figures are of.
    SameSamples {
        /// Candidates that were measured on them.
        candidates: usize,
    },
    /// A candidate did not run and was left out.
    NotRun {
        /// What it is.
        candidate: String,
        /// What the runtime said.
        problem: String,
    },
}

impl fmt::Display for Warning {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoCalibration { by_norms } => {
                let biases = if *by_norms {
                    "biases were corrected by what batch normalisation knew"
                } else {
                    "biases were not corrected"
                };
                write!(f, "no calibration samples: weights were rounded to the nearest, and {biases}")
            }
            Self::OneClass { label } => {
                write!(f, "all calibration samples are of class {label}: what others need is not seen")
            }
            Self::NoLabels => f.write_str(
                "no labels: fidelity says how near outputs stay to those of the model before, not how right they are",
            ),
            Self::NoSamples { drawn } => write!(
                f,
                "no samples: {drawn} inputs were drawn by chance, which are nothing like real ones; measure again on a dataset or on sample files before anything depends on it",
            ),
            Self::FewSamples { samples } => {
                write!(f, "{samples} samples are too few to see a loss as small as the budget allows")
            }
            Self::SameSamples { candidates } => write!(
                f,
                "the result is one of {candidates} candidates that were held to the budget on the same samples as its \
                 figures are of: on others it may lose a little more"
            ),
            Self::NotRun { candidate, problem } => write!(f, "{candidate} was left out, for it did not run: {problem}"),
        }
    }
}

/// What compression did to one layer.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct LayerReport {
    /// Name of the weight tensor.
    pub name: String,
    /// Operator that reads it.
    pub op: String,
    /// Names of the nodes that read it.
    pub nodes: Vec<String>,
    /// Form in which the result holds it.
    pub precision: Precision,
    /// Elements of the weight.
    pub elements: u64,
    /// Its bytes in the file before.
    pub bytes_before: u64,
    /// Its bytes in the file after, scales and nodes included.
    pub bytes_after: u64,
    /// Signal to quantisation noise of the weight in the form that it has in the result, in decibels; none where it is
    /// exact.
    pub weight_sqnr_db: Option<f64>,
    /// Relative L2 error of the model's output when only this layer is int8, rounded to the nearest.
    pub output_error: f64,
    /// The same with 4 bits; none where that was not tried.
    #[serde(default)]
    pub output_error_int4: Option<f64>,
}

/// The form in which a weight is stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Precision {
    /// 4-bit integers with a scale a block.
    Int4,
    /// 8-bit integers with a scale a channel.
    Int8,
    /// 16-bit floats.
    F16,
    /// 32-bit floats.
    F32,
}

impl From<Form> for Precision {
    fn from(form: Form) -> Self {
        match form {
            Form::F16 => Self::F16,
            Form::Int8 => Self::Int8,
            Form::Int4 | Form::MatMulNBits => Self::Int4,
        }
    }
}
