//! Time that cannot be turned back: what expiry is checked against.
//!
//! A device may wake with its clock in 1970. It then still knows that it is not earlier than its own build, than
//! any moment it has stored, or than any document that was signed by a key it trusts.

/// The latest moment that this device has proof of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TrustedClock {
    proof_ms: u64,
}

impl TrustedClock {
    /// A clock that starts from the build time and from the proof stored before, if any.
    pub fn new(build_ms: u64, stored_ms: u64) -> Self {
        Self { proof_ms: build_ms.max(stored_ms) }
    }

    /// Takes the signing time of a document whose signature was verified. True if the proof moved and should be
    /// stored.
    pub fn observe_signed(&mut self, issued_at_ms: u64) -> bool {
        let moved = issued_at_ms > self.proof_ms;
        self.proof_ms = self.proof_ms.max(issued_at_ms);
        moved
    }

    /// The moment to check expiry against. The device's own clock counts only for this call: a clock that once
    /// ran ahead must not expire every later release.
    pub fn now_ms(&self, clock_ms: u64) -> u64 {
        self.proof_ms.max(clock_ms)
    }

    /// What to store.
    pub fn proof_ms(&self) -> u64 {
        self.proof_ms
    }
}

#[cfg(test)]
mod tests {
    use super::TrustedClock;

    #[test]
    fn a_clock_in_1970_does_not_bring_expired_documents_back() {
        let mut clock = TrustedClock::new(1_000, 0);
        assert_eq!(clock.now_ms(0), 1_000);
        assert!(clock.observe_signed(5_000));
        assert!(!clock.observe_signed(4_000));
        assert_eq!(clock.now_ms(0), 5_000);
        assert_eq!(TrustedClock::new(1_000, clock.proof_ms()).now_ms(0), 5_000);
    }

    #[test]
    fn a_clock_that_once_ran_ahead_leaves_no_trace() {
        let clock = TrustedClock::new(1_000, 0);
        assert_eq!(clock.now_ms(u64::MAX), u64::MAX);
        assert_eq!(clock.now_ms(2_000), 2_000);
    }
}
