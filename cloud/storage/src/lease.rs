//! Leases: who may do a piece of work now, and a token that shuts out who did it before.
//!
//! A lease is a record like any other, so every backend of [`Records`] has leases without further code. The
//! token of a lease is the version of the commit that acquired it: commits are numbered upwards and never
//! reused, so a later holder has a greater token even if the lease was given back in between. Expiry only
//! decides when another may take over; what protects the data is [`Batch::fence`].

use crate::batch::{Batch, Expect};
use crate::error::{Error, Result};
use crate::key::{Key, Table};
use crate::records::{Record, Records};
use serde::{Deserialize, Serialize};
use std::sync::Arc;
use std::time::Duration;

/// Where leases are kept.
const LEASES: Table = Table::new("leases");
/// How often a lease operation starts again because another changed the lease in between.
const ATTEMPTS: usize = 8;

/// A lease that was held when this was returned.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lease {
    /// What it is for.
    pub name: String,
    /// Who holds it.
    pub holder: String,
    /// The fencing token: greater than that of every earlier holder.
    pub token: u64,
    /// When others may take it, in milliseconds since 1970.
    pub expires: u64,
}

/// A lease as it is stored.
#[derive(Debug, Serialize, Deserialize)]
struct Stored {
    holder: String,
    expires: u64,
    /// Absent in the record that acquired the lease: there the record's version is the token.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    token: Option<u64>,
}

/// A stored lease and the version of its record.
struct Found {
    stored: Stored,
    version: u64,
}

impl Found {
    fn decode(key: &Key, record: &Record) -> Result<Self> {
        let stored = serde_json::from_slice(&record.value)
            .map_err(|source| Error::Decode { key: Box::new(key.clone()), source: Arc::new(source) })?;
        Ok(Self { stored, version: record.version })
    }

    fn token(&self) -> u64 {
        self.stored.token.unwrap_or(self.version)
    }
}

/// The record of a lease.
pub(crate) fn key(name: &str) -> Key {
    Key::new(LEASES, name)
}

/// Whether the record of a lease says that it is held with this token.
pub(crate) fn check_fence(name: &str, token: u64, record: Option<&Record>) -> Result<()> {
    let held = match record {
        Some(record) => Found::decode(&key(name), record)?.token() == token,
        None => false,
    };
    if held { Ok(()) } else { Err(Error::LeaseLost { name: name.to_owned(), token }) }
}

pub(crate) async fn acquire<R: Records + ?Sized>(
    records: &R,
    name: &str,
    holder: &str,
    ttl: Duration,
    now: u64,
) -> Result<Option<Lease>> {
    for _ in 0..ATTEMPTS {
        let expect = match find(records, name).await? {
            None => Expect::Absent,
            Some(found) if found.stored.expires > now && found.stored.holder != holder => return Ok(None),
            Some(found) => Expect::Version(found.version),
        };
        let expires = after(now, ttl);
        let stored = Stored { holder: holder.to_owned(), expires, token: None };
        if let Some(token) = store(records, name, &stored, expect).await? {
            return Ok(Some(Lease { name: name.to_owned(), holder: holder.to_owned(), token, expires }));
        }
    }
    // So many others were faster that one of them holds it.
    Ok(None)
}

pub(crate) async fn renew<R: Records + ?Sized>(
    records: &R,
    lease: &Lease,
    ttl: Duration,
    now: u64,
) -> Result<Lease> {
    let lost = || Error::LeaseLost { name: lease.name.clone(), token: lease.token };
    for _ in 0..ATTEMPTS {
        let found =
            find(records, &lease.name).await?.filter(|f| f.token() == lease.token).ok_or_else(lost)?;
        let expires = after(now, ttl);
        let stored = Stored { holder: lease.holder.clone(), expires, token: Some(lease.token) };
        if store(records, &lease.name, &stored, Expect::Version(found.version)).await?.is_some() {
            return Ok(Lease { expires, ..lease.clone() });
        }
    }
    Err(lost())
}

pub(crate) async fn release<R: Records + ?Sized>(records: &R, lease: &Lease) -> Result<()> {
    for _ in 0..ATTEMPTS {
        let Some(found) = find(records, &lease.name).await?.filter(|f| f.token() == lease.token) else {
            return Ok(());
        };
        let mut batch = Batch::new();
        batch.delete_if(key(&lease.name), Expect::Version(found.version));
        if won(records.commit(batch).await)?.is_some() {
            return Ok(());
        }
    }
    Ok(())
}

async fn find<R: Records + ?Sized>(records: &R, name: &str) -> Result<Option<Found>> {
    let key = key(name);
    records.get(&key).await?.map(|record| Found::decode(&key, &record)).transpose()
}

/// Writes the lease; none if another changed it in between.
async fn store<R: Records + ?Sized>(
    records: &R,
    name: &str,
    stored: &Stored,
    expect: Expect,
) -> Result<Option<u64>> {
    let value = serde_json::to_vec(stored)
        .map_err(|source| Error::Encode { table: LEASES.as_str().into(), source: Arc::new(source) })?;
    let mut batch = Batch::new();
    batch.put_if(key(name), value, expect);
    Ok(won(records.commit(batch).await)?.map(|commit| commit.version))
}

fn won<T>(result: Result<T>) -> Result<Option<T>> {
    match result {
        Ok(value) => Ok(Some(value)),
        Err(Error::PreconditionFailed { .. }) => Ok(None),
        Err(error) => Err(error),
    }
}

fn after(now: u64, ttl: Duration) -> u64 {
    now.saturating_add(u64::try_from(ttl.as_millis()).unwrap_or(u64::MAX))
}
