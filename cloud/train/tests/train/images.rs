//! Shrinking on Fashion-MNIST and on ten classes of CIFAR-10, which takes minutes.
//!
//! `FLOTILLA_TEST_DATA` says where the images lie, `FLOTILLA_SHRINK_IMAGES` how many of Fashion-MNIST to train on; for the
//! others see `shrink.rs`.

use std::collections::BTreeMap;
use std::io::Read;
use std::path::PathBuf;

use flotilla_train::{Augment, Config, Shrink};

use crate::shrink::{series, trained};
use crate::support::{Parts, empty, unpacked};

/// Images that epochs and sizes are chosen by.
const VALIDATION: usize = 1000;

fn folder() -> PathBuf {
    PathBuf::from(std::env::var_os("FLOTILLA_TEST_DATA").expect("FLOTILLA_TEST_DATA is set")).join("images")
}

fn wanted(most: usize) -> usize {
    std::env::var("FLOTILLA_SHRINK_IMAGES").map_or(most, |text| text.parse().unwrap())
}

fn fashion() -> Parts {
    const SIDE: usize = 28;
    let read = |part: &str, images: std::ops::Range<usize>| {
        let file = |kind| unpacked(folder().join("fashion-mnist").join(format!("{part}-{kind}-ubyte.gz")));
        let pixels = &file("images-idx3")[16..][images.start * SIDE * SIDE..images.end * SIDE * SIDE];
        let labels = &file("labels-idx1")[8..][images];
        let mut out = empty(1, SIDE, (0..10).map(|c| c.to_string()).collect());
        out.pixels = pixels.iter().map(|&p| f32::from(p) / 127.5 - 1.0).collect();
        out.labels = labels.iter().map(|&l| l.into()).collect();
        out
    };
    Parts {
        train: read("train", 0..wanted(10_000)),
        validation: read("train", 60_000 - VALIDATION..60_000),
        test: read("t10k", 0..10_000),
    }
}

fn cifar() -> Parts {
    let file = std::fs::File::open(folder().join("cifar10-subset.zip")).unwrap();
    let mut archive = zip::ZipArchive::new(file).unwrap();
    let mut found: BTreeMap<String, usize> = BTreeMap::new();
    for index in 0..archive.len() {
        found.insert(archive.by_index(index).unwrap().name().unwrap().into_owned(), index);
    }
    let classes: Vec<String> = {
        let names = found.keys().filter(|name| name.ends_with(".jpg"));
        let mut classes: Vec<String> = names.map(|n| n.split('/').nth(2).unwrap().to_owned()).collect();
        classes.sort();
        classes.dedup();
        classes
    };
    let mut parts = [(); 3].map(|()| empty(3, 32, classes.clone()));
    for (number, (name, index)) in found.iter().filter(|(name, _)| name.ends_with(".jpg")).enumerate() {
        let mut bytes = Vec::new();
        archive.by_index(*index).unwrap().read_to_end(&mut bytes).unwrap();
        let picture = image::load_from_memory(&bytes).unwrap().to_rgb8();
        let part = match (name.split('/').nth(1).unwrap(), number % 6) {
            ("test", _) => 2,
            (_, 0) => 1,
            _ => 0,
        };
        for channel in 0..3 {
            parts[part].pixels.extend(picture.pixels().map(|p| f32::from(p.0[channel]) / 64.0 - 2.0));
        }
        let class = name.split('/').nth(2).unwrap();
        parts[part].labels.push(classes.iter().position(|c| c == class).unwrap() as u32);
    }
    let [train, validation, test] = parts;
    Parts { train, validation, test }
}

/// As fast as two cores allow: small batches stay in the cache.
fn quick(epochs: u32, augment: &Augment) -> Config {
    let augment = augment.clone();
    Config { epochs, batch_size: 32, learning_rate: 0.01, warmup_epochs: 1, augment, ..Config::default() }
}

/// How it is shrunk; epochs after a cut, at the end, and with rounded weights.
fn shrinking(shares: Vec<f64>, learning_rate: f64, epochs: [u32; 3], augment: Augment) -> Shrink {
    let [cut_epochs, epochs, rounded_epochs] = epochs;
    let batch_size = 32;
    Shrink {
        shares,
        learning_rate,
        cut_epochs,
        epochs,
        rounded_epochs,
        batch_size,
        augment,
        ..Shrink::default()
    }
}

#[test]
#[ignore = "trains for minutes"]
fn fashion_shrinks_to_a_sixth_within_a_point() {
    let augment = Augment { mirror: true, shift_px: 1.0, ..Augment::none() };
    let parts = fashion();
    let onnx = trained("fashion", quick(6, &augment), &parts);
    let settings = shrinking(vec![0.145, 0.1], 0.008, [1, 4, 1], augment);
    series("fashion", &onnx, settings, &parts).check();
}

#[test]
#[ignore = "trains for minutes"]
fn cifar_shrinks_to_a_sixth_within_a_point() {
    let augment = Augment { mirror: true, shift_px: 2.0, ..Augment::none() };
    let parts = cifar();
    let onnx = trained("cifar", quick(14, &augment), &parts);
    let settings = shrinking(vec![0.148], 0.012, [3, 14, 2], augment);
    series("cifar", &onnx, settings, &parts).check();
}
