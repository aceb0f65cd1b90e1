//! Why a training did not start or did not end.

use flotilla_protocol::ErrorCode;

/// The result of this crate's functions.
pub type Result<T> = std::result::Result<T, Error>;

/// Why a training did not start or did not end.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A setting is out of its bounds.
    #[error("training setting `{setting}` is {value}, and must be {bounds}")]
    Setting {
        /// Name of the setting.
        setting: &'static str,
        /// What it is.
        value: String,
        /// What it may be.
        bounds: &'static str,
    },
    /// There is nothing to learn from or to measure on.
    #[error("there are no {part} samples: use a dataset with more samples, or another split")]
    NoSamples {
        /// Which part of the dataset.
        part: &'static str,
    },
    /// All training images show one class.
    #[error(
        "all training samples are of {class}: a classifier needs at least two classes, so add labelled samples"
    )]
    OneClass {
        /// The only class.
        class: String,
    },
    /// An image set is not what it says.
    #[error("the {part} samples are inconsistent: {what} is {found}, and {expected} is needed")]
    Mismatch {
        /// Which part of the dataset.
        part: &'static str,
        /// What does not fit.
        what: &'static str,
        /// How it is.
        found: String,
        /// How it should be.
        expected: String,
    },
    /// A pixel is not a finite number.
    #[error(
        "the {part} sample at position {image} has a value that is no finite number: check the normalisation"
    )]
    NotFinite {
        /// Which part of the dataset.
        part: &'static str,
        /// Which image.
        image: usize,
    },
    /// The images or the work on them would take too much memory.
    #[error("{what} would be {found}, and at most {limit} is possible: {advice}")]
    TooLarge {
        /// What is too large.
        what: &'static str,
        /// How large it is.
        found: u64,
        /// How large it may be.
        limit: u64,
        /// What to do.
        advice: &'static str,
    },
    /// A network cannot be as its plan says.
    #[error("the network cannot be made: {problem}")]
    Plan {
        /// What is wrong with it.
        problem: String,
    },
    /// A file is no model that this crate can go on from.
    #[error(
        "the model cannot be trained further: {problem}. Pruning, distillation and quantisation-aware training need a \
         version that was trained here, before it was compressed; 8-bit weights work for any model"
    )]
    NotOurs {
        /// What it lacks.
        problem: String,
    },
    /// A model file cannot be read at all.
    #[error("the model file cannot be read")]
    Read(#[source] flotilla_onnx::Error),
    /// No network of the wanted size can be cut out of this one.
    #[error(
        "a file of {wanted} bytes is out of reach: the smallest network of this kind takes {least}, so ask for more bytes"
    )]
    OutOfReach {
        /// Bytes that were asked for.
        wanted: u64,
        /// Bytes of the smallest network.
        least: u64,
    },
    /// The loss is no number any more.
    #[error("training diverged in epoch {epoch}: lower the learning rate, which is {learning_rate}")]
    Diverged {
        /// The epoch, from 1.
        epoch: u32,
        /// The highest learning rate of the schedule.
        learning_rate: f64,
    },
    /// The observer asked to stop.
    #[error("training was cancelled in epoch {epoch}")]
    Cancelled {
        /// The epoch, from 1.
        epoch: u32,
    },
    /// The threads could not be started.
    #[error("the training threads could not be started: free some memory or ask for fewer threads")]
    Threads(#[source] rayon::ThreadPoolBuildError),
    /// The trained weights could not be read back or written as ONNX.
    #[error("the trained model could not be exported")]
    Export(#[source] flotilla_onnx::Error),
    /// The engine gave something else than was asked of it.
    #[error("the training engine gave {what} of another size or type than asked for")]
    Engine {
        /// What it gave.
        what: &'static str,
    },
}

impl Error {
    /// The stable code of this error.
    #[must_use]
    pub fn code(&self) -> ErrorCode {
        match self {
            Self::Setting { .. } | Self::Mismatch { .. } | Self::Plan { .. } => ErrorCode::InvalidInput,
            Self::NoSamples { .. } | Self::OneClass { .. } => ErrorCode::DatasetTooSmall,
            Self::NotFinite { .. } => ErrorCode::SampleInvalid,
            Self::TooLarge { .. } => ErrorCode::TooLarge,
            Self::Diverged { .. } | Self::Threads(_) => ErrorCode::TrainingFailed,
            Self::Cancelled { .. } => ErrorCode::Cancelled,
            Self::NotOurs { .. } => ErrorCode::ModelUnsupported,
            Self::OutOfReach { .. } => ErrorCode::OverBudget,
            Self::Export(source) | Self::Read(source) => source.code(),
            Self::Engine { .. } => ErrorCode::Internal,
        }
    }
}
