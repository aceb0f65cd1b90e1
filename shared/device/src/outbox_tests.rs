//! What the cloud gets of an outbox, however bad the link.

use super::*;
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};
use std::collections::{BTreeMap, BTreeSet};

const EPOCH: Epoch = Epoch(7);

fn outbox() -> Outbox {
    Outbox::new(EPOCH, StreamState::default(), StreamState::default(), StreamState::default())
}

fn ack(stream: Stream, up_to: u64) -> Ack {
    Ack { epoch: EPOCH, stream, up_to, reported: None }
}

#[test]
fn events_go_first_and_a_backlog_does_not_hold_up_live_records() {
    let mut outbox = outbox();
    for _ in 0..5_000 {
        outbox.append(Stream::Backlog, 100);
    }
    assert_eq!(outbox.next(0), None, "nothing is sent without a connection");
    outbox.connected();
    let batch = outbox.next(0).map(|b| (b.stream, b.from, b.to));
    assert_eq!(batch, Some((Stream::Backlog, 1, 513)));
    outbox.sent(Stream::Backlog, 512, 0, 0);
    assert_eq!(outbox.next(0), None, "one batch a stream is in flight");
    outbox.append(Stream::Live, 100);
    outbox.append(Stream::Event, 100);
    assert_eq!(outbox.next(0).map(|b| b.stream), Some(Stream::Event));
    outbox.sent(Stream::Event, 1, 0, 0);
    assert_eq!(outbox.next(0).map(|b| b.stream), Some(Stream::Live));
    outbox.sent(Stream::Live, 1, 0, 0);
    assert_eq!(outbox.ack(&ack(Stream::Backlog, 512)).map(|f| (f.first, f.last)), Some((1, 512)));
    assert_eq!(outbox.next(0).map(|b| (b.stream, b.from)), Some((Stream::Backlog, 513)));
}

/// A link that carries publishes one after the other, and a cloud that acknowledges them in that order.
struct Road {
    outbox: Outbox,
    wire: std::collections::VecDeque<(Stream, u64)>,
    published: Vec<(Stream, u64)>,
}

impl Road {
    fn publish_all(&mut self) {
        while let Some(batch) = self.outbox.next(0) {
            let last = batch.to - 1;
            self.outbox.sent(batch.stream, last, 0, 0);
            self.wire.push_back((batch.stream, last));
            self.published.push((batch.stream, last));
        }
    }

    /// The oldest publish on the way is acknowledged.
    fn acknowledge(&mut self) -> Option<(Stream, u64)> {
        let (stream, last) = self.wire.pop_front()?;
        if let Some(freed) = self.outbox.ack(&ack(stream, last)) {
            self.outbox.freed(stream, 100 * (freed.last + 1 - freed.first));
        }
        self.publish_all();
        Some((stream, last))
    }
}

#[test]
fn whatever_the_backlog_a_fresh_record_is_the_next_to_be_published_and_acknowledged_behind_one_batch() {
    for (telemetry, stream) in [(false, Stream::Event), (true, Stream::Live)] {
        for acknowledged_before in 0..20 {
            let mut road = Road { outbox: outbox(), wire: Default::default(), published: Vec::new() };
            for _ in 0..10_000 {
                road.outbox.append(Stream::Backlog, 100);
            }
            road.outbox.connected();
            road.publish_all();
            for _ in 0..acknowledged_before {
                road.acknowledge();
            }
            let published = road.published.len();
            let to = if telemetry { road.outbox.telemetry_stream() } else { Stream::Event };
            assert_eq!(to, stream);
            let seq = road.outbox.append(stream, 100);
            road.publish_all();
            assert_eq!(
                road.published[published..],
                [(stream, seq)],
                "it goes out at once, before any backlog"
            );
            let before: Vec<Stream> = std::iter::from_fn(|| road.acknowledge())
                .map(|(stream, _)| stream)
                .take_while(|acknowledged| *acknowledged != stream)
                .collect();
            assert!(before.len() <= 1, "{before:?} were acknowledged before it");
        }
    }
}

#[test]
fn while_the_cloud_acknowledges_nothing_the_live_stream_stays_one_batch_long() {
    let mut outbox = outbox();
    outbox.connected();
    for _ in 0..3 * limits::TELEMETRY_BATCH {
        outbox.append(outbox.telemetry_stream(), 100);
    }
    assert_eq!(outbox.stream(Stream::Live).len(), limits::TELEMETRY_BATCH as u64);
    assert_eq!(outbox.stream(Stream::Backlog).len(), 2 * limits::TELEMETRY_BATCH as u64);
    outbox.sent(Stream::Live, 500, 0, 0);
    outbox.ack(&ack(Stream::Live, 500));
    assert_eq!(outbox.telemetry_stream(), Stream::Live, "with room it is live again");
}

#[test]
fn records_are_kept_until_the_cloud_says_that_it_has_them() {
    let mut outbox = outbox();
    outbox.append(Stream::Event, 10);
    outbox.connected();
    outbox.sent(Stream::Event, 1, 0, 0);
    assert_eq!(outbox.next(ACK_MS - 1), None);
    assert_eq!(outbox.next(ACK_MS).map(|b| b.from), Some(1), "silence means sending again");
    outbox.sent(Stream::Event, 1, ACK_MS, 0);
    outbox.disconnected();
    outbox.connected();
    assert_eq!(outbox.next(ACK_MS).map(|b| b.from), Some(1), "a new connection means sending again");
    for foreign in
        [Ack { epoch: Epoch(8), ..ack(Stream::Event, 1) }, ack(Stream::Event, 2), ack(Stream::Live, 1)]
    {
        assert_eq!(outbox.ack(&foreign), None);
    }
    assert_eq!(outbox.stream(Stream::Event).len(), 1);
    assert_eq!(outbox.ack(&ack(Stream::Event, 1)).map(|f| (f.first, f.last)), Some((1, 1)));
    assert_eq!(outbox.next(u64::MAX), None);
}

