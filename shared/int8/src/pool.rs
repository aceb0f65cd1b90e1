//! Pooling, and larger or smaller pictures.

use crate::MAX_SIDE;
use crate::conv::Kernel;
use crate::elementwise::{Quantised, buffers};
use crate::error::{Error, Result, equal, within};
use crate::isa::{Isa, widest};
use crate::requant::{Range, scale};
use crate::view::View;

/// Rows and columns that a window may reach over the edge: above and below, left and right.
pub type Padding = [[usize; 2]; 2];

/// What every kind of pooling is made of.
#[derive(Clone, Debug)]
struct Pool {
    isa: Isa,
    kernel: Kernel,
    padding: Padding,
    from: View,
    to: View,
}

impl Pool {
    fn new(isa: Isa, kernel: Kernel, padding: Padding, from: View, to: View) -> Result<Self> {
        from.check()?;
        to.check()?;
        equal("channels", from.channels, to.channels)?;
        for (axis, pads) in padding.iter().enumerate() {
            // A window over the edge alone would be a window over nothing.
            let reach = kernel.size[axis].saturating_sub(1).saturating_mul(kernel.dilation[axis]);
            within("padding", pads[0].max(pads[1]), 0, reach.min(MAX_SIDE), "less than the window")?;
        }
        let padded = View {
            height: from.height + padding[0][0] + padding[0][1],
            width: from.width + padding[1][0] + padding[1][1],
            ..from
        };
        kernel.check(&padded, &to)?;
        let pool = Self { isa: isa.check()?, kernel, padding, from, to };
        for axis in 0..2 {
            let (have, out) = [(from.height, to.height), (from.width, to.width)][axis];
            let empty = (0..out).find(|&at| pool.taps(axis, at, have).next().is_none());
            if let Some(at) = empty {
                let bounds = "over some pixel of the input at least";
                return Err(Error::Bounds { what: "a window", value: format!("number {at}"), bounds });
            }
        }
        Ok(pool)
    }

    /// Rows or columns of the input that the window of a row or column of the output has.
    fn taps(&self, axis: usize, at: usize, have: usize) -> impl Iterator<Item = usize> + Clone {
        let (begin, step) = (at * self.kernel.stride[axis], self.kernel.dilation[axis]);
        let before = self.padding[axis][0];
        (0..self.kernel.size[axis])
            .filter_map(move |tap| (begin + tap * step).checked_sub(before))
            .filter(move |&place| place < have)
    }

    /// For each pixel of the output: where it begins, and its window.
    fn windows(&self) -> impl Iterator<Item = (usize, Window<'_>)> {
        (0..self.to.height).flat_map(move |y| {
            (0..self.to.width).map(move |x| {
                (self.to.offset + y * self.to.row + x * self.to.pixel, Window { pool: self, y, x })
            })
        })
    }
}

/// The window of one pixel of the output.
struct Window<'a> {
    pool: &'a Pool,
    y: usize,
    x: usize,
}

impl Window<'_> {
    /// Where its pixels begin in the input.
    fn places(&self) -> impl Iterator<Item = usize> {
        let from = self.pool.from;
        let columns = self.pool.taps(1, self.x, from.width);
        self.pool.taps(0, self.y, from.height).flat_map(move |row| {
            columns.clone().map(move |column| from.offset + row * from.row + column * from.pixel)
        })
    }
}

/// The largest byte of each window: `MaxPool`. What lies over the edge counts nothing.
#[derive(Clone, Debug)]
pub struct Largest(Pool);

impl Largest {
    /// From one view into another, whose scale and zero point are the same.
    pub fn new(isa: Isa, kernel: Kernel, padding: Padding, from: View, to: View) -> Result<Self> {
        Ok(Self(Pool::new(isa, kernel, padding, from, to)?))
    }

    /// Computes it.
    pub fn run(&self, input: &[u8], output: &mut [u8]) -> Result<()> {
        buffers(&self.0.from, input, &self.0.to, output)?;
        let channels = self.0.to.channels;
        widest(self.0.isa, || {
            for (to, window) in self.0.windows() {
                let to = &mut output[to..][..channels];
                to.fill(0);
                for place in window.places() {
                    for (to, &byte) in to.iter_mut().zip(&input[place..][..channels]) {
                        *to = byte.max(*to);
                    }
                }
            }
        });
        Ok(())
    }
}

