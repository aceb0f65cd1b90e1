//! What predictions are worth, by what is known of the samples: labels, boxes, values, anomalies, or nothing but what the
//! model before said.

use flotilla_protocol::Truth;
use flotilla_runtime::metrics::detection::{self, Averaging, Detection, Scene, mean_average_precision};
use flotilla_runtime::metrics::{Metric, scores};
use flotilla_runtime::{Answer, Prediction};

use crate::evaluate::of_pairs;
use crate::{Error, Outcomes, Result};

/// What is known of the samples, one entry for each.
#[derive(Clone, Debug)]
pub(crate) enum Known {
    /// What is true of them.
    Truths(Metric, Vec<Truth>),
    /// What the model before said of them.
    Before(Vec<Prediction>),
}

impl Known {
    /// What is true of samples, which must be of one kind: it says by what is judged.
    pub(crate) fn truths(truths: Vec<Truth>) -> Result<Self> {
        let metrics = truths.iter().map(metric);
        let mut kinds = metrics.collect::<Vec<Metric>>();
        kinds.dedup();
        match kinds[..] {
            [] => Err(Error::NoSamples),
            [metric] => Ok(Self::Truths(metric, truths)),
            _ => Err(Error::Truths { problem: "they are of several kinds".into() }),
        }
    }

    pub(crate) fn metric(&self) -> Metric {
        match self {
            Self::Truths(metric, _) => *metric,
            Self::Before(_) => Metric::Fidelity,
        }
    }

    /// How single samples went, and the figure over all of them.
    pub(crate) fn judged(&self, predictions: Vec<Prediction>, labels: usize) -> Result<(Outcomes, f64)> {
        let outcomes = match self {
            Self::Before(before) => alike(before, &predictions),
            Self::Truths(Metric::Map, truths) => {
                let scenes = predictions.iter().zip(truths).map(|(found, truth)| scene(found, truth));
                Outcomes::Scenes(scenes.collect::<Result<_>>()?)
            }
            Self::Truths(_, truths) => {
                let mut outcomes = Vec::with_capacity(truths.len());
                for (index, (said, truth)) in predictions.iter().zip(truths).enumerate() {
                    outcomes.push(outcome(index, said, truth, labels)?);
                }
                gathered(outcomes)?
            }
        };
        let value = match &outcomes {
            Outcomes::Hits(hits) => scores::share(hits.iter().copied()),
            Outcomes::Values(values) => Some(values.iter().sum::<f64>() / values.len().max(1) as f64),
            Outcomes::Pairs(pairs) => of_pairs(self.metric(), pairs),
            Outcomes::Scenes(scenes) => mean_average_precision(scenes, 0.5, Averaging::Coco101),
            Outcomes::None => None,
        };
        let undefined = || Error::Truths {
            problem: format!("they do not define {}: all of them are of one kind", self.metric()),
        };
        Ok((outcomes, value.ok_or_else(undefined)?))
    }
}

fn metric(truth: &Truth) -> Metric {
    match truth {
        Truth::Class(_) | Truth::Labels(_) => Metric::Accuracy,
        Truth::Boxes(_) => Metric::Map,
        Truth::Values(values) if values.len() == 1 => Metric::R2,
        Truth::Values(_) => Metric::Mae,
        Truth::Anomalous(_) => Metric::Auc,
    }
}

/// Whether classifiers name the same class; of others how near the numbers are.
fn alike(before: &[Prediction], after: &[Prediction]) -> Outcomes {
    let class = |prediction: &Prediction| match &prediction.answer {
        Answer::Class(label) => Some(label.label_index),
        _ => None,
    };
    let pairs = before.iter().zip(after);
    if before.iter().all(|prediction| class(prediction).is_some()) {
        return Outcomes::Hits(pairs.map(|(was, is)| class(was) == class(is)).collect());
    }
    let near = |(was, is): (&Prediction, &Prediction)| {
        // What is no finite number never gets here; outputs of other lengths are nothing alike.
        (1.0 - scores::relative_l2(&was.scores, &is.scores).unwrap_or(1.0)).max(0.0)
    };
    Outcomes::Values(pairs.map(near).collect())
}

enum Outcome {
    Hit(bool),
    Value(f64),
    Pair(f64, f64),
}

fn outcome(index: usize, said: &Prediction, truth: &Truth, labels: usize) -> Result<Outcome> {
    let known = |label: u32| {
        let label = label as usize;
        let unknown = flotilla_runtime::Error::SampleLabel { index, label, labels };
        if label < labels { Ok(label) } else { Err(Error::Runtime(unknown)) }
    };
    Ok(match (truth, &said.answer) {
        (Truth::Class(class), Answer::Class(label)) => Outcome::Hit(label.label_index == known(*class)?),
        (Truth::Labels(all), Answer::Labels(told)) => {
            let all = all.iter().map(|label| known(*label)).collect::<Result<Vec<usize>>>()?;
            let told = |label: &usize| told.iter().any(|told| told.label_index == *label);
            let right = (0..labels).filter(|label| told(label) == all.contains(label)).count();
            Outcome::Value(right as f64 / labels.max(1) as f64)
        }
        (Truth::Values(truth), Answer::Values(values)) if truth.len() == values.len() => {
            let pairs = || truth.iter().zip(values).map(|(truth, value)| (*truth, f64::from(value.value)));
            match (pairs().next(), truth.len()) {
                (Some((truth, value)), 1) => Outcome::Pair(truth, value),
                (_, count) => Outcome::Value(
                    pairs().map(|(truth, value)| (truth - value).abs()).sum::<f64>() / count.max(1) as f64,
                ),
            }
        }
        (Truth::Anomalous(is), Answer::Anomaly(anomaly)) => {
            Outcome::Pair(f64::from(u8::from(*is)), anomaly.score.into())
        }
        _ => return Err(misfit(index)),
    })
}

fn gathered(outcomes: Vec<Outcome>) -> Result<Outcomes> {
    let (mut hits, mut values, mut pairs) = (Vec::new(), Vec::new(), Vec::new());
    for outcome in outcomes {
        match outcome {
            Outcome::Hit(hit) => hits.push(hit),
            Outcome::Value(value) => values.push(value),
            Outcome::Pair(truth, value) => pairs.push((truth, value)),
        }
    }
    match (hits.is_empty(), values.is_empty(), pairs.is_empty()) {
        (false, true, true) => Ok(Outcomes::Hits(hits)),
        (true, false, true) => Ok(Outcomes::Values(values)),
        (true, true, false) => Ok(Outcomes::Pairs(pairs)),
        _ => Err(Error::Truths { problem: "they are of several kinds".into() }),
    }
}

fn scene(said: &Prediction, truth: &Truth) -> Result<Scene> {
    let (Answer::Objects(objects), Truth::Boxes(boxes)) = (&said.answer, truth) else {
        return Err(misfit(0));
    };
    let found = objects.iter().map(|object| Detection {
        label: object.label.label_index,
        score: object.label.score,
        area: object.place,
    });
    let there = boxes.iter().map(|there| detection::Truth {
        label: there.label as usize,
        area: there.area,
        ignored: there.ignored,
    });
    Ok(Scene { found: found.collect(), there: there.collect() })
}

fn misfit(index: usize) -> Error {
    Error::Truths {
        problem: format!(
            "what is known of sample {index} is not what the model answers; judge it by a dataset of its kind"
        ),
    }
}
