//! The population stability index.

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

#[cfg(test)]
mod tests {
    use super::psi;
    use proptest::prelude::*;

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
