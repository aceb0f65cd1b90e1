//! What a model saw and answered when it was made: the counts that a device compares its own with, to notice that the
//! world has drifted away from the training data.
//!
//! The comparison is the **population stability index** (N. Siddiqi, *Credit Risk Scorecards*, Wiley 2006, chapter 8):
//! over bins `i`, with shares `a_i` (actual) and `e_i` (expected), `PSI = sum (a_i - e_i) ln(a_i / e_i)`. It is never
//! negative, 0 for equal shares, and the same both ways. Below 0.1 is called stable, up to 0.25 a moderate shift, above
//! it a major one ([`Shift`]).
//!
//! A baseline keeps counts, not shares, so that both sides are smoothed the same way: `share = (count + 1/2) / (total +
//! bins / 2)`. An empty bin is then finite evidence that shrinks as samples come.
//!
//! Without any drift the index of `n` predictions against `m` samples is about `1/n + 1/m` times a chi-square variable
//! with `bins - 1` degrees of freedom (B. Yurdakul, *Statistical Properties of Population Stability Index*, Western
//! Michigan University, 2018): about `(1/n + 1/m) (bins - 1)` from chance alone. That is why there are few bins, why a
//! device says nothing before it has seen enough, and why a baseline of few samples must not be taken at its word: what
//! the device reports are the indices as defined here, but what chance hardly goes beyond counts as stable, and only what
//! an index has above that counts on from there ([`crate::message::Drift::judged`]). By that a shift has its word and
//! becomes an event.

use crate::limits;
use serde::{Deserialize, Serialize};

/// Equal parts of 0 to 1 into which confidence is counted.
pub const CONFIDENCE_BINS: usize = 10;
/// Bins of a feature's values that a baseline made here has.
pub const FEATURE_BINS: usize = 10;
/// Labels that a baseline made here counts apart, the most frequent ones; all others share one bin.
pub const LABEL_BINS: usize = 15;
/// Features in one baseline at most.
const FEATURES: usize = 16;
/// Bins of one feature or of labels at most.
const BINS: usize = 64;

/// Counts over the samples that a model was trained with. A file of the release, named by its manifest.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Baseline {
    /// Format version: 1.
    pub format: u16,
    /// Features of the input tensors.
    pub features: Vec<FeatureBaseline>,
    /// Labels that are counted apart, by index.
    pub labels: Vec<u32>,
    /// Answers: one count for each of `labels`, and one for all others.
    pub classes: Vec<u32>,
    /// Answers by the score of the answered label: bin `i` counts scores from `i / 10`.
    pub confidence: Vec<u32>,
}

/// How one feature was distributed.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct FeatureBaseline {
    /// The feature.
    pub feature: Feature,
    /// Rising bounds between the bins; a value on a bound is in the bin below it.
    pub edges: Vec<f32>,
    /// Inputs in each bin: one more than there are edges.
    pub counts: Vec<u32>,
}

/// One number that an input tensor is summed up by. A picture's are in the units of the normalised tensor.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Feature {
    /// Mean of a grey picture.
    Brightness,
    /// Mean of the red channel.
    Red,
    /// Mean of the green channel.
    Green,
    /// Mean of the blue channel.
    Blue,
    /// Standard deviation of all values.
    Contrast,
    /// Mean absolute difference of neighbours in a row: blur lowers it, noise raises it.
    Detail,
    /// A feature of a newer control plane, which this device does not watch.
    #[serde(other)]
    Unknown,
}

impl Feature {
    /// The stable text.
    pub fn as_str(self) -> &'static str {
        match self {
            Feature::Brightness => "brightness",
            Feature::Red => "red",
            Feature::Green => "green",
            Feature::Blue => "blue",
            Feature::Contrast => "contrast",
            Feature::Detail => "detail",
            Feature::Unknown => "unknown",
        }
    }
}

/// Why a baseline cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the baseline's {field} is not usable: {problem}")]
pub struct InvalidBaseline {
    /// The field.
    pub field: &'static str,
    /// What is wrong with it.
    pub problem: String,
}

impl Baseline {
    /// The format that this build reads; a device passes over others.
    pub const FORMAT: u16 = 1;