#[test]
fn when_room_runs_out_the_oldest_telemetry_goes_and_is_declared() {
    let mut outbox = outbox();
    let big = limits::OUTBOX as u64 / 4;
    outbox.append(Stream::Event, limits::OUTBOX_EVENTS as u64);
    for _ in 0..4 {
        outbox.append(Stream::Backlog, big);
    }
    assert_eq!(outbox.over(), Some(Stream::Backlog));
    outbox.dropped_oldest(Stream::Backlog, big);
    assert_eq!(outbox.over(), None);
    outbox.connected();
    outbox.sent(Stream::Event, 1, 0, 0);
    let batch = outbox.next(0);
    assert_eq!(batch.and_then(|b| b.dropped), Some(SeqRange { first: 1, last: 1 }));
    assert_eq!(batch.map(|b| (b.from, b.to)), Some((2, 5)));
    outbox.append(Stream::Event, 1);
    assert_eq!(outbox.over(), Some(Stream::Event), "events give way to events only");
}

#[test]
fn a_stream_of_which_everything_was_dropped_still_says_so() {
    let mut outbox = outbox();
    outbox.append(Stream::Live, 5);
    outbox.dropped_oldest(Stream::Live, 5);
    outbox.connected();
    let batch = outbox.next(0);
    assert_eq!(batch.and_then(|b| b.dropped), Some(SeqRange { first: 1, last: 1 }));
    assert_eq!(batch.map(|b| b.from == b.to), Some(true));
    outbox.sent(Stream::Live, 1, 0, 0);
    assert_eq!(outbox.ack(&ack(Stream::Live, 1)), None);
    assert_eq!(outbox.next(u64::MAX), None);
}

/// Whatever is lost on the way: every number is received or declared dropped, exactly the kept bytes count, and in
/// the end nothing is left.
#[test]
fn the_cloud_learns_of_every_number() {
    for seed in 0..100 {
        run_over_a_bad_link(seed);
    }
}

fn run_over_a_bad_link(seed: u64) {
    let mut rng = SmallRng::seed_from_u64(seed);
    let mut outbox = outbox();
    let mut kept: BTreeMap<(Stream, u64), u64> = BTreeMap::new();
    let mut cloud: BTreeMap<Stream, BTreeSet<u64>> = BTreeMap::new();
    let mut given: BTreeMap<Stream, u64> = BTreeMap::new();
    let mut now = 0;
    for round in 0..3_000 {
        now += rng.random_range(0..20_000);
        let calm = round > 2_000;
        if !calm {
            let stream = if rng.random_ratio(1, 4) { Stream::Event } else { outbox.telemetry_stream() };
            let bytes = rng.random_range(1_000..100_000);
            let seq = outbox.append(stream, bytes);
            assert_eq!(
                seq,
                given.get(&stream).copied().unwrap_or(0) + 1,
                "seed {seed}: numbers have no holes"
            );
            given.insert(stream, seq);
            kept.insert((stream, seq), bytes);
            while let Some(stream) = outbox.over() {
                let oldest = outbox.stream(stream).first;
                let bytes = kept.remove(&(stream, oldest)).unwrap_or_else(|| panic!("seed {seed}: not kept"));
                outbox.dropped_oldest(stream, bytes);
            }
        }
        match rng.random_range(0..6) {
            0 if !calm => outbox.disconnected(),
            1 => outbox.connected(),
            _ if calm => outbox.connected(),
            _ => {}
        }
        while let Some(batch) = outbox.next(now) {
            let last = batch.to.saturating_sub(1).max(batch.dropped.map_or(0, |d| d.last));
            outbox.sent(batch.stream, last, now, rng.random());
            let lost = !calm && rng.random_ratio(1, 3);
            if lost {
                continue;
            }
            let seen = cloud.entry(batch.stream).or_default();
            seen.extend(batch.from..batch.to);
            seen.extend(batch.dropped.into_iter().flat_map(|d| d.first..=d.last));
            let up_to = (1..).take_while(|n| seen.contains(n)).last().unwrap_or(0);
            let ack_lost = !calm && rng.random_ratio(1, 3);
            if !ack_lost && let Some(freed) = outbox.ack(&ack(batch.stream, up_to)) {
                let bytes = (freed.first..=freed.last).filter_map(|n| kept.remove(&(freed.stream, n))).sum();
                outbox.freed(freed.stream, bytes);
            }
        }
        let total: u64 = ORDER.iter().map(|s| outbox.stream(*s).bytes).sum();
        assert_eq!(total, kept.values().sum::<u64>(), "seed {seed} round {round}");
        assert!(total <= limits::OUTBOX as u64, "seed {seed}");
    }
    assert!(kept.is_empty(), "seed {seed}: {} records were never acknowledged", kept.len());
    for (stream, last) in given {
        assert!((1..=last).all(|n| cloud[&stream].contains(&n)), "seed {seed}: {stream:?} has a hole");
    }
}
