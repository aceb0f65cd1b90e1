//! Fitting costs to measured times.

use crate::table::UNITS;

/// Sweeps over the coordinates; fits of this size settle in some hundreds.
const SWEEPS: usize = 500;
/// A sample that is further off than this counts less: what else the machine did while it was measured is in it.
const OUTLIER: f64 = 0.3;
/// A part of the whole that is as good as none.
const NOTHING: f64 = 1e-4;
/// Rounds in which outliers are found.
const ROUNDS: usize = 4;

/// Work, the nanoseconds that it took, and the nanoseconds that an error is held against.
pub(crate) type Sample = ([f64; UNITS], f64, f64);

/// The costs, none below zero, with the least squared relative error over these samples. Relative, because a model is
/// many small operators as often as a few large ones.
pub(crate) fn fit(samples: &[Sample]) -> [f64; UNITS] {
    let mut trust = vec![1.0; samples.len()];
    let mut costs = [0.0; UNITS];
    for _ in 0..ROUNDS {
        costs = least_squares(samples, &trust);
        for (weight, (units, time, whole)) in trust.iter_mut().zip(samples) {
            let error = ((sum(&costs, units) - time) / whole).abs();
            *weight = if error > OUTLIER { OUTLIER / error } else { 1.0 };
        }
    }
    costs
}

fn sum(costs: &[f64; UNITS], units: &[f64; UNITS]) -> f64 {
    costs.iter().zip(units).map(|(cost, units)| cost * units).sum()
}

/// Coordinate descent on the normal equations, whose columns are scaled to one.
fn least_squares(samples: &[Sample], trust: &[f64]) -> [f64; UNITS] {
    let (mut gram, mut right) = ([[0.0; UNITS]; UNITS], [0.0; UNITS]);
    for ((units, time, whole), weight) in samples.iter().zip(trust) {
        let row = units.map(|unit| unit / whole);
        for ((one, right), gram) in row.iter().zip(&mut right).zip(&mut gram) {
            *right += weight * one * time / whole;
            gram.iter_mut().zip(&row).for_each(|(sum, other)| *sum += weight * one * other);
        }
    }
    let scale: [f64; UNITS] = std::array::from_fn(|at| gram[at][at].sqrt());
    let mut costs = [0.0; UNITS];
    for _ in 0..SWEEPS {
        for at in (0..UNITS).filter(|at| scale[*at] > 0.0) {
            let others: f64 = (0..UNITS)
                .filter(|other| *other != at && scale[*other] > 0.0)
                .map(|other| gram[at][other] / (scale[at] * scale[other]) * costs[other])
                .sum();
            costs[at] = (right[at] / scale[at] - others).max(0.0);
        }
    }
    // What is less than this part of the time of every sample is rounding.
    let counts = |at: usize| scale[at] > 0.0 && costs[at] > NOTHING;
    std::array::from_fn(|at| if counts(at) { costs[at] / scale[at] } else { 0.0 })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn unit() -> impl Strategy<Value = [f64; UNITS]> {
        let count = || (0_u32..1_000_000).prop_map(f64::from);
        (count(), count(), count(), count())
            .prop_map(|(macs, loops, read, written)| [1.0, macs, loops, 0.0, read, written, 0.0])
    }

    proptest! {
        #[test]
        fn costs_are_numbers_that_are_not_below_zero(
            samples in prop::collection::vec((unit(), 0.0..1e9_f64, 1.0..1e9_f64), 0..40),
        ) {
            let costs = fit(&samples);
            prop_assert!(costs.iter().all(|cost| cost.is_finite() && *cost >= 0.0), "{costs:?}");
        }

        #[test]
        fn what_work_was_made_of_is_found_again(units in prop::collection::vec(unit(), 30..60)) {
            let truth = [400.0, 0.02, 30.0, 0.0, 0.3, 0.5, 0.0];
            let samples: Vec<Sample> = units.iter().map(|units| (*units, sum(&truth, units), sum(&truth, units))).collect();
            let costs = fit(&samples);
            for (units, time, _) in &samples {
                let error = (sum(&costs, units) / time - 1.0).abs();
                prop_assert!(error < 0.05, "{costs:?} is {error} off for {units:?}");
            }
        }
    }

    #[test]
    fn a_moment_in_which_the_machine_did_something_else_counts_little() {
        let sample = |i: u32| {
            let time = 100.0 + f64::from(i * 20);
            ([1.0, f64::from(i * 1000), 0.0, 0.0, 0.0, 0.0, 0.0], time, time)
        };
        let mut samples: Vec<Sample> = (1..=20).map(sample).collect();
        (samples[7].1, samples[7].2) = (samples[7].1 * 8.0, samples[7].2 * 8.0);
        let predicted = sum(&fit(&samples), &[1.0, 15_000.0, 0.0, 0.0, 0.0, 0.0, 0.0]);
        assert!((predicted / 400.0 - 1.0).abs() < 0.1, "{predicted}");
    }
}
