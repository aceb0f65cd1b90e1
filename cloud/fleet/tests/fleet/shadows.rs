//! Shadows from order to figures, without an agent: what the device is told, what it may fetch, and what people see.

use crate::support::{Device, Installation, device, model, soon};
use flotilla_fleet::{Error, Order, Ordered, RolloutRequest, ShadowView, WaveSpec};
use flotilla_identity::audit;
use flotilla_protocol::manifest::agent_name;
use flotilla_protocol::message::{
    Epoch, Failure, HardExamples, Record, RecordBody, Reported, SHARE_ALL, ShadowPhase, ShadowReport,
    ShadowTelemetry, Stream, TelemetryBatch, TelemetrySample,
};
use flotilla_protocol::topic::Up;
use flotilla_protocol::{Digest, ErrorCode};
use flotilla_storage::{Batch, Key, Table};

/// Waits until the shadow of `digits` on the one device looks as it should.
pub(crate) async fn until(installation: &Installation, wanted: impl Fn(&ShadowView) -> bool) -> ShadowView {
    let mut changes = installation.fleet.watch();
    soon(async {
        loop {
            let shadows = installation.fleet.shadows(&model("digits"), 10).await.unwrap();
            if let Some(view) = shadows.devices.into_iter().find(|view| wanted(view)) {
                return view;
            }
            let _ = changes.recv().await;
        }
    })
    .await
}

