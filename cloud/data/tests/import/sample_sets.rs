//! Samples that belong to no dataset: kept as they are, bounded, the oldest giving way.

use crate::support::{House, NOW, zip};
use flotilla_data::{Error, LOOSE_SAMPLES, SAMPLE_SETS, SampleFile, SampleSet};
use flotilla_identity::Actor;
use flotilla_protocol::ErrorCode;
use std::path::PathBuf;

async fn add(house: &House, source: PathBuf, now_ms: u64) -> flotilla_data::Result<SampleSet> {
    let beside = house.path("beside.samples");
    let added = house.datasets.add_sample_set(&Actor::administrator(), source, beside.clone(), now_ms).await;
    assert!(!beside.exists(), "nothing is left beside the source");
    added
}

#[tokio::test]
async fn files_come_back_as_they_were_in_the_order_of_their_names() {
    let house = House::new();
    let source = house.file("some.zip", zip(&[("b/2.png", b"two".to_vec()), ("a.txt", b"one".to_vec())]));
    let set = add(&house, source.clone(), NOW).await.unwrap();
    assert_eq!((set.samples, set.bytes), (2, 6));
    let path = house.path("read.samples");
    let found = house.datasets.sample_set(&set.digest).await.unwrap();
    house.datasets.write_sample_set(&found, &path).await.unwrap();
    let read: Vec<Vec<u8>> = SampleFile::open(&path).unwrap().map(|sample| sample.unwrap().1).collect();
    assert_eq!(read, [b"one".to_vec(), b"two".to_vec()]);
    // The same samples are the same set, whenever they come.
    assert_eq!(add(&house, source, NOW + 1).await.unwrap(), set);
    assert_eq!(house.left().await, (1, 1), "one object, one record in the trail");
}

#[tokio::test]
async fn the_oldest_set_gives_way_with_its_object() {
    let house = House::new();
    let mut sets = Vec::new();
    for number in 0..=SAMPLE_SETS {
        let source = house.file("sample.txt", number.to_string());
        sets.push(add(&house, source, NOW + number as u64).await.unwrap());
    }
    let gone = house.datasets.sample_set(&sets[0].digest).await.unwrap_err();
    assert!(matches!(gone, Error::NoSampleSet { .. }) && gone.code() == ErrorCode::NotFound);
    assert!(!house.objects.contains(&sets[0].digest).await.unwrap());
    house.datasets.sample_set(&sets[1].digest).await.unwrap();
    assert_eq!(house.left().await.0, SAMPLE_SETS);
}

#[tokio::test]
async fn what_is_no_set_of_samples_leaves_nothing() {
    let house = House::new();
    std::fs::create_dir(house.path("empty")).unwrap();
    let many: Vec<(String, Vec<u8>)> = (0..=LOOSE_SAMPLES).map(|n| (format!("{n}.txt"), vec![])).collect();
    let many: Vec<(&str, Vec<u8>)> =
        many.iter().map(|(name, content)| (name.as_str(), content.clone())).collect();
    for (source, code) in [
        (house.path("empty"), ErrorCode::DatasetTooSmall),
        (house.file("many.zip", zip(&many)), ErrorCode::TooLarge),
        (house.file("broken.zip", b"PK\x03\x04 and no more"), ErrorCode::DatasetFormat),
        (house.file("out.zip", zip(&[("../out", b"x".to_vec())])), ErrorCode::ArchivePath),
        (house.path("nowhere"), ErrorCode::DatasetPathMissing),
    ] {
        let error = add(&house, source, NOW).await.unwrap_err();
        assert_eq!(error.code(), code, "{error}");
    }
    assert_eq!(house.left().await, (0, 0));
}
