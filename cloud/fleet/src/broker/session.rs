//! What an MQTT session decides. It is told what came and what time it is, and answers what is to be done, in order.
//!
//! - Up: one message at a time is handed over; until it stands in the channel no further packet is wanted, and only then
//!   is it acknowledged.
//! - Down: messages wait their turn, go out when the socket has room, in order, within a window, each with an id that no
//!   other one on its way has. An acknowledgement gives back the room of a message, once.
//! - Time: a device that says nothing for one and a half keep-alives is gone; one that acknowledges nothing, or takes no
//!   bytes, for too long is cut off. While a message waits to be handed over we do not listen, so nobody is late.

use super::acl::{self, Denied};
use super::config::{KEEP_ALIVE, REFUSALS};
use super::packet::{Malformed, QoS, Received, Sent};
use super::rate::Bucket;
use super::{Bounds, PeerIdentity};
use bytes::Bytes;
use flotilla_protocol::topic::{Down, Topic, Up};
use std::collections::VecDeque;
use std::num::NonZeroU16;
use std::sync::Arc;
use std::time::{Duration, Instant};

#[cfg(test)]
mod tests;

/// What happens to a session.
#[derive(Debug)]
pub(super) enum Event {
    /// Bytes came, perhaps not a whole packet: a large one over a slow link is no silence.
    Heard,
    /// A packet came. Only while the session [`listens`](Session::listens).
    Packet(Received),
    /// What came is no packet.
    Malformed(Malformed),
    /// The message to be handed over stands in the channel.
    HandedOver,
    /// A message for the device.
    Deliver(Down, Bytes),
    /// The socket has room for a message.
    Room,
    /// The socket has taken bytes: some, or all there were.
    Wrote { all: bool },
    /// Time has passed.
    Time,
}

/// What a session wants done.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Effect {
    /// Send this.
    Send(Sent),
    /// Hand over this message, then say [`Event::HandedOver`].
    HandOver(Up, Bytes),
    /// The device gets messages of this topic from now on.
    Subscribed(Down),
    /// … and now no more.
    Unsubscribed(Down),
    /// A subscription is refused; this goes to the log.
    Refused { filter: String, denied: Denied },
    /// The device has a message of so many bytes: its room is free.
    GiveBack(usize),
    /// Close the connection; nothing comes after this.
    Close(Reason),
}

/// Why a session ends.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum Reason {
    #[error("it said good-bye")]
    Goodbye,
    #[error("its message is refused: {denied}")]
    Denied { topic: String, denied: Denied },
    #[error("it asks on and on for what it may not have")]
    Refusals,
    #[error("it broke the protocol: {0}")]
    Protocol(Malformed),
    #[error("it was silent for longer than its keep-alive allows")]
    Silent,
    #[error("it acknowledged nothing for too long")]
    Unacknowledged,
    #[error("it took no bytes for too long")]
    Stuck,
}

/// The session of one connection.
#[derive(Debug)]
pub(super) struct Session {
    peer: Arc<PeerIdentity>,
    window: usize,
    /// How long the device may be silent.
    silence: Duration,
    /// How long it may leave messages unacknowledged and bytes untaken.
    patience: Duration,
    rates: (Bucket, Bucket),
    heard: Instant,
    waiting: VecDeque<(Down, Bytes)>,
    /// Ids and sizes of what was sent and is not acknowledged, oldest first.
    in_flight: VecDeque<(NonZeroU16, usize)>,
    last_id: u16,
    /// When the device last acknowledged something, or began to owe it.
    acknowledged: Instant,
    /// When the socket last took bytes, while there are some that it has not taken.
    unwritten: Option<Instant>,
    /// A message that is being handed over, with its id; 0 if nobody waits for an answer.
    handing: Option<u16>,
    refusals: u32,
    will: Option<Bytes>,
    over: bool,
}

