//! How a recording becomes a tensor: every parameter of the front ends that sound models are trained with.
//!
//! The definitions are those of librosa, of `tf.signal` and of TensorFlow's micro front end; each parameter says
//! which of their arguments it is. The presets at the end are front ends of published models.

use super::InvalidPipeline;
use crate::limits;
use serde::{Deserialize, Serialize};

/// A recording to a tensor (f32).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SoundInput {
    /// Samples a second of the model; recordings of another rate are resampled.
    pub rate: u32,
    /// The piece of the recording that the model gets.
    pub clip: Clip,
    /// How the clip's loudness is levelled.
    pub gain: Gain,
    /// What is computed from the samples.
    pub features: Features,
    /// Which frames of the features are used; all by default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub range: Option<Range>,
    /// How the frames are cut into windows, each a row of the tensor's first axis; one row of all frames by default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rows: Option<Rows>,
    /// `value = (feature - mean) / std`: one value, or one a bin.
    pub mean: Vec<f32>,
    /// See `mean`; never zero.
    pub std: Vec<f32>,
    /// Order of the tensor's axes.
    pub layout: SoundLayout,
}

/// The piece of a recording that the model gets: shorter ones are filled with zeros, longer ones are cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Clip {
    /// Samples at the model's rate.
    pub samples: u32,
    /// Where the piece lies in a longer recording, and a shorter recording in the piece.
    pub place: Place,
}

/// Where something lies in something longer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Place {
    /// At its start.
    Start,
    /// In its middle.
    Centre,
}

/// How a clip's loudness is levelled.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Gain {
    /// Samples stay as they are, -1 to 1.
    None,
    /// Divided by the largest absolute sample, as `librosa.util.normalize`; silence stays silence.
    Peak,
    /// Divided by the largest sample, as MLPerf Tiny does for keywords; silence stays silence.
    Maximum,
}

/// What is computed from a clip's samples. Each kind gives frames in time, of the same number of bins each.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Features {
    /// The samples themselves: as many frames as samples, of one bin.
    Waveform,
    /// Energies of mel bands.
    Mel(MelFeatures),
    /// Cepstral coefficients of mel bands.
    Mfcc(Mfcc),
    /// TensorFlow's micro front end, in fixed point, as microcontrollers run it.
    Micro(MicroFrontend),
}

/// A scaled mel spectrogram.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct MelFeatures {
    /// How a spectrum is made.
    pub spectrum: Spectrum,
    /// How its bins are gathered into bands.
    pub mel: Mel,
    /// How energies are scaled.
    pub scale: Scale,
}

/// The short-time Fourier transform of a clip.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Spectrum {
    /// The window function.
    pub window: WindowKind,
    /// Samples under the window.
    pub length: u32,
    /// Samples from one frame to the next.
    pub hop: u32,
    /// Points of the Fourier transform, `length` or more.
    pub fft: u32,
    /// Where the window lies within the transform's points: in the middle as in librosa and PyTorch, where a frame
    /// has `fft` samples; at the start as in `tf.signal`, where it has `length` and zeros follow.
    pub place: Place,
    /// What stands before and behind the clip.
    pub padding: Padding,
    /// 1 for magnitudes, 2 for their squares.
    pub power: u8,
}

/// A window function.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum WindowKind {
    /// No window: every sample counts the same.
    None,
    /// Hann, periodic: `0.5 - 0.5 cos(2 pi n / N)`; the default of librosa, PyTorch and `tf.signal`.
    Hann,
    /// Hann, symmetric: `0.5 - 0.5 cos(2 pi n / (N - 1))`.
    HannSymmetric,
    /// Hamming, periodic: `0.54 - 0.46 cos(2 pi n / N)`.
    Hamming,
    /// Hamming, symmetric.
    HammingSymmetric,
}

/// What stands before and behind a clip, `fft / 2` samples each, so that frame `t` is centred on sample `t * hop`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Padding {
    /// Nothing: frames lie wholly within the clip (`center=False`).
    None,
    /// Zeros (`center=True, pad_mode="constant"`, librosa from 0.10).
    Zeros,
    /// The clip mirrored at its ends (`center=True, pad_mode="reflect"`, librosa before 0.10 and PyTorch).
    Reflect,
}

