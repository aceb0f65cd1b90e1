//! A model's answers to samples whose truth is known.

use super::Quality;
use crate::metrics::detection::{Detection, Scene, Truth as Box};
use crate::{Answer, AsInput, Error, Latency, Model, Prediction, Result};
use flotilla_protocol::Truth;
use flotilla_protocol::pipeline::Output;
use std::time::{Duration, Instant};

/// What a model said of samples whose truth is known.
#[derive(Clone, Debug, PartialEq)]
pub struct Trial {
    /// What the model gives.
    pub gives: Output,
    /// Each sample, in the order in which they came.
    pub outcomes: Outcomes,
    /// Time of a prediction, pre-processing included.
    pub latency: Latency,
}

/// Truth and answer of each sample, by kind of model.
#[derive(Clone, Debug, PartialEq)]
pub enum Outcomes {
    /// One of several labels.
    Classes(Vec<ClassOutcome>),
    /// Any number of labels.
    Labels(Vec<LabelsOutcome>),
    /// Things in pictures.
    Scenes(Vec<Scene>),
    /// Numbers.
    Values(Vec<ValuesOutcome>),
    /// How unusual a sample is.
    Anomalies(Vec<AnomalyOutcome>),
}

/// A sample of one class.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct ClassOutcome {
    /// Index of the true label.
    pub truth: usize,
    /// Index of the predicted label.
    pub predicted: usize,
    /// Score of the predicted label.
    pub score: f32,
}

impl ClassOutcome {
    /// Whether the model was right.
    #[must_use]
    pub const fn is_right(&self) -> bool {
        self.truth == self.predicted
    }
}

/// A sample to which any number of labels applies.
#[derive(Clone, Debug, PartialEq)]
pub struct LabelsOutcome {
    /// Whether each label applies.
    pub truth: Vec<bool>,
    /// Whether the model says so.
    pub predicted: Vec<bool>,
    /// The score of each.
    pub scores: Vec<f32>,
}

/// A sample with numbers, in the order of the model's targets.
#[derive(Clone, Debug, PartialEq)]
pub struct ValuesOutcome {
    /// What is true.
    pub truth: Vec<f64>,
    /// What the model gave.
    pub predicted: Vec<f64>,
}

/// A sample that is usual or not.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct AnomalyOutcome {
    /// Whether it is an anomaly.
    pub truth: bool,
    /// Whether the model says so.
    pub predicted: bool,
    /// Its score.
    pub score: f32,
}

impl Trial {
    /// Predicts every sample. The first that fails, or whose truth is of another kind than the model's answers, ends it: a
    /// figure over a part of the samples would pass for one over all of them.
    pub fn run<S: AsInput>(model: &mut Model, samples: impl IntoIterator<Item = (S, Truth)>) -> Result<Self> {
        let gives = model.gives().clone();
        let mut outcomes = Outcomes::none(&gives)?;
        let mut times: Vec<Duration> = Vec::new();
        for (index, (sample, truth)) in samples.into_iter().enumerate() {
            let truth = fitting(&gives, truth, index)?;
            let started = Instant::now();
            let prediction = model
                .predict(sample.as_input())
                .map_err(|source| Error::Sample { index, source: source.into() })?;
            times.push(started.elapsed());
            outcomes.push(truth, prediction);
        }
        Ok(Self { gives, outcomes, latency: Latency::of(&times) })
    }

    /// The figures of it.
    #[must_use]
    pub fn quality(&self) -> Quality {
        super::figures::of(self)
    }
}

impl Outcomes {
    fn none(gives: &Output) -> Result<Self> {
        Ok(match gives {
            Output::Classification(_) => Self::Classes(Vec::new()),
            Output::MultiLabel(_) => Self::Labels(Vec::new()),
            Output::Detection(_) => Self::Scenes(Vec::new()),
            Output::Regression(_) => Self::Values(Vec::new()),
            Output::Anomaly(_) => Self::Anomalies(Vec::new()),
            Output::Embedding(_) | Output::Tensors(_) => {
                return Err(Error::Interface(
                    "its answers are vectors or tensors, of which nothing says whether they are right"
                        .to_owned(),
                ));
            }
        })
    }