impl Session {
    /// A session that begins. `keep_alive` is what the device asked for, in seconds; its will has been checked.
    pub(super) fn new(
        peer: Arc<PeerIdentity>,
        bounds: &Bounds,
        keep_alive: u16,
        will: Option<Bytes>,
        now: Instant,
    ) -> Self {
        let keep_alive = match keep_alive {
            0 => KEEP_ALIVE,
            wanted => wanted.min(KEEP_ALIVE),
        };
        let messages = Bucket::new(bounds.messages_per_second, bounds.messages_burst, now);
        let bytes = Bucket::new(bounds.bytes_per_second, bounds.bytes_burst, now);
        Self {
            peer,
            window: usize::from(bounds.in_flight.get()),
            silence: Duration::from_secs(keep_alive.into()) * 3 / 2,
            patience: bounds.ack_timeout,
            rates: (messages, bytes),
            heard: now,
            waiting: VecDeque::new(),
            in_flight: VecDeque::new(),
            last_id: 0,
            acknowledged: now,
            unwritten: None,
            handing: None,
            refusals: 0,
            will,
            over: false,
        }
    }

    /// Is a packet wanted?
    pub(super) fn listens(&self) -> bool {
        self.handing.is_none() && !self.over
    }

    /// Is there a message that may go out when the socket has room?
    pub(super) fn has_news(&self) -> bool {
        !self.waiting.is_empty() && self.in_flight.len() < self.window && !self.over
    }

    /// When to say [`Event::Time`], if nothing happens before.
    pub(super) fn due(&self) -> Option<Instant> {
        if !self.listens() {
            return None;
        }
        let silent = self.heard + self.silence;
        let unacknowledged = self.owes().then(|| self.acknowledged + self.patience);
        let stuck = self.unwritten.map(|since| since + self.patience);
        [Some(silent), unacknowledged, stuck].into_iter().flatten().min()
    }

    /// What the device wants said when it has gone without good-bye.
    pub(super) fn into_will(self) -> Option<Bytes> {
        self.will
    }

    fn owes(&self) -> bool {
        !self.in_flight.is_empty() || !self.waiting.is_empty()
    }

    /// Takes in an event.
    pub(super) fn step(&mut self, event: Event, now: Instant) -> Vec<Effect> {
        if self.over {
            return vec![];
        }
        match event {
            Event::Heard => {
                self.heard = now;
                vec![]
            }
            Event::Packet(packet) => self.packet(packet, now),
            Event::Malformed(malformed) => self.close(Reason::Protocol(malformed)),
            Event::HandedOver => self.handed_over(now),
            Event::Deliver(channel, payload) => {
                if !self.owes() {
                    self.acknowledged = now;
                }
                self.waiting.push_back((channel, payload));
                vec![]
            }
            Event::Room => self.room(now),
            Event::Wrote { all } => {
                self.unwritten = (!all).then_some(now);
                vec![]
            }
            Event::Time => self.time(now),
        }
    }

    fn close(&mut self, reason: Reason) -> Vec<Effect> {
        self.over = true;
        vec![Effect::Close(reason)]
    }

    fn send(&mut self, sent: Sent, now: Instant) -> Effect {
        self.unwritten.get_or_insert(now);
        Effect::Send(sent)
    }

    fn packet(&mut self, packet: Received, now: Instant) -> Vec<Effect> {
        self.heard = now;
        match packet {
            Received::Publish { topic, qos, retain, id, payload } => {
                match self.admit(&topic, qos, retain, payload.len(), now) {
                    Ok(channel) => {
                        self.handing = Some(id);
                        vec![Effect::HandOver(channel, payload)]
                    }
                    // MQTT 3.1.1 has no other way to say no.
                    Err(denied) => self.close(Reason::Denied { topic, denied }),
                }
            }
            Received::PubAck(id) => self.acknowledge(id, now),
            Received::Subscribe { id, filters } => self.subscribe(id, filters, now),
            Received::Unsubscribe { id, filters } => {
                let own = |filter: &String| acl::subscribe(&self.peer, filter, QoS::AtLeastOnce).ok();
                let mut effects: Vec<_> = filters.iter().filter_map(own).map(Effect::Unsubscribed).collect();
                effects.push(self.send(Sent::UnsubAck(id), now));
                effects
            }
            Received::Ping => vec![self.send(Sent::Pong, now)],
            Received::Disconnect => {
                self.will = None;
                self.close(Reason::Goodbye)
            }
        }
    }