/// Channels that are averaged at once.
const CHANNELS: usize = 64;

/// The average of each window: `AveragePool`, and over a whole picture `GlobalAveragePool`.
#[derive(Clone, Debug)]
pub struct Average {
    pool: Pool,
    /// Whether what lies over the edge counts as zero.
    count_padding: bool,
    ratio: f32,
    zero_point: i32,
    range: Range,
}

impl Average {
    /// From one view into another. `count_padding` says whether what lies over the edge counts as zero.
    pub fn new(
        isa: Isa,
        kernel: Kernel,
        padding: Padding,
        count_padding: bool,
        (from, from_is): (View, Quantised),
        (to, to_is): (View, Quantised),
        bounds: (u8, u8),
    ) -> Result<Self> {
        // Sums of at most this many bytes fit 32 bits.
        let taps = kernel.size[0].saturating_mul(kernel.size[1]);
        within("pixels of a window", taps, 1, 1 << 22, "from 1 to 4194304")?;
        Ok(Self {
            pool: Pool::new(isa, kernel, padding, from, to)?,
            count_padding,
            ratio: scale(scale(from_is.scale)? / scale(to_is.scale)?)?,
            zero_point: from_is.zero_point.into(),
            range: Range::new(to_is.zero_point, bounds.0, bounds.1)?,
        })
    }

    /// Computes it.
    pub fn run(&self, input: &[u8], output: &mut [u8]) -> Result<()> {
        buffers(&self.pool.from, input, &self.pool.to, output)?;
        let channels = self.pool.to.channels;
        let all = self.pool.kernel.size[0] * self.pool.kernel.size[1];
        widest(self.pool.isa, || {
            for (to, window) in self.pool.windows() {
                for first in (0..channels).step_by(CHANNELS) {
                    let block = CHANNELS.min(channels - first);
                    let (mut sums, mut count) = ([0_i32; CHANNELS], 0);
                    for place in window.places() {
                        count += 1;
                        for (sum, &byte) in sums.iter_mut().zip(&input[place + first..][..block]) {
                            *sum += i32::from(byte);
                        }
                    }
                    self.write(&sums, count, all, &mut output[to + first..][..block]);
                }
            }
        });
        Ok(())
    }

    fn write(&self, sums: &[i32], count: usize, all: usize, to: &mut [u8]) {
        let zeros = self.zero_point * count as i32;
        let ratio = self.ratio / if self.count_padding { all } else { count } as f32;
        for (to, &sum) in to.iter_mut().zip(sums) {
            *to = self.range.byte((sum - zeros) as f32 * ratio);
        }
    }
}

/// Larger or smaller pictures, each pixel that of a place in the input: `Resize` with `nearest`, whatever its roundings.
#[derive(Clone, Debug)]
pub struct Nearest {
    from: View,
    to: View,
    /// The row of the input for each row of the output.
    rows: Vec<usize>,
    /// The same for columns.
    columns: Vec<usize>,
}

impl Nearest {
    /// From one view into another, whose scale and zero point are the same.
    pub fn new(from: View, to: View, rows: Vec<usize>, columns: Vec<usize>) -> Result<Self> {
        from.check()?;
        to.check()?;
        equal("channels", from.channels, to.channels)?;
        equal("rows", rows.len(), to.height)?;
        equal("columns", columns.len(), to.width)?;
        for (places, have) in [(&rows, from.height), (&columns, from.width)] {
            if let Some(bad) = places.iter().find(|place| **place >= have) {
                let (what, bounds) = ("a row or column of the input", "one that there is");
                return Err(Error::Bounds { what, value: bad.to_string(), bounds });
            }
        }
        Ok(Self { from, to, rows, columns })
    }

    /// Computes it.
    pub fn run(&self, input: &[u8], output: &mut [u8]) -> Result<()> {
        buffers(&self.from, input, &self.to, output)?;
        for (y, row) in self.rows.iter().enumerate() {
            for (x, column) in self.columns.iter().enumerate() {
                let from = self.from.offset + row * self.from.row + column * self.from.pixel;
                let to = self.to.offset + y * self.to.row + x * self.to.pixel;
                output[to..][..self.to.channels].copy_from_slice(&input[from..][..self.to.channels]);
            }
        }
        Ok(())
    }
}
