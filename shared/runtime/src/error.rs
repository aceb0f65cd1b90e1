//! Everything that can go wrong between raw input and prediction.

use flotilla_protocol::manifest::ReleaseError;
use flotilla_protocol::pipeline::InvalidPipeline;
use flotilla_protocol::{Digest, ErrorCode, limits};
use std::error::Error as StdError;

/// What libraries below say; they do not share one error type.
pub(crate) type Source = Box<dyn StdError + Send + Sync>;

/// The result of this crate's functions.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Why there is no prediction. [`Error::code`] is the stable form.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The pipeline breaks a bound.
    #[error("the model's pipeline cannot be executed")]
    Pipeline(#[from] InvalidPipeline),
    /// The manifest is not usable, or has no variant for this board and engine.
    #[error("the release cannot be loaded")]
    Release(#[from] ReleaseError),
    /// The variant is for an engine that this build does not have.
    #[error("this build has no engine {engine:?}; it runs {}", crate::engine::NAME)]
    UnknownEngine {
        /// The engine that was asked for.
        engine: String,
    },

    /// A file of the bundle could not be read.
    #[error("file {name} of the release cannot be read")]
    File {
        /// Its name.
        name: String,
        /// What the file system says.
        source: std::io::Error,
    },
    /// A file of the bundle is not the one that was signed.
    #[error("file {name} of the release is damaged: {problem}; fetch it again")]
    Damaged {
        /// Its name.
        name: String,
        /// What does not fit.
        problem: String,
    },

    /// The model file is not valid ONNX.
    #[error("the model file is not valid (step: {step})")]
    ModelInvalid {
        /// What was being done.
        step: &'static str,
        /// What the engine says.
        source: Source,
    },
    /// The engine cannot run an operator of the model, or not with these shapes.
    #[error("the engine cannot run this model (step: {step})")]
    ModelUnsupported {
        /// What was being done.
        step: &'static str,
        /// What the engine says.
        source: Source,
    },
    /// The model's inputs or outputs are not of a kind that this runtime serves.
    #[error("the model's interface is not supported: {0}")]
    Interface(String),
    /// The model's input is not what the pipeline makes.
    #[error("the model's input {name} is {model}, but the pipeline makes {pipeline:?}")]
    InputShape {
        /// The input.
        name: String,
        /// As the model file says.
        model: String,
        /// As the caller wants it.
        pipeline: Vec<usize>,
    },
    /// The model has not one output a label.
    #[error("the model gives {outputs} scores, but the pipeline names {labels} labels")]
    Labels {
        /// Values of the model's output.
        outputs: usize,
        /// Labels of the pipeline.
        labels: usize,
    },

    /// The bytes are no picture in a known format.
    #[error(
        "the input is no picture of a known kind ({}); raw pixels must have exactly the model's size and be sent as such",
        crate::PICTURES.join(", ")
    )]
    ImageFormat,
    /// The picture is broken.
    #[error("the {format} picture cannot be decoded")]
    ImageDecode {
        /// Its format.
        format: &'static str,
        /// What the decoder says.
        source: Source,
    },
    /// A picture could not be written.
    #[error("a picture cannot be encoded as PNG")]
    ImageEncode {
        /// What the encoder says.
        source: Source,
    },
    /// The picture is over the bounds, as its header says; it has not been decoded.
    #[error(
        "the picture has {width} x {height} pixels, over the bound of {} pixels or {} a side",
        limits::IMAGE_PIXELS,
        crate::IMAGE_SIDE
    )]
    ImageTooLarge {
        /// Columns.
        width: u32,
        /// Rows.
        height: u32,
    },
    /// The picture has another size, and the pipeline does not resize.
    #[error("the picture has {} x {} pixels; this model takes exactly {} x {}", got.0, got.1, need.0, need.1)]
    ImageSize {
        /// Columns and rows of the picture.
        got: (u32, u32),
        /// Columns and rows that are needed.
        need: (u32, u32),
    },
    /// Raw pixels of the wrong length.
    #[error(
        "raw input has {got} bytes; this model takes exactly {need} (rows x columns x channels, a byte each)"
    )]
    RawLength {
        /// Bytes received.
        got: usize,
        /// Bytes needed.
        need: usize,
    },

    /// The bytes are no recording in a known format.
    #[error("the input is no recording of a known kind ({}); convert it to WAV", crate::SOUNDS.join(", "))]
    SoundFormat,
    /// The recording is broken, or of a kind that is not read.
    #[error("the {format} recording cannot be decoded")]
    SoundDecode {
        /// Its format.
        format: &'static str,
        /// What is wrong with it.
        source: Source,
    },
    /// The recording is over the bounds.
    #[error(
        "the recording has {problem}, over the bound of {} bytes or {} samples a channel; send a shorter one",
        limits::PREDICT_INPUT,
        limits::SOUND_DECODED
    )]
    SoundTooLarge {
        /// What is too much.
        problem: String,
    },
    /// A feature of the recording is no finite number: its samples are too loud for floats of 32 bits.
    #[error(
        "value {index} of the recording's features is not a finite number; its samples must be within -1 and 1"
    )]
    SoundValue {
        /// Which value of the tensor.
        index: usize,
    },

    /// The bytes are no table.
    #[error("the input cannot be read as a table (JSON objects or arrays, or CSV): {0}")]
    TableFormat(String),
    /// Another number of rows than one.
    #[error("the table has {got} rows; exactly one is needed")]
    TableRows {
        /// Rows of the table; 2 stands for more than one.
        got: usize,
    },
    /// A row does not have the columns that it should.
    #[error("row {row} of the table {problem}")]
    TableRow {
        /// The row, from 1; a CSV file's header is none.
        row: usize,
        /// What is wrong with it.
        problem: String,
    },
    /// A cell's value cannot be used.
    #[error("row {row}, column {column:?} of the table: {problem}")]
    TableCell {
        /// The row, from 1; a CSV file's header is none.
        row: usize,
        /// The column's name.
        column: String,
        /// What is wrong with its value.
        problem: String,
    },
    /// The table is over the bounds.
    #[error("the table has more than {bound} {what}; send a smaller one")]
    TableTooLarge {
        /// How much is possible.
        bound: usize,
        /// Of what.
        what: &'static str,
    },
    /// Nothing can be learnt from a column.
    #[error("column {column:?} of the table cannot be learnt from: {problem}; leave it out")]
    TableColumn {
        /// The column's name.
        column: String,
        /// What is wrong with it.
        problem: String,
    },

    /// A tensor of the wrong length was passed to the engine.
    #[error("the tensor has {got} values; the model takes {need}")]
    TensorLength {
        /// Values passed.
        got: usize,
        /// Values needed.
        need: usize,
    },
    /// Raw samples that are no whole numbers of values.
    #[error(
        "raw input has {got} bytes; samples are little-endian 32-bit floats, one channel at the model's rate"
    )]
    SampleBytes {
        /// Bytes received.
        got: usize,
    },
    /// Raw tensors of the wrong length.
    #[error(
        "raw input has {got} bytes; this model takes exactly {need} (its tensors one after the other, little-endian)"
    )]
    TensorBytes {
        /// Bytes received.
        got: usize,
        /// Bytes needed.
        need: usize,
    },
    /// Tensors as JSON that cannot be used.
    #[error("the tensors cannot be read: {0}")]
    TensorDocument(String),
    /// A value that is no number to compute with.
    #[error("value {index} of input {name} is not a finite number")]
    TensorNotFinite {
        /// The input.
        name: String,
        /// The place of the value.
        index: usize,
    },
    /// The engine failed while it ran the model.
    #[error("the engine failed to run the model")]
    Run(#[source] Source),
    /// The model's answer is not a number.
    #[error("score {index} of the model's answer is not a finite number")]
    NotFinite {
        /// Which score.
        index: usize,
    },

    /// The baseline is unusable.
    #[error("the release's baseline is not usable: {0}")]
    Baseline(String),
    /// The golden vectors are unusable.
    #[error("the golden vectors are not usable: {0}")]
    Golden(String),
    /// The model does not give the golden outputs here.
    #[error("golden vector {vector} differs by {error} from its recorded scores; {tolerance} is acceptable")]
    GoldenMismatch {
        /// Index of the vector.
        vector: usize,
        /// Largest absolute difference of a score.
        error: f32,
        /// The bound.
        tolerance: f32,
    },
    /// One sample of an evaluation failed.
    #[error("sample {index} of the evaluation failed")]
    Sample {
        /// Its position.
        index: usize,
        /// Why.
        source: Box<Error>,
    },
    /// A sample's true label is not one of the model's.
    #[error("sample {index} has label index {label}, but the model has {labels} labels")]
    SampleLabel {
        /// Its position.
        index: usize,
        /// Its label.
        label: usize,
        /// Labels of the model.
        labels: usize,
    },
    /// What is true of a sample says nothing about answers of this kind.
    #[error("sample {index} cannot judge this model: what is known of it is {problem}")]
    SampleTruth {
        /// Its position.
        index: usize,
        /// What does not fit.
        problem: String,
    },
}

