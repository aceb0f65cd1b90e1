#![expect(clippy::unwrap_used, reason = "tests fail by panicking")]

use super::*;
use std::ops::RangeInclusive;

/// A moment of today, by both clocks.
const NOW_MS: u64 = 1_800_000_000_000;

fn counted(release: &[u8], compared: u64, agreed: u64) -> ShadowTelemetry {
    let mut telemetry = ShadowTelemetry {
        release: Some(Digest::of(release)),
        against: Some(Digest::of(b"confirmed")),
        compared,
        agreed,
        ..ShadowTelemetry::default()
    };
    (0..compared).for_each(|_| telemetry.shadow.record(100, 0.5));
    if compared > agreed {
        telemetry.disagreements = vec![Disagreement { confirmed: 1, shadow: 2, count: compared - agreed }];
    }
    telemetry
}

/// A device whose agent started `began_s` seconds after [`NOW_MS`], and what it is heard to say.
struct Heard(ShadowFigures);

impl Heard {
    fn new() -> Self {
        Self(ShadowFigures::of(&DeviceId::new("gate-7").unwrap()))
    }

    fn fold(&mut self, seen: Seen, telemetry: ShadowTelemetry) -> (u64, u64) {
        let model: ModelName = "digits".parse().unwrap();
        self.0.fold(&seen, [(model.clone(), telemetry)].into());
        let total = self.0.models[&model].total();
        assert_eq!(total.shadow.latency.count(), total.compared);
        let pairs = total.disagreements.iter().map(|pair| pair.count).sum::<u64>();
        assert_eq!(pairs, total.compared - total.agreed);
        (total.compared, total.agreed)
    }

    /// Taken `at_s` by an agent that began at `began_s`, and heard at once.
    fn live(&mut self, began_s: u64, at_s: u64, telemetry: ShadowTelemetry) -> (u64, u64) {
        let at_ms = NOW_MS + at_s * 1_000;
        let uptime_s = at_s - began_s;
        self.fold(Seen { stream: Stream::Live, at_ms, received_ms: at_ms + 300, uptime_s }, telemetry)
    }

    /// The same, heard much later.
    fn backlog(&mut self, began_s: u64, at_s: u64, telemetry: ShadowTelemetry) -> (u64, u64) {
        let at_ms = NOW_MS + at_s * 1_000;
        let (uptime_s, received_ms) = (at_s - began_s, NOW_MS + 500_000_000);
        self.fold(Seen { stream: Stream::Backlog, at_ms, received_ms, uptime_s }, telemetry)
    }
}

#[test]
fn counters_go_on_when_the_agent_starts_anew_and_begin_with_another_shadow() {
    let mut heard = Heard::new();
    assert_eq!(heard.live(0, 10, counted(b"one", 10, 9)), (10, 9));
    assert_eq!(heard.live(0, 20, counted(b"one", 14, 12)), (14, 12));
    assert_eq!(heard.backlog(0, 15, counted(b"one", 12, 11)), (14, 12), "an older sample");
    assert_eq!(heard.live(25, 30, counted(b"one", 3, 0)), (17, 12), "a restart");
    assert_eq!(heard.live(25, 40, counted(b"one", 5, 2)), (19, 14));
    assert_eq!(heard.live(25, 50, counted(b"one", 1, 1)), (20, 15), "it ran anew in the same life");
    assert_eq!(heard.live(25, 60, counted(b"two", 1, 1)), (1, 1));
}

#[test]
fn a_clock_in_the_future_freezes_nothing() {
    let mut heard = Heard::new();
    let wrong = Seen {
        stream: Stream::Live,
        at_ms: NOW_MS + 90_000_000_000,
        received_ms: NOW_MS + 10_000,
        uptime_s: 10,
    };
    assert_eq!(heard.fold(wrong, counted(b"one", 10, 9)), (10, 9));
    let waiting = Seen { stream: Stream::Backlog, received_ms: NOW_MS + 15_000, ..wrong };
    assert_eq!(heard.fold(waiting, counted(b"one", 9, 8)), (10, 9), "a life of no time that can be told");
    assert_eq!(heard.live(0, 20, counted(b"one", 14, 12)), (14, 12), "put right, and of the same life");
    assert_eq!(heard.live(0, 30, counted(b"two", 1, 1)), (1, 1), "another shadow");

    let mut heard = Heard::new();
    heard.fold(wrong, counted(b"one", 10, 9));
    assert_eq!(heard.live(100, 120, counted(b"two", 3, 3)), (3, 3), "put right by a restart");

    // A board without a clock: lives are told apart by ours.
    let mut heard = Heard::new();
    let unset = |received_s: u64, uptime_s: u64| Seen {
        stream: Stream::Live,
        at_ms: 5_000 + uptime_s * 1_000,
        received_ms: NOW_MS + received_s * 1_000,
        uptime_s,
    };
    assert_eq!(heard.fold(unset(50, 50), counted(b"one", 5, 5)), (5, 5));
    assert_eq!(heard.fold(unset(200, 100), counted(b"one", 8, 8)), (13, 13));
    assert_eq!(heard.live(100, 220, counted(b"one", 9, 9)), (14, 14), "the clock is set");
}

