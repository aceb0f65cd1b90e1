//! Pictures on their way to a tensor.

use super::{InvalidPipeline, is_default};
use crate::limits;
use serde::{Deserialize, Serialize};

/// A picture to a tensor of f32: `[1, channels, height, width]` or `[1, height, width, channels]`.
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
    /// `value = (byte / 255 - mean) / std`, a channel, in the order of the tensor's channels. A network that takes
    /// bytes as they are (0 to 255) has the mean 0 and the std 1/255.
    pub mean: Vec<f32>,
    /// See `mean`; never zero.
    pub std: Vec<f32>,
    /// How pixels between pixels are made.
    #[serde(default, skip_serializing_if = "is_default")]
    pub filter: Filter,
    /// Whether the orientation in a camera's metadata (Exif tag 0x0112) is applied. Pipelines of before this was known
    /// do not apply it.
    #[serde(default, skip_serializing_if = "is_default")]
    pub orient: bool,
}

/// Colour channels of an image tensor.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Colour {
    /// One channel, BT.601 luma.
    Grey,
    /// Three channels in the order red, green, blue.
    Rgb,
    /// Three channels in the order blue, green, red, as OpenCV has them.
    Bgr,
}

impl Colour {
    /// Number of channels.
    pub fn channels(self) -> usize {
        match self {
            Colour::Grey => 1,
            Colour::Rgb | Colour::Bgr => 3,
        }
    }
}

/// How a picture changes its size.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Resize {
    /// Both sides to the target, aspect not kept.
    Stretch,
    /// No resizing: another size is an error.
    Exact,
    /// The whole picture, aspect kept; what is left of the target is filled.
    Letterbox {
        /// Value of the bytes that fill.
        fill: u8,
        /// Where the picture lies.
        place: Place,
    },
    /// The middle of the picture, aspect kept: the shorter side is scaled so that the target is this part of it, as
    /// ImageNet's 224 of 256 are 875.
    Crop {
        /// Part of the scaled picture that is kept, in thousandths.
        keep_milli: u16,
    },
}

/// Where a picture lies that does not fill its target.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Place {
    /// In the middle.
    Centre,
    /// At the top and the left.
    TopLeft,
}

/// How pixels between pixels are made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Filter {
    /// Linear; where a side shrinks every source pixel counts, as in Pillow.
    #[default]
    Smooth,
    /// Linear between the four nearest pixels, however much a side shrinks, as in OpenCV and PyTorch.
    Bilinear,
    /// The nearest pixel.
    Nearest,
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

impl ImageInput {
    /// A picture of no size, to be filled in. It is not usable.
    pub fn none() -> Self {
        Self {
            width: 0,
            height: 0,
            colour: Colour::Grey,
            resize: Resize::Exact,
            layout: Layout::Nchw,
            mean: Vec::new(),
            std: Vec::new(),
            filter: Filter::Smooth,
            orient: false,
        }
    }

    pub(super) fn check(&self) -> Result<(), InvalidPipeline> {
        let fail = |field, problem: String| Err(InvalidPipeline { field, problem });
        let pixels = u64::from(self.width) * u64::from(self.height);
        if pixels == 0 || pixels > limits::IMAGE_PIXELS {
            return fail("size", format!("{} x {} pixels", self.width, self.height));
        }
        let channels = self.colour.channels();
        if self.mean.len() != channels || self.mean.iter().any(|m| !m.is_finite()) {
            return fail("mean", format!("{channels} finite values are needed"));
        }
        if self.std.len() != channels || self.std.iter().any(|s| !s.is_normal()) {
            return fail("std", format!("{channels} finite values other than zero are needed"));
        }
        match self.resize {
            Resize::Crop { keep_milli } if !(1..=1_000).contains(&keep_milli) => {
                fail("resize", format!("{keep_milli} thousandths are kept; 1 to 1000 are possible"))
            }
            _ => Ok(()),
        }
    }
}