impl Error {
    /// The stable code.
    pub fn code(&self) -> ErrorCode {
        match self {
            Error::Pipeline(_)
            | Error::ImageSize { .. }
            | Error::RawLength { .. }
            | Error::TensorLength { .. }
            | Error::TensorBytes { .. }
            | Error::SampleBytes { .. }
            | Error::TensorDocument(_)
            | Error::TensorNotFinite { .. }
            | Error::TableRows { .. }
            | Error::TableRow { .. }
            | Error::TableCell { .. }
            | Error::TableColumn { .. }
            | Error::SampleLabel { .. }
            | Error::SampleTruth { .. } => ErrorCode::InvalidInput,
            Error::Release(e) => e.code(),
            Error::UnknownEngine { .. } => ErrorCode::Unsupported,
            Error::File { source, .. } if source.kind() == std::io::ErrorKind::NotFound => {
                ErrorCode::NotFound
            }
            Error::File { .. } => ErrorCode::StorageIo,
            Error::Damaged { .. } => ErrorCode::DigestMismatch,
            Error::ModelInvalid { .. } | Error::InputShape { .. } | Error::Labels { .. } => {
                ErrorCode::ModelInvalid
            }
            Error::ModelUnsupported { .. } | Error::Interface(_) => ErrorCode::ModelUnsupported,
            Error::ImageFormat | Error::ImageDecode { .. } => ErrorCode::SampleInvalid,
            Error::SoundFormat
            | Error::SoundDecode { .. }
            | Error::SoundValue { .. }
            | Error::TableFormat(_) => ErrorCode::SampleInvalid,
            Error::ImageTooLarge { .. } | Error::SoundTooLarge { .. } | Error::TableTooLarge { .. } => {
                ErrorCode::TooLarge
            }
            Error::ImageEncode { .. } => ErrorCode::Internal,
            Error::Run(_) | Error::NotFinite { .. } => ErrorCode::InferenceFailed,
            Error::Golden(_) | Error::Baseline(_) => ErrorCode::Malformed,
            Error::GoldenMismatch { .. } => ErrorCode::ProbeMismatch,
            Error::Sample { source, .. } => source.code(),
        }
    }

