//! The arithmetic of 4-bit weights: blocks of neighbouring elements, each with a scale of its own.

use flotilla_onnx::{f16_bits, f16_value};

use crate::layer::Matrix;

/// Elements of a block at most; fewer where that divides a row evenly.
pub(crate) const BLOCK: usize = 32;
/// Clipping ratios that are tried for one block, in per cent.
const RATIOS: [u8; 8] = [100, 95, 90, 85, 80, 75, 70, 65];
/// The integers of a symmetric block. 8 is added to store them.
pub(crate) const RANGE: (i8, i8) = (-8, 7);

/// A weight as 4-bit integers, row by row.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Blocks {
    /// Elements of a block; the last of a row may be shorter where the form allows that.
    pub(crate) block: usize,
    /// Blocks of a row.
    pub(crate) of_row: usize,
    /// The integers, in the order of the tensor's elements in memory.
    pub(crate) values: Vec<i8>,
    /// One scale a block, row by row; exact as 16-bit floats.
    pub(crate) scales: Vec<f32>,
    /// One zero point a block, between 0 and 15; 8 where the block is symmetric.
    pub(crate) zeros: Vec<u8>,
}

impl Blocks {
    /// The scale of an element.
    pub(crate) fn scale(&self, row: usize, col: usize) -> f32 {
        self.scales[row * self.of_row + col / self.block]
    }

    /// What the integers stand for, in the order of the tensor's elements in memory.
    pub(crate) fn floats(&self, matrix: Matrix) -> Vec<f32> {
        let mut data = vec![0.0; self.values.len()];
        for row in 0..matrix.rows {
            for col in 0..matrix.cols {
                let place = matrix.at(row, col);
                let zero = f32::from(self.zeros[row * self.of_row + col / self.block]) - 8.0;
                data[place] = (f32::from(self.values[place]) - zero) * self.scale(row, col);
            }
        }
        data
    }
}

/// The largest number of elements, [`BLOCK`] or fewer, that divides a row evenly.
pub(crate) fn even_block(cols: usize) -> usize {
    (1..=BLOCK.min(cols)).rev().find(|block| cols.is_multiple_of(*block)).unwrap_or(1)
}

/// Rounds a weight to blocks of `block` elements. With `zero_points` a block may lie off zero where that loses less.
/// `energy` is how much each element, in the order of the weight in memory, counts; all alike without it.
pub(crate) fn quantise(
    data: &[f32],
    matrix: Matrix,
    block: usize,
    zero_points: bool,
    energy: Option<&[f32]>,
) -> Blocks {
    let of_row = matrix.cols.div_ceil(block);
    let mut blocks = Blocks {
        block,
        of_row,
        values: vec![0; data.len()],
        scales: Vec::with_capacity(matrix.rows * of_row),
        zeros: Vec::with_capacity(matrix.rows * of_row),
    };
    for row in 0..matrix.rows {
        let elements = matrix.row(data, row);
        let counts = energy.map_or_else(|| vec![1.0; matrix.cols], |energy| matrix.row(energy, row));
        for (number, (elements, counts)) in elements.chunks(block).zip(counts.chunks(block)).enumerate() {
            let (scale, zero) = best(elements, counts, zero_points);
            for (place, value) in elements.iter().enumerate() {
                blocks.values[matrix.at(row, number * block + place)] = round(*value, scale, zero);
            }
            blocks.scales.push(scale);
            blocks.zeros.push(zero);
        }
    }
    blocks
}

fn round(value: f32, scale: f32, zero: u8) -> i8 {
    let zero = f32::from(zero) - 8.0;
    ((value / scale).round_ties_even() + zero).clamp(f32::from(RANGE.0), f32::from(RANGE.1)) as i8
}

/// The scale and zero point with the smallest squared error.
fn best(elements: &[f32], counts: &[f32], zero_points: bool) -> (f32, u8) {
    let (low, high) = elements.iter().fold((0.0_f32, 0.0_f32), |(l, h), v| (l.min(*v), h.max(*v)));
    let peak = high.max(-low);
    let mut choices: Vec<(f32, u8)> = Vec::with_capacity(3 * RATIOS.len());
    for ratio in RATIOS.map(|percent| f32::from(percent) / 100.0) {
        choices.push((half(peak / 7.0 * ratio), 8));
        // One more integer lies below zero than above.
        choices.push((half(peak / 8.0 * ratio), 8));
        if zero_points {
            let scale = half((high - low) / 15.0 * ratio);
            choices.push((scale, (-low * ratio / scale).round().clamp(0.0, 15.0) as u8));
        }
    }
    let error = |(scale, zero): (f32, u8)| -> f64 {
        let off = |v: f32| v - (f32::from(round(v, scale, zero)) - (f32::from(zero) - 8.0)) * scale;
        elements.iter().zip(counts).map(|(&v, &count)| f64::from(off(v)).powi(2) * f64::from(count)).sum()
    };
    let scored = choices.into_iter().map(|choice| (choice, error(choice)));
    scored
        .reduce(|best, next| if next.1 < best.1 { next } else { best })
        .map_or((1.0, 8), |(choice, _)| choice)
}

/// The nearest 16-bit float that can be divided by; 1 for a block of zeros.
fn half(scale: f32) -> f32 {
    let rounded = f16_value(f16_bits(scale));
    if rounded > 0.0 && rounded.is_finite() { rounded } else { 1.0 }
}

#[cfg(test)]
mod tests;
