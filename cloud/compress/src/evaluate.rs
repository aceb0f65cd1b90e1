//! How a candidate is measured.

use flotilla_runtime::Latency;
use flotilla_runtime::metrics::detection::{Averaging, Scene, mean_average_precision};
use flotilla_runtime::metrics::interval::{bootstrap, paired_share};
use flotilla_runtime::metrics::{Metric, scores};

use crate::{Calibration, Error, Result};

/// Measures a model on samples that training has not seen.
///
/// Every call gets the bytes of a whole file, so that what is measured is what ships.
pub trait Evaluate {
    /// The figure that models are judged by.
    fn metric(&self) -> Metric {
        Metric::Accuracy
    }

    /// Runs the model on all samples.
    fn evaluate(&mut self, onnx: &[u8]) -> Result<Evaluation>;

    /// The model's outputs for at most `max_samples` samples, the same ones on each call.
    fn outputs(&mut self, onnx: &[u8], max_samples: usize) -> Result<Vec<Vec<f32>>>;

    /// At most `max_samples` samples to calibrate on, which [`Self::evaluate`] does not see; none where there are none.
    fn calibration(&mut self, max_samples: usize) -> Result<Option<Calibration>> {
        let _ = max_samples;
        Ok(None)
    }

    /// How many inputs were drawn by chance, for want of any sample; none where samples are measured on.
    fn drawn(&self) -> Option<usize> {
        None
    }
}

/// How a model did.
#[derive(Clone, Debug, PartialEq)]
pub struct Evaluation {
    /// What was measured.
    pub metric: Metric,
    /// What came out.
    pub value: f64,
    /// Samples it was given.
    pub total: u64,
    /// How single samples went.
    pub outcomes: Outcomes,
    /// Time of one prediction.
    pub latency: Latency,
    /// Multiplications and additions of one prediction, where they are known.
    pub macs: Option<u64>,
    /// Memory of one prediction at its worst moment, in bytes, where it is known.
    pub peak_bytes: Option<u64>,
}

/// How single samples went, in an order that is the same in every run.
#[derive(Clone, Debug, Default, PartialEq)]
pub enum Outcomes {
    /// Not known.
    #[default]
    None,
    /// Whether each was right.
    Hits(Vec<bool>),
    /// A figure for each, of which the metric is the mean.
    Values(Vec<f64>),
    /// What is true of each and what the model gave; for AUC, 1 for an anomaly and the score.
    Pairs(Vec<(f64, f64)>),
    /// Boxes that are there and that the model found; for mAP.
    Scenes(Vec<Scene>),
}

impl Outcomes {
    fn len(&self) -> usize {
        match self {
            Self::None => 0,
            Self::Hits(hits) => hits.len(),
            Self::Values(values) => values.len(),
            Self::Pairs(pairs) => pairs.len(),
            Self::Scenes(scenes) => scenes.len(),
        }
    }
}

impl Evaluation {
    /// What is lost from another run on the same samples to this one; negative where something was gained.
    #[must_use]
    pub fn drop_from(&self, before: &Self) -> f64 {
        match (&before.outcomes, &self.outcomes) {
            // From the counts: the difference of two rounded shares can lie on the wrong side of a bound.
            (Outcomes::Hits(was), Outcomes::Hits(is)) if was.len() == is.len() && !is.is_empty() => {
                let count = |hits: &[bool]| hits.iter().filter(|hit| **hit).count() as f64;
                (count(was) - count(is)) / is.len() as f64
            }
            _ => self.metric.drop(before.value, self.value),
        }
    }

    /// 95 % interval of what is lost, paired sample by sample: Agresti and Min's for hits, else a bootstrap with a fixed
    /// seed. None where single samples are not known.
    #[must_use]
    pub fn drop_interval(&self, before: &Self) -> Option<[f64; 2]> {
        let metric = self.metric;
        let interval = match (&before.outcomes, &self.outcomes) {
            (Outcomes::Hits(was), Outcomes::Hits(is)) => paired_share(was, is),
            (Outcomes::Values(was), Outcomes::Values(is)) if was.len() == is.len() => {
                bootstrap(is.len(), |chosen| {
                    let sum: f64 = chosen.iter().map(|&i| metric.drop(was[i], is[i])).sum();
                    Some(sum / chosen.len() as f64)
                })
            }
            (Outcomes::Pairs(was), Outcomes::Pairs(is)) if was.len() == is.len() => {
                bootstrap(is.len(), |chosen| {
                    let of = |pairs: &[(f64, f64)]| {
                        let pairs: Vec<(f64, f64)> = chosen.iter().map(|&i| pairs[i]).collect();
                        of_pairs(metric, &pairs)
                    };
                    Some(metric.drop(of(was)?, of(is)?))
                })
            }
            (Outcomes::Scenes(was), Outcomes::Scenes(is)) if was.len() == is.len() => {
                bootstrap(is.len(), |chosen| {
                    let of = |scenes: &[Scene]| {
                        let scenes: Vec<&Scene> = chosen.iter().map(|&i| &scenes[i]).collect();
                        of_scenes(&scenes)
                    };
                    Some(metric.drop(of(was)?, of(is)?))
                })
            }
            _ => None,
        };
        interval.map(|interval| [*interval.start(), *interval.end()])
    }

