//! Another sample rate: a windowed sinc.
//!
//! The kernel is a sinc of 48 zero crossings a side under a Kaiser window (beta 9), cut off at 0.94 of the lower of both
//! Nyquist frequencies: flat within 0.01 dB up to 0.88 of it, 90 dB down from it on. It is tabulated a phase of the
//! output between two input samples; rates in no small ratio are interpolated between phases.

use std::f64::consts::PI;

/// Zero crossings of the sinc on each side.
const CROSSINGS: f64 = 48.0;
/// Where the pass band ends, of the lower Nyquist frequency: the response is halved there.
const CUT_OFF: f64 = 0.94;
/// Shape of the Kaiser window.
const BETA: f64 = 9.0;
/// Values of the table at most: 1 MiB.
const TABLE: usize = 1 << 18;
/// Phases at most.
const PHASES: usize = 1024;

/// Brings recordings of one rate to another one.
pub(super) struct Resampler {
    from: u64,
    to: u64,
    /// Taps on each side of the output's place.
    half: usize,
    phases: usize,
    /// `phases + 1` rows of `2 * half` taps.
    table: Vec<f32>,
}

impl Resampler {
    pub(super) fn new(from: u32, to: u32) -> Self {
        let common = gcd(from, to);
        let (from, to) = (from / common, to / common);
        let narrow = (f64::from(to) / f64::from(from)).min(1.0);
        let reach = CROSSINGS / narrow;
        let half = reach.ceil() as usize;
        let phases = (to as usize).min(PHASES).min((TABLE / (2 * half)).max(1));
        let mut table = Vec::with_capacity((phases + 1) * 2 * half);
        for phase in 0..=phases {
            let offset = phase as f64 / phases as f64;
            let taps: Vec<f64> = (0..2 * half)
                .map(|tap| {
                    let distance = offset + (half - 1) as f64 - tap as f64;
                    sinc(distance * narrow * CUT_OFF) * kaiser(distance / reach)
                })
                .collect();
            let sum: f64 = taps.iter().sum();
            table.extend(taps.iter().map(|tap| (tap / sum) as f32));
        }
        Self { from: from.into(), to: to.into(), half, phases, table }
    }

    /// Samples that a recording of `samples` has at the other rate.
    pub(super) fn length(&self, samples: usize) -> u64 {
        (samples as u64 * self.to).div_ceil(self.from)
    }

    /// Samples that are needed for the first `wanted` ones at the other rate.
    pub(super) fn needed(&self, wanted: usize) -> u64 {
        (wanted as u64 * self.from).div_ceil(self.to) + self.half as u64 + 1
    }

    /// `count` samples at the other rate, from `first` on.
    pub(super) fn piece(&self, samples: &[f32], first: u64, count: usize) -> Vec<f32> {
        (first..first + count as u64).map(|index| self.sample(samples, index)).collect()
    }

    fn sample(&self, samples: &[f32], index: u64) -> f32 {
        let place = index * self.from;
        let (whole, part) = ((place / self.to) as usize, place % self.to);
        let (row, mix) = if self.phases as u64 == self.to {
            (part as usize, 0.0)
        } else {
            let phase = part as f64 / self.to as f64 * self.phases as f64;
            (phase as usize, phase.fract() as f32)
        };
        let taps = 2 * self.half;
        // Tap 0 lies on sample `whole + 1 - half`; what is outside of the recording is silent.
        let before = (self.half - 1).saturating_sub(whole);
        let start = (whole + before).saturating_sub(self.half - 1);
        let Some(under) = samples.get(start..) else { return 0.0 };
        let dot = |row: usize| -> f32 {
            let row = &self.table[row * taps..][..taps];
            row[before..].iter().zip(under).map(|(tap, sample)| tap * sample).sum()
        };
        let value = dot(row);
        if mix > 0.0 { value + (dot(row + 1) - value) * mix } else { value }
    }
}

fn gcd(a: u32, b: u32) -> u32 {
    if b == 0 { a } else { gcd(b, a % b) }
}

fn sinc(x: f64) -> f64 {
    if x == 0.0 { 1.0 } else { (PI * x).sin() / (PI * x) }
}

/// The Kaiser window at `x` of -1 to 1, without its constant factor.
fn kaiser(x: f64) -> f64 {
    if x.abs() >= 1.0 { 0.0 } else { bessel(BETA * (1.0 - x * x).sqrt()) }
}

/// The modified Bessel function of order zero.
fn bessel(x: f64) -> f64 {
    let mut term = 1.0;
    let mut sum = 1.0;
    for n in 1..64 {
        term *= (x / 2.0 / f64::from(n)).powi(2);
        sum += term;
        if term < sum * 1e-17 {
            break;
        }
    }
    sum
}
