//! Models of other tools: what they are, cleaned up, with a pipeline to confirm.
//!
//! [`inspect`] takes the bytes of a file that somebody has brought. ONNX is read, cleaned up by `flotilla-onnx` and tried in the
//! engine; a ModelArts model package is opened and the ONNX in it taken, its Python code is never run; other formats are
//! recognised and refused with the command that converts them. The answer holds the bytes to register, a [`Report`] of
//! what the model is and costs, and a [`Guess`] of the pipeline around it with a [`Proposal`] made of it, for a person to
//! confirm.

mod cost;
mod error;
mod format;
mod guess;
mod inputs;
mod inspect;
mod integers;
mod labels;
mod package;
mod propose;
mod report;
mod weights;

pub use error::{Error, Result};
pub use flotilla_runtime::engine::Memory;
pub use format::Format;
pub use guess::{Colour, Detection, Guess, Input, Layout, Level, Normalisation, Output, State};
pub use inputs::generated_inputs;
pub use inspect::{Import, Options, inspect};
pub use package::{Metrics, Package};
pub use propose::{Point, Proposal};
pub use report::{Operator, Report, Tensor};

/// The largest file that is taken.
pub const MAX_BYTES: usize = flotilla_onnx::MAX_MODEL_BYTES;
