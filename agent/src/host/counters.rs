//! What is counted: for telemetry as long as the same release serves, for probation since it was last installed.

use flotilla_protocol::Digest;
use flotilla_protocol::baseline::CONFIDENCE_BINS;
use flotilla_protocol::message::{Histogram, ModelTelemetry};
use flotilla_runtime::Prediction;
use flotilla_runtime::drift::confidence_bin;
use std::collections::BTreeMap;

/// Labels whose counts are reported a model, the most frequent ones: telemetry records are small.
pub(super) const REPORTED_CLASSES: usize = 32;

/// How a release did since it was installed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Health {
    /// The release.
    pub release: Digest,
    /// Predictions answered.
    pub predictions: u64,
    /// Predictions that failed, other than for inputs that alone are to blame.
    pub failures: u64,
    /// What the 95th percentile of latency certainly reaches, in microseconds; none before the first answer.
    pub p95_us: Option<u64>,
}

/// Counters since the installation of one release.
#[derive(Debug, Default)]
pub(super) struct Window {
    failures: u64,
    latency: Histogram,
}

impl Window {
    pub(super) fn answered(&mut self, latency_us: u64) {
        self.latency.record(latency_us);
    }

    pub(super) fn failed(&mut self) {
        self.failures += 1;
    }

    pub(super) fn health(&self, release: Digest) -> Health {
        let (predictions, p95_us) = (self.latency.count(), self.latency.quantile_at_least_us(0.95));
        Health { release, predictions, failures: self.failures, p95_us }
    }
}

/// Counters of the release that serves: one that takes its place starts from zero, so that neither is told what the other did.
#[derive(Debug, Default)]
pub(super) struct Totals {
    failures: u64,
    latency: Histogram,
    /// Bounded by the number of labels that a pipeline may have.
    classes: BTreeMap<u32, u64>,
    confidence: [u64; CONFIDENCE_BINS],
}

impl Totals {
    pub(super) fn answered(&mut self, prediction: &Prediction, latency_us: u64) {
        self.latency.record(latency_us);
        let Some(headline) = prediction.headline() else { return };
        *self.classes.entry(u32::try_from(headline.label_index).unwrap_or(u32::MAX)).or_default() += 1;
        if let Some(confidence) = headline.confidence {
            self.confidence[confidence_bin(confidence)] += 1;
        }
    }

    pub(super) fn failed(&mut self) {
        self.failures += 1;
    }

    pub(super) fn telemetry(&self, release: Digest) -> ModelTelemetry {
        let mut classes: Vec<(u32, u64)> =
            self.classes.iter().map(|(label, count)| (*label, *count)).collect();
        classes.sort_by_key(|(_, count)| std::cmp::Reverse(*count));
        classes.truncate(REPORTED_CLASSES);
        let filled = self.confidence.iter().rposition(|count| *count > 0).map_or(0, |last| last + 1);
        ModelTelemetry {
            release: Some(release),
            predictions: self.latency.count(),
            failures: self.failures,
            latency: self.latency.clone(),
            classes: classes.into_iter().collect(),
            confidence: self.confidence[..filled].to_vec(),
            drift: None,
        }
    }
}
