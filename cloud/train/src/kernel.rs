//! Two layers computed on plain slices, forward and backward: the depthwise 3x3 convolution, and normalisation by
//! batch, perhaps with a rectifier.
//!
//! The engine builds their gradients from general operations, a convolution for each channel and some ten passes over
//! memory for each normalisation. Here both are one or two passes. Work is cut by image or by channel and sums keep one
//! order, so results do not depend on the number of threads.

use rayon::prelude::*;

/// Images that a task takes at least: less work than that is not worth handing over.
const IMAGES_A_TASK: usize = 4;
/// Partial sums of a plane, so that additions need not wait for each other.
const LANES: usize = 8;

/// A depthwise 3x3 convolution with a border of one zero.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Depthwise {
    pub(crate) channels: usize,
    pub(crate) height: usize,
    pub(crate) width: usize,
    pub(crate) stride: usize,
}

impl Depthwise {
    /// Rows and columns of the result.
    pub(crate) fn output(&self) -> (usize, usize) {
        (self.height.div_ceil(self.stride), self.width.div_ceil(self.stride))
    }

    fn bordered(&self) -> usize {
        (self.height + 2) * (self.width + 2)
    }

    /// Copies a plane into the middle of a zeroed, bordered one.
    fn border(&self, plane: &[f32], bordered: &mut [f32]) {
        let rows = bordered.chunks_exact_mut(self.width + 2).skip(1);
        for (to, from) in rows.zip(plane.chunks_exact(self.width)) {
            to[1..=self.width].copy_from_slice(from);
        }
    }

    pub(crate) fn forward(&self, x: &[f32], weight: &[f32]) -> Vec<f32> {
        let ((rows, columns), plane) = (self.output(), self.height * self.width);
        let images = x.len() / (self.channels * plane);
        let mut out = vec![0.0; images * self.channels * rows * columns];
        out.par_chunks_exact_mut(self.channels * rows * columns)
            .zip(x.par_chunks_exact(self.channels * plane))
            .with_min_len(IMAGES_A_TASK)
            .for_each_init(
                || vec![0.0; self.bordered()],
                |bordered, (out, x)| {
                    let planes = out.chunks_exact_mut(rows * columns).zip(x.chunks_exact(plane));
                    for ((out, x), weight) in planes.zip(weight.as_chunks::<9>().0) {
                        self.border(x, bordered);
                        self.forward_plane(bordered, weight, out);
                    }
                },
            );
        out
    }

    fn forward_plane(&self, bordered: &[f32], weight: &[f32; 9], out: &mut [f32]) {
        let (_, columns) = self.output();
        for (y, out) in out.chunks_exact_mut(columns).enumerate() {
            for (place, &w) in weight.iter().enumerate() {
                let from = &bordered[(y * self.stride + place / 3) * (self.width + 2) + place % 3..];
                if self.stride == 1 {
                    out.iter_mut().zip(from).for_each(|(out, &v)| *out += w * v);
                } else {
                    out.iter_mut().zip(from.iter().step_by(self.stride)).for_each(|(out, &v)| *out += w * v);
                }
            }
        }
    }

    /// The gradients of the input and of the weights.
    pub(crate) fn backward(&self, x: &[f32], weight: &[f32], gradient: &[f32]) -> (Vec<f32>, Vec<f32>) {
        let ((rows, columns), plane) = (self.output(), self.height * self.width);
        let mut of_x = vec![0.0; x.len()];
        let partial: Vec<Vec<f32>> = of_x
            .par_chunks_exact_mut(self.channels * plane)
            .zip(x.par_chunks_exact(self.channels * plane))
            .zip(gradient.par_chunks_exact(self.channels * rows * columns))
            .with_min_len(IMAGES_A_TASK)
            .map_init(
                || (vec![0.0; self.bordered()], vec![0.0; self.bordered()]),
                |(bordered, spread), ((of_x, x), gradient)| {
                    let mut of_weight = Vec::with_capacity(weight.len());
                    let planes = of_x.chunks_exact_mut(plane).zip(x.chunks_exact(plane));
                    let planes = planes.zip(gradient.chunks_exact(rows * columns));
                    for (((of_x, x), gradient), weight) in planes.zip(weight.as_chunks::<9>().0) {
                        self.border(x, bordered);
                        of_weight.extend(self.backward_plane(bordered, weight, gradient, spread));
                        let inner = spread.chunks_exact(self.width + 2).skip(1);
                        for (to, from) in of_x.chunks_exact_mut(self.width).zip(inner) {
                            to.copy_from_slice(&from[1..=self.width]);
                        }
                    }
                    of_weight
                },
            )
            .collect();
        let mut of_weight = vec![0.0; weight.len()];
        for image in partial {
            of_weight.iter_mut().zip(image).for_each(|(sum, v)| *sum += v);
        }
        (of_x, of_weight)
    }

