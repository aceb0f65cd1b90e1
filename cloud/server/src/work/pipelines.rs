//! The pipeline for a dataset: what is known of it by its facts, and what is learnt from its training split.
//!
//! Nothing is learnt from the other splits: means, deviations, categories and the length of a clip are part of the model.

use super::samples::each_sample;
use super::{runtime_failure, unsupported};
use flotilla_data::{DatasetVersion, ImageFacts, Kind};
use flotilla_jobs::JobFailure;
use flotilla_protocol::limits;
use flotilla_protocol::pipeline::sound::{Clip, Features, Place, SoundInput, SoundLayout};
use flotilla_protocol::pipeline::{
    Activation, Classification, Colour, ImageInput, Input, Layout, Output, Pipeline, Regression, Resize,
    Target,
};
use flotilla_runtime::sound::Decoder;
use flotilla_runtime::table::{Table, fit_usable};
use flotilla_runtime::{Input as Given, Preprocessor};
use serde::{Deserialize, Serialize};
use std::path::Path;

/// Larger pictures are brought down to this side for training.
const SIDE: u32 = 64;
/// Share of the recordings that fit into a clip.
const WHOLE: f64 = 0.95;
/// Shortest and longest clip, in milliseconds.
const CLIP_MS: std::ops::RangeInclusive<u32> = 500..=5_000;
/// Lengths of clips are multiples of it.
const CLIP_STEP_MS: u32 = 100;
/// Recordings that are looked at to learn of all, evenly spread.
const RECORDINGS: usize = 2_000;

/// What is known of a pipeline before the training split is looked at.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Draft {
    /// Everything.
    Whole(Box<Pipeline>),
    /// Recordings, at this rate, of these classes.
    Recordings { rate: u32, classes: Vec<String> },
    /// Rows, and what is to be said of them.
    Rows { output: Box<Output>, leave_out: Vec<String> },
}

/// A column that a model does not look at, and why.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct LeftOut {
    pub(crate) column: String,
    pub(crate) reason: String,
}

impl Draft {
    /// What a dataset says of its pipeline. Columns may be left out of tables.
    pub(crate) fn of(version: &DatasetVersion, leave_out: &[String]) -> Result<Self, JobFailure> {
        let name = format!("{} v{}", version.dataset, version.version);
        if !leave_out.is_empty() && version.kind != Kind::Table {
            return Err(unsupported(format!("{name} is no table, so no column of it can be left out")));
        }
        let classes = || Classification::new(version.classes.clone(), Activation::None);
        match (version.kind, &version.images, &version.sounds, &version.table) {
            (Kind::ImageClassification, Some(facts), _, _) => {
                Ok(Self::Whole(Box::new(pictures(facts, Output::Classification(classes())))))
            }
            (Kind::SoundClassification, _, Some(facts), _) => {
                // Sixteen thousand samples a second hold all of speech; fewer are not made more.
                let rate = if facts.max_rate < 16_000 { 8_000 } else { 16_000 };
                Ok(Self::Recordings { rate, classes: version.classes.clone() })
            }
            (Kind::Table, _, _, Some(facts)) => {
                let target =
                    Target { name: facts.label_name.clone(), unit: String::new(), mean: 0.0, std: 1.0 };
                let output = match facts.numeric_label {
                    true => Output::Regression(Regression { targets: vec![target], output: None }),
                    false => Output::Classification(classes()),
                };
                Ok(Self::Rows { output: Box::new(output), leave_out: leave_out.to_vec() })
            }
            (Kind::ObjectDetection, ..) => Err(unsupported(format!(
                "{name} says where things are in pictures: detectors are not trained here, but imported (`flotilla model \
                 import`) and judged on it"
            ))),
            _ => Err(unsupported(format!("{name} holds nothing that a model could be trained on"))),
        }
    }

    /// The pipeline, with what had to be learnt from the training split in this file.
    pub(crate) fn learn(self, train: &Path) -> Result<(Pipeline, Vec<LeftOut>), JobFailure> {
        match self {
            Self::Whole(pipeline) => Ok((*pipeline, Vec::new())),
            Self::Recordings { rate, classes } => {
                let input = recordings(rate, train)?;
                let output = Output::Classification(Classification::new(classes, Activation::None));
                Ok((Pipeline::new(Input::Sound(input), output), Vec::new()))
            }
            Self::Rows { output, leave_out } => {
                let table = Table::read(&rows(train)?).map_err(runtime_failure)?;
                let leave_out: Vec<&str> = leave_out.iter().map(String::as_str).collect();
                let (input, unusable) = fit_usable(&table, &leave_out).map_err(runtime_failure)?;
                let left_out = unusable.into_iter().map(|(column, reason)| LeftOut { column, reason });
                Ok((Pipeline::new(Input::Table(input), *output), left_out.collect()))
            }
        }
    }
}

