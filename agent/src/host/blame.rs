//! Whether a release is to blame for having no answer. It is not where the input alone is: one caller who sends anything
//! must not be able to have a good release taken back.

use super::error::HostError;
use super::{Serving, lock};
use flotilla_protocol::pipeline::{ImageInput, Input as Takes, Resize};
use flotilla_runtime::{Error, Input};

/// Part of the range of values that rounding may take them beyond it.
const ROUNDING: f32 = 1e-3;

impl Serving {
    /// Refuses raw input of a length that the release does not take.
    pub(super) fn check(&self, input: Input<'_>) -> Result<(), HostError> {
        let Input::Raw(bytes) = self.preprocessor.told(input) else { return Ok(()) };
        let got = bytes.len();
        match self.preprocessor.raw_bytes() {
            Some(need) if need != got => {
                let error = match self.interface.takes {
                    Takes::Tensors(_) => Error::TensorBytes { got, need },
                    _ => Error::RawLength { got, need },
                };
                Err(self.refused(error, None))
            }
            _ => Ok(()),
        }
    }

    /// There is no answer: counted, if it is the release's fault. `tensor` is the input where that was one.
    pub(super) fn refused(&self, source: Error, tensor: Option<&[f32]>) -> HostError {
        let sensible = tensor.is_none_or(|tensor| match &self.interface.takes {
            Takes::Image(image) => is_of_a_picture(tensor, image),
            // Nothing is known of their values, so that they prove nothing against a release.
            _ => false,
        });
        if sensible && is_to_blame(&source, self.before.as_ref()) {
            lock(&self.window).failed();
            lock(&self.totals).failed();
        }
        HostError::Predict { model: self.name.clone(), source }
    }
}

/// Bytes of raw input that are taken; none where it may be any number.
fn raw_bytes(takes: &Takes) -> Option<usize> {
    match takes {
        Takes::Image(image) => Some(image.width as usize * image.height as usize * image.colour.channels()),
        Takes::Tensors(input) => {
            Some(input.tensors.iter().map(|tensor| tensor.values().unwrap_or(0) * tensor.kind.bytes()).sum())
        }
        _ => None,
    }
}

/// An input of the wrong size is the release's fault only if the one before it, which took `before`, had an answer to it.
fn is_to_blame(error: &Error, before: Option<&Takes>) -> bool {
    match error {
        error if error.is_bad_input() => false,
        Error::RawLength { got, .. } | Error::TensorBytes { got, .. } => {
            before.is_some_and(|before| raw_bytes(before) == Some(*got))
        }
        Error::ImageSize { got, .. } => match before {
            Some(Takes::Image(before)) => {
                before.resize != Resize::Exact || (before.width, before.height) == *got
            }
            _ => false,
        },
        Error::TensorLength { .. } => false,
        // What a row lacks or has too much of is its sender's: a release cannot be told from it.
        Error::TableRows { .. }
        | Error::TableRow { .. }
        | Error::TableCell { .. }
        | Error::TableColumn { .. } => false,
        _ => true,
    }
}

/// Whether the values are such as a picture gives. What comes of others says nothing.
fn is_of_a_picture(tensor: &[f32], image: &ImageInput) -> bool {
    let ends = image.mean.iter().zip(&image.std).flat_map(|(mean, std)| [-mean / std, (1.0 - mean) / std]);
    let (low, high) = ends.fold((f32::MAX, f32::MIN), |(low, high), end| (low.min(end), high.max(end)));
    let slack = (high - low) * ROUNDING;
    tensor.iter().all(|value| (low - slack..=high + slack).contains(value))
}

#[cfg(test)]
mod tests {
    use super::*;
    use flotilla_protocol::pipeline::{Colour, Layout};

    fn takes(width: u32, resize: Resize) -> ImageInput {
        ImageInput {
            width,
            height: 2,
            colour: Colour::Rgb,
            resize,
            layout: Layout::Nchw,
            mean: vec![0.5, 0.25, 0.0],
            std: vec![0.5, -0.25, 2.0],
            ..ImageInput::none()
        }
    }

    #[test]
    fn a_wrong_size_is_the_fault_of_a_release_that_changed_it_and_of_no_other() {
        let raw = |got| Error::RawLength { got, need: 30 };
        let picture = |width| Error::ImageSize { got: (width, 2), need: (5, 2) };
        let takes = |resize| Takes::Image(takes(3, resize));
        let (exact, stretched) = (takes(Resize::Exact), takes(Resize::Stretch));
        assert!(!is_to_blame(&raw(18), None) && !is_to_blame(&picture(3), None));
        assert!(is_to_blame(&raw(18), Some(&exact)) && is_to_blame(&picture(3), Some(&exact)));
        assert!(!is_to_blame(&raw(17), Some(&exact)) && !is_to_blame(&picture(4), Some(&exact)));
        assert!(is_to_blame(&picture(4), Some(&stretched)), "it took pictures of any size");
        assert!(!is_to_blame(&Error::ImageFormat, Some(&stretched)));
        assert!(is_to_blame(&Error::NotFinite { index: 0 }, None));
    }

    #[test]
    fn values_that_no_picture_gives_say_nothing_about_a_release() {
        let image = takes(1, Resize::Exact);
        // The channels give -1 to 1, 1 to -3 and 0 to 0.5.
        for (tensor, sensible) in [
            ([-1.0, 1.0, 0.0, -3.0, 0.5, 1.001], true),
            ([-1.0, 1.0, 0.0, -3.1, 0.5, 0.0], false),
            ([0.0, 0.0, 0.0, 0.0, 0.0, f32::NAN], false),
            ([0.0, 0.0, f32::INFINITY, 0.0, 0.0, 0.0], false),
            ([1e38, 0.0, 0.0, 0.0, 0.0, 0.0], false),
        ] {
            assert_eq!(is_of_a_picture(&tensor, &image), sensible, "{tensor:?}");
        }
    }
}
