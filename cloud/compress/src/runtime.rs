//! Measuring with the runtime that serves the model on devices.

use std::fmt;
use std::time::{Duration, Instant};

use flotilla_protocol::{Pipeline, Truth};
use flotilla_runtime::metrics::Metric;
use flotilla_runtime::{AsInput, Latency, Model, Prediction, Preprocessor, Stream, Trial, Values, engine};

use crate::drawn::drawn;
use crate::judged::{self, Known};
use crate::{Calibration, Error, Evaluate, Evaluation, Result};

/// Inputs that are drawn where there is no sample.
const DRAWN: usize = 64;
/// Each sample is a stream of its own.
const ALONE: Stream<'static> = Stream { name: "", start: true, end: true };

/// Measures candidates with the runtime, on samples that training has not seen.
pub struct RuntimeEvaluator<'a, S> {
    pipeline: &'a Pipeline,
    samples: Samples<S>,
    known: Known,
    calibration: Vec<S>,
    calibration_labels: Vec<usize>,
    cancelled: Box<dyn Fn() -> bool + 'a>,
    latency: Option<Box<LatencyOf<'a>>>,
}

/// How long one prediction of a file takes elsewhere; none where that is not known.
type LatencyOf<'a> = dyn Fn(&[u8]) -> Option<Latency> + 'a;

enum Samples<S> {
    Given(Vec<S>),
    /// What the network takes, drawn by chance.
    Drawn(Vec<Vec<Values>>),
}

impl<S> Samples<S> {
    fn len(&self) -> usize {
        match self {
            Self::Given(samples) => samples.len(),
            Self::Drawn(inputs) => inputs.len(),
        }
    }
}

impl<'a, S: AsInput> RuntimeEvaluator<'a, S> {
    /// An evaluator over these inputs and, for each, the index of its true label.
    pub fn new(pipeline: &'a Pipeline, samples: Vec<S>, labels: Vec<usize>) -> Result<Self> {
        let class = |label| Truth::Class(u32::try_from(label).unwrap_or(u32::MAX));
        Self::judged_by(pipeline, samples, labels.into_iter().map(class).collect())
    }

    /// An evaluator over these inputs and, for each, what is true of it.
    pub fn judged_by(pipeline: &'a Pipeline, samples: Vec<S>, truths: Vec<Truth>) -> Result<Self> {
        if samples.len() != truths.len() {
            return Err(Error::LabelCount { samples: samples.len(), labels: truths.len() });
        }
        Ok(Self::over(pipeline, Samples::Given(samples), Known::truths(&pipeline.output, truths)?))
    }

    /// An evaluator over inputs of which nothing is known: by how far answers stay those of `source`, the model before.
    pub fn faithful_to(source: &[u8], pipeline: &'a Pipeline, samples: Vec<S>) -> Result<Self> {
        if samples.is_empty() {
            return Err(Error::NoSamples);
        }
        Self::compared(source, pipeline, Samples::Given(samples))
    }

    /// The same without any sample, over inputs that are drawn by chance.
    pub fn without_samples(source: &[u8], pipeline: &'a Pipeline) -> Result<Self> {
        let inputs = drawn(Model::load(pipeline, source)?.inputs(), DRAWN);
        Self::compared(source, pipeline, Samples::Drawn(inputs))
    }

    fn compared(source: &[u8], pipeline: &'a Pipeline, samples: Samples<S>) -> Result<Self> {
        let evaluator = Self::over(pipeline, samples, Known::Before(Vec::new()));
        let mut model = Model::load(pipeline, source)?;
        let all = 0..evaluator.samples.len();
        let before = all.map(|index| evaluator.predict(&mut model, index)).collect::<Result<_>>()?;
        Ok(Self { known: Known::Before(before), ..evaluator })
    }

