//! How good predictions are, as pure functions over what was predicted and what is true.
//!
//! - [`Metric`]: which figure a model is judged by, and which way is better.
//! - [`detection`]: average precision of boxes, as COCO and as Pascal VOC count it.
//! - [`scores`]: accuracy, AUC, R2, mean absolute error, calibration error, fidelity.
//! - [`interval`]: what a figure over a sample says: Wilson's interval, and intervals of paired differences.
//!
//! A figure that the samples do not define (no sample, one class, a value that is no number) is `None`, never 0.

pub mod detection;
pub mod interval;
pub mod scores;

use serde::{Deserialize, Serialize};
use std::fmt;

/// Which figure a model is judged by.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Metric {
    /// Share of the samples whose label is right.
    #[default]
    Accuracy,
    /// Mean average precision: of boxes that overlap by half, at 101 values of recall; of labels that apply together, of
    /// their rankings.
    Map,
    /// Share of the variance that is explained.
    R2,
    /// Mean absolute error, in the unit of the target.
    Mae,
    /// Probability that an anomaly scores higher than a normal sample.
    Auc,
    /// How far outputs are those of the model before: the share of samples with the same first label for classifiers,
    /// else 1 less the relative L2 error. It says nothing of how right either model is.
    Fidelity,
}

impl Metric {
    /// Whether more is better.
    #[must_use]
    pub const fn higher_is_better(self) -> bool {
        !matches!(self, Self::Mae)
    }

    /// Whether it is a share, between 0 and 1, so that a loss is one too.
    #[must_use]
    pub const fn is_share(self) -> bool {
        matches!(self, Self::Accuracy | Self::Map | Self::Auc | Self::Fidelity)
    }

    /// What is lost between two values: positive where `after` is worse.
    #[must_use]
    pub fn drop(self, before: f64, after: f64) -> f64 {
        if self.higher_is_better() { before - after } else { after - before }
    }

    /// Its name.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Accuracy => "accuracy",
            Self::Map => "mAP",
            Self::R2 => "R2",
            Self::Mae => "mean absolute error",
            Self::Auc => "AUC",
            Self::Fidelity => "fidelity",
        }
    }
}

impl fmt::Display for Metric {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

#[cfg(test)]
mod tests;
