//! Measuring with the runtime that serves the model on devices.

use std::fmt;

use flotilla_protocol::{Pipeline, Truth};
use flotilla_runtime::metrics::Metric;
use flotilla_runtime::metrics::scores::share;
use flotilla_runtime::quality;
use flotilla_runtime::{AsInput, Model, Preprocessor, Trial, engine};

use crate::{Calibration, Error, Evaluate, Evaluation, Outcomes, Result};

/// Measures candidates with the runtime, on samples that training has not seen.
pub struct RuntimeEvaluator<'a, S> {
    pipeline: &'a Pipeline,
    samples: Vec<S>,
    labels: Vec<usize>,
    calibration: Vec<S>,
    calibration_labels: Vec<usize>,
    cancelled: Box<dyn Fn() -> bool + 'a>,
}

impl<'a, S: AsInput> RuntimeEvaluator<'a, S> {
    /// An evaluator over these inputs and, for each, the index of its true label.
    pub fn new(pipeline: &'a Pipeline, samples: Vec<S>, labels: Vec<usize>) -> Result<Self> {
        if samples.len() != labels.len() {
            return Err(Error::LabelCount { samples: samples.len(), labels: labels.len() });
        }
        if samples.is_empty() {
            return Err(Error::NoSamples);
        }
        let (calibration, calibration_labels) = (Vec::new(), Vec::new());
        let cancelled = Box::new(|| false);
        Ok(Self { pipeline, samples, labels, calibration, calibration_labels, cancelled })
    }

    /// Calibrates on these inputs, which must not be those that are measured on. Labels, one for each, may be left out.
    pub fn calibrated_on(mut self, samples: Vec<S>, labels: Vec<usize>) -> Result<Self> {
        if samples.is_empty() {
            return Err(Error::Calibration {
                problem: "it is empty: give some samples, or none at all".into(),
            });
        }
        if !labels.is_empty() && samples.len() != labels.len() {
            return Err(Error::LabelCount { samples: samples.len(), labels: labels.len() });
        }
        (self.calibration, self.calibration_labels) = (samples, labels);
        Ok(self)
    }

    /// Asks before each sample whether to stop; a measurement that is stopped fails with [`Error::Cancelled`].
    #[must_use]
    pub fn cancelled_by(mut self, cancelled: impl Fn() -> bool + 'a) -> Self {
        self.cancelled = Box::new(cancelled);
        self
    }

    fn go_on(&self) -> Result<()> {
        if (self.cancelled)() { Err(Error::Cancelled) } else { Ok(()) }
    }
}

/// Places of at most so many samples that lie evenly over all of them, so that every class of an ordered set takes part.
pub(crate) fn spread(all: usize, at_most: usize) -> impl Iterator<Item = usize> {
    let count = all.min(at_most);
    (0..count).map(move |i| i * all / count)
}

impl<S: AsInput> Evaluate for RuntimeEvaluator<'_, S> {
    fn evaluate(&mut self, onnx: &[u8]) -> Result<Evaluation> {
        let mut model = Model::load(self.pipeline, onnx)?;
        let cost = engine::cost(onnx, &model.inputs()[0].shape).ok();
        let mut stopped = false;
        let truth = self.labels.iter().map(|label| Truth::Class(u32::try_from(*label).unwrap_or(u32::MAX)));
        let samples = self.samples.iter().zip(truth).take_while(|_| {
            stopped = (self.cancelled)();
            !stopped
        });
        let run = Trial::run(&mut model, samples)?;
        if stopped {
            return Err(Error::Cancelled);
        }
        let quality::Outcomes::Classes(outcomes) = &run.outcomes else {
            let problem = "the model gives no classes, and these samples have nothing else".into();
            return Err(Error::Evaluator { problem });
        };
        let hits: Vec<bool> = outcomes.iter().map(quality::ClassOutcome::is_right).collect();
        Ok(Evaluation {
            metric: Metric::Accuracy,
            value: share(hits.iter().copied()).unwrap_or_default(),
            total: hits.len() as u64,
            outcomes: Outcomes::Hits(hits),
            latency: run.latency,
            macs: cost.map(|cost| cost.macs),
            peak_bytes: cost.map(|cost| cost.peak_bytes),
        })
    }

    fn outputs(&mut self, onnx: &[u8], max_samples: usize) -> Result<Vec<Vec<f32>>> {
        let mut model = Model::load(self.pipeline, onnx)?;
        spread(self.samples.len(), max_samples)
            .map(|index| {
                self.go_on()?;
                let failed = |source| flotilla_runtime::Error::Sample { index, source: Box::new(source) };
                Ok(model.predict(self.samples[index].as_input()).map_err(failed)?.scores)
            })
            .collect()
    }

    fn calibration(&mut self, max_samples: usize) -> Result<Option<Calibration>> {
        if self.calibration.is_empty() {
            return Ok(None);
        }
        let preprocessor = Preprocessor::new(self.pipeline)?;
        let places: Vec<usize> = spread(self.calibration.len(), max_samples).collect();
        let mut tensors = Vec::with_capacity(places.len());
        for &index in &places {
            self.go_on()?;
            let failed = |source| flotilla_runtime::Error::Sample { index, source: Box::new(source) };
            tensors.push(preprocessor.tensor(self.calibration[index].as_input()).map_err(failed)?);
        }
        let set = Calibration::new(preprocessor.given()[0].shape.clone(), tensors)?;
        if self.calibration_labels.is_empty() {
            return Ok(Some(set));
        }
        let labels = places.iter().map(|&place| self.calibration_labels[place]).collect();
        set.labelled(labels).map(Some)
    }
}

impl<S> fmt::Debug for RuntimeEvaluator<'_, S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RuntimeEvaluator").field("samples", &self.samples.len()).finish_non_exhaustive()
    }
}
