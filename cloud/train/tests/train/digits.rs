//! Training on real digits: what the exported file recognises, before and after its weights become int8.
//!
//! `FLOTILLA_TRAIN_SEEDS` trains that many seeds, each on a split of its own, and `FLOTILLA_TRAIN_CONFIG` uses other
//! settings (JSON); either way a table is printed.

use flotilla_onnx::{Model, tensor_f32};
use flotilla_train::{Config, train};

use crate::support::{Print, accuracy, digits};

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

#[test]
fn digits_are_recognised_by_a_file_small_enough_for_a_device() {
    let base: Config = std::env::var("FLOTILLA_TRAIN_CONFIG")
        .map_or_else(|_| Config::default(), |text| serde_json::from_str(&text).unwrap());
    let seeds = std::env::var("FLOTILLA_TRAIN_SEEDS").map_or(1, |text| text.parse().unwrap());
    let mut table = Vec::new();
    for seed in 0..seeds {
        let config = Config { seed, ..base.clone() };
        let digits = digits(seed as usize);
        let trained =
            train(&config, &digits.train, &digits.validation, &mut Print(format!("seed {seed}"))).unwrap();
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
