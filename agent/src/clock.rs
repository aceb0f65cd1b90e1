//! The device's clocks, and the trusted time that expiry is checked against.

use flotilla_device::Fault;
use flotilla_device::clock::TrustedClock;
use flotilla_protocol::ErrorCode;
use rustls::pki_types::UnixTime;
use rustls::time_provider::TimeProvider;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// When this program was built, in milliseconds since 1970.
pub fn build_ms() -> u64 {
    env!("FLOTILLA_BUILD_SECONDS").parse::<u64>().map_or(0, |seconds| seconds.saturating_mul(1_000))
}

/// What the system's clock says, in milliseconds since 1970. Never to be relied on alone.
pub fn wall_ms() -> u64 {
    let age = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(age.as_millis()).unwrap_or(u64::MAX)
}

/// The clocks of one run of the agent, shared by all its parts.
#[derive(Clone, Debug)]
pub struct Clock {
    started: Instant,
    wall: fn() -> u64,
    trusted: Arc<Mutex<TrustedClock>>,
    present: Arc<Mutex<Option<(u64, Instant)>>>,
}

impl Clock {
    /// A clock that has the proof of time stored before, if any.
    pub fn new(stored_proof_ms: u64) -> Self {
        Self::with_wall(stored_proof_ms, wall_ms)
    }

    /// The same on another clock than the system's.
    pub fn with_wall(stored_proof_ms: u64, wall: fn() -> u64) -> Self {
        let trusted = TrustedClock::new(build_ms(), stored_proof_ms);
        let (trusted, present) = (Arc::new(Mutex::new(trusted)), Arc::default());
        Self { started: Instant::now(), wall, trusted, present }
    }

    /// What the device's clock says, in milliseconds since 1970. Never to be relied on alone.
    pub fn wall_ms(&self) -> u64 {
        (self.wall)()
    }

    /// Milliseconds since the start; only runs forward.
    pub fn now_ms(&self) -> u64 {
        u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    /// The instant of a moment of [`Self::now_ms`], a day ahead at most: nobody sleeps longer than that.
    pub fn instant(&self, at_ms: u64) -> tokio::time::Instant {
        let latest = self.now_ms().saturating_add(24 * 3_600 * 1_000);
        (self.started + Duration::from_millis(at_ms.min(latest))).into()
    }

    /// The device's clock, unless it is behind a moment that is proven: then the time of day is not known.
    pub fn believed_wall_ms(&self) -> Option<u64> {
        Some(self.wall_ms()).filter(|wall_ms| *wall_ms >= self.proof_ms())
    }

    /// The moment to check expiry against.
    pub fn trusted_ms(&self) -> u64 {
        self.trusted.lock().unwrap_or_else(PoisonError::into_inner).now_ms(self.wall_ms())
    }

    /// Examines something that may be expired, now. A clock that runs ahead may be set right again; what is expired by a
    /// time that is proved stays so.
    pub(crate) fn examine<T>(&self, examine: impl Fn(u64) -> Result<T, Fault>) -> Result<T, Fault> {
        examine(self.trusted_ms()).map_err(|fault| {
            if fault.code == ErrorCode::Expired && examine(self.proof_ms()).is_ok() {
                let detail =
                    format!("{}, by this device's clock alone; set it right if it is wrong", fault.detail);
                return Fault::transient(ErrorCode::Expired, detail);
            }
            fault
        })
    }

    /// Takes the time of a document whose signature was verified. True if the proof moved.
    pub fn observe_signed(&self, issued_at_ms: u64) -> bool {
        self.trusted.lock().unwrap_or_else(PoisonError::into_inner).observe_signed(issued_at_ms)
    }

    /// Takes the time of a document that was signed just now, for this connection.
    pub fn observe_present(&self, issued_at_ms: u64) {
        let latest = self.present_ms().unwrap_or(0).max(issued_at_ms);
        *self.present.lock().unwrap_or_else(PoisonError::into_inner) = Some((latest, Instant::now()));
    }

    /// The cloud's time, as far as this run of the agent has heard of it; whatever this device's own clock says.
    pub fn present_ms(&self) -> Option<u64> {
        let (heard_ms, at) = (*self.present.lock().unwrap_or_else(PoisonError::into_inner))?;
        let since_ms = u64::try_from(at.elapsed().as_millis()).unwrap_or(u64::MAX);
        Some(heard_ms.saturating_add(since_ms))
    }

    /// The proof to store.
    pub fn proof_ms(&self) -> u64 {
        self.trusted.lock().unwrap_or_else(PoisonError::into_inner).proof_ms()
    }
}

impl TimeProvider for Clock {
    fn current_time(&self) -> Option<UnixTime> {
        Some(UnixTime::since_unix_epoch(Duration::from_millis(self.trusted_ms())))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_knows_that_it_is_not_earlier_than_its_own_build() {
        assert!(build_ms() > 1_700_000_000_000);
        let clock = Clock::new(u64::MAX);
        assert_eq!(clock.trusted_ms(), u64::MAX);
        assert!(!clock.observe_signed(5));
        assert_eq!(clock.believed_wall_ms(), None, "a clock behind a proven moment tells no time of day");
        assert!(Clock::new(0).believed_wall_ms().is_some());
    }

    #[test]
    fn the_present_is_the_clouds_and_known_once_it_was_heard_of() {
        let clock = Clock::with_wall(0, || 4_000_000_000_000);
        assert_eq!(clock.present_ms(), None);
        clock.observe_signed(2_000_000_000_000);
        assert_eq!(clock.present_ms(), None, "that may be long ago");
        clock.observe_present(2_000_000_000_000);
        let present_ms = clock.present_ms();
        assert!(
            present_ms.is_some_and(|ms| (2_000_000_000_000..2_000_000_060_000).contains(&ms)),
            "{present_ms:?}"
        );
    }

    #[test]
    fn the_time_of_day_is_that_of_the_clock_that_the_agent_was_given() {
        let later = || 4_000_000_000_000;
        assert_eq!(Clock::with_wall(0, later).believed_wall_ms(), Some(later()));
        assert_eq!(Clock::with_wall(0, || 5).believed_wall_ms(), None, "the build is later");
    }
}
