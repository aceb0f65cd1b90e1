//! All metrics of a wave together: whether the rollout goes on, stops, or waits.

use crate::change::Pair;
use crate::evidence::Evidence;
use crate::metric::{Bounds, Metric};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::f64::consts::PI;

/// What a gate asks.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Health {
    /// Share of good releases that the whole rollout may stop, 0 to 1.
    pub alpha: f64,
    /// Share of harmful releases that the gate of a wave may let pass on evidence, for each metric, 0 to 1.
    pub beta: f64,
    /// The metrics and how much worse each may be.
    pub metrics: BTreeMap<Metric, Bounds>,
    /// Waves of fewer devices cannot show that a release does no harm: of them only harm is asked.
    pub min_devices: u32,
}

/// All that a device says of the release that serves. Disagreement is measured by shadows only.
impl Default for Health {
    fn default() -> Self {
        let metrics = Metric::ALL.into_iter().filter(|metric| *metric != Metric::Disagreement);
        Self {
            alpha: 0.05,
            beta: 0.05,
            metrics: metrics.map(|metric| (metric, metric.default_bounds())).collect(),
            min_devices: 40,
        }
    }
}

/// Share of the devices of a wave that a metric must have figures of before it can speak for the wave.
const COVERED: f64 = 0.8;

/// How the permitted share of false alarms is spent: alike on all pairs of metric and wave, and within a pair on windows
/// of time, of which later ones get less. The parts of all windows together make the whole.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Spending {
    alpha: f64,
    pairs: f64,
}

impl Spending {
    /// For so many metrics and waves.
    pub fn new(alpha: f64, metrics: usize, waves: usize) -> Self {
        Self { alpha, pairs: (metrics.max(1) * waves.max(1)) as f64 }
    }

    /// The level of a test in a window, counted from 0: six over pi squared times the square of its number, which sums
    /// up to 1.
    pub fn level(&self, window: u32) -> f64 {
        let number = f64::from(window) + 1.0;
        self.alpha / self.pairs * 6.0 / (PI * PI * number * number)
    }
}

/// What one metric says in one window.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Finding {
    /// The metric.
    pub metric: Metric,
    /// Pairs of devices that were compared.
    pub pairs: u32,
    /// Mean worsening, in the units of [`Metric::worsening`], each device's share within its bound.
    pub worsening: f64,
    /// Natural logarithm of the evidence that it is worse than tolerated.
    pub against: f64,
    /// What that must reach.
    pub against_needed: f64,
    /// Natural logarithm of the evidence that it does no harm.
    pub in_favour: f64,
    /// What that must reach.
    pub in_favour_needed: f64,
    /// What follows.
    pub verdict: Verdict,
}

/// What a metric, or all of them, say.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// The release is worse than tolerated.
    Worse,
    /// It does no harm.
    Harmless,
    /// There is no evidence of either yet.
    Open,
}

impl Verdict {
    /// The stable text.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Worse => "worse",
            Self::Harmless => "harmless",
            Self::Open => "open",
        }
    }
}

/// What all metrics say in one window.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Look {
    /// Each metric that has something to say.
    pub findings: Vec<Finding>,
}

impl Look {
    /// Compares the devices of a wave in one window.
    ///
    /// `window` counts the windows of this wave from 0. `pairs` holds each device once a metric.
    pub fn new(health: &Health, waves: usize, window: u32, pairs: &BTreeMap<Metric, Vec<Pair>>) -> Self {
        let spending = Spending::new(health.alpha, health.metrics.len(), waves);
        let level = spending.level(window);
        let favour = Spending::new(health.beta, 1, 1).level(window);
        let find = |(metric, bounds): (&Metric, &Bounds)| {
            let pairs = pairs.get(metric)?;
            let worsening = pairs.iter().filter_map(|pair| pair.worsening(*metric));
            let bounded: Vec<f64> = worsening.map(|worse| worse.clamp(-bounds.harm, bounds.harm)).collect();
            if bounded.is_empty() {
                return None;
            }
            let against: Evidence = pairs.iter().filter_map(|pair| pair.against(*metric, *bounds)).collect();
            let in_favour: Evidence =
                pairs.iter().filter_map(|pair| pair.in_favour(*metric, *bounds)).collect();
            let verdict = if against.rejects(level) {
                Verdict::Worse
            } else if in_favour.rejects(favour) {
                Verdict::Harmless
            } else {
                Verdict::Open
            };
            Some(Finding {
                metric: *metric,
                pairs: against.count(),
                worsening: bounded.iter().sum::<f64>() / bounded.len() as f64,
                against: against.log_wealth(),
                against_needed: -level.ln(),
                in_favour: in_favour.log_wealth(),
                in_favour_needed: -favour.ln(),
                verdict,
            })
        };
        Self { findings: health.metrics.iter().filter_map(find).collect() }
    }

    /// The metric that is worst, if one is worse than tolerated.
    pub fn worse(&self) -> Option<&Finding> {
        let worse = self.findings.iter().filter(|finding| finding.verdict == Verdict::Worse);
        let margin = |finding: &&Finding| finding.against - finding.against_needed;
        worse.max_by(|a, b| margin(a).total_cmp(&margin(b)))
    }

    /// What all of them say of a wave of so many devices. That it does no harm is said by errors, of most devices of the
    /// wave, and by every other metric that has figures of most of them; a device that is silent speaks for nobody.
    pub fn verdict(&self, health: &Health, devices: u32) -> Verdict {
        if self.worse().is_some() {
            return Verdict::Worse;
        }
        if devices < health.min_devices || self.is_harmless(health, devices) {
            return Verdict::Harmless;
        }
        Verdict::Open
    }

    /// Whether there is evidence of so many devices that it does no harm in anything that is asked: in errors, unless
    /// nobody asks for them, and in every other metric that most devices have figures of.
    pub fn is_harmless(&self, health: &Health, devices: u32) -> bool {
        let covered = |finding: &&Finding| f64::from(finding.pairs) >= COVERED * f64::from(devices);
        let mut spoke = self.findings.iter().filter(covered).peekable();
        let errors = spoke.peek().is_some()
            && (!health.metrics.contains_key(&Metric::Errors)
                || self.findings.iter().any(|f| f.metric == Metric::Errors && covered(&f)));
        errors && spoke.all(|finding| finding.verdict == Verdict::Harmless)
    }

    /// A metric that is on average as bad as harm. Of a few devices that is no evidence, and yet a reason to ask.
    pub fn alarming(&self, health: &Health) -> Option<&Finding> {
        let harm = |finding: &&Finding| {
            health.metrics.get(&finding.metric).is_some_and(|bounds| finding.worsening >= bounds.harm)
        };
        self.findings.iter().find(harm)
    }
}

#[cfg(test)]
#[path = "gate_tests.rs"]
mod tests;
