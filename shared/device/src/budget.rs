//! When and how fast anything may be downloaded at all: the limit and the quiet hours that the operator sets. All
//! downloads of a device share one budget.
//!
//! The limit is a token bucket, kept as the moment up to which everything asked for is paid for (the generic cell
//! rate algorithm): a chunk may be asked for when that moment has come, which moves it by the chunk's bytes. At
//! most [`BURST_MS`] of rest are saved up, so over any time what is asked for is the limit times that time, the
//! saved rest, and one chunk.

use flotilla_protocol::limits;
use flotilla_protocol::message::{DAY_MIN, Settings};

/// Rest that is saved up.
pub const BURST_MS: u64 = 1_000;
/// The clock of the wall may be set at any moment, so it is looked at this often while hours are quiet.
pub const LOOK_MS: u64 = 60_000;

const MINUTE_MS: u64 = 60_000;

/// The limit and the quiet hours.
#[derive(Clone, Debug, Default)]
pub struct Budget {
    settings: Settings,
    /// What was asked for is paid for up to here, in microseconds of the running clock.
    paid_us: u64,
}

impl Budget {
    /// Takes what the operator wants now.
    pub fn configure(&mut self, settings: &Settings) {
        self.settings.clone_from(settings);
    }

    /// Chunks that may be asked for now, up to `most`; or the moment to ask again.
    ///
    /// `wall_ms` is the time of day, in milliseconds since 1970. A device that does not know it has no quiet hours:
    /// a clock that stands wrong must not keep a device from its updates for ever.
    pub fn allows(&mut self, most: u32, now_ms: u64, wall_ms: Option<u64>) -> Result<u32, u64> {
        if let Some(wall_ms) = wall_ms.filter(|wall_ms| self.is_quiet(*wall_ms)) {
            let minute_ends_ms = MINUTE_MS - wall_ms % MINUTE_MS;
            return Err(now_ms.saturating_add(minute_ends_ms.min(LOOK_MS)));
        }
        let Some(cost_us) = self.cost_us(limits::CHUNK as u64) else { return Ok(most) };
        let now_us = now_ms.saturating_mul(1_000);
        // Never in debt for more than one chunk, whatever the clock or the limit did in between.
        let oldest = now_us.saturating_sub(BURST_MS * 1_000);
        self.paid_us = self.paid_us.clamp(oldest, now_us.saturating_add(cost_us));
        if self.paid_us > now_us {
            return Err(self.paid_us.div_ceil(1_000));
        }
        let chunks = (now_us - self.paid_us) / cost_us + 1;
        Ok(u32::try_from(chunks).unwrap_or(u32::MAX).min(most))
    }

    /// So many bytes were asked for.
    pub fn spend(&mut self, bytes: u64) {
        self.paid_us = self.paid_us.saturating_add(self.cost_us(bytes).unwrap_or(0));
    }

    fn cost_us(&self, bytes: u64) -> Option<u64> {
        let rate = self.settings.download_bytes_per_s?.max(limits::DOWNLOAD_RATE_MIN);
        Some(bytes.saturating_mul(1_000_000).div_ceil(rate).max(1))
    }

    fn is_quiet(&self, wall_ms: u64) -> bool {
        let minute = (wall_ms / MINUTE_MS) % u64::from(DAY_MIN);
        self.settings.is_quiet(minute as u16)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use flotilla_protocol::message::QuietHours;
    use proptest::prelude::*;

    const CHUNK: u64 = limits::CHUNK as u64;

    fn budget(rate: Option<u64>, quiet: &[(u16, u16)]) -> Budget {
        let quiet_hours = quiet.iter().map(|&(from_min, to_min)| QuietHours { from_min, to_min }).collect();
        let mut budget = Budget::default();
        budget.configure(&Settings { download_bytes_per_s: rate, quiet_hours, ..Settings::default() });
        budget
    }

    fn ask(budget: &mut Budget, most: u32, now_ms: u64) -> Result<u32, u64> {
        let chunks = budget.allows(most, now_ms, None)?;
        budget.spend(u64::from(chunks) * CHUNK);
        Ok(chunks)
    }

    #[test]
    fn without_a_limit_a_whole_window_may_be_asked_for() {
        assert_eq!(ask(&mut budget(None, &[]), 16, 0), Ok(16));
    }

    #[test]
    fn a_limit_of_a_chunk_a_second_is_kept_and_rest_saves_little() {
        let mut budget = budget(Some(CHUNK), &[]);
        assert_eq!(ask(&mut budget, 16, 500_000), Ok(2), "a second of rest, and the chunk of now");
        assert_eq!(ask(&mut budget, 16, 500_000), Err(501_000));
        assert_eq!(ask(&mut budget, 16, 500_999), Err(501_000));
        assert_eq!(ask(&mut budget, 16, 501_000), Ok(1));
        budget.configure(&Settings::default());
        assert_eq!(ask(&mut budget, 16, 501_000), Ok(16), "a lifted limit counts at once");
    }

    #[test]
    fn the_slowest_limit_still_lets_a_chunk_through_and_a_clock_set_back_costs_one_at_most() {
        let mut budget = budget(Some(1), &[]);
        assert_eq!(ask(&mut budget, 16, 1_000_000), Ok(1));
        let Err(until) = ask(&mut budget, 16, 1_000_000) else { panic!("over the limit") };
        assert_eq!(until, 1_000_000 + 127_000);
        let Err(until) = ask(&mut budget, 16, 10) else { panic!("over the limit") };
        assert_eq!(until, 10 + 128_000);
    }

    #[test]
    fn quiet_hours_hold_by_a_clock_that_is_known_and_are_looked_at_again_each_minute() {
        let mut budget = budget(None, &[(22 * 60, 6 * 60)]);
        let at =
            |hour: u64, minute: u64, ms: u64| Some(1_790_035_200_000 + (hour * 60 + minute) * 60_000 + ms);
        assert_eq!(1_790_035_200_000u64 % 86_400_000, 0, "a midnight");
        assert_eq!(budget.allows(4, 7, at(21, 59, 59_999)), Ok(4));
        assert_eq!(budget.allows(4, 7, at(22, 0, 0)), Err(60_007));
        assert_eq!(budget.allows(4, 7, at(5, 59, 59_000)), Err(1_007));
        assert_eq!(budget.allows(4, 7, at(6, 0, 0)), Ok(4));
        assert_eq!(budget.allows(4, 7, None), Ok(4), "an unknown time is not quiet");
    }

    proptest! {
        #[test]
        fn what_is_asked_for_over_any_time_is_within_the_limit(
            rate in 1_024u64..1_000_000_000,
            steps in prop::collection::vec((0u64..5_000, 1u32..17), 1..200),
        ) {
            let mut budget = budget(Some(rate), &[]);
            let mut now = 1_000_000;
            let mut asked: Vec<(u64, u64)> = Vec::new();
            for (pause, most) in steps {
                now += pause;
                if let Ok(chunks) = ask(&mut budget, most, now) {
                    prop_assert!(chunks >= 1 && chunks <= most);
                    asked.push((now, u64::from(chunks) * CHUNK));
                }
            }
            for from in 0..asked.len() {
                let mut sum = 0;
                for (at, bytes) in &asked[from..] {
                    sum += bytes;
                    let most = (at - asked[from].0 + BURST_MS) * rate / 1_000 + CHUNK;
                    prop_assert!(sum <= most + rate / 1_000, "{sum} bytes where {most} may go");
                }
            }
        }
    }
}
