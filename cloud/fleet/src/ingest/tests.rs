//! What reaches the cloud is counted once, whatever is lost, repeated, cut off or restarted on the way.
#![expect(clippy::unwrap_used, reason = "tests fail by panicking")]

use super::marks::{Head, Marks};
use super::rollup::{EVENTS, HISTORY, Kept, Rollup};
use super::{frame::Frame, service::Ingest};
use crate::changes::Changes;
use crate::store::Store;
use flotilla_protocol::baseline::Feature;
use flotilla_protocol::message::{
    Chance, Drift, Epoch, EventKind, EventRecord, Histogram, ModelTelemetry, NpuSample, Record, RecordBody,
    SeqRange, Stream, TelemetryBatch, TelemetrySample,
};
use flotilla_protocol::{DeviceId, limits};
use flotilla_storage::{Records, Segments, SledRecords};
use proptest::prelude::*;
use std::path::Path;
use std::sync::Arc;
use tokio_util::sync::CancellationToken;

const EPOCH: Epoch = Epoch(7);

fn sample(seq: u64) -> Record {
    let sample = TelemetrySample { uptime_s: seq, ..TelemetrySample::default() };
    Record { seq, at_ms: seq.saturating_mul(1_000), body: RecordBody::Sample(sample) }
}

fn batch(records: impl IntoIterator<Item = u64>, dropped: &[(u64, u64)]) -> TelemetryBatch {
    TelemetryBatch {
        epoch: EPOCH,
        stream: Stream::Live,
        records: records.into_iter().map(sample).collect(),
        dropped: dropped.iter().map(|&(first, last)| SeqRange { first, last }).collect(),
    }
}

fn seqs(records: &[Record]) -> Vec<u64> {
    records.iter().map(|record| record.seq).collect()
}

fn device(name: &str) -> DeviceId {
    DeviceId::new(name).unwrap()
}

#[test]
fn a_batch_goes_on_where_the_last_one_ended() {
    let mut marks = Marks::default();
    let first = marks.apply(batch(1..=3, &[]), Head::Oldest);
    assert_eq!((seqs(&first.records), first.up_to), (vec![1, 2, 3], 3));
    marks.set(EPOCH, Stream::Live, first.up_to);
    let again = marks.apply(batch(1..=3, &[]), Head::Follows);
    assert_eq!((again.is_progress(), again.repeated, again.up_to), (false, 3, 3));
    let overlapping = marks.apply(batch(2..=5, &[]), Head::Follows);
    assert_eq!((seqs(&overlapping.records), overlapping.repeated, overlapping.up_to), (vec![4, 5], 2, 5));
    let other = TelemetryBatch { stream: Stream::Event, ..batch(1..=1, &[]) };
    assert_eq!(marks.apply(other, Head::Follows).up_to, 1, "streams are counted apart");
}

#[test]
fn a_hole_stops_a_batch_unless_the_device_declares_it_or_has_nothing_older() {
    let mut marks = Marks::default();
    marks.set(EPOCH, Stream::Live, 3);
    let hole = marks.apply(batch([4, 6, 7], &[]), Head::Follows);
    assert_eq!((seqs(&hole.records), hole.up_to), (vec![4], 4));
    assert!(!marks.apply(batch([6, 7], &[]), Head::Follows).is_progress());
    let declared = marks.apply(batch([4, 8], &[(5, 7)]), Head::Follows);
    assert_eq!((seqs(&declared.records), declared.dropped, declared.up_to), (vec![4, 8], 3, 8));
    let known = marks.apply(batch([6], &[(2, 5)]), Head::Follows);
    assert_eq!(
        (seqs(&known.records), known.dropped),
        (vec![6], 2),
        "what was durable already is not dropped"
    );
    let oldest = marks.apply(batch([6, 7, 9], &[]), Head::Oldest);
    assert_eq!((seqs(&oldest.records), oldest.missing, oldest.up_to), (vec![6, 7], 2, 7));
}

