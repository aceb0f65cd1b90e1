//! Measured times, summed up.

use serde::{Deserialize, Serialize};
use std::time::Duration;

/// Percentiles of measured times, in milliseconds (nearest rank); 0 where nothing was measured.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Latency {
    /// Median.
    pub p50_ms: f64,
    /// 95th percentile.
    pub p95_ms: f64,
}

impl Latency {
    /// Of these times, in any order.
    pub fn of(times: &[Duration]) -> Self {
        let mut sorted = times.to_vec();
        sorted.sort_unstable();
        let rank = |percent: usize| {
            let index = (sorted.len() * percent).div_ceil(100).saturating_sub(1);
            sorted.get(index).map_or(0.0, |time| time.as_secs_f64() * 1e3)
        };
        Self { p50_ms: rank(50), p95_ms: rank(95) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_values_that_were_measured() {
        let times: Vec<Duration> = (1..=20).rev().map(Duration::from_millis).collect();
        assert_eq!(Latency::of(&times), Latency { p50_ms: 10.0, p95_ms: 19.0 });
        assert_eq!(Latency::of(&times[..1]), Latency { p50_ms: 20.0, p95_ms: 20.0 });
        assert_eq!(Latency::of(&[]), Latency::default());
    }
}
