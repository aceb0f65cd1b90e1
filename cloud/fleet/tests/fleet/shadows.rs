//! Shadows from order to figures, without an agent: what the device is told, what it may fetch, and what people see.

use crate::support::{Installation, device, model, soon};
use flotilla_fleet::{Error, RolloutRequest, ShadowView};
use flotilla_identity::audit;
use flotilla_protocol::message::{
    Epoch, Failure, Record, RecordBody, Reported, SHARE_ALL, ShadowPhase, ShadowReport, ShadowTelemetry,
    Stream, TelemetryBatch, TelemetrySample,
};
use flotilla_protocol::topic::Up;
use flotilla_protocol::{Digest, ErrorCode};

/// Waits until the shadow of `digits` on the one device looks as it should.
async fn until(installation: &Installation, wanted: impl Fn(&ShadowView) -> bool) -> ShadowView {
    let mut changes = installation.fleet.watch();
    soon(async {
        loop {
            let views = installation.fleet.shadows(&model("digits")).await.unwrap();
            if let Some(view) = views.into_iter().find(|view| wanted(view)) {
                return view;
            }
            let _ = changes.recv().await;
        }
    })
    .await
}

fn counted(release: Digest, against: Digest, compared: u64, agreed: u64) -> ShadowTelemetry {
    let mut telemetry = ShadowTelemetry {
        release: Some(release),
        against: Some(against),
        compared,
        agreed,
        ..ShadowTelemetry::default()
    };
    for _ in 0..compared {
        telemetry.confirmed.record(100, 0.5);
        telemetry.shadow.record(900, 0.75);
    }
    telemetry
}

fn sample(seq: u64, shadow: ShadowTelemetry) -> TelemetryBatch {
    let sample = TelemetrySample {
        uptime_s: seq,
        shadows: [(model("digits"), shadow)].into(),
        ..TelemetrySample::default()
    };
    let records = vec![Record { seq, at_ms: 1_000 * seq, body: RecordBody::Sample(sample) }];
    TelemetryBatch { epoch: Epoch(7), stream: Stream::Live, records, dropped: vec![] }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_shadow_is_ordered_fetched_compared_and_stopped() {
    let folder = tempfile::tempdir().unwrap();
    let installation = Installation::open(folder.path()).await;
    let (fleet, admin, digits) = (&installation.fleet, &installation.admin, model("digits"));
    let first = installation.release("digits", 1.0).await;
    let mut gate = installation.device("gate-7").await;
    gate.desired().await;

    // There is nothing to stand beside yet, and nothing of another release may be fetched.
    let second = installation.release("digits", 2.0).await;
    let early = fleet.start_shadow(admin, &digits, Some(&second.digest), None, SHARE_ALL).await;
    assert!(matches!(early, Err(Error::Invalid(_))), "{early:?}");
    let named = Some(vec![device("gate-7")]);
    let early = fleet.start_shadow(admin, &digits, Some(&second.digest), named.clone(), SHARE_ALL).await;
    assert!(early.unwrap_err().to_string().contains("roll a release out"));
    let request = RolloutRequest { release: Some(first.digest), ..RolloutRequest::newest(digits.clone()) };
    fleet.start_rollout(admin, request).await.unwrap();
    let desired = gate.desired_release("digits", Some(first.digest)).await;
    gate.confirm(&desired, "digits").await;
    gate.fetch(second.digest, 0, 1).await;
    assert_eq!(gate.refusal().await, ErrorCode::FetchDenied);

    // Mistakes are told.
    for share in [0, 1_001] {
        let error = fleet.start_shadow(admin, &digits, None, None, share).await.unwrap_err();
        assert_eq!(error.code(), ErrorCode::InvalidInput, "{error}");
    }
    let other = installation.release("faces", 1.0).await;
    let error = fleet.start_shadow(admin, &digits, Some(&other.digest), None, 10).await.unwrap_err();
    assert!(error.to_string().contains("one of model faces"), "{error}");
    let nobody = Some(vec![device("gate-8")]);
    let error = fleet.start_shadow(admin, &digits, None, nobody, 10).await.unwrap_err();
    assert_eq!(error.code(), ErrorCode::NotFound);

    // The newest release, on every device that runs the model.
    fleet.start_shadow(admin, &digits, None, None, 250).await.unwrap();
    let desired = loop {
        let desired = gate.desired().await;
        if !desired.shadows.is_empty() {
            break desired;
        }
    };
    let wanted = &desired.shadows[&digits];
    assert_eq!((wanted.release, wanted.share_per_mille), (second.digest, 250));
    assert_eq!(desired.models[&digits].release, first.digest, "the confirmed one stays");
    let envelope = gate.download(second.digest).await;
    assert_eq!(envelope.len(), wanted.envelope_bytes as usize);
    for file in &second.files {
        gate.fetch(file.digest, 0, 1).await;
    }
    let waiting = until(&installation, |view| view.wanted == Some(second.digest)).await;
    assert_eq!((waiting.report, waiting.figures), (None, None));

    // What the device says of it, and what it counted, over a restart of its agent.
    let failure = Failure { release: second.digest, code: ErrorCode::NoRoom, detail: "ü".repeat(2_000) };
    let report = ShadowReport {
        release: second.digest,
        phase: ShadowPhase::Failed,
        attempt: wanted.attempt,
        bytes_done: 0,
        bytes_total: 0,
        bytes_reused: 0,
        failure: Some(failure),
    };
    let reported = Reported {
        version: 50,
        desired_version: desired.version,
        models: Default::default(),
        commands: vec![],
        agent: None,
        shadows: [(digits.clone(), report)].into(),
    };
    gate.send(Up::Reported, &reported).await;
    let failed = until(&installation, |view| view.report.is_some()).await.report.unwrap();
    assert_eq!((failed.phase, failed.failure.unwrap().code), (ShadowPhase::Failed, ErrorCode::NoRoom));
    for (seq, compared, agreed) in [(1, 8, 6), (2, 10, 8), (3, 2, 2)] {
        gate.send(Up::Telemetry, &sample(seq, counted(second.digest, first.digest, compared, agreed))).await;
    }
    let seen = |view: &ShadowView| view.figures.as_ref().is_some_and(|figures| figures.compared == 12);
    let figures = until(&installation, seen).await.figures.unwrap();
    assert_eq!((figures.agreed, figures.against), (10, Some(first.digest)));
    assert_eq!(figures.shadow.mean_confidence(figures.compared), Some(0.75));

    // Stopped, its figures stay; nothing of it may be fetched any more.
    fleet.stop_shadow(admin, &digits, named.clone()).await.unwrap();
    assert!(gate.desired().await.shadows.is_empty());
    fleet.stop_shadow(admin, &digits, None).await.unwrap();
    let stopped = until(&installation, |view| view.wanted.is_none()).await;
    assert_eq!(stopped.figures.map(|figures| figures.compared), Some(12));
    gate.fetch(second.digest, 0, 1).await;
    while gate.refusal().await != ErrorCode::FetchDenied {}

    let trail = audit::list(&*installation.records, audit::Order::NewestFirst, None, 500).await.unwrap();
    let count = |action: &str| trail.iter().filter(|entry| entry.action == action).count();
    assert_eq!(
        (count("shadow:start"), count("shadow:stop")),
        (1, 1),
        "stopping what does not run changes nothing"
    );
    installation.close().await;
}
