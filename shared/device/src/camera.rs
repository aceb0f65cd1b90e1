//! One camera: when it is opened, when a frame is predicted, and what is said when it disappears.
//!
//! Frames come as fast as the camera likes and are predicted at a set rate, one at a time. The newest frame wins: one
//! that waits when another comes is dropped and counted. A camera that is lost is opened again after a growing wait,
//! for ever, and said once.

use crate::backoff::Backoff;
use crate::fault::Fault;

/// Waits before a lost camera is opened again.
pub const REOPEN: Backoff = Backoff { base_ms: 1_000, cap_ms: 60_000 };
/// A camera that comes and goes is said to be lost once in so long.
pub const SAY_MS: u64 = 10 * 60 * 1_000;

/// What happened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// Time passed.
    Tick,
    /// The camera is open; frames may come.
    Opened,
    /// A frame came, and is held in place of one that waited.
    Frame,
    /// The camera cannot be opened, or is gone.
    Lost(Fault),
    /// The prediction that ran has ended, well or not.
    Answered,
}

/// What is to be done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Effect {
    /// Open the camera.
    Open,
    /// Predict the frame that is held.
    Predict,
    /// Tell people that the camera is lost.
    Say(Fault),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Link {
    Waiting { until_ms: u64 },
    Opening,
    Open,
}

/// Numbers since the start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Frames that came.
    pub frames: u64,
    /// Frames that were never predicted, because a newer one came or the camera was lost.
    pub dropped: u64,
    /// How often the camera was lost after it had given a frame.
    pub outages: u64,
}

/// The machine of one camera.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Camera {
    period_ms: u64,
    link: Link,
    tries: u32,
    /// From when on the next frame may be predicted.
    next_ms: u64,
    held: bool,
    busy: bool,
    /// Why there are no frames; none once one came.
    lost: Option<Fault>,
    say_again_ms: u64,
    counts: Counts,
}

impl Camera {
    /// A camera that is opened at the first tick, with one prediction in so long at most.
    pub fn new(period_ms: u64) -> Self {
        Self {
            period_ms,
            link: Link::Waiting { until_ms: 0 },
            tries: 0,
            next_ms: 0,
            held: false,
            busy: false,
            lost: None,
            say_again_ms: 0,
            counts: Counts::default(),
        }
    }

    /// Whether frames come.
    pub fn is_live(&self) -> bool {
        self.link == Link::Open && self.lost.is_none() && self.counts.frames > 0
    }

    /// Why no frames come, if that is known.
    pub fn problem(&self) -> Option<&Fault> {
        self.lost.as_ref()
    }

    /// Numbers since the start.
    pub fn counts(&self) -> Counts {
        self.counts
    }

    /// When to send [`Event::Tick`] next, if ever.
    pub fn due_ms(&self) -> Option<u64> {
        let open = match self.link {
            Link::Waiting { until_ms } => Some(until_ms),
            _ => None,
        };
        let predict = (self.held && !self.busy).then_some(self.next_ms);
        open.into_iter().chain(predict).min()
    }

    /// One step; `random` is fresh.
    pub fn step(&self, event: Event, now_ms: u64, random: u64) -> (Self, Vec<Effect>) {
        let mut next = self.clone();
        let mut out = Vec::new();
        match event {
            Event::Tick => {
                if let Link::Waiting { until_ms } = next.link
                    && now_ms >= until_ms
                {
                    next.link = Link::Opening;
                    out.push(Effect::Open);
                }
            }
            Event::Opened => {
                if next.link == Link::Opening {
                    next.link = Link::Open;
                }
            }
            Event::Frame => {
                next.counts.frames += 1;
                next.counts.dropped += u64::from(next.held);
                next.held = true;
                // A camera that can be opened and gives nothing is as good as lost.
                next.lost = None;
                next.tries = 0;
            }
            Event::Lost(fault) => next.lose(fault, now_ms, random, &mut out),
            Event::Answered => next.busy = false,
        }
        if next.held && !next.busy && now_ms >= next.next_ms {
            (next.held, next.busy) = (false, true);
            // From the moment that was due, so that the rate is kept; from now, if that is long ago.
            let on_time = now_ms.saturating_sub(next.next_ms) < next.period_ms;
            next.next_ms = if on_time { next.next_ms } else { now_ms }.saturating_add(next.period_ms);
            out.push(Effect::Predict);
        }
        (next, out)
    }

