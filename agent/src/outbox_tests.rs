//! Records over restarts, full disks' worth of them, and damage.
#![expect(clippy::unwrap_used, reason = "tests fail by panicking")]

use super::*;
use flotilla_protocol::message::{
    EventKind, EventRecord, ModelTelemetry, NpuSample, SeqRange, TelemetrySample,
};
use std::fs;

fn event(detail: &str) -> RecordBody {
    let detail = detail.to_owned();
    RecordBody::Event(EventRecord {
        kind: EventKind::Started,
        model: None,
        release: None,
        code: None,
        detail,
    })
}

fn sample(uptime_s: u64) -> RecordBody {
    RecordBody::Sample(TelemetrySample { uptime_s, ..TelemetrySample::default() })
}

fn open(folder: &Folder) -> Store {
    // The store before may still be on its way out: its threads let go of the folder a moment after it.
    let begun = std::time::Instant::now();
    let (store, repaired) = loop {
        match Store::open(folder) {
            Err(Unusable::System(problem)) if problem.contains("lock") && begun.elapsed().as_secs() < 30 => {
                std::thread::yield_now();
            }
            opened => break opened.unwrap(),
        }
    };
    assert_eq!(repaired, None);
    store
}

fn next(store: &mut Store, now_ms: u64) -> Option<(Up, TelemetryBatch)> {
    let (up, payload) = store.next(now_ms).unwrap()?;
    assert!(payload.len() <= limits::MQTT_PAYLOAD);
    let batch: TelemetryBatch = codec::decode(&payload, limits::MQTT_PAYLOAD).unwrap();
    assert_eq!(batch.check(), Ok(()));
    Some((up, batch))
}

fn ack(store: &mut Store, stream: Stream, up_to: u64) {
    let epoch = store.epoch();
    store.ack(&Ack { epoch, stream, up_to, reported: None }).unwrap();
}

fn folder() -> (tempfile::TempDir, Folder) {
    let root = tempfile::tempdir().unwrap();
    let folder = Folder::open(root.path()).unwrap();
    (root, folder)
}

#[test]
fn records_survive_a_restart_and_go_only_when_the_cloud_has_them() {
    let (_root, folder) = folder();
    let mut store = open(&folder);
    store.append(5, event("one")).unwrap();
    store.append(6, sample(1)).unwrap();
    let epoch = store.epoch();
    drop(store);

    let mut store = open(&folder);
    assert_eq!((store.epoch(), store.waiting()), (epoch, 2));
    assert_eq!(next(&mut store, 0), None);
    store.connected();
    let (up, batch) = next(&mut store, 0).unwrap();
    assert_eq!(
        (up, batch.stream, batch.records[0].seq, batch.records[0].at_ms),
        (Up::Event, Stream::Event, 1, 5)
    );
    let (up, batch) = next(&mut store, 0).unwrap();
    assert_eq!((up, batch.stream, batch.epoch), (Up::Telemetry, Stream::Backlog, epoch));
    ack(&mut store, Stream::Event, 1);
    drop(store);

    let mut store = open(&folder);
    assert_eq!(store.waiting(), 1);
    store.append(7, event("two")).unwrap();
    store.connected();
    let (_, batch) = next(&mut store, 0).unwrap();
    assert_eq!((batch.stream, batch.records[0].seq), (Stream::Event, 2), "numbers go on where they were");
}

#[test]
fn a_connection_makes_telemetry_live() {
    let (_root, folder) = folder();
    let mut store = open(&folder);
    store.connected();
    store.append(1, sample(1)).unwrap();
    assert_eq!(next(&mut store, 0).map(|(_, batch)| batch.stream), Some(Stream::Live));
}

#[test]
fn many_records_go_in_few_messages_within_their_bounds() {
    let (_root, folder) = folder();
    let mut store = open(&folder);
    let long = "x".repeat(1_000);
    for _ in 0..600 {
        store.append(1, event(&long)).unwrap();
    }
    store.connected();
    let mut sizes = Vec::new();
    let mut seen = 0;
    while let Some((_, batch)) = next(&mut store, 0) {
        sizes.push(batch.records.len());
        seen = batch.records.last().unwrap().seq;
        ack(&mut store, Stream::Event, seen);
    }
    assert_eq!((seen, store.waiting()), (600, 0));
    assert!(sizes.len() <= 4 && sizes[0] > 200, "{sizes:?}");
}

