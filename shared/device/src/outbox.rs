//! In which order kept records are sent, what is dropped when room runs out, and what an `ack` frees.
//!
//! Each stream has one batch in flight, so a long backlog never keeps a live record or an event waiting; where
//! several streams have something to send, events go first and the backlog last. The live stream never holds more
//! than a batch, whatever the cloud is busy with: telemetry beyond it is backlog too. So a record of this moment is
//! published before anything that is published after it was recorded, but for what is more urgent. The oldest goes
//! first when room runs out, telemetry before events, so what is dropped of a stream is one range at its head.

use crate::backoff::Backoff;
use flotilla_protocol::limits;
use flotilla_protocol::message::{Ack, Epoch, SeqRange, Stream};

/// Without an `ack` for so long, a batch is sent again.
pub const ACK_MS: u64 = 30_000;

const RETRY: Backoff = Backoff { base_ms: ACK_MS, cap_ms: 900_000 };

/// What is stored of one stream: records `first..next`, numbers up to `acked` durable in the cloud. What lies
/// between was dropped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StreamState {
    /// Last number that the cloud has durably.
    pub acked: u64,
    /// Oldest record that is kept; `next` if there is none.
    pub first: u64,
    /// The number of the next record.
    pub next: u64,
    /// Bytes of the kept records.
    pub bytes: u64,
}

impl Default for StreamState {
    fn default() -> Self {
        Self { acked: 0, first: 1, next: 1, bytes: 0 }
    }
}

impl StreamState {
    /// The range that was dropped and of which the cloud may not know.
    pub fn dropped(&self) -> Option<SeqRange> {
        (self.first > self.acked + 1).then(|| SeqRange { first: self.acked + 1, last: self.first - 1 })
    }

    /// Records that are kept.
    pub fn len(&self) -> u64 {
        self.next - self.first
    }

    /// Whether no record is kept.
    pub fn is_empty(&self) -> bool {
        self.first == self.next
    }
}

/// A batch to send.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Batch {
    /// The stream.
    pub stream: Stream,
    /// The first record; records follow in order as far as they fit one message.
    pub from: u64,
    /// One past the last record that may be taken.
    pub to: u64,
    /// What to declare dropped.
    pub dropped: Option<SeqRange>,
}

/// What an `ack` frees.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Freed {
    /// The stream.
    pub stream: Stream,
    /// First record to delete.
    pub first: u64,
    /// Last record to delete.
    pub last: u64,
}

#[derive(Clone, Copy, Debug, Default)]
struct Lane {
    state: StreamState,
    /// Resend time of the batch in flight.
    flight_due_ms: Option<u64>,
    /// Last number of the batch in flight.
    flight_last: u64,
    resends: u32,
}

/// The order of an outbox.
#[derive(Clone, Debug)]
pub struct Outbox {
    epoch: Epoch,
    lanes: [Lane; 3],
    connected: bool,
}

/// Streams in the order of their urgency; the index is the lane's.
const ORDER: [Stream; 3] = [Stream::Event, Stream::Live, Stream::Backlog];

fn lane(stream: Stream) -> usize {
    match stream {
        Stream::Event => 0,
        Stream::Live => 1,
        Stream::Backlog => 2,
    }
}

impl Outbox {
    /// The order over what is stored: event, live, backlog.
    pub fn new(epoch: Epoch, event: StreamState, live: StreamState, backlog: StreamState) -> Self {
        let lanes = [event, live, backlog].map(|state| Lane { state, ..Lane::default() });
        Self { epoch, lanes, connected: false }
    }

    /// The outbox's epoch.
    pub fn epoch(&self) -> Epoch {
        self.epoch
    }

    /// What is stored of a stream.
    pub fn stream(&self, stream: Stream) -> StreamState {
        self.lanes[lane(stream)].state
    }

    /// The stream for telemetry of this moment.
    pub fn telemetry_stream(&self) -> Stream {
        let room = self.stream(Stream::Live).len() < limits::TELEMETRY_BATCH as u64;
        if self.connected && room { Stream::Live } else { Stream::Backlog }
    }

