//! What a device says of a model, in the figures that gates and experiments compare.

use crate::error::Result;
use crate::ingest::LatestSample;
use crate::store::Store;
use flotilla_gates::change::Change;
use flotilla_gates::metric::Metric;
use flotilla_protocol::baseline::CONFIDENCE_BINS;
use flotilla_protocol::message::Histogram;
use flotilla_protocol::{DeviceId, Digest, ModelName};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// Predictions from which on shares and means of a device say something.
const LEAST: u64 = 100;
/// The same of drift, which is of the last predictions.
const LEAST_DRIFT: u32 = 200;
/// A day in milliseconds.
const DAY_MS: f64 = 24.0 * 60.0 * 60.0 * 1000.0;

/// What a device says of one model.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Figures {
    /// The release that serves; the counts are its own.
    pub release: Option<Digest>,
    /// Predictions that it answered.
    pub answered: u64,
    /// Predictions that failed.
    pub failed: u64,
    /// Latency of those that were answered.
    pub latency: Histogram,
    /// Answers by the tenth of their score.
    pub confidence: Vec<u64>,
    /// How far inputs and answers are from the training's.
    pub drift: Option<f64>,
    /// Memory of the agent, in bytes.
    pub memory_bytes: u64,
    /// Starts of the agent that were known then.
    #[serde(default)]
    pub starts: u64,
    /// When that came, by the cloud's clock.
    pub received_ms: u64,
}

impl Figures {
    /// What the latest sample of a device says of a model.
    pub(crate) fn of(latest: &LatestSample, model: &ModelName) -> Option<Self> {
        let of = latest.sample.models.get(model)?;
        let drift = of.drift.filter(|drift| drift.predictions >= LEAST_DRIFT);
        Some(Self {
            release: of.release,
            answered: of.predictions,
            failed: of.failures,
            latency: of.latency.clone(),
            confidence: of.confidence.clone(),
            drift: drift.map(|drift| f64::from(drift.score()) / 1_000.0),
            memory_bytes: latest.sample.rss_bytes,
            starts: latest.starts,
            received_ms: latest.received_ms,
        })
    }

    /// The figures of each metric, as far as there is enough to speak of one.
    pub(crate) fn metrics(&self) -> BTreeMap<Metric, f64> {
        let asked = self.answered.saturating_add(self.failed);
        let errors = (asked >= LEAST).then(|| self.failed as f64 / asked as f64);
        let enough = self.answered >= LEAST;
        let answers: u64 = self.confidence.iter().fold(0, |sum, count| sum.saturating_add(*count));
        let middle = |bin: usize| (bin as f64 + 0.5) / CONFIDENCE_BINS as f64;
        let scores = self.confidence.iter().enumerate().map(|(bin, count)| middle(bin) * *count as f64);
        let confidence = (answers >= LEAST).then(|| scores.sum::<f64>() / answers as f64);
        let memory = (self.memory_bytes > 0).then_some(self.memory_bytes as f64);
        [
            (Metric::Errors, errors),
            (Metric::LatencyP95, enough.then(|| quantile_us(&self.latency, 0.95)).flatten()),
            (Metric::Memory, memory),
            (Metric::Drift, self.drift),
            (Metric::Confidence, confidence),
        ]
        .into_iter()
        .filter_map(|(metric, figure)| Some((metric, figure?)))
        .collect()
    }

    /// Starts a day since an earlier moment. Before that they count as none: which of two devices is updated is chance, and
    /// so is which of them was the more restless one.
    pub(crate) fn restarts(&self, earlier: &Figures) -> Option<Change> {
        let days = self.received_ms.checked_sub(earlier.received_ms)? as f64 / DAY_MS;
        let starts = self.starts.checked_sub(earlier.starts)? as f64;
        (days > 0.0).then(|| Change { before: 0.0, after: starts / days })
    }

    /// What was counted since an earlier moment; none if another release has taken over, or the agent was started anew.
    pub(crate) fn since(&self, earlier: &Figures) -> Option<Self> {
        if self.release != earlier.release {
            return None;
        }
        let buckets = minus(&self.latency.buckets, &earlier.latency.buckets)?;
        Some(Self {
            answered: self.answered.checked_sub(earlier.answered)?,
            failed: self.failed.checked_sub(earlier.failed)?,
            latency: Histogram {
                buckets,
                sum_us: self.latency.sum_us.saturating_sub(earlier.latency.sum_us),
            },
            confidence: minus(&self.confidence, &earlier.confidence)?,
            ..self.clone()
        })
    }
}

/// Counts less those of an earlier moment.
fn minus(counts: &[u64], earlier: &[u64]) -> Option<Vec<u64>> {
    let at = |counts: &[u64], index: usize| counts.get(index).copied().unwrap_or(0);
    (0..counts.len().max(earlier.len()))
        .map(|index| at(counts, index).checked_sub(at(earlier, index)))
        .collect()
}

/// The quantile within its bucket, as if the values in it were spread evenly on a logarithmic scale.
fn quantile_us(latency: &Histogram, q: f64) -> Option<f64> {
    let rank = latency.count() as f64 * q;
    let mut below = 0.0;
    for (bucket, count) in latency.buckets.iter().enumerate().take(Histogram::BUCKETS) {
        let count = *count as f64;
        if count > 0.0 && below + count >= rank {
            let within = ((rank - below) / count).clamp(0.0, 1.0);
            return Some((bucket as f64 - 1.0 + within).exp2());
        }
        below += count;
    }
    None
}

/// How the metrics changed that a device has figures of at both moments, and its starts.
pub(crate) fn changes(
    before: &Figures,
    after: Option<&Figures>,
    restarts: Option<Change>,
) -> BTreeMap<Metric, Change> {
    let before = before.metrics();
    let after = after.map(Figures::metrics).unwrap_or_default();
    let both = after.into_iter().filter_map(|(metric, after)| {
        Some((metric, Change { before: before.get(&metric).copied()?, after }))
    });
    both.chain(restarts.map(|change| (Metric::Restarts, change))).collect()
}

/// What a device last said of a model.
pub(crate) async fn last(store: &Store, device: &DeviceId, model: &ModelName) -> Result<Option<Figures>> {
    let sample = store.samples.get(device.as_str()).await?;
    Ok(sample.and_then(|sample| Figures::of(&sample.value, model)))
}
