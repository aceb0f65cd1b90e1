//! What a network looks like, decided from the algorithm and the images before any weight is made.

use crate::{Algorithm, Error, Images, Result};

/// Side, in pixels, below which the planes are not halved any more.
const SMALLEST_PLANE: usize = 4;
/// Memory that one training step may take, by estimate.
const MAX_STEP_BYTES: u64 = 4 << 30;
/// Copies of an activation that a step holds: itself, normalised, rectified, and their gradients.
const COPIES: u64 = 6;

/// A depthwise convolution and the pointwise one behind it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Block {
    pub(crate) inputs: usize,
    pub(crate) outputs: usize,
    pub(crate) stride: usize,
}

/// A network: a full 3x3 convolution, depthwise-separable blocks, the mean of each plane, a linear layer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Plan {
    pub(crate) channels: usize,
    pub(crate) height: usize,
    pub(crate) width: usize,
    pub(crate) stem: usize,
    pub(crate) stem_stride: usize,
    pub(crate) blocks: Vec<Block>,
    pub(crate) classes: usize,
}

impl Plan {
    pub(crate) fn new(algorithm: Algorithm, images: &Images) -> Self {
        let (stem, widths): (usize, &[usize]) = match algorithm {
            Algorithm::DscnnS => (32, &[64, 96, 128]),
            Algorithm::DscnnM => (48, &[96, 128, 160, 192, 256]),
        };
        let mut halvings =
            (images.height.min(images.width) / SMALLEST_PLANE).checked_ilog2().unwrap_or(0) as usize;
        // Large images are halved at once, small ones only after the first block has seen every pixel.
        let stem_stride = if halvings >= widths.len() { 2 } else { 1 };
        halvings -= stem_stride - 1;
        let mut inputs = stem;
        let blocks = widths.iter().enumerate().map(|(place, &outputs)| {
            let stride = if place >= 1 && place <= halvings { 2 } else { 1 };
            Block { inputs: std::mem::replace(&mut inputs, outputs), outputs, stride }
        });
        Self {
            channels: images.channels,
            height: images.height,
            width: images.width,
            stem,
            stem_stride,
            blocks: blocks.collect(),
            classes: images.classes.len(),
        }
    }

    /// Width of the layer before the classes.
    pub(crate) fn features(&self) -> usize {
        self.blocks.last().map_or(self.stem, |block| block.outputs)
    }

    /// Refuses a step that would not fit in memory.
    pub(crate) fn check_memory(&self, batch: usize) -> Result<()> {
        let (mut height, mut width) =
            (self.height.div_ceil(self.stem_stride), self.width.div_ceil(self.stem_stride));
        let mut values = self.stem * height * width;
        for block in &self.blocks {
            (height, width) = (height.div_ceil(block.stride), width.div_ceil(block.stride));
            values += (block.inputs + block.outputs) * height * width;
        }
        let found = values as u64 * batch as u64 * size_of::<f32>() as u64 * COPIES;
        if found <= MAX_STEP_BYTES {
            return Ok(());
        }
        let advice = "lower `batch_size` or make the images smaller";
        Err(Error::TooLarge { what: "the memory of a training step", found, limit: MAX_STEP_BYTES, advice })
    }
}
