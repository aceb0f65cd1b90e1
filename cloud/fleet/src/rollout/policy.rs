//! How a rollout goes about it: its pace, what it tries again, when it may touch a device, and what it does when it
//! stops. Pure; a rollout of an earlier version, which had none of it, reads as the default.

use super::window::Window;
use crate::error::{Error, Result};
use flotilla_protocol::ErrorCode;
use serde::{Deserialize, Serialize};

/// The longest pause before a device is told again: a day.
const WAIT_MAX_MS: u64 = 24 * 60 * 60 * 1000;
/// Times that a device is told a release at most.
const TRIES_MAX: u32 = 10;
/// Codes that a retry may name.
const CODES_MAX: usize = 32;
/// The fastest pace that can be asked for, in devices a minute: beyond it there is none.
const PER_MINUTE_MAX: u32 = 1_000_000;
/// The steepest ramp.
const FACTOR_MAX: u32 = 10;

/// How a rollout goes about it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Policy {
    /// How fast devices are told.
    pub pace: Pace,
    /// What is tried again.
    pub retry: Retry,
    /// When devices may be told; at any time, if none is named.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub window: Option<Window>,
    /// What happens to the devices that were told, once the rollout has stopped itself.
    pub on_stop: OnStop,
    /// Whether an operator is asked before each further wave.
    pub approve_waves: bool,
    /// Of several rollouts that have something to do, those with more come first.
    pub priority: u8,
}

/// How fast devices are told to update.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Pace {
    /// Devices that are told within any 60 seconds, at most. One that is told again within them counts once.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub per_minute: Option<u32>,
    /// How that grows while all goes well.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ramp: Option<Ramp>,
    /// Devices that are under way at the same time, at most.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub concurrency: Option<u32>,
}

/// How a pace grows: by a factor for every so many devices that have confirmed the release.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ramp {
    /// The factor, at least 2.
    pub factor: u32,
    /// For every so many confirmed devices.
    pub every: u32,
    /// Devices a minute at most.
    pub max_per_minute: u32,
}

/// What is tried again.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Retry {
    /// How often a device is told at most, the first time included.
    pub tries: u32,
    /// The pause before the second time, in milliseconds; each further one is twice as long, up to a day.
    pub wait_ms: u64,
    /// The failures that are tried again; those that may pass by themselves, where none are named.
    pub codes: Vec<ErrorCode>,
}

impl Default for Retry {
    fn default() -> Self {
        Self { tries: 1, wait_ms: 5 * 60 * 1000, codes: Vec::new() }
    }
}

/// What happens to the devices that were told, once a rollout has stopped itself.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OnStop {
    /// They go back to what they ran before.
    #[default]
    GoBack,
    /// They keep what they have, until an operator decides.
    Hold,
}

/// How many failures a wave tolerates.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tolerance {
    /// As a number, or as a share of the devices of each wave.
    pub failures: Failures,
    /// They are counted once so many devices of the wave are decided, or all.
    pub after: u32,
}

/// A number of failures.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Failures {
    /// So many devices.
    Devices(u32),
    /// So many of a hundred, rounded down.
    Percent(u8),
}

impl Failures {
    /// How many that are in a wave of so many devices.
    pub fn of(self, devices: u32) -> u32 {
        match self {
            Self::Devices(failures) => failures,
            Self::Percent(percent) => {
                u32::try_from(u64::from(devices) * u64::from(percent) / 100).unwrap_or(u32::MAX)
            }
        }
    }
}

