//! Recordings to tensors: decoding, one channel, the model's rate, its clip, its features.

mod decode;
mod mel;
mod micro;
mod mpeg;
#[cfg(feature = "media")]
mod ogg;
#[cfg(feature = "media")]
mod packed;
mod resample;
mod spectrum;
mod wav;

pub use decode::Decoder;
pub(crate) use wav::to_wav;

use crate::{Error, Result};
use flotilla_protocol::pipeline::InvalidPipeline;
use flotilla_protocol::pipeline::sound::{Features, Gain, Place, SoundInput, SoundLayout, SoundSize};
use mel::{Cepstrum, MelSpectrogram};
use micro::Micro;
use resample::Resampler;

/// Turns recordings into tensors. Made from a description whose bounds are checked once; keeps its tables and buffers.
pub struct Frontend {
    input: SoundInput,
    size: SoundSize,
    extractor: Extractor,
    /// Of the rate of the last recording, if it was not the model's.
    resampler: Option<(u32, Resampler)>,
}

/// Whether bytes begin as files of recordings do, in every build alike.
pub(crate) fn is_known(bytes: &[u8]) -> bool {
    let packed: [&[u8]; 3] = [b"fLaC", b"OggS", b"ID3"];
    wav::is_wav(bytes) || mpeg::is_mp3(bytes) || packed.iter().any(|start| bytes.starts_with(start))
}

enum Extractor {
    Waveform,
    Mel(MelSpectrogram),
    Mfcc(MelSpectrogram, Cepstrum),
    Micro(Box<Micro>),
}

impl Frontend {
    /// The front end that `input` describes.
    pub fn new(input: &SoundInput) -> Result<Self> {
        input.check()?;
        let extractor = match &input.features {
            Features::Waveform => Extractor::Waveform,
            Features::Mel(features) => Extractor::Mel(MelSpectrogram::new(features, input.rate)),
            Features::Mfcc(mfcc) => {
                Extractor::Mfcc(MelSpectrogram::new(&mfcc.mel, input.rate), Cepstrum::new(mfcc))
            }
            Features::Micro(micro) => {
                let made = Micro::new(micro, input.rate).ok_or_else(|| InvalidPipeline {
                    field: "sound.features.high",
                    problem: format!(
                        "{} Hz is over the spectrum of {} samples; choose a lower one",
                        micro.high,
                        micro.fft()
                    ),
                })?;
                Extractor::Micro(Box::new(made))
            }
        };
        Ok(Self { input: input.clone(), size: input.size()?, extractor, resampler: None })
    }

    /// Shape of the tensors. The first axis is the rows of one recording, 1 where it is not cut into windows.
    pub fn shape(&self) -> Vec<usize> {
        let SoundSize { rows, frames, bins, .. } = self.size;
        match self.input.layout {
            SoundLayout::TimeBinsOne => vec![rows, frames, bins, 1],
            SoundLayout::OneTimeBins => vec![rows, 1, frames, bins],
            SoundLayout::OneBinsTime => vec![rows, 1, bins, frames],
            SoundLayout::TimeBins => vec![rows, frames, bins],
            SoundLayout::BinsTime => vec![rows, bins, frames],
            SoundLayout::Flat => vec![rows, frames * bins],
        }
    }

    /// What it takes: recordings for this input.
    pub fn input(&self) -> &SoundInput {
        &self.input
    }

    /// The tensor of a recording in a file: one of [`crate::SOUNDS`].
    pub fn tensor(&mut self, file: &[u8]) -> Result<Vec<f32>> {
        let clip = self.clip_of_file(file)?;
        self.tensor_of_clip(clip)
    }

    /// The tensor of samples of one channel, -1 to 1, at the model's rate.
    pub fn tensor_of_samples(&mut self, mono: &[f32]) -> Result<Vec<f32>> {
        let mut clip = vec![0.0; self.input.clip.samples as usize];
        let (from, to) = places(self.input.clip.place, mono.len() as u64, clip.len());
        let count = (mono.len() - from as usize).min(clip.len() - to);
        clip[to..to + count].copy_from_slice(&mono[from as usize..from as usize + count]);
        self.tensor_of_clip(clip)
    }

