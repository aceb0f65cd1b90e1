//! Measuring on plain tensors, for models of any kind: by labels, targets or anomalies, or, where nothing is known of the
//! samples, by how far outputs stay those of the model before.

use std::fmt;
use std::time::{Duration, Instant};

use flotilla_runtime::Latency;
use flotilla_runtime::engine::{self, Probe};
use flotilla_runtime::metrics::{Metric, scores};

use crate::evaluate::of_pairs;
use crate::runtime::spread;
use crate::{Calibration, Error, Evaluate, Evaluation, Outcomes, Result};

/// What is known of the samples, one entry for each.
#[derive(Clone, Debug, PartialEq)]
pub enum Judge {
    /// Nothing: outputs are compared with those of the model before.
    Fidelity {
        /// Whether the outputs are scores of classes, so that it is the first label that counts.
        classifier: bool,
    },
    /// The class.
    Accuracy(Vec<usize>),
    /// The value; the first of the output is compared with it, by R2.
    R2(Vec<f64>),
    /// The same, by mean absolute error.
    Mae(Vec<f64>),
    /// Whether it is an anomaly; by AUC.
    Auc {
        /// Whether each is one.
        anomalies: Vec<bool>,
        /// Whether the score is how far the output is from the input, as of an autoencoder, and not the output itself.
        reconstruction: bool,
    },
}

impl Judge {
    fn metric(&self) -> Metric {
        match self {
            Self::Fidelity { .. } => Metric::Fidelity,
            Self::Accuracy(_) => Metric::Accuracy,
            Self::R2(_) => Metric::R2,
            Self::Mae(_) => Metric::Mae,
            Self::Auc { .. } => Metric::Auc,
        }
    }

    fn entries(&self) -> Option<usize> {
        match self {
            Self::Fidelity { .. } => None,
            Self::Accuracy(labels) => Some(labels.len()),
            Self::R2(values) | Self::Mae(values) => Some(values.len()),
            Self::Auc { anomalies, .. } => Some(anomalies.len()),
        }
    }
}

/// Measures candidates on tensors as the network takes them.
pub struct TensorEvaluator<'a> {
    shape: Vec<usize>,
    samples: Vec<Vec<f32>>,
    judge: Judge,
    /// Outputs of the model before, for fidelity.
    reference: Vec<Vec<f32>>,
    calibration: Option<Calibration>,
    cancelled: Box<dyn Fn() -> bool + 'a>,
}

impl<'a> TensorEvaluator<'a> {
    /// An evaluator over tensors of this shape, a batch of one included. `source` is the model before compression.
    pub fn new(
        source: &[u8],
        shape: impl Into<Vec<usize>>,
        samples: Vec<Vec<f32>>,
        judge: Judge,
    ) -> Result<Self> {
        if samples.is_empty() {
            return Err(Error::NoSamples);
        }
        if let Some(labels) = judge.entries().filter(|&entries| entries != samples.len()) {
            return Err(Error::LabelCount { samples: samples.len(), labels });
        }
        let shape = shape.into();
        let cancelled: Box<dyn Fn() -> bool + 'a> = Box::new(|| false);
        let mut evaluator = Self { shape, samples, judge, reference: vec![], calibration: None, cancelled };
        if evaluator.judge.metric() == Metric::Fidelity {
            evaluator.reference = evaluator.run(source, evaluator.samples.len())?.0;
        }
        Ok(evaluator)
    }

    /// Calibrates on this set, which must not be what is measured on.
    #[must_use]
    pub fn calibrated_on(mut self, calibration: Calibration) -> Self {
        self.calibration = Some(calibration);
        self
    }

    /// Asks before each sample whether to stop; a measurement that is stopped fails with [`Error::Cancelled`].
    #[must_use]
    pub fn cancelled_by(mut self, cancelled: impl Fn() -> bool + 'a) -> Self {
        self.cancelled = Box::new(cancelled);
        self
    }

    /// All outputs of each sample, one after another, and how long each took.
    fn run(&self, onnx: &[u8], at_most: usize) -> Result<(Vec<Vec<f32>>, Vec<Duration>)> {
        let mut probe = Probe::load(onnx, &self.shape)?;
        let (mut outputs, mut times) = (Vec::new(), Vec::new());
        for index in spread(self.samples.len(), at_most) {
            if (self.cancelled)() {
                return Err(Error::Cancelled);
            }
            let started = Instant::now();
            let failed = |source| flotilla_runtime::Error::Sample { index, source: Box::new(source) };
            let arrays = probe.run(&self.samples[index]).map_err(failed)?;
            times.push(started.elapsed());
            outputs.push(arrays.into_iter().flat_map(|array| array.values).collect());
        }
        Ok((outputs, times))
    }

