//! Samples on their way from a dataset version into a child process.

use super::data_failure;
use flotilla_data::SampleFile;
use flotilla_jobs::JobFailure;
use flotilla_protocol::{ErrorCode, Truth};
use std::path::Path;

/// Bytes of a split that is held in memory at most.
const SPLIT_BYTES: usize = 1 << 30;

/// The samples of a split, one after another, as they are.
pub(crate) fn each_sample(
    path: &Path,
) -> Result<impl Iterator<Item = Result<(Truth, Vec<u8>), JobFailure>> + use<>, JobFailure> {
    let samples = SampleFile::open(path).map_err(data_failure)?;
    Ok(samples.map(|sample| sample.map_err(data_failure)))
}

/// The class of a sample; a failure for work that knows nothing else.
pub(crate) fn class(truth: &Truth) -> Result<u32, JobFailure> {
    match truth {
        Truth::Class(class) => Ok(*class),
        _ => Err(JobFailure::new(
            ErrorCode::Unsupported,
            "a sample has no class: this takes samples of one class each only".to_owned(),
        )),
    }
}

/// A split in memory: the samples as they are, and what is true of them. For work that runs through them many times.
pub(crate) fn read_split(path: &Path) -> Result<(Vec<Vec<u8>>, Vec<Truth>), JobFailure> {
    let mut samples = (Vec::new(), Vec::new());
    let mut bytes_in_memory = 0;
    for sample in each_sample(path)? {
        let (truth, bytes) = sample?;
        bytes_in_memory += bytes.len();
        if bytes_in_memory > SPLIT_BYTES {
            let detail = format!(
                "the split holds more than {} MB of samples; import smaller pictures, or give it a smaller share",
                SPLIT_BYTES / 1_000_000
            );
            return Err(JobFailure::new(ErrorCode::TooLarge, detail));
        }
        samples.0.push(bytes);
        samples.1.push(truth);
    }
    Ok(samples)
}
