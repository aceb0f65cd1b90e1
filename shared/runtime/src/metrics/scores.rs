//! Figures over scores, labels and values.

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

/// Area under the ROC curve, by ranks (Mann-Whitney): the probability that a positive sample scores higher than a
/// negative one, ties counting half. `None` unless there are samples of both kinds and all scores are numbers.
#[must_use]
pub fn auc(samples: &[(f64, bool)]) -> Option<f64> {
    if samples.iter().any(|(score, _)| score.is_nan()) {
        return None;
    }
    let positives = samples.iter().filter(|(_, positive)| *positive).count() as f64;
    let negatives = samples.len() as f64 - positives;
    if positives == 0.0 || negatives == 0.0 {
        return None;
    }
    let mut sorted = samples.to_vec();
    sorted.sort_by(|a, b| a.0.total_cmp(&b.0));
    let (mut ranks, mut start) = (0.0, 0);
    // -0 and 0 are the same score, though the order tells them apart.
    for group in sorted.chunk_by(|a, b| a.0 == b.0) {
        // Ranks count from 1; those of equal scores are averaged.
        let rank = start as f64 + (group.len() as f64 + 1.0) / 2.0;
        ranks += rank * group.iter().filter(|(_, positive)| *positive).count() as f64;
        start += group.len();
    }
    Some((ranks - positives * (positives + 1.0) / 2.0) / (positives * negatives))
}

/// Share of the variance of the truth that predictions explain, of pairs (truth, prediction). `None` where the truth
/// does not vary or a value is no finite number.
#[must_use]
pub fn r2(pairs: &[(f64, f64)]) -> Option<f64> {
    if pairs.len() < 2 {
        return None;
    }
    let mean = pairs.iter().map(|(truth, _)| truth).sum::<f64>() / pairs.len() as f64;
    let total: f64 = pairs.iter().map(|(truth, _)| (truth - mean).powi(2)).sum();
    let residual: f64 = pairs.iter().map(|(truth, predicted)| (truth - predicted).powi(2)).sum();
    (total > 0.0).then(|| 1.0 - residual / total).filter(|r2| r2.is_finite())
}

/// Mean absolute error of pairs (truth, prediction).
#[must_use]
pub fn mae(pairs: &[(f64, f64)]) -> Option<f64> {
    if pairs.is_empty() {
        return None;
    }
    let sum: f64 = pairs.iter().map(|(truth, predicted)| (truth - predicted).abs()).sum();
    Some(sum / pairs.len() as f64).filter(|mean| mean.is_finite())
}

/// Bins of [`ece`], as in Guo et al., "On Calibration of Modern Neural Networks" (arXiv:1706.04599).
pub const ECE_BINS: usize = 15;

/// Expected calibration error over [`ECE_BINS`] equal bins of confidence: how far what the model claims is from how
/// often it is right. Samples are (confidence, right); `None` unless all confidences lie between 0 and 1.
#[must_use]
pub fn ece(samples: &[(f64, bool)]) -> Option<f64> {
    if samples.is_empty() || samples.iter().any(|(claim, _)| !(0.0..=1.0).contains(claim)) {
        return None;
    }
    let mut bins = [(0.0, 0.0); ECE_BINS];
    for &(claim, right) in samples {
        // Bins are open below and closed above, so that 1 belongs to the last.
        let bin = ((claim * ECE_BINS as f64).ceil() as usize).clamp(1, ECE_BINS) - 1;
        bins[bin].0 += claim;
        bins[bin].1 += f64::from(u8::from(right));
    }
    // A bin's weight cancels against its mean.
    Some(bins.iter().map(|(claims, right)| (claims - right).abs()).sum::<f64>() / samples.len() as f64)
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