    /// Whether the input is broken in itself: no release of any model could answer it, so it says nothing
    /// about the health of the one that serves.
    pub fn is_bad_input(&self) -> bool {
        matches!(
            self,
            Error::ImageFormat
                | Error::ImageDecode { .. }
                | Error::ImageTooLarge { .. }
                | Error::SoundFormat
                | Error::SoundDecode { .. }
                | Error::SoundTooLarge { .. }
                | Error::SoundValue { .. }
                | Error::SampleBytes { .. }
                | Error::TensorDocument(_)
                | Error::TensorNotFinite { .. }
                | Error::TableFormat(_)
                | Error::TableTooLarge { .. }
        )
    }

    /// The whole chain of causes as one line, cut to the bound of texts in messages.
    pub fn detail(&self) -> String {
        let mut text = self.to_string();
        let mut next = self.source();
        while let Some(cause) = next {
            text.push_str(": ");
            text.push_str(&cause.to_string());
            next = cause.source();
        }
        text.replace(['\n', '\r'], " ")
            .chars()
            .scan(0, |bytes, c| {
                *bytes += c.len_utf8();
                (*bytes <= limits::TEXT).then_some(c)
            })
            .collect()
    }

    pub(crate) fn digest(name: &str, expected: Digest, got: Digest) -> Self {
        let problem = format!("its digest is {}, not {}", got.short(), expected.short());
        Error::Damaged { name: name.to_owned(), problem }
    }
}

/// A panic inside a library, turned into an error.
#[derive(Debug, thiserror::Error)]
#[error("the library panicked: {0}")]
pub(crate) struct Panicked(String);

/// Runs `work`; a panic in it becomes an error. Builds that abort on panic end the process instead, which is
/// why a device tries every candidate in a child process first.
pub(crate) fn no_panic<T>(work: impl FnOnce() -> T) -> Result<T, Panicked> {
    std::panic::catch_unwind(std::panic::AssertUnwindSafe(work)).map_err(|payload| {
        let text = payload
            .downcast_ref::<&str>()
            .map(|text| (*text).to_owned())
            .or_else(|| payload.downcast_ref::<String>().cloned());
        Panicked(text.unwrap_or_else(|| "without a message".to_owned()))
    })
}
