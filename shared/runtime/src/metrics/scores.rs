//! Figures over scores, labels and values.

use serde::{Deserialize, Serialize};

/// Share of hits; `None` without samples.
#[must_use]
pub fn share(hits: impl IntoIterator<Item = bool>) -> Option<f64> {
    let (mut total, mut right) = (0_u64, 0_u64);
    for hit in hits {
        total += 1;
        right += u64::from(hit);
    }
    (total > 0).then(|| right as f64 / total as f64)
}

/// Index of the largest score, the first of equals; `None` where there is none or one is no number.
#[must_use]
pub fn top1(scores: &[f32]) -> Option<usize> {
    if scores.iter().any(|score| score.is_nan()) {
        return None;
    }
    let better = |best: usize, i: usize| if scores[i] > scores[best] { i } else { best };
    (!scores.is_empty()).then(|| (1..scores.len()).fold(0, better))
}

/// Area under the ROC curve: the probability that a positive sample scores higher than a negative one, ties counting half.
/// `None` unless there are samples of both kinds and all scores are numbers.
#[must_use]
pub fn auc(samples: &[(f64, bool)]) -> Option<f64> {
    Ranking::of(samples)?.auc(|_| 1.0)
}

/// Average precision of a ranking: precision at each positive sample, averaged, equal scores being one step. `None` unless
/// there is a positive sample and all scores are numbers.
#[must_use]
pub fn average_precision(samples: &[(f64, bool)]) -> Option<f64> {
    Ranking::of(samples)?.average_precision(|_| 1.0)
}

/// Samples by falling score, so that figures can be counted with other weights without being sorted again.
#[derive(Clone, Debug)]
pub struct Ranking {
    /// Score, whether positive, place among the samples.
    sorted: Vec<(f64, bool, usize)>,
}

impl Ranking {
    /// Of scores and whether each sample is positive; `None` where a score is no number.
    #[must_use]
    pub fn of(samples: &[(f64, bool)]) -> Option<Self> {
        if samples.iter().any(|(score, _)| score.is_nan()) {
            return None;
        }
        let placed = samples.iter().enumerate().map(|(place, (score, positive))| (*score, *positive, place));
        let mut sorted: Vec<_> = placed.collect();
        sorted.sort_by(|a, b| b.0.total_cmp(&a.0));
        Some(Self { sorted })
    }

    /// Weight of positive and of negative samples, score by score.
    fn steps(&self, weight: impl Fn(usize) -> f64) -> impl Iterator<Item = (f64, f64)> {
        // -0 and 0 are the same score, though the order tells them apart.
        self.sorted.chunk_by(|a, b| a.0 == b.0).map(move |group| {
            group.iter().fold((0.0, 0.0), |(positive, negative), (_, is_positive, place)| {
                let weight = weight(*place);
                if *is_positive { (positive + weight, negative) } else { (positive, negative + weight) }
            })
        })
    }

    /// [`auc`], each sample counted as often as its weight says.
    #[must_use]
    pub fn auc(&self, weight: impl Fn(usize) -> f64) -> Option<f64> {
        let (mut positives, mut negatives, mut wins) = (0.0, 0.0, 0.0);
        for (positive, negative) in self.steps(weight) {
            wins += negative * (positives + positive / 2.0);
            positives += positive;
            negatives += negative;
        }
        (positives > 0.0 && negatives > 0.0).then(|| wins / (positives * negatives))
    }

    /// [`average_precision`], each sample counted as often as its weight says.
    #[must_use]
    pub fn average_precision(&self, weight: impl Fn(usize) -> f64) -> Option<f64> {
        let (mut positives, mut seen, mut sum) = (0.0, 0.0, 0.0);
        for (positive, negative) in self.steps(weight) {
            positives += positive;
            seen += positive + negative;
            if positive > 0.0 {
                sum += positive * positives / seen;
            }
        }
        (positives > 0.0).then(|| sum / positives)
    }
}

/// Share of the variance of the truth that predictions explain, of pairs (truth, prediction). `None` where the truth
/// does not vary or a value is no finite number.
#[must_use]
pub fn r2(pairs: &[(f64, f64)]) -> Option<f64> {
    weighted_r2(pairs, |_| 1.0)
}

