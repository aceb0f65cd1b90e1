//! By what candidates are judged, and on what they are calibrated.
//!
//! A dataset is measured on by its test split and calibrated on by its training split. Samples that came alone are
//! calibrated on where there is a dataset, too; without one, every other of them is measured on. Without any of both, inputs
//! are drawn by chance.

use super::super::samples::{each_sample, read_split};
use super::super::{Labels, compress_failure, runtime_failure};
use super::latency::latency_of;
use super::{Judged, RuntimeEvaluator, Task};
use flotilla_compress::MAX_CALIBRATION;
use flotilla_data::DatasetVersion;
use flotilla_jobs::JobFailure;
use flotilla_jobs::child::ChildContext;
use flotilla_protocol::pipeline::{Output, TensorKind};
use flotilla_protocol::{Pipeline, Truth};
use flotilla_runtime::{Answer, AsInput, Model};
use std::path::Path;
use std::sync::atomic::Ordering;

/// The file of samples that came alone.
pub(super) const SAMPLES: &str = "given.samples";

/// What stands in a file of samples of which nothing is known.
pub(super) const UNKNOWN: Truth = Truth::Class(0);

/// What the classes of a dataset are to a model; none where they say nothing of what the model answers.
pub(super) fn labels(pipeline: &Pipeline, dataset: &DatasetVersion) -> Result<Option<Labels>, JobFailure> {
    match (&pipeline.output, Labels::of(&dataset.classes, pipeline)) {
        (Output::Embedding(_) | Output::Tensors(_), _) | (Output::Anomaly(_), Err(_)) => Ok(None),
        (_, Ok(labels)) => Ok(Some(labels)),
        (_, Err((code, problem))) => {
            let (name, version) = (&dataset.dataset, dataset.version);
            let detail = format!(
                "{name} v{version} cannot judge the model: {problem}. Name a dataset of the same classes with --dataset, or give \
                 its samples without labels with --samples"
            );
            Err(JobFailure::new(code, detail))
        }
    }
}

/// Samples and what is known of each, if anything is.
type Measured = (Vec<Vec<u8>>, Option<Vec<Truth>>);
/// Samples to calibrate on, and the label of each, where that is known.
type Calibrating = (Vec<Vec<u8>>, Option<Vec<u32>>);

pub(super) fn evaluator<'a>(
    context: &ChildContext,
    task: &'a Task,
    onnx: &[u8],
) -> Result<RuntimeEvaluator<'a, Vec<u8>>, JobFailure> {
    let Judged { dataset, labels, samples } = &task.judged;
    let mut model = Model::load(&task.pipeline, onnx).map_err(runtime_failure)?;
    let given = if *samples { read_split(&context.input(SAMPLES))?.0 } else { Vec::new() };
    let known = |truths: Vec<Truth>, labels: &Labels| -> Result<Vec<Truth>, JobFailure> {
        let refused = |(code, detail)| JobFailure::new(code, detail);
        truths.into_iter().map(|truth| labels.truth(truth).map_err(refused)).collect()
    };
    let (measured, calibration): (Option<Measured>, Calibrating) = match (*dataset, given.is_empty()) {
        (true, alone) => {
            let (inputs, truths) = read_split(&context.input("test.samples"))?;
            let truths = labels.as_ref().map(|labels| known(truths, labels)).transpose()?;
            let calibration = if alone {
                let (inputs, truths) =
                    spread(&context.input("train.samples"), task.options.calibration_samples)?;
                let truths = labels.as_ref().map(|labels| known(truths, labels)).transpose()?;
                (inputs, truths.and_then(|truths| classes(&truths)))
            } else {
                (given, None)
            };
            (Some((inputs, truths)), calibration)
        }
        (false, false) => {
            let (calibration, measured) = halves(given);
            (Some((measured, None)), (calibration, None))
        }
        (false, true) => (None, (Vec::new(), None)),
    };
    let evaluator = match measured {
        Some((inputs, Some(truths))) => RuntimeEvaluator::judged_by(&task.pipeline, inputs, truths),
        Some((inputs, None)) => RuntimeEvaluator::faithful_to(onnx, &task.pipeline, inputs),
        None => RuntimeEvaluator::without_samples(onnx, &task.pipeline),
    };
    let evaluator = evaluator.map_err(compress_failure)?;
    let (calibration, classes) = calibration;
    let evaluator = if calibration.is_empty() || !calibrates(&model, &task.pipeline) {
        evaluator
    } else {
        let classes = match classes {
            Some(classes) => classes.into_iter().map(|class| class as usize).collect(),
            None => answers(&mut model, &calibration)?,
        };
        evaluator.calibrated_on(calibration, classes).map_err(compress_failure)?
    };
    let cancelled = context.cancel_flag();
    let evaluator = evaluator.cancelled_by(move || cancelled.load(Ordering::Relaxed));
    Ok(match &task.timed {
        Some(timed) => evaluator.timed_by(move |onnx| latency_of(timed, &task.pipeline, onnx)),
        None => evaluator,
    })
}

/// Whether layers can be looked at on samples: the network takes one tensor of floats and keeps nothing.
fn calibrates(model: &Model, pipeline: &Pipeline) -> bool {
    let one = model.inputs().len() == 1 && model.inputs()[0].kind == TensorKind::Fp32;
    one && !model.is_stateful() && pipeline.constants.is_empty()
}

/// The class that the model gives each calibration sample, so that a set of one class is noticed without any label; none
/// for models that give none.
fn answers(model: &mut Model, samples: &[Vec<u8>]) -> Result<Vec<usize>, JobFailure> {
    let mut classes = Vec::with_capacity(samples.len());
    for (index, sample) in samples.iter().enumerate() {
        let prediction = model.predict(sample.as_input()).map_err(|source| {
            runtime_failure(flotilla_runtime::Error::Sample { index, source: Box::new(source) })
        })?;
        match prediction.answer {
            Answer::Class(label) => classes.push(label.label_index),
            _ => return Ok(Vec::new()),
        }
    }
    Ok(classes)
}

/// Every other sample to calibrate on, from the second; the rest to measure on.
fn halves(samples: Vec<Vec<u8>>) -> (Vec<Vec<u8>>, Vec<Vec<u8>>) {
    let (mut calibration, mut measured) = (Vec::new(), Vec::new());
    for (index, sample) in samples.into_iter().enumerate() {
        if index % 2 == 1 && calibration.len() < MAX_CALIBRATION {
            calibration.push(sample);
        } else {
            measured.push(sample);
        }
    }
    (calibration, measured)
}

/// The class of each sample, if that is what is known of them.
fn classes(truths: &[Truth]) -> Option<Vec<u32>> {
    let class = |truth: &Truth| if let Truth::Class(class) = truth { Some(*class) } else { None };
    truths.iter().map(class).collect()
}

/// At most so many samples of a split, evenly spread, and what is true of them.
fn spread(path: &Path, at_most: usize) -> Result<(Vec<Vec<u8>>, Vec<Truth>), JobFailure> {
    let count = each_sample(path)?.count();
    let step = count.div_ceil(at_most.max(1)).max(1);
    let mut chosen = (Vec::new(), Vec::new());
    for sample in each_sample(path)?.step_by(step) {
        let (truth, bytes) = sample?;
        chosen.0.push(bytes);
        chosen.1.push(truth);
    }
    Ok(chosen)
}
