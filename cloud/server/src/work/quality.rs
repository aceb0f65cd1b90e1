//! How good a model is on the test split, measured on the very file that ships.

use super::samples::each_sample;
use super::{read_json, runtime_failure, write_json};
use flotilla_data::Split;
use flotilla_jobs::child::ChildContext;
use flotilla_jobs::{JobFailure, JobFolder};
use flotilla_protocol::ErrorCode;
use flotilla_runtime::{Model, Quality};

/// Samples after which progress is said.
const TELL_EVERY: u64 = 64;
const FILE: &str = "quality.json";

/// Judges the model in a job's child and leaves what came out in the job's folder.
pub(super) fn judge(context: &mut ChildContext, model: &mut Model) -> Result<Quality, JobFailure> {
    let path = context.input(&format!("{}.samples", Split::Test.as_str()));
    let (mut done, mut stopped) = (0, None);
    let samples = each_sample(&path)?.map_while(|sample| {
        if context.is_cancelled() {
            let cancelled = "cancelled while the model was judged";
            stopped = Some(JobFailure::new(ErrorCode::Cancelled, cancelled));
            return None;
        }
        done += 1;
        if done % TELL_EVERY == 0 {
            context.progress(done, None, "test samples");
        }
        match sample {
            Ok((truth, bytes)) => Some((bytes, truth)),
            Err(failure) => {
                stopped = Some(failure);
                None
            }
        }
    });
    let quality = flotilla_runtime::judge(model, samples).map_err(runtime_failure)?;
    if let Some(failure) = stopped {
        return Err(failure);
    }
    write_json(&context.output(FILE), &quality)?;
    Ok(quality)
}

/// What the child left.
pub(super) fn read(folder: &JobFolder) -> Result<Quality, JobFailure> {
    read_json(&folder.output(FILE))
}
