//! What is compared of a device, in which direction it is worse, and how much worse is tolerated.

use serde::{Deserialize, Serialize};

/// A figure of a device over a window of time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Metric {
    /// Predictions that failed, as a share of all, 0 to 1.
    Errors,
    /// What 95 of 100 predictions do not exceed, in microseconds.
    LatencyP95,
    /// Memory that the agent holds, in bytes.
    Memory,
    /// Starts of the agent in a day.
    Restarts,
    /// How far inputs and answers are from the training's: population stability index.
    Drift,
    /// Mean score of the answers, 0 to 1.
    Confidence,
    /// Inputs on which the release and the one before differ, as a share of all, 0 to 1: measured by a shadow.
    Disagreement,
}

/// How figures of a metric are compared.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Scale {
    /// By their difference; larger is worse.
    Difference,
    /// By their difference; smaller is worse.
    Fall,
    /// By the logarithm of their ratio; larger is worse.
    Ratio,
}

impl Metric {
    /// All of them.
    pub const ALL: [Self; 7] = [
        Self::Errors,
        Self::LatencyP95,
        Self::Memory,
        Self::Restarts,
        Self::Drift,
        Self::Confidence,
        Self::Disagreement,
    ];

    /// The stable text.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Errors => "errors",
            Self::LatencyP95 => "latency_p95",
            Self::Memory => "memory",
            Self::Restarts => "restarts",
            Self::Drift => "drift",
            Self::Confidence => "confidence",
            Self::Disagreement => "disagreement",
        }
    }

    fn scale(self) -> Scale {
        match self {
            Self::LatencyP95 | Self::Memory => Scale::Ratio,
            Self::Confidence => Scale::Fall,
            Self::Errors | Self::Restarts | Self::Drift | Self::Disagreement => Scale::Difference,
        }
    }

    /// By how much the second figure is worse than the first; none if they are no figures of this metric.
    pub fn worsening(self, before: f64, after: f64) -> Option<f64> {
        let worse = match self.scale() {
            Scale::Difference => after - before,
            Scale::Fall => before - after,
            Scale::Ratio if before > 0.0 && after > 0.0 => (after / before).ln(),
            Scale::Ratio => return None,
        };
        worse.is_finite().then_some(worse)
    }

    /// What is compared if nothing else is said. A ratio of 1.1 is tolerated of latency and memory.
    pub fn default_bounds(self) -> Bounds {
        let (tolerated, harm) = match self {
            Self::Errors => (0.005, 0.02),
            Self::LatencyP95 | Self::Memory => (1.1f64.ln(), 1.5f64.ln()),
            // One restart within an hour is a rate of 24: what a single device adds is bounded by the harm.
            Self::Restarts => (0.1, 1.0),
            Self::Drift => (0.05, 0.2),
            Self::Confidence => (0.02, 0.1),
            Self::Disagreement => (0.05, 0.2),
        };
        Bounds { tolerated, harm }
    }

    /// The metric with this text.
    pub fn from_text(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|metric| metric.as_str() == text)
    }

    /// Bounds as people say them: of latency and memory a factor, such as 1.1; of everything else a difference.
    pub fn bounds(self, tolerated: f64, harm: f64) -> Option<Bounds> {
        let of = |said: f64| if self.scale() == Scale::Ratio { said.ln() } else { said };
        let bounds = Bounds { tolerated: of(tolerated), harm: of(harm) };
        bounds.is_valid().then_some(bounds)
    }

    /// A worsening in words.
    pub fn describe(self, worsening: f64) -> String {
        match self {
            Self::LatencyP95 => format!("latency p95 times {:.2}", worsening.exp()),
            Self::Memory => format!("memory times {:.2}", worsening.exp()),
            Self::Errors => format!("failed predictions {:+.2} points of a hundred", worsening * 100.0),
            Self::Disagreement => format!("disagreement {:+.2} points of a hundred", worsening * 100.0),
            Self::Restarts => format!("{worsening:+.2} starts a day"),
            Self::Drift => format!("drift {worsening:+.3}"),
            Self::Confidence => format!("confidence {:+.3}", -worsening),
        }
    }
}

/// How much worse a release may be, in the units of [`Metric::worsening`].
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Bounds {
    /// So much worse is tolerated: the test asks whether it is more than that.
    pub tolerated: f64,
    /// So much worse is harm that a gate must not let pass. Differences beyond it count as this one: a single device's
    /// figure, true or not, weighs no more.
    pub harm: f64,
}

impl Bounds {
    /// Whether they can be used.
    pub fn is_valid(&self) -> bool {
        self.tolerated >= 0.0 && self.harm > self.tolerated && self.harm.is_finite()
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests fail by panicking")]
mod tests {
    use super::*;

    #[test]
    fn worse_is_above_zero_for_each_metric() {
        for (metric, before, after) in [
            (Metric::Errors, 0.01, 0.03),
            (Metric::LatencyP95, 900.0, 1_800.0),
            (Metric::Memory, 1e7, 2e7),
            (Metric::Restarts, 0.0, 2.0),
            (Metric::Drift, 0.05, 0.4),
            (Metric::Confidence, 0.9, 0.7),
            (Metric::Disagreement, 0.0, 0.2),
        ] {
            let worse = metric.worsening(before, after).unwrap();
            assert!(worse > 0.0, "{metric:?}");
            let bounds = metric.default_bounds();
            assert!(bounds.is_valid() && worse > bounds.tolerated, "{metric:?}");
            assert!(metric.worsening(after, before).unwrap() < 0.0, "{metric:?}");
            assert_eq!(metric.worsening(f64::NAN, after), None);
            assert!(!metric.describe(worse).is_empty());
        }
        assert_eq!(Metric::LatencyP95.worsening(0.0, 5.0), None, "nothing was measured before");
        assert_eq!(Metric::Memory.describe(2f64.ln()), "memory times 2.00");
        assert_eq!(Metric::Confidence.describe(0.2), "confidence -0.200");
    }

    #[test]
    fn people_say_factors_of_latency_and_differences_of_errors() {
        assert_eq!(Metric::from_text("latency_p95"), Some(Metric::LatencyP95));
        assert_eq!(Metric::from_text("speed"), None);
        assert_eq!(Metric::LatencyP95.bounds(1.1, 1.5), Some(Metric::LatencyP95.default_bounds()));
        assert_eq!(Metric::Errors.bounds(0.005, 0.02), Some(Metric::Errors.default_bounds()));
        for (tolerated, harm) in [(0.9, 1.5), (0.0, 2.0), (-1.0, 2.0), (1.5, 1.1), (f64::NAN, 2.0)] {
            assert_eq!(Metric::LatencyP95.bounds(tolerated, harm), None, "{tolerated} {harm}");
        }
    }

    #[test]
    fn bounds_that_mean_nothing_are_refused() {
        for (tolerated, harm) in [(-0.1, 1.0), (1.0, 1.0), (0.0, f64::INFINITY), (f64::NAN, 1.0)] {
            assert!(!Bounds { tolerated, harm }.is_valid(), "{tolerated} {harm}");
        }
    }
}
