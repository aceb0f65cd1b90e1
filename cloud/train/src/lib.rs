//! Training algorithms and their export to ONNX.
//!
//! [`train`] takes images and gives an ONNX file with the (averaged) weights that did best on the validation images. It has no
//! storage and no network: whoever calls it reads the data, shows the progress and keeps the result. The numbers in
//! [`Trained`] describe the training only; what a model is worth is measured on its file, by the runtime.
//!
//! The walk: [`Config`] is checked, `network` is made from a `plan` and random weights, `fit` runs the epochs over
//! images changed by `augment` at the pace of `schedule`, with the layers of `kernel` put into the engine by
//! `operation`; `fold` merges each normalisation into the convolution before it, `export` writes the file.

mod augment;
mod config;
mod error;
mod export;
mod fit;
mod fold;
mod images;
mod kernel;
mod network;
mod observer;
mod operation;
mod plan;
mod schedule;
mod weights;

pub use config::{Algorithm, Augment, Config};
pub use error::{Error, Result};
pub use export::{INPUT, OUTPUT};
pub use fit::{Trained, train};
pub use images::{IMAGES_VALUES, Images};
pub use observer::{EpochMetrics, Observer, Silent};

#[cfg(test)]
mod tests;

#[cfg(test)]
mod update_tests;
