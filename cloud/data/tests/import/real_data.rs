//! The importers on data nobody here wrote. Runs where `FLOTILLA_TEST_DATA` names the folder that holds it.

use crate::support::{House, request};
use flotilla_data::{ColumnKind, ImportReport};
use flotilla_protocol::Truth;
use std::path::PathBuf;

/// The folder with the data. Without it a test is skipped, but never in CI.
fn data() -> Option<PathBuf> {
    let found = std::env::var_os("FLOTILLA_TEST_DATA").map(PathBuf::from);
    if found.is_none() {
        assert!(std::env::var_os("CI").is_none_or(|ci| ci != "true"), "CI sets FLOTILLA_TEST_DATA");
        println!("skipped: FLOTILLA_TEST_DATA is not set");
    }
    found
}

async fn import(house: &House, name: &str, path: PathBuf, label: Option<&str>) -> ImportReport {
    let mut request = request(name, &path);
    request.options.label_column = label.map(str::to_owned);
    house.import(request).await.unwrap()
}

#[tokio::test]
async fn zips_of_photos_are_imported_with_their_splits() {
    let Some(data) = data() else { return };
    let house = House::new();
    let flowers = import(&house, "flowers", data.join("images/flowers-subset.zip"), None).await.version;
    assert_eq!(flowers.classes, ["daisy", "dandelion", "roses", "sunflowers", "tulips"]);
    assert_eq!((flowers.samples, flowers.skipped, flowers.splits.validation), (210, 0, 50));
    assert!(flowers.splits.test > 0 && !flowers.images.unwrap().grey);

    let cifar = import(&house, "cifar", data.join("images/cifar10-subset.zip"), None).await.version;
    assert_eq!((cifar.classes.len(), cifar.skipped, cifar.splits.test), (10, 0, 2000));
    assert_eq!(cifar.samples + cifar.duplicates, 8000);
    assert_eq!(cifar.images.unwrap().max_width, 32);
}

#[tokio::test]
async fn fashion_mnist_is_imported_from_its_four_files() {
    let Some(data) = data() else { return };
    let house = House::new();
    let report = import(&house, "fashion", data.join("images/fashion-mnist"), None).await;
    let version = report.version;
    assert_eq!(version.samples + report.duplicates, 70_000);
    assert_eq!((version.classes.len(), report.skipped_total), (10, 0));
    assert!(version.splits.test <= 10_000 && version.splits.test > 9_900, "{:?}", version.splits);
    assert!(version.splits.validation > 0);
    let mnist = import(&house, "mnist", data.join("images/mnist-t10k"), None).await.version;
    assert_eq!(mnist.samples + mnist.duplicates, 10_000);
}

#[tokio::test]
async fn the_digits_as_a_users_own_csv_are_the_bundled_ones() {
    let Some(data) = data() else { return };
    let house = House::new();
    let own = import(&house, "digits", data.join("images/digits.csv.gz"), None).await.version;
    assert_eq!(own.digest.to_string(), include_str!("digits.digest").trim());
}

#[tokio::test]
async fn tables_are_imported_with_their_types() {
    let Some(data) = data() else { return };
    let house = House::new();
    let ai4i = import(&house, "ai4i", data.join("tabular/ai4i2020.csv"), Some("Machine failure")).await;
    assert_eq!((ai4i.imported, ai4i.skipped_total), (10_000, 0));
    assert_eq!(ai4i.version.classes, ["0", "1"]);
    let columns = house.datasets.columns(&ai4i.version).await.unwrap();
    let kinds: Vec<_> = columns.iter().map(|c| c.kind).collect();
    assert_eq!(columns.len(), 14);
    assert_eq!(kinds[..4], [ColumnKind::Integer, ColumnKind::Text, ColumnKind::Text, ColumnKind::Number]);

    let bank = import(&house, "bank", data.join("tabular/bank-additional.csv"), Some("y")).await;
    assert_eq!((bank.imported, bank.skipped_total), (4119, 0));
    assert_eq!(bank.version.classes, ["no", "yes"]);
    assert_eq!(bank.version.table.unwrap().columns, 21);
}

#[tokio::test]
async fn blood_cells_are_imported_with_their_boxes_and_lists() {
    let Some(data) = data() else { return };
    let house = House::new();
    let report = import(&house, "cells", data.join("detection/bccd-voc.zip"), None).await;
    let version = &report.version;
    assert_eq!(version.classes, ["Platelets", "RBC", "WBC"]);
    assert_eq!((version.splits.train, version.splits.validation, version.splits.test), (205, 87, 72));
    let areas = report.skipped.iter().filter(|skipped| skipped.reason.contains("has no area")).count();
    assert_eq!(areas, 2, "{:?}", report.skipped);
    let mut boxes = [0; 3];
    for sample in house.datasets.samples(version, None).await.unwrap() {
        let Truth::Boxes(things) = sample.truth else { panic!("{:?}", sample.truth) };
        things.iter().for_each(|thing| boxes[thing.label as usize] += 1);
    }
    assert_eq!(boxes.iter().sum::<u32>(), 361 + 4155 + 372 - 2);
}
