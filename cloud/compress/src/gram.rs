//! What calibration samples say of a layer's input: the second moments of the elements that one output is computed of.

use flotilla_onnx::Model;
use flotilla_runtime::engine::{Array, Probe};

use crate::layer::{Layer, Window};
use crate::reconstruct::damp;
use crate::{Calibration, Error, Result};

/// Layers whose outputs are computed of more elements are left to plain rounding: the matrix grows with the square.
const MAX_COLS: usize = 2048;
/// Cells of all matrices of a model: 256 MiB. Layers that come after are rounded plainly, too.
const MAX_CELLS: usize = 1 << 25;
/// Positions of a layer's input that are looked at over all samples, evenly spread.
const MAX_ROWS: usize = 8192;

/// For each group of a layer, the mean of `x * transpose(x)` over the inputs `x` of its outputs.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Gram {
    pub(crate) cols: usize,
    /// One full matrix a group.
    pub(crate) groups: Vec<Vec<f64>>,
}

impl Gram {
    /// An empty one, taken from the cells that are left.
    fn new(layer: &Layer, left: &mut usize) -> Option<Self> {
        let cols = layer.matrix.cols;
        let groups = layer.groups();
        let cells = cols.checked_mul(cols)?.checked_mul(groups)?;
        *left = left.checked_sub(cells).filter(|_| cols <= MAX_COLS)?;
        Some(Self { cols, groups: vec![vec![0.0; cols * cols]; groups] })
    }

    /// The mean square of what each element of a weight, in memory order, is multiplied with, damped as in [`damp`]: what
    /// the few samples do not show may come nevertheless.
    pub(crate) fn energy(&self, layer: &Layer) -> Vec<f32> {
        let rows_of_group = layer.matrix.rows / self.groups.len();
        let damped: Vec<Vec<f64>> = self.groups.iter().map(|matrix| damp(matrix, self.cols)).collect();
        let mut energy = vec![0.0; layer.matrix.rows * self.cols];
        for row in 0..layer.matrix.rows {
            let matrix = &damped[row / rows_of_group];
            for col in 0..self.cols {
                energy[layer.matrix.at(row, col)] = matrix[col * self.cols + col] as f32;
            }
        }
        energy
    }

    /// Adds one input, to the upper triangle.
    fn add(&mut self, group: usize, row: &[f32]) {
        let matrix = &mut self.groups[group];
        for (i, &a) in row.iter().enumerate() {
            // Behind a rectifier half of all elements are zero.
            if a != 0.0 {
                let line = &mut matrix[i * self.cols + i..(i + 1) * self.cols];
                line.iter_mut().zip(&row[i..]).for_each(|(sum, &b)| *sum += f64::from(a) * f64::from(b));
            }
        }
    }

    /// Divides by the number of inputs and fills the lower triangle.
    fn finish(&mut self, rows: usize) {
        let cols = self.cols;
        for matrix in &mut self.groups {
            for i in 0..cols {
                for j in i..cols {
                    let mean = matrix[i * cols + j] / rows.max(1) as f64;
                    (matrix[i * cols + j], matrix[j * cols + i]) = (mean, mean);
                }
            }
        }
    }
}

