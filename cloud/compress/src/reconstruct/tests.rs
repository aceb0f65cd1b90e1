//! What is minimised, against every choice there is.

use super::descend;

fn error(matrix: &[f64], weights: &[f64], rounded: &[i8]) -> f64 {
    let cols = weights.len();
    let e: Vec<f64> = weights.iter().zip(rounded).map(|(w, q)| w - f64::from(*q)).collect();
    (0..cols)
        .flat_map(|i| (0..cols).map(move |j| (i, j)))
        .map(|(i, j)| e[i] * matrix[i * cols + j] * e[j])
        .sum()
}

/// Second moments of inputs whose elements go together.
fn moments(cols: usize, seed: u64) -> Vec<f64> {
    let mut state = seed;
    let mut noise = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) as f64 / f64::from(1_u32 << 31) - 0.5
    };
    let mut matrix = vec![0.0; cols * cols];
    for _ in 0..64 {
        let common = noise();
        let x: Vec<f64> = (0..cols).map(|_| common + 0.3 * noise()).collect();
        (0..cols * cols).for_each(|cell| matrix[cell] += x[cell / cols] * x[cell % cols]);
    }
    matrix
}

#[test]
fn errors_that_go_together_are_set_against_each_other() {
    // Both inputs are always equal: two halves rounded down and up cost nothing, both down cost all.
    let matrix = [1.0, 1.0, 1.0, 1.0];
    let mut rounded = [2, 2];
    descend(&matrix, &[2.5, 2.5], &[1.0, 1.0], (-127, 127), &mut rounded);
    assert_eq!(rounded.iter().map(|q| i32::from(*q)).sum::<i32>(), 5);
}

#[test]
fn independent_inputs_keep_the_nearest_rounding() {
    let matrix = [1.0, 0.0, 0.0, 4.0];
    let mut rounded = [3, -1];
    descend(&matrix, &[2.6, -1.4], &[1.0, 1.0], (-127, 127), &mut rounded);
    assert_eq!(rounded, [3, -1]);
}

#[test]
fn it_is_never_worse_than_nearest_and_often_near_the_best_of_all() {
    let cols = 8;
    let (mut nearest, mut found, mut best) = (0.0, 0.0, 0.0);
    for seed in 0..50 {
        let matrix = moments(cols, seed);
        let weights: Vec<f64> =
            (0..cols).map(|i| ((i as f64 + 1.0) * (seed as f64 + 1.7)).sin() * 7.0).collect();
        let start: Vec<i8> = weights.iter().map(|w| w.round() as i8).collect();
        let mut rounded = start.clone();
        descend(&matrix, &weights, &[1.0; 8], (-8, 8), &mut rounded);
        assert!(rounded.iter().zip(&weights).all(|(q, w)| (f64::from(*q) - w).abs() < 1.0));
        let least = (0..1_u32 << cols).map(|choice| {
            let up = |i: usize| f64::from(choice >> i & 1);
            let all: Vec<i8> = weights.iter().enumerate().map(|(i, w)| (w.floor() + up(i)) as i8).collect();
            error(&matrix, &weights, &all)
        });
        let least = least.fold(f64::INFINITY, f64::min);
        let (from, to) = (error(&matrix, &weights, &start), error(&matrix, &weights, &rounded));
        assert!(to <= from + 1e-9, "{to} after {from}");
        (nearest, found, best) = (nearest + from, found + to, best + least);
    }
    assert!(found < 0.5 * nearest, "{found} of {nearest}, where {best} is possible");
}

#[test]
fn what_was_clipped_stays_at_the_edge() {
    let mut rounded = [7, 7];
    descend(&[1.0, 0.9, 0.9, 1.0], &[30.0, 7.2], &[1.0, 1.0], (-7, 7), &mut rounded);
    assert_eq!(rounded, [7, 7]);
}
