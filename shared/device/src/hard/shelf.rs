//! The examples that a device keeps until they are sent: bounded in number and bytes. Where there is no room the oldest
//! of the least worth goes, and is counted.

use super::worth;
use flotilla_protocol::message::HardReason;
use flotilla_protocol::{Digest, ModelName, limits};
use std::collections::{BTreeMap, VecDeque};

/// Examples that are kept at most.
pub const COUNT: usize = 256;
/// Bytes that they may take.
pub const BYTES: u64 = 16 * limits::MIB as u64;
/// Examples that the cloud is known to have: seen again, they are not kept again.
const SENT: usize = 256;

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
    kept: BTreeMap<Digest, Kept>,
    bytes: u64,
    max_bytes: u64,
    dropped: u64,
    sent: VecDeque<Digest>,
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
    pub fn admit(&mut self, new: Kept, pinned: Option<&Digest>) -> Admission {
        if self.kept.contains_key(&new.digest) || self.sent.contains(&new.digest) {
            return Admission::Known;
        }
        let rank = |kept: &Kept| (worth(kept.reason), kept.at_ms, kept.digest);
        let mut others: Vec<&Kept> = self.kept.values().filter(|kept| Some(&kept.digest) != pinned).collect();
        others.sort_by_key(|kept| rank(kept));
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
            self.remove(&kept.digest);
        }
        self.dropped += evicted.len() as u64;
        self.bytes += new.bytes;
        self.kept.insert(new.digest, new);
        Admission::Taken { evicted }
    }

    fn fits(&self, bytes: u64, count: usize, new: u64) -> bool {
        bytes.saturating_add(new) <= self.max_bytes && count < COUNT
    }

    /// The one that goes to the cloud next: the oldest of the most worth among the models of which something may be
    /// sent.
    pub fn next(&self, may_send: impl Fn(&ModelName) -> bool) -> Option<&Kept> {
        let rank = |kept: &&Kept| (std::cmp::Reverse(worth(kept.reason)), kept.at_ms, kept.digest);
        self.kept.values().filter(|kept| may_send(&kept.model)).min_by_key(rank)
    }

    /// Takes one away.
    pub fn remove(&mut self, digest: &Digest) -> Option<Kept> {
        let kept = self.kept.remove(digest)?;
        self.bytes -= kept.bytes;
        Some(kept)
    }

    /// Takes one away that the cloud has, or will never take.
    pub fn settled(&mut self, digest: &Digest) -> Option<Kept> {
        if self.sent.len() >= SENT {
            self.sent.pop_front();
        }
        self.sent.push_back(*digest);
        self.remove(digest)
    }

    /// Takes away all of a model: its consent is gone.
    pub fn forget(&mut self, model: &ModelName) {
        self.kept.retain(|_, kept| kept.model != *model);
        self.bytes = self.kept.values().map(|kept| kept.bytes).sum();
    }
}
