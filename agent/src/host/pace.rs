//! How many predictions run at the same time, over all models, and how fast one follows the other.
//!
//! A board says how many threads may predict. While it is too hot each of them rests as long as it worked, so that heat
//! falls and applications still get their answers: the answer itself is never held back, only the next prediction.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// One rest at most, whatever the work took.
const REST: Duration = Duration::from_secs(5);

/// How many threads predict if so many are configured: 0 is one a core.
pub(crate) fn threads(configured: u32) -> usize {
    let cores = || std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    if configured == 0 { cores() } else { configured as usize }
}

/// The threads that predict.
#[derive(Debug)]
pub(super) struct Pace {
    /// Whoever waits for a place gets it in the order of coming.
    places: Arc<Semaphore>,
    /// For each thread that does not work: from when on it may.
    free: Mutex<Vec<Instant>>,
    throttled: AtomicBool,
}

impl Default for Pace {
    fn default() -> Self {
        Self::new(0)
    }
}

impl Pace {
    /// So many threads; 0 for one a core.
    pub(super) fn new(configured: u32) -> Self {
        let threads = threads(configured);
        Self {
            places: Arc::new(Semaphore::new(threads)),
            free: Mutex::new(vec![Instant::now(); threads]),
            throttled: AtomicBool::new(false),
        }
    }

    /// Whether the threads rest between predictions.
    pub(super) fn throttle(&self, throttled: bool) {
        self.throttled.store(throttled, Ordering::Relaxed);
    }

    /// Whether they rest now.
    pub(super) fn is_throttled(&self) -> bool {
        self.throttled.load(Ordering::Relaxed)
    }

    /// Waits for a thread that is free; it may have to rest first.
    pub(super) async fn place(self: &Arc<Self>) -> Place {
        // Nobody closes the semaphore.
        let permit = Arc::clone(&self.places).acquire_owned().await.ok();
        let mut free = self.free();
        // The one that worked last: a rested one beside it must not let a single busy model go on without a rest.
        let last = (0..free.len()).max_by_key(|index| free[*index]);
        let rested = last.map_or_else(Instant::now, |last| free.swap_remove(last));
        drop(free);
        Place { pace: Arc::clone(self), rested, began: None, _permit: permit }
    }

    fn free(&self) -> MutexGuard<'_, Vec<Instant>> {
        self.free.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The right to predict on one thread.
#[derive(Debug)]
pub(super) struct Place {
    pace: Arc<Pace>,
    rested: Instant,
    began: Option<Instant>,
    /// Given back after the time of rest is.
    _permit: Option<OwnedSemaphorePermit>,
}

impl Place {
    /// How long to rest before the work.
    pub(super) fn rest(&self) -> Duration {
        let rest = self.rested.saturating_duration_since(Instant::now());
        if self.pace.is_throttled() { rest } else { Duration::ZERO }
    }

    /// The work begins.
    pub(super) fn begin(&mut self) {
        self.began = Some(Instant::now());
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let now = Instant::now();
        let rested = self.began.map_or(self.rested, |began| now + now.duration_since(began).min(REST));
        self.pace.free().push(rested);
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests fail by panicking")]
mod tests {
    use super::*;
    use std::sync::atomic::AtomicUsize;

    #[tokio::test(flavor = "multi_thread", worker_threads = 4)]
    async fn no_more_predictions_run_at_once_than_there_are_threads_and_each_gets_its_turn() {
        for threads in 1..=3 {
            let pace = Arc::new(Pace::new(threads));
            let counts: Arc<[AtomicUsize; 3]> = Arc::default();
            let asking = (0..8).map(|_| {
                let (pace, counts) = (Arc::clone(&pace), Arc::clone(&counts));
                tokio::spawn(async move {
                    let [now, most, done] = &*counts;
                    for _ in 0..50 {
                        let mut place = pace.place().await;
                        place.begin();
                        most.fetch_max(now.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
                        tokio::task::yield_now().await;
                        now.fetch_sub(1, Ordering::SeqCst);
                        done.fetch_add(1, Ordering::SeqCst);
                    }
                })
            });
            for asking in asking.collect::<Vec<_>>() {
                asking.await.unwrap();
            }
            let [_, most, done] = &*counts;
            assert!(most.load(Ordering::SeqCst) <= threads as usize);
            assert_eq!(done.load(Ordering::SeqCst), 400);
        }
    }

    #[tokio::test]
    async fn a_hot_board_rests_as_long_as_it_works_and_a_cool_one_does_not() {
        // One caller: that other threads have nothing to do is no reason not to rest.
        let pace = Arc::new(Pace::new(4));
        let work = Duration::from_millis(20);
        let spend = async || {
            let mut place = pace.place().await;
            tokio::time::sleep(place.rest()).await;
            place.begin();
            std::thread::sleep(work);
        };
        pace.throttle(true);
        let began = Instant::now();
        for _ in 0..4 {
            spend().await;
        }
        // Four times work and three times rest; that the answers do not wait shows the first.
        assert!(began.elapsed() >= 7 * work, "{:?}", began.elapsed());
        // One that gives up before it worked takes no rest away.
        let given_up = pace.place().await.rest();
        assert!(given_up > work / 2 && pace.place().await.rest() > work / 2, "{given_up:?}");
        pace.throttle(false);
        assert_eq!(pace.place().await.rest(), Duration::ZERO, "nobody waits for a rest any more");
    }
}
