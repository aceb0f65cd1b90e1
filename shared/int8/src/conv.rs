//! Convolutions and dense layers.

#[cfg(target_arch = "aarch64")]
mod arm;
mod pack;
mod scalar;
#[cfg(target_arch = "x86_64")]
mod x86;

use crate::error::{Error, Result, equal, within};
use crate::isa::Isa;
use crate::requant::{Requant, Tile};
use crate::view::View;
use crate::{MAX_BYTES, MAX_SIDE};
use pack::{Block, Weights};

/// Output pixels that one tile has at most.
const TILE: usize = 16;
/// Output channels that one block has at most.
const WIDTH: usize = 64;

/// The window of a convolution. Numbers are of rows first, of columns second.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Kernel {
    /// Its size.
    pub size: [usize; 2],
    /// Pixels from one window to the next.
    pub stride: [usize; 2],
    /// Pixels from one of its taps to the next.
    pub dilation: [usize; 2],
}

impl Kernel {
    /// Each pixel alone.
    pub const POINT: Self = Self { size: [1, 1], stride: [1, 1], dilation: [1, 1] };

    /// A square window whose taps lie side by side.
    #[must_use]
    pub const fn square(side: usize, stride: usize) -> Self {
        Self { size: [side, side], stride: [stride, stride], dilation: [1, 1] }
    }

    /// Refuses windows that do not lie within the input wherever the output has a pixel. Padding is the input's halo.
    pub(crate) fn check(&self, input: &View, output: &View) -> Result<()> {
        for (axis, (have, out)) in
            [(input.height, output.height), (input.width, output.width)].into_iter().enumerate()
        {
            within("the size of a window", self.size[axis], 1, MAX_SIDE, "from 1 to 65536")?;
            within("a stride", self.stride[axis], 1, MAX_SIDE, "from 1 to 65536")?;
            within("a dilation", self.dilation[axis], 1, MAX_SIDE, "from 1 to 65536")?;
            let need = (out - 1) * self.stride[axis] + (self.size[axis] - 1) * self.dilation[axis] + 1;
            if need > have {
                let what = ["rows of the input with its halo", "columns of the input with its halo"][axis];
                return Err(Error::Mismatch { what, got: have, need });
            }
        }
        Ok(())
    }
}

/// A convolution, full or grouped, or a dense layer (a window of one pixel over one pixel), with everything folded in that does
/// not depend on the input.
#[derive(Clone, Debug)]
pub struct Conv {
    isa: Isa,
    kernel: Kernel,
    input: View,
    output: View,
    requant: Requant,
    weights: Weights,
    /// Bytes of the input that a run needs.
    reach: usize,
}

impl Conv {
    /// A layer.
    ///
    /// `weights` are `[output channel][row][column][input channel of the group]`; `bias` is in the unit of the sums, one number
    /// an output channel. The input has its halo around it already, filled with `zero_point`.
    #[expect(clippy::too_many_arguments, reason = "each is a part of the operator")]
    pub fn new(
        isa: Isa,
        kernel: Kernel,
        input: View,
        output: View,
        groups: usize,
        weights: &[i8],
        bias: &[i32],
        zero_point: u8,
        requant: Requant,
    ) -> Result<Self> {
        let isa = isa.check()?;
        input.check()?;
        output.check()?;
        kernel.check(&input, &output)?;
        within(
            "the number of groups",
            groups,
            1,
            input.channels.min(output.channels),
            "from 1 to the number of channels",
        )?;
        equal("input channels over groups", input.channels % groups, 0)?;
        equal("output channels over groups", output.channels % groups, 0)?;
        requant.check(output.channels)?;
        equal("biases", bias.len(), output.channels)?;
        let taps = kernel.size[0].saturating_mul(kernel.size[1]);
        let inner = taps.saturating_mul(input.channels / groups);
        let need = inner.saturating_mul(output.channels);
        within("the weights", need, 1, MAX_BYTES, "a gibibyte at most")?;
        equal("weights", weights.len(), need)?;
        // Sums of at most this many products of 255 and 128 fit 32 bits, with as much left for the bias.
        within("the products of one sum", inner, 1, 1 << 15, "at most 32768")?;
        let weights = Weights::pack(isa, kernel, &input, output.channels, groups, weights, bias, zero_point)?;
        let last = (output.height - 1) * kernel.stride[0] * input.row
            + (output.width - 1) * kernel.stride[1] * input.pixel;
        let reach = input.offset + last + weights.reach();
        Ok(Self { isa, kernel, input, output, requant, weights, reach })
    }

    /// Bytes that the input's buffer must have at least.
    #[must_use]
    pub const fn input_bytes(&self) -> usize {
        self.reach
    }

    /// Bytes that the output's buffer must have at least.
    #[must_use]
    pub const fn output_bytes(&self) -> usize {
        self.output.end()
    }

    /// Computes the output. Bytes of the output's buffer that are not of its view stay as they are.
    pub fn run(&self, input: &[u8], output: &mut [u8]) -> Result<()> {
        within("the input's buffer", input.len(), self.reach, usize::MAX, "what the layer reads")?;
        within("the output's buffer", output.len(), self.output.end(), usize::MAX, "what the layer writes")?;
        for block in self.weights.blocks() {
            self.block(block, input, output);
        }
        Ok(())
    }

    /// All pixels of some channels, so that the weights of these stay near.
    fn block(&self, block: &Block, input: &[u8], output: &mut [u8]) {
        let mut sums = Sums([0; TILE * WIDTH]);
        let (mut bases, mut places) = ([0; TILE], [0; TILE]);
        let (mut x, mut y) = (0, 0);
        let at_most = block.tile(self.isa);
        let mut left = self.output.height * self.output.width;
        while left > 0 {
            let tile = at_most.min(left);
            for (base, place) in bases.iter_mut().zip(&mut places).take(tile) {
                *base = self.input.offset
                    + block.input
                    + y * self.kernel.stride[0] * self.input.row
                    + x * self.kernel.stride[1] * self.input.pixel;
                *place = self.output.offset + y * self.output.row + x * self.output.pixel + block.first;
                x += 1;
                if x == self.output.width {
                    (x, y) = (0, y + 1);
                }
            }
            self.weights.sum(self.isa, block, input, &bases[..tile], &mut sums.0);
            let done = Tile {
                sums: &sums.0,
                width: block.width,
                first: block.first,
                channels: block.channels,
                places: &places[..tile],
            };
            self.requant.write(self.isa, &done, output);
            left -= tile;
        }
    }
}

/// Sums of one tile, on a cache line.
#[repr(align(64))]
struct Sums([i32; TILE * WIDTH]);
