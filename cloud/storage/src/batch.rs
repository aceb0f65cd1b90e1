//! Changes that happen together or not at all, and what must be true for them to happen.

use crate::error::{Error, Result};
use crate::key::Key;
use bytes::Bytes;
use flotilla_protocol::limits;
use std::collections::BTreeMap;
use std::collections::btree_map::Entry;

/// Changes and conditions in one batch.
pub const BATCH_OPERATIONS: usize = 4096;
/// Keys and values of one batch.
pub const BATCH_BYTES: usize = 4 * limits::MIB;

/// What must be true of a record for a batch to happen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Expect {
    /// Anything.
    Any,
    /// There is no such record.
    Absent,
    /// The record is there, in whatever version.
    Present,
    /// The record is there in this version.
    Version(u64),
}

impl Expect {
    /// Whether a record in this version (none: absent) is as expected.
    pub fn holds(self, found: Option<u64>) -> bool {
        match self {
            Self::Any => true,
            Self::Absent => found.is_none(),
            Self::Present => found.is_some(),
            Self::Version(version) => found == Some(version),
        }
    }

    /// Refuses a record that is not as expected.
    pub(crate) fn check(self, key: &Key, found: Option<u64>) -> Result<()> {
        if self.holds(found) {
            return Ok(());
        }
        Err(Error::PreconditionFailed {
            key: Box::new(key.clone()),
            expected: match self {
                Self::Any => "anything".into(),
                Self::Absent => "absent".into(),
                Self::Present => "present".into(),
                Self::Version(version) => format!("version {version}"),
            },
            found: found.map_or_else(|| "nothing".into(), |version| format!("version {version}")),
        })
    }
}

/// What happens to one record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Change {
    pub(crate) expect: Expect,
    pub(crate) effect: Effect,
}

/// The new state of one record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Effect {
    Keep,
    Put(Bytes),
    Delete,
}

/// Changes to any number of records of any tables. Each record appears at most once, so all conditions are
/// about the state before the batch.
#[derive(Debug, Clone, Default)]
pub struct Batch {
    pub(crate) changes: BTreeMap<Key, Change>,
    pub(crate) fences: Vec<(String, u64)>,
    /// The first record that was named twice.
    twice: Option<Key>,
}

impl Batch {
    /// An empty batch.
    pub fn new() -> Self {
        Self::default()
    }

    /// Writes a record, whatever was there.
    pub fn put(&mut self, key: Key, value: impl Into<Bytes>) -> &mut Self {
        self.put_if(key, value, Expect::Any)
    }

    /// Writes a record if it is as expected.
    pub fn put_if(&mut self, key: Key, value: impl Into<Bytes>, expect: Expect) -> &mut Self {
        self.add(key, Change { expect, effect: Effect::Put(value.into()) })
    }

    /// Removes a record; that it is not there is fine.
    pub fn delete(&mut self, key: Key) -> &mut Self {
        self.delete_if(key, Expect::Any)
    }

    /// Removes a record if it is as expected.
    pub fn delete_if(&mut self, key: Key, expect: Expect) -> &mut Self {
        self.add(key, Change { expect, effect: Effect::Delete })
    }

    /// Demands something of a record that the batch does not change.
    pub fn require(&mut self, key: Key, expect: Expect) -> &mut Self {
        self.add(key, Change { expect, effect: Effect::Keep })
    }

    /// Demands that the lease is still held with this token: work of a holder that has been replaced does
    /// not happen.
    pub fn fence(&mut self, lease: &str, token: u64) -> &mut Self {
        self.fences.push((lease.to_owned(), token));
        self
    }

    /// Whether nothing has been added.
    pub fn is_empty(&self) -> bool {
        self.changes.is_empty() && self.fences.is_empty()
    }

    fn add(&mut self, key: Key, change: Change) -> &mut Self {
        match self.changes.entry(key) {
            Entry::Vacant(entry) => {
                entry.insert(change);
            }
            Entry::Occupied(entry) => {
                self.twice.get_or_insert_with(|| entry.key().clone());
            }
        }
        self
    }

    /// Refuses what is over a bound or names a record twice. Returns the bytes of keys and values.
    pub(crate) fn check(&self) -> Result<usize> {
        if let Some(key) = &self.twice {
            return Err(Error::Invalid(format!("a batch changes {key} twice: make it two batches")));
        }
        let operations = self.changes.len() + self.fences.len();
        within("the operations of a batch", operations, BATCH_OPERATIONS)?;
        let mut bytes = 0;
        for (key, change) in &self.changes {
            key.check()?;
            bytes += key.table().as_str().len() + key.id().len();
            if let Effect::Put(value) = &change.effect {
                if value.len() > limits::RECORD {
                    let what = format!("the value of {key} (store larger things as objects)");
                    return Err(too_large(what, value.len(), limits::RECORD));
                }
                bytes += value.len();
            }
        }
        within("a batch", bytes, BATCH_BYTES)?;
        Ok(bytes)
    }
}

fn within(what: &str, size: usize, bound: usize) -> Result<()> {
    if size <= bound { Ok(()) } else { Err(too_large(what.into(), size, bound)) }
}

fn too_large(what: String, size: usize, bound: usize) -> Error {
    Error::TooLarge { what, size: size as u64, bound: bound as u64 }
}