#[test]
fn over_the_bound_the_oldest_events_go_and_are_declared_even_after_a_restart() {
    let (_root, folder) = folder();
    let mut store = open(&folder);
    let long = "x".repeat(1_000);
    let fit = limits::OUTBOX_EVENTS / 1_000;
    for _ in 0..fit + 100 {
        store.append(1, event(&long)).unwrap();
    }
    let waiting = store.waiting();
    assert!(waiting < fit as u64, "{waiting}");
    drop(store);
    let mut store = open(&folder);
    store.connected();
    let (_, batch) = next(&mut store, 0).unwrap();
    let first = batch.records[0].seq;
    assert_eq!(batch.dropped, [SeqRange { first: 1, last: first - 1 }]);
    assert_eq!(first - 1 + waiting, (fit + 100) as u64);
    assert_eq!(store.dropped(), first - 1, "what was dropped is counted");
}

#[test]
fn an_unreadable_outbox_is_thrown_away_and_said() {
    let (root, folder) = folder();
    let mut store = open(&folder);
    store.append(1, event("lost")).unwrap();
    let epoch = store.epoch();
    store.close().unwrap();
    drop(store);
    let db = root.path().join(OUTBOX).join("db");
    let mut bytes = fs::read(&db).unwrap();
    bytes.iter_mut().for_each(|byte| *byte ^= 0x5A);
    fs::write(&db, bytes).unwrap();
    fs::write(root.path().join(OUTBOX).join("conf"), b"rubbish").unwrap();
    let (store, repaired) = Store::open(&folder).unwrap();
    assert!(repaired.is_some());
    assert_eq!(store.waiting(), 0);
    assert_ne!(store.epoch(), epoch, "a new outbox has a new epoch");
}

#[test]
fn an_outbox_whose_opening_ends_the_agent_again_and_again_is_thrown_away() {
    let (root, folder) = folder();
    let mut store = open(&folder);
    store.append(1, event("kept")).unwrap();
    drop(store);
    // A kill or a power cut may come during opening: that alone is no reason.
    for marker in [b"".as_slice(), b"\x01", b"\x02", &[9; 100]] {
        fs::write(root.path().join(OPENING), marker).unwrap();
        assert_eq!(open(&folder).waiting(), 1, "{marker:?}");
        assert!(!root.path().join(OPENING).exists());
    }
    fs::write(root.path().join(OPENING), [OPENINGS]).unwrap();
    let (store, repaired) = Store::open(&folder).unwrap();
    assert!(repaired.is_some());
    assert_eq!(store.waiting(), 0);
    drop(store);
    open(&folder);
}

#[test]
fn a_sample_of_many_models_stays_within_the_bound_of_a_record() {
    let mut models = std::collections::BTreeMap::new();
    for index in 0..64 {
        let classes = (0..32).map(|class| (class, u64::MAX)).collect();
        models.insert(
            format!("m{index}").parse().unwrap(),
            ModelTelemetry { classes, ..ModelTelemetry::default() },
        );
    }
    let mut body = RecordBody::Sample(TelemetrySample { models, ..TelemetrySample::default() });
    shrink(&mut body);
    let record = Record { seq: u64::MAX, at_ms: u64::MAX, body };
    assert!(codec::encode(&record).len() <= limits::TELEMETRY_RECORD);
    let RecordBody::Sample(sample) = record.body else { panic!("a sample stays a sample") };
    assert!(!sample.models.is_empty());
}

#[test]
fn whatever_the_hardware_says_a_record_is_within_its_bound_or_not_kept_and_the_outbox_lives_on() {
    let (_root, folder) = folder();
    let mut store = open(&folder);
    store.append(1, event("before")).unwrap();
    let npus = |chip: &str, count| {
        let npu =
            NpuSample { chip: chip.to_owned(), memory_total_mb: Some(u64::MAX), ..NpuSample::default() };
        RecordBody::Sample(TelemetrySample {
            uptime_s: 7,
            npus: vec![npu; count],
            ..TelemetrySample::default()
        })
    };
    assert!(store.append(2, npus("310B4", 2)).unwrap());
    assert!(store.append(3, npus(&"x".repeat(10 << 10), 2)).unwrap());
    assert!(store.append(4, npus(&"x".repeat(1 << 10), 16)).unwrap());
    assert!(!store.append(5, event(&"x".repeat(limits::TELEMETRY_RECORD))).unwrap());
    drop(store);
    let mut store = open(&folder);
    assert_eq!(store.waiting(), 4);
    store.connected();
    let (_, events) = next(&mut store, 0).unwrap();
    assert_eq!(events.records.len(), 1);
    let (_, samples) = next(&mut store, 0).unwrap();
    let units = |record: &Record| match &record.body {
        RecordBody::Sample(sample) if sample.uptime_s == 7 => sample.npus.len(),
        other => panic!("{other:?}"),
    };
    assert_eq!(samples.records.iter().map(units).collect::<Vec<_>>(), [2, 0, 3]);
}