    /// How single samples went, and the figure over all of them.
    fn judged(&self, outputs: &[Vec<f32>]) -> Result<(Outcomes, f64)> {
        let unusable = |problem: &str| Error::Evaluator { problem: problem.into() };
        let not_finite = || unusable("the model gives outputs that are no finite numbers, or none");
        let label = |scores: &Vec<f32>| scores::top1(scores).ok_or_else(not_finite);
        let outcomes = match &self.judge {
            Judge::Fidelity { classifier: true } => {
                let pairs = outputs.iter().zip(&self.reference);
                Outcomes::Hits(pairs.map(|(a, b)| Ok(label(a)? == label(b)?)).collect::<Result<_>>()?)
            }
            Judge::Fidelity { classifier: false } => {
                let alike = |(found, expected): (&Vec<f32>, &Vec<f32>)| {
                    let error = scores::relative_l2(expected, found).ok_or_else(not_finite)?;
                    Ok((1.0 - error).max(0.0))
                };
                Outcomes::Values(outputs.iter().zip(&self.reference).map(alike).collect::<Result<_>>()?)
            }
            Judge::Accuracy(labels) => {
                let right = |(scores, truth): (_, &usize)| Ok(label(scores)? == *truth);
                Outcomes::Hits(outputs.iter().zip(labels).map(right).collect::<Result<_>>()?)
            }
            Judge::R2(values) | Judge::Mae(values) => {
                let pair = |(output, truth): (&Vec<f32>, &f64)| {
                    Ok((*truth, f64::from(*output.first().ok_or_else(not_finite)?)))
                };
                Outcomes::Pairs(outputs.iter().zip(values).map(pair).collect::<Result<_>>()?)
            }
            Judge::Auc { anomalies, reconstruction } => {
                let score = |(index, output): (usize, &Vec<f32>)| -> Result<f64> {
                    if !reconstruction {
                        return Ok(f64::from(*output.first().ok_or_else(not_finite)?));
                    }
                    let input = &self.samples[index];
                    if input.len() != output.len() {
                        return Err(unusable("a reconstruction must be as large as the input"));
                    }
                    let square = |(a, b): (&f32, &f32)| (f64::from(*a) - f64::from(*b)).powi(2);
                    Ok(input.iter().zip(output).map(square).sum::<f64>() / input.len() as f64)
                };
                let scores = outputs.iter().enumerate().map(score).collect::<Result<Vec<f64>>>()?;
                let truths = anomalies.iter().map(|anomaly| f64::from(u8::from(*anomaly)));
                Outcomes::Pairs(truths.zip(scores).collect())
            }
        };
        let value = match &outcomes {
            Outcomes::Hits(hits) => scores::share(hits.iter().copied()),
            Outcomes::Values(values) => Some(values.iter().sum::<f64>() / values.len().max(1) as f64),
            Outcomes::Pairs(pairs) => of_pairs(self.judge.metric(), pairs),
            Outcomes::None | Outcomes::Scenes(_) => None,
        };
        let problem =
            "these samples do not define the metric: they are of one kind, or outputs are no numbers";
        Ok((outcomes, value.ok_or_else(|| unusable(problem))?))
    }
}

impl Evaluate for TensorEvaluator<'_> {
    fn metric(&self) -> Metric {
        self.judge.metric()
    }

    fn evaluate(&mut self, onnx: &[u8]) -> Result<Evaluation> {
        let (outputs, times) = self.run(onnx, self.samples.len())?;
        let (outcomes, value) = self.judged(&outputs)?;
        let cost = engine::cost(onnx, &self.shape).ok();
        Ok(Evaluation {
            metric: self.judge.metric(),
            value,
            total: outputs.len() as u64,
            outcomes,
            latency: Latency::of(&times),
            macs: cost.map(|cost| cost.macs),
            peak_bytes: cost.map(|cost| cost.peak_bytes),
        })
    }

    fn outputs(&mut self, onnx: &[u8], max_samples: usize) -> Result<Vec<Vec<f32>>> {
        Ok(self.run(onnx, max_samples)?.0)
    }

    fn calibration(&mut self, max_samples: usize) -> Result<Option<Calibration>> {
        let Some(set) = &self.calibration else { return Ok(None) };
        if set.samples().len() <= max_samples {
            return Ok(Some(set.clone()));
        }
        set.spread(max_samples).map(Some)
    }
}

impl fmt::Debug for TensorEvaluator<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TensorEvaluator")
            .field("shape", &self.shape)
            .field("samples", &self.samples.len())
            .finish_non_exhaustive()
    }
}
