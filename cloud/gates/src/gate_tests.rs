//! Gates over simulated rollouts: how often a good release is stopped, and how soon a bad one is.
#![expect(clippy::unwrap_used, reason = "tests fail by panicking")]

use super::*;
use crate::change::Change;
use crate::simulated::{GOOD, World, device, health};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

/// Waves of the simulated rollouts.
const WAVES: [usize; 4] = [1, 40, 100, 400];
/// Windows that each wave is watched for.
const WINDOWS: u32 = 4;

/// Each updated device beside one that waits.
fn pairs(updated: &[Change], waiting: &[Change]) -> Vec<Pair> {
    let both = updated.iter().zip(waiting);
    both.map(|(updated, waiting)| Pair { updated: *updated, waiting: Some(*waiting) }).collect()
}

/// Devices that had been updated when the rollout was stopped; `None` if it was not. Nothing is asked of evidence in
/// favour: this is how often the stop itself errs.
fn stopped(seed: u64, world: World) -> Option<usize> {
    let mut random = StdRng::seed_from_u64(seed);
    let (health, mut updated, mut windows) = (health(), 0, 0);
    for wave in WAVES {
        updated += wave;
        for window in 0..WINDOWS {
            // Weekdays, nights, firmware: something happens to all devices.
            let day = random.random_range(-0.2..0.4);
            let draw = |random: &mut StdRng, world| -> Vec<BTreeMap<Metric, Change>> {
                (0..wave).map(|_| device(random, world, windows, day)).collect()
            };
            let (ours, others) = (draw(&mut random, Some(world)), draw(&mut random, None));
            let of = |metric| {
                let changes = |all: &[BTreeMap<Metric, Change>]| -> Vec<Change> {
                    all.iter().map(|figures| figures[&metric]).collect()
                };
                (metric, pairs(&changes(&ours), &changes(&others)))
            };
            let compared = BTreeMap::from([Metric::Errors, Metric::LatencyP95].map(of));
            if Look::new(&health, WAVES.len(), window, &compared).worse().is_some() {
                return Some(updated);
            }
            windows += 1;
        }
    }
    None
}

/// The share of rollouts that were stopped, and the share of those that were before more than `early` devices were
/// updated.
fn shares(rollouts: u64, world: World, early: usize) -> (f64, f64) {
    let all: Vec<usize> = (0..rollouts).filter_map(|seed| stopped(seed, world)).collect();
    let of = |count: usize| count as f64 / rollouts as f64;
    (of(all.len()), of(all.iter().filter(|updated| **updated <= early).count()))
}

#[test]
fn good_releases_go_through_and_bad_ones_are_stopped_early() {
    let rollouts = std::env::var("FLOTILLA_GATE_ROLLOUTS").map_or(500, |n| n.parse().unwrap());
    let (false_alarms, _) = shares(rollouts, GOOD, 0);
    println!("{rollouts} rollouts of a good release: {:.2} % stopped, 5 % permitted", false_alarms * 100.0);
    assert!(false_alarms <= 0.05);
    for (what, world, early, least) in [
        ("failed predictions +5 points", World { errors: 0.05, ..GOOD }, 41, 0.9),
        ("failed predictions +2 points", World { errors: 0.02, ..GOOD }, 141, 0.9),
        ("latency times 2", World { latency: 2.0, ..GOOD }, 41, 0.9),
        ("latency times 1.3", World { latency: 1.3, ..GOOD }, 141, 0.9),
        (
            "failed predictions +5 points from the sixth window on",
            World { errors: 0.05, from: 5, ..GOOD },
            141,
            0.9,
        ),
    ] {
        let (found, soon) = shares(rollouts, world, early);
        println!(
            "{what}: {:.2} % stopped, {:.2} % before more than {early} of 541 devices had it",
            found * 100.0,
            soon * 100.0
        );
        assert!(found > 0.99 && soon >= least, "{what}: {found} {soon}");
    }
}

