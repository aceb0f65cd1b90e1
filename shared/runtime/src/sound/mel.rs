//! Mel bands, their logarithms, and the cepstral coefficients made from them.

use super::spectrum::Transform;
use flotilla_protocol::pipeline::sound::{
    CosineTransform, Decibel, Mel, MelFeatures, MelNorm, MelScale, MelSlope, Mfcc, Reference, Scale,
};
use std::f64::consts::PI;

/// Scaled mel spectrograms.
pub(super) struct MelSpectrogram {
    transform: Transform,
    bands: Vec<Band>,
    scale: Scale,
}

/// A band: weights of the spectrum's bins from `first` on.
struct Band {
    first: usize,
    weights: Vec<f32>,
}

impl MelSpectrogram {
    pub(super) fn new(features: &MelFeatures, rate: u32) -> Self {
        let bins = features.spectrum.fft as usize / 2 + 1;
        let spacing = f64::from(rate) / f64::from(features.spectrum.fft);
        Self {
            transform: Transform::new(features.spectrum),
            bands: bands(&features.mel, bins, spacing),
            scale: features.scale,
        }
    }

    /// All frames of the clip, the bands of a frame beside each other.
    pub(super) fn frames(&mut self, clip: &[f32], frames: usize) -> Vec<f32> {
        let padded = self.transform.padded(clip);
        let mut values = Vec::with_capacity(frames * self.bands.len());
        for index in 0..frames {
            let power = self.transform.frame(&padded, index);
            values.extend(self.bands.iter().map(|band| band.energy(power)));
        }
        scale(self.scale, &mut values);
        values
    }
}

impl Band {
    fn energy(&self, power: &[f32]) -> f32 {
        self.weights.iter().zip(&power[self.first..]).map(|(weight, power)| weight * power).sum()
    }
}

fn bands(mel: &Mel, bins: usize, spacing: f64) -> Vec<Band> {
    let count = mel.bands as usize;
    let (low, high) = (to_mel(mel.scale, mel.low.into()), to_mel(mel.scale, mel.high.into()));
    let edges: Vec<f64> =
        (0..count + 2).map(|edge| low + (high - low) * edge as f64 / (count + 1) as f64).collect();
    let hertz: Vec<f64> = edges.iter().map(|edge| to_hertz(mel.scale, *edge)).collect();
    let (edges, places): (&[f64], Vec<f64>) = match mel.slope {
        MelSlope::Hertz => (&hertz, (0..bins).map(|bin| bin as f64 * spacing).collect()),
        MelSlope::Mel => (&edges, (0..bins).map(|bin| to_mel(mel.scale, bin as f64 * spacing)).collect()),
    };
    let band = |index: usize| {
        let [from, peak, to] = [edges[index], edges[index + 1], edges[index + 2]];
        let norm = match mel.norm {
            MelNorm::None => 1.0,
            MelNorm::Slaney => 2.0 / (hertz[index + 2] - hertz[index]),
        };
        let first = places.partition_point(|place| *place <= from);
        let last = places.partition_point(|place| *place < to).max(first);
        let weight = |place: &f64| {
            let weight = ((place - from) / (peak - from)).min((to - place) / (to - peak));
            (weight.max(0.0) * norm) as f32
        };
        Band { first, weights: places[first..last].iter().map(weight).collect() }
    };
    (0..count).map(band).collect()
}

/// Where the Slaney scale becomes logarithmic, in Hz and in mel.
const BEND: (f64, f64) = (1000.0, 15.0);

/// Natural logarithm of the step of one mel above the bend.
fn step() -> f64 {
    6.4_f64.ln() / 27.0
}

fn to_mel(scale: MelScale, hertz: f64) -> f64 {
    match scale {
        MelScale::Htk => 2595.0 * (1.0 + hertz / 700.0).log10(),
        MelScale::Slaney if hertz < BEND.0 => hertz * BEND.1 / BEND.0,
        MelScale::Slaney => BEND.1 + (hertz / BEND.0).ln() / step(),
    }
}

fn to_hertz(scale: MelScale, mel: f64) -> f64 {
    match scale {
        MelScale::Htk => 700.0 * (10_f64.powf(mel / 2595.0) - 1.0),
        MelScale::Slaney if mel < BEND.1 => mel * BEND.0 / BEND.1,
        MelScale::Slaney => BEND.0 * ((mel - BEND.1) * step()).exp(),
    }
}

fn scale(scale: Scale, values: &mut [f32]) {
    match scale {
        Scale::Linear => {}
        Scale::Ln { offset } => values.iter_mut().for_each(|value| *value = (*value + offset).ln()),
        Scale::Log10 { factor, offset } => {
            values.iter_mut().for_each(|value| *value = factor * (*value + offset).log10());
        }
        Scale::Decibel(Decibel { reference, floor, top }) => {
            let loudest = |values: &[f32]| values.iter().copied().fold(f32::NEG_INFINITY, f32::max);
            let zero = match reference {
                Reference::Energy(energy) => energy,
                Reference::Loudest => loudest(values),
            };
            let zero = 10.0 * zero.max(floor).log10();
            values.iter_mut().for_each(|value| *value = 10.0 * value.max(floor).log10() - zero);
            if let Some(top) = top {
                let least = loudest(values) - top;
                values.iter_mut().for_each(|value| *value = value.max(least));
            }
        }
    }
}

/// Turns bands into cepstral coefficients.
pub(super) struct Cepstrum {
    /// A row of as many weights as bands, a coefficient.
    weights: Vec<f32>,
    bands: usize,
}

impl Cepstrum {
    pub(super) fn new(mfcc: &Mfcc) -> Self {
        let bands = mfcc.mel.mel.bands as usize;
        let lifter = f64::from(mfcc.lifter);
        let row = |coefficient: usize| {
            let norm = match mfcc.transform {
                CosineTransform::Orthonormal if coefficient == 0 => (1.0 / bands as f64).sqrt(),
                _ => (2.0 / bands as f64).sqrt(),
            };
            let lift = if lifter > 0.0 {
                1.0 + lifter / 2.0 * (PI * (coefficient + 1) as f64 / lifter).sin()
            } else {
                1.0
            };
            (0..bands).map(move |band| {
                let angle = PI * coefficient as f64 * (2 * band + 1) as f64 / (2 * bands) as f64;
                (angle.cos() * norm * lift) as f32
            })
        };
        Self { weights: (0..mfcc.coefficients as usize).flat_map(row).collect(), bands }
    }

    /// The coefficients of every frame of `values`.
    pub(super) fn frames(&self, values: &[f32]) -> Vec<f32> {
        let dot = |frame: &[f32], row: &[f32]| frame.iter().zip(row).map(|(a, b)| a * b).sum();
        values
            .chunks_exact(self.bands)
            .flat_map(|frame| self.weights.chunks_exact(self.bands).map(move |row| dot(frame, row)))
            .collect()
    }
}