    /// Checks every bound. A checked baseline can be compared with without a division by zero or growth.
    pub fn check(&self) -> Result<(), InvalidBaseline> {
        let fail = |field, problem: String| Err(InvalidBaseline { field, problem });
        if self.format != Self::FORMAT {
            return fail(
                "format",
                format!("version {} is not known here, only {}", self.format, Self::FORMAT),
            );
        }
        if self.features.len() > FEATURES {
            return fail("features", format!("{} are more than {FEATURES}", self.features.len()));
        }
        for FeatureBaseline { edges, counts, .. } in &self.features {
            let rising = edges.windows(2).all(|pair| pair[0] < pair[1]);
            if !rising || edges.iter().any(|edge| !edge.is_finite()) {
                return fail("features", "the edges of bins are finite and rise".to_owned());
            }
            if counts.len() != edges.len() + 1 || !is_counted(counts) {
                return fail(
                    "features",
                    format!("{} counts beside {} edges, or none", counts.len(), edges.len()),
                );
            }
        }
        let distinct = self.labels.iter().enumerate().all(|(at, label)| !self.labels[..at].contains(label));
        if !distinct || self.labels.iter().any(|label| *label as usize >= limits::LABELS) {
            return fail("labels", format!("each is named once and below {}", limits::LABELS));
        }
        if self.classes.len() != self.labels.len() + 1 || !is_counted(&self.classes) {
            return fail(
                "classes",
                format!("{} counts beside {} labels, or none", self.classes.len(), self.labels.len()),
            );
        }
        if self.confidence.len() != CONFIDENCE_BINS || !is_counted(&self.confidence) {
            return fail("confidence", format!("{CONFIDENCE_BINS} counts are needed, not all of them zero"));
        }
        Ok(())
    }
}

/// Whether there are not too many counts, and anything was counted at all.
fn is_counted(counts: &[u32]) -> bool {
    counts.len() <= BINS && counts.iter().any(|count| *count > 0)
}

/// What an index is called.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Shift {
    /// Below 0.1.
    Stable,
    /// From 0.1 to 0.25.
    Moderate,
    /// Above 0.25.
    Major,
}

impl Shift {
    /// Below so many thousandths an index is stable.
    pub const STABLE_BELOW_MILLI: u32 = 100;
    /// Above so many thousandths an index is a major shift.
    pub const MAJOR_ABOVE_MILLI: u32 = 250;

    /// The word for an index in thousandths.
    pub fn of_milli(index: u32) -> Self {
        match index {
            _ if index < Self::STABLE_BELOW_MILLI => Shift::Stable,
            _ if index <= Self::MAJOR_ABOVE_MILLI => Shift::Moderate,
            _ => Shift::Major,
        }
    }

    /// For people.
    pub fn as_str(self) -> &'static str {
        match self {
            Shift::Stable => "stable",
            Shift::Moderate => "moderate shift",
            Shift::Major => "major shift",
        }
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests fail by panicking")]
mod tests {
    use super::*;
    use crate::codec;

    fn baseline() -> Baseline {
        let feature = FeatureBaseline {
            feature: Feature::Contrast,
            edges: vec![-1.0, 0.0, 1.0],
            counts: vec![1, 2, 3, 4],
        };
        Baseline {
            format: 1,
            features: vec![feature],
            labels: vec![3, 1],
            classes: vec![5, 4, 1],
            confidence: vec![0, 0, 0, 0, 0, 1, 0, 0, 2, 7],
        }
    }

    #[test]
    fn a_baseline_that_contradicts_itself_or_a_bound_is_refused() {
        baseline().check().unwrap();
        let change = |change: fn(&mut Baseline)| {
            let mut changed = baseline();
            change(&mut changed);
            changed.check().unwrap_err().field
        };
        assert_eq!(change(|b| b.format = 2), "format");
        assert_eq!(change(|b| b.features = vec![b.features[0].clone(); 17]), "features");
        assert_eq!(change(|b| b.features[0].edges[1] = -1.0), "features");
        assert_eq!(change(|b| b.features[0].edges[0] = f32::NEG_INFINITY), "features");
        assert_eq!(change(|b| b.features[0].edges[2] = f32::NAN), "features");
        assert_eq!(change(|b| b.features[0].counts = vec![0; 4]), "features");
        assert_eq!(change(|b| b.features[0].counts.truncate(3)), "features");
        assert_eq!(change(|b| b.labels[1] = 3), "labels");
        assert_eq!(change(|b| b.labels[0] = 4096), "labels");
        assert_eq!(change(|b| b.classes.truncate(2)), "classes");
        assert_eq!(change(|b| b.classes = vec![0; 3]), "classes");
        assert_eq!(change(|b| b.confidence.push(1)), "confidence");
        assert_eq!(change(|b| b.confidence = vec![0; 10]), "confidence");
    }

    #[test]
    fn the_largest_baseline_that_is_made_fits_its_bound() {
        let counts = vec![u32::MAX; FEATURE_BINS];
        let edges = (0..FEATURE_BINS as u32 - 1).map(|i| i as f32 + 0.1).collect();
        let feature = FeatureBaseline { feature: Feature::Brightness, edges, counts };
        let largest = Baseline {
            format: 1,
            features: vec![feature; FEATURES],
            labels: (0..LABEL_BINS as u32).map(|i| 4_000 + i).collect(),
            classes: vec![u32::MAX; LABEL_BINS + 1],
            confidence: vec![u32::MAX; CONFIDENCE_BINS],
        };
        largest.check().unwrap();
        assert!(codec::encode(&largest).len() < limits::BASELINE / 2);
    }

    #[test]
    fn an_index_has_the_usual_words() {
        let words = [0, 99, 100, 250, 251].map(|milli| Shift::of_milli(milli).as_str());
        assert_eq!(words, ["stable", "stable", "moderate shift", "moderate shift", "major shift"]);
    }
}
