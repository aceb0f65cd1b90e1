//! Front ends of published models.

use super::{
    Clip, CosineTransform, Features, Gain, Mel, MelFeatures, MelNorm, MelScale, MelSlope, Mfcc,
    MicroFrontend, MicroGain, Padding, Place, Range, Rows, Scale, SoundInput, SoundLayout, Spectrum,
    WindowKind,
};

impl SoundInput {
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
