//! How much one device may send. A token bucket that is told the time.

use std::time::Instant;

/// A token bucket: `burst` at once, `per_second` lastingly.
#[derive(Debug)]
pub(super) struct Bucket {
    per_second: f64,
    burst: f64,
    tokens: f64,
    at: Instant,
}

impl Bucket {
    pub(super) fn new(per_second: u32, burst: u32, now: Instant) -> Self {
        let burst = f64::from(burst.max(1));
        Self { per_second: f64::from(per_second), burst, tokens: burst, at: now }
    }

    /// Takes `cost` tokens if they are there.
    pub(super) fn take(&mut self, cost: f64, now: Instant) -> bool {
        let passed = now.saturating_duration_since(self.at).as_secs_f64();
        self.tokens = (self.tokens + passed * self.per_second).min(self.burst);
        self.at = self.at.max(now);
        let enough = self.tokens >= cost;
        if enough {
            self.tokens -= cost;
        }
        enough
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn a_burst_passes_then_the_lasting_rate() {
        let start = Instant::now();
        let mut bucket = Bucket::new(10, 5, start);
        assert_eq!((0..9).filter(|_| bucket.take(1.0, start)).count(), 5);
        let second = |n: u64| start + Duration::from_millis(100 * n);
        assert!(bucket.take(1.0, second(1)));
        assert!(!bucket.take(1.0, second(1)));
        assert_eq!(
            (0..100).filter(|_| bucket.take(1.0, second(1000))).count(),
            5,
            "rest never saves more than a burst"
        );
    }

    #[test]
    fn a_clock_that_stands_still_or_steps_back_gives_nothing_away() {
        let start = Instant::now() + Duration::from_secs(60);
        let mut bucket = Bucket::new(1000, 1, start);
        assert!(bucket.take(1.0, start));
        assert!(!bucket.take(1.0, start - Duration::from_secs(30)));
        assert!(!bucket.take(1.0, start));
    }
}
