//! Samples on their way from a dataset version into a child process.

use super::data_failure;
use flotilla_data::{DatasetVersion, ImageFacts, SampleFile};
use flotilla_jobs::JobFailure;
use flotilla_protocol::ErrorCode;
use flotilla_protocol::pipeline::{
    Activation, Classification, Colour, ImageInput, Input, Layout, Output, Pipeline, Resize,
};
use std::path::Path;

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
    Ok(Pipeline {
        format: 1,
        input: Input::Image(ImageInput {
            width,
            height,
            colour,
            resize: Resize::Stretch,
            layout: Layout::Nchw,
            mean: vec![0.5; channels],
            std: vec![0.5; channels],
        }),
        output: Output::Classification(Classification {
            labels: version.classes.clone(),
            activation: Activation::None,
        }),
    })
}

fn size(facts: &ImageFacts) -> (u32, u32) {
    let uniform = facts.min_width == facts.max_width && facts.min_height == facts.max_height;
    if uniform && facts.max_width <= SIDE && facts.max_height <= SIDE {
        (facts.max_width, facts.max_height)
    } else {
        (SIDE, SIDE)
    }
}

/// A split in memory: the samples as they are, and their labels.
pub(crate) fn read_split(path: &Path) -> Result<(Vec<Vec<u8>>, Vec<u32>), JobFailure> {
    let mut samples = (Vec::new(), Vec::new());
    for sample in SampleFile::open(path).map_err(data_failure)? {
        let (label, bytes) = sample.map_err(data_failure)?;
        samples.0.push(bytes);
        samples.1.push(label);
    }
    Ok(samples)
}
