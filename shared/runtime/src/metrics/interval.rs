//! What a figure over a sample of the world says of the world: 95 % intervals.

use std::ops::RangeInclusive;

/// The two-sided 95 % point of the normal distribution.
const Z: f64 = 1.959_963_984_540_054;
/// Resamples of a bootstrap.
const RESAMPLES: usize = 2000;
/// The same where one figure is dear.
const FEWEST_RESAMPLES: usize = 200;
/// Steps that all resamples of a dear figure should take.
const STEPS: usize = 200_000_000;

/// 95 % interval of an F1 score, by Wilson's: the share of right ones among all that are or were called so is a proportion
/// that F1 follows from, and grows with it (Hand, Christen and Kirielle, "F*", Machine Learning 110 (2021)).
#[must_use]
pub fn f1_interval(right: u64, called_or_true: u64) -> Option<RangeInclusive<f64>> {
    let share = wilson(right, called_or_true)?;
    let f1 = |share: &f64| 2.0 * share / (1.0 + share);
    Some(f1(share.start())..=f1(share.end()))
}

/// Wilson's 95 % interval of a proportion; `None` without samples, or with more hits than samples.
#[must_use]
pub fn wilson(hits: u64, total: u64) -> Option<RangeInclusive<f64>> {
    if total == 0 || hits > total {
        return None;
    }
    let (n, p) = (total as f64, hits as f64 / total as f64);
    let (middle, scale) = (p + Z * Z / (2.0 * n), 1.0 + Z * Z / n);
    let half = Z * (p * (1.0 - p) / n + Z * Z / (4.0 * n * n)).sqrt();
    Some(((middle - half) / scale).max(0.0)..=((middle + half) / scale).min(1.0))
}

/// 95 % interval of the share that is lost from one run to another over the same samples, by hits of each.
///
/// Only samples on which the runs differ count, as in McNemar's test. Half a sample is added to each cell of the two by
/// two table before Wald's formula: Agresti and Min, "Simple improved confidence intervals for comparing matched
/// proportions", Statistics in Medicine 24 (2005), which covers well where the plain formula does not, and never has
/// no width. `None` without samples or where the runs have not as many.
#[must_use]
pub fn paired_share(before: &[bool], after: &[bool]) -> Option<RangeInclusive<f64>> {
    if before.is_empty() || before.len() != after.len() {
        return None;
    }
    let count = |was: bool, is: bool| before.iter().zip(after).filter(|p| *p == (&was, &is)).count() as f64;
    let (lost, won) = (count(true, false) + 0.5, count(false, true) + 0.5);
    let n = before.len() as f64 + 2.0;
    let drop = (lost - won) / n;
    let half = Z * ((lost + won) - (lost - won).powi(2) / n).max(0.0).sqrt() / n;
    Some((drop - half).max(-1.0)..=(drop + half).min(1.0))
}

/// 95 % percentile interval of any figure over `samples` samples, by resampling them with replacement.
///
/// `figure` gets the indices of a resample, so that a paired figure looks at the same samples of both runs. The seed is
/// fixed: the same samples always give the same interval. Resamples that do not define the figure (one class only) are
/// left out; `None` if these are more than half.
#[must_use]
pub fn bootstrap(
    samples: usize,
    mut figure: impl FnMut(&[usize]) -> Option<f64>,
) -> Option<RangeInclusive<f64>> {
    let mut draws = Draws::of(samples)?;
    let mut indices = vec![0_usize; samples];
    resampled(RESAMPLES, || {
        indices.iter_mut().for_each(|index| *index = draws.next());
        figure(&indices)
    })
}

/// The same for a figure that can be counted by how often each sample was drawn, which spares sorting for each resample.
///
/// `steps` is about what one figure costs; where that is much, fewer resamples are made, so that the whole ends in seconds.
#[must_use]
pub fn weighted_bootstrap(
    samples: usize,
    steps: usize,
    mut figure: impl FnMut(&[u32]) -> Option<f64>,
) -> Option<RangeInclusive<f64>> {
    let mut draws = Draws::of(samples)?;
    let mut weights = vec![0_u32; samples];
    let resamples = (STEPS / steps.max(samples)).clamp(FEWEST_RESAMPLES, RESAMPLES);
    resampled(resamples, || {
        weights.fill(0);
        (0..samples).for_each(|_| weights[draws.next()] += 1);
        figure(&weights)
    })
}

fn resampled(resamples: usize, mut figure: impl FnMut() -> Option<f64>) -> Option<RangeInclusive<f64>> {
    let values = (0..resamples).filter_map(|_| figure().filter(|value| value.is_finite()));
    let mut values: Vec<f64> = values.collect();
    if values.len() * 2 < resamples {
        return None;
    }
    values.sort_by(f64::total_cmp);
    let at = |share: f64| values[((values.len() - 1) as f64 * share).round() as usize];
    Some(at(0.025)..=at(0.975))
}

/// Places of samples, drawn with replacement by a fixed seed.
struct Draws {
    samples: usize,
    state: u64,
}

impl Draws {
    /// None without samples.
    fn of(samples: usize) -> Option<Self> {
        (samples > 0).then_some(Self { samples, state: 0x9e37_79b9_7f4a_7c15 })
    }

    fn next(&mut self) -> usize {
        // splitmix64
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.state;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^= z >> 31;
        // The high bits of a product: uniform but for a part in 2^64 / samples.
        ((u128::from(z) * self.samples as u128) >> 64) as usize
    }
}
