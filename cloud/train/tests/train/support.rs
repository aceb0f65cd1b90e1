//! Images to train on, and what a file recognises.

use std::io::Read;
use std::path::PathBuf;

use flotilla_train::{EpochMetrics, Images, Observer};
use tract_onnx::prelude::*;

/// Images in three parts.
pub(crate) struct Parts {
    pub(crate) train: Images,
    pub(crate) validation: Images,
    pub(crate) test: Images,
}

pub(crate) fn empty(channels: usize, side: usize, classes: Vec<String>) -> Images {
    Images { channels, height: side, width: side, classes, pixels: Vec::new(), labels: Vec::new() }
}

/// The digits that the project bundles, split in one of ten ways.
pub(crate) fn digits(split: usize) -> Parts {
    const SIDE: usize = 8;
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../data/assets/digits.csv.gz");
    let text = String::from_utf8(unpacked(path)).unwrap();
    let mut parts = [(); 3].map(|()| empty(1, SIDE, (0..10).map(|d| d.to_string()).collect()));
    let mut seen = [0_usize; 10];
    for line in text.lines() {
        let values: Vec<f32> = line.split(',').map(|v| v.parse().unwrap()).collect();
        let (pixels, label) = (&values[..SIDE * SIDE], values[SIDE * SIDE] as usize);
        // Of each class seven tenths to train on, one to validate on, two to test on.
        let part = match (seen[label] + split) % 10 {
            0 | 5 => 2,
            3 => 1,
            _ => 0,
        };
        seen[label] += 1;
        parts[part].pixels.extend(pixels.iter().map(|v| v / 8.0 - 1.0));
        parts[part].labels.push(label as u32);
    }
    let [train, validation, test] = parts;
    assert_eq!(train.len() + validation.len() + test.len(), 1797);
    Parts { train, validation, test }
}

/// What a gzip file holds.
pub(crate) fn unpacked(path: PathBuf) -> Vec<u8> {
    let mut bytes = Vec::new();
    flate2::read::GzDecoder::new(std::fs::File::open(path).unwrap()).read_to_end(&mut bytes).unwrap();
    bytes
}

/// The share of images that a file gets right, in the engine of the devices.
pub(crate) fn accuracy(onnx: &[u8], images: &Images) -> f64 {
    let model = tract_onnx::onnx().with_ignore_output_shapes(true).with_ignore_value_info(true);
    let model = model.model_for_read(&mut &*onnx).unwrap();
    let shape = [1, images.channels, images.height, images.width];
    let model = model.with_input_fact(0, f32::fact(shape).into()).unwrap();
    let model = model.into_optimized().unwrap().into_runnable().unwrap();
    let right = images.pixels.chunks_exact(images.values()).zip(&images.labels).filter(|(image, label)| {
        let out = model.run(tvec!(Tensor::from_shape(&shape, image).unwrap().into())).unwrap();
        let out = out[0].to_plain_array_view::<f32>().unwrap();
        let best = out.iter().enumerate().max_by(|a, b| a.1.total_cmp(b.1)).unwrap().0;
        best == **label as usize
    });
    right.count() as f64 / images.labels.len() as f64
}

/// Prints each epoch.
pub(crate) struct Print(pub(crate) String);

impl Observer for Print {
    fn epoch(&mut self, m: EpochMetrics) {
        println!(
            "{} epoch {:2}/{} loss {:.4} accuracy {:.4} validation {:.4} {:.4} rate {:.5} {:.2} s",
            self.0,
            m.epoch,
            m.of,
            m.train_loss,
            m.train_accuracy.unwrap_or(f64::NAN),
            m.validation_loss,
            m.validation_accuracy.unwrap_or(f64::NAN),
            m.learning_rate,
            m.seconds
        );
    }

    fn begins(&mut self, what: &str) {
        println!("{} {what}", self.0);
    }
}
