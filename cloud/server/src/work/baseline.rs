//! What a model sees and answers in training, measured on the very file that ships: devices compare with it.

use super::samples::each_sample;
use super::{io_failure, runtime_failure};
use flotilla_data::Split;
use flotilla_jobs::child::ChildContext;
use flotilla_jobs::{JobFailure, JobFolder};
use flotilla_protocol::{Baseline, ErrorCode, Pipeline, codec, limits};
use flotilla_runtime::drift::Collector;
use flotilla_runtime::{AsInput, Model};

/// Samples of a split that are run through the model at most, evenly over all of them: more would tell little more.
const SAMPLES: usize = 8192;
/// Samples after which progress is said.
const TELL_EVERY: usize = 64;
const FILE: &str = "baseline.cbor";

/// Measures the baseline in a job's child and leaves it in the job's folder. Inputs and labels are those of the training
/// split; how sure the model is, is asked on the validation split, which training has not fitted, if there is one.
pub(super) fn write(
    context: &mut ChildContext,
    pipeline: &Pipeline,
    model: &mut Model,
) -> Result<(), JobFailure> {
    let mut collector = Collector::new(pipeline);
    each(context, Split::Train, |bytes| collector.trained(model, bytes.as_input()))?;
    if each(context, Split::Validation, |bytes| collector.held_out(model, bytes.as_input()))? == 0 {
        each(context, Split::Train, |bytes| collector.held_out(model, bytes.as_input()))?;
    }
    let Some(baseline) = collector.finish() else { return Ok(()) };
    let path = context.output(FILE);
    std::fs::write(&path, codec::encode(&baseline)).map_err(|e| io_failure("writing", &path, &e))
}

/// What the child left; `None` where its training split was empty.
pub(super) fn read(folder: &JobFolder) -> Result<Option<Baseline>, JobFailure> {
    let path = folder.output(FILE);
    let bytes = match std::fs::read(&path) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        read => read.map_err(|e| io_failure("reading", &path, &e))?,
    };
    let decoded = codec::decode(&bytes, limits::BASELINE);
    decoded.map(Some).map_err(|e| JobFailure::new(ErrorCode::Malformed, format!("{}: {e}", path.display())))
}

/// Does something with samples of a split, and counts them.
fn each(
    context: &mut ChildContext,
    split: Split,
    mut with: impl FnMut(Vec<u8>) -> flotilla_runtime::Result<()>,
) -> Result<usize, JobFailure> {
    let path = context.input(&format!("{}.samples", split.as_str()));
    let all = each_sample(&path)?.try_fold(0, |count, sample| sample.map(|_| count + 1))?;
    let wanted = all.min(SAMPLES);
    let mut done = 0;
    for (index, sample) in each_sample(&path)?.enumerate() {
        let (_, bytes) = sample?;
        if index * wanted / all.max(1) < done {
            continue;
        }
        with(bytes).map_err(runtime_failure)?;
        done += 1;
        if done % TELL_EVERY == 0 {
            context.progress(done as u64, Some(wanted as u64), "baseline");
        }
        if context.is_cancelled() {
            return Err(JobFailure::new(ErrorCode::Cancelled, "cancelled while the baseline was measured"));
        }
    }
    context.progress(done as u64, Some(wanted as u64), "baseline");
    Ok(done)
}
