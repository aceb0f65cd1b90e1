//! Bias correction: rounding a weight moves the mean of what its layer gives, and the bias can take that back.
//!
//! Nagel et al. 2019 (arXiv:1906.04721), section 4.2. With calibration samples the means are measured, as in their
//! appendix D: one layer after another, in the order in which they run, so that each is corrected for what the layers
//! before it do as well. Without samples, `E[(W' - W) x] = (W' - W) E[x]` with the means of `x` that batch normalisation
//! knew, those of a rectified normal where a `Relu` stands between; what padding adds at the edges is not seen.

use std::collections::HashMap;

use flotilla_onnx::{Model, Tensor};
use flotilla_runtime::engine::Array;

use super::Norms;
use crate::gram::probe;
use crate::layer::{Layer, bias_of, is, set_floats};
use crate::{Calibration, Result};

/// Times that the model is loaded for one correction at most: with more layers, neighbours are corrected together.
const MAX_LOADS: usize = 64;

/// Corrects the biases of `layers`, as `reference` has them, in a model whose weights were rounded; gives how many.
pub(crate) fn by_samples(
    model: &mut Model,
    reference: &Model,
    layers: &[&Layer],
    set: &Calibration,
) -> Result<usize> {
    let layers: Vec<&Layer> = layers.iter().copied().filter(|layer| layer.takes_bias).collect();
    if layers.is_empty() {
        return Ok(0);
    }
    let outputs: Vec<&str> = layers.iter().map(|layer| layer.output.as_str()).collect();
    let wanted = means(reference, &layers, &outputs, set)?;
    let mut corrected = 0;
    let together = layers.len().div_ceil(MAX_LOADS);
    for (chunk, wanted) in layers.chunks(together).zip(wanted.chunks(together)) {
        let outputs: Vec<&str> = chunk.iter().map(|layer| layer.output.as_str()).collect();
        let found = means(model, chunk, &outputs, set)?;
        for ((layer, wanted), found) in chunk.iter().zip(wanted).zip(&found) {
            let (Some(wanted), Some(found)) = (wanted, found) else { continue };
            let shift: Vec<f64> = wanted.iter().zip(found).map(|(w, f)| w - f).collect();
            corrected += usize::from(add(model, layer, &shift)?);
        }
    }
    Ok(corrected)
}

/// The mean of each channel of some values over a calibration set; none where a value has not the layer's form.
fn means(
    model: &Model,
    layers: &[&Layer],
    values: &[&str],
    set: &Calibration,
) -> Result<Vec<Option<Vec<f64>>>> {
    let mut probe = probe(model, values, set)?;
    let mut sums: Vec<Option<Vec<f64>>> = layers.iter().map(|l| Some(vec![0.0; l.matrix.rows])).collect();
    for sample in set.samples() {
        for ((layer, sum), array) in layers.iter().zip(&mut sums).zip(probe.run(sample)?) {
            if let Some(channels) = sum
                && !add_means(layer, &array, channels)
            {
                *sum = None;
            }
        }
    }
    let count = set.samples().len() as f64;
    sums.iter_mut().flatten().flatten().for_each(|sum| *sum /= count);
    Ok(sums)
}

fn add_means(layer: &Layer, array: &Array, sums: &mut [f64]) -> bool {
    let channels = sums.len();
    let axis = if layer.window.is_some() { 1 } else { array.shape.len().saturating_sub(1) };
    if array.shape.get(axis) != Some(&channels) || array.values.is_empty() {
        return false;
    }
    let inner: usize = array.shape[axis + 1..].iter().product();
    let positions = (array.values.len() / channels) as f64;
    for (place, value) in array.values.iter().enumerate() {
        sums[place / inner % channels] += f64::from(*value) / positions;
    }
    true
}

