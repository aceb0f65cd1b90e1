//! Ingestion against the simplest model there is: which numbers a device gave to which records, what it declared
//! dropped, and what stands in the frames. Batches are lost, repeated and overtaken, acknowledgements are lost and
//! late, the cloud restarts, the device loses power, and its outbox is thrown away.
#![expect(clippy::unwrap_used, reason = "tests fail by panicking")]

use super::frame::Frame;
use super::marks::Head;
use super::tests::Cloud;
use flotilla_protocol::DeviceId;
use flotilla_protocol::message::{
    Ack, Epoch, Record, RecordBody, SeqRange, Stream, TelemetryBatch, TelemetrySample,
};
use flotilla_storage::Segments;
use proptest::prelude::*;
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

/// What may happen.
#[derive(Clone, Debug)]
enum Step {
    /// The device records so much.
    Record { stream: Stream, count: u64 },
    /// The outbox is full: its oldest records of a stream go.
    Drop { stream: Stream, count: u64 },
    /// The device sends what it has of a stream from the oldest on.
    Send { stream: Stream, most: usize, on_the_way: Fate },
    /// A batch comes before the one that it follows.
    Overtake { stream: Stream, skip: u64, most: usize },
    /// A batch of any earlier time comes once more.
    Again { which: prop::sample::Index },
    /// An acknowledgement that was held up comes.
    LateAck { which: prop::sample::Index },
    /// The connection breaks.
    Reconnect,
    /// The device loses power: what it did since it last sent something never happened.
    PowerCut,
    /// The device throws its outbox away.
    NewOutbox,
    /// The cloud folds.
    Fold,
    /// The cloud is restarted.
    Restart,
}

/// What becomes of a batch.
#[derive(Clone, Copy, Debug)]
enum Fate {
    /// It and its acknowledgement arrive.
    Arrives,
    /// It arrives several times.
    Repeats(u8),
    /// It never arrives.
    Lost,
    /// It arrives, its acknowledgement never.
    AckLost,
    /// It arrives, its acknowledgement later.
    AckLate,
}

fn stream() -> impl Strategy<Value = Stream> {
    prop::sample::select(Stream::ALL.to_vec())
}

fn step() -> impl Strategy<Value = Step> {
    let fate = prop_oneof![
        3 => Just(Fate::Arrives),
        1 => (2u8..4).prop_map(Fate::Repeats),
        1 => Just(Fate::Lost),
        1 => Just(Fate::AckLost),
        1 => Just(Fate::AckLate),
    ];
    prop_oneof![
        6 => (stream(), 1u64..6).prop_map(|(stream, count)| Step::Record { stream, count }),
        1 => (stream(), 1u64..5).prop_map(|(stream, count)| Step::Drop { stream, count }),
        8 => (stream(), 1usize..6, fate)
            .prop_map(|(stream, most, on_the_way)| Step::Send { stream, most, on_the_way }),
        2 => (stream(), 1u64..4, 1usize..4)
            .prop_map(|(stream, skip, most)| Step::Overtake { stream, skip, most }),
        3 => any::<prop::sample::Index>().prop_map(|which| Step::Again { which }),
        1 => any::<prop::sample::Index>().prop_map(|which| Step::LateAck { which }),
        1 => Just(Step::Reconnect),
        1 => Just(Step::PowerCut),
        1 => Just(Step::NewOutbox),
        2 => Just(Step::Fold),
        1 => Just(Step::Restart),
    ]
}

/// One stream of the device's outbox: the records `first..next`, by number, each with a content of its own.
#[derive(Clone, Debug)]
struct Lane {
    acked: u64,
    first: u64,
    next: u64,
    contents: BTreeMap<u64, u64>,
}

impl Lane {
    fn new() -> Self {
        Self { acked: 0, first: 1, next: 1, contents: BTreeMap::new() }
    }
}

type Lanes = BTreeMap<Stream, Lane>;

fn empty() -> Lanes {
    Stream::ALL.into_iter().map(|stream| (stream, Lane::new())).collect()
}

struct World {
    id: DeviceId,
    cloud: Option<Cloud>,
    epoch: u64,
    lanes: Lanes,
    /// What the device has on stable storage: everything as it was when it last sent something.
    stored: Lanes,
    /// Streams of which this connection has not carried a batch.
    fresh: BTreeSet<Stream>,
    contents: u64,
    sent: Vec<TelemetryBatch>,
    late: Vec<Ack>,
    /// Every number that was ever sent, with its content: it never has another.
    told: BTreeMap<(Epoch, Stream, u64), u64>,
    declared: BTreeSet<(Epoch, Stream, u64)>,
    acked: BTreeMap<(Epoch, Stream), u64>,
}

