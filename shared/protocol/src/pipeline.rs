//! The declarative pre- and post-processing of a model, carried in the release manifest.
//!
//! The same description runs in training, evaluation, cloud inference and on the device, so that no skew
//! between them can arise. `flotilla-runtime` executes it.

pub mod sound;
pub mod table;

use crate::limits;
use serde::{Deserialize, Serialize};

/// What stands between the raw input and the tensors, and between the tensors and the answer.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Pipeline {
    /// Format version: 1.
    pub format: u16,
    /// Raw input to tensor.
    pub input: Input,
    /// Tensor to answer.
    pub output: Output,
}

/// How raw input becomes a tensor.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Input {
    /// One picture.
    Image(ImageInput),
}

/// A picture to a tensor `[1, channels, height, width]` (f32).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ImageInput {
    /// Columns of the tensor.
    pub width: u32,
    /// Rows of the tensor.
    pub height: u32,
    /// Colour channels.
    pub colour: Colour,
    /// How a picture of another size is brought to `width` x `height`.
    pub resize: Resize,
    /// Order of the tensor's axes.
    pub layout: Layout,
    /// `value = (byte / 255 - mean) / std`, a channel.
    pub mean: Vec<f32>,
    /// See `mean`; never zero.
    pub std: Vec<f32>,
}

/// Colour channels of an image tensor.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Colour {
    /// One channel, BT.601 luma.
    Grey,
    /// Three channels in the order red, green, blue.
    Rgb,
}

impl Colour {
    /// Number of channels.
    pub fn channels(self) -> usize {
        match self {
            Colour::Grey => 1,
            Colour::Rgb => 3,
        }
    }
}

/// How a picture changes its size.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Resize {
    /// Both sides to the target, aspect not kept, bilinear.
    Stretch,
    /// No resizing: another size is an error.
    Exact,
}

/// Order of an image tensor's axes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Layout {
    /// Batch, channel, row, column.
    Nchw,
    /// Batch, row, column, channel.
    Nhwc,
}

/// How the model's outputs become an answer.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Output {
    /// One of several labels.
    Classification(Classification),
}

/// Scores a label, in the order of the model's last axis.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Classification {
    /// Label names.
    pub labels: Vec<String>,
    /// What makes scores of the model's output.
    pub activation: Activation,
}

/// What is applied to the model's raw output.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Activation {
    /// The output holds probabilities already.
    None,
    /// The output holds logits.
    Softmax,
}

/// Why a pipeline cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the pipeline's {field} is not usable: {problem}")]
pub struct InvalidPipeline {
    /// The field.
    pub field: &'static str,
    /// What is wrong with it.
    pub problem: String,
}

impl Pipeline {
    /// The pipeline of a release that holds no model. It is not usable.
    pub fn none() -> Self {
        let image = ImageInput {
            width: 0,
            height: 0,
            colour: Colour::Grey,
            resize: Resize::Exact,
            layout: Layout::Nchw,
            mean: Vec::new(),
            std: Vec::new(),
        };
        let classification = Classification { labels: Vec::new(), activation: Activation::None };
        Self { format: 1, input: Input::Image(image), output: Output::Classification(classification) }
    }

    /// Checks every bound; executing a checked pipeline cannot divide by zero or allocate without bound.
    pub fn check(&self) -> Result<(), InvalidPipeline> {
        let fail = |field, problem: String| Err(InvalidPipeline { field, problem });
        if self.format != 1 {
            return fail("format", format!("version {} is not known here, only 1", self.format));
        }
        let Input::Image(image) = &self.input;
        let pixels = u64::from(image.width) * u64::from(image.height);
        if pixels == 0 || pixels > limits::IMAGE_PIXELS {
            return fail("size", format!("{} x {} pixels", image.width, image.height));
        }
        let channels = image.colour.channels();
        if image.mean.len() != channels || image.mean.iter().any(|m| !m.is_finite()) {
            return fail("mean", format!("{channels} finite values are needed"));
        }
        if image.std.len() != channels || image.std.iter().any(|s| !s.is_normal()) {
            return fail("std", format!("{channels} finite values other than zero are needed"));
        }
        let Output::Classification(classification) = &self.output;
        let labels = &classification.labels;
        if labels.is_empty() || labels.len() > limits::LABELS {
            return fail("labels", format!("{} labels; 1 to {} are possible", labels.len(), limits::LABELS));
        }
        if let Some(label) = labels.iter().find(|l| l.is_empty() || l.len() > limits::LABEL) {
            return fail(
                "labels",
                format!("a label has {} bytes; 1 to {} are possible", label.len(), limits::LABEL),
            );
        }
        Ok(())
    }

    /// Label names, in the order of the scores.
    pub fn labels(&self) -> &[String] {
        let Output::Classification(classification) = &self.output;
        &classification.labels
    }
}
