//! What the control plane needs of a database: ordered records, atomic batches with conditions, watches and
//! leases.
//!
//! The trait holds nothing that a table `(table, id, value, version)` in PostgreSQL could not do in one
//! transaction, and everything above it takes an `Arc<dyn Records>`.

use crate::batch::Batch;
use crate::error::Result;
use crate::key::{Key, Range};
use crate::lease::{self, Lease};
use crate::watch::Watch;
use async_trait::async_trait;
use bytes::Bytes;
use std::time::Duration;

/// A stored value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    /// The value.
    pub value: Bytes,
    /// The number of the commit that wrote it. Commits are numbered upwards without reuse, so a record that
    /// was removed and made again never has an old version.
    pub version: u64,
}

/// An acknowledged batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Commit {
    /// The version that every record written by the batch has now.
    pub version: u64,
}

/// Durable records. What a call returns `Ok` for survives a crash and a power loss, and every read sees
/// durable records only.
#[async_trait]
pub trait Records: Send + Sync + 'static {
    /// One record.
    async fn get(&self, key: &Key) -> Result<Option<Record>>;

    /// Several records, in the order of the keys.
    async fn get_many(&self, keys: &[Key]) -> Result<Vec<Option<Record>>>;

    /// One page of a range. All of the page is read at one moment.
    async fn range(&self, range: &Range) -> Result<Vec<(Key, Record)>>;

    /// Makes all changes of the batch durable together, or none.
    ///
    /// A batch refused with [`PreconditionFailed`](crate::Error::PreconditionFailed),
    /// [`LeaseLost`](crate::Error::LeaseLost), [`TooLarge`](crate::Error::TooLarge),
    /// [`Invalid`](crate::Error::Invalid) or [`DiskFull`](crate::Error::DiskFull) has not happened. After any
    /// other error it may or may not be found once the store is opened again.
    async fn commit(&self, batch: Batch) -> Result<Commit>;

    /// Tells about changes within the bounds of a range from now on.
    fn watch(&self, range: Range) -> Watch;

    /// Answers what is running, makes the next opening quick and frees the folder. Later calls are refused.
    async fn close(&self) -> Result<()>;

    /// Takes a lease: if nobody holds it, if its time is over at `now` (milliseconds since 1970), or from an
    /// earlier life of the same holder. None while another holds it.
    async fn acquire_lease(
        &self,
        name: &str,
        holder: &str,
        ttl: Duration,
        now: u64,
    ) -> Result<Option<Lease>> {
        lease::acquire(self, name, holder, ttl, now).await
    }

    /// Extends a lease to `now + ttl`. Fails with [`LeaseLost`](crate::Error::LeaseLost) if another has
    /// taken it; a lease whose time is over but that nobody took is extended.
    async fn renew_lease(&self, lease: &Lease, ttl: Duration, now: u64) -> Result<Lease> {
        lease::renew(self, lease, ttl, now).await
    }

    /// Gives a lease back. That it is lost already is fine.
    async fn release_lease(&self, lease: &Lease) -> Result<()> {
        lease::release(self, lease).await
    }
}
