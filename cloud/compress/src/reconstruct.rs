//! Rounding that looks at what a layer makes of real inputs, instead of at each weight alone.
//!
//! For one output channel with weights `w`, rounded to `q`, the mean squared error of the output over calibration inputs
//! is `transpose(e) * H * e` with `e = w - q` and `H` the inputs' second moments: the objective of AdaRound (Nagel et al.
//! 2020, arXiv:2004.10568, its section 3 with the task's curvature taken as the layer's own) and of GPTQ (Frantar et al.
//! 2022, arXiv:2210.17323). It is minimised by cyclic coordinate descent, as in QuantEase (Behdin et al. 2023,
//! arXiv:2309.01885): one weight after another goes to the better of its two neighbours on the grid, given all the others,
//! until a sweep changes nothing. As in AdaRound no weight goes further than one step. As in GPTQ a hundredth of the mean of
//! `H`'s diagonal is added to it, so that inputs which the few samples do not show keep the nearest rounding. The error
//! never grows: each flip makes it smaller.

use crate::gram::Gram;
use crate::layer::Layer;

/// Sweeps over one channel at most.
const SWEEPS: usize = 20;
/// What is added to the diagonal, of its mean.
const DAMPING: f64 = 0.01;

/// A rounded weight, in the order of the layer's matrix.
pub(crate) struct Grid<'a> {
    /// The scale of an element, by row and column.
    pub(crate) scale: &'a dyn Fn(usize, usize) -> f32,
    /// The smallest and the largest integer.
    pub(crate) range: (i8, i8),
}

/// Rounds the weight of a layer anew, from a first rounding in `values`; gives how many elements moved.
pub(crate) fn reconstruct(
    layer: &Layer,
    weight: &[f32],
    grid: &Grid<'_>,
    gram: &Gram,
    values: &mut [i8],
) -> usize {
    let rows_of_group = layer.matrix.rows / gram.groups.len();
    let damped: Vec<Vec<f64>> = gram.groups.iter().map(|matrix| damp(matrix, gram.cols)).collect();
    let mut moved = 0;
    for row in 0..layer.matrix.rows {
        let places: Vec<usize> = (0..gram.cols).map(|col| layer.matrix.at(row, col)).collect();
        let weights: Vec<f64> = places.iter().map(|&place| f64::from(weight[place])).collect();
        let scales: Vec<f64> = (0..gram.cols).map(|col| f64::from((grid.scale)(row, col))).collect();
        let mut rounded: Vec<i8> = places.iter().map(|&place| values[place]).collect();
        descend(&damped[row / rows_of_group], &weights, &scales, grid.range, &mut rounded);
        for (&place, value) in places.iter().zip(rounded) {
            moved += usize::from(values[place] != value);
            values[place] = value;
        }
    }
    moved
}

/// Second moments with a hundredth of their mean added to each on the diagonal.
pub(crate) fn damp(matrix: &[f64], cols: usize) -> Vec<f64> {
    let mut damped = matrix.to_vec();
    let mean = (0..cols).map(|i| matrix[i * cols + i]).sum::<f64>() / cols as f64;
    // Inputs that were always zero say nothing; any positive diagonal keeps the nearest rounding.
    let more = if mean > 0.0 { mean * DAMPING } else { 1.0 };
    (0..cols).for_each(|i| damped[i * cols + i] += more);
    damped
}

fn descend(matrix: &[f64], weights: &[f64], scales: &[f64], range: (i8, i8), rounded: &mut [i8]) {
    let cols = weights.len();
    let mut gradient = vec![0.0; cols];
    for i in 0..cols {
        let error = weights[i] - f64::from(rounded[i]) * scales[i];
        if error != 0.0 {
            let line = &matrix[i * cols..(i + 1) * cols];
            gradient.iter_mut().zip(line).for_each(|(sum, h)| *sum += h * error);
        }
    }
    for _ in 0..SWEEPS {
        let mut changed = false;
        for i in 0..cols {
            let (scale, curvature) = (scales[i], matrix[i * cols + i]);
            let exact = weights[i] / scale;
            let now = f64::from(rounded[i]);
            let other = if now > exact { exact.floor() } else { exact.ceil() };
            let other = if other == now { continue } else { other };
            // A weight that was clipped has no neighbour inside the range.
            if other < f64::from(range.0) || other > f64::from(range.1) || (other - now).abs() > 1.0 {
                continue;
            }
            let step = (other - now) * scale;
            let gain = 2.0 * step * gradient[i] - step * step * curvature;
            if gain > 1e-12 * step * step * curvature {
                rounded[i] = other as i8;
                changed = true;
                let line = &matrix[i * cols..(i + 1) * cols];
                gradient.iter_mut().zip(line).for_each(|(sum, h)| *sum -= step * h);
            }
        }
        if !changed {
            break;
        }
    }
}

#[cfg(test)]
mod tests;
