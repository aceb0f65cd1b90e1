//! The population stability index, and how large chance makes it.

/// The population stability index of two sets of counts over the same bins: `sum (a_i - e_i) ln(a_i / e_i)` (Siddiqi,
/// *Credit Risk Scorecards*, 2006), of shares smoothed by half a count a bin. See [`flotilla_protocol::baseline`].
///
/// Never negative, 0 for equal shares, the same both ways, and finite whatever the counts.
///
/// # Panics
///
/// If there are not as many bins on both sides.
pub fn psi(actual: &[u32], expected: &[u32]) -> f64 {
    assert_eq!(actual.len(), expected.len(), "both sides have the same bins");
    let (actual_of, expected_of) = (shares(actual), shares(expected));
    let terms = actual.iter().zip(expected).map(|(actual, expected)| {
        let (a, e) = (actual_of(*actual), expected_of(*expected));
        (a - e) * (a / e).ln()
    });
    terms.sum()
}

/// From count to smoothed share.
fn shares(counts: &[u32]) -> impl Fn(u32) -> f64 {
    let total: f64 = counts.iter().map(|count| f64::from(*count)).sum::<f64>() + counts.len() as f64 / 2.0;
    move |count| (f64::from(count) + 0.5) / total
}

/// Of so many judgements one goes beyond [`chance`] without any drift.
const JUDGEMENTS: f64 = 1_000.0;

/// The index that counts of one distribution hardly go beyond: once in [`JUDGEMENTS`], for the worst of so many indices
/// that are judged together. Taken from the chi-square approximation (see [`flotilla_protocol::baseline`]), over the bins
/// in which anything was counted at all: the others have no share in either.
///
/// Infinite where one side has no counts: nothing is known then.
pub fn chance(actual: &[u32], expected: &[u32], indices: usize) -> f64 {
    let total = |counts: &[u32]| counts.iter().map(|count| f64::from(*count)).sum::<f64>();
    let bins = actual.iter().zip(expected).filter(|(a, e)| **a > 0 || **e > 0).count();
    let size = 1.0 / total(actual) + 1.0 / total(expected);
    // That one of several goes beyond its bound is at most as likely as all of them together (Bonferroni).
    size * chi_square(bins.saturating_sub(1).max(1) as f64, 1.0 / (JUDGEMENTS * indices.max(1) as f64))
}

/// What a chi-square variable goes beyond with probability `p`: Wilson and Hilferty (1931), good to a few per cent.
fn chi_square(degrees: f64, p: f64) -> f64 {
    let spread = 2.0 / (9.0 * degrees);
    degrees * (1.0 - spread + normal(p) * spread.sqrt()).powi(3)
}

/// What a normal variable goes beyond with probability `p`, below one half: Abramowitz and Stegun 26.2.23, good to 0.0005.
fn normal(p: f64) -> f64 {
    let t = (-2.0 * p.ln()).sqrt();
    let above = 2.515_517 + t * (0.802_853 + t * 0.010_328);
    t - above / (1.0 + t * (1.432_788 + t * (0.189_269 + t * 0.001_308)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_bound_of_chance_is_that_of_the_tables() {
        // NIST/SEMATECH e-Handbook of Statistical Methods, 1.3.6.7.4: upper critical values at 0.001.
        for (degrees, value) in [(1, 10.828), (2, 13.816), (9, 27.877), (15, 37.697), (63, 103.442)] {
            let ours = chi_square(f64::from(degrees), 0.001);
            assert!((ours / value - 1.0).abs() < 0.04, "{degrees}: {ours} and not {value}");
        }
        let ten = [2; 10];
        let bound = chance(&[60; 10], &ten, 1);
        assert!((bound - (1.0 / 600.0 + 1.0 / 20.0) * 27.877).abs() < 0.01, "{bound}");
        assert!(chance(&[60; 10], &ten, 7) > bound, "the worst of several goes farther");
        let empty = [2, 2, 2, 2, 2, 2, 2, 2, 2, 2, 0, 0];
        let same = chance(&[60, 60, 60, 60, 60, 60, 60, 60, 60, 60, 0, 0], &empty, 1);
        assert_eq!(same, bound, "bins that nobody uses add nothing");
        assert_eq!(chance(&[0, 0], &[5, 5], 1), f64::INFINITY);
    }

    #[test]
    fn the_index_of_known_shares_is_what_the_definition_says() {
        // Large counts leave nothing of the smoothing: 0.6 and 0.4 against 0.5 and 0.5.
        let by_hand = 0.1 * (0.6_f64 / 0.5).ln() - 0.1 * (0.4_f64 / 0.5).ln();
        assert!((psi(&[600_000, 400_000], &[500_000, 500_000]) - by_hand).abs() < 1e-5);
        // One bin says nothing, and neither does no count at all.
        assert_eq!(psi(&[7], &[9]), 0.0);
        assert_eq!(psi(&[], &[]), 0.0);
        assert_eq!(psi(&[0, 0], &[0, 0]), 0.0);
    }

    proptest! {
        #[test]
        fn the_index_is_finite_never_negative_and_the_same_both_ways(bins in prop::collection::vec((any::<u32>(), any::<u32>()), 0..64)) {
            let (a, b): (Vec<u32>, Vec<u32>) = bins.into_iter().unzip();
            let index = psi(&a, &b);
            prop_assert!(index.is_finite() && index >= 0.0, "{index}");
            prop_assert!((index - psi(&b, &a)).abs() <= 1e-9 * index.max(1.0));
            prop_assert_eq!(psi(&a, &a), 0.0);
        }

        #[test]
        fn more_of_the_same_moves_it_towards_nothing(counts in prop::collection::vec(1u32..1_000, 2..20), times in 2u32..1_000) {
            let more: Vec<u32> = counts.iter().map(|count| count * times).collect();
            // The shares are equal but for the smoothing.
            prop_assert!(psi(&counts, &more) < 0.25);
            let much: Vec<u32> = counts.iter().map(|count| count * 1_000).collect();
            let more: Vec<u32> = much.iter().map(|count| count * times).collect();
            prop_assert!(psi(&much, &more) < 1e-3);
        }
    }
}