    /// Refuses what cannot be compared with another run.
    pub(crate) fn checked(self, before: Option<&Self>) -> Result<Self> {
        let fail = |problem: String| Err(Error::Evaluator { problem });
        if self.total == 0 {
            return fail("there was no sample to measure on".into());
        }
        if !self.value.is_finite() || self.metric.is_share() && !(0.0..=1.0).contains(&self.value) {
            return fail(format!("{} came out as {}", self.metric, self.value));
        }
        let known = self.outcomes.len() as u64;
        if !matches!(self.outcomes, Outcomes::None) && known != self.total {
            return fail(format!("{known} of {} samples have an outcome", self.total));
        }
        match before {
            Some(before) if before.total != self.total => {
                fail(format!("one run had {} samples and another {}", before.total, self.total))
            }
            Some(before) if before.metric != self.metric => {
                fail(format!("one run measured {} and another {}", before.metric, self.metric))
            }
            _ => Ok(self),
        }
    }
}

/// The metric of pairs of what is true and what was given.
pub(crate) fn of_pairs(metric: Metric, pairs: &[(f64, f64)]) -> Option<f64> {
    match metric {
        Metric::R2 => scores::r2(pairs),
        Metric::Mae => scores::mae(pairs),
        Metric::Auc => {
            let samples: Vec<(f64, bool)> =
                pairs.iter().map(|&(truth, score)| (score, truth > 0.5)).collect();
            scores::auc(&samples)
        }
        Metric::Accuracy | Metric::Map | Metric::Fidelity => None,
    }
}

/// The metric of boxes.
fn of_scenes(scenes: &[&Scene]) -> Option<f64> {
    mean_average_precision(scenes, 0.5, Averaging::Coco101)
}

/// How far outputs are from reference outputs: the L2 norm of the difference by that of the reference.
pub(crate) fn relative_error(reference: &[Vec<f32>], outputs: &[Vec<f32>]) -> Result<f64> {
    let fail = |problem: &str| Err(Error::Evaluator { problem: problem.into() });
    let same = reference.iter().map(Vec::len).eq(outputs.iter().map(Vec::len));
    if !same || reference.iter().all(Vec::is_empty) {
        return fail("two runs on the same samples gave outputs of other numbers or shapes, or none");
    }
    let flat = |outputs: &[Vec<f32>]| outputs.iter().flatten().copied().collect::<Vec<f32>>();
    match scores::relative_l2(&flat(reference), &flat(outputs)) {
        Some(error) => Ok(error),
        None => fail("the model gives outputs that are no finite numbers"),
    }
}

#[cfg(test)]
mod tests {
    use super::{Evaluation, Outcomes, of_scenes};
    use flotilla_runtime::Latency;
    use flotilla_runtime::metrics::Metric;
    use flotilla_runtime::metrics::detection::{Detection, Scene, Truth};

    #[test]
    fn what_is_lost_in_detection_has_an_interval_over_pictures() {
        let area = [0.0, 0.0, 1.0, 1.0];
        let scene = |found: bool| Scene {
            found: found.then_some(Detection { label: 0, score: 0.9, area }).into_iter().collect(),
            there: vec![Truth { label: 0, area, ignored: false }],
        };
        let run = |found: usize| {
            let scenes: Vec<Scene> = (0..60).map(|picture| scene(picture < found)).collect();
            let value = of_scenes(&scenes.iter().collect::<Vec<_>>()).unwrap_or_default();
            Evaluation {
                metric: Metric::Map,
                value,
                total: 60,
                outcomes: Outcomes::Scenes(scenes),
                latency: Latency::default(),
                macs: None,
                peak_bytes: None,
            }
        };
        let (before, after) = (run(60), run(54));
        let interval = after.drop_interval(&before);
        assert!(
            interval.is_some_and(|[low, high]| low > 0.0 && low < 0.1 && high > 0.1 && high < 0.25),
            "{interval:?}"
        );
        assert!((after.drop_from(&before) - 0.1).abs() < 0.01);
        assert_eq!(before.drop_interval(&before), Some([0.0, 0.0]));
    }
}
