//! Recordings in files: told apart by their content, bounded before they are decoded.

use super::wav::{Wav, is_wav};
use crate::{Error, Result};
use flotilla_protocol::limits;

/// A recording of which the header has been read, and nothing decoded yet.
pub struct Decoder<'a> {
    rate: u32,
    channels: usize,
    form: Form<'a>,
}

enum Form<'a> {
    Wav(Wav<'a>),
    #[cfg(feature = "media")]
    Packed(Box<super::packed::Packed<'a>>),
}

/// Why a recording cannot be read.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub(super) struct Broken(String);

impl Broken {
    pub(super) fn new(problem: impl Into<String>) -> Self {
        Self(problem.into())
    }

    pub(super) fn of(self, format: &'static str) -> Error {
        Error::SoundDecode { format, source: self.into() }
    }
}

impl<'a> Decoder<'a> {
    /// Reads the header of a file: one of [`crate::SOUNDS`].
    pub fn new(file: &'a [u8]) -> Result<Self> {
        if file.len() > limits::PREDICT_INPUT {
            let problem = format!("{} bytes", file.len());
            return Err(Error::SoundTooLarge { problem });
        }
        let decoder = if is_wav(file) {
            let wav = Wav::parse(file).map_err(|broken| broken.of("WAV"))?;
            Self { rate: wav.rate, channels: wav.channels, form: Form::Wav(wav) }
        } else {
            Self::packed(file)?
        };
        if !(limits::SOUND_RATE_MIN..=limits::SOUND_RATE).contains(&decoder.rate) {
            return Err(Broken::new(format!(
                "it has {} samples a second; {} to {} are possible",
                decoder.rate,
                limits::SOUND_RATE_MIN,
                limits::SOUND_RATE
            ))
            .of(decoder.format()));
        }
        Ok(decoder)
    }

    #[cfg(feature = "media")]
    fn packed(file: &'a [u8]) -> Result<Self> {
        let packed = super::packed::Packed::open(file)?;
        Ok(Self { rate: packed.rate(), channels: packed.channels(), form: Form::Packed(Box::new(packed)) })
    }

    #[cfg(not(feature = "media"))]
    fn packed(_: &[u8]) -> Result<Self> {
        Err(Error::SoundFormat)
    }

    /// Samples a second.
    pub fn rate(&self) -> u32 {
        self.rate
    }

    /// Channels.
    pub fn channels(&self) -> usize {
        self.channels
    }

    /// What kind of file it is.
    pub fn format(&self) -> &'static str {
        match &self.form {
            Form::Wav(_) => "WAV",
            #[cfg(feature = "media")]
            Form::Packed(packed) => packed.format(),
        }
    }

    /// The mean of all channels, -1 to 1: the first `most` samples, or all, if they are not over the bound.
    pub fn mono(self, most: Option<usize>) -> Result<Vec<f32>> {
        let format = self.format();
        let bound = limits::SOUND_DECODED;
        let most_here = most.unwrap_or(bound + 1).min(bound + 1);
        let samples = match self.form {
            Form::Wav(wav) => wav.mono(most_here),
            #[cfg(feature = "media")]
            Form::Packed(packed) => packed.mono(most_here)?,
        };
        if samples.len() > bound {
            return Err(Error::SoundTooLarge { problem: format!("more than {bound} samples") });
        }
        if samples.is_empty() {
            return Err(Broken::new("it has no samples").of(format));
        }
        if let Some(index) = samples.iter().position(|sample| sample.is_nan() || sample.abs() > LOUDEST) {
            let problem = format!("sample {index} is {}, which is no loudness", samples[index]);
            return Err(Broken::new(problem).of(format));
        }
        Ok(samples)
    }
}

/// The loudest sample of a recording in floats, where 1 is full scale: some are written at the scale of integers.
const LOUDEST: f32 = 4_294_967_296.0;
