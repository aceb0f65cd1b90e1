//! What levels the bands' magnitudes: noise reduction, gain control, logarithm.

use flotilla_protocol::pipeline::sound::{MicroFrontend, MicroGain};

/// Bits of a smoothing factor's fraction.
const NOISE_BITS: u32 = 14;
/// Bits of a signal-to-noise ratio's fraction.
const RATIO_BITS: u32 = 12;
/// Bits of the fraction of what gain control gives.
const OUTPUT_BITS: u32 = 6;
/// Bits of a logarithm's fraction.
const LOG_BITS: u32 = 16;
/// Bits of the segments of a logarithm's table.
const SEGMENT_BITS: u32 = 7;

/// Subtracts a slow estimate of each band's noise.
pub(super) struct NoiseReduction {
    bits: u32,
    /// Of even bands, and of odd ones.
    smoothing: [u16; 2],
    least: u16,
    estimate: Vec<u32>,
}

impl NoiseReduction {
    pub(super) fn new(settings: &MicroFrontend) -> Self {
        let fixed = |value: f32| (value * (1 << NOISE_BITS) as f32) as u16;
        Self {
            bits: settings.smoothing_bits.into(),
            smoothing: [fixed(settings.even_smoothing), fixed(settings.odd_smoothing)],
            least: fixed(settings.min_signal),
            estimate: vec![0; settings.bands as usize],
        }
    }

    pub(super) fn reset(&mut self) {
        self.estimate.fill(0);
    }

    pub(super) fn estimate(&self) -> &[u32] {
        &self.estimate
    }

    pub(super) fn apply(&mut self, signal: &mut [u32]) {
        for (index, (value, estimate)) in signal.iter_mut().zip(&mut self.estimate).enumerate() {
            let smoothing = u64::from(self.smoothing[index % 2]);
            let fine = value.wrapping_shl(self.bits);
            let mixed = u64::from(fine) * smoothing + u64::from(*estimate) * ((1 << NOISE_BITS) - smoothing);
            *estimate = (mixed >> NOISE_BITS) as u32;
            let rest = (fine - (*estimate).min(fine)) >> self.bits;
            let least = ((u64::from(*value) * u64::from(self.least)) >> NOISE_BITS) as u32;
            *value = rest.max(least);
        }
    }
}

/// Divides each band by a power of its noise, looked up in a table of parabolas, one a doubling.
pub(super) struct GainControl {
    table: Vec<[i16; 3]>,
    /// Gains of 0, 1 and 2, which have no parabola before them.
    small: [i16; 3],
    shift: u32,
}

impl GainControl {
    pub(super) fn new(settings: &MicroFrontend, gain: MicroGain) -> Self {
        let bits = i32::from(settings.smoothing_bits) - settings.correction();
        let at = |noise: u32| gain_at(gain, bits, noise);
        let parabola = |doubling: u32| {
            let start = 1_u32 << (doubling - 1);
            let end = if doubling == u32::BITS { start + (start - 1) } else { 2 * start };
            let [first, middle, last] = [start, start + (start >> 1), end].map(|x| i32::from(at(x)));
            let slope = 4 * (middle - first) - (last - first);
            [first as i16, slope as i16, (last - first - slope) as i16]
        };
        Self {
            table: (2..=u32::BITS).map(parabola).collect(),
            small: [at(0), at(1), at(2)],
            shift: (i32::from(gain.bits) - settings.correction()) as u32 - RATIO_BITS,
        }
    }

    pub(super) fn apply(&self, noise: &[u32], signal: &mut [u32]) {
        for (value, noise) in signal.iter_mut().zip(noise) {
            // A gain is at most 32767, but a parabola may pass under zero, and is then a large number as in C.
            let gain = i32::from(self.gain(*noise)) as u32;
            let ratio = (u64::from(*value).wrapping_mul(gain.into()) >> self.shift) as u32;
            *value = shrunk(ratio);
        }
    }

    fn gain(&self, noise: u32) -> i16 {
        if noise <= 2 {
            return self.small[noise as usize];
        }
        let doubling = u32::BITS - noise.leading_zeros();
        let [first, slope, bend] = self.table[doubling as usize - 2].map(i32::from);
        let aligned = if doubling < 11 { noise << (11 - doubling) } else { noise >> (doubling - 11) };
        let part = (aligned & 0x3FF) as i32;
        let rise = ((bend * part) >> 5).wrapping_add(slope << 5).wrapping_mul(part);
        ((rise.wrapping_add(1 << 14) >> 15) + first) as i16
    }
}

fn gain_at(gain: MicroGain, bits: i32, noise: u32) -> i16 {
    let noise = noise as f32 / (1_u32 << bits) as f32;
    let value = (1_u32 << gain.bits) as f32 * (noise + gain.offset).powf(-gain.strength);
    if value > f32::from(i16::MAX) { i16::MAX } else { (value + 0.5) as i16 }
}

/// Small ratios squared, so that noise becomes less; greater ones straight.
fn shrunk(ratio: u32) -> u32 {
    if ratio < 2 << RATIO_BITS {
        ratio.wrapping_mul(ratio) >> (2 + 2 * RATIO_BITS - OUTPUT_BITS)
    } else {
        (ratio >> (RATIO_BITS - OUTPUT_BITS)) - (1 << OUTPUT_BITS)
    }
}

/// The natural logarithm, of `2^shift` steps a unit; 0 of what is less than 2.
pub(super) fn logarithm(value: u32, correction: i32, shift: u32) -> u32 {
    let value = if correction < 0 {
        value.wrapping_shr(correction.unsigned_abs())
    } else {
        value.wrapping_shl(correction.unsigned_abs())
    };
    if value < 2 {
        return 0;
    }
    let whole = value.ilog2();
    let two = (whole << LOG_BITS) + fraction(value, whole);
    let half = 1 << (LOG_BITS - 1);
    // ln 2 of 16 bits of fraction.
    let natural = ((45_426 * u64::from(two) + half) >> LOG_BITS) as u32;
    ((natural << shift) + half as u32) >> LOG_BITS
}

/// What the logarithm to base two has behind its point: straight between powers of two, and a bulge over it.
fn fraction(value: u32, whole: u32) -> u32 {
    let rest = i64::from(value) - (1_i64 << whole);
    let rest = if whole < LOG_BITS { rest << (LOG_BITS - whole) } else { rest >> (whole - LOG_BITS) } as i32;
    let segment = rest >> (LOG_BITS - SEGMENT_BITS);
    let (from, to) = (bulge(segment), bulge(segment + 1));
    let start = segment << (LOG_BITS - SEGMENT_BITS);
    let between = ((to - from) * (rest - start)) >> LOG_BITS;
    (rest + from + between) as u32
}

/// `log2(1 + x) - x` at `x = segment / 128`.
fn bulge(segment: i32) -> i32 {
    let x = f64::from(segment) / f64::from(1 << SEGMENT_BITS);
    (((1.0 + x).log2() - x) * f64::from(1 << LOG_BITS)).round() as i32
}
