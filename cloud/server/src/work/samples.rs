//! Samples on their way from a dataset version into a child process.

use super::data_failure;
use flotilla_data::{DatasetVersion, ImageFacts, SampleFile};
use flotilla_jobs::JobFailure;
use flotilla_protocol::ErrorCode;
use flotilla_protocol::pipeline::{
    Activation, Classification, Colour, ImageInput, Input, Layout, Output, Pipeline, Resize,
};
use std::path::Path;

/// Bytes of a split that is held in memory at most.
const SPLIT_BYTES: usize = 1 << 30;
/// Larger pictures are brought down to this side for training.
const SIDE: u32 = 64;

/// The pipeline for a dataset of pictures: their own size where they share a small one, else [`SIDE`] squared.
pub(crate) fn pipeline_for(version: &DatasetVersion) -> Result<Pipeline, JobFailure> {
    let Some(facts) = version.images else {
        let detail = format!(
            "{} v{} holds no pictures, and this algorithm classifies pictures",
            version.dataset, version.version
        );
        return Err(JobFailure::new(ErrorCode::Unsupported, detail));
    };
    let (width, height) = size(&facts);
    let colour = if facts.grey { Colour::Grey } else { Colour::Rgb };
    let channels = colour.channels();
    Ok(Pipeline::new(
        Input::Image(ImageInput {
            width,
            height,
            colour,
            resize: Resize::Stretch,
            layout: Layout::Nchw,
            mean: vec![0.5; channels],
            std: vec![0.5; channels],
            ..ImageInput::none()
        }),
        Output::Classification(Classification::new(version.classes.clone(), Activation::None)),
    ))
}

fn size(facts: &ImageFacts) -> (u32, u32) {
    let uniform = facts.min_width == facts.max_width && facts.min_height == facts.max_height;
    if uniform && facts.max_width <= SIDE && facts.max_height <= SIDE {
        (facts.max_width, facts.max_height)
    } else {
        (SIDE, SIDE)
    }
}

/// The samples of a split, one after another, as they are.
pub(crate) fn each_sample(
    path: &Path,
) -> Result<impl Iterator<Item = Result<(u32, Vec<u8>), JobFailure>> + use<>, JobFailure> {
    let samples = SampleFile::open(path).map_err(data_failure)?;
    Ok(samples.map(|sample| sample.map_err(data_failure)))
}

/// A split in memory: the samples as they are, and their labels. For work that runs through them many times.
pub(crate) fn read_split(path: &Path) -> Result<(Vec<Vec<u8>>, Vec<u32>), JobFailure> {
    let mut samples = (Vec::new(), Vec::new());
    let mut bytes_in_memory = 0;
    for sample in each_sample(path)? {
        let (label, bytes) = sample?;
        bytes_in_memory += bytes.len();
        if bytes_in_memory > SPLIT_BYTES {
            let detail = format!(
                "the split holds more than {} MB of samples; import smaller pictures, or give it a smaller share",
                SPLIT_BYTES / 1_000_000
            );
            return Err(JobFailure::new(ErrorCode::TooLarge, detail));
        }
        samples.0.push(bytes);
        samples.1.push(label);
    }
    Ok(samples)
}
