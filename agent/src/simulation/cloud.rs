//! A cloud that acknowledges only what it has durably, goes down too, and knows a repetition when it sees one.

use super::link::{Down, Up};
use super::releases;
use flotilla_protocol::message::{
    Ack, Chunk, Desired, DesiredModel, Epoch, Fetch, Record, Reply, ReplyBody, Settings, Stream,
    TelemetryBatch,
};
use flotilla_protocol::{Envelope, EnvelopeKind, ErrorCode, ModelName, limits};
use rand::Rng;
use rand::rngs::SmallRng;
use std::collections::BTreeMap;

/// What the fleet's side of probation is set to.
pub(super) const PROBATION_S: u32 = 2;

type Key = (u64, usize, u64);

/// The cloud.
pub(super) struct Cloud {
    wanted: BTreeMap<ModelName, DesiredModel>,
    /// Signed desired documents, the newest last.
    documents: Vec<Vec<u8>>,
    durable: BTreeMap<Key, Record>,
    /// Taken and not brought to stable storage yet.
    fresh: BTreeMap<Key, Record>,
    /// Streams to acknowledge once that is done.
    unanswered: Vec<(Epoch, Stream)>,
    label: String,
}

fn key(epoch: Epoch, stream: Stream, seq: u64) -> Key {
    (epoch.0, Stream::ALL.iter().position(|s| *s == stream).unwrap(), seq)
}

impl Cloud {
    /// A cloud that wants nothing yet.
    pub(super) fn new(label: String) -> Self {
        Self {
            wanted: BTreeMap::new(),
            documents: Vec::new(),
            durable: BTreeMap::new(),
            fresh: BTreeMap::new(),
            unanswered: Vec::new(),
            label,
        }
    }

    /// The models as they should be.
    pub(super) fn wanted(&self) -> &BTreeMap<ModelName, DesiredModel> {
        &self.wanted
    }

    /// Version of the newest document; 0 for none.
    pub(super) fn version(&self) -> u64 {
        self.documents.len() as u64
    }

    /// A newer document wants this of a model.
    pub(super) fn want(&mut self, model: ModelName, release: Option<DesiredModel>) {
        match release {
            Some(release) => drop(self.wanted.insert(model, release)),
            None => drop(self.wanted.remove(&model)),
        }
        let version = self.version() + 1;
        let desired = Desired {
            project: "default".parse().unwrap(),
            device: "gate-7".parse().unwrap(),
            version,
            issued_at_ms: version,
            models: self.wanted.clone(),
            settings: Settings { probation_s: PROBATION_S, ..Settings::default() },
            commands: Vec::new(),
            agent: None,
            hard_examples: BTreeMap::new(),
            shadows: BTreeMap::new(),
        };
        let envelope = Envelope::seal(EnvelopeKind::Desired, &desired, &[&releases::all().control]);
        self.documents.push(envelope.to_bytes());
    }

    /// The newest document, if any.
    pub(super) fn document(&self) -> Option<Down> {
        self.documents.last().cloned().map(Down::Desired)
    }

    /// One of all documents: somebody has kept it.
    pub(super) fn some_document(&self, rng: &mut SmallRng) -> Option<Down> {
        let at = rng.random_range(0..self.documents.len().max(1));
        self.documents.get(at).cloned().map(Down::Desired)
    }

    /// Hears a message; says what it answers at once.
    pub(super) fn hear(&mut self, message: Up, busy: bool) -> Vec<Down> {
        match message {
            Up::Hello => self.document().into_iter().collect(),
            Up::Fetch(fetch) if busy => vec![refusal(&fetch, ErrorCode::Busy)],
            Up::Fetch(fetch) => chunks(&fetch),
            Up::Records(batch) => {
                self.take(batch);
                Vec::new()
            }
        }
    }

    /// The last number that is here without a gap.
    fn up_to(&self, epoch: Epoch, stream: Stream, durable_only: bool) -> u64 {
        let (first, last) = (key(epoch, stream, 0), key(epoch, stream, u64::MAX));
        let of = |records: &BTreeMap<Key, Record>| {
            records.range(first..=last).next_back().map_or(0, |((.., seq), _)| *seq)
        };
        if durable_only { of(&self.durable) } else { of(&self.durable).max(of(&self.fresh)) }
    }

    fn take(&mut self, batch: TelemetryBatch) {
        batch.check().unwrap();
        assert!(batch.dropped.is_empty(), "{}: the outbox was never full", self.label);
        for record in batch.records {
            let up_to = self.up_to(batch.epoch, batch.stream, false);
            let key = key(batch.epoch, batch.stream, record.seq);
            if record.seq > up_to + 1 {
                // The cloud went down with what it had not acknowledged: it comes again.
                break;
            }
            match self.durable.get(&key).or_else(|| self.fresh.get(&key)) {
                Some(known) => assert_eq!(*known, record, "{}: a number was given twice", self.label),
                None => drop(self.fresh.insert(key, record)),
            }
        }
        if !self.unanswered.contains(&(batch.epoch, batch.stream)) {
            self.unanswered.push((batch.epoch, batch.stream));
        }
    }

    /// Brings everything to stable storage, and acknowledges it.
    pub(super) fn sync(&mut self) -> Vec<Down> {
        self.durable.append(&mut self.fresh);
        let unanswered = std::mem::take(&mut self.unanswered);
        let ack =
            |(epoch, stream)| Ack { epoch, stream, up_to: self.up_to(epoch, stream, true), reported: None };
        unanswered.into_iter().map(|of| Down::Ack(ack(of))).collect()
    }

    /// Whether something waits for [`Self::sync`].
    pub(super) fn is_unsynced(&self) -> bool {
        !self.unanswered.is_empty()
    }

    /// Goes down, and comes up with what was on stable storage.
    pub(super) fn crash(&mut self) {
        self.fresh.clear();
        self.unanswered.clear();
    }

    /// Whether a record is here durably, as the device made it.
    pub(super) fn has(&self, epoch: Epoch, stream: Stream, record: &Record) -> bool {
        self.durable.get(&key(epoch, stream, record.seq)) == Some(record)
    }

    /// The moments of all records that are here durably; no two records of a device have the same one.
    pub(super) fn moments(&self) -> Vec<u64> {
        self.durable.values().map(|record| record.at_ms).collect()
    }
}

fn refusal(fetch: &Fetch, code: ErrorCode) -> Down {
    Down::Refused(Reply { id: fetch.id, body: ReplyBody::Error { code, detail: "not now".to_owned() } })
}

fn chunks(fetch: &Fetch) -> Vec<Down> {
    fetch.check().unwrap();
    let Some(content) = releases::all().content(fetch.digest) else {
        return vec![refusal(fetch, ErrorCode::NotFound)];
    };
    let total = content.len() as u64;
    let pieces = content.chunks(limits::CHUNK).enumerate();
    let first = (fetch.offset / limits::CHUNK as u64) as usize;
    let asked = pieces.skip(first).take(fetch.chunks as usize);
    asked
        .map(|(index, data)| {
            let offset = (index * limits::CHUNK) as u64;
            Down::Chunk(Chunk { digest: fetch.digest, offset, total, data: data.to_vec() })
        })
        .collect()
}
