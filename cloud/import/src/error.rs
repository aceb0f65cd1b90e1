//! Why a file cannot be imported.

use flotilla_protocol::ErrorCode;

/// The result of this crate's functions.
pub type Result<T> = std::result::Result<T, Error>;

/// Why a file cannot be imported.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The file is larger than the limit.
    #[error("the file has {bytes} bytes and the limit is {limit}: use a smaller model")]
    TooLarge {
        /// Size of the file.
        bytes: usize,
        /// Size allowed.
        limit: usize,
    },
    /// The file is of another format.
    #[error("the file is {what}, not ONNX: {advice}")]
    Format {
        /// What it is.
        what: &'static str,
        /// How to make ONNX of it.
        advice: String,
    },
    /// An archive cannot be read.
    #[error("the archive cannot be read: {problem}")]
    Archive {
        /// What is wrong with it.
        problem: String,
    },
    /// An archive unpacks to more than its bound.
    #[error("the archive {problem}: it is damaged or made to exhaust memory")]
    ArchiveBomb {
        /// Which bound it breaks.
        problem: String,
    },
    /// An archive holds a path that leaves it.
    #[error("the archive holds `{path}`, which leaves it: pack it again with relative paths")]
    ArchivePath {
        /// The path.
        path: String,
    },
    /// A package holds no model that can be used.
    #[error("the package holds no usable model: {problem}")]
    Package {
        /// What is missing or wrong.
        problem: String,
    },
    /// The model file is not valid.
    #[error("the model cannot be imported")]
    Model(#[from] flotilla_onnx::Error),
    /// A weight is no finite number.
    #[error(
        "element {element} of weight `{tensor}` is {value}: the training has diverged, so train again with a lower \
         learning rate"
    )]
    NotFinite {
        /// Name of the tensor.
        tensor: String,
        /// Place of the element in row-major order.
        element: usize,
        /// What stands there.
        value: f32,
    },
    /// There are more or fewer labels than the model has classes.
    #[error(
        "{source_of} names {labels} labels, but the model gives {outputs} scores: give one label for each"
    )]
    Labels {
        /// Where the labels are from.
        source_of: &'static str,
        /// Labels given.
        labels: usize,
        /// Scores of the model.
        outputs: usize,
    },
    /// A label is empty or stands twice.
    #[error("the label `{label}` {problem}: every class needs a name of its own")]
    Label {
        /// The label.
        label: String,
        /// What is wrong with it.
        problem: &'static str,
    },
}

impl Error {
    /// The stable code of this error.
    #[must_use]
    pub fn code(&self) -> ErrorCode {
        match self {
            Self::TooLarge { .. } => ErrorCode::TooLarge,
            Self::Format { .. } => ErrorCode::ModelUnsupported,
            Self::Archive { .. } | Self::Package { .. } | Self::NotFinite { .. } => ErrorCode::ModelInvalid,
            Self::ArchiveBomb { .. } => ErrorCode::ArchiveBomb,
            Self::ArchivePath { .. } => ErrorCode::ArchivePath,
            Self::Model(error) => error.code(),
            Self::Labels { .. } | Self::Label { .. } => ErrorCode::InvalidInput,
        }
    }
}
