//! What stands between layers: tables, sums and products of two activations, and the way from and to floats.
//!
//! Each goes over pixels of views; where no gap lies between the pixels of a row, over the row at once.

use crate::error::{Result, equal, within};
use crate::isa::{Isa, widest};
use crate::requant::{Range, scale};
use crate::view::View;

/// The same function of every byte: an activation function, or other scale and zero point.
#[derive(Clone, Debug)]
pub struct Table {
    from: View,
    to: View,
    bytes: Box<[u8; 256]>,
}

impl Table {
    /// Over views of one shape.
    pub fn new(from: View, to: View, bytes: [u8; 256]) -> Result<Self> {
        same_shape(&from, &to)?;
        Ok(Self { from, to, bytes: Box::new(bytes) })
    }

    /// Leaves bytes as they are: a copy.
    pub fn copy(from: View, to: View) -> Result<Self> {
        Self::new(from, to, std::array::from_fn(|byte| byte as u8))
    }

    /// Of a function of real numbers, between a scale and zero point and others: as `DequantizeLinear`, the function and
    /// `QuantizeLinear` of ONNX.
    pub fn of(
        from: View,
        to: View,
        (scale_in, zero_in): (f32, u8),
        (scale_out, zero_out): (f32, u8),
        function: impl Fn(f32) -> f32,
    ) -> Result<Self> {
        let (scale_in, scale_out) = (scale(scale_in)?, scale(scale_out)?);
        let byte = |byte: usize| {
            let value = function((byte as f32 - f32::from(zero_in)) * scale_in);
            // A function that is no number somewhere gives the zero point there.
            let value = if value.is_nan() { 0.0 } else { value };
            ((value / scale_out).round_ties_even() + f32::from(zero_out)).clamp(0.0, 255.0) as u8
        };
        Self::new(from, to, std::array::from_fn(byte))
    }

    /// Computes it.
    pub fn run(&self, input: &[u8], output: &mut [u8]) -> Result<()> {
        buffers(&self.from, input, &self.to, output)?;
        each_line([&self.from], &self.to, |[from], to, len| {
            for (to, &from) in output[to..][..len].iter_mut().zip(&input[from..][..len]) {
                *to = self.bytes[usize::from(from)];
            }
        });
        Ok(())
    }
}

/// A number with its scale and zero point.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Quantised {
    /// What one step is worth.
    pub scale: f32,
    /// The byte that is zero.
    pub zero_point: u8,
}

/// What is made of two activations of one shape.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operation {
    /// Their sum.
    Add,
    /// Their product.
    Mul,
}

/// The sum or the product of two activations of one shape, each with its own scale.
#[derive(Clone, Debug)]
pub struct Binary {
    isa: Isa,
    operation: Operation,
    left: View,
    right: View,
    to: View,
    /// Zero points of both.
    zeros: [f32; 2],
    /// Scales of both over that of the output.
    ratios: [f32; 2],
    range: Range,
}

impl Binary {
    /// Over views of one shape; the least and greatest byte are 0 and 255, or less where a `Relu` or `Clip` follows.
    pub fn new(
        isa: Isa,
        operation: Operation,
        (left, left_is): (View, Quantised),
        (right, right_is): (View, Quantised),
        (to, to_is): (View, Quantised),
        bounds: (u8, u8),
    ) -> Result<Self> {
        same_shape(&left, &to)?;
        same_shape(&right, &to)?;
        let scales = [scale(left_is.scale)?, scale(right_is.scale)?];
        let of_output = scale(to_is.scale)?;
        let ratios = match operation {
            Operation::Add => [scale(scales[0] / of_output)?, scale(scales[1] / of_output)?],
            Operation::Mul => [scale(scales[0] * scales[1] / of_output)?, 1.0],
        };
        let zeros = [left_is.zero_point, right_is.zero_point].map(f32::from);
        let range = Range::new(to_is.zero_point, bounds.0, bounds.1)?;
        Ok(Self { isa: isa.check()?, operation, left, right, to, zeros, ratios, range })
    }

    /// Computes it.
    pub fn run(&self, left: &[u8], right: &[u8], output: &mut [u8]) -> Result<()> {
        buffers(&self.left, left, &self.to, output)?;
        buffers(&self.right, right, &self.to, output)?;
        let ([z, w], [r, q], range) = (self.zeros, self.ratios, self.range);
        each_line([&self.left, &self.right], &self.to, |[a, b], to, len| {
            let (a, b, to) = (&left[a..][..len], &right[b..][..len], &mut output[to..][..len]);
            match self.operation {
                Operation::Add => widest(self.isa, || {
                    for ((to, &a), &b) in to.iter_mut().zip(a).zip(b) {
                        *to = range.byte((f32::from(a) - z) * r + (f32::from(b) - w) * q);
                    }
                }),
                Operation::Mul => widest(self.isa, || {
                    for ((to, &a), &b) in to.iter_mut().zip(a).zip(b) {
                        *to = range.byte((f32::from(a) - z) * (f32::from(b) - w) * r);
                    }
                }),
            }
        });
        Ok(())
    }
}

