//! Pictures to tensors: decoding, colour, size, normalisation.

use super::picture::{self, Picture};
use super::resize::{Scaled, scale};
use crate::{Error, IMAGE_SIDE, Result};
use flotilla_protocol::pipeline::{ImageInput, InvalidPipeline, Layout, Place, Resize};

/// A picture as it is given: an encoded file, or pixels of the model's own size and colour.
#[derive(Clone, Copy, Debug)]
pub(super) enum Given<'a> {
    Encoded(&'a [u8]),
    Raw(&'a [u8]),
}

/// Where the network's picture lies in the one that was sent: `network = sent * scale + offset`, in pixels, columns
/// first.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Frame {
    /// Columns and rows of the picture that was sent.
    pub size: [f32; 2],
    /// Pixels of the network's picture a pixel that was sent.
    pub scale: [f32; 2],
    /// Where the first pixel that was sent lies.
    pub offset: [f32; 2],
}

/// Turns pictures into tensors. Made from a description whose bounds are checked.
#[derive(Clone, Debug)]
pub struct Pictures {
    image: ImageInput,
}

impl Pictures {
    pub(super) fn new(image: &ImageInput) -> Result<Self> {
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

    /// Bytes of raw pixels.
    pub fn raw_bytes(&self) -> usize {
        self.shape().iter().product()
    }

    pub(super) fn tensor(&self, input: Given<'_>) -> Result<(Vec<f32>, Frame)> {
        let (values, frame) = self.values(input)?;
        Ok((self.normalise(&values), frame))
    }

    pub(super) fn miniature(&self, input: Given<'_>) -> Result<Vec<u8>> {
        let (values, _) = self.values(input)?;
        let pixels: Vec<u8> = values.iter().map(|value| value.round().clamp(0.0, 255.0) as u8).collect();
        picture::png(&pixels, self.image.width, self.image.height, self.image.colour)
    }

    /// The picture that a tensor stands for, as PNG: what went into the network, without the fractions of its values.
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
    fn values(&self, input: Given<'_>) -> Result<(Vec<f32>, Frame)> {
        let ImageInput { width, height, colour, resize, orient, filter, .. } = self.image;
        let picture = match input {
            Given::Encoded(bytes) => Picture::decode(bytes, colour, orient)?,
            Given::Raw(bytes) => Picture::raw(bytes, width, height, colour)?,
        };
        let size = (picture.width, picture.height);
        if resize == Resize::Exact && size != (width, height) {
            return Err(Error::ImageSize { got: size, need: (width, height) });
        }
        let (scaled, offset) = place(size, (width, height), resize);
        let part = scale(&picture, &scaled, filter);
        let ratio = |to: u64, from: u32| to as f32 / from as f32;
        let frame = Frame {
            size: [size.0 as f32, size.1 as f32],
            scale: [ratio(scaled.size.0, size.0), ratio(scaled.size.1, size.1)],
            offset: [offset.0 as f32, offset.1 as f32],
        };
        let Resize::Letterbox { fill, .. } = resize else { return Ok((part, frame)) };
        let channels = colour.channels();
        let mut values = vec![f32::from(fill); width as usize * height as usize * channels];
        let row = scaled.size.0 as usize * channels;
        let lines = values.chunks_mut(width as usize * channels).skip(offset.1 as usize);
        for (line, source) in lines.zip(part.chunks(row.max(1))) {
            line[offset.0 as usize * channels..][..row].copy_from_slice(source);
        }
        Ok((values, frame))
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

/// To which size a picture is scaled and which part of that is made, and where its first pixel lies in the network's.
fn place(from: (u32, u32), to: (u32, u32), resize: Resize) -> (Scaled, (i64, i64)) {
    let (width, height) = (u64::from(to.0), u64::from(to.1));
    let ratios = (f64::from(to.0) / f64::from(from.0), f64::from(to.1) / f64::from(from.1));
    let side = |from: u32, ratio: f64| (f64::from(from) * ratio).round_ties_even().max(1.0) as u64;
    match resize {
        Resize::Stretch | Resize::Exact => {
            (Scaled { size: (width, height), columns: 0..width, rows: 0..height }, (0, 0))
        }
        Resize::Letterbox { place, .. } => {
            let ratio = ratios.0.min(ratios.1);
            let size = (side(from.0, ratio).min(width), side(from.1, ratio).min(height));
            let offset = match place {
                Place::Centre => ((width - size.0) / 2, (height - size.1) / 2),
                Place::TopLeft => (0, 0),
            };
            let scaled = Scaled { size, columns: 0..size.0, rows: 0..size.1 };
            (scaled, (offset.0 as i64, offset.1 as i64))
        }
        Resize::Crop { keep_milli } => {
            let ratio = ratios.0.max(ratios.1) * 1_000.0 / f64::from(keep_milli);
            let size = (side(from.0, ratio).max(width), side(from.1, ratio).max(height));
            let first = |size: u64, part: u64| ((size - part) as f64 / 2.0).round_ties_even() as u64;
            let (left, top) = (first(size.0, width), first(size.1, height));
            let scaled = Scaled { size, columns: left..left + width, rows: top..top + height };
            (scaled, (-(left as i64), -(top as i64)))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_letterbox_keeps_the_aspect_and_says_where_the_picture_lies() {
        let letterbox = |place| Resize::Letterbox { fill: 114, place };
        let (scaled, offset) = place((200, 100), (64, 64), letterbox(Place::Centre));
        assert_eq!((scaled.size, offset), ((64, 32), (0, 16)));
        let (scaled, offset) = place((200, 100), (64, 64), letterbox(Place::TopLeft));
        assert_eq!((scaled.size, offset), ((64, 32), (0, 0)));
        let (scaled, offset) = place((65_535, 1), (64, 64), letterbox(Place::Centre));
        assert_eq!((scaled.size, offset), ((64, 1), (0, 31)), "a line stays one");
    }

    #[test]
    fn a_crop_takes_the_middle_as_imagenet_does() {
        let (scaled, offset) = place((500, 375), (224, 224), Resize::Crop { keep_milli: 875 });
        // The shorter side to 256, then 224 of its middle.
        assert_eq!((scaled.size, scaled.columns, scaled.rows), ((341, 256), 58..282, 16..240));
        assert_eq!(offset, (-58, -16));
        let (scaled, _) = place((65_535, 1), (224, 224), Resize::Crop { keep_milli: 1 });
        assert_eq!(
            scaled.columns.end - scaled.columns.start,
            224,
            "no more than the network's picture is made"
        );
    }
}
