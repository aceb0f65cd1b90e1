//! The search stops as soon as it can, and never past its bounds.
#![expect(clippy::panic, reason = "tests fail by panicking")]

use flotilla_runtime::Latency;

use super::{Decision, Search};
use crate::{Breach, Budget, Point};

fn point(drop: f64, bytes: u64, p50_ms: f64) -> Point {
    Point {
        kept_float: Vec::new(),
        bytes,
        accuracy: 0.9 - drop,
        drop,
        latency: Latency { p50_ms, p95_ms: p50_ms },
    }
}

fn refusal(decision: Decision) -> crate::OverBudget {
    match decision {
        Decision::Refuse(refusal) => *refusal,
        other => panic!("not refused: {other:?}"),
    }
}

#[test]
fn a_first_candidate_within_the_budget_is_taken() {
    let mut search = Search::new(Budget::default(), 5, 4);
    assert_eq!(search.step(point(0.01, 100, 1.0)), Decision::Accept, "the bound itself is allowed");
    assert_eq!(search.into_points().len(), 1);
}

#[test]
fn the_worst_layers_go_back_one_a_step_until_it_fits() {
    let mut search = Search::new(Budget::default(), 5, 4);
    assert_eq!(search.step(point(0.3, 100, 1.0)), Decision::Measure(1));
    assert_eq!(search.step(point(0.2, 200, 1.0)), Decision::Measure(2));
    assert_eq!(search.step(point(-0.01, 300, 1.0)), Decision::Accept);
}

#[test]
fn the_search_ends_at_its_bound_with_the_nearest_candidates_first() {
    let mut search = Search::new(Budget::default(), 9, 2);
    assert_eq!(search.step(point(0.3, 100, 1.0)), Decision::Measure(1));
    assert_eq!(search.step(point(0.1, 200, 1.0)), Decision::Measure(2));
    let refusal = refusal(search.step(point(0.2, 300, 1.0)));
    let drops: Vec<f64> = refusal.nearest.iter().map(|point| point.drop).collect();
    assert_eq!((drops, refusal.measured), (vec![0.1, 0.2, 0.3], 3));
    assert_eq!(refusal.breaches, [Breach::Drop { measured: 0.1, allowed: 0.01 }]);
}

#[test]
fn at_least_one_layer_stays_int8() {
    let mut search = Search::new(Budget::default(), 2, 100);
    assert_eq!(search.step(point(0.3, 100, 1.0)), Decision::Measure(1));
    assert_eq!(refusal(search.step(point(0.2, 200, 1.0))).measured, 2);
    assert_eq!(refusal(Search::new(Budget::default(), 1, 100).step(point(0.3, 100, 1.0))).measured, 1);
}

#[test]
fn size_and_latency_are_not_bought_with_more_floats() {
    let budget = Budget { max_bytes: Some(150), max_latency_ms: Some(2.0), ..Budget::default() };
    let mut search = Search::new(budget, 9, 8);
    assert_eq!(search.step(point(0.3, 100, 1.0)), Decision::Measure(1));
    let grown = refusal(search.step(point(0.0, 200, 1.0)));
    assert_eq!(grown.breaches.len(), 1);
    assert_eq!(grown.nearest.len(), 2);
    let slow = refusal(Search::new(budget, 9, 8).step(point(0.0, 100, 2.5)));
    assert_eq!(slow.breaches, [Breach::Latency { measured: 2.5, allowed: 2.0 }]);
}