#[test]
fn numbers_at_the_end_of_their_range_do_no_harm() {
    let mut marks = Marks::default();
    let end = marks.apply(batch([u64::MAX], &[(1, u64::MAX)]), Head::Oldest);
    assert_eq!(end.up_to, u64::MAX);
    marks.set(EPOCH, Stream::Live, u64::MAX);
    assert!(!marks.apply(batch([u64::MAX], &[(0, u64::MAX)]), Head::Oldest).is_progress());
    assert!(!Marks::default().apply(batch([0], &[(0, 0)]), Head::Oldest).is_progress());
}

#[test]
fn only_the_latest_epochs_are_remembered() {
    let mut marks = Marks::default();
    for epoch in 0..100 {
        marks.set(Epoch(epoch), Stream::Live, 5);
    }
    assert_eq!(marks.get(Epoch(99), Stream::Live), 5);
    assert_eq!(marks.get(Epoch(1), Stream::Live), 0);
    assert!(serde_json::to_string(&marks).unwrap().len() < 500);
}

#[test]
fn what_is_kept_of_a_device_fits_into_records() {
    let id = device(&"d".repeat(limits::ID));
    let mut kept = Kept::new(&id);
    let frame = |stream, records| Frame {
        device: id.clone(),
        at_ms: u64::MAX,
        epoch: EPOCH,
        stream,
        up_to: 1,
        dropped: u64::MAX,
        missing: u64::MAX,
        refused: 1,
        records,
    };
    for n in 0..(HISTORY + EVENTS) as u64 {
        let event = EventRecord {
            kind: EventKind::Failed,
            model: Some("m".repeat(limits::ID).parse().unwrap()),
            release: Some(flotilla_protocol::Digest::of(b"r")),
            code: Some(flotilla_protocol::ErrorCode::DatasetPathMissing),
            detail: "\"".repeat(limits::TEXT),
        };
        let event = Record { seq: n, at_ms: u64::MAX, body: RecordBody::Event(event) };
        let mut latency = Histogram::default();
        latency.record(u64::MAX);
        let drift = Drift {
            predictions: u32::MAX,
            inputs: u32::MAX,
            feature: Some(Feature::Brightness),
            classes: u32::MAX,
            confidence: u32::MAX,
            chance: Chance { inputs: u32::MAX, classes: u32::MAX, confidence: u32::MAX },
        };
        let model = ModelTelemetry {
            predictions: u64::MAX,
            failures: u64::MAX,
            latency,
            drift: Some(drift),
            ..ModelTelemetry::default()
        };
        let full = TelemetrySample {
            cpu_percent: 33.333_332,
            rss_bytes: u64::MAX,
            models: [("digits".parse().unwrap(), model)].into(),
            ..TelemetrySample::default()
        };
        let full = Record { seq: n, at_ms: u64::MAX - n, body: RecordBody::Sample(full) };
        kept.fold(frame(Stream::Event, vec![event]));
        kept.fold(frame(Stream::Live, vec![full]));
    }
    assert_eq!((kept.rollup.history.len(), kept.events.events.len()), (HISTORY, EVENTS));
    assert!(kept.rollup.history.iter().is_sorted_by_key(|point| point.at_ms));
    for size in [
        serde_json::to_string(&kept.rollup).unwrap().len(),
        serde_json::to_string(&kept.events).unwrap().len(),
        serde_json::to_string(&kept.sample).unwrap().len(),
    ] {
        assert!(size <= limits::RECORD, "{size}");
    }
}

#[test]
fn points_of_a_history_that_an_earlier_version_wrote_still_read() {
    let rollup = r#"{"device":"gate-7","marks":[],"records":2,"dropped":0,"missing":0,"refused":0,"last_record_ms":9,
        "history":[[7,1.5,100,4,1,512,1024],[8,1.5,100,5,1,null,null,2048,44]]}"#;
    let rollup: Rollup = serde_json::from_str(rollup).unwrap();
    let [before, now] = [0, 1].map(|at| rollup.history[at]);
    assert_eq!((before.at_ms, before.p95_us, before.p99_us, before.drift), (7, Some(1_024), None, None));
    assert_eq!((now.at_ms, now.p95_us, now.p99_us, now.drift), (8, None, Some(2_048), Some(44)));
}