    fn backward_plane(
        &self,
        bordered: &[f32],
        weight: &[f32; 9],
        gradient: &[f32],
        spread: &mut [f32],
    ) -> [f32; 9] {
        spread.fill(0.0);
        let mut of_weight = [0.0; 9];
        for (y, row) in gradient.chunks_exact(self.output().1).enumerate() {
            for ky in 0..3 {
                let start = (y * self.stride + ky) * (self.width + 2);
                let from = &bordered[start..start + self.width + 2];
                let to = &mut spread[start..start + self.width + 2];
                for (x, &g) in row.iter().enumerate().map(|(x, g)| (x * self.stride, g)) {
                    for kx in 0..3 {
                        of_weight[ky * 3 + kx] += g * from[x + kx];
                        to[x + kx] += g * weight[ky * 3 + kx];
                    }
                }
            }
        }
        of_weight
    }
}

/// Normalisation by the statistics of a batch, then a scale, a shift and perhaps a rectifier.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Normalise {
    pub(crate) channels: usize,
    /// Pixels of a plane.
    pub(crate) plane: usize,
    pub(crate) epsilon: f64,
    pub(crate) rectified: bool,
}

/// Mean and variance of each channel in a batch.
#[derive(Clone, Debug)]
pub(crate) struct Statistics {
    pub(crate) mean: Vec<f32>,
    pub(crate) variance: Vec<f32>,
}

