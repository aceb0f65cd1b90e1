//! When a device that has nothing to say tells that it is there, and when it takes silence for a lost connection.
//!
//! MQTT wants a packet of the client in every keepalive, and any packet will do: a ping is sent only where nothing else
//! was. That the broker is there shows in its answers, to pings and to messages alike, so one that has left one without
//! an answer for a keepalive, and has said nothing else since, is given up.

/// What is to be done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Beat {
    /// Send a ping.
    Ping,
    /// Give the connection up.
    GiveUp,
}

/// The heartbeat of one connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Heartbeat {
    keepalive_ms: u64,
    /// When the last packet was sent.
    sent_ms: u64,
    /// When the first one was sent that wants an answer, of those since the broker was last heard.
    unanswered_ms: Option<u64>,
}

impl Heartbeat {
    /// The heartbeat of a connection that was made now.
    pub fn new(keepalive_ms: u64, now_ms: u64) -> Self {
        Self { keepalive_ms, sent_ms: now_ms, unanswered_ms: None }
    }

    /// A packet was sent.
    pub fn sent(&mut self, wants_answer: bool, now_ms: u64) {
        self.sent_ms = now_ms;
        if wants_answer {
            self.unanswered_ms.get_or_insert(now_ms);
        }
    }

    /// Something came in.
    pub fn heard(&mut self) {
        self.unanswered_ms = None;
    }

    /// When to look at it next.
    pub fn due_ms(&self) -> u64 {
        self.unanswered_ms.unwrap_or(self.sent_ms) + self.keepalive_ms
    }

    /// What is due. A ping counts as sent.
    pub fn beat(&mut self, now_ms: u64) -> Option<Beat> {
        if now_ms < self.due_ms() {
            return None;
        }
        if self.unanswered_ms.is_some() {
            return Some(Beat::GiveUp);
        }
        self.sent(true, now_ms);
        Some(Beat::Ping)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const KEEPALIVE: u64 = 240;

    /// Pings of a connection whose broker answers, while the device says something every `every` seconds.
    fn pings(every: u64, until: u64) -> u64 {
        let (mut heart, mut pings) = (Heartbeat::new(KEEPALIVE, 0), 0);
        for now in 1..=until {
            if now % every == 0 {
                heart.sent(true, now);
                heart.heard();
            }
            match heart.beat(now) {
                Some(Beat::Ping) => {
                    heart.heard();
                    pings += 1;
                }
                beat => assert_eq!(beat, None),
            }
        }
        pings
    }

    #[test]
    fn a_message_saves_a_ping() {
        assert_eq!(pings(u64::MAX, 3_600), 15, "of a device that says nothing");
        assert_eq!(pings(900, 3_600), 12, "of one that sends telemetry every 15 minutes");
        assert_eq!(pings(KEEPALIVE, 3_600), 0, "of one that has always something to say");
    }

    #[test]
    fn an_answer_of_the_device_saves_a_ping_too_but_wants_none() {
        let mut heart = Heartbeat::new(KEEPALIVE, 0);
        heart.sent(false, 200);
        assert_eq!((heart.due_ms(), heart.beat(439)), (440, None));
        assert_eq!(heart.beat(440), Some(Beat::Ping));
        assert_eq!(heart.beat(441), None, "it is on its way");
    }

    #[test]
    fn repeating_a_message_does_not_put_off_that_nobody_answers() {
        let mut heart = Heartbeat::new(KEEPALIVE, 0);
        for now in (10..250).step_by(30) {
            heart.sent(true, now);
        }
        assert_eq!((heart.due_ms(), heart.beat(249)), (250, None));
        assert_eq!(heart.beat(250), Some(Beat::GiveUp));
    }

    #[derive(Clone, Copy, Debug)]
    enum Step {
        Say,
        Hear,
        /// Hears something that wants an answer.
        Answer,
        Pass(u64),
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            Just(Step::Say),
            Just(Step::Hear),
            Just(Step::Answer),
            (0..2 * KEEPALIVE).prop_map(Step::Pass)
        ]
    }

    proptest! {
        /// Whatever is sent and heard: the broker never waits longer than a keepalive for a packet, and a dead one is
        /// given up within two of when it was last heard.
        #[test]
        fn nobody_waits_longer_than_agreed(steps in prop::collection::vec(step(), 1..200)) {
            let (mut heart, mut now, mut sent, mut heard) = (Heartbeat::new(KEEPALIVE, 0), 0, 0, 0);
            for step in steps {
                match step {
                    Step::Say => {
                        heart.sent(true, now);
                        sent = now;
                    }
                    Step::Hear => {
                        heart.heard();
                        heard = now;
                    }
                    Step::Answer => {
                        heart.heard();
                        heart.sent(false, now);
                        (heard, sent) = (now, now);
                    }
                    Step::Pass(by) => {
                        let end = now + by;
                        while heart.due_ms() <= end {
                            now = now.max(heart.due_ms());
                            match heart.beat(now) {
                                Some(Beat::Ping) => sent = now,
                                Some(Beat::GiveUp) => {
                                    prop_assert!(now - heard >= KEEPALIVE, "given up too early");
                                    return Ok(());
                                }
                                None => prop_assert!(false, "nothing was due at {now}"),
                            }
                        }
                        now = end;
                        prop_assert!(now - sent <= KEEPALIVE);
                    }
                }
                prop_assert!(now - heard <= 2 * KEEPALIVE, "a dead broker is not given up");
            }
        }
    }
}
