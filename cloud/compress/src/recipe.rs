//! What compression does to a model, as data: it can be kept with the model and replayed on the same file.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::{Error, MAX_LAYERS, Result};

/// The version of the recipe format that this build reads and writes.
const FORMAT: u16 = 1;
/// Clipping ratios that are tried for one channel at most.
const MAX_CLIP_RATIOS: usize = 32;

/// What compression does to a model.
///
/// All parameters are integers and text, so that a recipe is the same after any number of trips through JSON or CBOR.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Recipe {
    /// Format version: 1.
    pub format: u16,
    /// Whether to leave out what only people read: notes on nodes and tensors, and the declared shapes of inner values,
    /// which engines infer anyway.
    #[serde(default = "yes")]
    pub strip_notes: bool,
    /// The 8-bit weights.
    #[serde(default)]
    pub int8_weights: Int8Weights,
}

/// Weights as 8-bit integers, symmetric, with one scale an output channel.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Int8Weights {
    /// Weights with fewer elements stay 32-bit floats.
    pub min_elements: u64,
    /// The clipping ratios to choose from, in per cent of a channel's largest magnitude.
    ///
    /// A channel takes the one with the smallest squared error: a grid search over the range as in Nagel et al.,
    /// "A White Paper on Neural Network Quantization" (arXiv:2106.08295), section 3.1, and Choukroun et al.,
    /// "Low-bit Quantization of Neural Networks for Efficient Inference" (arXiv:1902.06822).
    pub clip_percent: Vec<u8>,
    /// Names of weights that stay 32-bit floats whatever their size.
    pub keep_float: Vec<String>,
}

fn yes() -> bool {
    true
}

impl Default for Recipe {
    fn default() -> Self {
        Self { format: FORMAT, strip_notes: true, int8_weights: Int8Weights::default() }
    }
}

impl Default for Int8Weights {
    fn default() -> Self {
        Self { min_elements: 256, clip_percent: vec![100, 95, 90, 85, 80, 75, 70], keep_float: Vec::new() }
    }
}

impl Recipe {
    /// The model that this recipe makes of `onnx`. Nothing is measured: that is what [`crate::compress`] is for.
    pub fn apply(&self, onnx: &[u8]) -> Result<Vec<u8>> {
        crate::plan::Plan::new(onnx, self)?.build(|_| true)
    }

    /// Checks the version and every bound.
    pub(crate) fn check(&self) -> Result<()> {
        let fail = |field, problem: String| Err(Error::Recipe { field, problem });
        if self.format != FORMAT {
            return fail("format", format!("version {} is not known here, only {FORMAT}", self.format));
        }
        let Int8Weights { min_elements, clip_percent, keep_float } = &self.int8_weights;
        if *min_elements == 0 {
            return fail("min_elements", "it must be at least 1".into());
        }
        if clip_percent.is_empty() || clip_percent.len() > MAX_CLIP_RATIOS {
            return fail(
                "clip_percent",
                format!("{} ratios; give 1 to {MAX_CLIP_RATIOS}", clip_percent.len()),
            );
        }
        if let Some(ratio) = clip_percent.iter().find(|ratio| !(1..=100).contains(*ratio)) {
            return fail("clip_percent", format!("{ratio} is not between 1 and 100"));
        }
        if keep_float.len() > MAX_LAYERS {
            return fail("keep_float", format!("{} names; the limit is {MAX_LAYERS}", keep_float.len()));
        }
        Ok(())
    }
}

impl fmt::Display for Recipe {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("int8 weights per channel")?;
        match self.int8_weights.keep_float.len() {
            0 => Ok(()),
            1 => f.write_str(", 1 layer kept in f32"),
            kept => write!(f, ", {kept} layers kept in f32"),
        }
    }
}
