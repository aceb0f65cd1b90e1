//! One device: its documents, records, downloads and commands, and what happens when something is wrong with it.

use crate::support::{Installation, device, model};
use flotilla_fleet::{DeviceState, Order, RolloutRequest, Stage, WaveSpec};
use flotilla_protocol::message::{
    Command, CommandKind, CommandReport, CommandState, Diagnosis, Epoch, EventKind, EventRecord, Finding,
    Record, RecordBody, ReplyBody, Reported, Request, RequestBody, SeqRange, Settings, Stream, Subject,
    TelemetryBatch, TelemetrySample, Upload, Verdict,
};
use flotilla_protocol::topic::Up;
use flotilla_protocol::{Digest, Envelope, ErrorCode, ReleaseManifest, limits};

fn samples(seqs: impl IntoIterator<Item = u64>) -> TelemetryBatch {
    let record = |seq| {
        let sample = TelemetrySample { uptime_s: seq, rss_bytes: 10 + seq, ..TelemetrySample::default() };
        Record { seq, at_ms: 1_000 * seq, body: RecordBody::Sample(sample) }
    };
    let records = seqs.into_iter().map(record).collect();
    TelemetryBatch { epoch: Epoch(7), stream: Stream::Live, records, dropped: vec![] }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_device_gets_its_signed_document_after_each_hello_and_shows_in_the_view() {
    let folder = tempfile::tempdir().unwrap();
    let installation = Installation::open(folder.path()).await;
    let credentials = installation.enrol("gate-7").await;
    let mut gate = installation.connect(&credentials, 1).await;
    let desired = gate.desired().await;
    assert_eq!((desired.version, desired.models.len()), (1, 0));
    let view = installation.until("gate-7", |view| view.connected && !view.agent.is_empty()).await;
    assert_eq!((view.agent.as_str(), view.board.board.as_str()), ("test 1.0", "test-board"));
    assert_eq!(view.state, DeviceState::Active);

    // What it should do changes: the newer document comes by itself.
    let settings = Settings { telemetry_interval_s: 5, ..Settings::default() };
    let change = |_: &Settings| Ok(settings.clone());
    installation.fleet.configure(&installation.admin, &device("gate-7"), change).await.unwrap();
    let newer = gate.desired().await;
    assert_eq!((newer.version, newer.settings.telemetry_interval_s), (2, 5));
    // And whenever it asks.
    gate.send(Up::Request, &Request { id: 1, body: RequestBody::Desired }).await;
    assert_eq!(gate.desired().await.version, 2);

    let mut again = installation.connect(&credentials, 2).await;
    assert_eq!(again.desired().await.version, 2);
    gate.closed().await;
    drop(again);
    let view = installation.until("gate-7", |view| !view.connected).await;
    assert!(view.last_seen_ms.is_some() && view.traffic.sent > 0 && view.traffic.received > 0);
    assert_eq!(view.health, Default::default(), "nothing was wrong");
    installation.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_copied_folder_shows_itself() {
    let folder = tempfile::tempdir().unwrap();
    let installation = Installation::open(folder.path()).await;
    let credentials = installation.enrol("gate-7").await;
    let _first = installation.connect(&credentials, 5).await;
    installation.until("gate-7", |view| !view.agent.is_empty()).await;
    let _copy = installation.connect(&credentials, 5).await;
    let view = installation.until("gate-7", |view| view.health.repeated_hellos == 1).await;
    assert_eq!(view.health.last_problem.unwrap().code, ErrorCode::Replayed);
    installation.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn records_are_acknowledged_when_durable_and_counted_once() {
    let folder = tempfile::tempdir().unwrap();
    let installation = Installation::open(folder.path()).await;
    let credentials = installation.enrol("gate-7").await;
    let mut gate = installation.connect(&credentials, 1).await;
    gate.send(Up::Telemetry, &samples(1..=3)).await;
    let ack = gate.ack().await;
    assert_eq!((ack.epoch, ack.stream, ack.up_to), (Epoch(7), Stream::Live, 3));
    gate.send(Up::Telemetry, &samples(1..=3)).await;
    assert_eq!(gate.ack().await.up_to, 3, "a repetition is acknowledged again");
    gate.send(Up::Telemetry, &samples(6..=7)).await;
    assert_eq!(gate.ack().await.up_to, 3, "what is missing is not acknowledged");
    let declared = TelemetryBatch { dropped: vec![SeqRange { first: 4, last: 5 }], ..samples(6..=7) };
    gate.send(Up::Telemetry, &declared).await;
    assert_eq!(gate.ack().await.up_to, 7);
    let event = EventRecord {
        kind: EventKind::Started,
        model: None,
        release: None,
        code: None,
        detail: "power on".into(),
    };
    let event = Record { seq: 1, at_ms: 5, body: RecordBody::Event(event) };
    let events = TelemetryBatch { stream: Stream::Event, records: vec![event], ..samples([]) };
    gate.send(Up::Event, &events).await;
    assert_eq!(gate.ack().await.stream, Stream::Event);

    let view = installation.until("gate-7", |view| view.rss_bytes == Some(17)).await;
    assert_eq!((view.uptime_s, view.sampled_at_ms), (Some(7), Some(7_000)));
    installation.close().await;

    // The control plane comes back: nothing is lost, nothing is counted twice.
    let installation = Installation::open(folder.path()).await;
    let mut gate = installation.connect(&credentials, 2).await;
    gate.send(Up::Telemetry, &samples(6..=8)).await;
    assert_eq!(gate.ack().await.up_to, 8);
    installation.until("gate-7", |view| view.rss_bytes == Some(18)).await;
    let history = installation.fleet.history(&device("gate-7")).await.unwrap();
    assert_eq!(history.iter().map(|point| point.at_ms / 1000).collect::<Vec<_>>(), [1, 2, 3, 6, 7, 8]);
    let events = installation.fleet.events(&device("gate-7")).await.unwrap();
    assert_eq!(events.iter().map(|event| event.detail.as_str()).collect::<Vec<_>>(), ["power on"]);
    installation.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_fresh_record_is_acknowledged_in_its_turn_while_a_backlog_is_replayed() {
    let folder = tempfile::tempdir().unwrap();
    let installation = Installation::open(folder.path()).await;
    let mut gate = installation.device("gate-7").await;
    gate.desired().await;
    let backlog = |number: u64| {
        let first = number * limits::TELEMETRY_BATCH as u64 + 1;
        let records = samples(first..first + limits::TELEMETRY_BATCH as u64);
        TelemetryBatch { stream: Stream::Backlog, ..records }
    };
    // Thousands of records, and in their midst a live one. Nothing is waited for in between.
    for number in 0..16 {
        gate.post(Up::Telemetry, &backlog(number));
        if number == 3 {
            gate.post(Up::Telemetry, &samples(1..=1));
        }
    }
    let mut order = Vec::new();
    for _ in 0..17 {
        order.push(gate.ack().await.stream);
    }
    let live = order.iter().position(|stream| *stream == Stream::Live);
    assert_eq!(live, Some(4), "every publish is acknowledged in the order of publishes: {order:?}");
    installation.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn whatever_a_device_sends_the_conversation_goes_on() {
    let folder = tempfile::tempdir().unwrap();
    let installation = Installation::open(folder.path()).await;
    let credentials = installation.enrol("gate-7").await;
    let mut gate = installation.try_connect(&credentials).await.unwrap();
    gate.send(Up::Telemetry, &samples(1..=1)).await;
    gate.hello(1, 0).await;
    gate.desired().await;
    for channel in Up::ALL {
        gate.send_bytes(*channel, b"\xff not CBOR".to_vec()).await;
        gate.send_bytes(*channel, vec![]).await;
    }
    gate.send(Up::Telemetry, &TelemetryBatch { epoch: Epoch(8), ..samples(1..=1) }).await;
    gate.send(Up::Event, &samples(1..=1)).await;
    gate.send(Up::Telemetry, &samples([3, 2, 1])).await;
    let upload = Upload {
        id: 9,
        digest: Digest::of(b""),
        offset: 0,
        total: 0,
        data: vec![],
        example: None,
        log: None,
    };
    gate.send(Up::Upload, &upload).await;
    assert_eq!(gate.refusal().await, ErrorCode::InvalidInput);
    gate.send(Up::Telemetry, &samples(1..=1)).await;
    assert_eq!(gate.ack().await.up_to, 1);
    drop(gate);
    let view = installation.until("gate-7", |view| !view.connected).await;
    assert_eq!(view.health.refused_messages, 1 + 2 * Up::ALL.len() as u64 + 3);
    installation.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_device_fetches_what_it_should_run_and_nothing_else() {
    let folder = tempfile::tempdir().unwrap();
    let installation = Installation::open(folder.path()).await;
    let (ours, theirs) =
        (installation.release("digits", 1.0).await, installation.release("faces", 2.0).await);
    let mut gate = installation.device("gate-7").await;
    let mut other = installation.device("gate-8").await;
    gate.fetch(ours.digest, 0, 1).await;
    assert_eq!(gate.refusal().await, ErrorCode::FetchDenied, "not before it is told to run it");

    for (release, name, id) in [(&ours, "digits", "gate-7"), (&theirs, "faces", "gate-8")] {
        let devices = Some(vec![device(id)]);
        let request = RolloutRequest { devices, ..RolloutRequest::newest(model(name)) };
        installation.fleet.start_rollout(&installation.admin, request).await.unwrap();
        assert_eq!(release.model, model(name));
    }
    gate.desired_release("digits", Some(ours.digest)).await;
    other.desired_release("faces", Some(theirs.digest)).await;

    let envelope = gate.download(ours.digest).await;
    let manifest = ReleaseManifest::open(
        &Envelope::from_bytes(&envelope).unwrap(),
        &gate.trust,
        flotilla_identity::now_ms(),
    )
    .unwrap();
    let mut bytes = envelope.len() as u64;
    for file in &manifest.files {
        assert_eq!(gate.download(file.digest).await.len() as u64, file.bytes);
        bytes += file.bytes;
    }
    assert!(installation.fleet.traffic().sent >= bytes, "model bytes are counted");

    let trust = installation.objects.list(None, 100).await.unwrap();
    let allowed = installation.registry.reachable(&ours.digest).await.unwrap();
    let foreign: Vec<Digest> = trust.into_iter().filter(|digest| !allowed.contains(digest)).collect();
    assert!(foreign.contains(&theirs.digest) && foreign.len() > 3);
    for digest in foreign.into_iter().chain([Digest::of(b"no such file")]) {
        gate.fetch(digest, 0, 1).await;
        assert_eq!(gate.refusal().await, ErrorCode::FetchDenied);
    }
    for (offset, chunks) in [(1, 1), (0, 0), (0, 17), (1 << 30, 1), (u64::MAX - 1, 16)] {
        gate.fetch(ours.digest, offset, chunks).await;
        assert_eq!(gate.refusal().await, ErrorCode::InvalidInput, "{offset} {chunks}");
    }
    other.download(theirs.digest).await;
    installation.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_device_that_takes_nothing_holds_up_nobody() {
    let folder = tempfile::tempdir().unwrap();
    let installation = Installation::open(folder.path()).await;
    let release = installation.release("digits", 1.0).await;
    let mut stuck = installation.device("stuck").await;
    let mut gate = installation.device("gate-7").await;
    let request =
        RolloutRequest { waves: Some(vec![WaveSpec::Rest]), ..RolloutRequest::newest(model("digits")) };
    installation.fleet.start_rollout(&installation.admin, request).await.unwrap();
    stuck.desired_release("digits", Some(release.digest)).await;
    gate.desired_release("digits", Some(release.digest)).await;
    let file = release.files.iter().find(|file| file.name == "model.onnx").unwrap().digest;
    // It asks for far more than it takes, and then does not even read.
    for _ in 0..60 {
        stuck.fetch(file, 0, 16).await;
    }
    assert_eq!(gate.download(file).await.len() as u64, release.files[0].bytes);
    gate.send(Up::Telemetry, &samples(1..=1)).await;
    assert_eq!(gate.ack().await.up_to, 1);
    drop(stuck);
    installation.until("stuck", |view| !view.connected).await;
    installation.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_revoked_device_is_sent_away_and_stays_out() {
    let folder = tempfile::tempdir().unwrap();
    let installation = Installation::open(folder.path()).await;
    let credentials = installation.enrol("gate-7").await;
    let mut gate = installation.connect(&credentials, 1).await;
    gate.desired().await;
    installation.fleet.revoke(&installation.admin, &device("gate-7"), "stolen").await.unwrap();
    gate.closed().await;
    assert!(installation.try_connect(&credentials).await.is_err());
    let view = installation.until("gate-7", |view| !view.connected).await;
    assert!(matches!(view.state, DeviceState::Revoked { ref reason, .. } if reason == "stolen"));
    let unknown = installation.fleet.revoke(&installation.admin, &device("x"), "").await.unwrap_err();
    assert_eq!(unknown.code(), ErrorCode::NotFound);
    installation.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn commands_wait_for_the_device_and_end_when_it_reports_them() {
    let folder = tempfile::tempdir().unwrap();
    let installation = Installation::open(folder.path()).await;
    let credentials = installation.enrol("gate-7").await;
    let id =
        installation.fleet.command(&installation.admin, &device("gate-7"), &Order::Ping, None).await.unwrap();
    let mut gate = installation.connect(&credentials, 1).await;
    let desired = gate.desired().await;
    assert_eq!(desired.commands.iter().map(|command| command.id).collect::<Vec<_>>(), [id]);
    let done = Reported {
        version: 1,
        desired_version: desired.version,
        models: Default::default(),
        commands: vec![CommandReport { id, state: CommandState::Done, diagnosis: None, measured: None }],
        agent: None,
        shadows: Default::default(),
    };
    gate.send(Up::Reported, &done).await;
    let after = gate.desired().await;
    assert!(after.version > desired.version && after.commands.is_empty());
    let [(asked, Stage::Done)] = &installation.fleet.commands(&device("gate-7")).await.unwrap()[..] else {
        panic!("it is on record as done")
    };
    assert_eq!((asked.id, asked.by.as_ref()), (id, Some(&installation.admin.id)));
    assert_eq!(asked.outcome, Some(CommandState::Done));
    let none =
        installation.fleet.command(&installation.admin, &device("gate-7"), &Order::Ping, Some(0)).await;
    assert_eq!(none.unwrap_err().code(), ErrorCode::InvalidInput);
    installation.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_examination_is_answered_with_findings_within_their_bounds_or_with_why_not() {
    let folder = tempfile::tempdir().unwrap();
    let installation = Installation::open(folder.path()).await;
    let credentials = installation.enrol("gate-7").await;
    let (fleet, id) = (&installation.fleet, device("gate-7"));
    let ask = async || fleet.command(&installation.admin, &id, &Order::Diagnostics, None).await.unwrap();
    let first = ask().await;
    assert_eq!(ask().await, first, "who asks while a question is open waits for its answer");
    assert_eq!(fleet.examination(&id).await.unwrap(), (Some(first), None));

    let mut gate = installation.connect(&credentials, 1).await;
    let desired = gate.desired().await;
    let [Command { id: asked, kind: CommandKind::Diagnostics, deadline_ms: Some(_) }] = desired.commands[..]
    else {
        panic!("{:?}", desired.commands)
    };
    assert_eq!(asked, first);
    let finding = Finding {
        subject: Subject::Disk,
        verdict: Verdict::Fail,
        code: Some(ErrorCode::NoRoom),
        what: "\n\"".repeat(500),
        remedy: "free some room".into(),
    };
    let diagnosis = Diagnosis { at_ms: 1, agent: "0.1.0".into(), findings: vec![finding; 60], left_out: 0 };
    let report = |version, id, state, diagnosis| Reported {
        version,
        desired_version: desired.version,
        models: Default::default(),
        commands: vec![CommandReport { id, state, diagnosis, measured: None }],
        agent: None,
        shadows: Default::default(),
    };
    gate.send(Up::Reported, &report(1, first, CommandState::Done, Some(diagnosis))).await;
    assert!(gate.desired().await.commands.is_empty());
    let (open, answer) = fleet.examination(&id).await.unwrap();
    let answer = answer.unwrap();
    assert_eq!((open, answer.command), (None, first));
    let kept = answer.diagnosis.unwrap();
    assert_eq!(kept.findings.len(), limits::DIAGNOSIS_FINDINGS);
    assert!(kept.findings.iter().all(|f| f.what.len() <= limits::DIAGNOSIS_TEXT && !f.what.contains('\n')));

    // An older agent does not know the command.
    let second = ask().await;
    gate.desired().await;
    let unknown =
        CommandState::Failed { code: ErrorCode::Unsupported, detail: "agent 0.1.0 does not know it".into() };
    gate.send(Up::Reported, &report(2, second, unknown.clone(), None)).await;
    gate.desired().await;
    let (_, answer) = fleet.examination(&id).await.unwrap();
    let answer = answer.unwrap();
    assert_eq!((answer.command, answer.outcome, answer.diagnosis), (second, unknown, None));
    assert_eq!(fleet.examination(&device("gate-8")).await.unwrap_err().code(), ErrorCode::NotFound);
    installation.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_raised_floor_reaches_connected_devices_when_they_come_back() {
    let folder = tempfile::tempdir().unwrap();
    let installation = Installation::open(folder.path()).await;
    installation.release("digits", 1.0).await;
    installation.release("digits", 2.0).await;
    let credentials = installation.enrol("gate-7").await;
    let mut gate = installation.connect(&credentials, 1).await;
    gate.desired().await;
    gate.send(Up::Request, &Request { id: 1, body: RequestBody::Trust { have: 1 } }).await;
    assert_eq!(gate.reply().await.body, ReplyBody::Ok, "nothing newer");
    installation.fleet.set_floor(&installation.admin, &model("digits"), 2).await.unwrap();
    gate.closed().await;
    let mut gate = installation.connect(&credentials, 2).await;
    gate.send(Up::Request, &Request { id: 2, body: RequestBody::Trust { have: 1 } }).await;
    let ReplyBody::Trust(bytes) = gate.reply().await.body else { panic!("a trust file") };
    let next = gate.trust.accept_next(&Envelope::from_bytes(&bytes).unwrap()).unwrap();
    assert_eq!((next.version, next.floor(&model("digits"))), (2, 2));
    installation.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_device_that_knows_more_than_a_restored_backup_still_gets_its_documents() {
    let folder = tempfile::tempdir().unwrap();
    let installation = Installation::open(folder.path()).await;
    let credentials = installation.enrol("gate-7").await;
    let mut gate = installation.try_connect(&credentials).await.unwrap();
    gate.hello(1, 40).await;
    assert!(gate.desired().await.version > 40);
    installation.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_taken_port_says_so() {
    let folder = tempfile::tempdir().unwrap();
    let installation = Installation::open(folder.path()).await;
    let other = tempfile::tempdir().unwrap();
    let refused = Installation::try_open(other.path(), installation.fleet.mqtt_addr()).await.err().unwrap();
    assert_eq!(refused.code(), ErrorCode::PortInUse);
    installation.close().await;
}
