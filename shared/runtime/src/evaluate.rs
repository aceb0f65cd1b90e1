//! Accuracy and latency of a model over samples whose labels are known.

use crate::{Answer, AsInput, Error, Latency, Model, Result};
use serde::{Deserialize, Serialize};
use std::time::{Duration, Instant};

/// What a model did on a set of samples.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Evaluation {
    /// Samples.
    pub total: u64,
    /// Of these predicted right.
    pub correct: u64,
    /// `correct / total`; 0 without samples.
    pub accuracy: f64,
    /// Samples by true label (outer) and predicted label (inner).
    pub confusion: Vec<Vec<u64>>,
    /// Time of a prediction, pre-processing included.
    pub latency: Latency,
    /// Each sample, in the order in which they came.
    pub outcomes: Vec<Outcome>,
}

/// What a model said of one sample.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Outcome {
    /// Index of the true label.
    pub truth: usize,
    /// Index of the predicted label.
    pub predicted: usize,
    /// Score of the predicted label.
    pub score: f32,
}

/// Predicts every sample, given with the index of its true label. The first sample that fails ends it: an
/// accuracy over a part of the samples would pass for one over all of them.
pub fn evaluate<S: AsInput>(
    model: &mut Model,
    samples: impl IntoIterator<Item = (S, usize)>,
) -> Result<Evaluation> {
    let labels = model.labels().len();
    let mut confusion = vec![vec![0_u64; labels]; labels];
    let (mut outcomes, mut times): (Vec<Outcome>, Vec<Duration>) = Default::default();
    for (index, (sample, truth)) in samples.into_iter().enumerate() {
        if truth >= labels {
            return Err(Error::SampleLabel { index, label: truth, labels });
        }
        let started = Instant::now();
        let prediction = model
            .predict(sample.as_input())
            .map_err(|source| Error::Sample { index, source: Box::new(source) })?;
        times.push(started.elapsed());
        let Answer::Class(label) = prediction.answer else {
            return Err(Error::Interface(
                "its answers are no classes, and accuracy counts those only".to_owned(),
            ));
        };
        confusion[truth][label.label_index] += 1;
        outcomes.push(Outcome { truth, predicted: label.label_index, score: label.score });
    }
    let total = outcomes.len() as u64;
    let correct = outcomes.iter().filter(|outcome| outcome.predicted == outcome.truth).count() as u64;
    let accuracy = if total == 0 { 0.0 } else { correct as f64 / total as f64 };
    Ok(Evaluation { total, correct, accuracy, confusion, latency: Latency::of(&times), outcomes })
}
