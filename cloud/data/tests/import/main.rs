//! Importing as a user meets it: real files in, a version or a clear refusal out, and nothing left behind.
#![expect(clippy::unwrap_used, reason = "tests fail by panicking")]

mod archives;
mod boxes;
mod bundled;
mod pictures;
mod real_data;
mod sample_sets;
mod sounds;
mod support;
mod tables;

use flotilla_data::{Datasets, Error, ImportOptions, ImportRequest, ImportStage, Source};
use flotilla_identity::Actor;
use flotilla_protocol::{DatasetName, ErrorCode};
use std::fs;
use support::{House, NOW, png, request, two_classes, zip};
use tables::TABLE;

fn digits() -> ImportRequest {
    ImportRequest {
        name: DatasetName::new("digits").unwrap(),
        source: Source::BundledDigits,
        format: None,
        options: ImportOptions::default(),
    }
}

fn entries(all: &[(String, Vec<u8>)]) -> Vec<(&str, Vec<u8>)> {
    all.iter().map(|(name, content)| (name.as_str(), content.clone())).collect()
}

#[tokio::test]
async fn an_unknown_path_says_what_to_do() {
    let house = House::new();
    for path in [house.path("nowhere"), house.file("a.csv", "x").join("b")] {
        let error = house.import(request("x", &path)).await.unwrap_err();
        assert_eq!(error.code(), ErrorCode::DatasetPathMissing);
        let text = error.to_string();
        assert!(
            text.contains(path.to_str().unwrap()) && text.contains("on the machine that runs the server")
        );
    }
    assert_eq!(house.left().await, (0, 0));
}

#[tokio::test]
async fn an_unknown_format_lists_the_known_ones() {
    let house = House::new();
    fs::create_dir(house.path("empty")).unwrap();
    for path in [house.file("model.onnx", "x"), house.path("empty"), house.file("x.zip", zip(&[]))] {
        let error = house.import(request("x", &path)).await.unwrap_err();
        assert_eq!(error.code(), ErrorCode::DatasetFormat);
        for known in ["CLASS/picture", "IDX", "csv tables", "image-csv"] {
            assert!(error.to_string().contains(known), "{error}");
        }
    }
}

#[tokio::test]
async fn too_little_data_says_how_much_is_needed_and_what_was_wrong() {
    let house = House::new();
    let few: Vec<_> = two_classes("").into_iter().skip(8).take(4).collect();
    let one: Vec<_> = (0..20).map(|n| (format!("cat/{n}.png"), png(n))).collect();
    let bad: Vec<_> = (0..20).map(|n| (format!("cat/{n}.png"), vec![1])).collect();
    for (all, expected) in
        [(few, "4 samples, 10 are needed"), (one, "1 class, two"), (bad, "20 were skipped")]
    {
        let error = house.import(request("x", &house.file("x.zip", zip(&entries(&all))))).await.unwrap_err();
        assert_eq!(error.code(), ErrorCode::DatasetTooSmall);
        assert!(error.to_string().contains(expected), "{error}");
        assert_eq!(house.left().await, (0, 0));
    }
}

#[tokio::test]
async fn a_dataset_keeps_its_kind() {
    let house = House::new();
    let all = two_classes("");
    house.import(request("pets", &house.file("p.zip", zip(&entries(&all))))).await.unwrap();
    let before = house.left().await;
    let mut table = request("pets", &house.file("bank.csv", TABLE));
    table.options.label_column = Some("last".into());
    let error = house.import(table).await.unwrap_err();
    assert!(matches!(error, Error::KindDiffers { .. }));
    assert_eq!(house.left().await, before, "the refused import left nothing");
}

#[tokio::test]
async fn bounds_of_the_caller_hold() {
    let house = House::new();
    let mut small = digits();
    small.options.max_samples = 1000;
    let error = house.import(small).await.unwrap_err();
    assert_eq!(error.code(), ErrorCode::TooLarge);
    assert_eq!(house.left().await, (0, 0));
    let mut wrong = digits();
    wrong.options.max_samples = 0;
    assert_eq!(house.import(wrong).await.unwrap_err().code(), ErrorCode::InvalidInput);
    let unknown = r#"{"seed": 1, "sead": 2}"#;
    serde_json::from_str::<ImportOptions>(unknown).unwrap_err();
}

#[tokio::test]
async fn a_given_up_import_leaves_nothing_once_the_next_one_runs() {
    let house = House::new();
    let mut handed = house.datasets.clone();
    {
        let actor = Actor::administrator();
        let mut first = true;
        let (stopped, stop) = tokio::sync::oneshot::channel();
        let mut stopped = Some(stopped);
        let mut progress = |p: flotilla_data::ImportProgress| {
            // By now the packs are stored.
            if p.stage == ImportStage::Finishing && std::mem::take(&mut first) {
                stopped.take().unwrap().send(()).unwrap();
            }
        };
        let import = handed.import(&actor, digits(), &mut progress, NOW);
        tokio::select! {
            biased;
            _ = stop => {}
            _ = import => panic!("the import is dropped before its end"),
        }
    }
    assert_ne!(house.left().await, (0, 0), "the pack and its note are there");
    // As after a restart: another handle on the same storage.
    handed = Datasets::new(house.records.clone(), house.objects.clone());
    let error = handed.import(&Actor::system(), request("x", &house.path("no")), &mut |_| {}, NOW).await;
    assert_eq!(error.unwrap_err().code(), ErrorCode::DatasetPathMissing);
    assert_eq!(house.left().await, (0, 0));
}
