//! The search goes from cheap to dear, stops as soon as it can, and never goes past its bounds.
#![expect(clippy::panic, clippy::unwrap_used, reason = "tests fail by panicking")]

use flotilla_runtime::Latency;
use flotilla_runtime::metrics::Metric;

use super::{Room, Rung, Search, Tuning, mark};
use crate::{Breach, Budget, OverBudget, Point};

fn point(drop: f64, bytes: u64, p50_ms: f64) -> Point {
    Point {
        name: String::new(),
        kept_float: Vec::new(),
        four_bit: Vec::new(),
        bytes,
        metric: Metric::Accuracy,
        value: 0.9 - drop,
        drop,
        drop_interval: None,
        output_error: Some(drop.abs()),
        latency: Latency { p50_ms, p95_ms: p50_ms },
        macs: Some(7),
        peak_bytes: Some(1000),
        pareto: false,
    }
}

fn room(layers: usize, four_bit: usize, max_fallbacks: usize) -> Room {
    Room { given: false, layers, four_bit, corrected: true, equalised: false, max_fallbacks }
}

/// Runs a search in which each candidate costs what `cost` says; gives the candidates in order.
fn run(search: &mut Search, cost: impl Fn(Rung) -> Point) -> Vec<Rung> {
    let mut seen = Vec::new();
    while let Some(rung) = search.next() {
        assert!(seen.len() < search.at_most(), "{seen:?} and {rung:?}");
        search.record(rung, Some(cost(rung)));
        seen.push(rung);
    }
    seen
}

fn refusal(search: &Search) -> OverBudget {
    match search.best() {
        Err(refusal) => *refusal,
        Ok(other) => panic!("not refused: {other:?}"),
    }
}

/// Costs as they are in most models: fewer bytes, more loss.
fn usual(rung: Rung, int8: f64, step: f64) -> Point {
    match rung {
        Rung::Exact => point(0.0, 400, 1.0),
        Rung::Half => point(0.0, 200, 1.0),
        Rung::Int8(Tuning::Plain) => point(int8, 100, 1.0),
        Rung::Int8(_) | Rung::Given => point(int8 * 0.75, 101, 1.0),
        Rung::Float(layers) => point(int8 - layers as f64 * step, 100 + 10 * layers as u64, 1.0),
        Rung::Four(layers) => point(int8 + layers as f64 * step, 100 - 3 * layers as u64, 1.0),
    }
}

const FIXED: [Rung; 4] = [Rung::Exact, Rung::Half, Rung::Int8(Tuning::Plain), Rung::Int8(Tuning::Corrected)];

#[test]
fn the_worst_layers_go_back_one_a_step_until_it_fits() {
    let mut search = Search::new(Budget::default(), room(5, 5, 4));
    let seen = run(&mut search, |rung| usual(rung, 0.039, 0.01));
    assert_eq!(seen[..4], FIXED);
    assert_eq!(seen[4..], [Rung::Float(1), Rung::Float(2), Rung::Float(3)]);
    let (rung, best) = search.best().unwrap();
    assert_eq!((rung, best.bytes), (Rung::Float(3), 130));
}

#[test]
fn as_many_layers_go_to_four_bits_as_the_budget_allows() {
    for (layers, step, most) in [(20, 0.001, 7), (20, 0.0, 20), (20, 1.0, 0), (1, 0.001, 1), (0, 0.0, 0)] {
        let mut search = Search::new(Budget::default(), room(20, layers, 4));
        let seen = run(&mut search, |rung| usual(rung, 0.003, step));
        assert_eq!(seen[..4], FIXED);
        let (rung, _) = search.best().unwrap();
        // A file of 100 bytes is hardly smaller than one of 101 that loses less.
        let expected = if most == 0 { Rung::Int8(Tuning::Corrected) } else { Rung::Four(most) };
        assert_eq!(rung, expected, "{seen:?}");
    }
}

#[test]
fn the_search_ends_at_its_bound_with_the_nearest_candidates_first() {
    let budget = Budget { max_bytes: Some(150), ..Budget::default() };
    let mut search = Search::new(budget, room(9, 9, 2));
    let seen = run(&mut search, |rung| usual(rung, 0.3, 0.01));
    assert_eq!(seen[4..], [Rung::Float(1), Rung::Float(2)]);
    let refusal = refusal(&search);
    assert_eq!((refusal.measured, refusal.nearest.len()), (6, 5));
    assert!(
        refusal
            .nearest
            .windows(2)
            .all(|pair| { budget.breaches(&pair[0]).len() <= budget.breaches(&pair[1]).len() })
    );
    assert_eq!(
        refusal.breaches,
        [Breach::Bytes { measured: 200, allowed: 150 }],
        "16-bit floats are nearest"
    );
}

#[test]
fn at_least_one_layer_stays_int8_and_what_does_not_run_is_passed_over() {
    let mut search = Search::new(Budget::default(), room(2, 0, 100));
    let seen = run(&mut search, |rung| usual(rung, 0.9, 0.01));
    assert_eq!(seen[4..], [Rung::Float(1)]);
    let mut broken = Search::new(Budget::default(), room(4, 4, 4));
    while let Some(rung) = broken.next() {
        let runs = matches!(rung, Rung::Exact | Rung::Half | Rung::Int8(Tuning::Plain));
        broken.record(rung, runs.then(|| usual(rung, 0.0, 0.0)));
    }
    assert_eq!(broken.best().unwrap().0, Rung::Int8(Tuning::Plain));
    assert_eq!(broken.into_points().len(), 3);
}

#[test]
fn size_latency_and_memory_are_bounds_as_well() {
    let budget =
        Budget { max_drop: 1.0, max_latency_ms: Some(0.5), max_peak_bytes: Some(10), ..Budget::default() };
    let mut search = Search::new(budget, room(3, 0, 2));
    run(&mut search, |rung| usual(rung, 0.0, 0.0));
    let refusal = refusal(&search);
    assert!(
        matches!(
            refusal.breaches[..],
            [Breach::Latency { .. }, Breach::Memory { measured: 1000, allowed: 10 }]
        ),
        "{:?}",
        refusal.breaches
    );
}

#[test]
fn a_given_recipe_is_the_only_candidate() {
    let mut search = Search::new(Budget::default(), Room { given: true, ..room(3, 3, 3) });
    assert_eq!(run(&mut search, |rung| usual(rung, 0.0, 0.0)), [Rung::Given]);
    assert_eq!(search.best().unwrap().0, Rung::Given);
}

#[test]
fn only_candidates_that_no_other_beats_are_marked() {
    let mut points = [
        point(0.0, 400, 1.0),
        point(0.0, 200, 1.02),
        point(0.01, 100, 1.0),
        point(0.01, 90, 1.2),
        point(0.02, 110, 1.0),
    ];
    mark(&mut points);
    let marked: Vec<bool> = points.iter().map(|point| point.pareto).collect();
    assert_eq!(
        marked,
        [false, true, true, true, false],
        "a time within the noise is no reason to keep a larger file"
    );
}
