//! Memory that models and their shadows take together, within what the board has for all of them.
//!
//! What one takes is what its probe took at its peak: an upper bound, since a probe is a process of its own. While a model
//! changes, its old and its new release count as the larger of the two, although both are there for a moment.

use flotilla_device::Fault;
use flotilla_protocol::{ErrorCode, ModelName};
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Who takes memory.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Holder {
    /// What serves, or is to serve.
    Model(ModelName),
    /// What runs beside it.
    Shadow(ModelName),
    /// What is being measured.
    Measurement,
}

/// The shares of one device.
#[derive(Clone)]
pub(crate) struct Shares {
    most: u64,
    held: Arc<Mutex<BTreeMap<Holder, u64>>>,
}

impl Shares {
    /// At most so many bytes together.
    pub(crate) fn new(most: u64) -> Self {
        Self { most, held: Arc::default() }
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<Holder, u64>> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// From now on the holder takes so many bytes; none if it has gone.
    pub(crate) fn set(&self, holder: Holder, bytes: u64) {
        match bytes {
            0 => self.lock().remove(&holder),
            bytes => self.lock().insert(holder, bytes),
        };
    }

    /// The holder takes so many bytes at least.
    pub(crate) fn raise(&self, holder: Holder, bytes: u64) {
        let mut held = self.lock();
        let share = held.entry(holder).or_default();
        *share = bytes.max(*share);
    }

    /// What the others leave to this holder.
    pub(crate) fn left(&self, holder: &Holder) -> u64 {
        let held = self.lock();
        let others = held.iter().filter(|(other, _)| *other != holder);
        self.most.saturating_sub(others.fold(0, |sum, (_, bytes)| sum.saturating_add(*bytes)))
    }

    /// Why a release does not fit that needs so many bytes, or more. It may later: others go, and become smaller.
    pub(crate) fn refusal(&self, holder: &Holder, needed: u64) -> Fault {
        let (most, left) = (self.most, self.left(holder));
        let detail = format!(
            "the release needs {needed} bytes of memory or more; of the {most} that all models of this device may take the others leave {left}"
        );
        Fault::transient(ErrorCode::NoRoom, detail)
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests fail by panicking")]
mod tests {
    use super::*;

    #[test]
    fn a_holder_has_what_the_others_leave_and_its_own_share_is_not_in_its_way() {
        let name = |name: &str| ModelName::new(name).unwrap();
        let (one, two) = (Holder::Model(name("one")), Holder::Model(name("two")));
        let beside = Holder::Shadow(name("one"));
        let shares = Shares::new(100);
        shares.set(one.clone(), 40);
        shares.set(beside.clone(), 25);
        assert_eq!((shares.left(&one), shares.left(&beside), shares.left(&two)), (75, 60, 35));
        shares.raise(two.clone(), 30);
        shares.raise(two.clone(), 20);
        assert_eq!(shares.left(&beside), 30, "the larger one counts");
        shares.set(beside.clone(), 0);
        assert_eq!(shares.left(&two), 60);
        shares.set(one.clone(), u64::MAX);
        assert_eq!(shares.left(&beside), 0);
        let refusal = shares.refusal(&two, 7);
        assert_eq!((refusal.code, refusal.transient), (ErrorCode::NoRoom, true));
        assert!(refusal.detail.contains("needs 7 bytes"), "{}", refusal.detail);
    }
}
