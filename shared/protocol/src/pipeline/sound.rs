//! How a recording becomes a tensor: every parameter of the front ends that sound models are trained with.
//!
//! The definitions are those of librosa, of `tf.signal` and of TensorFlow's micro front end; each parameter says
//! which of their arguments it is. The front ends of published models are in `presets`.

mod check;
mod presets;

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
