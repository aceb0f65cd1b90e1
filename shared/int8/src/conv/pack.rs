//! Weights in the order in which kernels read them.
//!
//! A window is cut into runs of equal length, each of bytes that lie side by side in the input: a row of it where that costs
//! nothing, else a tap. A run is cut into quads of four bytes. For each block of output channels, run and quad there are four
//! weights a channel, channel by channel: what one dot-product instruction takes. Bytes of a run that are no part of the window
//! have weights of zero.

use super::{Kernel, WIDTH};
use crate::MAX_BYTES;
use crate::error::{Result, within};
use crate::isa::Isa;
use crate::view::View;

/// Some output channels of one group.
#[derive(Clone, Copy, Debug)]
pub(super) struct Block {
    /// The first of them.
    pub(super) first: usize,
    /// How many.
    pub(super) channels: usize,
    /// The same with what pads them to whole vectors.
    pub(super) width: usize,
    /// The first input channel of the group.
    pub(super) input: usize,
    /// Where its weights begin.
    weights: usize,
    /// Where the beginnings of its sums begin.
    start: usize,
}

impl Block {
    /// Output pixels that are summed at once.
    pub(super) fn tile(&self, isa: Isa) -> usize {
        match (isa, self.width) {
            (Isa::Scalar | Isa::NeonDot, _) => 4,
            (Isa::Neon, _) => 2,
            (Isa::Avx2, _) => 3,
            (Isa::AvxVnni, _) | (Isa::Avx512Vnni, 64) => 6,
            (Isa::Avx512Vnni, 48) => 8,
            (Isa::Avx512Vnni, _) => 12,
        }
    }
}

/// Weights of all blocks.
#[derive(Clone, Debug)]
pub(super) struct Weights {
    blocks: Vec<Block>,
    /// Where each run begins, from the first byte of the window.
    runs: Vec<usize>,
    /// Four bytes each, of a run.
    quads: usize,
    packed: Packed,
    /// What each sum begins with: the bias, and what the zero point of the input takes away.
    start: Vec<i32>,
}

/// The weights themselves.
#[derive(Clone, Debug)]
pub(super) enum Packed {
    /// As bytes.
    Bytes(Vec<i8>),
    /// As 16-bit numbers, for instructions that multiply such.
    #[cfg(target_arch = "x86_64")]
    Words(Vec<i16>),
}

impl Weights {
    #[expect(clippy::too_many_arguments, reason = "they were checked together")]
    pub(super) fn pack(
        isa: Isa,
        kernel: Kernel,
        input: &View,
        outputs: usize,
        groups: usize,
        weights: &[i8],
        bias: &[i32],
        zero_point: u8,
    ) -> Result<Self> {
        let inner = input.channels / groups;
        let [rows, columns] = kernel.size;
        // A row as one run takes the bytes between its taps along.
        let tap = |row: usize, column: usize| {
            row * kernel.dilation[0] * input.row + column * kernel.dilation[1] * input.pixel
        };
        let row_quads = (tap(0, columns - 1) + inner).div_ceil(4);
        let by_row = row_quads <= columns * inner.div_ceil(4);
        let (runs, quads): (Vec<usize>, usize) = if by_row {
            ((0..rows).map(|row| tap(row, 0)).collect(), row_quads)
        } else {
            let taps = (0..rows).flat_map(|row| (0..columns).map(move |column| (row, column)));
            (taps.map(|(row, column)| tap(row, column)).collect(), inner.div_ceil(4))
        };
        // The weight of a byte of a run, where it has one.
        let place = |run: usize, byte: usize| {
            let (tap, channel) = if by_row {
                let step = kernel.dilation[1] * input.pixel;
                let column = (byte / step).min(columns - 1);
                (run * columns + column, byte - column * step)
            } else {
                (run, byte)
            };
            (channel < inner).then_some(tap * inner + channel)
        };

        let (vector, widest) = match isa {
            Isa::Avx512Vnni => (16, WIDTH),
            _ => (16, 16),
        };
        let of_group = outputs / groups;
        let taps = rows * columns;
        let mut packed = Vec::new();
        let (mut blocks, mut start) = (Vec::new(), Vec::new());
        for group in 0..groups {
            for first in (0..of_group).step_by(widest) {
                let channels = widest.min(of_group - first);
                let first = group * of_group + first;
                let width = channels.next_multiple_of(vector);
                blocks.push(Block {
                    first,
                    channels,
                    width,
                    input: group * inner,
                    weights: packed.len(),
                    start: start.len(),
                });
                let size = packed.len().saturating_add(runs.len() * quads * width * 4);
                within("the packed weights", size, 1, MAX_BYTES, "a gibibyte at most")?;
                for run in 0..runs.len() {
                    for quad in 0..quads {
                        for lane in 0..width {
                            let of_channel =
                                weights.get((first + lane) * taps * inner..).filter(|_| lane < channels);
                            packed.extend((0..4).map(|byte| {
                                let found = of_channel.zip(place(run, quad * 4 + byte));
                                found.map_or(0, |(weights, place)| weights[place])
                            }));
                        }
                    }
                }
                start.extend((0..width).map(|lane| {
                    if lane >= channels {
                        return 0;
                    }
                    let own = &weights[(first + lane) * taps * inner..][..taps * inner];
                    let sum: i32 = own.iter().map(|&weight| i32::from(weight)).sum();
                    // Where the bytes of the input are taken less 128, the zero point is less as well.
                    let flip = if matches!(isa, Isa::Neon | Isa::NeonDot) { 128 } else { 0 };
                    bias[first + lane].wrapping_sub((i32::from(zero_point) - flip) * sum)
                }));
            }
        }
        let packed = match isa {
            #[cfg(target_arch = "x86_64")]
            Isa::Avx2 => Packed::Words(packed.into_iter().map(i16::from).collect()),
            _ => Packed::Bytes(packed),
        };
        Ok(Self { blocks, runs, quads, packed, start })
    }

