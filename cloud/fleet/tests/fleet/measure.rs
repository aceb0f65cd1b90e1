//! A device is asked to measure a model: it may fetch that and no more, and whoever asked gets its figures.

use crate::support::{Device, Installation, device, model, onnx, pipeline};
use bytes::Bytes;
use flotilla_fleet::Stage;
use flotilla_identity::now_ms;
use flotilla_protocol::manifest::ReleaseKind;
use flotilla_protocol::message::{
    CommandKind, CommandReport, CommandState, Desired, Measured, Measurement, Reported,
};
use flotilla_protocol::topic::Up;
use flotilla_protocol::{Digest, Envelope, ErrorCode, ReleaseManifest};
use flotilla_registry::ToMeasure;

fn wanted() -> ToMeasure {
    ToMeasure {
        model: model("digits"),
        version: 0,
        onnx: onnx(3.0),
        pipeline: pipeline(),
        inputs: vec![Bytes::from_static(&[1, 2, 3, 4])],
    }
}

/// The document that asks for a measurement; those before it do not.
async fn asked(gate: &mut Device) -> (Desired, u64, Measurement) {
    loop {
        let desired = gate.desired().await;
        let Some(command) = desired.commands.first().cloned() else { continue };
        let CommandKind::Measure(wanted) = command.kind else { panic!("{command:?}") };
        return (desired, command.id, wanted);
    }
}

fn report(version: u64, desired: &Desired, command: CommandReport) -> Reported {
    Reported {
        version,
        desired_version: desired.version,
        models: Default::default(),
        commands: vec![command],
        agent: None,
        shadows: Default::default(),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_device_fetches_what_it_is_to_measure_and_whoever_asked_gets_its_figures() {
    let folder = tempfile::tempdir().unwrap();
    let installation = Installation::open(folder.path()).await;
    let (mut gate, mut other) = (installation.device("gate-7").await, installation.device("gate-8").await);
    let (fleet, admin) = (installation.fleet.clone(), installation.admin.clone());
    let measuring =
        tokio::spawn(async move { fleet.measure(&admin, &device("gate-7"), wanted(), 60_000).await });
    let (desired, id, measurement) = asked(&mut gate).await;

    let envelope = gate.download(measurement.manifest).await;
    assert_eq!(envelope.len(), measurement.envelope_bytes as usize);
    let trust = installation.registry.trust();
    let envelope = Envelope::from_bytes(&envelope).unwrap();
    let manifest = ReleaseManifest::open(&envelope, &trust.file, now_ms()).unwrap();
    assert_eq!(manifest.kind, ReleaseKind::Measurement);
    for file in &manifest.files {
        assert_eq!(gate.download(file.digest).await.len() as u64, file.bytes);
        other.fetch(file.digest, 0, 1).await;
        assert_eq!(other.refusal().await, ErrorCode::FetchDenied, "nobody else is to measure it");
    }
    assert!(installation.registry.releases(&model("digits"), None, 10).await.unwrap().is_empty());

    let measured = Measured {
        vectors: 1,
        p50_us: 1_500,
        p95_us: 1_900,
        peak_bytes: 1 << 24,
        max_error_micro: 2,
        outputs: Digest::of(b"scores"),
    };
    let done = CommandReport { id, state: CommandState::Done, diagnosis: None, measured: Some(measured) };
    gate.send(Up::Reported, &report(1, &desired, done)).await;
    assert_eq!(measuring.await.unwrap().unwrap(), measured);
    let after = gate.desired().await;
    assert!(after.commands.is_empty());
    gate.fetch(measurement.manifest, 0, 1).await;
    assert_eq!(gate.refusal().await, ErrorCode::FetchDenied, "it is over");
    let [(asked, Stage::Done)] = &installation.fleet.commands(&device("gate-7")).await.unwrap()[..] else {
        panic!("it is on record as done")
    };
    assert_eq!(asked.measured, Some(measured));
    installation.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_device_that_cannot_or_does_not_answer_is_named_with_why() {
    let folder = tempfile::tempdir().unwrap();
    let installation = Installation::open(folder.path()).await;
    let (fleet, admin) = (installation.fleet.clone(), installation.admin.clone());
    let missing = fleet.measure(&admin, &device("nobody"), wanted(), 1_000).await.unwrap_err();
    assert_eq!(missing.code(), ErrorCode::NotFound);
    let mut gate = installation.device("gate-7").await;
    let without = ToMeasure { inputs: Vec::new(), ..wanted() };
    let refused = fleet.measure(&admin, &device("gate-7"), without, 1_000).await.unwrap_err();
    assert_eq!(refused.code(), ErrorCode::InvalidInput);

    let waiting = {
        let (fleet, admin) = (fleet.clone(), admin.clone());
        tokio::spawn(async move { fleet.measure(&admin, &device("gate-7"), wanted(), 60_000).await })
    };
    let (desired, id, _) = asked(&mut gate).await;
    let state = CommandState::Failed { code: ErrorCode::Unsupported, detail: "an older agent".into() };
    gate.send(
        Up::Reported,
        &report(1, &desired, CommandReport { id, state, diagnosis: None, measured: None }),
    )
    .await;
    let failed = waiting.await.unwrap().unwrap_err();
    assert_eq!(failed.code(), ErrorCode::Unsupported);
    assert!(failed.to_string().contains("gate-7 did not measure it: an older agent"), "{failed}");

    let late = fleet.measure(&admin, &device("gate-7"), wanted(), 1).await.unwrap_err();
    assert_eq!(late.code(), ErrorCode::Expired);
    installation.close().await;
}
