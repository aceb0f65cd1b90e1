//! How many predictions run at the same time, over all models, and how fast one follows the other.
//!
//! A board says how many threads may predict. While it is too hot each of them rests as long as it worked, so that heat
//! falls and applications still get their answers: the answer itself is never held back, only the next prediction.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// One rest at most, whatever the work took.
const REST: Duration = Duration::from_secs(5);

/// The threads that predict.
#[derive(Debug)]
pub(super) struct Pace {
    /// For each thread that does not work: from when on it may.
    free: Mutex<Vec<Instant>>,
    freed: Condvar,
    throttled: AtomicBool,
}

impl Default for Pace {
    fn default() -> Self {
        Self::new(0)
    }
}

impl Pace {
    /// So many threads; 0 for one a core.
    pub(super) fn new(threads: u32) -> Self {
        let cores = || std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
        let threads = if threads == 0 { cores() } else { threads as usize };
        Self {
            free: Mutex::new(vec![Instant::now(); threads]),
            freed: Condvar::new(),
            throttled: AtomicBool::new(false),
        }
    }

    /// Whether the threads rest between predictions.
    pub(super) fn throttle(&self, throttled: bool) {
        self.throttled.store(throttled, Ordering::Relaxed);
    }

    /// Waits for a thread that is free and rested.
    pub(super) fn turn(self: &Arc<Self>) -> Turn {
        let mut free = self.free();
        let rested = loop {
            // The one that worked last: a rested one beside it must not let a single busy model go on without a rest.
            if let Some(at) = (0..free.len()).max_by_key(|index| free[*index]) {
                break free.swap_remove(at);
            }
            free = self.freed.wait(free).unwrap_or_else(PoisonError::into_inner);
        };
        drop(free);
        if self.throttled.load(Ordering::Relaxed) {
            std::thread::sleep(rested.saturating_duration_since(Instant::now()));
        }
        Turn { pace: Arc::clone(self), began: Instant::now() }
    }

    fn free(&self) -> MutexGuard<'_, Vec<Instant>> {
        self.free.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The right to predict on one thread.
#[derive(Debug)]
pub(super) struct Turn {
    pace: Arc<Pace>,
    began: Instant,
}

impl Drop for Turn {
    fn drop(&mut self) {
        let now = Instant::now();
        self.pace.free().push(now + now.duration_since(self.began).min(REST));
        self.pace.freed.notify_one();
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests fail by panicking")]
mod tests {
    use super::*;
    use std::sync::atomic::AtomicUsize;

    #[test]
    fn no_more_predictions_run_at_once_than_there_are_threads_and_each_gets_its_turn() {
        for threads in 1..=3 {
            let pace = Arc::new(Pace::new(threads));
            let (now, most, done) = (AtomicUsize::new(0), AtomicUsize::new(0), AtomicUsize::new(0));
            std::thread::scope(|scope| {
                for _ in 0..8 {
                    scope.spawn(|| {
                        for _ in 0..50 {
                            let _turn = pace.turn();
                            most.fetch_max(now.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
                            std::thread::yield_now();
                            now.fetch_sub(1, Ordering::SeqCst);
                            done.fetch_add(1, Ordering::SeqCst);
                        }
                    });
                }
            });
            assert!(most.into_inner() <= threads as usize);
            assert_eq!(done.into_inner(), 400);
        }
    }

    #[test]
    fn a_hot_board_rests_as_long_as_it_works_and_a_cool_one_does_not() {
        // One caller: that other threads have nothing to do is no reason not to rest.
        let pace = Arc::new(Pace::new(4));
        let work = Duration::from_millis(20);
        let spend = || {
            let turn = pace.turn();
            while turn.began.elapsed() < work {
                std::hint::spin_loop();
            }
        };
        pace.throttle(true);
        let began = Instant::now();
        (0..4).for_each(|_| spend());
        // Four times work and three times rest; that the answers do not wait shows the first.
        assert!(began.elapsed() >= 7 * work, "{:?}", began.elapsed());
        pace.throttle(false);
        let rested = *pace.free().iter().max().unwrap();
        let turn = pace.turn();
        assert!(turn.began < rested + work, "nobody waits for a rest any more");
    }
}
