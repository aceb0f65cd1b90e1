//! Training on real digits: what the exported file recognises, before and after its weights become int8.
//!
//! `FLOTILLA_TRAIN_SEEDS` trains that many seeds, each on a split of its own, and `FLOTILLA_TRAIN_CONFIG` uses other
//! settings (JSON); either way a table is printed.
#![expect(clippy::unwrap_used, reason = "tests fail by panicking")]

use std::io::Read;
use std::path::PathBuf;

use flotilla_onnx::{Model, tensor_f32};
use flotilla_train::{Config, EpochMetrics, Images, Observer, train};
use tract_onnx::prelude::*;

const SIDE: usize = 8;

struct Digits {
    train: Images,
    validation: Images,
    test: Images,
}

/// The digits that the project bundles, split in one of ten ways.
fn digits(split: usize) -> Digits {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../data/assets/digits.csv.gz");
    let mut text = String::new();
    flate2::read::GzDecoder::new(std::fs::File::open(path).unwrap()).read_to_string(&mut text).unwrap();
    let empty = || Images {
        channels: 1,
        height: SIDE,
        width: SIDE,
        classes: (0..10).map(|d| d.to_string()).collect(),
        pixels: Vec::new(),
        labels: Vec::new(),
    };
    let mut parts = [empty(), empty(), empty()];
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
    Digits { train, validation, test }
}

fn accuracy(onnx: &[u8], images: &Images) -> f64 {
    let model = tract_onnx::onnx().with_ignore_output_shapes(true).with_ignore_value_info(true);
    let model = model.model_for_read(&mut &*onnx).unwrap();
    let shape = [1, 1, SIDE, SIDE];
    let model = model.with_input_fact(0, f32::fact(shape).into()).unwrap();
    let model = model.into_optimized().unwrap().into_runnable().unwrap();
    let right = images.pixels.chunks_exact(SIDE * SIDE).zip(&images.labels).filter(|(image, label)| {
        let out = model.run(tvec!(Tensor::from_shape(&shape, image).unwrap().into())).unwrap();
        let out = out[0].to_plain_array_view::<f32>().unwrap();
        let best = out.iter().enumerate().max_by(|a, b| a.1.total_cmp(b.1)).unwrap().0;
        best == **label as usize
    });
    right.count() as f64 / images.labels.len() as f64
}

/// The same model with each weight rounded to one of 255 steps of its output channel, and its size with int8 weights.
fn rounded(onnx: &[u8]) -> (Vec<u8>, usize) {
    let mut model = Model::read(onnx).unwrap();
    let mut saved = 0;
    let names: Vec<String> = model.initializers().iter().map(|t| t.name.clone()).collect();
    for name in names.iter().filter(|name| name.ends_with("weight")) {
        let mut tensor = model.tensor_f32(name).unwrap();
        let each = tensor.data.len() / tensor.dims[0];
        for channel in tensor.data.chunks_exact_mut(each) {
            let step = channel.iter().fold(0.0_f32, |most, v| most.max(v.abs())) / 127.0;
            channel.iter_mut().for_each(|v| *v = (*v / step).round() * step);
        }
        saved += 3 * tensor.data.len() - 4 * tensor.dims[0];
        model.replace_initializer(tensor_f32(name, &tensor)).unwrap();
    }
    (model.write(), onnx.len() - saved)
}

struct Print(u64);

impl Observer for Print {
    fn epoch(&mut self, m: EpochMetrics) {
        println!(
            "seed {} epoch {:2}/{} loss {:.4} accuracy {:.4} validation {:.4} {:.4} rate {:.5} {:.2} s",
            self.0,
            m.epoch,
            m.of,
            m.train_loss,
            m.train_accuracy,
            m.validation_loss,
            m.validation_accuracy,
            m.learning_rate,
            m.seconds
        );
    }
}

#[test]
fn digits_are_recognised_by_a_file_small_enough_for_a_device() {
    let base: Config = std::env::var("FLOTILLA_TRAIN_CONFIG")
        .map_or_else(|_| Config::default(), |text| serde_json::from_str(&text).unwrap());
    let seeds = std::env::var("FLOTILLA_TRAIN_SEEDS").map_or(1, |text| text.parse().unwrap());
    let mut table = Vec::new();
    for seed in 0..seeds {
        let config = Config { seed, ..base.clone() };
        let digits = digits(seed as usize);
        let trained = train(&config, &digits.train, &digits.validation, &mut Print(seed)).unwrap();
        let float = accuracy(&trained.onnx, &digits.test);
        let (int8, bytes) = rounded(&trained.onnx);
        let after = accuracy(&int8, &digits.test);
        table.push((seed, float, after, bytes, trained));
    }
    println!("seed  test    int8    best/epochs  seconds  parameters  bytes  int8 bytes");
    for (seed, float, after, bytes, t) in &table {
        println!(
            "{seed:4}  {float:.4}  {after:.4}  {:4}/{:<6}  {:7.1}  {:10}  {}  {bytes}",
            t.best_epoch,
            t.epochs,
            t.seconds,
            t.parameters,
            t.onnx.len()
        );
    }
    for (seed, float, after, bytes, _) in &table {
        assert!(*float >= 0.98 && *after >= 0.98, "seed {seed}: {float} {after}");
        assert!(*bytes <= 60_000, "seed {seed}: {bytes}");
    }
}