/// [`r2`], each pair counted as often as its weight says.
#[must_use]
pub fn weighted_r2(pairs: &[(f64, f64)], weight: impl Fn(usize) -> f64) -> Option<f64> {
    if pairs.len() < 2 {
        return None;
    }
    let sum = |of: &dyn Fn(&(f64, f64)) -> f64| {
        pairs.iter().enumerate().map(|(place, pair)| weight(place) * of(pair)).sum::<f64>()
    };
    let mean = sum(&|(truth, _)| *truth) / sum(&|_| 1.0);
    let total = sum(&|(truth, _)| (truth - mean).powi(2));
    let residual = sum(&|(truth, predicted)| (truth - predicted).powi(2));
    (total > 0.0).then(|| 1.0 - residual / total).filter(|r2| r2.is_finite())
}

/// Mean absolute error of pairs (truth, prediction).
#[must_use]
pub fn mae(pairs: &[(f64, f64)]) -> Option<f64> {
    mean(pairs.iter().map(|(truth, predicted)| (truth - predicted).abs()))
}

/// Square root of the mean squared error of pairs (truth, prediction).
#[must_use]
pub fn rmse(pairs: &[(f64, f64)]) -> Option<f64> {
    mean(pairs.iter().map(|(truth, predicted)| (truth - predicted).powi(2))).map(f64::sqrt)
}

/// Mean of values; `None` where there is none or it is no finite number.
#[must_use]
pub fn mean(values: impl IntoIterator<Item = f64>) -> Option<f64> {
    let (sum, count) = values.into_iter().fold((0.0, 0_u64), |(sum, count), value| (sum + value, count + 1));
    (count > 0).then(|| sum / count as f64).filter(|mean| mean.is_finite())
}

/// Bins of [`ece`], as in Guo et al., "On Calibration of Modern Neural Networks" (arXiv:1706.04599).
pub const ECE_BINS: usize = 15;

/// Samples of about the same confidence.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Bin {
    /// How many.
    pub samples: u64,
    /// Mean confidence; 0 without samples.
    pub confidence: f64,
    /// Share that is right; 0 without samples.
    pub accuracy: f64,
}

/// How often a model is right by how sure it is, in [`ECE_BINS`] equal bins of confidence. Samples are (confidence,
/// right); `None` unless all confidences lie between 0 and 1.
#[must_use]
pub fn reliability(samples: &[(f64, bool)]) -> Option<[Bin; ECE_BINS]> {
    if samples.is_empty() || samples.iter().any(|(claim, _)| !(0.0..=1.0).contains(claim)) {
        return None;
    }
    let mut bins = [Bin::default(); ECE_BINS];
    for &(claim, right) in samples {
        // Bins are open below and closed above, so that 1 belongs to the last.
        let bin = ((claim * ECE_BINS as f64).ceil() as usize).clamp(1, ECE_BINS) - 1;
        bins[bin].samples += 1;
        bins[bin].confidence += claim;
        bins[bin].accuracy += f64::from(u8::from(right));
    }
    for bin in bins.iter_mut().filter(|bin| bin.samples > 0) {
        bin.confidence /= bin.samples as f64;
        bin.accuracy /= bin.samples as f64;
    }
    Some(bins)
}

/// Expected calibration error: how far what the model claims is from how often it is right, the mean over the samples'
/// bins of [`reliability`].
#[must_use]
pub fn ece(samples: &[(f64, bool)]) -> Option<f64> {
    let bins = reliability(samples)?;
    let off = |bin: &Bin| bin.samples as f64 * (bin.confidence - bin.accuracy).abs();
    Some(bins.iter().map(off).sum::<f64>() / samples.len() as f64)
}

/// The L2 norm of the difference of outputs and reference, by that of the reference; `None` where lengths differ or a
/// value is no finite number. Where the reference is all zero, the norm of the outputs.
#[must_use]
pub fn relative_l2(reference: &[f32], outputs: &[f32]) -> Option<f64> {
    if reference.len() != outputs.len() {
        return None;
    }
    let (mut difference, mut norm) = (0.0_f64, 0.0_f64);
    for (&expected, &found) in reference.iter().zip(outputs) {
        difference += (f64::from(expected) - f64::from(found)).powi(2);
        norm += f64::from(expected).powi(2);
    }
    let relative = if norm > 0.0 { (difference / norm).sqrt() } else { difference.sqrt() };
    (relative.is_finite() && norm.is_finite()).then_some(relative)
}