/// Triangular bands on the mel scale.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Mel {
    /// How many.
    pub bands: u32,
    /// Lowest frequency, in Hz.
    pub low: f32,
    /// Highest frequency, in Hz; half the rate at most.
    pub high: f32,
    /// Which mel scale.
    pub scale: MelScale,
    /// In what the sides of the triangles are straight.
    pub slope: MelSlope,
    /// How bands are weighted.
    pub norm: MelNorm,
}

/// A mel scale.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum MelScale {
    /// `2595 log10(1 + f / 700)`; `htk=True` in librosa, and the only one of `tf.signal`.
    Htk,
    /// Linear below 1 kHz, logarithmic above; librosa's default.
    Slaney,
}

/// In what the sides of mel bands are straight.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum MelSlope {
    /// In Hz, as in librosa and PyTorch.
    Hertz,
    /// In mel, as in `tf.signal.linear_to_mel_weight_matrix`.
    Mel,
}

/// How mel bands are weighted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum MelNorm {
    /// Every band peaks at 1 (`norm=None`, and `tf.signal`).
    None,
    /// Every band has the same area (`norm="slaney"`, librosa's default).
    Slaney,
}

/// How energies of mel bands are scaled.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Scale {
    /// As they are.
    Linear,
    /// `ln(energy + offset)`.
    Ln {
        /// Added to the energy; above zero.
        offset: f32,
    },
    /// `factor * log10(energy + offset)`.
    Log10 {
        /// 1, 10 or 20 mostly.
        factor: f32,
        /// Added to the energy; above zero.
        offset: f32,
    },
    /// `librosa.power_to_db`.
    Decibel(Decibel),
}

/// Decibels over a reference, as `librosa.power_to_db`.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Decibel {
    /// What counts as 0 dB.
    pub reference: Reference,
    /// Energies below count as this one (`amin`); above zero.
    pub floor: f32,
    /// Values more than this below the loudest one are raised to there (`top_db`).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub top: Option<f32>,
}

/// What counts as 0 dB.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Reference {
    /// This energy (`ref=1.0`).
    Energy(f32),
    /// The clip's loudest band (`ref=np.max`).
    Loudest,
}

/// Mel frequency cepstral coefficients.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Mfcc {
    /// The scaled mel bands that they are made from.
    pub mel: MelFeatures,
    /// How many, from the lowest.
    pub coefficients: u32,
    /// The cosine transform (DCT-II).
    pub transform: CosineTransform,
    /// Liftering as in librosa: coefficient `n`, from 1, times `1 + lifter / 2 * sin(pi n / lifter)`; 0 for none.
    pub lifter: f32,
}

/// How a cosine transform of `N` bands is scaled.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CosineTransform {
    /// Orthonormal, librosa's default.
    Orthonormal,
    /// As `tf.signal.mfccs_from_log_mel_spectrograms`: all by `sqrt(2 / N)`, so that the first one is greater by
    /// `sqrt(2)` than the orthonormal one.
    TfSignal,
}

/// TensorFlow's micro front end: window, Fourier transform, bands, noise reduction, gain control and logarithm in
/// integers. Its values are the integers that it gives; scale them with `mean` and `std` of the input.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct MicroFrontend {
    /// Samples under the window (`window_size`, which is in milliseconds there).
    pub length: u32,
    /// Samples from one frame to the next (`window_step`).
    pub hop: u32,
    /// Bands (`num_channels`).
    pub bands: u32,
    /// Lowest frequency, in Hz (`lower_band_limit`).
    pub low: f32,
    /// Highest frequency, in Hz (`upper_band_limit`).
    pub high: f32,
    /// Bits by which noise estimates are finer than signals (`smoothing_bits`).
    pub smoothing_bits: u8,
    /// Share of the newest frame in the noise estimate of bands 0, 2, 4 … (`even_smoothing`).
    pub even_smoothing: f32,
    /// The same of bands 1, 3, 5 … (`odd_smoothing`).
    pub odd_smoothing: f32,
    /// Share of the signal that noise reduction leaves at least (`min_signal_remaining`).
    pub min_signal: f32,
    /// Gain control a band (`enable_pcan`).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gain: Option<MicroGain>,
    /// Bits of the logarithm's scale (`scale_shift`); none for no logarithm (`enable_log` off).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub log_shift: Option<u8>,
}

/// Per-channel amplitude normalisation of the micro front end.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct MicroGain {
    /// Exponent of the gain (`pcan_strength`).
    pub strength: f32,
    /// Added to the noise estimate (`pcan_offset`).
    pub offset: f32,
    /// Bits of the gain's fraction (`gain_bits`).
    pub bits: u8,
}