    /// May the device say this, and so much?
    fn admit(
        &mut self,
        topic: &str,
        qos: QoS,
        retain: bool,
        bytes: usize,
        now: Instant,
    ) -> Result<Up, Denied> {
        let channel = acl::publish(&self.peer, topic, qos, retain, bytes)?;
        let fits = self.rates.0.take(1.0, now) && self.rates.1.take(bytes as f64, now);
        if fits { Ok(channel) } else { Err(Denied::Rate) }
    }

    fn handed_over(&mut self, now: Instant) -> Vec<Effect> {
        // We have not listened: what the device said meanwhile is still to come.
        self.heard = now;
        self.acknowledged = now;
        match self.handing.take() {
            None | Some(0) => vec![],
            Some(id) => vec![self.send(Sent::PubAck(id), now)],
        }
    }

    /// An id that is not on its way is ignored: the device may have said it twice.
    fn acknowledge(&mut self, id: u16, now: Instant) -> Vec<Effect> {
        let Some(at) = self.in_flight.iter().position(|(other, _)| other.get() == id) else { return vec![] };
        self.acknowledged = now;
        let acknowledged = self.in_flight.remove(at);
        if self.in_flight.is_empty() {
            self.in_flight = VecDeque::new();
        }
        acknowledged.map(|(_, bytes)| Effect::GiveBack(bytes)).into_iter().collect()
    }

    fn subscribe(&mut self, id: NonZeroU16, filters: Vec<(String, QoS)>, now: Instant) -> Vec<Effect> {
        let (mut effects, mut granted) = (vec![], vec![]);
        for (filter, qos) in filters {
            let answer = acl::subscribe(&self.peer, &filter, qos);
            granted.push(answer.is_ok());
            match answer {
                Ok(channel) => effects.push(Effect::Subscribed(channel)),
                Err(denied) => {
                    effects.push(Effect::Refused { filter, denied });
                    self.refusals += 1;
                    if self.refusals > REFUSALS {
                        effects.extend(self.close(Reason::Refusals));
                        return effects;
                    }
                }
            }
        }
        effects.push(self.send(Sent::SubAck { id, granted }, now));
        effects
    }

    fn room(&mut self, now: Instant) -> Vec<Effect> {
        if !self.has_news() {
            return vec![];
        }
        let Some((channel, payload)) = self.waiting.pop_front() else { return vec![] };
        if self.waiting.is_empty() {
            // A burst is over; what it needed is not kept.
            self.waiting = VecDeque::new();
        }
        let id = self.next_id();
        self.in_flight.push_back((id, payload.len()));
        let topic = Topic::down(&self.peer.project, &self.peer.device, channel).to_string();
        vec![self.send(Sent::Publish { topic, id, payload }, now)]
    }

    /// An id that no message on its way has. There is one: the window is smaller than what an id can say, or as large.
    fn next_id(&mut self) -> NonZeroU16 {
        loop {
            self.last_id = self.last_id.wrapping_add(1);
            if let Some(id) = NonZeroU16::new(self.last_id)
                && !self.in_flight.iter().any(|(other, _)| *other == id)
            {
                return id;
            }
        }
    }

    fn time(&mut self, now: Instant) -> Vec<Effect> {
        let passed = |since: Instant, bound: Duration| now.saturating_duration_since(since) >= bound;
        if !self.listens() {
            vec![]
        } else if self.unwritten.is_some_and(|since| passed(since, self.patience)) {
            self.close(Reason::Stuck)
        } else if self.owes() && passed(self.acknowledged, self.patience) {
            self.close(Reason::Unacknowledged)
        } else if passed(self.heard, self.silence) {
            self.close(Reason::Silent)
        } else {
            vec![]
        }
    }
}
