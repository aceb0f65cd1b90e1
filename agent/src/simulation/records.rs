//! The outbox on the virtual disk. Its order is the real one ([`flotilla_device::outbox`]); its store is not: sled
//! writes to files that nobody can intercept. In its place stands a log of one file, to which records and
//! acknowledgements are appended, and which is brought to stable storage exactly where the real store is: when it is
//! made, and before records are sent that may not be there yet. Like the real one it is cut at the first damage, and is
//! thrown away when it cannot be read.

use crate::disk::{Disk, DiskError};
use flotilla_device::frame::{self, Kind};
use flotilla_device::outbox::{Outbox, StreamState};
use flotilla_protocol::message::{Ack, Epoch, Record, RecordBody, Stream, TelemetryBatch};
use flotilla_protocol::{codec, limits};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, VecDeque};
use std::path::Path;
use std::sync::Arc;

const LOG: &str = "outbox/log";
const BOUND: usize = 4 * limits::MIB;
const ENTRY: Kind = Kind { name: *b"SOB", version: 1 };
/// Bytes of an entry's frame before its content, with the content's length from the fourth on.
const HEAD: usize = 12;

#[derive(Serialize, Deserialize)]
enum Entry {
    Epoch(u64),
    Record(Stream, Record),
    Acked(Stream, u64),
}

/// The outbox.
pub(super) struct Records {
    disk: Arc<dyn Disk>,
    order: Outbox,
    kept: BTreeMap<&'static str, VecDeque<Record>>,
    end: u64,
    unsynced: bool,
}

impl Records {
    /// Opens the outbox; one that cannot be read is thrown away. `random` is the epoch of a new one.
    pub(super) fn open(disk: Arc<dyn Disk>, random: u64) -> Result<Self, DiskError> {
        Self::read(&disk, random).or_else(|_| {
            disk.remove(Path::new(LOG))?;
            Self::read(&disk, random)
        })
    }

    fn read(disk: &Arc<dyn Disk>, random: u64) -> Result<Self, DiskError> {
        disk.make_folder(Path::new("outbox"))?;
        let content = disk.read(Path::new(LOG), BOUND)?.unwrap_or_default();
        let mut states: BTreeMap<&str, StreamState> = BTreeMap::new();
        let mut kept: BTreeMap<&str, VecDeque<Record>> = BTreeMap::new();
        let (mut epoch, mut end) = (None, 0);
        while let Some((entry, bytes)) = entry(&content[end..]) {
            end += bytes;
            match entry {
                Entry::Epoch(number) => epoch = Some(number),
                Entry::Record(stream, record) => {
                    states.entry(stream.as_str()).or_default().next = record.seq + 1;
                    kept.entry(stream.as_str()).or_default().push_back(record);
                }
                Entry::Acked(stream, up_to) => {
                    kept.entry(stream.as_str()).or_default().retain(|record| record.seq > up_to);
                    states.entry(stream.as_str()).or_default().acked = up_to;
                }
            }
        }
        let mut order = |stream: Stream| {
            let state = states.entry(stream.as_str()).or_default();
            state.first = state.acked + 1;
            state.bytes = state.next - state.first;
            *state
        };
        let order = Outbox::new(
            Epoch(epoch.unwrap_or(random)),
            order(Stream::Event),
            order(Stream::Live),
            order(Stream::Backlog),
        );
        let mut records = Self { disk: Arc::clone(disk), order, kept, end: end as u64, unsynced: true };
        if epoch.is_none() {
            records.end = 0;
            records.append(&Entry::Epoch(random))?;
        }
        // What is behind the first damage must not come back behind what is appended now.
        records.sync()?;
        disk.sync_folder(Path::new("outbox"))?;
        Ok(records)
    }

    fn append(&mut self, entry: &Entry) -> Result<(), DiskError> {
        let bytes = frame::seal(ENTRY, &codec::encode(entry));
        self.disk.write_at(Path::new(LOG), self.end, &bytes)?;
        self.end += bytes.len() as u64;
        self.unsynced = true;
        Ok(())
    }

    fn sync(&mut self) -> Result<(), DiskError> {
        self.disk.settle(Path::new(LOG), self.end)
    }

    /// Keeps a record until the cloud has it.
    pub(super) fn keep(&mut self, at_ms: u64, body: RecordBody) -> Result<(), DiskError> {
        let stream = match body {
            RecordBody::Event(_) => Stream::Event,
            RecordBody::Sample(_) => self.order.telemetry_stream(),
        };
        let record = Record { seq: self.order.stream(stream).next, at_ms, body };
        self.append(&Entry::Record(stream, record.clone()))?;
        self.order.append(stream, 1);
        self.kept.entry(stream.as_str()).or_default().push_back(record);
        Ok(())
    }

    /// A connection is up, or lost.
    pub(super) fn link(&mut self, up: bool) {
        if up { self.order.connected() } else { self.order.disconnected() }
    }

    /// The next message to send, if any.
    pub(super) fn next(&mut self, now_ms: u64, random: u64) -> Result<Option<TelemetryBatch>, DiskError> {
        let Some(batch) = self.order.next(now_ms) else { return Ok(None) };
        if self.unsynced {
            self.sync()?;
            self.unsynced = false;
        }
        let kept = self.kept.entry(batch.stream.as_str()).or_default();
        let records: Vec<Record> =
            kept.iter().filter(|r| (batch.from..batch.to).contains(&r.seq)).cloned().collect();
        let last = records.last().map_or(0, |record| record.seq);
        self.order.sent(batch.stream, last, now_ms, random);
        let dropped = batch.dropped.into_iter().collect();
        Ok(Some(TelemetryBatch { epoch: self.order.epoch(), stream: batch.stream, records, dropped }))
    }

    /// When a message that got no answer should be sent again.
    pub(super) fn due_ms(&self) -> Option<u64> {
        self.order.due_ms()
    }

    /// Takes an acknowledgement; says which records are let go.
    pub(super) fn ack(&mut self, ack: &Ack) -> Result<Vec<Record>, DiskError> {
        let acked = self.order.stream(ack.stream).acked;
        self.order.ack(ack);
        if self.order.stream(ack.stream).acked == acked {
            return Ok(Vec::new());
        }
        self.append(&Entry::Acked(ack.stream, ack.up_to))?;
        let kept = self.kept.entry(ack.stream.as_str()).or_default();
        let gone = kept.iter().take_while(|record| record.seq <= ack.up_to).count();
        self.order.freed(ack.stream, gone as u64);
        Ok(kept.drain(..gone).collect())
    }

    /// Its epoch.
    pub(super) fn epoch(&self) -> Epoch {
        self.order.epoch()
    }

    /// Records that wait for the cloud.
    pub(super) fn waiting(&self) -> u64 {
        Stream::ALL.iter().map(|stream| self.order.stream(*stream).len()).sum()
    }
}

/// The whole entry at the beginning, and its bytes.
fn entry(content: &[u8]) -> Option<(Entry, usize)> {
    let length = content.get(4..8)?.try_into().ok().map(u32::from_le_bytes)? as usize;
    let bytes = content.get(..HEAD.checked_add(length)?)?;
    let (_, payload) = frame::open(ENTRY, bytes).ok()?;
    Some((codec::decode(payload, BOUND).ok()?, bytes.len()))
}
