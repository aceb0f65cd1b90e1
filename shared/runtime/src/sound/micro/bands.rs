//! Mel bands over an integer spectrum: overlapping triangles, each bin shared by two neighbours.

use super::fourier::Complex;
use flotilla_protocol::pipeline::sound::MicroFrontend;

/// Bits of a weight's fraction.
const WEIGHT_BITS: u32 = 12;

pub(super) struct Bands {
    /// One more than there are bands: the first one's rising side comes before it.
    sides: Vec<Side>,
}

/// The bins between the peaks of two neighbours: what they give to the upper one is `1 - weight`.
struct Side {
    first: usize,
    /// For the lower neighbour, and for the upper one.
    weights: Vec<(i16, i16)>,
}

impl Bands {
    /// None if a band reaches beyond the spectrum of `size` bins.
    pub(super) fn new(settings: &MicroFrontend, rate: u32, size: usize) -> Option<Self> {
        let (low, high) = (mel(settings.low), mel(settings.high));
        let sides = settings.bands as usize + 1;
        let spacing = (high - low) / sides as f32;
        let peak = |side: usize| low + spacing * (side + 1) as f32;
        let hertz = (0.5 * f64::from(rate) / f64::from(size as f32 - 1.0)) as f32;
        let place = |bin: usize| mel(bin as f32 * hertz);
        // The constant component is never part of a band.
        let mut bin = (1.5 + f64::from(settings.low / hertz)) as usize;
        let mut all = Vec::with_capacity(sides);
        for side in 0..sides {
            let (from, to) = (if side == 0 { low } else { peak(side - 1) }, peak(side));
            let first = bin;
            let mut weights = Vec::new();
            while bin < size && place(bin) <= to {
                weights.push(share((to - place(bin)) / (to - from)));
                bin += 1;
            }
            all.push(Side { first, weights });
        }
        (bin < size).then_some(Self { sides: all })
    }

    /// The bands' magnitudes, of a spectrum whose samples were shifted up by `shift`.
    pub(super) fn signal(&self, spectrum: &[Complex], shift: u32) -> Vec<u32> {
        let mut carried = 0_u64;
        let mut signal = Vec::with_capacity(self.sides.len());
        for Side { first, weights } in &self.sides {
            let (mut lower, mut upper) = (carried, 0_u64);
            for (point, (weight, rest)) in spectrum[*first..].iter().zip(weights) {
                let (re, im) = (i32::from(point.re), i32::from(point.im));
                let energy = i64::from((re * re).wrapping_add(im * im));
                lower = lower.wrapping_add_signed(i64::from(*weight) * energy);
                upper = upper.wrapping_add_signed(i64::from(*rest) * energy);
            }
            signal.push(root(lower) >> shift);
            carried = upper;
        }
        // What comes before the first band's peak belongs to no band.
        signal.remove(0);
        signal
    }
}

fn mel(hertz: f32) -> f32 {
    (1127.0 * f64::from(hertz / 700.0).ln_1p()) as f32
}

fn share(weight: f32) -> (i16, i16) {
    let one = f64::from(1_u32 << WEIGHT_BITS);
    let fixed = |scaled: f64| (scaled + 0.5).floor() as i16;
    (fixed(f64::from(weight * one as f32)), fixed((1.0 - f64::from(weight)) * one))
}

/// The square root, rounded to the nearest whole number that has the bits.
fn root(number: u64) -> u32 {
    let whole = number.isqrt();
    let most = if number >> 32 == 0 { u64::from(u16::MAX) } else { u64::from(u32::MAX) };
    let up = number - whole * whole > whole && whole != most;
    (whole + u64::from(up)) as u32
}
