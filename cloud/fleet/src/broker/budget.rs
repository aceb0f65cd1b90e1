//! Room for messages on their way to a device: taken before they are queued, given back when the device has acknowledged
//! them. The queues have no bound of their own; this is it.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::sync::Semaphore;

/// What a message costs beyond its payload: topic, packet and queue entry. It also bounds the number of small messages.
const OVERHEAD: usize = 1024;

/// One connection's share, and its part of the share of all.
pub(super) struct Budget {
    own: Semaphore,
    all: Arc<Semaphore>,
    limit: usize,
    held: Mutex<Held>,
}

struct Held {
    bytes: usize,
    closed: bool,
}

/// Why there is no room.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum NoRoom {
    /// The device does not take its messages.
    Device,
    /// All devices together do not.
    All,
    /// The connection ended.
    Closed,
}

impl Budget {
    pub(super) fn new(limit: usize, all: Arc<Semaphore>) -> Self {
        let held = Mutex::new(Held { bytes: 0, closed: false });
        Self { own: Semaphore::new(limit), all, limit, held }
    }

    fn cost(&self, payload: usize) -> u32 {
        // A message larger than the whole share must still be able to pass, alone.
        u32::try_from((payload + OVERHEAD).min(self.limit)).unwrap_or(u32::MAX)
    }

    /// Waits for room for a payload, and takes it.
    pub(super) async fn take(&self, payload: usize, patience: Duration) -> Result<(), NoRoom> {
        let cost = self.cost(payload);
        let own = tokio::time::timeout(patience, self.own.acquire_many(cost)).await;
        let own = own.map_err(|_| NoRoom::Device)?.map_err(|_| NoRoom::Closed)?;
        let all = tokio::time::timeout(patience, self.all.acquire_many(cost)).await;
        let all = all.map_err(|_| NoRoom::All)?.map_err(|_| NoRoom::Closed)?;
        let mut held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        if held.closed {
            return Err(NoRoom::Closed);
        }
        held.bytes += cost as usize;
        own.forget();
        all.forget();
        Ok(())
    }

    /// Gives back the room of a message that was acknowledged or dropped.
    pub(super) fn give_back(&self, payload: usize) {
        let mut held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        let bytes = (self.cost(payload) as usize).min(held.bytes);
        held.bytes -= bytes;
        self.own.add_permits(bytes);
        self.all.add_permits(bytes);
    }

    /// Gives back everything; nothing can be taken any more.
    pub(super) fn close(&self) {
        let mut held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        held.closed = true;
        self.own.close();
        self.all.add_permits(std::mem::take(&mut held.bytes));
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests fail by panicking")]
mod tests {
    use super::*;

    const NOW: Duration = Duration::ZERO;

    #[tokio::test]
    async fn room_comes_back_when_messages_are_acknowledged() {
        let all = Arc::new(Semaphore::new(100_000));
        let budget = Budget::new(4 * OVERHEAD, all.clone());
        budget.take(OVERHEAD, NOW).await.unwrap();
        budget.take(OVERHEAD, NOW).await.unwrap();
        assert_eq!(budget.take(0, NOW).await, Err(NoRoom::Device));
        budget.give_back(OVERHEAD);
        budget.take(0, NOW).await.unwrap();
        budget.close();
        assert_eq!(all.available_permits(), 100_000, "an ended connection holds nothing");
        assert_eq!(budget.take(0, NOW).await, Err(NoRoom::Closed));
    }

    #[tokio::test]
    async fn all_devices_share_one_bound() {
        let all = Arc::new(Semaphore::new(2 * OVERHEAD));
        let slow = Budget::new(10 * OVERHEAD, all.clone());
        let other = Budget::new(10 * OVERHEAD, all.clone());
        slow.take(OVERHEAD, NOW).await.unwrap();
        assert_eq!(other.take(0, NOW).await, Err(NoRoom::All));
        slow.close();
        other.take(0, NOW).await.unwrap();
    }

    #[tokio::test]
    async fn giving_back_more_than_was_taken_makes_no_room() {
        let all = Arc::new(Semaphore::new(8 * OVERHEAD));
        let budget = Budget::new(2 * OVERHEAD, all.clone());
        budget.take(0, NOW).await.unwrap();
        budget.give_back(0);
        budget.give_back(0);
        assert_eq!(all.available_permits(), 8 * OVERHEAD);
        budget.take(OVERHEAD, NOW).await.unwrap();
        assert_eq!(budget.take(0, NOW).await, Err(NoRoom::Device));
    }

    #[tokio::test]
    async fn a_message_larger_than_the_share_passes_alone() {
        let budget = Budget::new(100, Arc::new(Semaphore::new(1000)));
        budget.take(5000, NOW).await.unwrap();
        budget.give_back(5000);
        budget.take(5000, NOW).await.unwrap();
    }
}
