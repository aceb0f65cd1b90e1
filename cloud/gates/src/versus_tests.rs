//! Two releases over simulated experiments: how often one is called better that is not, and how often one that is.
#![expect(clippy::unwrap_used, reason = "tests fail by panicking")]

use super::*;
use crate::change::Change;
use crate::simulated::{GOOD, World, device, health};
use proptest::prelude::*;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

/// Devices of each half.
const HALF: u32 = 150;
/// Windows until the longest watch is over.
const WINDOWS: u32 = 4;

/// The devices of both halves beside each other in one window: what A and B do to them.
fn pairs(random: &mut StdRng, a: World, b: World, window: u32) -> BTreeMap<Metric, Vec<Pair>> {
    // Weekdays, nights, firmware: something happens to all devices.
    let day = random.random_range(-0.2..0.4);
    let mut pairs: BTreeMap<Metric, Vec<Pair>> = BTreeMap::new();
    for _ in 0..HALF {
        let of_a = device(random, Some(a), window, day);
        let of_b = device(random, Some(b), window, day);
        for (metric, updated) in of_b {
            let pair = Pair { updated, waiting: Some(of_a[&metric]) };
            pairs.entry(metric).or_default().push(pair);
        }
    }
    pairs
}

/// What an experiment comes to.
fn outcome(seed: u64, a: World, b: World) -> Outcome {
    let (mut random, health) = (StdRng::seed_from_u64(seed), health());
    (0..WINDOWS)
        .map(|window| {
            let pairs = pairs(&mut random, a, b, window);
            Comparison::new(&health, window, &pairs).outcome(&health, HALF)
        })
        .find(|outcome| *outcome != Outcome::Open)
        .unwrap_or(Outcome::Open)
}

/// The share of experiments that come to this.
fn share(experiments: u64, a: World, b: World, wanted: impl Fn(Outcome) -> bool) -> f64 {
    let found = (0..experiments).filter(|seed| wanted(outcome(*seed, a, b))).count();
    found as f64 / experiments as f64
}

fn experiments() -> u64 {
    std::env::var("FLOTILLA_GATE_ROLLOUTS").map_or(1_000, |n| n.parse().unwrap())
}

#[test]
fn of_two_that_are_the_same_none_is_called_better_and_the_worse_of_two_loses() {
    let experiments = experiments();
    let wrong = |outcome| matches!(outcome, Outcome::Better(_) | Outcome::Torn);
    let false_alarms = share(experiments, GOOD, GOOD, wrong);
    let same = share(experiments, GOOD, GOOD, |outcome| outcome == Outcome::Same);
    println!(
        "{experiments} experiments with two equal releases on {HALF} devices each: {:.2} % with a winner, 5 % permitted; \
         {:.2} % found equal",
        false_alarms * 100.0,
        same * 100.0
    );
    assert!(false_alarms <= 0.05);
    assert!(same > 0.9, "{same}");
    for (what, worse) in [
        ("failed predictions +5 points", World { errors: 0.05, ..GOOD }),
        ("failed predictions +2 points", World { errors: 0.02, ..GOOD }),
        ("latency times 2", World { latency: 2.0, ..GOOD }),
        ("latency times 1.3", World { latency: 1.3, ..GOOD }),
    ] {
        let a = share(experiments, GOOD, worse, |outcome| outcome == Outcome::Better(Side::A));
        let b = share(experiments, worse, GOOD, |outcome| outcome == Outcome::Better(Side::B));
        println!("{what}: B loses in {:.2} %, A loses in {:.2} %", a * 100.0, b * 100.0);
        assert!(a > 0.95 && b > 0.95, "{what}: {a} {b}");
    }
    // One fails more often, the other is slower: that is for people to weigh.
    let (failing, slow) = (World { errors: 0.05, ..GOOD }, World { latency: 2.0, ..GOOD });
    let torn = share(experiments, failing, slow, |outcome| outcome == Outcome::Torn);
    println!("one fails, the other is slow: {:.2} % for people to decide", torn * 100.0);
    assert!(torn > 0.95, "{torn}");
}

#[test]
fn a_few_liars_make_no_winner_and_hide_none() {
    let spiteful = World { liars: 0.03, lie: 1.0, ..GOOD };
    let wrong = share(300, GOOD, spiteful, |outcome| outcome == Outcome::Better(Side::A));
    assert!(wrong <= 0.05, "{wrong}");
    let bribed = World { errors: 0.05, liars: 0.03, lie: -1.0, ..GOOD };
    let found = share(300, GOOD, bribed, |outcome| outcome == Outcome::Better(Side::A));
    assert!(found > 0.95, "{found}");
}

fn steady(worse: f64, devices: usize) -> BTreeMap<Metric, Vec<Pair>> {
    let pair = Pair {
        updated: Change { before: 0.01, after: 0.01 + worse },
        waiting: Some(Change { before: 0.01, after: 0.01 }),
    };
    BTreeMap::from([(Metric::Errors, vec![pair; devices])])
}

#[test]
fn nothing_is_said_of_few_devices_nor_of_many_that_are_silent() {
    let health = health();
    let outcome = |worse, compared, devices| {
        Comparison::new(&health, 0, &steady(worse, compared)).outcome(&health, devices)
    };
    assert_eq!(outcome(0.05, 3, 3), Outcome::Open, "three devices may lie");
    assert_eq!(outcome(0.0, 3, 3), Outcome::Open, "and show nothing");
    assert_eq!(outcome(0.05, 60, 60), Outcome::Better(Side::A));
    assert_eq!(outcome(-0.05, 60, 60), Outcome::Better(Side::B));
    assert_eq!(outcome(0.0, 60, 60), Outcome::Same);
    assert_eq!(outcome(0.0, 60, 100), Outcome::Open, "four in ten are silent");
    assert_eq!(Comparison::default().outcome(&health, 0), Outcome::Open);
}

#[test]
fn where_both_have_no_past_the_present_alone_is_compared() {
    let alone = Pair { updated: Change { before: 0.01, after: 0.05 }, waiting: None };
    assert_eq!(
        alone.worsening(Metric::Errors),
        alone.reversed().worsening(Metric::Errors).map(|worse| -worse)
    );
}

proptest! {
    #[test]
    fn whoever_changes_places_changes_fortunes(
        figures in proptest::collection::vec((0.0f64..0.2, 0.0f64..0.2, 0.0f64..0.2, 0.0f64..0.2), 1..120),
    ) {
        let health = health();
        let of = |(before, after, other, later): (f64, f64, f64, f64)| Pair {
            updated: Change { before, after },
            waiting: Some(Change { before: other, after: later }),
        };
        let forth: Vec<Pair> = figures.into_iter().map(of).collect();
        let back: Vec<Pair> = forth.iter().map(|pair| pair.reversed()).collect();
        let devices = forth.len() as u32;
        let outcome = |pairs: Vec<Pair>| {
            Comparison::new(&health, 0, &BTreeMap::from([(Metric::Errors, pairs)])).outcome(&health, devices)
        };
        let mirrored = match outcome(forth) {
            Outcome::Better(side) => Outcome::Better(side.other()),
            as_before => as_before,
        };
        prop_assert_eq!(outcome(back), mirrored);
    }
}