    fn over(pipeline: &'a Pipeline, samples: Samples<S>, known: Known) -> Self {
        let (calibration, calibration_labels) = (Vec::new(), Vec::new());
        let cancelled = Box::new(|| false);
        Self { pipeline, samples, known, calibration, calibration_labels, cancelled, latency: None }
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

    /// Takes the time of a prediction from here instead of measuring it, where it is known.
    #[must_use]
    pub fn timed_by(mut self, latency: impl Fn(&[u8]) -> Option<Latency> + 'a) -> Self {
        self.latency = Some(Box::new(latency));
        self
    }

    fn go_on(&self) -> Result<()> {
        if (self.cancelled)() { Err(Error::Cancelled) } else { Ok(()) }
    }

    fn predict(&self, model: &mut Model, index: usize) -> Result<Prediction> {
        self.go_on()?;
        let prediction = match &self.samples {
            Samples::Given(samples) => model.predict_in(ALONE, samples[index].as_input()),
            Samples::Drawn(inputs) => {
                model.run(ALONE, inputs[index].clone()).map(|(_, prediction)| prediction)
            }
        };
        prediction.map_err(|source| Error::Runtime(at_sample(index, source)))
    }
}

fn at_sample(index: usize, source: flotilla_runtime::Error) -> flotilla_runtime::Error {
    flotilla_runtime::Error::Sample { index, source: Box::new(source) }
}

/// Places of at most so many samples that lie evenly over all of them, so that every class of an ordered set takes part.
pub(crate) fn spread(all: usize, at_most: usize) -> impl Iterator<Item = usize> {
    let count = all.min(at_most);
    (0..count).map(move |i| i * all / count)
}

impl<S: AsInput> Evaluate for RuntimeEvaluator<'_, S> {
    fn metric(&self) -> Metric {
        self.known.metric()
    }

    fn evaluate(&mut self, onnx: &[u8]) -> Result<Evaluation> {
        let mut model = Model::load(self.pipeline, onnx)?;
        let cost = engine::cost(onnx, &model.inputs()[0].shape).ok();
        let total = self.samples.len();
        let (outcomes, value, measured) = match (&self.known, &self.samples) {
            (Known::Truths(metric, truths), Samples::Given(samples)) => {
                let mut stopped = false;
                let samples = samples.iter().zip(truths.iter().cloned()).take_while(|_| {
                    stopped = (self.cancelled)();
                    !stopped
                });
                let trial = Trial::run(&mut model, samples)?;
                if stopped {
                    return Err(Error::Cancelled);
                }
                let (outcomes, value) = judged::by_truths(*metric, trial.outcomes)?;
                (outcomes, value, trial.latency)
            }
            (known, _) => {
                let (mut predictions, mut times) = (Vec::with_capacity(total), Vec::<Duration>::new());
                for index in 0..total {
                    let started = Instant::now();
                    predictions.push(self.predict(&mut model, index)?);
                    times.push(started.elapsed());
                }
                let before = if let Known::Before(before) = known { before.as_slice() } else { &[] };
                let (outcomes, value) = judged::by_answers(before, &predictions);
                (outcomes, value, Latency::of(&times))
            }
        };
        let elsewhere = self.latency.as_ref().and_then(|latency| latency(onnx));
        Ok(Evaluation {
            metric: self.known.metric(),
            value,
            total: total as u64,
            outcomes,
            latency: elsewhere.unwrap_or(measured),
            macs: cost.map(|cost| cost.macs),
            peak_bytes: cost.map(|cost| cost.peak_bytes),
        })
    }

    fn outputs(&mut self, onnx: &[u8], max_samples: usize) -> Result<Vec<Vec<f32>>> {
        let mut model = Model::load(self.pipeline, onnx)?;
        let places = spread(self.samples.len(), max_samples);
        places.map(|index| Ok(self.predict(&mut model, index)?.scores)).collect()
    }

    fn calibration(&mut self, max_samples: usize) -> Result<Option<Calibration>> {
        if self.calibration.is_empty() {
            return Ok(None);
        }
        let preprocessor = Preprocessor::new(self.pipeline)?;
        let (mut tensors, mut labels) = (Vec::new(), Vec::new());
        for index in spread(self.calibration.len(), max_samples) {
            self.go_on()?;
            let sample = self.calibration[index].as_input();
            let prepared = preprocessor.prepare(sample).map_err(|source| at_sample(index, source))?;
            // A recording has a tensor a window.
            for row in prepared.rows {
                if tensors.len() == max_samples {
                    break;
                }
                tensors.extend(row.first().map(|values| values.to_f32().into_owned()));
                labels.extend(self.calibration_labels.get(index).copied());
            }
        }
        let set = Calibration::new(preprocessor.given()[0].shape.clone(), tensors)?;
        if labels.is_empty() { Ok(Some(set)) } else { set.labelled(labels).map(Some) }
    }

    fn drawn(&self) -> Option<usize> {
        match &self.samples {
            Samples::Given(_) => None,
            Samples::Drawn(inputs) => Some(inputs.len()),
        }
    }
}

impl<S> fmt::Debug for RuntimeEvaluator<'_, S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RuntimeEvaluator").field("samples", &self.samples.len()).finish_non_exhaustive()
    }
}
