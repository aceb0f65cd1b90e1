//! The connection, and what goes wrong on it: a slow link, and messages that come twice or overtake each other.
//!
//! A slow link is one that is not read: what has come is followed by so much silence as its bytes would have taken, so
//! that the control plane's messages queue up as they would before a narrow road.

use bytes::Bytes;
use flotilla_agent::identity::Names;
use flotilla_agent::link::{Link, LinkEvent, QUEUE};
use flotilla_agent::pairs::Credential;
use flotilla_protocol::topic::{Down, Up};
use rand::Rng;
use rand::rngs::SmallRng;
use std::sync::Arc;
use tokio::sync::mpsc;

/// A message that is to be overtaken goes on after so long all the same.
const OVERTAKEN_MS: u64 = 1_000;

/// The way to the control plane.
pub(super) struct Wire {
    link: Option<Link>,
    number: u64,
    sender: mpsc::Sender<(u64, LinkEvent)>,
    /// What connections say, with their number.
    pub(super) events: mpsc::Receiver<(u64, LinkEvent)>,
    bytes_per_s: Option<u64>,
    duplicated: f64,
    reordered: f64,
    /// Until when the slow link is busy.
    busy_ms: u64,
    held_in: Option<(Down, Bytes)>,
    held_out: Option<(Up, Vec<u8>)>,
    /// When what is held goes on.
    due_ms: Option<u64>,
}

impl Wire {
    pub(super) fn new(bytes_per_s: Option<u64>, duplicated: f64, reordered: f64) -> Self {
        let (sender, events) = mpsc::channel(QUEUE);
        Self {
            link: None,
            number: 0,
            sender,
            events,
            bytes_per_s,
            duplicated,
            reordered,
            busy_ms: 0,
            held_in: None,
            held_out: None,
            due_ms: None,
        }
    }

    pub(super) fn open(&mut self, names: &Names, credential: &Credential, keepalive_s: u16) {
        self.number += 1;
        let tls = Arc::clone(&credential.tls);
        self.link = Some(Link::open(names, tls, keepalive_s, self.number, self.sender.clone()));
    }

    /// Ends the connection without a word.
    pub(super) fn cut(&mut self) {
        (self.link, self.held_in, self.held_out, self.due_ms) = (None, None, None, None);
    }

    /// Ends it after everything that is to go out.
    pub(super) async fn close(&mut self) {
        if let Some((up, payload)) = self.held_out.take() {
            self.send(up, payload, 0);
        }
        if let Some(link) = self.link.take() {
            link.close().await;
        }
    }

    pub(super) fn is_open(&self) -> bool {
        self.link.is_some()
    }

    /// Whether an event is of the present connection.
    pub(super) fn is_current(&self, number: u64) -> bool {
        self.link.is_some() && self.number == number
    }

    pub(super) fn subscribe(&self) {
        // A connection without room for its first message is lost by its deadline.
        self.link.as_ref().map(Link::subscribe);
    }

    /// Whether the link may be read.
    pub(super) fn is_free(&self, now_ms: u64) -> bool {
        now_ms >= self.busy_ms
    }

    /// When there is something to do, or to read again.
    pub(super) fn due_ms(&self, now_ms: u64) -> Option<u64> {
        let free = Some(self.busy_ms).filter(|at| *at > now_ms && self.link.is_some());
        self.due_ms.into_iter().chain(free).min()
    }

    fn takes(&mut self, bytes: usize, now_ms: u64) {
        if let Some(rate) = self.bytes_per_s {
            self.busy_ms = self.busy_ms.max(now_ms) + bytes as u64 * 1_000 / rate;
        }
    }

    /// Sends a message. Says how many bytes went out, and in how many messages; none if the connection has no room.
    pub(super) fn publish(
        &mut self,
        up: Up,
        payload: Vec<u8>,
        now_ms: u64,
        rng: &mut SmallRng,
    ) -> Vec<usize> {
        let mut out = Vec::new();
        let held = self.held_out.take();
        if held.is_none() && rng.random_bool(self.reordered) {
            self.held_out = Some((up, payload));
            self.due_ms.get_or_insert(now_ms + OVERTAKEN_MS);
            return out;
        }
        let twice = rng.random_bool(self.duplicated).then(|| (up, payload.clone()));
        for (up, payload) in [Some((up, payload)), twice, held].into_iter().flatten() {
            out.extend(self.send(up, payload, now_ms));
        }
        out
    }

    fn send(&mut self, up: Up, payload: Vec<u8>, now_ms: u64) -> Option<usize> {
        let bytes = payload.len();
        let sent = self.link.as_ref().is_some_and(|link| link.sender().publish(up, payload));
        self.takes(bytes, now_ms);
        sent.then_some(bytes)
    }

    /// A message came. Gives those that are to be looked at now.
    pub(super) fn arrived(
        &mut self,
        down: Down,
        payload: Bytes,
        now_ms: u64,
        rng: &mut SmallRng,
    ) -> Vec<(Down, Bytes)> {
        self.takes(payload.len(), now_ms);
        let held = self.held_in.take();
        if held.is_none() && rng.random_bool(self.reordered) {
            self.held_in = Some((down, payload));
            self.due_ms.get_or_insert(now_ms + OVERTAKEN_MS);
            return Vec::new();
        }
        let twice = rng.random_bool(self.duplicated).then(|| (down, payload.clone()));
        [Some((down, payload)), twice, held].into_iter().flatten().collect()
    }

    /// What has been held for long enough: what came is to be looked at, what was to go goes.
    pub(super) fn overdue(&mut self, now_ms: u64) -> Option<(Down, Bytes)> {
        if self.due_ms.is_none_or(|at| now_ms < at) {
            return None;
        }
        self.due_ms = None;
        if let Some((up, payload)) = self.held_out.take() {
            self.send(up, payload, now_ms);
        }
        self.held_in.take()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::SeedableRng;

    #[test]
    fn a_message_that_is_overtaken_comes_after_the_next_one_or_a_second_later() {
        let mut rng = SmallRng::seed_from_u64(1);
        let mut wire = Wire::new(None, 0.0, 1.0);
        let message = |text: &'static [u8]| Bytes::from_static(text);
        assert!(wire.arrived(Down::Desired, message(b"1"), 0, &mut rng).is_empty());
        let both = wire.arrived(Down::Ack, message(b"2"), 0, &mut rng);
        assert_eq!(both, [(Down::Ack, message(b"2")), (Down::Desired, message(b"1"))]);
        assert!(wire.arrived(Down::Reply, message(b"3"), 10, &mut rng).is_empty());
        wire.due_ms = wire.due_ms.map(|_| 10 + OVERTAKEN_MS);
        assert_eq!(wire.overdue(10), None);
        assert_eq!(wire.overdue(10 + OVERTAKEN_MS), Some((Down::Reply, message(b"3"))));
    }

    #[test]
    fn a_duplicated_message_comes_twice_and_a_slow_link_rests_for_its_bytes() {
        let mut rng = SmallRng::seed_from_u64(1);
        let mut wire = Wire::new(Some(1_000), 1.0, 0.0);
        let twice = wire.arrived(Down::Ack, Bytes::from_static(&[0; 500]), 100, &mut rng);
        assert_eq!(twice.len(), 2);
        assert!(!wire.is_free(599));
        assert!(wire.is_free(600));
    }
}
