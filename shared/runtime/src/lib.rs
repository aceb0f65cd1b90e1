//! A model bundle in, predictions out: pre-processing, the engine, post-processing.
//!
//! - [`Bundle`]: a release's manifest and files, digests checked whenever a file is read.
//! - [`Model`]: a pipeline and an ONNX model, loaded; [`Model::predict`] turns an [`Input`] into a [`Prediction`]. What
//!   stateful networks keep between calls is kept a [`Stream`].
//! - [`Preprocessor`]: raw input to tensors. Training feeds its own networks through it, so that what a model
//!   learns from and what it later sees on a device cannot differ.
//! - [`sound`]: recordings to tensors, with the front ends of librosa, `tf.signal` and TensorFlow's micro front end.
//! - [`table`]: rows of JSON or CSV to tensors, and what has to be learnt from data for that.
//! - [`quality`]: how good a model is on samples whose truth is known; [`golden`]: vectors by which a device proves a
//!   candidate.
//! - [`metrics`]: how good predictions are, as pure functions: accuracy, mAP, AUC, R2 and the intervals around them.
//! - [`drift`]: how far what a model sees and answers is from its training.
//! - [`engine`]: the only module that knows which inference engine this is.
//!
//! The same code runs on the device, in training, in compression and in the cloud: the number a gate sees is
//! measured by what ships.

mod answer;
mod bundle;
pub mod drift;
pub mod engine;
mod error;
pub mod golden;
mod input;
mod latency;
pub mod metrics;
mod model;
mod numbers;
mod preprocess;
pub mod quality;
pub mod sound;
mod state;
pub mod table;
pub mod tensor;

pub use answer::{Anomaly, Answer, COMPARED, Headline, Label, Object, Prediction, Tensor, Value};
pub use bundle::Bundle;
pub use error::{Error, Result};
pub use golden::{GoldenReport, check_golden, make_golden};
pub use input::{AsInput, Input};
pub use latency::Latency;
pub use model::{Model, operators};
pub use numbers::Numbers;
pub use preprocess::{Frame, Pictures, Prepared, Preprocessor, encode_rgb, preprocess};
pub use quality::{Quality, Trial, judge};
pub use state::{STREAMS, Stream};
pub use tensor::{Port, Values};

/// The media types of pictures that this build decodes.
pub const PICTURES: &[&str] = if cfg!(feature = "media") {
    &["image/png", "image/jpeg", "image/webp", "image/bmp", "image/gif"]
} else {
    &["image/png", "image/jpeg"]
};
/// The media types of recordings that this build decodes.
pub const SOUNDS: &[&str] = if cfg!(feature = "media") {
    &["audio/wav", "audio/flac", "audio/ogg", "audio/mpeg"]
} else {
    &["audio/wav"]
};
/// Columns or rows of a picture at most, before and after resizing: what the JPEG format can express.
pub const IMAGE_SIDE: u32 = 65_535;
/// Memory that decoding one picture may take, in bytes: the largest picture with four bytes a pixel.
pub const DECODE_BYTES: u64 = 4 * flotilla_protocol::limits::IMAGE_PIXELS;
/// Largest file with golden vectors, in bytes.
pub const GOLDEN_BYTES: usize = 32 * flotilla_protocol::limits::MIB;
/// Golden vectors in one file at most.
pub const GOLDEN_VECTORS: usize = 1024;
