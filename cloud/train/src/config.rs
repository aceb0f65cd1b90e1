//! The settings of a training, and their bounds.

use serde::{Deserialize, Serialize};

use crate::{Error, Result};

/// What is trained.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[non_exhaustive]
pub enum Algorithm {
    /// A small network of depthwise-separable convolutions: some ten thousand parameters.
    #[default]
    #[serde(rename = "dscnn-s")]
    DscnnS,
    /// Its larger sibling, for images of many pixels or classes: about a hundred thousand parameters.
    #[serde(rename = "dscnn-m")]
    DscnnM,
    /// A plain network of four full convolutions: about a hundred thousand parameters.
    #[serde(rename = "cnn-s")]
    CnnS,
    /// Three residual stages behind a full convolution, as in MLPerf Tiny: about eighty thousand parameters.
    #[serde(rename = "resnet-8")]
    Resnet8,
    /// Dense layers, for rows of a table.
    #[serde(rename = "mlp")]
    Mlp,
}

impl Algorithm {
    /// The name, as it stands in settings and files.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::DscnnS => "dscnn-s",
            Self::DscnnM => "dscnn-m",
            Self::CnnS => "cnn-s",
            Self::Resnet8 => "resnet-8",
            Self::Mlp => "mlp",
        }
    }

    /// Whether it takes rows of a table, and not images.
    #[must_use]
    pub fn takes_rows(self) -> bool {
        self == Self::Mlp
    }
}

/// What an error of a number costs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Loss {
    /// Its square: the mean is learnt.
    #[default]
    Mse,
    /// Its square up to one deviation of the target, and its size beyond: single wild values count less.
    Huber,
}

/// How each training image is changed, anew in every epoch. Zeros change nothing.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Augment {
    /// Largest shift in either direction, in pixels.
    pub shift_px: f32,
    /// Largest rotation in either direction, in degrees.
    pub rotate_deg: f32,
    /// Largest change of size in either direction; 0.1 is ten per cent.
    pub scale: f32,
    /// Standard deviation of the noise added, in units of the normalised pixels.
    pub noise: f32,
    /// Whether half of the images are mirrored, left to right.
    pub mirror: bool,
}

impl Default for Augment {
    fn default() -> Self {
        Self { shift_px: 1.0, rotate_deg: 12.0, scale: 0.15, noise: 0.1, mirror: false }
    }
}

impl Augment {
    /// Images as they are.
    #[must_use]
    pub fn none() -> Self {
        Self { shift_px: 0.0, rotate_deg: 0.0, scale: 0.0, noise: 0.0, mirror: false }
    }
}

/// The settings of a training.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// What is trained.
    pub algorithm: Algorithm,
    /// How often all training images are seen, at most.
    pub epochs: u32,
    /// Images a step.
    pub batch_size: u32,
    /// The highest learning rate of the schedule.
    pub learning_rate: f64,
    /// Epochs in which the learning rate rises to its highest.
    pub warmup_epochs: u32,
    /// Decoupled weight decay.
    pub weight_decay: f64,
    /// Share of the target that is spread over all classes.
    pub label_smoothing: f64,
    /// How images are changed while training.
    pub augment: Augment,
    /// Epochs without a lower validation loss after which training ends; 0 for never.
    pub patience: u32,
    /// Widths of the layers of an `mlp` between its input and its output.
    pub hidden: Vec<u32>,
    /// What an error of an `mlp` costs that gives numbers.
    pub loss: Loss,
    /// Where all randomness comes from: the same seed, images and threads give the same file on the same machine.
    pub seed: u64,
    /// Threads to train on; 0 for one per core.
    pub threads: u32,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            algorithm: Algorithm::default(),
            epochs: 40,
            batch_size: 64,
            learning_rate: 0.015,
            warmup_epochs: 2,
            weight_decay: 0.01,
            label_smoothing: 0.05,
            augment: Augment::default(),
            patience: 25,
            hidden: vec![64, 32],
            loss: Loss::default(),
            seed: 0,
            threads: 0,
        }
    }
}

impl Config {
    /// The default settings for an algorithm.
    #[must_use]
    pub fn of(algorithm: Algorithm) -> Self {
        if !algorithm.takes_rows() {
            return Self { algorithm, ..Self::default() };
        }
        Self {
            algorithm,
            epochs: 200,
            batch_size: 32,
            learning_rate: 0.003,
            weight_decay: 0.01,
            label_smoothing: 0.0,
            augment: Augment::none(),
            patience: 40,
            ..Self::default()
        }
    }

    /// Refuses settings out of their bounds.
    pub fn validate(&self) -> Result<()> {
        whole("epochs", self.epochs, 1, 10_000, "from 1 to 10000")?;
        whole("batch_size", self.batch_size, 2, 4096, "from 2 to 4096")?;
        whole("warmup_epochs", self.warmup_epochs, 0, 1000, "from 0 to 1000")?;
        whole("patience", self.patience, 0, 10_000, "from 0 to 10000")?;
        whole("threads", self.threads, 0, 256, "from 0 to 256")?;
        number("learning_rate", self.learning_rate, 1e-7, 1.0, "from 0.0000001 to 1")?;
        number("weight_decay", self.weight_decay, 0.0, 1.0, "from 0 to 1")?;
        number("label_smoothing", self.label_smoothing, 0.0, 0.5, "from 0 to 0.5")?;
        whole("the number of `hidden` layers", self.hidden.len() as u32, 0, 8, "from 0 to 8")?;
        for width in &self.hidden {
            whole("hidden", *width, 1, 4096, "widths from 1 to 4096")?;
        }
        let augment = &self.augment;
        number("augment.shift_px", augment.shift_px.into(), 0.0, 64.0, "from 0 to 64")?;
        number("augment.rotate_deg", augment.rotate_deg.into(), 0.0, 180.0, "from 0 to 180")?;
        number("augment.scale", augment.scale.into(), 0.0, 0.5, "from 0 to 0.5")?;
        number("augment.noise", augment.noise.into(), 0.0, 10.0, "from 0 to 10")
    }
}

pub(crate) fn whole(
    setting: &'static str,
    value: u32,
    low: u32,
    high: u32,
    bounds: &'static str,
) -> Result<()> {
    if (low..=high).contains(&value) {
        Ok(())
    } else {
        Err(Error::Setting { setting, value: value.to_string(), bounds })
    }
}

pub(crate) fn number(
    setting: &'static str,
    value: f64,
    low: f64,
    high: f64,
    bounds: &'static str,
) -> Result<()> {
    if (low..=high).contains(&value) {
        Ok(())
    } else {
        Err(Error::Setting { setting, value: value.to_string(), bounds })
    }
}
