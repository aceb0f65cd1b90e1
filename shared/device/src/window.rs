//! How many chunks may be in flight, and how long silence must last to count as loss.
//!
//! Additive increase, multiplicative decrease (Chiu and Jain, 1989), with TCP's details in chunks instead of
//! bytes: the window doubles a round until the first loss and grows by one a round after it; loss halves it, once a
//! round; after silence it starts over at one (RFC 5681). A chunk is lost when one has come that was asked for three
//! later (the fast retransmission of RFC 5681, by the highest number instead of repeated ones), or when nothing has come for a timeout made of the latency and its deviation,
//! doubled with each silence, and never measured on what was asked for twice (RFC 6298). A latency over
//! [`DELAY_MS`] means that the window only makes a queue, in which everything else that is said to this device
//! stands too: then it shrinks by one a round (the idea of RFC 6817).

use flotilla_protocol::limits;

/// The window of a link of which nothing is known yet.
pub const START: u32 = 4;
/// Latency of a chunk above which the window shrinks.
pub const DELAY_MS: u64 = 2_000;
/// Silence that counts as loss before any latency is known.
pub const TIMEOUT_MS: u64 = 15_000;
/// Silence shorter than this is never loss.
pub const TIMEOUT_MIN_MS: u64 = 2_000;
/// Silence longer than this always is: a chunk in this time is the slowest link that carries a model.
pub const TIMEOUT_MAX_MS: u64 = 300_000;

const LARGEST: u32 = limits::FETCH_WINDOW as u32;
/// A chunk may be overtaken by those that were asked for less than so many later.
const REORDERED: u64 = 3;

/// The window and the timer of one link.
#[derive(Clone, Debug)]
pub struct Window {
    chunks: u32,
    /// Up to here it doubles a round.
    threshold: u32,
    latency: Option<Latency>,
    /// The longest wait for a chunk in this round.
    slowest_ms: u64,
    silences: u32,
    /// Chunks asked for: the number of the last one.
    asked: u64,
    /// The highest number that has come.
    newest: u64,
    /// The round ends when a chunk behind this number comes.
    round: u64,
    /// Loss up to this number is part of what has been answered already.
    answered: u64,
}

#[derive(Clone, Copy, Debug)]
struct Latency {
    mean_ms: u64,
    deviation_ms: u64,
}

impl Default for Window {
    fn default() -> Self {
        Self {
            chunks: START,
            threshold: LARGEST,
            latency: None,
            slowest_ms: 0,
            silences: 0,
            asked: 0,
            newest: 0,
            round: 0,
            answered: 0,
        }
    }
}

impl Window {
    /// Chunks that may be in flight.
    pub fn chunks(&self) -> u32 {
        self.chunks
    }

    /// A chunk is asked for; returns its number.
    pub fn asked(&mut self) -> u64 {
        self.asked += 1;
        self.asked
    }

    /// The chunk with this number has come. `waited_ms` is `None` if it had been asked for before.
    pub fn arrived(&mut self, number: u64, waited_ms: Option<u64>) {
        self.newest = self.newest.max(number);
        if let Some(waited_ms) = waited_ms {
            self.measure(waited_ms);
        }
        let slow = self.slowest_ms > DELAY_MS;
        if self.chunks < self.threshold && !slow {
            self.chunks += 1;
        }
        if number > self.round {
            self.round = self.asked;
            if slow {
                self.chunks = (self.chunks - 1).max(1);
                self.threshold = self.chunks;
            } else if self.chunks >= self.threshold {
                self.chunks = (self.chunks + 1).min(LARGEST);
            }
            self.slowest_ms = 0;
        }
        self.slowest_ms = self.slowest_ms.max(waited_ms.unwrap_or(0));
    }

    fn measure(&mut self, ms: u64) {
        self.silences = 0;
        self.latency = Some(match self.latency {
            None => Latency { mean_ms: ms, deviation_ms: ms / 2 },
            Some(Latency { mean_ms, deviation_ms }) => Latency {
                deviation_ms: (3 * deviation_ms + mean_ms.abs_diff(ms)) / 4,
                mean_ms: (7 * mean_ms + ms) / 8,
            },
        });
    }

    /// Chunks in flight with this number or a lower one are lost.
    pub fn lost_up_to(&self) -> u64 {
        self.newest.saturating_sub(REORDERED)
    }

    /// The chunk with this number is lost, or the cloud was too busy for it.
    pub fn lost(&mut self, number: u64) {
        if number > self.answered {
            self.chunks = (self.chunks / 2).max(1);
            self.threshold = self.chunks;
            self.answered = self.asked;
            self.round = self.asked;
        }
    }

