//! Records on the disk until the cloud has them durably. The order of sending is the machine's in
//! `flotilla_device::outbox`; this module keeps the bytes.
//!
//! The records lie in one sled tree: key `stream | number`, value the record's CBOR; keys from `META` on hold the
//! epoch, how many records were dropped and, a stream, what is acknowledged and what is the oldest record. Before
//! records are sent they are brought to stable storage, so that after a power cut no number is given a second time
//! to another record that the cloud would take for a repetition.

use crate::disk;
use crate::folder::{Folder, OUTBOX};
use flotilla_device::outbox::{Batch, Outbox, StreamState};
use flotilla_protocol::message::{Ack, Epoch, Record, RecordBody, Stream, TelemetryBatch};
use flotilla_protocol::topic::Up;
use flotilla_protocol::{codec, limits};
use std::fs::File;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;

const CACHE: u64 = limits::MIB as u64;
const FLUSH_MS: u64 = 5_000;
const RECORD: usize = 2 * limits::TELEMETRY_RECORD;
const META: u8 = 0xF0;
const EPOCH: [u8; 2] = [META, b'e'];
const DROPPED: [u8; 2] = [META, b'd'];
/// Bytes of records in one message; the rest of the payload is for its frame.
const MESSAGE: usize = limits::MQTT_PAYLOAD - 32 * limits::KIB;
/// There while sled opens, with the number of times in a row: found at start, the process ended during opening.
pub(crate) const OPENING: &str = "outbox.opening";

/// Openings in a row that may end with the process before the outbox is taken to be the reason: a kill or a power cut
/// comes then as well as at any other time, and must not cost the records.
const OPENINGS: u8 = 3;

/// The durable outbox.
pub struct Store {
    db: sled::Db,
    file: File,
    order: Outbox,
    /// Records dropped in this outbox's life, because it was full.
    dropped: u64,
    /// Whether that was said since room last became free.
    said_full: bool,
    /// Whether there are records that may not be on stable storage.
    unsynced: bool,
}

/// Why the outbox could not be used.
#[derive(Debug, thiserror::Error)]
pub enum Unusable {
    /// What is stored is not what was written. It is thrown away at the next opening.
    #[error("the outbox is damaged: {0}")]
    Damaged(String),
    /// The disk or the system did not do its part. What is stored may be as it should be.
    #[error("the outbox cannot be used: {0}")]
    System(String),
}

impl From<sled::Error> for Unusable {
    fn from(error: sled::Error) -> Self {
        use std::io::ErrorKind::{InvalidData, UnexpectedEof};
        match &error {
            sled::Error::Io(e) if !matches!(e.kind(), InvalidData | UnexpectedEof) => {
                Unusable::System(error.to_string())
            }
            _ => Unusable::Damaged(error.to_string()),
        }
    }
}

impl Store {
    /// Opens the folder's outbox. One that is damaged is thrown away; the second value says why. What only cannot be
    /// opened now stays.
    pub fn open(folder: &Folder) -> Result<(Self, Option<String>), Unusable> {
        let path = folder.path(OUTBOX);
        let opening = folder.path(OPENING);
        let unusable = |e: disk::DiskError| Unusable::System(e.to_string());
        let mut repaired = None;
        // What is no number counts for one.
        let times = disk::read(&opening, 16).unwrap_or(Some(Vec::new()));
        let mut before = times.map_or(0, |times| times.first().copied().unwrap_or(1));
        if before >= OPENINGS {
            repaired = Some(format!("opening it ended the agent {before} times"));
            disk::remove(&path).map_err(unusable)?;
            before = 0;
        }
        disk::replace(&opening, &[before + 1]).map_err(unusable)?;
        let opened = Self::open_at(&path).or_else(|why| {
            let Unusable::Damaged(why) = why else { return Err(why) };
            repaired = Some(why);
            disk::remove(&path).map_err(unusable)?;
            Self::open_at(&path)
        });
        disk::remove(&opening).map_err(unusable)?;
        Ok((opened?, repaired))
    }

    fn open_at(path: &Path) -> Result<Self, Unusable> {
        disk::private_folder(path).map_err(|e| Unusable::System(e.to_string()))?;
        // sled meets some kinds of damage with a panic.
        catch_unwind(AssertUnwindSafe(|| Self::read(path)))
            .unwrap_or_else(|_| Err(Unusable::Damaged("its files cannot be read".to_owned())))
    }

