//! The bundled digits, and reading a version.

use crate::digits;
use crate::support::{House, NOW};
use flotilla_data::{ImageFacts, ImportStage, Kind, SampleFile, Split};
use flotilla_identity::{Actor, audit};
use flotilla_protocol::{Digest, ErrorCode, Truth};
use std::collections::{BTreeMap, BTreeSet};

#[tokio::test]
async fn the_bundled_digits_become_a_version_with_every_picture() {
    let house = House::new();
    let mut stages = Vec::new();
    let mut progress = |p: flotilla_data::ImportProgress| {
        if stages.last() != Some(&p.stage) {
            stages.push(p.stage);
        }
    };
    let actor = Actor::administrator();
    let report = house.datasets.import(&actor, digits(), &mut progress, NOW).await.unwrap();
    assert_eq!(stages, [ImportStage::Reading, ImportStage::Finishing, ImportStage::Done]);
    let version = &report.version;
    assert_eq!((report.imported, report.skipped_total, report.existing), (1797, 0, false));
    assert_eq!((version.version, version.kind), (1, Kind::ImageClassification));
    assert_eq!(version.classes, ["0", "1", "2", "3", "4", "5", "6", "7", "8", "9"]);
    assert_eq!(version.splits.train + version.splits.validation + version.splits.test, 1797);
    assert!((350..370).contains(&version.splits.test), "{:?}", version.splits);
    assert!((170..190).contains(&version.splits.validation), "{:?}", version.splits);
    let facts = ImageFacts { min_width: 8, max_width: 8, min_height: 8, max_height: 8, grey: true };
    assert_eq!(version.images, Some(facts));
    assert!(version.source.description.contains("CC BY 4.0"));

    // The same pixels as the file, at the scale of a byte.
    let mut decoded = BTreeMap::new();
    let samples = house.datasets.samples(version, None).await.unwrap();
    house
        .datasets
        .read_samples(&samples, |sample, bytes| {
            let picture = image::load_from_memory(&bytes).unwrap().into_luma8();
            decoded.insert(picture.into_raw(), sample.truth.clone());
            Ok(())
        })
        .await
        .unwrap();
    let csv = include_bytes!("../../assets/digits.csv.gz");
    let mut lines = String::new();
    std::io::Read::read_to_string(&mut flate2::read::GzDecoder::new(&csv[..]), &mut lines).unwrap();
    for line in lines.lines() {
        let mut values: Vec<u32> = line.split(',').map(|v| v.parse().unwrap()).collect();
        let label = values.pop().unwrap();
        let pixels: Vec<u8> = values.iter().map(|v| ((v * 255 + 8) / 16) as u8).collect();
        assert_eq!(decoded.get(&pixels), Some(&Truth::Class(label)));
    }
}

/// The bundled data must mean the same in every build: lineage names this digest.
#[tokio::test]
async fn the_bundled_digits_have_one_digest_for_ever() {
    let house = House::new();
    let report = house.import(digits()).await.unwrap();
    assert_eq!(report.version.digest.to_string(), include_str!("digits.digest").trim());
}

#[tokio::test]
async fn importing_the_same_again_gives_the_same_version_and_says_so() {
    let house = House::new();
    let first = house.import(digits()).await.unwrap();
    let before = house.left().await;
    let again = house.import(digits()).await.unwrap();
    assert!(again.existing);
    assert_eq!(again.version, first.version);
    assert_eq!(house.left().await, before);

    let mut other = digits();
    other.options.seed = 7;
    let second = house.import(other).await.unwrap();
    assert!(!second.existing);
    assert_eq!(second.version.version, 2);
    assert_ne!(second.version.digest, first.version.digest);
    let name = &first.version.dataset;
    assert_eq!(house.datasets.get(name).await.unwrap().latest_version, 2);
    assert_eq!(house.datasets.version(name, Some(1)).await.unwrap(), first.version);
    assert_eq!(house.datasets.version(name, None).await.unwrap(), second.version);
    assert_eq!(house.datasets.versions(name).await.unwrap(), [first.version, second.version]);
    assert_eq!(house.datasets.list(None, 10).await.unwrap().len(), 1);
}

#[tokio::test]
async fn an_import_writes_its_audit_record() {
    let house = House::new();
    house.import(digits()).await.unwrap();
    let trail = audit::list(&*house.records, audit::Order::OldestFirst, None, 10).await.unwrap();
    assert_eq!(trail.len(), 1);
    assert_eq!((trail[0].action.as_str(), trail[0].subject.as_str()), ("dataset:import", "dataset/digits/1"));
}

#[tokio::test]
async fn samples_are_found_by_split_and_digest_and_written_for_a_job() {
    let house = House::new();
    let version = house.import(digits()).await.unwrap().version;
    let mut seen = BTreeSet::new();
    for split in Split::ALL {
        let samples = house.datasets.samples(&version, Some(split)).await.unwrap();
        assert_eq!(samples.len() as u64, version.splits.of(split));
        let path = house.path(split.as_str());
        assert_eq!(house.datasets.write_split(&version, split, &path).await.unwrap(), samples.len() as u64);
        let read: Vec<_> = SampleFile::open(&path).unwrap().map(|sample| sample.unwrap()).collect();
        assert_eq!(read.len(), samples.len());
        for (sample, (label, bytes)) in samples.iter().zip(read) {
            assert_eq!((sample.truth.clone(), sample.digest), (label, Digest::of(&bytes)));
            assert!(seen.insert(sample.digest), "a sample stands in one split only");
        }
    }
    let some = house.datasets.samples(&version, None).await.unwrap().swap_remove(1000);
    let found = house.datasets.sample(&version, &some.digest).await.unwrap();
    assert_eq!(found, some);
    assert_eq!(Digest::of(&house.datasets.sample_bytes(&found).await.unwrap()), some.digest);
    let error = house.datasets.sample(&version, &Digest::of(b"none")).await.unwrap_err();
    assert_eq!(error.code(), ErrorCode::NotFound);
}