/// The rows of a split, one a line: all, or evenly spread ones of a split that is too large to be learnt from at once.
fn rows(train: &Path) -> Result<Vec<u8>, JobFailure> {
    let (mut count, mut bytes, mut columns) = (0_usize, 0_usize, 1_usize);
    for sample in each_sample(train)? {
        let (_, row) = sample?;
        if count == 0 {
            // A comma within a text counts as one more column, which only makes the bound tighter.
            columns = row.iter().filter(|byte| **byte == b',').count() + 1;
        }
        count += 1;
        bytes += row.len() + 1;
    }
    let step = bytes.div_ceil(limits::TABLE).max((count * columns).div_ceil(limits::TABLE_CELLS)).max(1);
    // A step that the average row allows may be too short for a few long ones; twice as long is not.
    let step = if step > 1 { step * 2 } else { step };
    let mut text = Vec::new();
    for sample in each_sample(train)?.step_by(step) {
        text.extend(sample?.1);
        text.push(b'\n');
    }
    Ok(text)
}

/// Pictures in their own size where they share a small one, else [`SIDE`] squared.
fn pictures(facts: &ImageFacts, output: Output) -> Pipeline {
    let (width, height) = size(facts);
    let colour = if facts.grey { Colour::Grey } else { Colour::Rgb };
    let channels = colour.channels();
    let input = ImageInput {
        width,
        height,
        colour,
        resize: Resize::Stretch,
        layout: Layout::Nchw,
        mean: vec![0.5; channels],
        std: vec![0.5; channels],
        ..ImageInput::none()
    };
    Pipeline::new(Input::Image(input), output)
}

fn size(facts: &ImageFacts) -> (u32, u32) {
    let uniform = facts.min_width == facts.max_width && facts.min_height == facts.max_height;
    if uniform && facts.max_width <= SIDE && facts.max_height <= SIDE {
        (facts.max_width, facts.max_height)
    } else {
        (SIDE, SIDE)
    }
}

/// Recordings as keyword models take them, with a clip that nearly all of the training split fit into, and each coefficient
/// scaled to mean 0 and deviation 1 there.
fn recordings(rate: u32, train: &Path) -> Result<SoundInput, JobFailure> {
    let count = each_sample(train)?.count();
    let step = count.div_ceil(RECORDINGS).max(1);
    let mut lengths = Vec::new();
    for sample in each_sample(train)?.step_by(step) {
        let (_, bytes) = sample?;
        let decoder = Decoder::new(&bytes).map_err(runtime_failure)?;
        let own_rate = u64::from(decoder.rate());
        let samples = decoder.mono(None).map_err(runtime_failure)?.len() as u64;
        lengths.push((samples * 1_000 / own_rate) as u32);
    }
    lengths.sort_unstable();
    let at = (lengths.len() as f64 * WHOLE) as usize;
    let wanted = lengths.get(at.min(lengths.len().saturating_sub(1))).copied().unwrap_or(1_000);
    let clip_ms = wanted.next_multiple_of(CLIP_STEP_MS).clamp(*CLIP_MS.start(), *CLIP_MS.end());
    let mut input = SoundInput::mlperf_keywords();
    if let Features::Mfcc(mfcc) = &mut input.features {
        // The same windows in time at every rate.
        let spectrum = &mut mfcc.mel.spectrum;
        let at_rate = |samples: u32| samples * rate / input.rate;
        (spectrum.length, spectrum.hop) = (at_rate(spectrum.length), at_rate(spectrum.hop));
        spectrum.fft = spectrum.length.next_power_of_two();
    }
    input.rate = rate;
    input.clip = Clip { samples: rate / 1_000 * clip_ms, place: Place::Centre };
    input.layout = SoundLayout::OneTimeBins;
    let bins = input.size().map_err(|e| runtime_failure(e.into()))?.bins;
    let output = Output::Classification(Classification::new(vec!["any".into()], Activation::None));
    let raw =
        Preprocessor::new(&Pipeline::new(Input::Sound(input.clone()), output)).map_err(runtime_failure)?;
    let (mut sums, mut squares, mut frames) = (vec![0.0_f64; bins], vec![0.0_f64; bins], 0_usize);
    for sample in each_sample(train)?.step_by(step) {
        let tensor = raw.tensor(Given::Encoded(&sample?.1)).map_err(runtime_failure)?;
        for frame in tensor.chunks_exact(bins) {
            frames += 1;
            for (bin, value) in frame.iter().map(|value| f64::from(*value)).enumerate() {
                sums[bin] += value;
                squares[bin] += value * value;
            }
        }
    }
    let frames = frames.max(1) as f64;
    let means: Vec<f64> = sums.iter().map(|sum| sum / frames).collect();
    let std = |(square, mean): (&f64, &f64)| {
        let std = (square / frames - mean * mean).max(0.0).sqrt() as f32;
        if std.is_normal() { std } else { 1.0 }
    };
    input.std = squares.iter().zip(&means).map(std).collect();
    input.mean = means.iter().map(|mean| *mean as f32).collect();
    Ok(input)
}
