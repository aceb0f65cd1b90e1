//! The pipeline around a model, guessed from names, types and shapes. Each part says why, and a person confirms it.

mod input;
mod output;
mod state;

use std::collections::HashMap;

use flotilla_onnx::Model;
use flotilla_onnx::clean::Known;
use serde::Serialize;

pub(crate) use input::is_rate;
pub use output::{Detection, Level};

/// A guess at what goes in and what comes out.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Guess {
    /// What goes in.
    pub input: Input,
    /// What comes out.
    pub output: Output,
    /// Tensors that go from one call to the next.
    pub states: Vec<State>,
    /// What the guess rests on.
    pub why: Vec<String>,
}

/// What goes in.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "snake_case", tag = "kind")]
pub enum Input {
    /// A picture.
    Image {
        /// Order of the axes.
        layout: Layout,
        /// Columns; none where they are open.
        width: Option<usize>,
        /// Rows; none where they are open.
        height: Option<usize>,
        /// Colour channels.
        colour: Colour,
        /// How values of pixels become numbers of the tensor.
        normalisation: Normalisation,
    },
    /// Samples of sound.
    Sound {
        /// Samples of one call; none where they are open.
        samples: Option<usize>,
    },
    /// Features of sound, as log-mel or MFCC: frames by features.
    SoundFeatures {
        /// Frames of one call; none where they are open.
        frames: Option<usize>,
        /// Features of a frame; none where they are open.
        features: Option<usize>,
        /// How features become numbers of the tensor.
        normalisation: Normalisation,
    },
    /// Rows of a table.
    Table {
        /// Columns; none where they are open.
        columns: Option<usize>,
        /// How values become numbers of the tensor.
        normalisation: Normalisation,
    },
    /// Tensors as they are.
    Tensors,
}

/// Order of a picture's axes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Layout {
    /// Batch, channel, row, column.
    Nchw,
    /// Batch, row, column, channel.
    Nhwc,
}

/// Colour channels of a picture.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Colour {
    /// One channel.
    Grey,
    /// Three channels, in an order that shapes do not tell.
    Colour,
}

/// How values of an input become numbers.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
#[serde(rename_all = "snake_case", tag = "kind")]
pub enum Normalisation {
    /// Bytes as they are, 0 to 255: the model's first layers scale them.
    Bytes,
    /// Integers of this scale and zero point: a real number is `(integer - zero) * scale`.
    Quantised {
        /// The scale.
        scale: f32,
        /// The zero point.
        zero: i32,
        /// The largest real number: 1 or 255 tell how the training scaled its pixels.
        most: f32,
        /// The smallest real number.
        least: f32,
    },
    /// Nothing tells; 0 to 1 is the most usual.
    Unknown,
}

/// What comes out.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "snake_case", tag = "kind")]
pub enum Output {
    /// A score for each class.
    Classification {
        /// Number of classes.
        classes: usize,
        /// Whether the scores are probabilities already.
        probabilities: bool,
        /// Whether each class is for itself, so that several may hold.
        several: bool,
    },
    /// Boxes.
    Detection(Detection),
    /// Numbers.
    Regression {
        /// How many.
        values: usize,
    },
    /// The input again: how far it is from the original tells what is unusual.
    Anomaly,
    /// A vector that stands for the input.
    Embedding {
        /// Its length.
        length: usize,
    },
    /// A picture, map or signal.
    Tensors,
}

/// A tensor that a call gives and the next one takes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct State {
    /// The input that takes it.
    pub input: String,
    /// The output that gives it.
    pub output: String,
}

/// Guesses the pipeline of a cleaned model; the original has what quantisation said of the input.
pub(crate) fn guess(original: &Model, model: &Model, known: &HashMap<String, Known>, labels: usize) -> Guess {
    let mut why = Vec::new();
    let states = state::pairs(model, known, &mut why);
    let input = input::guess(original, model, &states, &mut why);
    let output =
        output::guess(&output::Scene { model, known, states: &states, input: &input, labels }, &mut why);
    Guess { input, output, states, why }
}
