//! Convolutions with one filter a channel.

#[cfg(target_arch = "aarch64")]
mod arm;
#[cfg(target_arch = "x86_64")]
mod slots;
#[cfg(target_arch = "x86_64")]
mod x86;

use crate::conv::Kernel;
use crate::error::{Result, equal, within};
use crate::isa::Isa;
use crate::requant::{Requant, Tile};
use crate::view::View;

/// Channels of a block.
const BLOCK: usize = 16;
/// Pixels that are summed at once.
const TILE: usize = 8;

/// A convolution with one filter a channel, with everything folded in that does not depend on the input.
#[derive(Clone, Debug)]
pub struct Depthwise {
    isa: Isa,
    kernel: Kernel,
    input: View,
    output: View,
    requant: Requant,
    /// Where each tap lies from the first byte of the window; a multiple of four of them.
    taps: Vec<usize>,
    /// Block by block, four taps by four, channel by channel: four weights.
    weights: Vec<i8>,
    /// What each sum begins with, block by block.
    start: Vec<i32>,
    /// The largest of `taps`.
    furthest: usize,
    reach: usize,
    /// The same for instruction sets that have kernels of their own.
    #[cfg(target_arch = "x86_64")]
    slots: Option<slots::Slots>,
}

impl Depthwise {
    /// A layer. `weights` are `[row][column][channel]`; for the rest see [`crate::Conv::new`].
    #[expect(clippy::too_many_arguments, reason = "each is a part of the operator")]
    pub fn new(
        isa: Isa,
        kernel: Kernel,
        input: View,
        output: View,
        weights: &[i8],
        bias: &[i32],
        zero_point: u8,
        requant: Requant,
    ) -> Result<Self> {
        let isa = isa.check()?;
        input.check()?;
        output.check()?;
        kernel.check(&input, &output)?;
        let channels = input.channels;
        equal("output channels", output.channels, channels)?;
        requant.check(channels)?;
        equal("biases", bias.len(), channels)?;
        let count = kernel.size[0].saturating_mul(kernel.size[1]);
        within("the products of one sum", count, 1, 1 << 15, "at most 32768")?;
        equal("weights", weights.len(), count.saturating_mul(channels))?;

        let mut taps: Vec<usize> = (0..count)
            .map(|tap| {
                let (row, column) = (tap / kernel.size[1], tap % kernel.size[1]);
                row * kernel.dilation[0] * input.row + column * kernel.dilation[1] * input.pixel
            })
            .collect();
        let furthest = taps.last().copied().unwrap_or_default();
        taps.resize(count.next_multiple_of(4), 0);
        let blocks = channels.div_ceil(BLOCK);
        let weight = |tap: usize, channel: usize| {
            if tap < count && channel < channels { weights[tap * channels + channel] } else { 0 }
        };
        let (mut packed, mut start) = (Vec::new(), Vec::new());
        for block in 0..blocks {
            for four in 0..taps.len() / 4 {
                for lane in 0..BLOCK {
                    packed.extend((0..4).map(|tap| weight(four * 4 + tap, block * BLOCK + lane)));
                }
            }
            start.extend((block * BLOCK..(block + 1) * BLOCK).map(|channel| {
                let sum: i32 = (0..count).map(|tap| i32::from(weight(tap, channel))).sum();
                bias.get(channel).map_or(0, |bias| bias.wrapping_sub(i32::from(zero_point) * sum))
            }));
        }
        let last = (output.height - 1) * kernel.stride[0] * input.row
            + (output.width - 1) * kernel.stride[1] * input.pixel;
        let before = input.offset + last + furthest;
        let layer = Self {
            isa,
            kernel,
            input,
            output,
            requant,
            taps,
            weights: packed,
            start,
            furthest,
            reach: before + blocks * BLOCK,
            #[cfg(target_arch = "x86_64")]
            slots: None,
        };
        #[cfg(target_arch = "x86_64")]
        if let Some(slots) = slots::Slots::of(&layer) {
            let reach = before + slots.last_block(channels) + slots.last_bytes();
            return Ok(Self { reach, slots: Some(slots), ..layer });
        }
        Ok(layer)
    }

