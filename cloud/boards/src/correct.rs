//! What real devices of a board say of its predictions.

use serde::{Deserialize, Serialize};

/// What one device reports of one release.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Pair {
    /// What the table says, in milliseconds.
    pub predicted_ms: f64,
    /// What the device measured: the median of a prediction, in milliseconds.
    pub reported_ms: f64,
}

/// A factor on the predictions of a board.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Correction {
    /// Times the prediction; 1 where nobody has reported.
    pub scale: f64,
    /// Reports behind it.
    pub reports: usize,
    /// By which factor corrected predictions are off, the median of the reports; none without reports.
    pub median_error: Option<f64>,
    /// By which factor nine of ten are off at most.
    pub spread: Option<f64>,
}

impl Correction {
    /// No factor at all.
    pub const NONE: Self = Self { scale: 1.0, reports: 0, median_error: None, spread: None };
}

/// As much as so many reports the table's own word counts: with one report the scale goes a third of the way.
const DOUBT: f64 = 2.0;
/// A device counts as if it were off by this factor at most: a hot or busy one must not speak for all.
const BOUND: f64 = 32.0;

/// The factor by which what devices report differs from what is predicted, in the middle. It is drawn towards 1 as long as
/// few have reported. The middle is the median of the logarithms, which some devices far off do not move.
pub fn correct(pairs: impl IntoIterator<Item = Pair>) -> Correction {
    let usable = |ms: f64| ms.is_finite() && ms > 0.0;
    let mut logs: Vec<f64> = pairs
        .into_iter()
        .filter(|pair| usable(pair.predicted_ms) && usable(pair.reported_ms))
        .map(|pair| (pair.reported_ms.ln() - pair.predicted_ms.ln()).clamp(-BOUND.ln(), BOUND.ln()))
        .collect();
    if logs.is_empty() {
        return Correction::NONE;
    }
    logs.sort_by(f64::total_cmp);
    let count = logs.len() as f64;
    let scale = middle(&logs) * count / (count + DOUBT);
    let mut off: Vec<f64> = logs.iter().map(|log| (log - scale).abs()).collect();
    off.sort_by(f64::total_cmp);
    let ninth = off[(off.len() * 9).div_ceil(10).saturating_sub(1)];
    Correction {
        scale: scale.exp(),
        reports: logs.len(),
        median_error: Some(middle(&off).exp()),
        spread: Some(ninth.exp()),
    }
}

fn middle(sorted: &[f64]) -> f64 {
    let half = sorted.len() / 2;
    if sorted.len() % 2 == 1 { sorted[half] } else { f64::midpoint(sorted[half - 1], sorted[half]) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn pair(predicted_ms: f64, reported_ms: f64) -> Pair {
        Pair { predicted_ms, reported_ms }
    }

    #[test]
    fn many_devices_that_agree_move_the_prediction_to_what_they_say_and_one_moves_it_a_third_of_the_way() {
        assert_eq!(correct([]), Correction::NONE);
        let one = correct([pair(10.0, 30.0)]);
        assert!((one.scale.ln() - 3_f64.ln() / 3.0).abs() < 1e-12, "{one:?}");
        let many = correct((0..200).map(|_| pair(10.0, 30.0)));
        assert!((many.scale - 3.0).abs() < 0.05, "{many:?}");
        assert_eq!(many.reports, 200);
    }

    #[test]
    fn a_device_that_is_busy_with_something_else_does_not_speak_for_the_board() {
        let calm = correct((0..20).map(|_| pair(10.0, 12.0)));
        let busy = correct((0..20).map(|place| pair(10.0, if place < 5 { 5_000.0 } else { 12.0 })));
        assert!((busy.scale / calm.scale - 1.0).abs() < 0.01, "{busy:?} {calm:?}");
        assert!(busy.spread > calm.spread, "but its word widens the interval");
    }

    proptest! {
        #[test]
        fn whatever_is_reported_the_factor_is_a_bounded_number(
            reports in prop::collection::vec((any::<f64>(), any::<f64>()), 0..50),
        ) {
            let correction = correct(reports.into_iter().map(|(predicted, reported)| pair(predicted, reported)));
            prop_assert!(correction.scale >= 1.0 / BOUND && correction.scale <= BOUND, "{correction:?}");
            prop_assert!(correction.spread.is_none_or(|spread| (1.0..=BOUND * BOUND).contains(&spread)));
        }
    }
}