    /// A record of `bytes` was appended to the stream; returns its number. [`Self::over`] comes next.
    pub fn append(&mut self, stream: Stream, bytes: u64) -> u64 {
        let state = &mut self.lanes[lane(stream)].state;
        let seq = state.next;
        state.next += 1;
        state.bytes += bytes;
        seq
    }

    /// The stream whose oldest record must go to be within the bounds, if any. Telemetry gives way to events,
    /// backlog before live; events give way only to events.
    pub fn over(&self) -> Option<Stream> {
        let bytes = |stream| self.stream(stream).bytes;
        if bytes(Stream::Event) > limits::OUTBOX_EVENTS as u64 {
            return Some(Stream::Event);
        }
        let total: u64 = ORDER.iter().map(|stream| bytes(*stream)).sum();
        if total <= limits::OUTBOX as u64 {
            return None;
        }
        [Stream::Backlog, Stream::Live, Stream::Event]
            .into_iter()
            .find(|stream| !self.stream(*stream).is_empty())
    }

    /// The oldest record of the stream, of `bytes`, was deleted to make room.
    pub fn dropped_oldest(&mut self, stream: Stream, bytes: u64) {
        let state = &mut self.lanes[lane(stream)].state;
        debug_assert!(!state.is_empty(), "only a kept record can be dropped");
        state.first += 1;
        state.bytes = state.bytes.saturating_sub(bytes);
    }

    /// A connection is up: everything that is not acknowledged may be sent anew.
    pub fn connected(&mut self) {
        self.connected = true;
        self.land();
    }

    /// The connection is lost.
    pub fn disconnected(&mut self) {
        self.connected = false;
        self.land();
    }

    fn land(&mut self) {
        for lane in &mut self.lanes {
            lane.flight_due_ms = None;
            lane.resends = 0;
        }
    }

    /// The next batch to send, if any. [`Self::sent`] comes next.
    pub fn next(&self, now_ms: u64) -> Option<Batch> {
        if !self.connected {
            return None;
        }
        ORDER.into_iter().find_map(|stream| {
            let Lane { state, flight_due_ms, .. } = self.lanes[lane(stream)];
            let free = flight_due_ms.is_none_or(|due| now_ms >= due);
            let dropped = state.dropped();
            if !free || (state.is_empty() && dropped.is_none()) {
                return None;
            }
            let to = state.next.min(state.first + limits::TELEMETRY_BATCH as u64);
            Some(Batch { stream, from: state.first, to, dropped })
        })
    }

    /// The batch was sent up to and including the number `last` (of a batch without records: the last dropped).
    pub fn sent(&mut self, stream: Stream, last: u64, now_ms: u64, random: u64) {
        let lane = &mut self.lanes[lane(stream)];
        let wait = RETRY.delay_ms(lane.resends, random).max(ACK_MS);
        lane.flight_due_ms = Some(now_ms + wait);
        lane.flight_last = last;
        lane.resends += 1;
    }

    /// When a batch in flight should be sent again.
    pub fn due_ms(&self) -> Option<u64> {
        self.lanes.iter().filter_map(|lane| lane.flight_due_ms).min()
    }

    /// Takes an acknowledgement. One of another epoch, or of numbers that were never given, is ignored.
    pub fn ack(&mut self, ack: &Ack) -> Option<Freed> {
        let lane = &mut self.lanes[lane(ack.stream)];
        if ack.epoch != self.epoch || ack.up_to >= lane.state.next || ack.up_to <= lane.state.acked {
            return None;
        }
        let first = lane.state.first;
        lane.state.acked = ack.up_to;
        lane.state.first = first.max(ack.up_to + 1);
        if ack.up_to >= lane.flight_last {
            lane.flight_due_ms = None;
            lane.resends = 0;
        }
        // Nothing to delete if all of it was dropped before.
        (ack.up_to >= first).then_some(Freed { stream: ack.stream, first, last: ack.up_to })
    }

    /// Records of `bytes` were deleted after an `ack`.
    pub fn freed(&mut self, stream: Stream, bytes: u64) {
        let state = &mut self.lanes[lane(stream)].state;
        state.bytes = if state.is_empty() { 0 } else { state.bytes.saturating_sub(bytes) };
    }
}

#[cfg(test)]
#[path = "outbox_tests.rs"]
mod tests;