    pub(super) fn blocks(&self) -> &[Block] {
        &self.blocks
    }

    /// The byte behind the last one that is read, from the first byte of the window of the first group.
    pub(super) fn reach(&self) -> usize {
        let run = self.runs.iter().max().copied().unwrap_or_default() + self.quads * 4;
        run + self.blocks.iter().map(|block| block.input).max().unwrap_or_default()
    }

    /// The sums of one block for the windows that begin at `bases`, pixel by pixel.
    pub(super) fn sum(&self, isa: Isa, block: &Block, input: &[u8], bases: &[usize], sums: &mut [i32]) {
        let count = self.runs.len() * self.quads * block.width * 4;
        let task = Task {
            input,
            bases,
            runs: &self.runs,
            quads: self.quads,
            width: block.width,
            start: &self.start[block.start..][..block.width],
            sums: &mut sums[..bases.len() * block.width],
        };
        match &self.packed {
            Packed::Bytes(all) => match isa {
                #[cfg(target_arch = "x86_64")]
                Isa::Avx512Vnni => super::x86::avx512(task, &all[block.weights..][..count]),
                #[cfg(target_arch = "x86_64")]
                Isa::AvxVnni => super::x86::avx_vnni(task, &all[block.weights..][..count]),
                #[cfg(target_arch = "aarch64")]
                Isa::Neon => super::arm::neon(task, &all[block.weights..][..count]),
                #[cfg(target_arch = "aarch64")]
                Isa::NeonDot => super::arm::dot(task, &all[block.weights..][..count]),
                _ => super::scalar::sum(task, &all[block.weights..][..count]),
            },
            #[cfg(target_arch = "x86_64")]
            Packed::Words(all) => super::x86::avx2(task, &all[block.weights..][..count]),
        }
    }
}

impl Task<'_> {
    /// What all kernels ask before they go on with pointers.
    #[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
    pub(super) fn check(&self, weights: usize) {
        let last = self.runs.iter().max().copied().unwrap_or_default() + self.quads * 4;
        assert!(self.bases.iter().all(|base| base + last <= self.input.len()));
        assert!(weights == self.runs.len() * self.quads * self.width * 4);
        assert!(self.sums.len() == self.bases.len() * self.width && self.start.len() == self.width);
    }
}

/// Calls a kernel for all pixels of a task, with the sizes for which it was made.
#[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
macro_rules! tiles {
    ($kernel:ident, $vectors:literal, $task:ident, $weights:ident, $($pixels:literal)+) => {{
        let mut done = 0;
        while done < $task.bases.len() {
            let left = $task.bases.len() - done;
            $(if left >= $pixels {
                // SAFETY: `Task::check` has found that every read lies within input and weights and every write within the
                // sums; a layer of this instruction set exists only where `Isa::check` found it.
                unsafe { $kernel::<$pixels, $vectors>(&mut $task, done, $weights) };
                done += $pixels;
                continue;
            })+
        }
    }};
}
#[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
pub(super) use tiles;

/// Four bytes of the input as one number.
///
/// # Safety
/// Four bytes can be read at `from`.
#[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
#[inline(always)]
pub(super) unsafe fn quad(from: *const u8) -> i32 {
    // SAFETY: the caller's; any four bytes are a number.
    unsafe { from.cast::<i32>().read_unaligned() }
}

/// What one tile is made of.
pub(super) struct Task<'a> {
    pub(super) input: &'a [u8],
    /// Where the window of each pixel begins.
    pub(super) bases: &'a [usize],
    /// Where each run begins within a window.
    pub(super) runs: &'a [usize],
    /// Four bytes each, of a run.
    pub(super) quads: usize,
    /// Channels, with padding.
    pub(super) width: usize,
    /// What the sums of a pixel begin with.
    pub(super) start: &'a [i32],
    /// The sums, pixel by pixel.
    pub(super) sums: &'a mut [i32],
}