#[test]
fn the_backlog_of_an_earlier_shadow_does_not_replace_the_figures_of_a_newer_one() {
    let mut heard = Heard::new();
    heard.live(0, 10, counted(b"one", 10, 9));
    heard.live(0, 1_000, counted(b"two", 4, 4));
    assert_eq!(heard.backlog(0, 500, counted(b"one", 50, 40)), (4, 4));
    assert_eq!(heard.backlog(0, 990, counted(b"two", 3, 3)), (4, 4));
    // Also if the newer one began in a later life.
    heard.live(2_000, 2_010, counted(b"three", 1, 1));
    assert_eq!(heard.backlog(0, 1_900, counted(b"two", 40, 40)), (1, 1));
    // What is truly newer counts, although it waited: the device was cut off when the shadow changed.
    assert_eq!(heard.backlog(2_000, 2_100, counted(b"four", 2, 2)), (2, 2));
}

#[test]
fn the_backlog_of_an_earlier_life_completes_it_and_a_later_life_is_another_although_it_counted_more() {
    let mut heard = Heard::new();
    assert_eq!(heard.live(0, 100, counted(b"one", 10, 10)), (10, 10));
    // The next one has counted more than the first was heard to.
    assert_eq!(heard.live(500, 700, counted(b"one", 12, 12)), (22, 22));
    // What the first counted before it ended comes at last, in order.
    assert_eq!(heard.backlog(0, 200, counted(b"one", 15, 14)), (27, 26));
    assert_eq!(heard.backlog(0, 300, counted(b"one", 30, 28)), (42, 40));
    // So does all of one that was never heard while it lived.
    assert_eq!(heard.backlog(350, 400, counted(b"one", 2, 2)), (44, 42));
    assert_eq!(heard.backlog(350, 450, counted(b"one", 4, 4)), (46, 44));
    assert_eq!(heard.backlog(500, 600, counted(b"one", 6, 6)), (46, 44), "of this life it is known");
    assert_eq!(heard.live(500, 800, counted(b"one", 13, 13)), (47, 45));
}

#[test]
fn a_life_that_is_no_longer_told_apart_is_not_counted_twice() {
    let mut heard = Heard::new();
    let lives: RangeInclusive<u64> = 0..=9;
    for life in lives.clone() {
        heard.live(life * 1_000, life * 1_000 + 100, counted(b"one", 10, 10));
    }
    assert_eq!(heard.backlog(0, 90, counted(b"one", 9, 9)), (100, 100));
    assert_eq!(heard.backlog(8_000, 8_200, counted(b"one", 11, 11)), (101, 101));
    assert_eq!(heard.0.models.values().next().unwrap().ended.len(), ENDED);
}

#[test]
fn pairs_of_labels_are_summed_up_in_any_order() {
    let disagree = |pairs: RangeInclusive<u32>, count: u64| {
        let pair = |n| Disagreement { confirmed: n, shadow: n + 1, count };
        ShadowTelemetry { disagreements: pairs.map(pair).collect(), ..counted(b"one", 0, 0) }
    };
    // The last is the most frequent in all, and on no device among the first.
    let mut devices = [
        disagree(0..=7, 5),
        disagree(8..=15, 5),
        disagree(16..=23, 5),
        disagree(24..=24, 4),
        disagree(24..=24, 4),
    ];
    let total = |devices: &[ShadowTelemetry]| {
        let mut sum = Sum::default();
        devices.iter().for_each(|one| sum.add(one));
        sum.total()
    };
    let one = total(&devices);
    assert_eq!(one.disagreements[0], Disagreement { confirmed: 24, shadow: 25, count: 8 });
    devices.reverse();
    assert_eq!(total(&devices), one);
    // The lives of one device, too.
    let mut heard = Heard::new();
    let model: ModelName = "digits".parse().unwrap();
    for (life, one) in (0..).zip(&devices) {
        let at_ms = NOW_MS + life * 1_000_000;
        let seen = Seen { stream: Stream::Live, at_ms, received_ms: at_ms, uptime_s: 10 };
        heard.0.fold(&seen, [(model.clone(), one.clone())].into());
    }
    assert_eq!(heard.0.models[&model].total().disagreements, one.disagreements);
}

#[test]
fn figures_of_the_worst_device_fit_into_a_record() {
    let mut worst = ShadowTelemetry {
        release: Some(Digest::of(b"r")),
        against: Some(Digest::of(b"a")),
        compared: u64::MAX,
        agreed: u64::MAX,
        failures: u64::MAX,
        skipped: u64::MAX,
        ..ShadowTelemetry::default()
    };
    for side in [&mut worst.confirmed, &mut worst.shadow] {
        // As much as a record of a device can say.
        side.latency.buckets = vec![1 << 20; 14];
    }
    worst.disagreements = vec![Disagreement { confirmed: u32::MAX, shadow: u32::MAX, count: 1 << 40 }; 99];
    let mut kept = ShadowFigures::of(&DeviceId::new("d".repeat(limits::ID)).unwrap());
    for round in 0..9 {
        let all = (0..limits::DESIRED_SHADOWS)
            .map(|n| (format!("{n:0>60}{}", round / 5).parse().unwrap(), worst.clone()));
        let at_ms = NOW_MS + round * 1_000_000;
        kept.fold(&Seen { stream: Stream::Live, at_ms, received_ms: at_ms, uptime_s: 1 }, all.collect());
        let size = serde_json::to_string(&kept).unwrap().len();
        assert!(size <= limits::RECORD, "{size}");
        assert_eq!(kept.models.len(), limits::DESIRED_SHADOWS, "round {round}: {size}");
    }
}
