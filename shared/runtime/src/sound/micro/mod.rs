//! TensorFlow's micro front end: features of speech in integers, bit for bit as microcontrollers compute them.
//!
//! After the definitions in `tensorflow/lite/experimental/microfrontend`. Where integers wrap there, they wrap here;
//! where floats of 32 bits make the tables there, they do here.

mod bands;
mod fourier;
mod level;

use bands::Bands;
use flotilla_protocol::pipeline::sound::MicroFrontend;
use fourier::Fourier;
use level::{GainControl, NoiseReduction, logarithm};

/// Bits of a window weight's fraction.
const WINDOW_BITS: u32 = 12;

/// The micro front end of one clip length.
pub(super) struct Micro {
    settings: MicroFrontend,
    window: Vec<i16>,
    fourier: Fourier,
    bands: Bands,
    noise: NoiseReduction,
    gain: Option<GainControl>,
}

impl Micro {
    /// Of checked settings. None if the bands do not fit into the spectrum.
    pub(super) fn new(settings: &MicroFrontend, rate: u32) -> Option<Self> {
        let fourier = Fourier::new(settings.fft());
        let bands = Bands::new(settings, rate, settings.fft() / 2 + 1)?;
        Some(Self {
            settings: *settings,
            window: window(settings.length as usize),
            fourier,
            bands,
            noise: NoiseReduction::new(settings),
            gain: settings.gain.map(|gain| GainControl::new(settings, gain)),
        })
    }

    /// All frames of a clip, from a state that has heard nothing.
    pub(super) fn frames(&mut self, clip: &[f32]) -> Vec<f32> {
        let samples: Vec<i16> = clip.iter().map(|sample| (sample * 32768.0).round() as i16).collect();
        let (length, hop) = (self.window.len(), self.settings.hop as usize);
        self.noise.reset();
        let frames = (0..=samples.len() - length).step_by(hop);
        frames.flat_map(|start| self.frame(&samples[start..start + length])).collect()
    }

    fn frame(&mut self, samples: &[i16]) -> Vec<f32> {
        let weighted: Vec<i16> = samples
            .iter()
            .zip(&self.window)
            .map(|(sample, weight)| ((i32::from(*sample) * i32::from(*weight)) >> WINDOW_BITS) as i16)
            .collect();
        let loudest = weighted.iter().map(|value| value.wrapping_abs()).max().unwrap_or(0).max(0);
        // Shifted up so that the Fourier transform's integers are used whole.
        let shift = 15 - (16 - loudest.leading_zeros());
        let spectrum = self.fourier.transform(weighted.iter().map(|value| value << shift));
        let mut signal = self.bands.signal(spectrum, shift);
        self.noise.apply(&mut signal);
        if let Some(gain) = &self.gain {
            gain.apply(self.noise.estimate(), &mut signal);
        }
        let correction = self.settings.correction();
        let value = |value: u32| match self.settings.log_shift {
            Some(shift) => logarithm(value, correction, shift.into()),
            None => value,
        };
        signal.into_iter().map(|energy| value(energy).min(u16::MAX.into()) as f32).collect()
    }
}

fn window(length: usize) -> Vec<i16> {
    let step = (std::f64::consts::TAU / length as f64) as f32;
    (0..length)
        .map(|n| {
            let weight = (0.5 - 0.5 * (f64::from(step) * (n as f64 + 0.5)).cos()) as f32;
            (f64::from(weight * (1 << WINDOW_BITS) as f32) + 0.5).floor() as i16
        })
        .collect()
}
