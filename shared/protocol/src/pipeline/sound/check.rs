//! Every bound of a recording's description, and what its tensor measures.

use super::{
    Decibel, Features, MelFeatures, Mfcc, MicroFrontend, Padding, Range, Reference, Rows, Scale, SoundInput,
    SoundSize,
};
use crate::limits;
use crate::pipeline::InvalidPipeline;

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
        self.check_work(size.all_frames)?;
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
        // Coefficients are made of as many bands, of all frames at once.
        let between =
            if let Features::Mfcc(mfcc) = &self.features { mfcc.mel.mel.bands as usize } else { bins };
        let most = limits::SOUND_VALUES;
        if all_frames.saturating_mul(between) > most
            || rows.saturating_mul(frames).saturating_mul(bins) > most
        {
            return fail(
                "sound.features",
                format!(
                    "{all_frames} frames of {between} bins, and {rows} rows of {frames} frames of {bins}; {most} values are possible"
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

    /// Bounds the work of one recording: a step of one sample makes a transform of each.
    fn check_work(&self, frames: usize) -> Result<(), InvalidPipeline> {
        let fft = match &self.features {
            Features::Waveform => 0,
            Features::Mel(mel) => mel.spectrum.fft as usize,
            Features::Mfcc(mfcc) => mfcc.mel.spectrum.fft as usize,
            Features::Micro(micro) => micro.fft(),
        };
        if frames.saturating_mul(fft) <= limits::SOUND_POINTS {
            return Ok(());
        }
        fail(
            "sound.features.hop",
            format!(
                "{frames} frames of {fft} points; {} points of all frames are possible",
                limits::SOUND_POINTS
            ),
        )
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

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(change: impl FnOnce(&mut SoundInput, &mut Mfcc)) -> Option<&'static str> {
        let mut input = SoundInput::mlperf_keywords();
        let Features::Mfcc(mut mfcc) = input.features.clone() else {
            panic!("keywords are heard by cepstra")
        };
        change(&mut input, &mut mfcc);
        input.features = Features::Mfcc(mfcc);
        input.check().err().map(|error| error.field)
    }

    #[test]
    fn memory_and_work_of_a_recording_are_bounded_whatever_is_left_of_them() {
        assert_eq!(refused(|_, _| ()), None);
        let long = |input: &mut SoundInput| input.clip.samples = limits::SOUND_SAMPLES;
        // One coefficient a frame, of a thousand bands of each of 4 million frames.
        let bands = refused(|input, mfcc| {
            long(input);
            (mfcc.mel.spectrum.hop, mfcc.mel.spectrum.length, mfcc.mel.spectrum.fft) = (1, 2, 2);
            (mfcc.coefficients, mfcc.mel.mel.bands) = (1, limits::SOUND_BINS);
        });
        assert_eq!(bands, Some("sound.features"));
        let transforms = refused(|input, mfcc| {
            long(input);
            (mfcc.mel.spectrum.hop, mfcc.mel.spectrum.fft) = (1, limits::SOUND_FFT);
            (mfcc.coefficients, mfcc.mel.mel.bands) = (1, 1);
        });
        assert_eq!(transforms, Some("sound.features.hop"));
    }
}
