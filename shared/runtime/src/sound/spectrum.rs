//! The short-time Fourier transform of a clip: windows, frames, power.

use flotilla_protocol::pipeline::sound::{Padding, Place, Spectrum, WindowKind};
use rustfft::num_complex::Complex32;
use rustfft::{Fft, FftPlanner};
use std::borrow::Cow;
use std::f64::consts::TAU;
use std::sync::Arc;

/// Makes power spectra of frames; keeps its plan and its buffers.
pub(super) struct Transform {
    spectrum: Spectrum,
    window: Vec<f32>,
    fft: Arc<dyn Fft<f32>>,
    points: Vec<Complex32>,
    scratch: Vec<Complex32>,
    power: Vec<f32>,
}

impl Transform {
    pub(super) fn new(spectrum: Spectrum) -> Self {
        let points = spectrum.fft as usize;
        let fft = FftPlanner::new().plan_fft_forward(points);
        Self {
            spectrum,
            window: window(spectrum.window, spectrum.length as usize),
            points: vec![Complex32::default(); points],
            scratch: vec![Complex32::default(); fft.get_inplace_scratch_len()],
            power: vec![0.0; points / 2 + 1],
            fft,
        }
    }

    /// The clip with what stands before and behind it.
    pub(super) fn padded<'a>(&self, clip: &'a [f32]) -> Cow<'a, [f32]> {
        let side = self.spectrum.fft as usize / 2;
        let mut padded = match self.spectrum.padding {
            Padding::None => return Cow::Borrowed(clip),
            Padding::Zeros => vec![0.0; side],
            Padding::Reflect => clip[1..=side].iter().rev().copied().collect(),
        };
        padded.reserve(clip.len() + side);
        padded.extend_from_slice(clip);
        match self.spectrum.padding {
            Padding::Reflect => padded.extend(clip[clip.len() - 1 - side..clip.len() - 1].iter().rev()),
            _ => padded.resize(clip.len() + 2 * side, 0.0),
        }
        Cow::Owned(padded)
    }

    /// The spectrum of frame `index` of a padded clip: `fft / 2 + 1` values.
    pub(super) fn frame(&mut self, padded: &[f32], index: usize) -> &[f32] {
        let (length, fft) = (self.window.len(), self.points.len());
        let inset = match self.spectrum.place {
            Place::Start => 0,
            Place::Centre => (fft - length) / 2,
        };
        let start = index * self.spectrum.hop as usize + inset;
        self.points.fill(Complex32::default());
        let under = &padded[start..start + length];
        for ((point, sample), weight) in self.points[inset..].iter_mut().zip(under).zip(&self.window) {
            point.re = sample * weight;
        }
        self.fft.process_with_scratch(&mut self.points, &mut self.scratch);
        for (power, point) in self.power.iter_mut().zip(&self.points) {
            let square = point.norm_sqr();
            *power = if self.spectrum.power == 2 { square } else { square.sqrt() };
        }
        &self.power
    }
}

fn window(kind: WindowKind, length: usize) -> Vec<f32> {
    let (base, period) = match kind {
        WindowKind::None => return vec![1.0; length],
        WindowKind::Hann => (0.5, length),
        WindowKind::HannSymmetric => (0.5, length - 1),
        WindowKind::Hamming => (0.54, length),
        WindowKind::HammingSymmetric => (0.54, length - 1),
    };
    (0..length).map(|n| (base - (1.0 - base) * (TAU * n as f64 / period as f64).cos()) as f32).collect()
}