/// Frames that are used, of all that the features have.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Range {
    /// The first.
    pub first: u32,
    /// How many.
    pub frames: u32,
}

/// Windows of frames, each a row of the tensor's first axis.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rows {
    /// Frames beside each other in a row.
    pub frames: u32,
    /// Frames from one row's first to the next one's.
    pub hop: u32,
}

/// Order of a sound tensor's axes; the first is the rows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SoundLayout {
    /// Rows, frames, bins, 1.
    TimeBinsOne,
    /// Rows, 1, frames, bins.
    OneTimeBins,
    /// Rows, 1, bins, frames.
    OneBinsTime,
    /// Rows, frames, bins.
    TimeBins,
    /// Rows, bins, frames.
    BinsTime,
    /// Rows, frames times bins: the bins of a frame beside each other.
    Flat,
}

/// What a sound's tensor measures.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SoundSize {
    /// Frames of the whole clip.
    pub all_frames: usize,
    /// Rows of the tensor.
    pub rows: usize,
    /// Frames in a row.
    pub frames: usize,
    /// Bins in a frame.
    pub bins: usize,
}

impl SoundInput {
    /// Checks every bound; executing a checked input cannot divide by zero or allocate without bound.
    pub fn check(&self) -> Result<(), InvalidPipeline> {
        within("sound.rate", self.rate, limits::SOUND_RATE_MIN, limits::SOUND_RATE)?;
        within("sound.clip.samples", self.clip.samples, 1, limits::SOUND_SAMPLES)?;
        match &self.features {
            Features::Waveform => {}
            Features::Mel(mel) => self.check_mel(mel)?,
            Features::Mfcc(mfcc) => {
                self.check_mel(&mfcc.mel)?;
                within("sound.features.coefficients", mfcc.coefficients, 1, mfcc.mel.mel.bands)?;
                real("sound.features.lifter", mfcc.lifter, 0.0, 1e6)?;
            }
            Features::Micro(micro) => self.check_micro(micro)?,
        }
        let size = self.size()?;
        let fits = |values: &[f32]| values.len() == 1 || values.len() == size.bins;
        if !fits(&self.mean) || self.mean.iter().any(|m| !m.is_finite()) {
            return fail("sound.mean", format!("1 or {} finite values are needed", size.bins));
        }
        if !fits(&self.std) || self.std.iter().any(|s| !s.is_normal()) {
            return fail("sound.std", format!("1 or {} finite values other than zero are needed", size.bins));
        }
        Ok(())
    }

    /// What the tensor measures. It says what does not fit together: a clip shorter than a frame, rows longer than
    /// the clip, more values than are possible.
    pub fn size(&self) -> Result<SoundSize, InvalidPipeline> {
        let all_frames = self.all_frames()?;
        let mut frames = all_frames;
        if let Some(Range { first, frames: wanted }) = self.range {
            let end = first as usize + wanted as usize;
            if wanted == 0 || end > all_frames {
                return fail(
                    "sound.range",
                    format!("frames {first} to {end} of a clip that has {all_frames} frames"),
                );
            }
            frames = wanted as usize;
        }
        let mut rows = 1;
        if let Some(Rows { frames: wanted, hop }) = self.rows {
            let wanted = wanted as usize;
            if wanted == 0 || hop == 0 || wanted > frames {
                return fail(
                    "sound.rows",
                    format!("rows of {wanted} frames every {hop}, of {frames} frames"),
                );
            }
            rows = 1 + (frames - wanted) / hop as usize;
            frames = wanted;
        }
        let bins = match &self.features {
            Features::Waveform => 1,
            Features::Mel(mel) => mel.mel.bands as usize,
            Features::Mfcc(mfcc) => mfcc.coefficients as usize,
            Features::Micro(micro) => micro.bands as usize,
        };
        let most = limits::SOUND_VALUES;
        if all_frames.saturating_mul(bins) > most || rows.saturating_mul(frames).saturating_mul(bins) > most {
            return fail(
                "sound.features",
                format!(
                    "{all_frames} frames and {rows} rows of {frames} frames, of {bins} bins; {most} values are possible"
                ),
            );
        }
        Ok(SoundSize { all_frames, rows, frames, bins })
    }

