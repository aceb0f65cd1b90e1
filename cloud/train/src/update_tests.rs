//! What an update costs on the wire after one epoch more.
#![expect(clippy::unwrap_used, reason = "tests fail by panicking")]

use std::fs::File;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};

use flate2::Compression;
use flate2::read::GzDecoder;
use flate2::write::DeflateEncoder;
use flotilla_compress::Recipe;
use flotilla_patch::make;

use crate::fit::Fit;
use crate::fit::Lesson;
use crate::fold::Folded;
use crate::{Config, Images, NetworkPlan, Silent, export};

fn unpacked(path: &Path) -> Vec<u8> {
    let mut bytes = Vec::new();
    GzDecoder::new(File::open(path).unwrap()).read_to_end(&mut bytes).unwrap();
    bytes
}

/// The digits that the project bundles.
fn digits() -> Images {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../data/assets/digits.csv.gz");
    let text = String::from_utf8(unpacked(&path)).unwrap();
    let mut images = empty(8);
    for line in text.lines() {
        let values: Vec<f32> = line.split(',').map(|v| v.parse().unwrap()).collect();
        images.pixels.extend(values[..64].iter().map(|v| v / 8.0 - 1.0));
        images.labels.push(values[64] as u32);
    }
    images
}

fn empty(side: usize) -> Images {
    let classes = (0..10).map(|class| class.to_string()).collect();
    Images { channels: 1, height: side, width: side, classes, pixels: Vec::new(), labels: Vec::new() }
}

/// The first images of Fashion-MNIST.
fn fashion(count: usize) -> Option<Images> {
    let folder = PathBuf::from(std::env::var_os("FLOTILLA_TEST_DATA")?).join("images/fashion-mnist");
    let pixels = unpacked(&folder.join("train-images-idx3-ubyte.gz"));
    let labels = unpacked(&folder.join("train-labels-idx1-ubyte.gz"));
    let mut images = empty(28);
    images.pixels = pixels[16..16 + count * 784].iter().map(|p| f32::from(*p) / 127.5 - 1.0).collect();
    images.labels = labels[8..8 + count].iter().map(|label| u32::from(*label)).collect();
    Some(images)
}

/// A trained file, and that of one epoch more at the rate with which the training ended.
fn trained(config: &Config, images: &Images) -> (Vec<u8>, Vec<u8>) {
    let plan = NetworkPlan::for_images(config.algorithm, images);
    let pool = rayon::ThreadPoolBuilder::new().num_threads(2).build().unwrap();
    pool.install(|| {
        let mut fit = Fit::new(config, &plan, Lesson::default(), images, images);
        let mut file = |epoch| {
            fit.epoch(epoch, &Silent).unwrap();
            let weights = fit.average.weights().unwrap().clone();
            let algorithm = config.algorithm.name();
            let notes = export::Notes { algorithm, classes: &images.classes, ranges: None };
            export::onnx(&Folded::new(weights), &plan, notes).unwrap()
        };
        let base = (1..=config.epochs).map(&mut file).last().unwrap();
        (base, file(config.epochs + 1))
    })
}

fn deflated(bytes: &[u8]) -> usize {
    let mut encoder = DeflateEncoder::new(Vec::new(), Compression::best());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap().len()
}

/// The share of the whole that the patch of the 8-bit form has; prints that of each form, beside simpler ways.
fn share(what: &str, config: &Config, images: &Images) -> f64 {
    let (base, new) = trained(config, images);
    let int8 = |onnx: &[u8]| Recipe::default().apply(onnx).unwrap();
    let shares = [("float", base.clone(), new.clone()), ("int8", int8(&base), int8(&new))].map(|(form, base, new)| {
        let difference: Vec<u8> = new.iter().zip(&base).map(|(new, base)| new.wrapping_sub(*base)).collect();
        let compressed = make(None, &new, usize::MAX).unwrap().len();
        let patch = make(Some(&base), &new, usize::MAX).unwrap().len();
        println!(
            "{what} {form}: {} bytes; compressed {compressed}, deflated {}; difference deflated {}; patch {patch}, {:.3}",
            new.len(),
            deflated(&new),
            deflated(&difference),
            patch as f64 / new.len() as f64
        );
        patch as f64 / new.len() as f64
    });
    shares[1]
}

/// The form that ships by default. `FLOTILLA_UPDATE_IMAGES` does the same with so many images of Fashion-MNIST, which
/// takes a while.
#[test]
fn an_epoch_more_costs_less_than_two_fifths_on_the_wire() {
    let config = Config { threads: 2, ..Config::default() };
    let share_of_digits = share("digits", &config, &digits());
    assert!(share_of_digits < 0.4, "{share_of_digits}");
    if let Ok(count) = std::env::var("FLOTILLA_UPDATE_IMAGES")
        && let Some(images) = fashion(count.parse().unwrap())
    {
        share("fashion", &config, &images);
    }
}
