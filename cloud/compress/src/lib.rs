//! Compression of ONNX models under a measured accuracy budget.
//!
//! [`compress`] stores weights as 16-bit floats, 8-bit and 4-bit integers, after folding, equalisation and with rounding
//! and biases calibrated on samples, and measures what each combination costs on the very bytes that it makes. A result
//! outside the [`Budget`] is never given: the smallest candidate within it ships, and if there is none the call fails with
//! everything that was measured.
//!
//! - [`Recipe`]: what compression does, step by step. The same file, recipe and [`Calibration`] give the same bytes.
//! - [`Evaluate`]: how a candidate is measured; [`RuntimeEvaluator`] does it with the runtime that devices use, over raw
//!   inputs and what is true of them, or what the model before says of them; [`TensorEvaluator`] over tensors.
//! - [`Report`]: the candidates that no other beats, the error of every layer, and the recipe that was chosen.

mod apply;
mod budget;
mod calibration;
mod compress;
mod drawn;
mod error;
mod evaluate;
mod forms;
mod gram;
mod int4;
mod int8;
mod judged;
mod ladder;
mod layer;
mod recipe;
mod reconstruct;
mod report;
mod runtime;
mod search;
mod series;
mod tensors;
mod transform;
mod weights;

pub use budget::{Breach, Budget, Point};
pub use calibration::{Calibration, MAX_CALIBRATION};
pub use compress::{Compressed, FourBit, Options, Progress, Stage, compress, compress_made};
pub use error::{Error, OverBudget, Result};
pub use evaluate::{Evaluate, Evaluation, Outcomes};
pub use flotilla_runtime::metrics::Metric;
pub use recipe::{Clip, Form, Means, Recipe, Rounding, Step, Weights};
pub use report::{LayerReport, Made, Precision, Report, Warning};
pub use runtime::RuntimeEvaluator;
pub use series::{Tried, smallest};
pub use tensors::{Judge, TensorEvaluator};
pub use weights::{SkipReason, Skipped};

/// Layers that one model may have quantised. Each is measured alone, so this also bounds the time.
pub const MAX_LAYERS: usize = 1024;