#[test]
fn an_old_sample_is_history_but_not_the_latest() {
    let id = device("gate-7");
    let mut kept = Kept::new(&id);
    let mut fold = |stream, seq| {
        kept.fold(Frame {
            device: id.clone(),
            at_ms: 50,
            epoch: EPOCH,
            stream,
            up_to: seq,
            dropped: 0,
            missing: 0,
            refused: 0,
            records: vec![sample(seq)],
        });
        kept.sample.clone().unwrap().at_ms
    };
    assert_eq!(fold(Stream::Live, 10), 10_000);
    assert_eq!(fold(Stream::Backlog, 3), 10_000);
    assert_eq!(fold(Stream::Backlog, 12), 12_000);
    assert_eq!(fold(Stream::Live, 4), 4_000, "a device whose clock was set back is believed when it is live");
    let times: Vec<_> = kept.rollup.history.iter().map(|point| point.at_ms).collect();
    assert_eq!(times, [3_000, 4_000, 10_000, 12_000]);
}

#[test]
fn the_name_of_a_chip_is_kept_as_one_short_line() {
    let id = device("gate-7");
    let mut kept = Kept::new(&id);
    let npu = NpuSample { chip: format!("310B4\x1b[2J\n{}", "x".repeat(1_000)), ..NpuSample::default() };
    let body = RecordBody::Sample(TelemetrySample { npus: vec![npu], ..TelemetrySample::default() });
    kept.fold(Frame {
        device: id,
        at_ms: 50,
        epoch: EPOCH,
        stream: Stream::Live,
        up_to: 1,
        dropped: 0,
        missing: 0,
        refused: 0,
        records: vec![Record { seq: 1, at_ms: 1, body }],
    });
    let chip = kept.sample.unwrap().sample.npus.remove(0).chip;
    assert!(chip.starts_with("310B4 [2J x") && chip.len() == 64, "{chip:?}");
}

// === against a model, with restarts ===

pub(super) struct Cloud {
    pub(super) ingest: Ingest,
    records: Arc<dyn Records>,
    store: Arc<Store>,
}

impl Cloud {
    pub(super) async fn open(dir: &Path) -> Self {
        let records: Arc<dyn Records> = Arc::new(SledRecords::open(&dir.join("records")).unwrap());
        let segments = Segments::open(&dir.join("segments")).unwrap();
        let store = Arc::new(Store::new(records.clone()));
        let ingest = Ingest::open(store.clone(), segments, Changes::new()).await.unwrap();
        Self { ingest, records, store }
    }

    pub(super) async fn close(self) {
        let Self { ingest, records, store } = self;
        ingest.close().await;
        records.close().await.unwrap();
        drop((store, records));
    }

    pub(super) async fn restart(self, dir: &Path) -> Self {
        self.close().await;
        Self::open(dir).await
    }

    pub(super) async fn rollup(&self, id: &DeviceId) -> Option<Rollup> {
        self.store.rollups.get(id.as_str()).await.unwrap().map(|found| found.value)
    }

    pub(super) async fn fold(&self) {
        self.ingest.fold_until_idle(&CancellationToken::new()).await.unwrap();
    }
}

