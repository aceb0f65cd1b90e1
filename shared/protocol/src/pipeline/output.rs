//! What becomes of a network's outputs.

use super::detection::Detection;
use super::{InvalidPipeline, is_default};
use crate::limits;
use serde::{Deserialize, Serialize};

/// How the model's outputs become an answer.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Output {
    /// One of several labels.
    Classification(Classification),
    /// Any number of labels at the same time.
    MultiLabel(MultiLabel),
    /// Things and where they are.
    Detection(Detection),
    /// Numbers.
    Regression(Regression),
    /// How unusual an input is.
    Anomaly(Anomaly),
    /// A vector that is near those of similar inputs.
    Embedding(Embedding),
    /// The network's outputs as they are.
    Tensors(TensorsOutput),
}

/// Scores a label, in the order of the model's last axis.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Classification {
    /// Label names.
    pub labels: Vec<String>,
    /// What makes scores of the model's output.
    pub activation: Activation,
    /// The output with the scores; none where the network has one only.
    #[serde(default, skip_serializing_if = "is_default")]
    pub output: Option<String>,
}

/// A score a label, each for itself.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct MultiLabel {
    /// Label names.
    pub labels: Vec<String>,
    /// What makes scores of the model's output.
    pub activation: Activation,
    /// The score from which on a label applies: one for all, or one a label.
    pub thresholds: Vec<f32>,
    /// The output with the scores; none where the network has one only.
    #[serde(default, skip_serializing_if = "is_default")]
    pub output: Option<String>,
}

/// What is applied to the model's raw output.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Activation {
    /// The output holds probabilities already.
    None,
    /// The output holds logits, one of which is true.
    Softmax,
    /// The output holds logits, each true or not.
    Sigmoid,
}

/// Numbers, in the order of the model's last axis.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Regression {
    /// What the numbers are.
    pub targets: Vec<Target>,
    /// The output with the numbers; none where the network has one only.
    #[serde(default, skip_serializing_if = "is_default")]
    pub output: Option<String>,
}

/// A number that a model gives: `output * std + mean`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Target {
    /// Its name.
    pub name: String,
    /// Its unit; may be empty.
    #[serde(default, skip_serializing_if = "is_default")]
    pub unit: String,
    /// See above.
    pub mean: f32,
    /// See above.
    pub std: f32,
}

/// How unusual an input is: anomalous where the score is above the threshold.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Anomaly {
    /// What the score is.
    pub score: AnomalyScore,
    /// Usually a quantile of the scores of what is normal.
    pub threshold: f32,
    /// The output that is looked at; none where the network has one only.
    #[serde(default, skip_serializing_if = "is_default")]
    pub output: Option<String>,
}

/// What the score of an anomaly is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum AnomalyScore {
    /// Mean squared difference of output and input.
    SquaredError,
    /// Mean absolute difference of output and input.
    AbsoluteError,
    /// The one value that the network gives.
    Direct,
}

/// A vector that is near those of similar inputs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Embedding {
    /// Whether it is brought to the length 1.
    pub normalise: bool,
    /// The output with the vector; none where the network has one only.
    #[serde(default, skip_serializing_if = "is_default")]
    pub output: Option<String>,
}

/// The network's outputs as they are; states are not among them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TensorsOutput {}

/// The labels of an anomaly detector.
const ANOMALY: [&str; 2] = ["normal", "anomalous"];

impl Classification {
    /// A classifier with one output.
    pub fn new(labels: Vec<String>, activation: Activation) -> Self {
        Self { labels, activation, output: None }
    }
}

impl Output {
    pub(super) fn check(&self) -> Result<(), InvalidPipeline> {
        let fail = |field, problem: String| Err(InvalidPipeline { field, problem });
        match self {
            Output::Classification(classification) => check_labels("labels", &classification.labels),
            Output::MultiLabel(multi) => {
                check_labels("labels", &multi.labels)?;
                let count = multi.thresholds.len();
                if count != 1 && count != multi.labels.len() {
                    let labels = multi.labels.len();
                    return fail(
                        "thresholds",
                        format!("{count} for {labels} labels; 1 or {labels} are needed"),
                    );
                }
                if multi.thresholds.iter().any(|threshold| !threshold.is_finite()) {
                    return fail("thresholds", "one is no finite number".to_owned());
                }
                match multi.activation {
                    Activation::Softmax => {
                        fail("activation", "labels that apply together have no softmax".to_owned())
                    }
                    Activation::None | Activation::Sigmoid => Ok(()),
                }
            }
            Output::Detection(detection) => detection.check(),
            Output::Regression(regression) => {
                let targets = &regression.targets;
                let names: Vec<String> = targets.iter().map(|target| target.name.clone()).collect();
                check_labels("targets", &names)?;
                let numbers = |target: &Target| target.mean.is_finite() && target.std.is_normal();
                match targets.iter().find(|target| !numbers(target) || target.unit.len() > limits::LABEL) {
                    Some(target) => fail(
                        "targets",
                        format!(
                            "{} needs a finite mean, a std other than zero and a short unit",
                            target.name
                        ),
                    ),
                    None => Ok(()),
                }
            }
            Output::Anomaly(anomaly) if !anomaly.threshold.is_finite() => {
                fail("threshold", "it is no finite number".to_owned())
            }
            Output::Anomaly(_) | Output::Embedding(_) | Output::Tensors(_) => Ok(()),
        }
    }

    /// Label names, in the order of their indices; none where an answer has no label.
    pub fn labels(&self) -> Vec<String> {
        match self {
            Output::Classification(classification) => classification.labels.clone(),
            Output::MultiLabel(multi) => multi.labels.clone(),
            Output::Detection(detection) => detection.labels.clone(),
            Output::Anomaly(_) => ANOMALY.map(str::to_owned).to_vec(),
            Output::Regression(_) | Output::Embedding(_) | Output::Tensors(_) => Vec::new(),
        }
    }
}

pub(super) fn check_labels(field: &'static str, labels: &[String]) -> Result<(), InvalidPipeline> {
    let fail = |problem: String| Err(InvalidPipeline { field, problem });
    if labels.is_empty() || labels.len() > limits::LABELS {
        return fail(format!("{} labels; 1 to {} are possible", labels.len(), limits::LABELS));
    }
    match labels.iter().find(|label| label.is_empty() || label.len() > limits::LABEL) {
        Some(label) => {
            fail(format!("a label has {} bytes; 1 to {} are possible", label.len(), limits::LABEL))
        }
        None => Ok(()),
    }
}