    /// Takes in a truth that fits and the answer to it, which is of the same kind: both follow from the pipeline.
    fn push(&mut self, truth: Truth, Prediction { answer, scores }: Prediction) {
        match (self, truth, answer) {
            (Self::Classes(all), Truth::Class(truth), Answer::Class(label)) => all.push(ClassOutcome {
                truth: truth as usize,
                predicted: label.label_index,
                score: label.score,
            }),
            (Self::Labels(all), Truth::Labels(truth), Answer::Labels(labels)) => {
                let marked = |places: &mut dyn Iterator<Item = usize>| {
                    let mut marks = vec![false; scores.len()];
                    places.for_each(|place| marks[place] = true);
                    marks
                };
                all.push(LabelsOutcome {
                    truth: marked(&mut truth.iter().map(|label| *label as usize)),
                    predicted: marked(&mut labels.iter().map(|label| label.label_index)),
                    scores,
                });
            }
            (Self::Scenes(all), Truth::Boxes(boxes), Answer::Objects(objects)) => all.push(Scene {
                found: objects
                    .iter()
                    .map(|object| Detection {
                        label: object.label.label_index,
                        score: object.label.score,
                        area: object.place,
                    })
                    .collect(),
                there: boxes
                    .iter()
                    .map(|one| Box { label: one.label as usize, area: one.area, ignored: one.ignored })
                    .collect(),
            }),
            (Self::Values(all), Truth::Values(truth), Answer::Values(values)) => {
                let predicted = values.iter().map(|value| f64::from(value.value)).collect();
                all.push(ValuesOutcome { truth, predicted });
            }
            (Self::Anomalies(all), Truth::Anomalous(truth), Answer::Anomaly(anomaly)) => {
                all.push(AnomalyOutcome { truth, predicted: anomaly.anomalous, score: anomaly.score });
            }
            (_, truth, answer) => unreachable!("{truth:?} fits the pipeline, and {answer:?} is its answer"),
        }
    }

    /// Samples.
    #[must_use]
    pub const fn len(&self) -> usize {
        match self {
            Self::Classes(all) => all.len(),
            Self::Labels(all) => all.len(),
            Self::Scenes(all) => all.len(),
            Self::Values(all) => all.len(),
            Self::Anomalies(all) => all.len(),
        }
    }

    /// Whether there is no sample.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// Refuses a truth that says nothing about answers of this kind.
fn fitting(gives: &Output, truth: Truth, index: usize) -> Result<Truth> {
    let mismatch = |problem: String| Err(Error::SampleTruth { index, problem });
    let known = |label: u32, labels: &[String]| match (label as usize) < labels.len() {
        true => Ok(()),
        false => Err(Error::SampleLabel { index, label: label as usize, labels: labels.len() }),
    };
    match (gives, &truth) {
        (Output::Classification(spec), Truth::Class(label)) => known(*label, &spec.labels)?,
        (Output::MultiLabel(spec), Truth::Labels(labels)) => {
            labels.iter().try_for_each(|label| known(*label, &spec.labels))?;
        }
        (Output::Detection(spec), Truth::Boxes(boxes)) => {
            boxes.iter().try_for_each(|one| known(one.label, &spec.labels))?;
            if boxes.iter().any(|one| one.area.iter().any(|edge| !edge.is_finite())) {
                return mismatch("a box with an edge that is no finite number".to_owned());
            }
        }
        (Output::Regression(spec), Truth::Values(values)) => {
            let (got, need) = (values.len(), spec.targets.len());
            if got != need {
                return mismatch(format!("{got} values, but the model gives {need}"));
            }
            if values.iter().any(|value| !value.is_finite()) {
                return mismatch("a value that is no finite number".to_owned());
            }
        }
        (Output::Anomaly(_), Truth::Anomalous(_)) => {}
        _ => {
            let (has, gives) = (truth_name(&truth), answer_name(gives));
            return mismatch(format!("{has}, but the model gives {gives}"));
        }
    }
    Ok(truth)
}

const fn truth_name(truth: &Truth) -> &'static str {
    match truth {
        Truth::Class(_) => "a class",
        Truth::Labels(_) => "a set of labels",
        Truth::Boxes(_) => "boxes",
        Truth::Values(_) => "values",
        Truth::Anomalous(_) => "whether it is an anomaly",
    }
}

const fn answer_name(gives: &Output) -> &'static str {
    match gives {
        Output::Classification(_) => "one class",
        Output::MultiLabel(_) => "a set of labels",
        Output::Detection(_) => "boxes",
        Output::Regression(_) => "numbers",
        Output::Anomaly(_) => "how unusual a sample is",
        Output::Embedding(_) => "a vector",
        Output::Tensors(_) => "tensors",
    }
}