/// What may happen between a device and the cloud.
#[derive(Clone, Debug)]
enum Step {
    /// The device records so much.
    Record(u64),
    /// The device's outbox is full: it drops its oldest unacknowledged records.
    Drop(u64),
    /// The device sends up to so many records from its oldest on; the batch may come several times, and the ack may be
    /// lost.
    Send { most: u64, times: u8, ack_lost: bool },
    /// A batch from the middle comes too early.
    SendLater { skip: u64 },
    /// The connection breaks.
    Reconnect,
    /// The cloud folds.
    Fold,
    /// The cloud is restarted; the connection breaks, too.
    Restart,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => (1_u64..6).prop_map(Step::Record),
        1 => (1_u64..4).prop_map(Step::Drop),
        6 => (1_u64..5, 1_u8..4, any::<bool>())
            .prop_map(|(most, times, ack_lost)| Step::Send { most, times, ack_lost }),
        2 => (1_u64..4).prop_map(|skip| Step::SendLater { skip }),
        1 => Just(Step::Reconnect),
        2 => Just(Step::Fold),
        1 => Just(Step::Restart),
    ]
}

/// The device's side: records `first..next`, everything up to `acked` durable in the cloud.
struct Outbox {
    acked: u64,
    first: u64,
    next: u64,
    dropped: u64,
    fresh: bool,
}

impl Outbox {
    fn batch(&self, from: u64, most: u64) -> TelemetryBatch {
        let dropped = [(self.acked + 1, self.first - 1)];
        let declared = if self.first > self.acked + 1 { &dropped[..] } else { &[] };
        batch(from..(from + most).min(self.next), declared)
    }

    /// Where it is when it has seen this ack.
    fn ack(&mut self, up_to: u64) {
        assert!(up_to < self.next, "nothing is acknowledged that was never recorded");
        self.acked = self.acked.max(up_to);
        self.first = self.first.max(self.acked + 1);
    }
}

