//! Measuring with the runtime that serves the model on devices.

use std::fmt;

use flotilla_protocol::Pipeline;
use flotilla_runtime::{AsInput, Model, evaluate};

use crate::{Error, Evaluate, Evaluation, Result};

/// Measures candidates with the runtime, on samples that training has not seen.
pub struct RuntimeEvaluator<'a, S> {
    pipeline: &'a Pipeline,
    samples: Vec<S>,
    labels: Vec<usize>,
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
        Ok(Self { pipeline, samples, labels, cancelled: Box::new(|| false) })
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

impl<S: AsInput> Evaluate for RuntimeEvaluator<'_, S> {
    fn accuracy(&mut self, onnx: &[u8]) -> Result<Evaluation> {
        let mut model = Model::load(self.pipeline, onnx)?;
        let mut stopped = false;
        let samples = self.samples.iter().zip(self.labels.iter().copied());
        let samples = samples.take_while(|_| {
            stopped = (self.cancelled)();
            !stopped
        });
        let run = evaluate(&mut model, samples)?;
        if stopped {
            return Err(Error::Cancelled);
        }
        Ok(Evaluation { correct: run.correct, total: run.total, latency: run.latency })
    }

    /// The scores of samples that lie evenly over all of them, so that every class of an ordered set takes part.
    fn outputs(&mut self, onnx: &[u8], max_samples: usize) -> Result<Vec<Vec<f32>>> {
        let mut model = Model::load(self.pipeline, onnx)?;
        let (all, count) = (self.samples.len(), self.samples.len().min(max_samples));
        let places = (0..count).map(|i| i * all / count);
        places
            .map(|index| {
                self.go_on()?;
                let failed = |source| flotilla_runtime::Error::Sample { index, source: Box::new(source) };
                Ok(model.predict(self.samples[index].as_input()).map_err(failed)?.scores)
            })
            .collect()
    }
}

impl<S> fmt::Debug for RuntimeEvaluator<'_, S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RuntimeEvaluator").field("samples", &self.samples.len()).finish_non_exhaustive()
    }
}