/// In which order floats of an activation lie.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Layout {
    /// Channel by channel.
    Nchw,
    /// Pixel by pixel.
    Nhwc,
}

/// From floats to bytes: `QuantizeLinear`.
#[derive(Clone, Debug)]
pub struct Quantise {
    isa: Isa,
    layout: Layout,
    to: View,
    scale: f32,
    range: Range,
}

impl Quantise {
    /// Into a view.
    pub fn new(isa: Isa, layout: Layout, to: View, is: Quantised) -> Result<Self> {
        to.check()?;
        let scale = scale(is.scale)?;
        Ok(Self { isa: isa.check()?, layout, to, scale, range: Range::new(is.zero_point, 0, 255)? })
    }

    /// Computes it. What is no number becomes the zero point.
    pub fn run(&self, input: &[f32], output: &mut [u8]) -> Result<()> {
        equal("numbers of the input", input.len(), self.to.height * self.to.width * self.to.channels)?;
        within("the output's buffer", output.len(), self.to.end(), usize::MAX, "what the layer writes")?;
        let (scale, range) = (self.scale, self.range);
        let View { height, width, channels, .. } = self.to;
        widest(self.isa, || {
            for y in 0..height {
                let row = self.to.offset + y * self.to.row;
                match self.layout {
                    Layout::Nhwc => {
                        for x in 0..width {
                            let from = &input[(y * width + x) * channels..][..channels];
                            for (to, &value) in
                                output[row + x * self.to.pixel..][..channels].iter_mut().zip(from)
                            {
                                *to = range.byte(value / scale);
                            }
                        }
                    }
                    Layout::Nchw => {
                        for channel in 0..channels {
                            let from = &input[(channel * height + y) * width..][..width];
                            for (x, &value) in from.iter().enumerate() {
                                output[row + x * self.to.pixel + channel] = range.byte(value / scale);
                            }
                        }
                    }
                }
            }
        });
        Ok(())
    }
}

/// From bytes to floats: `DequantizeLinear`.
#[derive(Clone, Debug)]
pub struct Dequantise {
    isa: Isa,
    layout: Layout,
    from: View,
    scale: f32,
    zero_point: f32,
}

impl Dequantise {
    /// Out of a view.
    pub fn new(isa: Isa, layout: Layout, from: View, is: Quantised) -> Result<Self> {
        from.check()?;
        Ok(Self {
            isa: isa.check()?,
            layout,
            from,
            scale: scale(is.scale)?,
            zero_point: is.zero_point.into(),
        })
    }

    /// Computes it.
    pub fn run(&self, input: &[u8], output: &mut [f32]) -> Result<()> {
        let View { height, width, channels, .. } = self.from;
        within("the input's buffer", input.len(), self.from.end(), usize::MAX, "what the layer reads")?;
        equal("numbers of the output", output.len(), height * width * channels)?;
        let (scale, zero_point) = (self.scale, self.zero_point);
        widest(self.isa, || {
            for y in 0..height {
                let row = self.from.offset + y * self.from.row;
                match self.layout {
                    Layout::Nhwc => {
                        for x in 0..width {
                            let to = &mut output[(y * width + x) * channels..][..channels];
                            for (to, &byte) in
                                to.iter_mut().zip(&input[row + x * self.from.pixel..][..channels])
                            {
                                *to = (f32::from(byte) - zero_point) * scale;
                            }
                        }
                    }
                    Layout::Nchw => {
                        for channel in 0..channels {
                            let to = &mut output[(channel * height + y) * width..][..width];
                            for (x, to) in to.iter_mut().enumerate() {
                                *to = (f32::from(input[row + x * self.from.pixel + channel]) - zero_point)
                                    * scale;
                            }
                        }
                    }
                }
            }
        });
        Ok(())
    }
}

/// Refuses views of two shapes.
pub(crate) fn same_shape(from: &View, to: &View) -> Result<()> {
    from.check()?;
    to.check()?;
    equal("rows", from.height, to.height)?;
    equal("columns", from.width, to.width)?;
    equal("channels", from.channels, to.channels)
}

/// Refuses buffers that are shorter than their views.
pub(crate) fn buffers(from: &View, input: &[u8], to: &View, output: &[u8]) -> Result<()> {
    within("the input's buffer", input.len(), from.end(), usize::MAX, "what the layer reads")?;
    within("the output's buffer", output.len(), to.end(), usize::MAX, "what the layer writes")
}

/// Does something with every stretch of bytes that lie side by side in all views: where it begins in each, and how long it is.
fn each_line<const N: usize>(from: [&View; N], to: &View, mut with: impl FnMut([usize; N], usize, usize)) {
    let whole = to.pixel == to.channels && from.iter().all(|view| view.pixel == view.channels);
    let (lines, len) = if whole { (1, to.width * to.channels) } else { (to.width, to.channels) };
    for y in 0..to.height {
        for x in 0..lines {
            let at = |view: &View| view.offset + y * view.row + x * view.pixel;
            with(from.map(at), at(to), len);
        }
    }
}