pub(crate) fn counted(release: Digest, against: Digest, compared: u64, agreed: u64) -> ShadowTelemetry {
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

pub(crate) fn sample(seq: u64, shadow: ShadowTelemetry) -> TelemetryBatch {
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
    let [Ordered { outcome: Err(early), .. }] = &early.unwrap()[..] else { panic!("it cannot be done") };
    assert!(early.to_string().contains("roll a release out"));
    assert!(fleet.all_shadows(10).await.unwrap().is_empty());
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
    let error = fleet.start_shadow(admin, &digits, None, Some(vec![]), 10).await.unwrap_err();
    assert_eq!(error.code(), ErrorCode::InvalidInput, "it names nobody");
    let error = fleet.start_shadow(admin, &agent_name(), None, None, 10).await.unwrap_err();
    assert!(error.to_string().contains("the agent itself"), "{error}");

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

    let shadows = fleet.all_shadows(0).await.unwrap();
    let [(name, shadows)] = shadows.iter().collect::<Vec<_>>()[..] else { panic!("{shadows:?}") };
    assert_eq!((name, shadows.devices.len(), shadows.left_out), (&digits, 0, 1), "all count, few are listed");
    assert_eq!(shadows.totals.iter().map(|total| total.compared).collect::<Vec<_>>(), [12]);

    // Stopped, its figures stay; nothing of it may be fetched any more.
    fleet.stop_shadow(admin, &digits, named.clone()).await.unwrap();
    assert!(gate.desired().await.shadows.is_empty());
    fleet.stop_shadow(admin, &digits, None).await.unwrap();
    assert!(fleet.all_shadows(10).await.unwrap().is_empty(), "there is none now");
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

/// Three devices that run the newest release of `digits`.
pub(crate) async fn three(installation: &Installation) -> Vec<Device> {
    let mut devices = Vec::new();
    for name in ["gate-1", "gate-2", "gate-3"] {
        devices.push(installation.device(name).await);
    }
    let request =
        RolloutRequest { waves: Some(vec![WaveSpec::Rest]), ..RolloutRequest::newest(model("digits")) };
    installation.fleet.start_rollout(&installation.admin, request).await.unwrap();
    for device in &mut devices {
        while device.desired().await.models.is_empty() {}
    }
    devices
}

async fn shadow_comes(device: &mut Device) {
    while device.desired().await.shadows.is_empty() {}
}

#[tokio::test(flavor = "multi_thread")]
async fn an_order_goes_on_behind_a_device_that_it_fails_on_and_tells_the_others() {
    let folder = tempfile::tempdir().unwrap();
    let installation = Installation::open(folder.path()).await;
    let (fleet, admin, digits) = (&installation.fleet, &installation.admin, model("digits"));
    installation.release("digits", 1.0).await;
    let mut devices = three(&installation).await;
    fleet.revoke(admin, &device("gate-2"), "stolen").await.unwrap();
    let named = ["gate-1", "gate-2", "gate-3", "no-such"].map(device).to_vec();
    let codes = |done: &[Ordered]| -> Vec<Option<ErrorCode>> {
        done.iter().map(|one| one.outcome.as_ref().err().map(Error::code)).collect()
    };

    let done = fleet.start_shadow(admin, &digits, None, Some(named.clone()), 10).await.unwrap();
    let failed = [None, Some(ErrorCode::Revoked), None, Some(ErrorCode::NotFound)];
    assert_eq!(done.iter().map(|one| &one.device).collect::<Vec<_>>(), named.iter().collect::<Vec<_>>());
    assert_eq!(codes(&done), failed);
    for at in [0, 2] {
        shadow_comes(&mut devices[at]).await;
    }

    let policy = HardExamples { audit_per_million: 5, daily_bytes: 1, ..HardExamples::default() };
    let done = fleet.consent(admin, Some(named.clone()), &digits, &policy).await.unwrap();
    assert_eq!(codes(&done), failed);
    for at in [0, 2] {
        while devices[at].desired().await.hard_examples.is_empty() {}
    }
    let error = fleet.consent(admin, None, &model("faces"), &policy).await.unwrap_err();
    assert_eq!(error.code(), ErrorCode::NotFound, "there is no such model");
    // Taken back from all that have it, although one of them is not allowed to connect any more.
    fleet.revoke(admin, &device("gate-1"), "stolen too").await.unwrap();
    let done = fleet.withdraw_consent(admin, None, &digits).await.unwrap();
    assert_eq!(codes(&done), [None, None]);
    while !devices[2].desired().await.hard_examples.is_empty() {}
    assert!(fleet.consents(&device("gate-1")).await.unwrap().is_empty());

    let done = fleet.stop_shadow(admin, &digits, Some(named)).await.unwrap();
    assert_eq!(codes(&done), [None, None, None, Some(ErrorCode::NotFound)]);
    assert_eq!(done.iter().filter(|one| matches!(one.outcome, Ok(true))).count(), 2);
    let error = fleet.command(admin, &device("gate-2"), &Order::Ping, None).await.unwrap_err();
    assert_eq!(error.code(), ErrorCode::Revoked, "nor does a command wait for ever");
    installation.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_order_is_carried_out_although_its_caller_has_gone() {
    let folder = tempfile::tempdir().unwrap();
    let installation = Installation::open(folder.path()).await;
    let (fleet, admin, digits) = (&installation.fleet, &installation.admin, model("digits"));
    installation.release("digits", 1.0).await;
    let mut devices = three(&installation).await;
    let mut changes = fleet.watch();
    {
        let mut order = std::pin::pin!(fleet.start_shadow(admin, &digits, None, None, 10));
        loop {
            tokio::select! {
                biased;
                _ = changes.recv() => if !fleet.all_shadows(0).await.unwrap().is_empty() { break },
                _ = &mut order => break,
            }
        }
    }
    for device in &mut devices {
        shadow_comes(device).await;
    }
    installation.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn where_nothing_is_shadowed_no_device_is_read_to_say_so() {
    let folder = tempfile::tempdir().unwrap();
    let installation = Installation::open(folder.path()).await;
    installation.enrol("gate-7").await;
    // Whoever reads these cannot go on.
    let mut batch = Batch::new();
    for table in ["twins", "shadow-figures", "report-shadows"] {
        batch.put(Key::new(Table::new(table), "gate-0"), "unreadable");
    }
    installation.records.commit(batch).await.unwrap();
    assert!(installation.fleet.all_shadows(10).await.unwrap().is_empty());
    let shadows = installation.fleet.shadows(&model("digits"), 10).await.unwrap();
    assert!(shadows.devices.is_empty() && shadows.totals.is_empty());
    installation.close().await;
}
