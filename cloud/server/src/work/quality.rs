//! How good a model is on the test split, measured on the very file that ships.

use super::samples::each_sample;
use super::{Labels, read_json, runtime_failure, write_json};
use flotilla_data::Split;
use flotilla_jobs::child::ChildContext;
use flotilla_jobs::{JobFailure, JobFolder};
use flotilla_protocol::ErrorCode;
use flotilla_runtime::{Model, Quality};

/// Samples after which progress is said.
const TELL_EVERY: u64 = 64;
const FILE: &str = "quality.json";

/// Judges the model in a job's child and leaves what came out in the job's folder. `labels` are those of a model that is not of
/// the dataset.
pub(super) fn judge(
    context: &mut ChildContext,
    model: &mut Model,
    labels: Option<&Labels>,
) -> Result<Quality, JobFailure> {
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
        let told = sample.and_then(|(truth, bytes)| {
            let truth = match labels {
                Some(labels) => {
                    labels.truth(truth).map_err(|(code, detail)| JobFailure::new(code, detail))?
                }
                None => truth,
            };
            Ok((bytes, truth))
        });
        told.map_err(|failure| stopped = Some(failure)).ok()
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
