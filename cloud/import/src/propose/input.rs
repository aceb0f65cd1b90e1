//! What goes in.

use flotilla_onnx::Dim;
use flotilla_protocol::pipeline::sound::{
    CosineTransform, Features, Mel, MelFeatures, MelNorm, MelScale, MelSlope, Mfcc, Padding, Place, Scale,
    SoundLayout, Spectrum, WindowKind,
};
use flotilla_protocol::pipeline::table::{Column, ColumnKind, Number};
use flotilla_protocol::pipeline::{
    Colour, ConstantTensor, ImageInput, Input, Layout, Place as Corner, Resize, SoundInput, TableInput,
    TensorsInput,
};

use super::{Draft, RATE};
use crate::guess::is_rate;
use crate::{Colour as Guessed, Detection, Input as Guess, Layout as Axes, Normalisation, Output};

/// A side of a picture that the file leaves open.
const SIDE: usize = 224;
/// Columns from which a row is a tensor rather than columns with a name each.
const COLUMNS: usize = 64;
/// Features of a frame from which they are bands rather than coefficients.
const BANDS: usize = 32;

impl Draft<'_> {
    /// What goes in, and inputs beside it that never change.
    pub(super) fn input(&mut self) -> (Input, Vec<ConstantTensor>) {
        let guess = self.guess;
        let main = match &guess.input {
            Guess::Image { layout, width, height, colour, normalisation } => {
                Some(self.picture(*layout, *width, *height, *colour, *normalisation))
            }
            Guess::Sound { samples } => self.waveform(*samples),
            Guess::SoundFeatures { frames, features, normalisation } => {
                self.features(*frames, *features, *normalisation)
            }
            Guess::Table { columns: Some(columns), normalisation } if *columns <= COLUMNS => {
                Some(self.table(*columns, *normalisation))
            }
            Guess::Table { .. } | Guess::Tensors => None,
        };
        match main {
            Some(input) => (input, self.rates()),
            None => (self.tensors(), Vec::new()),
        }
    }

    fn tensors(&mut self) -> Input {
        let inputs = self.free_inputs();
        let tensors = inputs.iter().map(|input| self.spec("input.tensors", input)).collect();
        Input::Tensors(TensorsInput { tensors })
    }

    fn picture(
        &mut self,
        layout: Axes,
        width: Option<usize>,
        height: Option<usize>,
        colour: Guessed,
        normalisation: Normalisation,
    ) -> Input {
        let mut side = |size: Option<usize>, field: &str, symbol: &str| {
            if size.is_none() {
                self.confirm(field, format!("the file leaves the {symbol} open; {SIDE} is usual. Say --dim"));
            }
            u32::try_from(size.unwrap_or(SIDE)).unwrap_or(u32::MAX)
        };
        let width = side(width, "input.image.width", "width");
        let height = side(height, "input.image.height", "height");
        let colour = match colour {
            Guessed::Grey => Colour::Grey,
            Guessed::Colour => {
                self.confirm(
                    "input.image.colour",
                    "three channels are taken as red, green, blue; models that were trained on pictures read by OpenCV \
                     take `bgr`",
                );
                Colour::Rgb
            }
        };
        let resize = match &self.guess.output {
            Output::Detection(Detection::Yolo { .. } | Detection::YoloObjectness { .. }) => {
                Resize::Letterbox { fill: 114, place: Corner::Centre }
            }
            Output::Detection(Detection::AnchorFree { .. }) => {
                Resize::Letterbox { fill: 0, place: Corner::TopLeft }
            }
            _ => Resize::Stretch,
        };
        let how = match resize {
            Resize::Letterbox { .. } => {
                "are made smaller with their sides in proportion, and what is left is filled"
            }
            _ => "are stretched, whatever their sides are",
        };
        self.confirm(
            "input.image.resize",
            format!("pictures of another size {how}; it has to be as in training"),
        );
        let (mean, std) = self.pixels(normalisation);
        let channels = colour.channels();
        let layout = match layout {
            Axes::Nchw => Layout::Nchw,
            Axes::Nhwc => Layout::Nhwc,
        };
        let (mean, std) = (vec![mean; channels], vec![std; channels]);
        Input::Image(ImageInput { width, height, colour, resize, layout, mean, std, ..ImageInput::none() })
    }

    /// Mean and std by which `(byte / 255 - mean) / std` is what the network takes.
    fn pixels(&mut self, normalisation: Normalisation) -> (f32, f32) {
        let field = "input.image.mean";
        match normalisation {
            Normalisation::Bytes => {
                self.confirm(
                    field,
                    "pixels go in as they are, 0 to 255 (mean 0, std 1/255): the model scales them itself",
                );
                (0.0, 1.0 / 255.0)
            }
            // What the scale spans is what pixels span, so that a byte is an integer, moved.
            Normalisation::Quantised { scale, zero, most, least } => {
                let near = |value: f32, other: f32| (value - other).abs() <= 1.5 * scale;
                let plain = near(least, 0.0) && (near(most, 1.0) || near(most, 255.0));
                if !(plain || near(least, -1.0) && near(most, 1.0)) {
                    self.confirm(
                        field,
                        format!(
                            "bytes become the model's integers in order, as if training had scaled pixels to {least:.3} \
                             to {most:.3}"
                        ),
                    );
                }
                let lowest = (least / scale).round() + zero as f32;
                (-lowest / 255.0, 1.0 / 255.0)
            }
            Normalisation::Unknown => {
                self.confirm(
                    field,
                    "pixels become 0 to 1 (mean 0, std 1); nothing in the file says how training scaled them. For -1 to 1 \
                     write mean and std 0.5; for 0 to 255 mean 0 and std 0.003921569; for ImageNet's mean [0.485, 0.456, \
                     0.406] and std [0.229, 0.224, 0.225]",
                );
                (0.0, 1.0)
            }
        }
    }

    fn waveform(&mut self, samples: Option<usize>) -> Option<Input> {
        let stateful = !self.guess.states.is_empty();
        let layout = match self.main_dims()?.as_slice() {
            [_, _] => SoundLayout::Flat,
            [_, Some(1), _] => SoundLayout::BinsTime,
            _ => return None,
        };
        // Half a thousand samples is what voice activity is looked for in.
        let usual = if stateful { 512 } else { RATE as usize };
        if samples.is_none() {
            let field = "input.sound.clip.samples";
            self.confirm(field, format!("the file leaves the number of samples open; {usual} is taken"));
        }
        self.confirm("input.sound.rate", format!("samples are taken at {RATE} Hz, from -1 to 1"));
        let samples = u32::try_from(samples.unwrap_or(usual)).ok()?;
        Some(Input::Sound(SoundInput { layout, ..SoundInput::plain(RATE, samples, Features::Waveform) }))
    }

    fn features(
        &mut self,
        frames: Option<usize>,
        features: Option<usize>,
        normalisation: Normalisation,
    ) -> Option<Input> {
        let is = |dim: Option<usize>, size: Option<usize>| dim == size;
        let layout = match self.main_dims()?.as_slice() {
            [_, a, b, Some(1)] if is(*a, frames) && is(*b, features) => SoundLayout::TimeBinsOne,
            [_, Some(1), a, b] if is(*a, frames) && is(*b, features) => SoundLayout::OneTimeBins,
            [_, Some(1), a, b] if is(*b, frames) && is(*a, features) => SoundLayout::OneBinsTime,
            [_, a, b] if is(*a, frames) && is(*b, features) => SoundLayout::TimeBins,
            _ => return None,
        };
        let (frames, features) = (u32::try_from(frames.unwrap_or(98)).ok()?, u32::try_from(features?).ok()?);
        let field = "input.sound.features";
        let input = if (frames, features) == (49, 10) {
            self.confirm(
                field,
                "49 frames of 10 features are taken as the MFCC of MLPerf Tiny's keyword spotting: one second at 16 kHz, \
                 windows of 30 ms every 20 ms, 40 bands",
            );
            SoundInput::mlperf_keywords()
        } else {
            let (kind, front) = front_end(features);
            self.confirm(
                field,
                format!(
                    "{frames} frames of {features} features are taken as {kind} at 16 kHz, windows of 25 ms every 10 ms; \
                     every number of it has to be as in training"
                ),
            );
            SoundInput::plain(RATE, 400 + (frames.max(1) - 1).checked_mul(160)?, front)
        };
        let mut input = SoundInput { layout, ..input };
        if let Normalisation::Quantised { scale, zero, .. } = normalisation {
            (input.mean, input.std) = (vec![-(zero as f32) * scale], vec![scale]);
        }
        Some(Input::Sound(input))
    }

    fn table(&mut self, columns: usize, normalisation: Normalisation) -> Input {
        let (mean, std) = match normalisation {
            Normalisation::Quantised { scale, zero, .. } => {
                (-f64::from(zero) * f64::from(scale), f64::from(scale))
            }
            Normalisation::Bytes | Normalisation::Unknown => (0.0, 1.0),
        };
        self.confirm(
            "input.table.columns",
            "columns have numbers for names, and their values go in as they are: name them, and write the mean and std of \
             training where it scaled them",
        );
        let column = |number| Column {
            name: format!("column-{number}"),
            kind: ColumnKind::Number(Number { missing: None, clip: None, mean, std }),
        };
        Input::Table(TableInput { columns: (0..columns).map(column).collect() })
    }

    /// Dimensions of the input that the rest of the pipeline is about.
    fn main_dims(&self) -> Option<Vec<Option<usize>>> {
        let main = self.free_inputs().into_iter().find(|input| !is_rate(input))?;
        let size = |dim: &Dim| if let Dim::Fixed(size) = dim { Some(*size) } else { None };
        Some(main.dims?.iter().map(size).collect())
    }
}

/// Features of speech as they are made most often, and what they are called.
fn front_end(features: u32) -> (&'static str, Features) {
    let few = (features as usize) < BANDS;
    let spectrum = Spectrum {
        window: WindowKind::Hann,
        length: 400,
        hop: 160,
        fft: 512,
        place: Place::Start,
        padding: Padding::None,
        power: 2,
    };
    let mel = Mel {
        bands: if few { 40 } else { features },
        low: 20.0,
        high: 8000.0,
        scale: MelScale::Htk,
        slope: MelSlope::Mel,
        norm: MelNorm::None,
    };
    let mel = MelFeatures { spectrum, mel, scale: Scale::Ln { offset: 1e-6 } };
    if few {
        let transform = CosineTransform::Orthonormal;
        ("MFCC", Features::Mfcc(Mfcc { mel, coefficients: features, transform, lifter: 0.0 }))
    } else {
        ("logarithms of mel bands", Features::Mel(mel))
    }
}