#[test]
fn a_few_liars_neither_stop_a_good_release_nor_hide_a_bad_one() {
    let spiteful = World { liars: 0.03, lie: 1.0, ..GOOD };
    let (stopped, _) = shares(300, spiteful, 0);
    assert!(stopped <= 0.05, "{stopped}");
    let bribed = World { errors: 0.05, liars: 0.03, lie: -1.0, ..GOOD };
    let (found, _) = shares(300, bribed, 0);
    assert!(found > 0.99, "{found}");
}

fn steady(worse: f64, devices: usize) -> BTreeMap<Metric, Vec<Pair>> {
    let pair = Pair {
        updated: Change { before: 0.01, after: 0.01 + worse },
        waiting: Some(Change { before: 0.01, after: 0.01 }),
    };
    BTreeMap::from([(Metric::Errors, vec![pair; devices])])
}

#[test]
fn a_wave_is_let_through_on_evidence_only_if_it_is_large_enough_to_give_some() {
    let health = health();
    let verdict = |worse, compared, devices| {
        let look = Look::new(&health, 4, 0, &steady(worse, compared));
        look.verdict(&health, devices)
    };
    assert_eq!(verdict(0.0, 1, 1), Verdict::Harmless, "one device shows nothing, and nothing is asked of it");
    assert_eq!(verdict(0.0, 40, 40), Verdict::Harmless);
    assert_eq!(verdict(0.0, 40, 60), Verdict::Open, "a third of them is silent");
    assert_eq!(verdict(0.05, 40, 40), Verdict::Worse);
    assert_eq!(verdict(0.05, 2, 2), Verdict::Harmless, "two devices stop nothing: they may lie");
    let few = Look::new(&health, 4, 0, &steady(0.05, 2));
    assert_eq!(
        few.alarming(&health).map(|finding| finding.metric),
        Some(Metric::Errors),
        "but they are a reason to ask"
    );
    assert!(Look::new(&health, 4, 0, &steady(0.001, 2)).alarming(&health).is_none());

    // Memory alone does not speak for a release that answers nothing.
    let pair = Pair {
        updated: Change { before: 5e6, after: 5e6 },
        waiting: Some(Change { before: 5e6, after: 5e6 }),
    };
    let silent = BTreeMap::from([(Metric::Memory, vec![pair; 40])]);
    let health = Health::default();
    assert_eq!(Look::new(&health, 4, 0, &silent).verdict(&health, 40), Verdict::Open);
}

#[test]
fn harm_that_shows_in_rare_failures_does_not_pass_for_harmless() {
    // At exactly the bound of harm, each device with a hundred predictions.
    let health = health();
    let passed = (0..300)
        .filter(|seed| {
            let mut random = StdRng::seed_from_u64(*seed);
            let share = |p: f64, random: &mut StdRng| {
                (0..100).filter(|_| random.random_bool(p)).count() as f64 / 100.0
            };
            let pairs: Vec<Pair> = (0..100)
                .map(|_| Pair {
                    updated: Change { before: 0.01, after: share(0.03, &mut random) },
                    waiting: Some(Change { before: 0.01, after: share(0.01, &mut random) }),
                })
                .collect();
            let look = Look::new(&health, 4, 0, &BTreeMap::from([(Metric::Errors, pairs)]));
            look.verdict(&health, 100) == Verdict::Harmless
        })
        .count();
    assert!(passed <= 15, "{passed} of 300: 5 in a hundred are permitted");
}

#[test]
fn what_is_spent_adds_up() {
    let spending = Spending::new(0.05, 6, 4);
    let all: f64 = (0..100_000).map(|window| spending.level(window)).sum::<f64>() * 24.0;
    assert!((0.0499..0.05).contains(&all), "{all}");
    assert!(spending.level(0) > spending.level(1));
}

#[test]
fn a_metric_without_figures_says_nothing() {
    let look = Look::new(&health(), 4, 0, &BTreeMap::new());
    assert_eq!((look.findings.len(), look.verdict(&health(), 50)), (0, Verdict::Open));
    assert_eq!(look.verdict(&health(), 3), Verdict::Harmless, "of a few devices nothing is asked");
    let silent = Pair { updated: Change { before: f64::NAN, after: 1.0 }, waiting: None };
    let look = Look::new(&health(), 4, 0, &BTreeMap::from([(Metric::Errors, vec![silent])]));
    assert!(look.findings.is_empty());
}
