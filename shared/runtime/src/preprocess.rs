//! The declarative pre-processing of a pipeline, executed.

use crate::picture::{self, Picture};
use crate::resize::stretch;
use crate::{Error, IMAGE_SIDE, Input, Result};
use flotilla_protocol::Pipeline;
use flotilla_protocol::pipeline::{self, ImageInput, InvalidPipeline, Layout, Resize};

/// Turns raw inputs into tensors. Made from a pipeline whose bounds are checked once.
#[derive(Clone, Debug)]
pub struct Preprocessor {
    image: ImageInput,
}

impl Preprocessor {
    /// The pre-processing of `pipeline`.
    pub fn new(pipeline: &Pipeline) -> Result<Self> {
        pipeline.check()?;
        let pipeline::Input::Image(image) = &pipeline.input;
        if image.width.max(image.height) > IMAGE_SIDE {
            let problem =
                format!("{} x {} pixels; {IMAGE_SIDE} a side are possible", image.width, image.height);
            return Err(InvalidPipeline { field: "size", problem }.into());
        }
        Ok(Self { image: image.clone() })
    }

    /// Shape of the tensors, with a batch of one.
    pub fn shape(&self) -> [usize; 4] {
        let (width, height) = (self.image.width as usize, self.image.height as usize);
        let channels = self.image.colour.channels();
        match self.image.layout {
            Layout::Nchw => [1, channels, height, width],
            Layout::Nhwc => [1, height, width, channels],
        }
    }

    /// What it takes: a picture of this kind.
    pub fn image(&self) -> &ImageInput {
        &self.image
    }

    /// Decodes, converts, resizes and normalises one input.
    pub fn tensor(&self, input: Input<'_>) -> Result<Vec<f32>> {
        Ok(self.normalise(&self.values(input)?))
    }

    /// The same picture at the model's own size and colour, as PNG: for inputs that have to be small, such as
    /// golden vectors. Its tensor differs from the original's by the rounding of values to bytes.
    pub fn miniature(&self, input: Input<'_>) -> Result<Vec<u8>> {
        let values = self.values(input)?;
        let pixels: Vec<u8> = values.iter().map(|value| value.round().clamp(0.0, 255.0) as u8).collect();
        picture::png(&pixels, self.image.width, self.image.height, self.image.colour)
    }

    /// The picture that a tensor of [`Self::tensor`] stands for, as PNG: what went into the network, without the
    /// fractions of its values.
    pub fn picture(&self, tensor: &[f32]) -> Result<Vec<u8>> {
        let ImageInput { width, height, colour, layout, .. } = self.image;
        let (channels, area) = (colour.channels(), width as usize * height as usize);
        if tensor.len() != area * channels {
            return Err(Error::RawLength { got: tensor.len(), need: area * channels });
        }
        let pixel = |index: usize| {
            let (place, channel) = (index / channels, index % channels);
            let value = match layout {
                Layout::Nhwc => tensor[index],
                Layout::Nchw => tensor[channel * area + place],
            };
            let value = (value * self.image.std[channel] + self.image.mean[channel]) * 255.0;
            value.round().clamp(0.0, 255.0) as u8
        };
        let pixels: Vec<u8> = (0..tensor.len()).map(pixel).collect();
        picture::png(&pixels, width, height, colour)
    }

    /// Channel values of 0 to 255 at the model's own size, row by row.
    fn values(&self, input: Input<'_>) -> Result<Vec<f32>> {
        let ImageInput { width, height, colour, resize, .. } = self.image;
        let picture = match input {
            Input::Encoded(bytes) => Picture::decode(bytes, colour)?,
            Input::Raw(bytes) => Picture::raw(bytes, width, height, colour)?,
        };
        let size = (picture.width, picture.height);
        if resize == Resize::Exact && size != (width, height) {
            return Err(Error::ImageSize { got: size, need: (width, height) });
        }
        Ok(stretch(&picture, width, height))
    }

    /// `(value / 255 - mean) / std`, in the order of the layout.
    fn normalise(&self, values: &[f32]) -> Vec<f32> {
        let channels = self.image.colour.channels();
        let normal =
            |channel: usize, value: f32| (value / 255.0 - self.image.mean[channel]) / self.image.std[channel];
        match self.image.layout {
            Layout::Nhwc => {
                values.iter().enumerate().map(|(i, value)| normal(i % channels, *value)).collect()
            }
            Layout::Nchw => (0..channels)
                .flat_map(|channel| values.iter().skip(channel).step_by(channels).map(move |v| (channel, *v)))
                .map(|(channel, value)| normal(channel, value))
                .collect(),
        }
    }
}

/// The tensor of one input without a model. For many inputs, make a [`Preprocessor`] once.
pub fn preprocess(pipeline: &Pipeline, input: Input<'_>) -> Result<Vec<f32>> {
    Preprocessor::new(pipeline)?.tensor(input)
}
