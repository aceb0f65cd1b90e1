//! Shrinking what was trained on real digits: what the file with 8-bit weights recognises, and how large it is.
//!
//! `FLOTILLA_TRAIN_CONFIG` and `FLOTILLA_SHRINK` use other settings (JSON), `FLOTILLA_TRAIN_SEEDS` that many seeds,
//! `FLOTILLA_SHRINK_FOLDER` keeps the trained files between runs.

use std::path::PathBuf;

use flotilla_compress::Recipe;
use flotilla_train::{Config, Images, Point, Shrink, Shrunk, Source, shrink, train};

use crate::support::{Parts, Print, accuracy, digits};

/// The file of a training, or the one that an earlier run left in `FLOTILLA_SHRINK_FOLDER`.
pub(crate) fn trained(name: &str, config: Config, parts: &Parts) -> Vec<u8> {
    let config =
        std::env::var("FLOTILLA_TRAIN_CONFIG").map_or(config, |text| serde_json::from_str(&text).unwrap());
    let kept = std::env::var_os("FLOTILLA_SHRINK_FOLDER")
        .map(|folder| PathBuf::from(folder).join(format!("{name}-{}.onnx", config.algorithm.name())));
    kept.as_ref().and_then(|path| std::fs::read(path).ok()).unwrap_or_else(|| {
        let mut print = Print(name.to_owned());
        let trained = train(&config, &parts.train, &parts.validation, &mut print).unwrap();
        kept.iter().for_each(|path| std::fs::write(path, &trained.onnx).unwrap());
        trained.onnx
    })
}

/// Shrinks a file, prints the table and gives its first row.
pub(crate) fn series(name: &str, onnx: &[u8], of_test: Shrink, parts: &Parts) -> Row {
    let settings =
        std::env::var("FLOTILLA_SHRINK").map_or(of_test, |text| serde_json::from_str(&text).unwrap());
    let source = Source::read(onnx).unwrap();
    let mut print = Print(name.to_owned());
    let shrunk = shrink(&settings, &source, &parts.train, &parts.validation, &mut print).unwrap();
    println!("{name}: {}", serde_json::to_string(&settings).unwrap());
    measured(onnx, &shrunk, &parts.test).remove(0)
}

/// A row of the table: what the source and a point recognise of images that neither has seen, and bytes as a share.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Row {
    float: f64,
    int8: f64,
    share: f64,
}

impl Row {
    pub(crate) fn check(self) {
        assert!(self.share <= 0.15 && self.int8 >= self.float - 0.01, "{self:?}");
    }
}

/// Compresses each point and measures it in the engine of the devices.
fn measured(source: &[u8], shrunk: &Shrunk, test: &Images) -> Vec<Row> {
    let float = accuracy(source, test);
    println!(
        "source: {} bytes, {} MACs, validation {:.4}, test {float:.4}",
        source.len(),
        shrunk.macs,
        shrunk.accuracy
    );
    println!("share  bytes  estimate  MACs  validation  test f32  test int8  seconds");
    let row = |point: &Point| {
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
    let row = |seed: u64| {
        let parts = digits(seed as usize);
        let config = Config { epochs: 14, seed, ..Config::default() };
        let name = format!("digits-{seed}");
        let onnx = trained(&name, config, &parts);
        series(&name, &onnx, Shrink { shares: vec![0.145], seed, ..Shrink::default() }, &parts)
    };
    let rows: Vec<Row> = (0..seeds).map(row).collect();
    println!("{rows:#?}");
    rows.into_iter().for_each(Row::check);
}
