//! Compression of ONNX models under a measured accuracy budget.
//!
//! [`compress`] stores the weights of convolutions and matrix products as 8-bit integers, one scale an output channel,
//! and measures what that costs on the very bytes it gives back. A result outside the [`Budget`] is never given: the
//! layers that disturb the model's output most go back to 32-bit floats, and if that does not help, the call fails
//! with everything that was measured.
//!
//! - [`Recipe`]: what compression does. The same file and recipe always give the same bytes.
//! - [`Evaluate`]: how a candidate is measured; [`RuntimeEvaluator`] does it with the runtime that devices use.
//! - [`Report`]: bytes, accuracy and latency before and after, and the error of every layer.

mod budget;
mod compress;
mod error;
mod evaluate;
mod int8;
mod plan;
mod recipe;
mod report;
mod runtime;
mod search;
mod weights;

pub use budget::{Breach, Budget, Point};
pub use compress::{Compressed, Options, Progress, Stage, compress};
pub use error::{Error, OverBudget, Result};
pub use evaluate::{Evaluate, Evaluation};
pub use recipe::{Int8Weights, Recipe};
pub use report::{LayerReport, Precision, Report};
pub use runtime::RuntimeEvaluator;
pub use weights::{SkipReason, Skipped};

/// Layers that one model may have quantised. Each is measured alone, so this also bounds the time.
pub const MAX_LAYERS: usize = 1024;
