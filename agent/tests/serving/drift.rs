//! The model host compares what it is asked with the release's baseline.

use crate::support::{always, golden, name, release, write_slot_with};
use flotilla_agent::host::ModelHost;
use flotilla_protocol::baseline::{Baseline, Feature};
use flotilla_protocol::manifest::ENGINE_TRACT;
use flotilla_protocol::message::{Drift, SlotName};
use flotilla_protocol::{Envelope, ReleaseManifest, codec, limits};
use flotilla_runtime::drift::{Collector, HALF_WINDOW};
use flotilla_runtime::{Bundle, Input, Model, Stream, Values};
use std::time::Duration;

/// Pictures of every brightness.
fn pictures() -> impl Iterator<Item = [u8; 4]> + Clone {
    (0..HALF_WINDOW).map(|n| [(n * 255 / HALF_WINDOW) as u8, 9, 40, (n % 50) as u8])
}

/// What a release is that was trained with [`pictures`].
fn trained() -> Baseline {
    let mut model = crate::support::model(1);
    let mut collector = Collector::new(&crate::support::pipeline());
    for picture in pictures() {
        collector.trained(&mut model, Input::Raw(&picture)).unwrap();
        collector.held_out(&mut model, Input::Raw(&picture)).unwrap();
    }
    collector.finish().unwrap()
}

/// A model as a device loads it, of a release with this baseline file.
fn loaded(baseline: Option<Vec<u8>>) -> Result<Model, flotilla_runtime::Error> {
    let folder = tempfile::tempdir().unwrap();
    write_slot_with(folder.path(), &always(1), &golden(1), baseline);
    let envelope = std::fs::read(folder.path().join("release.cbor")).unwrap();
    let manifest: ReleaseManifest =
        codec::decode(&Envelope::from_bytes(&envelope).unwrap().payload, limits::ENVELOPE).unwrap();
    Model::from_bundle(&Bundle::open(folder.path().join("files"), manifest)?, "small", ENGINE_TRACT)
}

fn host(baseline: Option<Vec<u8>>) -> ModelHost {
    let host = ModelHost::new();
    host.install(name("letters"), release("r0"), SlotName::A, loaded(baseline).unwrap()).unwrap();
    host
}

fn drift(host: &ModelHost) -> Option<Drift> {
    host.telemetry()[&name("letters")].drift
}

fn predict(host: &ModelHost, pictures: impl IntoIterator<Item = [u8; 4]>) {
    for picture in pictures {
        host.predict(&name("letters"), Input::Raw(&picture)).unwrap();
    }
}

/// The same pictures as tensors, in one batch.
fn infer(host: &ModelHost, pictures: impl Iterator<Item = [u8; 4]>) {
    let tensor =
        |picture: [u8; 4]| vec![Values::Fp32(picture.map(|pixel| f32::from(pixel) / 255.0).to_vec())];
    let batch: Vec<Vec<Values>> = pictures.map(tensor).collect();
    host.admit(&name("letters")).unwrap().wait().infer(Stream::default(), &batch).unwrap();
}

#[test]
fn a_release_without_a_baseline_or_before_enough_predictions_has_no_score() {
    let blind = host(None);
    predict(&blind, pictures());
    assert_eq!(drift(&blind), None);
    let counted = &blind.telemetry()[&name("letters")].confidence;
    assert_eq!(counted.iter().sum::<u64>(), u64::from(HALF_WINDOW), "confidence needs no baseline");
    assert_eq!(counted.len(), 10, "always sure: {counted:?}");

    assert_eq!(codec::encode(&trained()), codec::encode(&trained()), "the same bytes every time");
    let host = host(Some(codec::encode(&trained())));
    predict(&host, pictures().skip(1));
    assert_eq!(drift(&host), None);
    predict(&host, pictures().take(1));
    let same = drift(&host).unwrap();
    assert_eq!((same.predictions, same.score()), (HALF_WINDOW, 0), "the very pictures of the training");
}

#[tokio::test]
async fn pictures_and_tensors_count_alike_and_a_shift_that_stays_is_told_once() {
    let host = host(Some(codec::encode(&trained())));
    let bright = || pictures().map(|_| [255, 250, 255, 250]);
    infer(&host, pictures());
    predict(&host, bright());
    let half = drift(&host).unwrap();
    assert_eq!((half.predictions, half.shift().as_str()), (HALF_WINDOW, "major shift"));
    assert!(host.take_drifted().is_empty(), "one judgement is not a full window");
    infer(&host, bright());
    tokio::time::timeout(Duration::from_secs(60), host.drifts()).await.expect("somebody is told");
    let told = host.take_drifted();
    assert_eq!(told.len(), 1);
    assert_eq!((&told[0].model, told[0].release, told[0].threshold), (&name("letters"), release("r0"), 250));
    assert_eq!(told[0].drift.feature, Some(Feature::Brightness));
    predict(&host, bright().chain(bright()));
    assert!(host.take_drifted().is_empty(), "not again while it lasts");

    // The next release starts from nothing, also one of the same model.
    let again = loaded(Some(codec::encode(&trained()))).unwrap();
    host.install(name("letters"), release("r1"), SlotName::B, again).unwrap();
    assert_eq!(drift(&host), None);
    predict(&host, pictures());
    assert_eq!(drift(&host).unwrap().score(), 0);

    // A higher threshold lets more pass.
    host.set_drift_threshold(Some(5_000));
    let darker = || pictures().map(|[a, b, c, d]| [a / 3, b, c / 3, d]);
    predict(&host, darker().chain(darker()).chain(darker()));
    assert!((251..5_000).contains(&drift(&host).unwrap().score()), "{:?}", drift(&host));
    assert!(host.take_drifted().is_empty());
}

#[test]
fn a_baseline_of_a_newer_format_is_passed_over_and_a_broken_one_refused() {
    let newer = codec::encode(&serde_json::json!({ "format": 2, "more": [1] }));
    let host = host(Some(newer));
    predict(&host, pictures());
    assert_eq!(drift(&host), None);
    let broken = Baseline { confidence: vec![1; 3], ..trained() };
    for bytes in [codec::encode(&broken), b"no baseline".to_vec()] {
        let error = loaded(Some(bytes)).unwrap_err();
        assert!(error.to_string().contains("baseline"), "{error}");
    }
}
