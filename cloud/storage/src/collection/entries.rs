//! The records beside an entity: one per index value, one per unique value.

use super::Entity;
use crate::batch::{Batch, Expect};
use crate::error::Result;
use crate::key::{Key, compound};
use bytes::Bytes;
use std::collections::BTreeSet;

/// All entries of one state of an entity.
#[derive(Debug, Default)]
pub(super) struct Entries {
    indexes: BTreeSet<Key>,
    claims: BTreeSet<Key>,
}

/// What all index entries with this value start with; the entity's id follows.
pub(super) fn index_prefix(value: &[u8]) -> Vec<u8> {
    compound([value])
}

/// The record that claims a unique value; it holds the entity's id.
pub(super) fn claim_key<T: Entity>(name: &str, value: &[u8]) -> Key {
    Key::new(T::TABLE.unique(name), compound([value]))
}

impl Entries {
    /// The entries of this state. Refuses values that make a key too long.
    pub(super) fn of<T: Entity>(entity: &T) -> Result<Self> {
        let id = entity.id();
        let index = |(name, value): (&str, Vec<u8>)| {
            Key::new(T::TABLE.index(name), [&index_prefix(&value)[..], &id].concat())
        };
        let entries = Self {
            indexes: entity.indexes().into_iter().map(index).collect(),
            claims: entity.unique().iter().map(|(name, value)| claim_key::<T>(name, value)).collect(),
        };
        entries.indexes.iter().chain(&entries.claims).try_for_each(Key::check)?;
        Ok(entries)
    }

    /// Adds to the batch what `self` has and `before` has not.
    pub(super) fn add_missing_in(&self, before: &Self, batch: &mut Batch, id: &[u8]) {
        for key in self.indexes.difference(&before.indexes) {
            batch.put(key.clone(), Bytes::new());
        }
        for key in self.claims.difference(&before.claims) {
            batch.put_if(key.clone(), Bytes::copy_from_slice(id), Expect::Absent);
        }
    }

    /// Removes through the batch what `self` has and `after` has not.
    pub(super) fn remove_missing_in(&self, after: &Self, batch: &mut Batch) {
        for key in self.indexes.difference(&after.indexes).chain(self.claims.difference(&after.claims)) {
            batch.delete(key.clone());
        }
    }
}