    fn lose(&mut self, fault: Fault, now_ms: u64, random: u64, out: &mut Vec<Effect>) {
        self.counts.dropped += u64::from(std::mem::take(&mut self.held));
        if self.lost.is_none() {
            self.counts.outages += u64::from(self.counts.frames > 0);
            if now_ms >= self.say_again_ms {
                self.say_again_ms = now_ms.saturating_add(SAY_MS);
                out.push(Effect::Say(fault.clone()));
            }
        }
        self.lost = Some(fault);
        self.link = Link::Waiting { until_ms: now_ms.saturating_add(REOPEN.delay_ms(self.tries, random)) };
        self.tries = self.tries.saturating_add(1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use flotilla_protocol::ErrorCode;
    use proptest::prelude::*;

    fn fault() -> Fault {
        Fault::transient(ErrorCode::Network, "unplugged")
    }

    /// Gives an event and returns what is to be done.
    fn give(camera: &mut Camera, event: Event, now_ms: u64) -> Vec<Effect> {
        let (next, effects) = camera.step(event, now_ms, 0);
        *camera = next;
        effects
    }

    fn live(period_ms: u64) -> Camera {
        let mut camera = Camera::new(period_ms);
        assert_eq!(give(&mut camera, Event::Tick, 0), [Effect::Open]);
        assert_eq!(give(&mut camera, Event::Opened, 0), []);
        camera
    }

    #[test]
    fn the_newest_frame_wins_and_the_others_are_counted() {
        let mut camera = live(1_000);
        assert_eq!(give(&mut camera, Event::Frame, 5), [Effect::Predict]);
        for at in 6..10 {
            assert_eq!(give(&mut camera, Event::Frame, at), []);
        }
        assert_eq!(give(&mut camera, Event::Answered, 300), [], "the rate is kept");
        assert_eq!(camera.due_ms(), Some(1_000));
        assert_eq!(give(&mut camera, Event::Tick, 1_000), [Effect::Predict]);
        assert_eq!(camera.counts(), Counts { frames: 5, dropped: 3, outages: 0 });
        assert_eq!(camera.due_ms(), None, "nothing waits");
    }

    #[test]
    fn a_slow_model_sees_fewer_frames_and_never_two_at_once() {
        let mut camera = live(100);
        assert_eq!(give(&mut camera, Event::Frame, 0), [Effect::Predict]);
        for at in [100, 200, 300] {
            assert_eq!(give(&mut camera, Event::Frame, at), []);
        }
        assert_eq!(give(&mut camera, Event::Answered, 350), [Effect::Predict]);
        assert_eq!(camera.counts().dropped, 2);
    }

    #[test]
    fn a_camera_that_disappears_is_said_once_and_opened_again_until_it_is_back() {
        let mut camera = live(100);
        give(&mut camera, Event::Frame, 0);
        assert!(camera.is_live());
        assert_eq!(give(&mut camera, Event::Lost(fault()), 10), [Effect::Say(fault())]);
        let mut now_ms = 10;
        for _ in 0..8 {
            now_ms = camera.due_ms().expect("another try");
            assert_eq!(give(&mut camera, Event::Tick, now_ms), [Effect::Open]);
            assert_eq!(give(&mut camera, Event::Lost(fault()), now_ms), [], "said already");
            assert!(!camera.is_live() && camera.problem() == Some(&fault()));
        }
        let wait = camera.due_ms().expect("another try") - now_ms;
        assert!((REOPEN.cap_ms / 2..=REOPEN.cap_ms).contains(&wait), "{wait}");
        give(&mut camera, Event::Tick, now_ms + wait);
        give(&mut camera, Event::Opened, now_ms + wait);
        assert!(!camera.is_live(), "an open camera without a frame is not back");
        give(&mut camera, Event::Answered, now_ms + wait);
        assert_eq!(give(&mut camera, Event::Frame, now_ms + wait), [Effect::Predict]);
        assert!(camera.is_live() && camera.problem().is_none());
        assert_eq!(camera.counts().outages, 1);
        assert_eq!(give(&mut camera, Event::Lost(fault()), now_ms + wait + 1), [], "not again so soon");
        assert_eq!(camera.counts().outages, 2);
    }

    fn events() -> impl Strategy<Value = (Event, u64)> {
        let event = prop_oneof![
            Just(Event::Tick),
            Just(Event::Opened),
            Just(Event::Frame),
            Just(Event::Lost(fault())),
            Just(Event::Answered)
        ];
        (event, 0u64..2_000)
    }

    proptest! {
        #[test]
        fn whatever_happens_the_rate_and_the_count_hold(
            period_ms in 1u64..1_000,
            events in prop::collection::vec(events(), 0..200),
            random: u64,
        ) {
            let mut camera = Camera::new(period_ms);
            let (mut now_ms, mut opened, mut predicted, mut running, mut said) = (0, 0u64, 0u64, false, vec![]);
            for (event, later) in events {
                now_ms += later;
                // What cannot happen in this state is left out: the shell has one camera and one prediction.
                if event == Event::Answered && !running { continue }
                running &= event != Event::Answered;
                let (next, effects) = camera.step(event, now_ms, random);
                camera = next;
                for effect in effects {
                    match effect {
                        Effect::Open => opened += 1,
                        Effect::Predict => {
                            prop_assert!(!running, "two predictions at once");
                            running = true;
                            predicted += 1;
                        }
                        Effect::Say(_) => said.push(now_ms),
                    }
                }
            }
            let counts = camera.counts();
            let held = u64::from(camera.held);
            prop_assert_eq!(counts.frames, predicted + counts.dropped + held);
            prop_assert!(predicted <= now_ms / period_ms + 1, "{} in {} ms", predicted, now_ms);
            prop_assert!(said.windows(2).all(|pair| pair[1] - pair[0] >= SAY_MS));
            prop_assert!(opened <= now_ms / (REOPEN.base_ms / 2) + 1);
            prop_assert!(camera.due_ms().is_some() || camera.link != Link::Open || running || held == 0);
        }
    }
}