impl Policy {
    /// Refuses what cannot be meant.
    pub(super) fn check(&self) -> Result<()> {
        let refuse = |what: String| Err(Error::Invalid(what));
        let Pace { per_minute, ramp, concurrency } = &self.pace;
        if per_minute.is_some_and(|rate| !(1..=PER_MINUTE_MAX).contains(&rate)) {
            return refuse(format!("a rate is 1 to {PER_MINUTE_MAX} devices a minute"));
        }
        if *concurrency == Some(0) {
            return refuse(
                "with no device under way at a time nothing would happen: concurrency is 1 or more".into(),
            );
        }
        if let Some(ramp) = ramp {
            let Some(rate) = *per_minute else {
                return refuse("a ramp needs a rate to begin with: per_minute".into());
            };
            if !(2..=FACTOR_MAX).contains(&ramp.factor)
                || ramp.every == 0
                || !(rate..=PER_MINUTE_MAX).contains(&ramp.max_per_minute)
            {
                return refuse(format!(
                    "a ramp grows by a factor of 2 to {FACTOR_MAX}, for every 1 or more confirmed devices, up to a rate of \
                     {rate} to {PER_MINUTE_MAX}"
                ));
            }
        }
        let Retry { tries, wait_ms, codes } = &self.retry;
        if !(1..=TRIES_MAX).contains(tries) || *wait_ms > WAIT_MAX_MS || codes.len() > CODES_MAX {
            return refuse(format!(
                "a device is told 1 to {TRIES_MAX} times, with a pause of at most {} hours, for at most {CODES_MAX} codes",
                WAIT_MAX_MS / 3_600_000
            ));
        }
        self.window.as_ref().map_or(Ok(()), Window::check)
    }
}

impl Pace {
    /// Devices a minute, once so many have confirmed the release; none if there is no bound.
    pub(super) fn rate(&self, confirmed: u32) -> Option<u32> {
        let rate = self.per_minute?;
        Some(match &self.ramp {
            Some(Ramp { factor, every, max_per_minute }) => {
                rate.saturating_mul(factor.saturating_pow(confirmed / every.max(&1))).min(*max_per_minute)
            }
            None => rate,
        })
    }

    /// How many devices may be told now.
    pub(super) fn room(&self, seen: &Lately) -> usize {
        let left = |most: Option<u32>, taken: u32| most.map_or(u32::MAX, |most| most.saturating_sub(taken));
        let rate = self.rate(seen.confirmed);
        // The second bound spreads the devices over the minute.
        let room = left(self.concurrency, seen.under_way)
            .min(left(rate, seen.told_60s))
            .min(left(rate.map(|rate| rate.div_ceil(10)), seen.told_6s));
        usize::try_from(room).unwrap_or(usize::MAX)
    }
}

/// What has happened lately, as far as a pace depends on it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Lately {
    /// Devices that have confirmed the release.
    pub(super) confirmed: u32,
    /// Devices that were told and have not answered.
    pub(super) under_way: u32,
    /// Devices that were told within the last minute.
    pub(super) told_60s: u32,
    /// Devices that were told within the last six seconds.
    pub(super) told_6s: u32,
}

impl Lately {
    /// A device was told at this moment. Moments ahead of now are of a clock that was wrong.
    pub(super) fn told(&mut self, at_ms: u64, now_ms: u64) {
        let within = |ms: u64| u32::from(now_ms.checked_sub(at_ms).is_some_and(|ago| ago < ms));
        self.told_60s += within(60_000);
        self.told_6s += within(6_000);
    }
}

impl Retry {
    /// When a device that has failed after so many tries is told again; never, if that is for good.
    pub(super) fn again_ms(&self, code: ErrorCode, tries: u32, now_ms: u64) -> Option<u64> {
        let meant = if self.codes.is_empty() { may_pass(code) } else { self.codes.contains(&code) };
        let wait_ms = self.wait_ms.saturating_mul(1 << tries.saturating_sub(1).min(31)).min(WAIT_MAX_MS);
        // An earlier version did not count them.
        (meant && tries.max(1) < self.tries).then(|| now_ms.saturating_add(wait_ms))
    }
}

impl Retry {
    /// Whether the moment to tell a device again has come. One that is too far ahead is of a clock that was wrong.
    pub(super) fn is_due(from_ms: u64, now_ms: u64) -> bool {
        now_ms >= from_ms || from_ms - now_ms > WAIT_MAX_MS
    }
}

