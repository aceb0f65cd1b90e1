//! Labelled images in memory, already normalised as the runtime normalises them.

use crate::{Error, Result};

/// Longest side of an image, in pixels.
pub(crate) const MAX_SIDE: usize = 256;
/// Shortest side of an image, in pixels.
pub(crate) const MIN_SIDE: usize = 4;
/// Most channels of an image.
const MAX_CHANNELS: usize = 4;
/// Most classes.
const MAX_CLASSES: usize = 1000;
/// Most numbers in one set of images (1 GiB).
pub const IMAGES_VALUES: usize = 1 << 28;

/// Labelled images of one size.
#[derive(Clone, Debug, PartialEq)]
pub struct Images {
    /// Colours of a pixel.
    pub channels: usize,
    /// Rows.
    pub height: usize,
    /// Columns.
    pub width: usize,
    /// Names of the classes; a label is a place in this list.
    pub classes: Vec<String>,
    /// All pixels, image by image, channel by channel, row by row.
    pub pixels: Vec<f32>,
    /// The label of each image.
    pub labels: Vec<u32>,
}

impl Images {
    /// How many images there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.labels.len()
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.labels.is_empty()
    }

    /// Numbers of one image.
    #[must_use]
    pub fn values(&self) -> usize {
        self.channels * self.height * self.width
    }

    /// The pixels of one image.
    pub(crate) fn image(&self, index: usize) -> &[f32] {
        let values = self.values();
        &self.pixels[index * values..(index + 1) * values]
    }

    /// Refuses images that cannot be trained on or measured with.
    pub(crate) fn check(&self, part: &'static str) -> Result<()> {
        let mismatch =
            |what, found: String, expected: String| Err(Error::Mismatch { part, what, found, expected });
        if self.is_empty() {
            return Err(Error::NoSamples { part });
        }
        Self::check_shape(self.channels, self.height, self.width, self.classes.len())
            .or_else(|(what, found, expected)| mismatch(what, found, expected))?;
        let expected = self.values().saturating_mul(self.len());
        if expected > IMAGES_VALUES {
            return Err(Error::TooLarge {
                what: "the number of pixel values",
                found: expected as u64,
                limit: IMAGES_VALUES as u64,
                advice: "make the images smaller or take fewer",
            });
        }
        if self.pixels.len() != expected {
            return mismatch(
                "the number of pixel values",
                self.pixels.len().to_string(),
                expected.to_string(),
            );
        }
        if let Some(label) = self.labels.iter().find(|&&label| label as usize >= self.classes.len()) {
            let expected = format!("a class from 0 to {}", self.classes.len() - 1);
            return mismatch("a label", label.to_string(), expected);
        }
        if let Some(place) = self.pixels.iter().position(|p| !p.is_finite()) {
            return Err(Error::NotFinite { part, image: place / self.values() });
        }
        Ok(())
    }

    /// Tells what of a shape is out of its bounds: what, how it is, how it should be.
    pub(crate) fn check_shape(
        channels: usize,
        height: usize,
        width: usize,
        classes: usize,
    ) -> std::result::Result<(), (&'static str, String, String)> {
        for (what, side) in [("the height", height), ("the width", width)] {
            if !(MIN_SIDE..=MAX_SIDE).contains(&side) {
                return Err((what, side.to_string(), format!("a size from {MIN_SIDE} to {MAX_SIDE} pixels")));
            }
        }
        if !(1..=MAX_CHANNELS).contains(&channels) {
            return Err(("the number of channels", channels.to_string(), "1 to 4".into()));
        }
        if !(2..=MAX_CLASSES).contains(&classes) {
            return Err(("the number of classes", classes.to_string(), format!("2 to {MAX_CLASSES}")));
        }
        Ok(())
    }

    /// Refuses a training set with one class only.
    pub(crate) fn check_classes(&self) -> Result<()> {
        match self.labels.split_first() {
            Some((first, rest)) if rest.iter().all(|label| label == first) => {
                Err(Error::OneClass { class: format!("class `{}`", self.classes[*first as usize]) })
            }
            _ => Ok(()),
        }
    }

    /// Refuses images of another size or with other classes.
    pub(crate) fn check_like(&self, other: &Self, part: &'static str) -> Result<()> {
        let shape = |images: &Self| format!("{}x{}x{}", images.channels, images.height, images.width);
        if shape(self) != shape(other) {
            return Err(Error::Mismatch {
                part,
                what: "the image size",
                found: shape(self),
                expected: shape(other),
            });
        }
        if self.classes != other.classes {
            let list = |images: &Self| images.classes.join(", ");
            let (found, expected) = (list(self), list(other));
            return Err(Error::Mismatch { part, what: "the list of classes", found, expected });
        }
        Ok(())
    }
}
