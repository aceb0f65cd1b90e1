//! Typed entities above [`Records`], with secondary indexes that are never stale.
//!
//! Writing methods add to a [`Batch`] and do no I/O, so entities of several collections, their index entries
//! and the audit record of the change commit together. An update takes the version it replaces: the batch
//! holds only if that version is still there, so the old index entries are known exactly.
//!
//! Entities are stored as JSON. Records are small, so compactness matters less than that an operator can
//! read them and that both directions of an upgrade work: unknown fields are skipped, missing ones take
//! their `#[serde(default)]`.

mod entries;

use crate::batch::{Batch, Expect};
use crate::error::{Error, Result};
use crate::key::{Key, Range, Table};
use crate::records::{Record, Records};
use bytes::Bytes;
use entries::Entries;
use flotilla_protocol::limits;
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::fmt;
use std::marker::PhantomData;
use std::sync::Arc;

/// Entities in one page.
pub const PAGE_ENTITIES: usize = 500;

/// Something that is stored in a table of its own.
pub trait Entity: Serialize + DeserializeOwned + Clone + Send + Sync + 'static {
    /// The table.
    const TABLE: Table;

    /// The id within the table; it never changes. Build compound ids with [`compound`](crate::compound).
    fn id(&self) -> Vec<u8>;

    /// The index entries of this state: index name and value. An entity may have several values, or none, in
    /// an index. Values that are sorted by should be encoded so that their bytes order as they do.
    fn indexes(&self) -> Vec<(&'static str, Vec<u8>)> {
        Vec::new()
    }

    /// Values that at most one entity of the table has: name and value. A second one fails its batch with
    /// [`PreconditionFailed`](Error::PreconditionFailed).
    fn unique(&self) -> Vec<(&'static str, Vec<u8>)> {
        Vec::new()
    }
}

/// An entity as it was read, and the version that an update of it must name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Versioned<T> {
    /// The entity.
    pub value: T,
    /// The commit that wrote it.
    pub version: u64,
}

/// Some of the entities asked for, in order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Page<T> {
    /// The entities.
    pub items: Vec<Versioned<T>>,
    /// Where the next page goes on; none after the last.
    pub next: Option<Vec<u8>>,
}

/// The entities of one type.
pub struct Collection<T> {
    records: Arc<dyn Records>,
    entity: PhantomData<fn() -> T>,
}

impl<T> Clone for Collection<T> {
    fn clone(&self) -> Self {
        Self { records: Arc::clone(&self.records), entity: PhantomData }
    }
}

impl<T: Entity> fmt::Debug for Collection<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Collection({})", T::TABLE.as_str())
    }
}

impl<T: Entity> Collection<T> {
    /// The collection kept in these records.
    pub fn new(records: Arc<dyn Records>) -> Self {
        Self { records, entity: PhantomData }
    }

    /// The key of the entity with this id, for preconditions of other batches.
    pub fn key(id: impl AsRef<[u8]>) -> Key {
        Key::new(T::TABLE, id)
    }

    /// One entity.
    pub async fn get(&self, id: impl AsRef<[u8]> + Send) -> Result<Option<Versioned<T>>> {
        let key = Self::key(id);
        self.records.get(&key).await?.map(|record| decode(&key, &record)).transpose()
    }

    /// A page of all entities in the order of their ids, behind `after`.
    pub async fn list(&self, after: Option<&[u8]>, limit: usize) -> Result<Page<T>> {
        self.page(Range::table(T::TABLE), after, limit).await
    }

    /// A page of the entities whose id starts with `prefix`.
    pub async fn list_prefix(&self, prefix: &[u8], after: Option<&[u8]>, limit: usize) -> Result<Page<T>> {
        self.page(Range::prefix(T::TABLE, prefix), after, limit).await
    }

    /// A page of all entities from the last id to the first.
    pub async fn list_backwards(&self, after: Option<&[u8]>, limit: usize) -> Result<Page<T>> {
        self.page(Range::table(T::TABLE).backwards(), after, limit).await
    }

