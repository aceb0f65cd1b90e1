//! Why compression gives no result.

use std::fmt;

use flotilla_protocol::{Digest, ErrorCode};

use crate::{Breach, MAX_LAYERS, Point, Skipped};

/// The result of this crate's functions.
pub type Result<T> = std::result::Result<T, Error>;

/// Weights named in a message.
const LISTED: usize = 8;

/// Why compression gives no result.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The model file is not valid.
    #[error("the model file cannot be compressed")]
    Model(#[from] flotilla_onnx::Error),
    /// The model uses operators from before the form that is written here.
    #[error("the model uses opset {opset} and at least {needed} is needed: export it again with opset 13")]
    Opset {
        /// What the model uses.
        opset: i64,
        /// What is needed.
        needed: i64,
    },
    /// A weight is no finite number.
    #[error(
        "element {element} of weight `{tensor}` is not a finite number: the training has diverged, so train again \
         with a lower learning rate"
    )]
    NonFinite {
        /// Name of the tensor.
        tensor: String,
        /// Place of the element in row-major order.
        element: usize,
    },
    /// A weight does not have the axis that its operator needs.
    #[error("weight `{tensor}` has no axis {axis}: export the model again")]
    NoAxis {
        /// Name of the tensor.
        tensor: String,
        /// The axis.
        axis: usize,
    },
    /// The model has more layers than are measured one by one.
    #[error("the model has {layers} layers to quantise and the limit is {MAX_LAYERS}: raise `min_elements`")]
    TooManyLayers {
        /// Layers found.
        layers: usize,
    },
    /// There is no weight that can become smaller.
    #[error("{}", nothing(skipped))]
    NothingToCompress {
        /// The weights that were found, and why each cannot be used.
        skipped: Vec<Skipped>,
    },
    /// The recipe names a weight that the model does not have.
    #[error(
        "the recipe names the weight `{name}`, which the model does not have; its weights are {}",
        list(known)
    )]
    UnknownLayer {
        /// The name.
        name: String,
        /// The names there are.
        known: Vec<String>,
    },
    /// A recipe cannot be used.
    #[error("the recipe's {field} is not usable: {problem}")]
    Recipe {
        /// The field.
        field: &'static str,
        /// What is wrong with it.
        problem: String,
    },
    /// A step looks at calibration samples, and there are none.
    #[error(
        "step {step} of the recipe looks at calibration samples: give the calibration set, or leave that step out",
        step = step + 1
    )]
    NeedsCalibration {
        /// Place of the step, from 0.
        step: usize,
    },
    /// A calibration set cannot be used.
    #[error("the calibration set is not usable: {problem}")]
    Calibration {
        /// What is wrong with it.
        problem: String,
    },
    /// The recipe was made with another calibration set.
    #[error(
        "the recipe was made with the calibration set {needed}, and this is {found}: give the same samples"
    )]
    OtherCalibration {
        /// The set that the recipe names.
        needed: Digest,
        /// The set that was given.
        found: Digest,
    },
    /// A budget cannot be used.
    #[error("the budget's {field} is not usable: {problem}")]
    Budget {
        /// The field.
        field: &'static str,
        /// What is wrong with it.
        problem: String,
    },
    /// An option cannot be used.
    #[error("the option {field} is not usable: {problem}")]
    Option {
        /// The field.
        field: &'static str,
        /// What is wrong with it.
        problem: String,
    },
    /// There is nothing to measure on.
    #[error("there are no samples to measure accuracy on: give the test split of a dataset version")]
    NoSamples,
    /// Samples and labels do not belong together.
    #[error("there are {samples} samples but {labels} labels: every sample needs its own")]
    LabelCount {
        /// Samples given.
        samples: usize,
        /// Labels given.
        labels: usize,
    },
    /// What is known of the samples does not fit the model.
    #[error("the labels of the samples are not usable: {problem}")]
    Truths {
        /// What is wrong with them.
        problem: String,
    },
    /// A measurement makes no sense.
    #[error("the measurement is not usable: {problem}")]
    Evaluator {
        /// What is wrong with it.
        problem: String,
    },
    /// The runtime could not load or run a model.
    #[error("the runtime cannot measure the model")]
    Runtime(#[from] flotilla_runtime::Error),
    /// No candidate is within the budget. Nothing was written.
    #[error("{0}")]
    OverBudget(Box<OverBudget>),
    /// The caller stopped the work.
    #[error("the compression was cancelled; nothing was written")]
    Cancelled,
}

/// What was measured before compression was given up.
#[derive(Clone, Debug, PartialEq)]
pub struct OverBudget {
    /// In which ways the nearest candidate is over the budget.
    pub breaches: Vec<Breach>,
    /// The candidates nearest to the budget, best first.
    pub nearest: Vec<Point>,
    /// How many candidates were measured.
    pub measured: usize,
}

impl fmt::Display for OverBudget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let breaches: Vec<String> = self.breaches.iter().map(ToString::to_string).collect();
        let nearest: Vec<String> = self.nearest.iter().map(ToString::to_string).collect();
        write!(
            f,
            "no candidate is within the budget, so nothing ships: {}; {} measured, nearest first: {}; raise the \
             budget to one of these, or train a model that leaves more room",
            breaches.join(" and "),
            self.measured,
            nearest.join("; "),
        )
    }
}

fn nothing(skipped: &[Skipped]) -> String {
    let reasons: Vec<String> =
        skipped.iter().map(|s| format!("`{}` of {} {}", s.name, s.op, s.reason)).collect();
    let found = if reasons.is_empty() { "there is none at all".into() } else { list(&reasons) };
    format!(
        "the model has no Conv, Gemm or MatMul weight to make smaller: {found}; ship it as it is, or lower \
         `min_elements`"
    )
}

fn list(names: &[String]) -> String {
    match names.len().checked_sub(LISTED) {
        Some(more) if more > 0 => format!("{}, and {more} more", names[..LISTED].join(", ")),
        _ => names.join(", "),
    }
}

impl Error {
    /// The stable code of this error.
    #[must_use]
    pub fn code(&self) -> ErrorCode {
        match self {
            Self::Model(flotilla_onnx::Error::TooLarge { .. }) | Self::TooManyLayers { .. } => {
                ErrorCode::TooLarge
            }
            Self::Model(_) | Self::NonFinite { .. } | Self::NoAxis { .. } => ErrorCode::ModelInvalid,
            Self::Opset { .. } | Self::NothingToCompress { .. } => ErrorCode::ModelUnsupported,
            Self::UnknownLayer { .. }
            | Self::Recipe { .. }
            | Self::Budget { .. }
            | Self::Option { .. }
            | Self::NeedsCalibration { .. }
            | Self::Calibration { .. }
            | Self::OtherCalibration { .. }
            | Self::Truths { .. }
            | Self::LabelCount { .. } => ErrorCode::InvalidInput,
            Self::NoSamples => ErrorCode::DatasetTooSmall,
            Self::Evaluator { .. } => ErrorCode::InferenceFailed,
            Self::Runtime(error) => error.code(),
            Self::OverBudget(_) => ErrorCode::OverBudget,
            Self::Cancelled => ErrorCode::Cancelled,
        }
    }
}
