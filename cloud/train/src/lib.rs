//! Training algorithms, their export to ONNX, and making what they trained smaller.
//!
//! [`train`] takes images and gives an ONNX file with the (averaged) weights that did best on the validation images. It has no
//! storage and no network: whoever calls it reads the data, shows the progress and keeps the result. The numbers in
//! [`Trained`] describe the training only; what a model is worth is measured on its file, by the runtime.
//!
//! The walk: [`Config`] is checked, a `network` is made from a [`NetworkPlan`] and random weights, `fit` runs the epochs
//! over images changed by `augment` at the pace of `schedule`, with the layers of `kernel` and `convolve` put into the
//! engine by `operation`; `fold` merges each normalisation into the convolution before it, `export` writes the file, with
//! the plan in its metadata.
//!
//! [`train_rows`] does the same with rows of numbers and dense layers.
//!
//! [`shrink`] begins with such a file: [`Source`] reads it and puts the normalisations back, `importance` and `prune` take
//! channels out (which belong together says `wiring`), `distil` lets `fit` teach what is left by what it was, `rounding`
//! lets it learn with weights of few bits, so that `flotilla-compress` stores them without any loss; `size` foretells how
//! many bytes that will be.

mod augment;
mod config;
mod convolve;
mod distil;
mod error;
mod export;
mod fit;
mod fold;
mod images;
mod importance;
mod kernel;
mod network;
mod observer;
mod operation;
mod plan;
mod prune;
mod rounding;
mod rows;
mod schedule;
mod shrink;
mod size;
mod source;
mod weights;
mod wiring;

pub use config::{Algorithm, Augment, Config, Loss};
pub use distil::{Distil, Teacher};
pub use error::{Error, Result};
pub use export::{ACTIVATIONS_KEY, INPUT, NETWORK_KEY, OUTPUT};
pub use fit::{Trained, train, train_plan};
pub use images::{IMAGES_VALUES, Images};
pub use importance::Importance;
pub use observer::{EpochMetrics, Observer, Silent};
pub use plan::{NetworkPlan, Stage};
pub use rounding::Bits;
pub use rows::{Aims, ROW_WIDTH, ROWS_VALUES, Rows, train_rows};
pub use shrink::{Point, Shrink, Shrunk, Way, distil, shrink};
pub use size::Measure;
pub use source::Source;

#[cfg(test)]
mod shrink_tests;
#[cfg(test)]
mod tests;

#[cfg(test)]
mod update_tests;