    fn read(path: &Path) -> Result<Self, Unusable> {
        let existed = std::fs::read_dir(path).is_ok_and(|mut entries| entries.next().is_some());
        let db = sled::Config::default()
            .path(path)
            .mode(sled::Mode::LowSpace)
            .cache_capacity(CACHE)
            .flush_every_ms(Some(FLUSH_MS))
            .open()?;
        let file = File::open(path.join("db")).map_err(|e| Unusable::System(e.to_string()))?;
        let epoch = match number(&db, &EPOCH)? {
            Some(epoch) => epoch,
            // sled may take damaged files for empty ones.
            None if existed => return Err(Unusable::Damaged("its content is lost".to_owned())),
            None => {
                let epoch = rand::random();
                db.insert(EPOCH, &u64::to_be_bytes(epoch))?;
                db.flush()?;
                epoch
            }
        };
        let [event, live, backlog] = [Stream::Event, Stream::Live, Stream::Backlog].map(|s| state(&db, s));
        let order = Outbox::new(Epoch(epoch), event?, live?, backlog?);
        let dropped = number(&db, &DROPPED)?.unwrap_or(0);
        // What a killed process wrote may be in the system's hands only.
        Ok(Self { order, dropped, said_full: false, unsynced: true, db, file })
    }

    /// The epoch.
    pub fn epoch(&self) -> Epoch {
        self.order.epoch()
    }

    /// Keeps a record until the cloud has it. Events have a stream of their own; telemetry goes to the live stream
    /// while there is a connection, otherwise to the backlog. False: it is over the bound of a record without all detail
    /// that can be left out, and is not kept, since nobody would take it.
    pub fn append(&mut self, at_ms: u64, mut body: RecordBody) -> Result<bool, Unusable> {
        shrink(&mut body);
        let stream = match body {
            RecordBody::Event(_) => Stream::Event,
            RecordBody::Sample(_) => self.order.telemetry_stream(),
        };
        let seq = self.order.stream(stream).next;
        let bytes = codec::encode(&Record { seq, at_ms, body });
        if bytes.len() > limits::TELEMETRY_RECORD {
            return Ok(false);
        }
        let size = bytes.len() as u64;
        self.db.insert(key(stream, seq), bytes)?;
        self.unsynced = true;
        self.order.append(stream, size);
        while let Some(stream) = self.order.over() {
            self.drop_oldest(stream)?;
        }
        Ok(true)
    }

    fn drop_oldest(&mut self, stream: Stream) -> Result<(), Unusable> {
        let oldest = self.order.stream(stream).first;
        let size = self.db.get(key(stream, oldest))?.map_or(0, |bytes| bytes.len() as u64);
        let mut batch = sled::Batch::default();
        batch.remove(&key(stream, oldest));
        batch.insert(&meta(b'f', stream), &u64::to_be_bytes(oldest + 1));
        batch.insert(&DROPPED, &u64::to_be_bytes(self.dropped + 1));
        self.db.apply_batch(batch)?;
        self.order.dropped_oldest(stream, size);
        self.dropped += 1;
        if !std::mem::replace(&mut self.said_full, true) {
            let stream = stream.as_str();
            tracing::warn!(
                stream,
                seq = oldest,
                "the outbox is full: its oldest records are dropped and declared"
            );
        }
        Ok(())
    }

    /// A connection is up.
    pub fn connected(&mut self) {
        self.order.connected();
    }

    /// The connection is lost.
    pub fn disconnected(&mut self) {
        self.order.disconnected();
    }

    /// The next message to send, if any. Ask again until there is none.
    pub fn next(&mut self, now_ms: u64) -> Result<Option<(Up, Vec<u8>)>, Unusable> {
        let Some(batch) = self.order.next(now_ms) else { return Ok(None) };
        if self.unsynced {
            self.sync()?;
            self.unsynced = false;
        }
        let (records, last) = self.take(&batch)?;
        let dropped = batch.dropped.into_iter().collect();
        let message = TelemetryBatch { epoch: self.epoch(), stream: batch.stream, records, dropped };
        self.order.sent(batch.stream, last, now_ms, rand::random());
        let up = if batch.stream == Stream::Event { Up::Event } else { Up::Telemetry };
        Ok(Some((up, codec::encode(&message))))
    }

    fn take(&self, batch: &Batch) -> Result<(Vec<Record>, u64), Unusable> {
        let mut records = Vec::new();
        let mut last = batch.dropped.map_or(batch.from.saturating_sub(1), |dropped| dropped.last);
        let mut room = MESSAGE;
        for entry in self.db.range(key(batch.stream, batch.from)..key(batch.stream, batch.to)) {
            let (_, bytes) = entry?;
            if bytes.len() > room {
                break;
            }
            room -= bytes.len();
            let record: Record =
                codec::decode(&bytes, RECORD).map_err(|e| Unusable::Damaged(e.to_string()))?;
            last = record.seq;
            records.push(record);
        }
        Ok((records, last))
    }