    /// A page of the entities that have this value in this index, in the order of their ids.
    ///
    /// Under concurrent updates an entity that has just lost the value is left out, so a page may be short
    /// although another follows.
    pub async fn lookup(
        &self,
        index: &'static str,
        value: impl AsRef<[u8]> + Send,
        after: Option<&[u8]>,
        limit: usize,
    ) -> Result<Page<T>> {
        let value = value.as_ref().to_vec();
        let prefix = entries::index_prefix(&value);
        let limit = limit.min(PAGE_ENTITIES);
        let mut range = Range::prefix(T::TABLE.index(index), &prefix).limit(limit);
        if let Some(after) = after {
            range = range.after([&prefix, after].concat());
        }
        let found = self.records.range(&range).await?;
        let ids: Vec<Vec<u8>> = found.iter().map(|(key, _)| key.id()[prefix.len()..].to_vec()).collect();
        let next = (limit > 0 && ids.len() == limit).then(|| ids.last().cloned()).flatten();
        let keys: Vec<Key> = ids.iter().map(Self::key).collect();
        let mut items = Vec::with_capacity(keys.len());
        for (key, record) in keys.iter().zip(self.records.get_many(&keys).await?) {
            let Some(record) = record else { continue };
            let item: Versioned<T> = decode(key, &record)?;
            // The index and the entity are read one after the other.
            if item.value.indexes().iter().any(|(name, v)| *name == index && *v == value) {
                items.push(item);
            }
        }
        Ok(Page { items, next })
    }

    /// The entity that has this unique value.
    pub async fn find_unique(
        &self,
        name: &'static str,
        value: impl AsRef<[u8]> + Send,
    ) -> Result<Option<Versioned<T>>> {
        let value = value.as_ref().to_vec();
        let Some(claim) = self.records.get(&entries::claim_key::<T>(name, &value)).await? else {
            return Ok(None);
        };
        let found = self.get(&claim.value).await?;
        Ok(found.filter(|item| item.value.unique().iter().any(|(n, v)| *n == name && *v == value)))
    }

    /// Adds a new entity to the batch, which fails if the id or a unique value is taken.
    pub fn insert(&self, batch: &mut Batch, entity: &T) -> Result<()> {
        let id = entity.id();
        let (value, entries) = (encode(entity)?, Entries::of(entity)?);
        batch.put_if(Self::key(&id), value, Expect::Absent);
        entries.add_missing_in(&Entries::default(), batch, &id);
        Ok(())
    }

    /// Adds the change from `old` to `new` to the batch, which fails if `old` is no longer the last version.
    pub fn update(&self, batch: &mut Batch, old: &Versioned<T>, new: &T) -> Result<()> {
        let id = new.id();
        if id != old.value.id() {
            return Err(Error::Invalid(format!(
                "an update would turn {} into {}: ids never change",
                Self::key(old.value.id()),
                Self::key(&id)
            )));
        }
        let (value, before, after) = (encode(new)?, Entries::of(&old.value)?, Entries::of(new)?);
        batch.put_if(Self::key(&id), value, Expect::Version(old.version));
        before.remove_missing_in(&after, batch);
        after.add_missing_in(&before, batch, &id);
        Ok(())
    }

    /// Adds the removal of `old` to the batch, which fails if `old` is no longer the last version.
    pub fn delete(&self, batch: &mut Batch, old: &Versioned<T>) -> Result<()> {
        let id = old.value.id();
        let entries = Entries::of(&old.value)?;
        batch.delete_if(Self::key(&id), Expect::Version(old.version));
        entries.remove_missing_in(&Entries::default(), batch);
        Ok(())
    }

    async fn page(&self, range: Range, after: Option<&[u8]>, limit: usize) -> Result<Page<T>> {
        let limit = limit.min(PAGE_ENTITIES);
        let range = range.limit(limit);
        let range = match after {
            Some(after) => range.after(after),
            None => range,
        };
        let found = self.records.range(&range).await?;
        let next = (limit > 0 && found.len() == limit)
            .then(|| found.last().map(|(key, _)| key.id().to_vec()))
            .flatten();
        let items = found.iter().map(|(key, record)| decode(key, record)).collect::<Result<_>>()?;
        Ok(Page { items, next })
    }
}

fn encode<T: Entity>(entity: &T) -> Result<Bytes> {
    let value = serde_json::to_vec(entity)
        .map_err(|source| Error::Encode { table: T::TABLE.as_str().into(), source: Arc::new(source) })?;
    if value.len() > limits::RECORD {
        return Err(Error::TooLarge {
            what: format!("{} (store larger things as objects)", Collection::<T>::key(entity.id())),
            size: value.len() as u64,
            bound: limits::RECORD as u64,
        });
    }
    Ok(value.into())
}

fn decode<T: Entity>(key: &Key, record: &Record) -> Result<Versioned<T>> {
    let value = serde_json::from_slice(&record.value)
        .map_err(|source| Error::Decode { key: Box::new(key.clone()), source: Arc::new(source) })?;
    Ok(Versioned { value, version: record.version })
}

#[cfg(test)]
mod tests;