impl World {
    async fn new(dir: &Path) -> Self {
        Self {
            id: DeviceId::new("gate-7").unwrap(),
            cloud: Some(Cloud::open(dir).await),
            epoch: 1,
            lanes: empty(),
            stored: empty(),
            fresh: Stream::ALL.into(),
            contents: 0,
            sent: Vec::new(),
            late: Vec::new(),
            told: BTreeMap::new(),
            declared: BTreeSet::new(),
            acked: BTreeMap::new(),
        }
    }

    fn lane(&mut self, stream: Stream) -> &mut Lane {
        self.lanes.get_mut(&stream).unwrap()
    }

    /// A batch of records from a number on. Before anything is sent the outbox is brought to stable storage.
    fn batch(&mut self, stream: Stream, from: u64, most: usize) -> TelemetryBatch {
        self.stored = self.lanes.clone();
        let epoch = Epoch(self.epoch);
        let lane = &self.lanes[&stream];
        let records: Vec<Record> = lane
            .contents
            .range(from..)
            .take(most)
            .map(|(seq, content)| {
                let sample = TelemetrySample { uptime_s: *content, ..TelemetrySample::default() };
                Record { seq: *seq, at_ms: *content, body: RecordBody::Sample(sample) }
            })
            .collect();
        let gap = SeqRange { first: lane.acked + 1, last: lane.first - 1 };
        let dropped: Vec<SeqRange> = (gap.first <= gap.last).then_some(gap).into_iter().collect();
        for record in &records {
            let before = self.told.insert((epoch, stream, record.seq), record.at_ms);
            assert!(before.is_none_or(|before| before == record.at_ms), "a number has two contents");
        }
        TelemetryBatch { epoch, stream, records, dropped }
    }

    /// The batch arrives.
    async fn deliver(&mut self, batch: TelemetryBatch, head: Head) -> Ack {
        let key = (batch.epoch, batch.stream);
        let stored = self.cloud.as_ref().unwrap().ingest.store(&self.id, batch, head, 5).await.unwrap();
        assert_eq!((stored.missing, stored.refused), (0, 0), "this device is honest");
        assert_eq!((stored.ack.epoch, stored.ack.stream), key);
        let before = self.acked.insert(key, stored.ack.up_to).unwrap_or(0);
        assert!(stored.ack.up_to >= before, "an acknowledgement never goes back");
        stored.ack
    }

    /// The acknowledgement arrives. One of another outbox, or of numbers that were never given, is ignored.
    fn hear(&mut self, ack: Ack) {
        let epoch = self.epoch;
        let lane = self.lane(ack.stream);
        if ack.epoch != Epoch(epoch) || ack.up_to >= lane.next || ack.up_to <= lane.acked {
            return;
        }
        lane.acked = ack.up_to;
        lane.first = lane.first.max(ack.up_to + 1);
        let first = lane.first;
        lane.contents.retain(|seq, _| *seq >= first);
    }

    async fn send(&mut self, stream: Stream, most: usize, fate: Fate) {
        let from = self.lanes[&stream].first;
        let batch = self.batch(stream, from, most);
        if batch.records.is_empty() && batch.dropped.is_empty() {
            return;
        }
        if matches!(fate, Fate::Lost) {
            return;
        }
        let declared = batch.dropped.iter().flat_map(|gap| gap.first..=gap.last);
        self.declared.extend(declared.map(|seq| (batch.epoch, stream, seq)));
        self.sent.push(batch.clone());
        let times = if let Fate::Repeats(times) = fate { times } else { 1 };
        for _ in 0..times {
            let head = if self.fresh.remove(&stream) { Head::Oldest } else { Head::Follows };
            let ack = self.deliver(batch.clone(), head).await;
            match fate {
                Fate::AckLost => {}
                Fate::AckLate => self.late.push(ack),
                _ => self.hear(ack),
            }
        }
    }

    fn connect_again(&mut self) {
        self.fresh = Stream::ALL.into();
    }

