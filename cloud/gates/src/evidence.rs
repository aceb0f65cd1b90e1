//! Evidence that the mean of numbers in [-1, 1] is above 0: the wealth of a bettor who cannot win if it is not.

use serde::{Deserialize, Serialize};

/// Shares of its wealth that the bettor stakes, each with an equal part of it: small ones find small effects in large
/// waves, large ones find large effects in small waves.
const STAKES: [f64; 6] = [0.02, 0.05, 0.1, 0.2, 0.4, 0.7];
/// One number changes the wealth by this factor at most.
pub const INFLUENCE: f64 = 1.0 + STAKES[STAKES.len() - 1];

/// The wealth. It begins with 1.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Evidence {
    /// Natural logarithms, since wealth gets out of any range.
    logs: [f64; STAKES.len()],
    count: u32,
}

impl Default for Evidence {
    fn default() -> Self {
        Self { logs: [0.0; STAKES.len()], count: 0 }
    }
}

impl Evidence {
    /// Bets on the next number; what lies outside of [-1, 1] counts as the nearer end, and what is no number not at all.
    pub fn add(&mut self, number: f64) {
        if number.is_nan() {
            return;
        }
        let number = number.clamp(-1.0, 1.0);
        for (log, stake) in self.logs.iter_mut().zip(STAKES) {
            *log += (stake * number).ln_1p();
        }
        self.count += 1;
    }

    /// How many numbers were bet on.
    pub fn count(&self) -> u32 {
        self.count
    }

    /// Natural logarithm of the wealth.
    pub fn log_wealth(&self) -> f64 {
        let most = self.logs.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        let sum: f64 = self.logs.iter().map(|log| (log - most).exp()).sum();
        most + (sum / STAKES.len() as f64).ln()
    }

    /// Whether it is evidence at this level: if the mean is 0 or less, that ever happens with this probability at most.
    pub fn rejects(&self, alpha: f64) -> bool {
        alpha > 0.0 && self.log_wealth() >= -alpha.ln()
    }
}

impl FromIterator<f64> for Evidence {
    fn from_iter<T: IntoIterator<Item = f64>>(numbers: T) -> Self {
        let mut evidence = Self::default();
        numbers.into_iter().for_each(|number| evidence.add(number));
        evidence
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use rand::rngs::StdRng;
    use rand::{Rng, SeedableRng};

    /// The share of runs of this many numbers that ever reject.
    fn rejected(runs: u64, numbers: usize, alpha: f64, mut draw: impl FnMut(&mut StdRng) -> f64) -> f64 {
        let ever = (0..runs).filter(|seed| {
            let mut random = StdRng::seed_from_u64(*seed);
            let mut evidence = Evidence::default();
            (0..numbers).any(|_| {
                evidence.add(draw(&mut random));
                evidence.rejects(alpha)
            })
        });
        ever.count() as f64 / runs as f64
    }

    #[test]
    fn without_an_effect_it_rejects_as_seldom_as_it_says_however_often_one_looks() {
        let coin = |random: &mut StdRng| if random.random::<bool>() { 1.0 } else { -1.0 };
        let smooth = |random: &mut StdRng| random.random_range(-1.0..1.0);
        // Seldom large, often a little below: the mean is 0, and it is all but symmetric.
        let skewed = |random: &mut StdRng| if random.random_bool(0.1) { 0.9 } else { -0.1 };
        for alpha in [0.05, 0.01] {
            for (name, share) in [
                ("coin", rejected(4_000, 500, alpha, coin)),
                ("smooth", rejected(4_000, 500, alpha, smooth)),
                ("skewed", rejected(4_000, 500, alpha, skewed)),
            ] {
                // Three standard errors of the simulation above the bound would be a finding.
                let error = (alpha * (1.0 - alpha) / 4_000.0).sqrt();
                assert!(share <= alpha + 3.0 * error, "{name} at {alpha}: {share}");
            }
        }
    }

    #[test]
    fn an_effect_is_found() {
        let shifted = |by: f64| move |random: &mut StdRng| random.random_range(-1.0..1.0) + by;
        assert!(rejected(500, 60, 0.001, shifted(0.8)) > 0.99);
        assert!(rejected(500, 400, 0.001, shifted(0.3)) > 0.99);
        assert!(rejected(500, 4_000, 0.001, shifted(0.1)) > 0.9);
    }

    #[test]
    fn the_wealth_of_one_number_is_bounded() {
        for number in [f64::INFINITY, 1e300, 1.0] {
            let evidence = Evidence::from_iter([number]);
            assert!(evidence.log_wealth() <= INFLUENCE.ln());
        }
        let ruined = Evidence::from_iter([f64::NEG_INFINITY]);
        assert!(ruined.log_wealth() >= -INFLUENCE.ln(), "nor is it lost to one");
        assert_eq!(Evidence::from_iter([f64::NAN]), Evidence::default());
        assert!(!Evidence::default().rejects(0.0));
    }

    proptest! {
        #[test]
        fn the_order_does_not_matter(mut numbers in proptest::collection::vec(-2.0f64..2.0, 0..60)) {
            let forth = Evidence::from_iter(numbers.iter().copied());
            numbers.reverse();
            let back = Evidence::from_iter(numbers.iter().copied());
            prop_assert!((forth.log_wealth() - back.log_wealth()).abs() < 1e-9);
        }

        #[test]
        fn more_cannot_hurt(numbers in proptest::collection::vec(-1.0f64..1.0, 1..60), index: prop::sample::Index, by in 0.0f64..1.0) {
            let mut raised = numbers.clone();
            raised[index.index(numbers.len())] += by;
            let (less, more) = (Evidence::from_iter(numbers), Evidence::from_iter(raised));
            prop_assert!(more.log_wealth() >= less.log_wealth() - 1e-12);
        }
    }
}
