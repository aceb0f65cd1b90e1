//! How fast desired documents go out to devices that say hello: after a restart of the control plane all of them do. Who
//! is told something new does not wait for them.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;
use tokio::time::Instant;

/// Documents a second, lastingly. A device asks again after 20 s: so 20,000 devices that come back at the same moment are
/// answered in time, and what goes out for it is 2 MB/s at most where a document has 2 KB.
const PER_SECOND: u32 = 1_000;
/// Documents at once.
const BURST: u32 = 200;

/// A leaky bucket in the form of a moment: the one at which it is empty (GCRA, ITU-T I.371, annex A).
pub(crate) struct Pace {
    interval: Duration,
    burst: Duration,
    empty: Mutex<Instant>,
}

impl Default for Pace {
    fn default() -> Self {
        Self::new(PER_SECOND, BURST)
    }
}

impl Pace {
    fn new(per_second: u32, burst: u32) -> Self {
        Self::every(Duration::from_secs(1) / per_second.max(1), burst)
    }

    /// One document in so long, lastingly.
    pub(crate) fn every(interval: Duration, burst: u32) -> Self {
        Self { interval, burst: interval * burst, empty: Mutex::new(Instant::now()) }
    }

    /// How long the next document waits from now on.
    pub(super) fn wait(&self, now: Instant) -> Duration {
        // The moment is valid even after a panic.
        let mut empty = self.empty.lock().unwrap_or_else(PoisonError::into_inner);
        *empty = (*empty).max(now) + self.interval;
        empty.saturating_duration_since(now).saturating_sub(self.burst)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn no_more_go_out_than_a_burst_and_the_rate_over_any_time(
            pauses_ms in proptest::collection::vec(0u64..40, 1..300), per_second in 1u32..500, burst in 1u32..50,
        ) {
            let pace = Pace::new(per_second, burst);
            let mut now = Instant::now();
            let mut out = Vec::new();
            for pause in pauses_ms {
                now += Duration::from_millis(pause);
                out.push(now + pace.wait(now));
            }
            prop_assert!(out.is_sorted(), "nobody overtakes");
            for (first, from) in out.iter().enumerate() {
                let within = out[first..].iter().take_while(|at| **at < *from + Duration::from_secs(1)).count();
                prop_assert!(within as u32 <= per_second + burst + 1, "{within} within a second");
            }
        }
    }

    #[test]
    fn whoever_comes_alone_does_not_wait() {
        let (pace, now) = (Pace::new(10, 1), Instant::now());
        for seconds in 0..5 {
            assert_eq!(pace.wait(now + Duration::from_secs(seconds)), Duration::ZERO);
        }
    }
}
