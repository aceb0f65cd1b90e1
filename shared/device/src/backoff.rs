//! How long to wait before trying again: doubling, with a cap, half of it random.

/// A waiting rule.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Backoff {
    /// Longest wait of the first level, in milliseconds.
    pub base_ms: u64,
    /// Longest wait of any level, in milliseconds.
    pub cap_ms: u64,
}

impl Backoff {
    /// The wait before try number `level + 1`: between a half and the whole of `base * 2^level`, at most the
    /// cap. The random half keeps a fleet from coming back all at once.
    pub fn delay_ms(&self, level: u32, random: u64) -> u64 {
        let full = self.base_ms.saturating_mul(1u64 << level.min(32)).min(self.cap_ms);
        let half = full / 2;
        half + random % (full - half + 1)
    }
}

#[cfg(test)]
mod tests {
    use super::Backoff;
    use proptest::prelude::*;

    #[test]
    fn waits_double_until_the_cap() {
        let rule = Backoff { base_ms: 100, cap_ms: 1_000 };
        let longest: Vec<u64> =
            (0..6).map(|level| (0..2_000).map(|r| rule.delay_ms(level, r)).max().unwrap_or(0)).collect();
        assert_eq!(longest, [100, 200, 400, 800, 1_000, 1_000]);
    }

    proptest! {
        #[test]
        fn a_wait_is_never_under_half_nor_over_the_cap(level: u32, random: u64, base in 1u64..10_000, cap in 1u64..1_000_000) {
            let rule = Backoff { base_ms: base, cap_ms: cap };
            let full = base.saturating_mul(1u64 << level.min(32)).min(cap);
            let wait = rule.delay_ms(level, random);
            prop_assert!(wait >= full / 2 && wait <= full);
        }
    }
}