    /// Frames of the whole clip.
    fn all_frames(&self) -> Result<usize, InvalidPipeline> {
        let samples = self.clip.samples as usize;
        let (samples, frame, hop) = match &self.features {
            Features::Waveform => return Ok(samples),
            Features::Mel(MelFeatures { spectrum, .. })
            | Features::Mfcc(Mfcc { mel: MelFeatures { spectrum, .. }, .. }) => {
                let padding =
                    if spectrum.padding == Padding::None { 0 } else { 2 * (spectrum.fft as usize / 2) };
                (samples + padding, spectrum.frame(), spectrum.hop)
            }
            Features::Micro(micro) => (samples, micro.length as usize, micro.hop),
        };
        if hop == 0 || frame == 0 || samples < frame {
            return fail(
                "sound.clip.samples",
                format!("a clip of {samples} samples, padding included, has no frame of {frame} samples"),
            );
        }
        Ok(1 + (samples - frame) / hop as usize)
    }

    fn check_mel(&self, features: &MelFeatures) -> Result<(), InvalidPipeline> {
        let MelFeatures { spectrum, mel, scale } = features;
        within("sound.features.fft", spectrum.fft, 2, limits::SOUND_FFT)?;
        within("sound.features.length", spectrum.length, 2, spectrum.fft)?;
        within("sound.features.hop", spectrum.hop, 1, limits::SOUND_SAMPLES)?;
        within("sound.features.power", spectrum.power.into(), 1, 2)?;
        if spectrum.padding == Padding::Reflect && self.clip.samples <= spectrum.fft / 2 {
            return fail(
                "sound.features.padding",
                format!("a clip of {} samples is too short to be mirrored", self.clip.samples),
            );
        }
        within("sound.features.bands", mel.bands, 1, limits::SOUND_BINS)?;
        self.check_band(mel.low, mel.high)?;
        match *scale {
            Scale::Linear => Ok(()),
            Scale::Ln { offset } => above_zero("sound.features.offset", offset),
            Scale::Log10 { factor, offset } => {
                real("sound.features.factor", factor, -1e6, 1e6)?;
                above_zero("sound.features.offset", offset)
            }
            Scale::Decibel(Decibel { reference, floor, top }) => {
                above_zero("sound.features.floor", floor)?;
                if let Reference::Energy(energy) = reference {
                    above_zero("sound.features.reference", energy)?;
                }
                top.map_or(Ok(()), |top| real("sound.features.top", top, 0.0, 1e6))
            }
        }
    }

    fn check_micro(&self, micro: &MicroFrontend) -> Result<(), InvalidPipeline> {
        within("sound.features.length", micro.length, 4, limits::SOUND_MICRO_WINDOW)?;
        within("sound.features.hop", micro.hop, 1, micro.length)?;
        within("sound.features.bands", micro.bands, 1, limits::SOUND_BINS)?;
        self.check_band(micro.low, micro.high)?;
        if micro.high >= self.rate as f32 / 2.0 {
            return fail("sound.features.high", format!("{} Hz; it must be under half the rate", micro.high));
        }
        within("sound.features.smoothing_bits", micro.smoothing_bits.into(), 0, 12)?;
        real("sound.features.even_smoothing", micro.even_smoothing, 0.0, 1.0)?;
        real("sound.features.odd_smoothing", micro.odd_smoothing, 0.0, 1.0)?;
        real("sound.features.min_signal", micro.min_signal, 0.0, 1.0)?;
        if let Some(gain) = micro.gain {
            real("sound.features.strength", gain.strength, 0.0, 4.0)?;
            above_zero("sound.features.gain_offset", gain.offset)?;
            real("sound.features.gain_offset", gain.offset, 0.0, 1e6)?;
            // Shifts by these differences must not be negative.
            let correction = micro.correction();
            within("sound.features.gain_bits", gain.bits.into(), (12 + correction).max(1) as u32, 24)?;
            let least = correction.max(0) as u32;
            within("sound.features.smoothing_bits", micro.smoothing_bits.into(), least, 12)?;
        }
        micro.log_shift.map_or(Ok(()), |shift| within("sound.features.log_shift", shift.into(), 0, 10))
    }

    fn check_band(&self, low: f32, high: f32) -> Result<(), InvalidPipeline> {
        let half = self.rate as f32 / 2.0;
        if low >= 0.0 && low < high && high <= half {
            return Ok(());
        }
        fail(
            "sound.features.low",
            format!("{low} to {high} Hz; 0 to {half} Hz are possible at this rate, the lower one first"),
        )
    }

