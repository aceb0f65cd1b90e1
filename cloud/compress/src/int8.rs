//! The arithmetic of 8-bit weights: choosing a scale for each channel and rounding to it.

use flotilla_onnx::{F16_MAX, f16_bits, f16_value};

use crate::Clip;

/// The largest magnitude of a weight. -128 is not used, so that the range is symmetric.
const LARGEST: f32 = 127.0;
/// Scales below this are too coarse as 16-bit floats.
const SMALLEST_HALF: f32 = 1.0 / (1 << 20) as f32;

/// How a tensor's elements, in row-major order, belong to channels.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Channels {
    pub(crate) outer: usize,
    pub(crate) count: usize,
    pub(crate) inner: usize,
}

impl Channels {
    /// The channels along one axis; none where the tensor has no such axis.
    pub(crate) fn along(dims: &[usize], axis: usize) -> Option<Self> {
        let count = *dims.get(axis)?;
        Some(Self { outer: dims[..axis].iter().product(), count, inner: dims[axis + 1..].iter().product() })
    }

    /// The places of one channel's elements.
    fn places(self, channel: usize) -> impl Iterator<Item = usize> {
        (0..self.outer).flat_map(move |outer| {
            let start = (outer * self.count + channel) * self.inner;
            start..start + self.inner
        })
    }
}

/// A tensor as 8-bit integers.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Quantised {
    /// The integers, in the order of the tensor's elements.
    pub(crate) values: Vec<i8>,
    /// One scale a channel: the element is `value * scale`.
    pub(crate) scales: Vec<f32>,
    /// Whether every scale is a 16-bit float.
    pub(crate) half: bool,
}

impl Quantised {
    /// What the integers stand for.
    pub(crate) fn floats(&self, channels: Channels) -> Vec<f32> {
        let scale = |place: usize| self.scales[place / channels.inner % channels.count];
        self.values.iter().enumerate().map(|(place, &value)| f32::from(value) * scale(place)).collect()
    }
}

/// Signal to noise of a tensor and what stands for it, in decibels; none where nothing was lost.
pub(crate) fn sqnr_db(data: &[f32], found: &[f32]) -> Option<f64> {
    let square = |v: f32| f64::from(v).powi(2);
    let signal: f64 = data.iter().map(|v| square(*v)).sum();
    let noise: f64 = data.iter().zip(found).map(|(v, f)| (f64::from(*v) - f64::from(*f)).powi(2)).sum();
    (noise > 0.0 && signal > 0.0).then(|| 10.0 * (signal / noise).log10())
}

/// Quantises a tensor whose elements fill `channels`; fails with the place of an element that is not finite.
///
/// With `half` scales become 16-bit floats, if all of them can. `energy` is how much each element of the tensor counts when
/// a range is chosen by squared error; all alike without it.
pub(crate) fn quantise(
    data: &[f32],
    channels: Channels,
    clip: &Clip,
    half: bool,
    energy: Option<&[f32]>,
) -> Result<Quantised, usize> {
    if let Some(place) = data.iter().position(|v| !v.is_finite()) {
        return Err(place);
    }
    let mut channel = Vec::with_capacity(channels.outer * channels.inner);
    let mut counts = Vec::new();
    let mut scales = Vec::with_capacity(channels.count);
    for index in 0..channels.count {
        channel.clear();
        channel.extend(channels.places(index).map(|place| data[place]));
        if let Some(energy) = energy {
            counts.clear();
            counts.extend(channels.places(index).map(|place| energy[place]));
        }
        scales.push(match clip {
            Clip::Mse(ratios) => best_scale(&channel, &counts, ratios),
            Clip::Percentile(share) => scale(percentile(&channel, *share), 100),
        });
    }
    let halves: Option<Vec<f32>> = scales.iter().map(|scale| as_half(*scale)).collect();
    let halves = halves.filter(|_| half);
    let half = halves.is_some();
    let scales = halves.unwrap_or(scales);
    let mut values = vec![0; data.len()];
    for (index, &scale) in scales.iter().enumerate() {
        for place in channels.places(index) {
            values[place] = round(data[place], scale);
        }
    }
    Ok(Quantised { values, scales, half })
}

/// The smallest 16-bit float that is not below a scale, if it is near.
fn as_half(scale: f32) -> Option<f32> {
    let nearest = f16_bits(scale);
    // Positive halves are in the order of their bits.
    let bits = if f16_value(nearest) < scale { nearest + 1 } else { nearest };
    let half = f16_value(bits);
    (SMALLEST_HALF..=F16_MAX).contains(&half).then_some(half)
}

/// The magnitude that so many ten-thousandths of a channel stay at or below.
fn percentile(channel: &[f32], share: u16) -> f32 {
    let mut magnitudes: Vec<f32> = channel.iter().map(|v| v.abs()).collect();
    magnitudes.sort_by(f32::total_cmp);
    let rank = (magnitudes.len() * usize::from(share)).div_ceil(10_000).max(1) - 1;
    magnitudes.get(rank).copied().unwrap_or_default()
}

/// The scale with the smallest squared error. Of equal ones the first ratio wins.
fn best_scale(channel: &[f32], counts: &[f32], clip_percent: &[u8]) -> f32 {
    let peak = channel.iter().fold(0.0_f32, |peak, v| peak.max(v.abs()));
    let scales = clip_percent.iter().map(|&percent| scale(peak, percent));
    scales
        .map(|scale| (scale, squared_error(channel, counts, scale)))
        .reduce(|best, next| if next.1 < best.1 { next } else { best })
        .map_or(1.0, |(scale, _)| scale)
}

fn scale(peak: f32, percent: u8) -> f32 {
    let scale = peak / LARGEST * (f32::from(percent) / 100.0);
    if !scale.is_normal() {
        // Zero, or too small to divide by: such a channel becomes zeros under any scale.
        return 1.0;
    }
    // The division may round up, and the largest float times that is infinite.
    if (scale * LARGEST).is_finite() { scale } else { scale.next_down() }
}

fn round(value: f32, scale: f32) -> i8 {
    // In range after the clamp, so the conversion drops nothing.
    (value / scale).round_ties_even().clamp(-LARGEST, LARGEST) as i8
}

fn squared_error(channel: &[f32], counts: &[f32], scale: f32) -> f64 {
    let error = |v: f32| (f64::from(v) - f64::from(f32::from(round(v, scale)) * scale)).powi(2);
    if counts.is_empty() {
        return channel.iter().map(|&v| error(v)).sum();
    }
    channel.iter().zip(counts).map(|(&v, &count)| error(v) * f64::from(count)).sum()
}

#[cfg(test)]
mod tests;
