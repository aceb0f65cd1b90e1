//! How good a model is: what was measured on samples whose truth is known, and how sure that is.
//!
//! [`Trial::run`] asks a model of every sample, [`Trial::quality`] counts. Intervals are of 95 %: Wilson's for shares, else
//! a bootstrap over samples with a fixed seed, so that the same answers always give the same figures.

mod figures;
mod trial;

pub use trial::{AnomalyOutcome, ClassOutcome, LabelsOutcome, Outcomes, Trial, ValuesOutcome};

use crate::metrics::Metric;
use crate::metrics::scores::Bin;
use crate::{AsInput, Latency, Model, Result};
use flotilla_protocol::Truth;
use flotilla_protocol::manifest::Metrics;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::ops::RangeInclusive;

/// The format of [`Quality`] that this build writes.
pub const FORMAT: u16 = 1;
/// Classes of a confusion matrix at most; of more classes the largest confusions are kept alone.
pub const CONFUSION_CLASSES: usize = 500;
/// Confusions that are listed at most, the most frequent first.
pub const CONFUSIONS: usize = 50;
/// Targets of a regression that get intervals of their own at most.
pub const TARGET_INTERVALS: usize = 16;

/// How good a model is.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Quality {
    /// Format version: [`FORMAT`].
    pub format: u16,
    /// Samples that it was judged on.
    pub samples: u64,
    /// What the headline figure is.
    pub metric: Metric,
    /// The headline figure.
    #[serde(flatten)]
    pub headline: Figure,
    /// Time of a prediction on the computer that judged, pre-processing included.
    pub latency: Latency,
    /// Everything else.
    pub figures: Figures,
}

/// A figure and how sure it is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Figure {
    /// The figure; none where the samples do not define it, such as the recall of a class of which there is none.
    pub value: Option<f64>,
    /// Its 95 % interval.
    pub interval: Option<[f64; 2]>,
}

impl Figure {
    pub(crate) fn new(value: Option<f64>, interval: Option<RangeInclusive<f64>>) -> Self {
        let interval = interval.map(|interval| [*interval.start(), *interval.end()]);
        Self { value, interval: interval.filter(|_| value.is_some()) }
    }
}

/// The figures of a kind of model.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "kind")]
pub enum Figures {
    /// One of several labels.
    Classification(Classification),
    /// Any number of labels at the same time.
    MultiLabel(MultiLabel),
    /// Things and where they are.
    Detection(Detection),
    /// Numbers.
    Regression(Regression),
    /// How unusual a sample is.
    Anomaly(Anomaly),
}

/// Of a model that gives one of several labels.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Classification {
    /// Samples whose label is right.
    pub correct: u64,
    /// Mean of the classes' F1, of those that are there or were said.
    pub macro_f1: Option<f64>,
    /// A row a class, in the order of the model's labels.
    pub classes: Vec<Class>,
    /// Samples by true class (outer) and predicted class (inner); none with more than [`CONFUSION_CLASSES`].
    pub confusion: Option<Vec<Vec<u64>>>,
    /// What was taken for what, the most frequent first; at most [`CONFUSIONS`].
    pub confused: Vec<Confused>,
    /// How far scores are to be believed; none where they are no probabilities.
    pub calibration: Option<Calibration>,
}

/// One label: as the class of a sample, or as one of several that apply.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Class {
    /// Its name.
    pub label: String,
    /// Samples that are of it.
    pub support: u64,
    /// Samples that the model says are.
    pub predicted: u64,
    /// Samples that both is true of.
    pub correct: u64,
    /// `correct / predicted`.
    pub precision: Figure,
    /// `correct / support`.
    pub recall: Figure,
    /// Harmonic mean of the two.
    pub f1: Figure,
    /// Average precision over all thresholds, where labels apply together.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub average_precision: Option<f64>,
}

/// Samples of one class that were taken for another.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Confused {
    /// Index of the true class.
    pub truth: usize,
    /// Index of the predicted class.
    pub predicted: usize,
    /// How many.
    pub samples: u64,
}

/// How far scores are to be believed.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Calibration {
    /// Expected calibration error.
    pub ece: f64,
    /// The reliability diagram, in equal bins of confidence.
    pub bins: Vec<Bin>,
}

/// Of a model that gives any number of labels. The headline is the mean average precision of the labels that are there.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct MultiLabel {
    /// Share of the samples with exactly the right labels.
    pub exact: Figure,
    /// Mean of the labels' F1, of those that are there or were said.
    pub macro_f1: Option<f64>,
    /// A row a label, at the model's thresholds.
    pub labels: Vec<Class>,
}

/// Of a model that finds things. The headline is the mean average precision at an overlap of one half.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Detection {
    /// COCO's figure: the mean over overlaps of 0.50 to 0.95.
    pub coco: Option<f64>,
    /// The lowest score of a box that the model gives: what it leaves out counts as not found.
    pub score: f32,
    /// A row a label, in the order of the model's labels.
    pub labels: Vec<Found>,
}

/// One label of a model that finds things.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Found {
    /// Its name.
    pub label: String,
    /// Boxes that are there and count.
    pub there: u64,
    /// Boxes that the model gave.
    pub found: u64,
    /// Average precision at an overlap of one half.
    pub half: Option<f64>,
    /// The mean over overlaps of 0.50 to 0.95.
    pub coco: Option<f64>,
}

/// Of a model that gives numbers. The headline is the mean R2 of the targets.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Regression {
    /// A row a target, in the order of the model's targets.
    pub targets: Vec<Target>,
}

/// One number that a model gives.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Target {
    /// Its name.
    pub name: String,
    /// Its unit; may be empty.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub unit: String,
    /// Share of the variance that is explained. Intervals are counted for [`TARGET_INTERVALS`] targets at most.
    pub r2: Figure,
    /// Mean absolute error.
    pub mae: Figure,
    /// Square root of the mean squared error.
    pub rmse: Option<f64>,
}

/// Of a model that says how unusual a sample is. The headline is the area under the ROC curve.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Anomaly {
    /// Above it is anomalous; the figures below are at it.
    pub threshold: f32,
    /// Samples that are anomalies.
    pub anomalies: u64,
    /// Anomalies that the model found.
    pub found: u64,
    /// Normal samples.
    pub normal: u64,
    /// Normal samples that the model calls anomalies.
    pub false_alarms: u64,
    /// Share of what it calls an anomaly that is one.
    pub precision: Figure,
    /// Share of the anomalies that it finds.
    pub recall: Figure,
    /// Share of the normal samples that it calls anomalies.
    pub false_alarm_rate: Figure,
}

/// Judges a model on samples whose truth is known.
pub fn judge<S: AsInput>(
    model: &mut Model,
    samples: impl IntoIterator<Item = (S, Truth)>,
) -> Result<Quality> {
    Ok(Trial::run(model, samples)?.quality())
}

impl Quality {
    /// The same as records and manifests carry it: counts of what is right for classes, else figures by name.
    #[must_use]
    pub fn metrics(&self) -> Metrics {
        let value = self.headline.value;
        match &self.figures {
            Figures::Classification(classes) => Metrics {
                samples: self.samples,
                correct: classes.correct,
                accuracy: value.unwrap_or_default(),
                other: BTreeMap::new(),
            },
            _ => Metrics {
                other: value.map(|value| (self.metric.name().to_owned(), value)).into_iter().collect(),
                ..Metrics::default()
            },
        }
    }
}