/// Corrects biases by what normalisation knew; `deltas` is what rounding did to each weight, in memory order.
pub(crate) fn by_norms(
    model: &mut Model,
    reference: &Model,
    layers: &[&Layer],
    norms: &Norms,
    deltas: &HashMap<String, Vec<f32>>,
) -> Result<usize> {
    let mut corrected = 0;
    for layer in layers.iter().filter(|layer| layer.takes_bias) {
        let Some(delta) = deltas.get(&layer.weight) else { continue };
        let Some(expected) = expected(reference, norms, &layer.input) else { continue };
        if expected.len() != layer.channels() {
            continue;
        }
        let mut shift = vec![0.0; layer.matrix.rows];
        for (row, shift) in shift.iter_mut().enumerate() {
            for col in 0..layer.matrix.cols {
                let mean = expected[layer.channel_of(row, col)];
                *shift -= f64::from(delta[layer.matrix.at(row, col)]) * mean;
            }
        }
        corrected += usize::from(add(model, layer, &shift)?);
    }
    Ok(corrected)
}

/// The mean of each channel of a value, where normalisation made it, up to a rectifier and averages of positions.
fn expected(model: &Model, norms: &Norms, value: &str) -> Option<Vec<f64>> {
    if let Some(channels) = norms.0.get(value) {
        return Some(channels.iter().map(|(mean, _)| f64::from(*mean)).collect());
    }
    let node = model.producer_of(value)?;
    let source = node.input.first()?;
    if is(node, "Relu") {
        let channels = norms.0.get(source)?;
        return Some(
            channels.iter().map(|&(mean, deviation)| rectified(mean.into(), deviation.into())).collect(),
        );
    }
    let averages = ["GlobalAveragePool", "AveragePool", "Identity"].iter().any(|op| is(node, op));
    if averages { expected(model, norms, source) } else { None }
}

/// The mean of a normal variable of which only the positive part is left.
fn rectified(mean: f64, deviation: f64) -> f64 {
    if deviation <= 0.0 {
        return mean.max(0.0);
    }
    let z = mean / deviation;
    let density = (-z * z / 2.0).exp() / (2.0 * std::f64::consts::PI).sqrt();
    mean * normal(z) + deviation * density
}

/// The distribution function of the standard normal, to 1e-7: Abramowitz and Stegun, 26.2.17.
fn normal(z: f64) -> f64 {
    let t = 1.0 / (1.0 + 0.231_641_9 * z.abs());
    let coefficients = [1.330_274_429, -1.821_255_978, 1.781_477_937, -0.356_563_782, 0.319_381_530];
    let series = coefficients.iter().fold(0.0, |sum, c| (sum + c) * t);
    let tail = (-z * z / 2.0).exp() / (2.0 * std::f64::consts::PI).sqrt() * series;
    if z >= 0.0 { 1.0 - tail } else { tail }
}

/// Adds to the bias of a layer; gives whether there was a place for it and anything to add.
fn add(model: &mut Model, layer: &Layer, shift: &[f64]) -> Result<bool> {
    if shift.iter().any(|v| !v.is_finite()) || shift.iter().all(|v| *v == 0.0) {
        return Ok(false);
    }
    let Some(name) = bias_of(model, layer)? else { return Ok(false) };
    let Ok(Tensor { dims, mut data }) = model.tensor_f32(&name) else { return Ok(false) };
    data.iter_mut().zip(shift).for_each(|(value, shift)| *value = (f64::from(*value) + shift) as f32);
    set_floats(model, &name, &Tensor { dims, data })?;
    Ok(true)
}

#[cfg(test)]
mod tests {
    use super::{normal, rectified};

    #[test]
    fn a_rectified_normal_has_the_mean_that_sampling_shows() {
        for (mean, deviation) in [(0.0, 1.0), (1.5, 0.5), (-2.0, 1.0), (0.3, 2.0), (1.0, 0.0), (-1.0, 0.0)] {
            // The integral over 8 deviations, by the midpoint rule.
            let steps = 20_000;
            let width = 16.0 / f64::from(steps);
            let value = |i: u32| {
                let z = -8.0 + (f64::from(i) + 0.5) * width;
                (mean + deviation * z).max(0.0) * (-z * z / 2.0_f64).exp()
                    / (2.0 * std::f64::consts::PI).sqrt()
            };
            let integral: f64 = (0..steps).map(|i| value(i) * width).sum();
            let found = rectified(mean, deviation);
            assert!((found - integral).abs() < 1e-5, "{mean} {deviation}: {found}, not {integral}");
        }
        assert!((normal(1.96) - 0.975_002).abs() < 1e-6 && (normal(-8.0)).abs() < 1e-9);
    }
}