    /// Decodes a file, as far as it is needed, and cuts the clip at the model's rate out of it.
    fn clip_of_file(&mut self, file: &[u8]) -> Result<Vec<f32>> {
        let decoder = Decoder::new(file)?;
        let mut clip = vec![0.0; self.input.clip.samples as usize];
        let place = self.input.clip.place;
        let (rate, wanted) = (decoder.rate(), clip.len());
        let needed = |all: u64| (place == Place::Start).then_some(all as usize);
        if rate == self.input.rate {
            let mono = decoder.mono(needed(wanted as u64))?;
            let (from, to) = places(place, mono.len() as u64, wanted);
            let count = (mono.len() - from as usize).min(wanted - to);
            clip[to..to + count].copy_from_slice(&mono[from as usize..from as usize + count]);
            return Ok(clip);
        }
        let resampler = match self.resampler.take() {
            Some((kept, resampler)) if kept == rate => resampler,
            _ => Resampler::new(rate, self.input.rate),
        };
        let mono = decoder.mono(needed(resampler.needed(wanted)))?;
        let length = resampler.length(mono.len());
        let (from, to) = places(place, length, wanted);
        let count = (length - from).min((wanted - to) as u64) as usize;
        clip[to..to + count].copy_from_slice(&resampler.piece(&mono, from, count));
        self.resampler = Some((rate, resampler));
        Ok(clip)
    }

    /// The tensor of exactly the model's clip.
    fn tensor_of_clip(&mut self, mut clip: Vec<f32>) -> Result<Vec<f32>> {
        level(self.input.gain, &mut clip);
        let frames = self.size.all_frames;
        let features = match &mut self.extractor {
            Extractor::Waveform => clip,
            Extractor::Mel(mel) => mel.frames(&clip, frames),
            Extractor::Mfcc(mel, cepstrum) => cepstrum.frames(&mel.frames(&clip, frames)),
            Extractor::Micro(micro) => micro.frames(&clip),
        };
        let tensor = self.arranged(&features);
        match tensor.iter().position(|value| !value.is_finite()) {
            None => Ok(tensor),
            Some(index) => Err(Error::SoundValue { index }),
        }
    }

    /// Normalised, cut into rows and in the order of the layout.
    fn arranged(&self, features: &[f32]) -> Vec<f32> {
        let SoundSize { rows, frames, bins, .. } = self.size;
        let first = self.input.range.map_or(0, |range| range.first as usize);
        let hop = self.input.rows.map_or(0, |rows| rows.hop as usize);
        let of_bin = |values: &[f32], bin: usize| values[bin % values.len()];
        let value = |frame: usize, bin: usize| {
            let raw = features[frame * bins + bin];
            (raw - of_bin(&self.input.mean, bin)) / of_bin(&self.input.std, bin)
        };
        let mut tensor = Vec::with_capacity(rows * frames * bins);
        for row in 0..rows {
            let start = first + row * hop;
            match self.input.layout {
                SoundLayout::OneBinsTime | SoundLayout::BinsTime => {
                    for bin in 0..bins {
                        tensor.extend((start..start + frames).map(|frame| value(frame, bin)));
                    }
                }
                _ => {
                    for frame in start..start + frames {
                        tensor.extend((0..bins).map(|bin| value(frame, bin)));
                    }
                }
            }
        }
        tensor
    }
}

impl std::fmt::Debug for Frontend {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Frontend({} Hz -> {:?})", self.input.rate, self.shape())
    }
}

/// Where a clip of `wanted` samples starts in a recording of `length`, and the recording in the clip.
fn places(place: Place, length: u64, wanted: usize) -> (u64, usize) {
    match place {
        Place::Start => (0, 0),
        Place::Centre => {
            let wanted = wanted as u64;
            (length.saturating_sub(wanted) / 2, (wanted.saturating_sub(length) / 2) as usize)
        }
    }
}

fn level(gain: Gain, clip: &mut [f32]) {
    let loudest = match gain {
        Gain::None => return,
        Gain::Peak => clip.iter().fold(0.0, |most: f32, sample| most.max(sample.abs())),
        Gain::Maximum => clip.iter().fold(0.0, |most: f32, sample| most.max(*sample)),
    };
    if loudest.is_normal() {
        clip.iter_mut().for_each(|sample| *sample /= loudest);
    }
}
