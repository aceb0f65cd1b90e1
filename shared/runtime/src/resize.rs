//! Resizing with bit-identical results on every machine: plain f32 arithmetic in one fixed order.
//!
//! Bilinear with half-pixel centres: output pixel `i` is centred at `(i + 0.5) * from / to` of the source, a
//! source pixel weighs one minus its distance, cut at zero, pixels beyond the edge do not count, and the
//! weights sum to one. Where a side shrinks, the triangle is widened by the same factor, so that every source
//! pixel counts and a small picture is an average of the large one instead of a sparse sample.

use crate::picture::Picture;

/// The picture with this size, as values from 0 to 255, row by row, channels beside each other.
pub(crate) fn stretch(picture: &Picture<'_>, width: u32, height: u32) -> Vec<f32> {
    if (picture.width, picture.height) == (width, height) {
        return picture.bytes.iter().map(|&byte| f32::from(byte)).collect();
    }
    let channels = picture.channels;
    let (columns, rows) = (taps(picture.width, width), taps(picture.height, height));
    let stride = picture.width as usize * channels;
    let mut row = vec![0_f32; stride];
    let mut out = Vec::with_capacity(width as usize * height as usize * channels);
    for vertical in &rows {
        row.fill(0.0);
        for (weight, source) in vertical.weights.iter().zip(picture.bytes.chunks(stride).skip(vertical.first))
        {
            for (sum, &byte) in row.iter_mut().zip(source) {
                *sum += weight * f32::from(byte);
            }
        }
        for horizontal in &columns {
            for channel in 0..channels {
                let source = row[horizontal.first * channels + channel..].iter().step_by(channels);
                out.push(horizontal.weights.iter().zip(source).map(|(weight, value)| weight * value).sum());
            }
        }
    }
    out
}

/// The source pixels that make one output pixel of an axis.
struct Taps {
    first: usize,
    weights: Vec<f32>,
}

fn taps(from: u32, to: u32) -> Vec<Taps> {
    let scale = f64::from(from) / f64::from(to);
    let reach = scale.max(1.0);
    let taps_at = |index: u32| {
        let centre = (f64::from(index) + 0.5) * scale;
        let weigh = |pixel: u32| (1.0 - ((f64::from(pixel) + 0.5 - centre) / reach).abs()).max(0.0);
        // Truncation is meant, and below 0 it is 0.
        let first = (centre - reach) as u32;
        let last = ((centre + reach) as u32).min(from - 1);
        let weights: Vec<(u32, f64)> =
            (first..=last).map(|pixel| (pixel, weigh(pixel))).filter(|(_, weight)| *weight > 0.0).collect();
        let sum: f64 = weights.iter().map(|(_, weight)| weight).sum();
        Taps {
            first: weights.first().map_or(0, |(pixel, _)| *pixel as usize),
            weights: weights.into_iter().map(|(_, weight)| (weight / sum) as f32).collect(),
        }
    };
    (0..to).map(taps_at).collect()
}

#[cfg(test)]
#[path = "resize_tests.rs"]
mod tests;