    /// Nothing has come for [`Self::timeout_ms`]: all that is in flight is lost.
    pub fn silent(&mut self) {
        self.threshold = (self.chunks / 2).max(1);
        self.chunks = 1;
        self.silences += 1;
        self.answered = self.asked;
        self.round = self.asked;
    }

    /// Another connection: maybe another road, so nothing is known of it.
    pub fn reconnected(&mut self) {
        let asked = self.asked;
        *self = Self { asked, newest: asked, round: asked, answered: asked, ..Self::default() };
    }

    /// How long nothing must come for all that is in flight to be lost.
    pub fn timeout_ms(&self) -> u64 {
        let once = self.latency.map_or(TIMEOUT_MS, |l| l.mean_ms.saturating_add(4 * l.deviation_ms));
        once.max(TIMEOUT_MIN_MS).saturating_mul(1 << self.silences.min(16)).min(TIMEOUT_MAX_MS)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Rounds of a full window over a link that takes `ms` for each chunk.
    fn rounds(window: &mut Window, count: usize, ms: u64) -> Vec<u32> {
        let mut sizes = Vec::new();
        for _ in 0..count {
            let numbers: Vec<u64> = (0..window.chunks()).map(|_| window.asked()).collect();
            for (index, number) in numbers.into_iter().enumerate() {
                window.arrived(number, Some(20 + ms * (index as u64 + 1)));
            }
            sizes.push(window.chunks());
        }
        sizes
    }

    #[test]
    fn a_good_link_opens_the_window_to_its_bound_and_loss_halves_it_once_a_round() {
        let mut window = Window::default();
        assert_eq!(rounds(&mut window, 3, 1), [8, 16, 16]);
        let numbers: Vec<u64> = (0..16).map(|_| window.asked()).collect();
        window.arrived(numbers[3], Some(20));
        assert_eq!(window.lost_up_to(), numbers[0]);
        window.lost(numbers[0]);
        window.lost(numbers[1]);
        assert_eq!(window.chunks(), 8);
        numbers[4..].iter().for_each(|number| window.arrived(*number, Some(20)));
        assert_eq!(
            window.chunks(),
            8,
            "what was asked for before the loss does not count for the next round"
        );
        assert_eq!(rounds(&mut window, 3, 1), [9, 10, 11]);
    }

    #[test]
    fn a_slow_link_keeps_the_window_so_small_that_nothing_waits_long_behind_it() {
        let mut window = Window::default();
        let sizes = rounds(&mut window, 40, 700);
        assert!(sizes[20..].iter().all(|chunks| (1..=4).contains(chunks)), "{sizes:?}");
    }

    #[test]
    fn silence_starts_over_and_waits_twice_as_long_each_time_until_something_fresh_comes() {
        let mut window = Window::default();
        rounds(&mut window, 3, 1);
        let once = window.timeout_ms();
        assert_eq!(once, TIMEOUT_MIN_MS);
        window.silent();
        window.silent();
        assert_eq!((window.chunks(), window.timeout_ms()), (1, 4 * once));
        let number = window.asked();
        window.arrived(number, None);
        assert_eq!(window.timeout_ms(), 4 * once, "an answer to one of two questions measures nothing");
        let number = window.asked();
        window.arrived(number, Some(10));
        assert_eq!(window.timeout_ms(), once);
        (0..64).for_each(|_| window.silent());
        assert_eq!(window.timeout_ms(), TIMEOUT_MAX_MS);
        window.reconnected();
        assert_eq!((window.chunks(), window.timeout_ms()), (START, TIMEOUT_MS));
    }

    proptest! {
        #[test]
        fn whatever_happens_the_window_stays_within_its_bounds(steps in prop::collection::vec((0u8..5, any::<u64>(), any::<u64>()), 0..400)) {
            let mut window = Window::default();
            for (what, number, ms) in steps {
                let number = number % (window.asked + 1);
                match what {
                    0 => drop(window.asked()),
                    1 => window.arrived(number, Some(ms % 1_000_000_000)),
                    2 => window.arrived(number, None),
                    3 => window.lost(number),
                    _ => window.silent(),
                }
                prop_assert!((1..=LARGEST).contains(&window.chunks()));
                prop_assert!((TIMEOUT_MIN_MS..=TIMEOUT_MAX_MS).contains(&window.timeout_ms()));
            }
        }
    }
}
