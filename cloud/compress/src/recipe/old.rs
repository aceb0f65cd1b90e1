//! Reading recipes of every version.

use flotilla_protocol::Digest;
use serde::Deserialize;

use super::{Clip, FORMAT, Form, Recipe, Step, Weights};

/// A recipe of any version: the fields of all, of which each version has its own.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct AnyRecipe {
    format: u16,
    strip_notes: Option<bool>,
    int8_weights: Option<Int8Weights>,
    calibration: Option<Digest>,
    steps: Option<Vec<Step>>,
}

/// The one thing that version 1 knew.
#[derive(Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Int8Weights {
    min_elements: u64,
    clip_percent: Vec<u8>,
    keep_float: Vec<String>,
}

impl Default for Int8Weights {
    fn default() -> Self {
        Self { min_elements: 256, clip_percent: vec![100, 95, 90, 85, 80, 75, 70], keep_float: Vec::new() }
    }
}

impl TryFrom<AnyRecipe> for Recipe {
    type Error = String;

    fn try_from(any: AnyRecipe) -> Result<Self, String> {
        let AnyRecipe { format, strip_notes, int8_weights, calibration, steps } = any;
        match (format, steps) {
            (1, None) if calibration.is_none() => {
                let Int8Weights { min_elements, clip_percent, keep_float } = int8_weights.unwrap_or_default();
                let weights = Weights {
                    min_elements,
                    clip: Clip::Mse(clip_percent),
                    except: keep_float,
                    ..Weights::new(Form::Int8)
                };
                let strip = strip_notes.unwrap_or(true).then_some(Step::StripNotes { everywhere: false });
                Ok(Self::new(strip.into_iter().chain([Step::Weights(weights)]).collect()))
            }
            (FORMAT, Some(steps)) if strip_notes.is_none() && int8_weights.is_none() => {
                Ok(Self { format, calibration, steps })
            }
            (1 | FORMAT, _) => Err(format!("a recipe of version {format} has other fields")),
            _ => Err(format!("a recipe of version {format} is not known here, only of 1 and {FORMAT}")),
        }
    }
}