    /// Keywords as MLPerf Tiny's DS-CNN takes them: one second at 16 kHz, 49 frames of 10 coefficients.
    pub fn mlperf_keywords() -> Self {
        let mel = MelFeatures {
            spectrum: Spectrum {
                window: WindowKind::Hann,
                length: 480,
                hop: 320,
                fft: 512,
                place: Place::Start,
                padding: Padding::None,
                power: 1,
            },
            mel: Mel {
                bands: 40,
                low: 20.0,
                high: 4000.0,
                scale: MelScale::Htk,
                slope: MelSlope::Mel,
                norm: MelNorm::None,
            },
            scale: Scale::Ln { offset: 1e-6 },
        };
        let mfcc = Mfcc { mel, coefficients: 10, transform: CosineTransform::TfSignal, lifter: 0.0 };
        Self { gain: Gain::Maximum, ..Self::plain(16_000, 16_000, Features::Mfcc(mfcc)) }
    }

    /// Machine noise as MLPerf Tiny's autoencoder takes it: of ten seconds at 16 kHz the frames 50 to 250, each row
    /// five of them beside each other.
    pub fn mlperf_toy_car() -> Self {
        let spectrum = Spectrum {
            window: WindowKind::Hann,
            length: 1024,
            hop: 512,
            fft: 1024,
            place: Place::Centre,
            padding: Padding::Reflect,
            power: 2,
        };
        let mel = Mel {
            bands: 128,
            low: 0.0,
            high: 8000.0,
            scale: MelScale::Slaney,
            slope: MelSlope::Hertz,
            norm: MelNorm::Slaney,
        };
        let scale = Scale::Log10 { factor: 10.0, offset: f64::EPSILON as f32 };
        let features = Features::Mel(MelFeatures { spectrum, mel, scale });
        Self {
            range: Some(Range { first: 50, frames: 200 }),
            rows: Some(Rows { frames: 5, hop: 1 }),
            layout: SoundLayout::Flat,
            ..Self::plain(16_000, 160_000, features)
        }
    }

    /// The micro front end with its own defaults of windows and noise, of one second at 16 kHz: 40 bands every
    /// `hop` samples under 30 ms, with gain control, as the micro speech example uses it.
    pub fn micro_speech(hop: u32) -> Self {
        let micro = MicroFrontend {
            length: 480,
            hop,
            bands: 40,
            low: 125.0,
            high: 7500.0,
            smoothing_bits: 10,
            even_smoothing: 0.025,
            odd_smoothing: 0.06,
            min_signal: 0.05,
            gain: Some(MicroGain { strength: 0.95, offset: 80.0, bits: 21 }),
            log_shift: Some(6),
        };
        Self::plain(16_000, 16_000, Features::Micro(micro))
    }

    /// All frames in one row, not normalised, of a clip at the start of the recording.
    pub fn plain(rate: u32, samples: u32, features: Features) -> Self {
        Self {
            rate,
            clip: Clip { samples, place: Place::Start },
            gain: Gain::None,
            features,
            range: None,
            rows: None,
            mean: vec![0.0],
            std: vec![1.0],
            layout: SoundLayout::TimeBinsOne,
        }
    }
}

impl Spectrum {
    /// Samples of one frame.
    pub fn frame(&self) -> usize {
        match self.place {
            Place::Start => self.length as usize,
            Place::Centre => self.fft as usize,
        }
    }
}

impl MicroFrontend {
    /// Points of the Fourier transform: the next power of two.
    pub fn fft(&self) -> usize {
        (self.length as usize).next_power_of_two()
    }

    /// Bits by which energies of this transform differ from signals: less with a short one.
    pub fn correction(&self) -> i32 {
        self.fft().trailing_zeros() as i32 - 6
    }
}

fn fail<T>(field: &'static str, problem: String) -> Result<T, InvalidPipeline> {
    Err(InvalidPipeline { field, problem })
}

fn within(field: &'static str, value: u32, least: u32, most: u32) -> Result<(), InvalidPipeline> {
    if (least..=most).contains(&value) {
        return Ok(());
    }
    fail(field, format!("{value}; {least} to {most} are possible"))
}

fn real(field: &'static str, value: f32, least: f32, most: f32) -> Result<(), InvalidPipeline> {
    if value >= least && value <= most {
        return Ok(());
    }
    fail(field, format!("{value}; {least} to {most} are possible"))
}

fn above_zero(field: &'static str, value: f32) -> Result<(), InvalidPipeline> {
    if value.is_normal() && value > 0.0 {
        return Ok(());
    }
    fail(field, format!("{value}; a finite value above zero is needed"))
}