/// Whether a failure may pass by itself: one of the link, the disk, the load or the clock, and not of the release.
fn may_pass(code: ErrorCode) -> bool {
    matches!(
        code,
        ErrorCode::Timeout
            | ErrorCode::Network
            | ErrorCode::Tls
            | ErrorCode::Busy
            | ErrorCode::NoRoom
            | ErrorCode::StorageFull
            | ErrorCode::StorageIo
            | ErrorCode::Expired
            | ErrorCode::DigestMismatch
            | ErrorCode::FetchDenied
            | ErrorCode::ProbeCrashed
            | ErrorCode::Internal
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pace(per_minute: u32, concurrency: Option<u32>) -> Pace {
        Pace { per_minute: Some(per_minute), ramp: None, concurrency }
    }

    #[test]
    fn a_pace_is_kept_over_any_minute_and_spread_over_it() {
        let room = |pace: &Pace, under_way, told_60s, told_6s| {
            pace.room(&Lately { confirmed: 0, under_way, told_60s, told_6s })
        };
        assert_eq!(room(&Pace::default(), 9, 9, 9), u32::MAX as usize, "no bound");
        assert_eq!(room(&pace(60, None), 0, 0, 0), 6);
        assert_eq!(room(&pace(60, None), 0, 30, 4), 2);
        assert_eq!(room(&pace(60, None), 0, 60, 0), 0);
        assert_eq!(room(&pace(60, Some(8)), 5, 0, 0), 3);
        assert_eq!(room(&pace(1, None), 0, 0, 0), 1, "the slowest pace is still one");
    }

    #[test]
    fn a_ramp_grows_with_confirmed_devices_up_to_its_bound() {
        let ramp = Ramp { factor: 2, every: 10, max_per_minute: 70 };
        let pace = Pace { ramp: Some(ramp), ..pace(10, None) };
        let rates = [0, 9, 10, 20, 30, 1_000_000].map(|confirmed| pace.rate(confirmed));
        assert_eq!(rates, [10, 10, 20, 40, 70, 70].map(Some));
    }

    #[test]
    fn a_clock_that_was_ahead_holds_nobody_up() {
        let mut lately = Lately::default();
        lately.told(9_000_000, 100_000);
        assert_eq!(lately, Lately::default());
        lately.told(95_000, 100_000);
        lately.told(93_000, 100_000);
        assert_eq!((lately.told_60s, lately.told_6s), (2, 1));
    }

    #[test]
    fn what_may_pass_is_tried_again_later_and_later_and_what_is_the_releases_fault_never() {
        let retry = Retry { tries: 4, wait_ms: 1_000, codes: Vec::new() };
        let waits = [1, 2, 3, 4].map(|tries| retry.again_ms(ErrorCode::Network, tries, 0));
        assert_eq!(waits, [Some(1_000), Some(2_000), Some(4_000), None]);
        assert_eq!(retry.again_ms(ErrorCode::ProbeMismatch, 1, 0), None);
        assert!(!Retry::is_due(5_000, 4_999) && Retry::is_due(5_000, 5_000));
        assert!(Retry::is_due(3 * WAIT_MAX_MS, WAIT_MAX_MS), "of a clock that was ahead");
        assert_eq!(Retry::default().again_ms(ErrorCode::Network, 0, 0), None, "of an earlier version");
        let named = Retry { codes: vec![ErrorCode::ProbeTooSlow], ..retry };
        assert_eq!(named.again_ms(ErrorCode::ProbeTooSlow, 1, 0), Some(1_000));
        assert_eq!(named.again_ms(ErrorCode::Network, 1, 0), None, "only what is named");
        assert_eq!(Retry::default().again_ms(ErrorCode::Network, 1, 0), None, "not unless asked for");
    }

    #[test]
    fn a_policy_that_cannot_be_meant_is_refused() {
        let good = Policy::default();
        assert!(good.check().is_ok());
        let ramp = |factor, every, max_per_minute| Some(Ramp { factor, every, max_per_minute });
        let with = |pace: Pace| Policy { pace, ..good.clone() }.check().is_ok();
        assert!(with(Pace { ramp: ramp(2, 1, 50), ..pace(50, Some(1)) }));
        assert!(!with(Pace { ramp: ramp(2, 1, 50), ..Pace::default() }), "a ramp of nothing");
        for bad in [ramp(1, 1, 50), ramp(11, 1, 50), ramp(2, 0, 50), ramp(2, 1, 49)] {
            assert!(!with(Pace { ramp: bad.clone(), ..pace(50, None) }), "{bad:?}");
        }
        assert!(!with(pace(0, None)) && !with(pace(1, Some(0))));
        let retry =
            |tries, wait_ms| Policy { retry: Retry { tries, wait_ms, codes: Vec::new() }, ..good.clone() };
        assert!(retry(10, WAIT_MAX_MS).check().is_ok());
        assert!(retry(0, 0).check().is_err() && retry(11, 0).check().is_err());
        assert!(retry(1, WAIT_MAX_MS + 1).check().is_err());
    }
}
