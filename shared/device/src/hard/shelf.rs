//! The examples that a device keeps until they are sent: bounded in number and bytes. Where there is no room the oldest
//! of the least worth goes, and is counted.

use super::worth;
use flotilla_protocol::message::HardReason;
use flotilla_protocol::{Digest, ModelName, limits};
use std::cmp::Reverse;
use std::collections::{BTreeMap, VecDeque};

/// Examples that are kept at most.
pub const COUNT: usize = 256;
/// Bytes that they may take.
pub const BYTES: u64 = 16 * limits::MIB as u64;
/// Examples that the cloud is known to have: seen again, they are not kept again.
const SENT: usize = 256;

/// What tells an example from others: models may see the same picture, and each has its own to say of it.
pub type Key = (ModelName, Digest);

/// One that is kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Kept {
    /// Digest of the picture.
    pub digest: Digest,
    /// The model.
    pub model: ModelName,
    /// Why it is kept.
    pub reason: HardReason,
    /// When it was seen.
    pub at_ms: u64,
    /// Bytes that it takes.
    pub bytes: u64,
}

impl Kept {
    /// What tells it from others.
    pub fn key(&self) -> Key {
        (self.model.clone(), self.digest)
    }

    /// The order in which those of the same worth come.
    fn age(&self) -> (u64, &Digest, &ModelName) {
        (self.at_ms, &self.digest, &self.model)
    }
}

/// What becomes of a new one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Admission {
    /// It is there, or in the cloud.
    Known,
    /// It is worth less than all that would have to go for it.
    Refused,
    /// There is room for it once these are gone.
    Taken {
        /// They give way.
        evicted: Vec<Kept>,
    },
}

/// All that are kept.
#[derive(Clone, Debug)]
pub struct Shelf {
    kept: BTreeMap<Key, Kept>,
    bytes: u64,
    max_bytes: u64,
    dropped: u64,
    sent: VecDeque<Key>,
}

impl Shelf {
    /// An empty shelf with room for so many bytes, [`BYTES`] at most.
    pub fn new(max_bytes: u64) -> Self {
        Self {
            kept: BTreeMap::new(),
            bytes: 0,
            max_bytes: max_bytes.min(BYTES),
            dropped: 0,
            sent: VecDeque::new(),
        }
    }

    /// Examples that found no room, or lost it to others.
    pub fn dropped(&self) -> u64 {
        self.dropped
    }

    /// Examples that are kept.
    pub fn len(&self) -> usize {
        self.kept.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.kept.is_empty()
    }

    /// Bytes of all that are kept.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Takes one in, if there is room or others are worth less. `pinned` is on its way to the cloud and stays.
    pub fn admit(&mut self, new: Kept, pinned: Option<&Key>) -> Admission {
        let key = new.key();
        if self.kept.contains_key(&key) || self.sent.contains(&key) {
            return Admission::Known;
        }
        let others = self.kept.iter().filter(|(key, _)| Some(*key) != pinned);
        let mut others: Vec<&Kept> = others.map(|(_, kept)| kept).collect();
        others.sort_by(|a, b| (worth(a.reason), a.age()).cmp(&(worth(b.reason), b.age())));
        let (mut bytes, mut count) = (self.bytes, self.kept.len());
        let mut evicted = Vec::new();
        for other in others {
            if self.fits(bytes, count, new.bytes) || worth(other.reason) > worth(new.reason) {
                break;
            }
            bytes -= other.bytes;
            count -= 1;
            evicted.push(other.clone());
        }
        if !self.fits(bytes, count, new.bytes) {
            self.dropped += 1;
            return Admission::Refused;
        }
        for kept in &evicted {
            self.remove(&kept.key());
        }
        self.dropped += evicted.len() as u64;
        self.bytes += new.bytes;
        self.kept.insert(key, new);
        Admission::Taken { evicted }
    }

    fn fits(&self, bytes: u64, count: usize, new: u64) -> bool {
        bytes.saturating_add(new) <= self.max_bytes && count < COUNT
    }

    /// The one that goes to the cloud next: the oldest of the most worth among the models of which something may be
    /// sent.
    pub fn next(&self, may_send: impl Fn(&ModelName) -> bool) -> Option<&Kept> {
        let may = self.kept.values().filter(|kept| may_send(&kept.model));
        may.min_by(|a, b| (Reverse(worth(a.reason)), a.age()).cmp(&(Reverse(worth(b.reason)), b.age())))
    }

    /// Takes one away.
    pub fn remove(&mut self, key: &Key) -> Option<Kept> {
        let kept = self.kept.remove(key)?;
        self.bytes -= kept.bytes;
        Some(kept)
    }

    /// Takes one away that the cloud has, or will never take.
    pub fn settled(&mut self, key: Key) -> Option<Kept> {
        if self.sent.len() >= SENT {
            self.sent.pop_front();
        }
        let kept = self.remove(&key);
        self.sent.push_back(key);
        kept
    }

    /// Takes away all of a model: its consent is gone.
    pub fn forget(&mut self, model: &ModelName) {
        self.kept.retain(|_, kept| kept.model != *model);
        self.bytes = self.kept.values().map(|kept| kept.bytes).sum();
    }
}