async fn run(steps: Vec<Step>, dir: &Path) {
    let id = device("gate-7");
    let mut cloud = Cloud::open(dir).await;
    let mut outbox = Outbox { acked: 0, first: 1, next: 1, dropped: 0, fresh: true };
    // Numbers that were dropped although the cloud may have them: an ack was lost.
    let mut uncertain = 0;
    let mut acked_by_cloud = 0;
    for step in steps.into_iter().chain([Step::Send { most: u64::MAX / 2, times: 1, ack_lost: false }]) {
        match step {
            Step::Record(n) => outbox.next += n,
            Step::Drop(n) => {
                let n = n.min(outbox.next - outbox.first);
                let durable = acked_by_cloud.min(outbox.first + n - 1).saturating_sub(outbox.first - 1);
                uncertain += durable;
                outbox.first += n;
                outbox.dropped += n;
            }
            Step::Send { most, times, ack_lost } => {
                let sent = outbox.batch(outbox.first, most);
                for _ in 0..times {
                    let head = if std::mem::take(&mut outbox.fresh) { Head::Oldest } else { Head::Follows };
                    let stored = cloud.ingest.store(&id, sent.clone(), head, 5).await.unwrap();
                    assert_eq!((stored.missing, stored.refused), (0, 0));
                    assert!(stored.ack.up_to >= acked_by_cloud, "an ack never goes back");
                    acked_by_cloud = stored.ack.up_to;
                    if !ack_lost {
                        outbox.ack(stored.ack.up_to);
                    }
                }
            }
            Step::SendLater { skip } if !outbox.fresh => {
                let sent = TelemetryBatch { dropped: vec![], ..outbox.batch(outbox.first + skip, 2) };
                let stored = cloud.ingest.store(&id, sent, Head::Follows, 5).await.unwrap();
                assert!(stored.ack.up_to >= acked_by_cloud);
                acked_by_cloud = stored.ack.up_to;
            }
            Step::SendLater { .. } => {}
            Step::Reconnect => outbox.fresh = true,
            Step::Fold => cloud.fold().await,
            Step::Restart => {
                cloud = cloud.restart(dir).await;
                outbox.fresh = true;
            }
        }
    }
    cloud.fold().await;
    cloud = cloud.restart(dir).await;
    cloud.fold().await;
    let last = outbox.next - 1;
    assert_eq!(outbox.acked, last, "in the end everything is acknowledged");
    let Some(rollup) = cloud.store.rollups.get(id.as_str()).await.unwrap() else {
        assert_eq!(last, 0);
        return;
    };
    let rollup = rollup.value;
    assert_eq!(rollup.records + rollup.dropped, last, "every number is accounted for exactly once");
    assert_eq!(rollup.missing, 0);
    assert_eq!(rollup.dropped, outbox.dropped - uncertain);
    cloud.restart(dir).await;
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]
    #[test]
    fn every_record_is_counted_exactly_once(steps in proptest::collection::vec(step(), 1..40)) {
        let dir = tempfile::tempdir().unwrap();
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        runtime.block_on(run(steps, dir.path()));
    }

    #[test]
    fn arbitrary_batches_never_panic_and_never_go_back(
        mark in 0_u64..10,
        records in proptest::collection::vec(0_u64..12, 0..12),
        dropped in proptest::collection::vec((0_u64..12, 0_u64..12), 0..4),
        oldest: bool,
    ) {
        let mut marks = Marks::default();
        marks.set(EPOCH, Stream::Live, mark);
        let head = if oldest { Head::Oldest } else { Head::Follows };
        let applied = marks.apply(batch(records, &dropped), head);
        prop_assert!(applied.up_to >= mark);
        let seqs = seqs(&applied.records);
        prop_assert!(seqs.is_sorted_by(|a, b| a < b) && seqs.iter().all(|seq| *seq > mark));
        prop_assert_eq!(applied.records.len() as u64 + applied.dropped + applied.missing, applied.up_to - mark);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_device_whose_marks_were_lost_goes_on_after_its_next_connection() {
    let dir = tempfile::tempdir().unwrap();
    let cloud = Cloud::open(dir.path()).await;
    let id = device("gate-7");
    let stuck = cloud.ingest.store(&id, batch(100..=101, &[]), Head::Follows, 5).await.unwrap();
    assert_eq!(stuck.ack.up_to, 0);
    let healed = cloud.ingest.store(&id, batch(100..=101, &[]), Head::Oldest, 5).await.unwrap();
    assert_eq!((healed.ack.up_to, healed.missing), (101, 99));
    cloud.fold().await;
    let rollup = cloud.store.rollups.get(id.as_str()).await.unwrap().unwrap().value;
    assert_eq!((rollup.records, rollup.missing), (2, 99));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_record_over_its_bound_is_counted_and_does_not_stop_the_stream() {
    let dir = tempfile::tempdir().unwrap();
    let cloud = Cloud::open(dir.path()).await;
    let id = device("gate-7");
    let mut sent = batch(1..=3, &[]);
    sent.records[1].body = RecordBody::Event(EventRecord {
        kind: EventKind::Failed,
        model: None,
        release: None,
        code: None,
        detail: "x".repeat(limits::TELEMETRY_RECORD),
    });
    let RecordBody::Sample(poisoned) = &mut sent.records[2].body else { panic!("a sample") };
    poisoned.cpu_percent = f32::NAN;
    let stored = cloud.ingest.store(&id, sent, Head::Oldest, 5).await.unwrap();
    assert_eq!((stored.ack.up_to, stored.refused), (3, 1));
    cloud.fold().await;
    let sample = cloud.store.samples.get(id.as_str()).await.unwrap().unwrap().value;
    assert_eq!((sample.at_ms, sample.sample.cpu_percent), (3_000, 0.0));
    assert!(cloud.store.events.get(id.as_str()).await.unwrap().is_none());
}

#[tokio::test(flavor = "multi_thread")]
async fn folding_many_devices_takes_several_commits_and_counts_each_once() {
    let dir = tempfile::tempdir().unwrap();
    let cloud = Cloud::open(dir.path()).await;
    for n in 0..150 {
        let id = device(&format!("d{n}"));
        cloud.ingest.store(&id, batch(1..=2, &[]), Head::Oldest, 5).await.unwrap();
    }
    cloud.fold().await;
    cloud.fold().await;
    for n in 0..150 {
        let rollup = cloud.store.rollups.get(format!("d{n}")).await.unwrap().unwrap().value;
        assert_eq!(rollup.records, 2);
    }
}
