//! Resizing with bit-identical results on every machine: plain f32 arithmetic in one fixed order.
//!
//! Bilinear with half-pixel centres: output pixel `i` is centred at `(i + 0.5) * from / to` of the source, a
//! source pixel weighs one minus its distance, cut at zero, pixels beyond the edge do not count, and the
//! weights sum to one. Where a side shrinks, the smooth filter widens the triangle by the same factor, so that every
//! source pixel counts and a small picture is an average of the large one instead of a sparse sample; the plain one does
//! not. The nearest pixel is the one in which the centre lies.

use super::picture::Picture;
use flotilla_protocol::pipeline::Filter;
use std::ops::Range;

/// The size to which a picture is brought, and the part of that which is made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Scaled {
    /// Columns and rows of the whole.
    pub(super) size: (u64, u64),
    /// The columns that are made.
    pub(super) columns: Range<u64>,
    /// The rows that are made.
    pub(super) rows: Range<u64>,
}

/// The part of the scaled picture, as values from 0 to 255, row by row, channels beside each other.
pub(super) fn scale(picture: &Picture<'_>, to: &Scaled, filter: Filter) -> Vec<f32> {
    let same = (u64::from(picture.width), u64::from(picture.height)) == to.size;
    if same && to.columns == (0..to.size.0) && to.rows == (0..to.size.1) {
        return picture.bytes.iter().map(|&byte| f32::from(byte)).collect();
    }
    let channels = picture.channels;
    let columns = taps(picture.width, to.size.0, &to.columns, filter);
    let rows = taps(picture.height, to.size.1, &to.rows, filter);
    let stride = picture.width as usize * channels;
    let mut row = vec![0_f32; stride];
    let mut out = Vec::with_capacity(columns.len() * rows.len() * channels);
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

fn taps(from: u32, to: u64, part: &Range<u64>, filter: Filter) -> Vec<Taps> {
    let scale = f64::from(from) / to as f64;
    let reach = match filter {
        Filter::Smooth => scale.max(1.0),
        Filter::Bilinear | Filter::Nearest => 1.0,
    };
    let taps_at = |index: u64| {
        let centre = (index as f64 + 0.5) * scale;
        if filter == Filter::Nearest {
            // Truncation is meant.
            let nearest = (centre as usize).min(from as usize - 1);
            return Taps { first: nearest, weights: vec![1.0] };
        }
        // The edge repeats: the centre is not beyond that of the outermost pixel.
        let centre =
            if filter == Filter::Bilinear { centre.clamp(0.5, f64::from(from) - 0.5) } else { centre };
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
    part.clone().map(taps_at).collect()
}

#[cfg(test)]
#[path = "resize_tests.rs"]
mod tests;
