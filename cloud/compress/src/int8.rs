//! The arithmetic of 8-bit weights: choosing a scale for each channel and rounding to it.

/// The largest magnitude of a weight. -128 is not used, so that the range is symmetric.
const LARGEST: f32 = 127.0;

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
    /// Sum of the squared elements.
    pub(crate) signal: f64,
    /// Sum of the squared differences.
    pub(crate) noise: f64,
}

impl Quantised {
    /// Signal to quantisation noise, in decibels; none where nothing was lost.
    pub(crate) fn sqnr_db(&self) -> Option<f64> {
        (self.noise > 0.0 && self.signal > 0.0).then(|| 10.0 * (self.signal / self.noise).log10())
    }
}

/// Quantises a tensor whose elements fill `channels`; fails with the place of an element that is not finite.
pub(crate) fn quantise(data: &[f32], channels: Channels, clip_percent: &[u8]) -> Result<Quantised, usize> {
    if let Some(place) = data.iter().position(|v| !v.is_finite()) {
        return Err(place);
    }
    let mut quantised = Quantised {
        values: vec![0; data.len()],
        scales: Vec::with_capacity(channels.count),
        signal: 0.0,
        noise: 0.0,
    };
    let mut channel = Vec::with_capacity(channels.outer * channels.inner);
    for index in 0..channels.count {
        channel.clear();
        channel.extend(channels.places(index).map(|place| data[place]));
        let (scale, noise) = best_scale(&channel, clip_percent);
        for (place, value) in channels.places(index).zip(&channel) {
            quantised.values[place] = round(*value, scale);
        }
        quantised.scales.push(scale);
        quantised.signal += channel.iter().map(|v| f64::from(*v).powi(2)).sum::<f64>();
        quantised.noise += noise;
    }
    Ok(quantised)
}

/// The scale with the smallest squared error, and that error. Of equal ones the first ratio wins.
fn best_scale(channel: &[f32], clip_percent: &[u8]) -> (f32, f64) {
    let peak = channel.iter().fold(0.0_f32, |peak, v| peak.max(v.abs()));
    let scales = clip_percent.iter().map(|&percent| scale(peak, percent));
    scales
        .map(|scale| (scale, squared_error(channel, scale)))
        .reduce(|best, next| if next.1 < best.1 { next } else { best })
        .unwrap_or((1.0, 0.0))
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

fn squared_error(channel: &[f32], scale: f32) -> f64 {
    channel.iter().map(|&v| (f64::from(v) - f64::from(f32::from(round(v, scale)) * scale)).powi(2)).sum()
}

#[cfg(test)]
mod tests;
