//! Shrinking what was trained on real digits: what the file with 8-bit weights recognises, and how large it is.
//!
//! `FLOTILLA_SHRINK` uses other settings (JSON), `FLOTILLA_TRAIN_SEEDS` that many seeds.

use flotilla_compress::Recipe;
use flotilla_train::{Config, Images, Shrink, Shrunk, Source, shrink, train};

use crate::support::{Parts, Print, accuracy, digits};

/// The settings of a test, or those of the environment.
pub(crate) fn settings(of_test: Shrink) -> Shrink {
    std::env::var("FLOTILLA_SHRINK").map_or(of_test, |text| serde_json::from_str(&text).unwrap())
}

/// A row of the table: what the source and a point recognise of images that neither has seen, and bytes as a share.
pub(crate) struct Row {
    pub(crate) float: f64,
    pub(crate) int8: f64,
    pub(crate) share: f64,
}

/// Compresses each point and measures it in the engine of the devices.
pub(crate) fn measured(source: &[u8], shrunk: &Shrunk, test: &Images) -> Vec<Row> {
    let float = accuracy(source, test);
    println!(
        "source: {} bytes, {} MACs, validation {:.4}, test {float:.4}",
        source.len(),
        shrunk.macs,
        shrunk.accuracy
    );
    println!("share  bytes  estimate  MACs  validation  test f32  test int8  seconds");
    let row = |point: &flotilla_train::Point| {
        let file = Recipe::default().apply(&point.onnx).unwrap();
        let row = Row { float, int8: accuracy(&file, test), share: file.len() as f64 / source.len() as f64 };
        println!(
            "{:.4}  {}  {}  {}  {:.4}  {:.4}  {:.4}  {:.1}",
            row.share,
            file.len(),
            point.int8_bytes,
            point.macs,
            point.accuracy,
            accuracy(&point.onnx, test),
            row.int8,
            point.seconds
        );
        let off = (point.int8_bytes as f64 / file.len() as f64 - 1.0).abs();
        assert!(off < 0.02, "{} bytes were foretold, and there are {}", point.int8_bytes, file.len());
        row
    };
    shrunk.points.iter().map(row).collect()
}

/// Pruned, taught by what it was, and trained with rounded weights: under 0.15 of the bytes within a point.
#[test]
fn a_sixth_of_the_bytes_recognises_digits_within_a_point() {
    let seeds = std::env::var("FLOTILLA_TRAIN_SEEDS").map_or(1, |text| text.parse().unwrap());
    for seed in 0..seeds {
        let Parts { train: train_on, validation, test } = digits(seed as usize);
        let config = Config { epochs: 14, seed, ..Config::default() };
        let name = format!("seed {seed}");
        let trained = train(&config, &train_on, &validation, &mut Print(name.clone())).unwrap();
        let source = Source::read(&trained.onnx).unwrap();
        let settings = settings(Shrink { shares: vec![0.145], epochs: 6, seed, ..Shrink::default() });
        let shrunk = shrink(&settings, &source, &train_on, &validation, &mut Print(name)).unwrap();
        let rows = measured(&trained.onnx, &shrunk, &test);
        let best = &rows[shrunk.best.unwrap()];
        assert!(best.share <= 0.15, "seed {seed}: {}", best.share);
        assert!(best.int8 >= best.float - 0.01, "seed {seed}: {} of {}", best.int8, best.float);
    }
}
