//! What predictions are worth, by what is true of the samples or, where nothing is known, by what the model before said.

use flotilla_protocol::Truth;
use flotilla_protocol::pipeline::Output;
use flotilla_runtime::metrics::detection::{Averaging, mean_average_precision};
use flotilla_runtime::metrics::{Metric, scores};
use flotilla_runtime::{Answer, Prediction, quality};

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
    /// What is true of samples; what a model gives says by what it is judged.
    pub(crate) fn truths(gives: &Output, truths: Vec<Truth>) -> Result<Self> {
        if truths.is_empty() {
            return Err(Error::NoSamples);
        }
        let metric = match gives {
            Output::Classification(_) | Output::MultiLabel(_) => Metric::Accuracy,
            Output::Detection(_) => Metric::Map,
            Output::Regression(spec) if spec.targets.len() == 1 => Metric::R2,
            Output::Regression(_) => Metric::Mae,
            Output::Anomaly(_) => Metric::Auc,
            Output::Embedding(_) | Output::Tensors(_) => {
                let problem =
                    "nothing says whether vectors or tensors are right: give the samples alone".into();
                return Err(Error::Truths { problem });
            }
        };
        Ok(Self::Truths(metric, truths))
    }

    pub(crate) fn metric(&self) -> Metric {
        match self {
            Self::Truths(metric, _) => *metric,
            Self::Before(_) => Metric::Fidelity,
        }
    }
}

/// How single samples went by what is true of them, and the figure over all of them. Of several labels it is the share of
/// them that is right, of several numbers their mean error.
pub(crate) fn by_truths(metric: Metric, trial: quality::Outcomes) -> Result<(Outcomes, f64)> {
    let outcomes = match trial {
        quality::Outcomes::Classes(all) => {
            Outcomes::Hits(all.iter().map(quality::ClassOutcome::is_right).collect())
        }
        quality::Outcomes::Labels(all) => Outcomes::Values(all.iter().map(right).collect()),
        quality::Outcomes::Scenes(all) => Outcomes::Scenes(all),
        quality::Outcomes::Values(all) if metric == Metric::R2 => {
            let pair = |one: &quality::ValuesOutcome| Some((*one.truth.first()?, *one.predicted.first()?));
            Outcomes::Pairs(all.iter().filter_map(pair).collect())
        }
        quality::Outcomes::Values(all) => Outcomes::Values(all.iter().map(off).collect()),
        quality::Outcomes::Anomalies(all) => {
            let pair = |one: &quality::AnomalyOutcome| (f64::from(u8::from(one.truth)), f64::from(one.score));
            Outcomes::Pairs(all.iter().map(pair).collect())
        }
    };
    let value = match &outcomes {
        Outcomes::Hits(hits) => scores::share(hits.iter().copied()),
        Outcomes::Values(values) => scores::mean(values.iter().copied()),
        Outcomes::Pairs(pairs) => of_pairs(metric, pairs),
        Outcomes::Scenes(scenes) => mean_average_precision(scenes, 0.5, Averaging::Coco101),
        Outcomes::None => None,
    };
    let undefined =
        || Error::Truths { problem: format!("they do not define {metric}: all of them are of one kind") };
    Ok((outcomes, value.ok_or_else(undefined)?))
}

/// The share of labels that are right.
fn right(one: &quality::LabelsOutcome) -> f64 {
    let alike = one.truth.iter().zip(&one.predicted).map(|(truth, predicted)| truth == predicted);
    scores::share(alike).unwrap_or_default()
}

/// The mean error of several numbers.
fn off(one: &quality::ValuesOutcome) -> f64 {
    let errors = one.truth.iter().zip(&one.predicted).map(|(truth, predicted)| (truth - predicted).abs());
    scores::mean(errors).unwrap_or_default()
}

/// Whether classifiers name the same class as the model before; of others how near the numbers are.
pub(crate) fn by_answers(before: &[Prediction], after: &[Prediction]) -> (Outcomes, f64) {
    let class = |prediction: &Prediction| match &prediction.answer {
        Answer::Class(label) => Some(label.label_index),
        _ => None,
    };
    let pairs = before.iter().zip(after);
    if before.iter().all(|prediction| class(prediction).is_some()) {
        let hits: Vec<bool> = pairs.map(|(was, is)| class(was) == class(is)).collect();
        let share = scores::share(hits.iter().copied()).unwrap_or_default();
        return (Outcomes::Hits(hits), share);
    }
    // Outputs of other lengths are nothing alike.
    let near = |(was, is): (&Prediction, &Prediction)| {
        (1.0 - scores::relative_l2(&was.scores, &is.scores).unwrap_or(1.0)).max(0.0)
    };
    let values: Vec<f64> = pairs.map(near).collect();
    let mean = scores::mean(values.iter().copied()).unwrap_or_default();
    (Outcomes::Values(values), mean)
}