    async fn step(&mut self, step: Step, dir: &Path) {
        match step {
            Step::Record { stream, count } => {
                for _ in 0..count {
                    self.contents += 1;
                    let content = self.contents;
                    let lane = self.lane(stream);
                    lane.contents.insert(lane.next, content);
                    lane.next += 1;
                }
            }
            Step::Drop { stream, count } => {
                let lane = self.lane(stream);
                lane.first = (lane.first + count).min(lane.next);
                let first = lane.first;
                lane.contents.retain(|seq, _| *seq >= first);
            }
            Step::Send { stream, most, on_the_way } => self.send(stream, most, on_the_way).await,
            Step::Overtake { stream, skip, most } => {
                // A connection's first batch is the oldest one: nothing overtakes it.
                if self.fresh.contains(&stream) {
                    return;
                }
                let from = self.lanes[&stream].first + skip;
                let batch = TelemetryBatch { dropped: Vec::new(), ..self.batch(stream, from, most) };
                let ack = self.deliver(batch.clone(), Head::Follows).await;
                self.sent.push(batch);
                self.hear(ack);
            }
            Step::Again { which } => {
                // A device is remembered with its latest outboxes.
                let oldest = Epoch(self.epoch.saturating_sub(2));
                let batches: Vec<_> = self.sent.iter().filter(|batch| batch.epoch >= oldest).collect();
                if batches.is_empty() {
                    return;
                }
                let batch = (*which.get(&batches)).clone();
                let ack = self.deliver(batch, Head::Follows).await;
                self.hear(ack);
            }
            Step::LateAck { which } => {
                if !self.late.is_empty() {
                    let ack = *which.get(&self.late);
                    self.hear(ack);
                }
            }
            Step::Reconnect => self.connect_again(),
            Step::PowerCut => {
                self.lanes = self.stored.clone();
                self.connect_again();
            }
            Step::NewOutbox => {
                self.epoch += 1;
                (self.lanes, self.stored) = (empty(), empty());
                self.connect_again();
            }
            Step::Fold => self.cloud.as_ref().unwrap().fold().await,
            Step::Restart => {
                let cloud = self.cloud.take().unwrap();
                self.cloud = Some(cloud.restart(dir).await);
                self.connect_again();
            }
        }
    }

    /// The link is good now; then everything is looked at.
    async fn end(mut self, dir: &Path) {
        for stream in Stream::ALL {
            self.send(stream, usize::MAX, Fate::Arrives).await;
            let lane = &self.lanes[&stream];
            assert_eq!(lane.acked, lane.next - 1, "{stream:?}: not everything is acknowledged in the end");
        }
        let cloud = self.cloud.take().unwrap().restart(dir).await;
        cloud.fold().await;
        let rollup = cloud.rollup(&self.id).await;
        cloud.close().await;

        let mut kept: BTreeMap<(Epoch, Stream, u64), u64> = BTreeMap::new();
        let mut dropped = 0;
        for frame in frames(dir).await {
            dropped += frame.dropped;
            for record in frame.records {
                let RecordBody::Sample(sample) = record.body else { panic!("only samples were sent") };
                let before = kept.insert((frame.epoch, frame.stream, record.seq), sample.uptime_s);
                assert_eq!(before, None, "record {} of {:?} is kept twice", record.seq, frame.stream);
            }
        }
        for (key, content) in &kept {
            assert_eq!(self.told.get(key), Some(content), "{key:?} is not what the device recorded");
        }
        let mut numbers = 0;
        for ((epoch, stream), up_to) in &self.acked {
            numbers += up_to;
            for seq in 1..=*up_to {
                let key = (*epoch, *stream, seq);
                assert!(
                    kept.contains_key(&key) || self.declared.contains(&key),
                    "{key:?} was acknowledged, and is neither kept nor was it declared dropped"
                );
            }
        }
        assert_eq!(kept.len() as u64 + dropped, numbers, "every number is accounted for exactly once");
        match rollup {
            Some(rollup) => assert_eq!(
                (rollup.records, rollup.dropped, rollup.missing),
                (kept.len() as u64, dropped, 0),
                "what people see is what was kept"
            ),
            None => assert_eq!(numbers, 0),
        }
    }
}

async fn frames(dir: &Path) -> Vec<Frame> {
    let segments = Segments::open(&dir.join("segments")).unwrap();
    let mut reader = segments.reader(0);
    let mut frames = Vec::new();
    loop {
        let page = reader.page(1_000, 8 << 20).await.unwrap();
        if page.is_empty() {
            segments.close().await;
            return frames;
        }
        frames.extend(page.into_iter().map(|(_, bytes)| Frame::decode(&bytes).unwrap()));
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]
    #[test]
    fn whatever_is_lost_repeated_or_restarted_every_record_is_kept_exactly_once(
        steps in prop::collection::vec(step(), 1..80),
    ) {
        let dir = tempfile::tempdir().unwrap();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let mut world = World::new(dir.path()).await;
            for step in steps {
                world.step(step, dir.path()).await;
            }
            world.end(dir.path()).await;
        });
    }
}