    /// A weight out of what is packed.
    #[cfg(target_arch = "x86_64")]
    fn weight(&self, tap: usize, channel: usize) -> i8 {
        let four = (channel / BLOCK * (self.taps.len() / 4) + tap / 4) * 4 * BLOCK;
        self.weights[four + channel % BLOCK * 4 + tap % 4]
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
        #[cfg(target_arch = "x86_64")]
        if let Some(slots) = &self.slots {
            slots.run(self, input, output);
            return Ok(());
        }
        let channels = self.output.channels;
        let mut sums = [0; TILE * BLOCK];
        let step = self.kernel.stride[1] * self.input.pixel;
        for y in 0..self.output.height {
            let row = self.input.offset + y * self.kernel.stride[0] * self.input.row;
            let to = self.output.offset + y * self.output.row;
            for first in (0..channels).step_by(BLOCK) {
                let of_block = BLOCK.min(channels - first);
                let weights = &self.weights[first * self.taps.len()..][..BLOCK * self.taps.len()];
                let start = &self.start[first..][..BLOCK];
                for x in (0..self.output.width).step_by(TILE) {
                    let pixels = TILE.min(self.output.width - x);
                    let task = Task {
                        input,
                        base: row + x * step + first,
                        step,
                        pixels,
                        taps: &self.taps,
                        furthest: self.furthest,
                        weights,
                        start,
                    };
                    match self.isa {
                        #[cfg(target_arch = "x86_64")]
                        Isa::Avx2 => x86::avx2(&task, &mut sums),
                        #[cfg(target_arch = "aarch64")]
                        Isa::Neon | Isa::NeonDot => arm::neon(&task, &mut sums),
                        _ => scalar(&task, &mut sums),
                    }
                    let places: [usize; TILE] =
                        std::array::from_fn(|pixel| to + (x + pixel) * self.output.pixel + first);
                    let places = &places[..pixels];
                    let done = Tile { sums: &sums, width: BLOCK, first, channels: of_block, places };
                    self.requant.write(self.isa, &done, output);
                }
            }
        }
        Ok(())
    }
}

/// Some pixels of one block.
struct Task<'a> {
    input: &'a [u8],
    /// Where the first channel of the first tap of the first pixel lies.
    base: usize,
    /// From one pixel to the next.
    step: usize,
    pixels: usize,
    taps: &'a [usize],
    /// The largest of them.
    furthest: usize,
    weights: &'a [i8],
    start: &'a [i32],
}

impl Task<'_> {
    /// What all kernels ask before they go on with pointers.
    #[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
    fn check(&self) {
        assert!(self.pixels >= 1 && self.pixels <= TILE);
        assert!(self.base + (self.pixels - 1) * self.step + self.furthest + BLOCK <= self.input.len());
        assert!(self.taps.len().is_multiple_of(4) && self.weights.len() == self.taps.len() * BLOCK);
        assert!(self.start.len() == BLOCK);
    }
}

/// The reference.
fn scalar(task: &Task<'_>, sums: &mut [i32; TILE * BLOCK]) {
    for (pixel, sums) in sums.chunks_exact_mut(BLOCK).take(task.pixels).enumerate() {
        sums.copy_from_slice(task.start);
        let base = task.base + pixel * task.step;
        for (taps, weights) in task.taps.chunks_exact(4).zip(task.weights.chunks_exact(4 * BLOCK)) {
            for (place, tap) in taps.iter().enumerate() {
                let bytes = &task.input[base + tap..][..BLOCK];
                for ((sum, &byte), weights) in sums.iter_mut().zip(bytes).zip(weights.as_chunks::<4>().0) {
                    *sum += i32::from(byte) * i32::from(weights[place]);
                }
            }
        }
    }
}