/// The moments of each layer's input over a calibration set; none for layers that are too large or whose input is
/// not what their form says.
pub(crate) fn grams(model: &Model, layers: &[Layer], set: &Calibration) -> Result<Vec<Option<Gram>>> {
    let mut left = MAX_CELLS;
    let mut grams: Vec<Option<Gram>> = layers.iter().map(|layer| Gram::new(layer, &mut left)).collect();
    let mut names: Vec<&str> = layers.iter().map(|layer| layer.input.as_str()).collect();
    names.sort_unstable();
    names.dedup();
    if names.is_empty() {
        return Ok(grams);
    }
    let mut probe = probe(model, &names, set)?;
    let mut rows = vec![0_usize; layers.len()];
    let at_most = MAX_ROWS.div_ceil(set.samples().len());
    for sample in set.samples() {
        let arrays = probe.run(sample)?;
        for ((layer, gram), rows) in layers.iter().zip(&mut grams).zip(&mut rows) {
            let array = names.binary_search(&layer.input.as_str()).ok().and_then(|place| arrays.get(place));
            let seen = gram.as_mut().zip(array).and_then(|(gram, array)| add(gram, layer, array, at_most));
            match seen {
                Some(seen) => *rows += seen,
                None => *gram = None,
            }
        }
    }
    for (gram, rows) in grams.iter_mut().zip(rows) {
        if let Some(gram) = gram {
            gram.finish(rows);
        }
        let finite = |gram: &Gram| gram.groups.iter().flatten().all(|v| v.is_finite());
        if gram.as_ref().is_some_and(|gram| !finite(gram)) {
            return Err(Error::Evaluator {
                problem: "the model's inner values are no finite numbers".into(),
            });
        }
    }
    Ok(grams)
}

/// A model that gives these inner values, loaded for a calibration set.
pub(crate) fn probe(model: &Model, values: &[&str], set: &Calibration) -> Result<Probe> {
    let mut inner = model.clone();
    inner.expose(values)?;
    Ok(Probe::load(&inner.write(), set.shape())?)
}

/// Adds what one sample shows; gives how many inputs that were, or none where the array is not of the layer's form.
fn add(gram: &mut Gram, layer: &Layer, array: &Array, at_most: usize) -> Option<usize> {
    let Some(window) = &layer.window else {
        if array.shape.last() != Some(&gram.cols) {
            return None;
        }
        let rows = array.values.len() / gram.cols;
        let step = rows.div_ceil(at_most).max(1);
        let chosen = array.values.chunks_exact(gram.cols).step_by(step);
        return Some(chosen.map(|row| gram.add(0, row)).count());
    };
    let (channels, height, width) = match array.shape[..] {
        [1, channels, width] => (channels, 1, width),
        [1, channels, height, width] => (channels, height, width),
        _ => return None,
    };
    if channels != layer.channels() {
        return None;
    }
    let positions = positions(window, height, width)?;
    let count = positions[0] * positions[1];
    let step = count.div_ceil(at_most).max(1);
    let of_group = channels / window.groups;
    let mut row = vec![0.0; gram.cols];
    let mut seen = 0;
    for position in (0..count).step_by(step) {
        let start = [position / positions[1], position % positions[1]];
        for group in 0..window.groups {
            let plane = |channel: usize| {
                let first = (group * of_group + channel) * height * width;
                &array.values[first..first + height * width]
            };
            let mut place = 0;
            for channel in 0..of_group {
                place = patch(window, plane(channel), [height, width], start, &mut row, place);
            }
            gram.add(group, &row);
        }
        seen += 1;
    }
    Some(seen)
}

/// Rows and columns of a convolution's output.
fn positions(window: &Window, height: usize, width: usize) -> Option<[usize; 2]> {
    let along = |axis: usize, size: usize| {
        let span = window.dilations[axis] * (window.kernel[axis] - 1) + 1;
        let padded = size + window.pads[axis] + window.pads_end[axis];
        Some(padded.checked_sub(span)? / window.strides[axis] + 1)
    };
    Some([along(0, height)?, along(1, width)?])
}

/// Copies what one kernel sees of one plane, zeros where it reaches over the edge.
fn patch(
    window: &Window,
    plane: &[f32],
    size: [usize; 2],
    start: [usize; 2],
    row: &mut [f32],
    first: usize,
) -> usize {
    let mut place = first;
    for y in 0..window.kernel[0] {
        for x in 0..window.kernel[1] {
            let at = |axis: usize, tap: usize| {
                let padded = start[axis] * window.strides[axis] + tap * window.dilations[axis];
                padded.checked_sub(window.pads[axis]).filter(|&at| at < size[axis])
            };
            row[place] = match (at(0, y), at(1, x)) {
                (Some(y), Some(x)) => plane[y * size[1] + x],
                _ => 0.0,
            };
            place += 1;
        }
    }
    place
}
