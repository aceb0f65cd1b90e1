//! Golden vectors: a device proves with them that it runs what was released.

use crate::support::{halves, halves_pipeline, png};
use flotilla_protocol::ErrorCode;
use flotilla_protocol::manifest::Golden;
use flotilla_runtime::{Error, GoldenReport, Model, check_golden, make_golden};

fn model() -> Model {
    Model::load(&halves_pipeline(), &halves("N")).unwrap()
}

fn golden(tolerance: f32) -> Golden {
    let picture = png(image::GrayImage::from_raw(2, 2, vec![10, 20, 30, 40]).unwrap());
    make_golden(&mut model(), [vec![1, 2, 3, 4], picture], tolerance).unwrap()
}

#[test]
fn the_same_model_reproduces_its_vectors_exactly() {
    let report = check_golden(&mut model(), &golden(0.0)).unwrap();
    assert!(matches!(report, GoldenReport { vectors: 2, max_abs_error: 0.0, .. }), "{report:?}");
    assert!(report.p95_ms >= report.p50_ms && report.p50_ms > 0.0);
}

#[test]
fn a_difference_within_the_tolerance_is_reported_and_one_beyond_it_is_an_error() {
    let mut golden = golden(0.01);
    golden.vectors[1].scores[0] += 0.005;
    let report = check_golden(&mut model(), &golden).unwrap();
    assert!((report.max_abs_error - 0.005).abs() < 1e-6, "{report:?}");
    golden.vectors[1].scores[0] += 0.01;
    let error = check_golden(&mut model(), &golden).unwrap_err();
    assert!(matches!(error, Error::GoldenMismatch { vector: 1, .. }), "{error}");
    assert_eq!(error.code(), ErrorCode::ProbeMismatch);
}

#[test]
fn vectors_of_another_model_are_a_mismatch() {
    let mut short = golden(1.0);
    short.vectors[0].scores.pop();
    let mut undefined = golden(1.0);
    undefined.vectors[0].scores[0] = f32::NAN;
    let mut infinite = golden(1.0);
    infinite.vectors[1].scores[1] = f32::INFINITY;
    for golden in [short, undefined, infinite] {
        assert!(matches!(check_golden(&mut model(), &golden), Err(Error::GoldenMismatch { .. })));
    }
}

#[test]
fn vectors_that_prove_nothing_are_refused() {
    let none = Golden { tolerance: 0.1, vectors: Vec::new() };
    assert!(matches!(check_golden(&mut model(), &none), Err(Error::Golden(_))));
    for tolerance in [f32::NAN, f32::INFINITY, -0.1] {
        let golden = Golden { tolerance, ..golden(0.1) };
        assert!(matches!(check_golden(&mut model(), &golden), Err(Error::Golden(_))), "{tolerance}");
    }
}