    /// `flush` hands everything to the system; only this brings it to the disk.
    fn sync(&self) -> Result<(), Unusable> {
        self.db.flush()?;
        self.file.sync_data().map_err(|e| Unusable::System(e.to_string()))
    }

    /// When a message that got no answer should be sent again.
    pub fn due_ms(&self) -> Option<u64> {
        self.order.due_ms()
    }

    /// The cloud has records durably: they are freed.
    pub fn ack(&mut self, ack: &Ack) -> Result<(), Unusable> {
        let acked = self.order.stream(ack.stream).acked;
        let freed = self.order.ack(ack);
        if self.order.stream(ack.stream).acked == acked {
            return Ok(());
        }
        let mut batch = sled::Batch::default();
        batch.insert(&meta(b'a', ack.stream), &u64::to_be_bytes(ack.up_to));
        let mut size = 0;
        if let Some(freed) = freed {
            for entry in self.db.range(key(freed.stream, freed.first)..=key(freed.stream, freed.last)) {
                let (key, bytes) = entry?;
                size += bytes.len() as u64;
                batch.remove(key);
            }
        }
        self.db.apply_batch(batch)?;
        self.order.freed(ack.stream, size);
        self.said_full = false;
        Ok(())
    }

    /// Brings everything to the disk.
    pub fn close(&self) -> Result<(), Unusable> {
        self.sync()
    }

    /// Records made in this outbox's life.
    pub fn made(&self) -> u64 {
        Stream::ALL.iter().map(|stream| self.order.stream(*stream).next - 1).sum()
    }

    /// Records dropped in this outbox's life, because it was full.
    pub fn dropped(&self) -> u64 {
        self.dropped
    }

    /// Records that wait for the cloud.
    pub fn waiting(&self) -> u64 {
        Stream::ALL.iter().map(|stream| self.order.stream(*stream).len()).sum()
    }
}

fn lane(stream: Stream) -> u8 {
    match stream {
        Stream::Event => 1,
        Stream::Live => 2,
        Stream::Backlog => 3,
    }
}

fn key(stream: Stream, seq: u64) -> [u8; 9] {
    let mut key = [lane(stream); 9];
    key[1..].copy_from_slice(&seq.to_be_bytes());
    key
}

fn meta(what: u8, stream: Stream) -> [u8; 3] {
    [META, what, lane(stream)]
}

fn number(db: &sled::Db, key: &[u8]) -> Result<Option<u64>, Unusable> {
    let Some(bytes) = db.get(key)? else { return Ok(None) };
    let bytes: [u8; 8] =
        bytes.as_ref().try_into().map_err(|_| Unusable::Damaged("a counter is wrong".to_owned()))?;
    Ok(Some(u64::from_be_bytes(bytes)))
}

fn state(db: &sled::Db, stream: Stream) -> Result<StreamState, Unusable> {
    let acked = number(db, &meta(b'a', stream))?.unwrap_or(0);
    let floor = number(db, &meta(b'f', stream))?.unwrap_or(1).max(acked.saturating_add(1));
    let (mut first, mut next, mut bytes) = (None, floor, 0);
    for entry in db.scan_prefix([lane(stream)]) {
        let (key, value) = entry?;
        let seq = key.get(1..).and_then(|seq| seq.try_into().ok()).map(u64::from_be_bytes);
        let seq = seq.ok_or_else(|| Unusable::Damaged("a key is wrong".to_owned()))?;
        if first.is_some() && seq != next {
            return Err(Unusable::Damaged("a record is missing".to_owned()));
        }
        first.get_or_insert(seq);
        let whole = codec::decode::<Record>(&value, RECORD).is_ok_and(|record| record.seq == seq);
        next = seq
            .checked_add(1)
            .filter(|_| whole)
            .ok_or_else(|| Unusable::Damaged(format!("record {seq} is wrong")))?;
        bytes += value.len() as u64;
    }
    Ok(StreamState { acked, first: first.unwrap_or(next), next, bytes })
}

/// Keeps a record within its bound by leaving out the finest detail first.
fn shrink(body: &mut RecordBody) {
    let RecordBody::Sample(sample) = body else { return };
    let fits = |sample: &_| codec::encode(sample).len() + 64 <= limits::TELEMETRY_RECORD;
    if fits(sample) {
        return;
    }
    sample.shadows.values_mut().for_each(|shadow| shadow.disagreements.clear());
    if fits(sample) {
        return;
    }
    for model in sample.models.values_mut() {
        model.classes.clear();
        model.confidence.clear();
    }
    while !fits(sample)
        && (sample.models.pop_last().is_some()
            || sample.shadows.pop_last().is_some()
            || sample.npus.pop().is_some())
    {}
}

#[cfg(test)]
#[path = "outbox_tests.rs"]
mod tests;