impl Normalise {
    fn planes<'a>(&self, values: &'a [f32], channel: usize) -> impl Iterator<Item = &'a [f32]> + use<'a> {
        let plane = self.plane;
        values
            .chunks_exact(self.channels * plane)
            .map(move |image| &image[channel * plane..(channel + 1) * plane])
    }

    fn deviation(&self, variance: f32) -> f32 {
        (f64::from(variance) + self.epsilon).sqrt() as f32
    }

    /// Two passes: the square of the mean taken from the mean of the squares loses too much.
    pub(crate) fn statistics(&self, x: &[f32]) -> Statistics {
        let count = (x.len() / self.channels) as f64;
        let (mean, variance) = (0..self.channels)
            .into_par_iter()
            .with_min_len(IMAGES_A_TASK)
            .map(|channel| {
                let sum: f64 = self.planes(x, channel).map(|plane| total(plane, |v| v)).sum();
                let mean = (sum / count) as f32;
                let squares = |plane| total(plane, |v| (v - mean) * (v - mean));
                (mean, (self.planes(x, channel).map(squares).sum::<f64>() / count) as f32)
            })
            .unzip();
        Statistics { mean, variance }
    }

    pub(crate) fn forward(
        &self,
        x: &[f32],
        gamma: &[f32],
        beta: &[f32],
        statistics: &Statistics,
    ) -> Vec<f32> {
        let lines: Vec<(f32, f32)> = (0..self.channels)
            .map(|c| {
                let scale = gamma[c] / self.deviation(statistics.variance[c]);
                (scale, beta[c] - statistics.mean[c] * scale)
            })
            .collect();
        let mut out = vec![0.0; x.len()];
        out.par_chunks_exact_mut(self.channels * self.plane)
            .zip(x.par_chunks_exact(self.channels * self.plane))
            .with_min_len(IMAGES_A_TASK)
            .for_each(|(out, x)| {
                let planes = out.chunks_exact_mut(self.plane).zip(x.chunks_exact(self.plane));
                for ((out, x), &(scale, shift)) in planes.zip(&lines) {
                    let line = out.iter_mut().zip(x);
                    if self.rectified {
                        line.for_each(|(out, &x)| *out = rectified(x * scale + shift));
                    } else {
                        line.for_each(|(out, &x)| *out = x * scale + shift);
                    }
                }
            });
        out
    }

    /// The gradients of the input, the scale and the shift; `y` is what the forward pass gave.
    pub(crate) fn backward(
        &self,
        x: &[f32],
        y: &[f32],
        gradient: &[f32],
        gamma: &[f32],
        statistics: &Statistics,
    ) -> (Vec<f32>, Vec<f32>, Vec<f32>) {
        let count = (x.len() / self.channels) as f32;
        let passed = |output, gradient| if self.rectified { passed(output, gradient) } else { gradient };
        let (of_gamma, of_beta): (Vec<f32>, Vec<f32>) = (0..self.channels)
            .into_par_iter()
            .with_min_len(IMAGES_A_TASK)
            .map(|c| {
                let (mean, mut sum, mut product) = (statistics.mean[c], 0.0, 0.0);
                let planes = self.planes(x, c).zip(self.planes(y, c)).zip(self.planes(gradient, c));
                for ((x, y), g) in planes {
                    sum += pairs(y, g, passed);
                    product += triples(x, y, g, |x, y, g| passed(y, g) * (x - mean));
                }
                ((product / f64::from(self.deviation(statistics.variance[c]))) as f32, sum as f32)
            })
            .unzip();
        let mut of_x = vec![0.0; x.len()];
        let image = self.channels * self.plane;
        of_x.par_chunks_exact_mut(image)
            .zip(x.par_chunks_exact(image))
            .zip(y.par_chunks_exact(image).zip(gradient.par_chunks_exact(image)))
            .with_min_len(IMAGES_A_TASK)
            .for_each(|((of_x, x), (y, g))| {
                for c in 0..self.channels {
                    let inverse = 1.0 / self.deviation(statistics.variance[c]);
                    let (scale, mean) = (gamma[c] * inverse, statistics.mean[c]);
                    let (level, slope) = (of_beta[c] / count, of_gamma[c] * inverse / count);
                    let range = c * self.plane..(c + 1) * self.plane;
                    let values = x[range.clone()].iter().zip(&y[range.clone()]).zip(&g[range.clone()]);
                    for (out, ((x, y), g)) in of_x[range].iter_mut().zip(values) {
                        *out = scale * (passed(*y, *g) - level - (x - mean) * slope);
                    }
                }
            });
        (of_x, of_gamma, of_beta)
    }
}

/// A value that is no number stays one, so that a training that diverges is seen.
fn rectified(value: f32) -> f32 {
    if value < 0.0 { 0.0 } else { value }
}

fn passed(output: f32, gradient: f32) -> f32 {
    if output > 0.0 { gradient } else { 0.0 }
}

fn total(values: &[f32], f: impl Fn(f32) -> f32) -> f64 {
    triples(values, values, values, |v, _, _| f(v))
}

fn pairs(a: &[f32], b: &[f32], f: impl Fn(f32, f32) -> f32) -> f64 {
    triples(a, b, b, |a, b, _| f(a, b))
}

fn triples(a: &[f32], b: &[f32], c: &[f32], f: impl Fn(f32, f32, f32) -> f32) -> f64 {
    let mut lanes = [0.0_f32; LANES];
    let (a, b, c) = (a.as_chunks::<LANES>(), b.as_chunks::<LANES>(), c.as_chunks::<LANES>());
    for ((a, b), c) in a.0.iter().zip(b.0).zip(c.0) {
        for lane in 0..LANES {
            lanes[lane] += f(a[lane], b[lane], c[lane]);
        }
    }
    for ((&a, &b), &c) in a.1.iter().zip(b.1).zip(c.1) {
        lanes[0] += f(a, b, c);
    }
    lanes.iter().copied().map(f64::from).sum()
}
