//! Features of an input tensor.

use flotilla_protocol::Pipeline;
use flotilla_protocol::baseline::Feature;
use flotilla_protocol::pipeline::{Colour, ImageInput, Input, Layout};

/// Works out the features of tensors of one pipeline, all of them in one pass over each plane.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Features {
    names: &'static [Feature],
    /// Values of one row, the channels of a pixel together where they lie beside each other.
    row: usize,
    /// From a value to the same channel of the pixel beside it.
    step: usize,
    /// Values of one plane, where channels lie one after the other; else all values.
    plane: usize,
}

const GREY: [Feature; 3] = [Feature::Brightness, Feature::Contrast, Feature::Detail];
const RGB: [Feature; 5] = [Feature::Red, Feature::Green, Feature::Blue, Feature::Contrast, Feature::Detail];
const BGR: [Feature; 5] = [Feature::Blue, Feature::Green, Feature::Red, Feature::Contrast, Feature::Detail];
/// Channels at most.
const CHANNELS: usize = 3;

impl Features {
    /// The features of this pipeline's tensors; none of what is no picture.
    pub fn of(pipeline: &Pipeline) -> Self {
        let Input::Image(ImageInput { width, height, colour, layout, .. }) = &pipeline.input else {
            return Self { names: &[], row: 0, step: 0, plane: 0 };
        };
        let (width, height, channels) = (*width as usize, *height as usize, colour.channels());
        let names: &[Feature] = match colour {
            Colour::Grey => &GREY,
            Colour::Rgb => &RGB,
            Colour::Bgr => &BGR,
        };
        let (row, step, plane) = match layout {
            Layout::Nchw => (width, 1, width * height),
            Layout::Nhwc => (width * channels, channels, width * height * channels),
        };
        Self { names, row, step, plane }
    }

    /// Which features these are, in the order of [`Features::measure`].
    pub fn names(&self) -> &[Feature] {
        self.names
    }

    /// The features of one tensor. The same tensor gives the same bits on every machine.
    pub fn measure(&self, tensor: &[f32]) -> Vec<f32> {
        if self.names.is_empty() {
            return Vec::new();
        }
        let mut sums = [0.0_f64; CHANNELS];
        let (mut squares, mut steps, mut neighbours) = (0.0_f64, 0.0_f64, 0_usize);
        for (index, plane) in tensor.chunks(self.plane.max(1)).enumerate() {
            for row in plane.chunks(self.row.max(1)) {
                let (mut row_sums, mut row_squares) = ([0.0_f32; CHANNELS], 0.0_f32);
                for pixel in row.chunks(self.step.clamp(1, CHANNELS)) {
                    for (sum, value) in row_sums.iter_mut().zip(pixel) {
                        *sum += value;
                        row_squares += value * value;
                    }
                }
                // Planes are one channel each.
                sums.iter_mut().skip(index).zip(row_sums).for_each(|(sum, row)| *sum += f64::from(row));
                squares += f64::from(row_squares);
                let beside = row.get(self.step..).unwrap_or_default();
                steps += f64::from(row.iter().zip(beside).map(|(a, b)| (a - b).abs()).sum::<f32>());
                neighbours += beside.len();
            }
        }
        let values = tensor.len().max(1) as f64;
        let channels = self.names.len() - 2;
        let mean = sums.iter().sum::<f64>() / values;
        let contrast = (squares / values - mean * mean).max(0.0).sqrt();
        let means = sums.iter().take(channels).map(|sum| sum * channels as f64 / values);
        let rest = [contrast, steps / neighbours.max(1) as f64];
        means.chain(rest).map(|value| value as f32).collect()
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests fail by panicking")]
mod tests {
    use super::*;
    use flotilla_protocol::pipeline::{Activation, Classification, Output, Resize};
    use proptest::prelude::*;

    fn features(width: u32, height: u32, colour: Colour, layout: Layout) -> Features {
        let channels = colour.channels();
        Features::of(&Pipeline::new(
            Input::Image(ImageInput {
                width,
                height,
                colour,
                resize: Resize::Exact,
                layout,
                mean: vec![0.0; channels],
                std: vec![1.0; channels],
                ..ImageInput::none()
            }),
            Output::Classification(Classification::new(vec!["a".into()], Activation::None)),
        ))
    }

    #[test]
    fn a_grey_picture_has_brightness_contrast_and_detail() {
        let grey = features(2, 2, Colour::Grey, Layout::Nchw);
        assert_eq!(grey.names(), GREY);
        // Neighbours in rows: 1 to 3 and 5 to 3.
        assert_eq!(grey.measure(&[1.0, 3.0, 5.0, 3.0]), [3.0, 2.0_f32.sqrt(), 2.0]);
        assert_eq!(grey.measure(&[0.5; 4]), [0.5, 0.0, 0.0]);
        // Of one column nothing lies beside anything.
        assert_eq!(features(1, 2, Colour::Grey, Layout::Nhwc).measure(&[1.0, 3.0]), [2.0, 1.0, 0.0]);
    }

    #[test]
    fn a_colour_picture_has_a_mean_a_channel_whatever_the_layout() {
        let nchw = [1.0, 1.0, 2.0, 4.0, 0.0, 3.0];
        let nhwc = [1.0, 2.0, 0.0, 1.0, 4.0, 3.0];
        let [a, b] = [(Layout::Nchw, nchw), (Layout::Nhwc, nhwc)]
            .map(|(layout, tensor)| features(2, 1, Colour::Rgb, layout).measure(&tensor));
        assert_eq!(a[..3], [1.0, 3.0, 1.5]);
        assert_eq!(a, b);
        assert!((a[4] - 5.0 / 3.0).abs() < 1e-6);
    }

    proptest! {
        #[test]
        fn features_are_finite_for_every_picture(pixels in prop::collection::vec(any::<u8>(), 48), rgb: bool, last: bool) {
            let (colour, width) = if rgb { (Colour::Rgb, 4) } else { (Colour::Grey, 12) };
            let layout = if last { Layout::Nhwc } else { Layout::Nchw };
            let tensor: Vec<f32> = pixels.iter().map(|byte| f32::from(*byte) / 127.5 - 1.0).collect();
            let measured = features(width, 4, colour, layout).measure(&tensor);
            prop_assert_eq!(measured.len(), if rgb { 5 } else { 3 });
            prop_assert!(measured.iter().all(|value| value.is_finite()));
            let contrast = measured[measured.len() - 2];
            let mean = tensor.iter().sum::<f32>() / 48.0;
            let deviation = (tensor.iter().map(|v| (v - mean).powi(2)).sum::<f32>() / 48.0).sqrt();
            prop_assert!((contrast - deviation).abs() < 1e-3, "{contrast} {deviation}");
        }

        #[test]
        fn tensors_of_any_content_and_length_do_no_harm(tensor in prop::collection::vec(any::<f32>(), 0..100)) {
            let measured = features(4, 4, Colour::Rgb, Layout::Nchw).measure(&tensor);
            prop_assert_eq!(measured.len(), 5);
            measured.first().unwrap();
        }
    }
}
