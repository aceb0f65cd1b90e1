//! The roster: a compact row a device in memory, so that search, sorting and groups over 100,000 devices take
//! milliseconds and read no records.
//!
//! It holds nothing that the records and the open connections do not say: it is made from them at the start, and a device
//! that has changed is read again ([`Changes`] says which). Who asks the roster has the changes that were told before.

mod census;
mod row;
mod search;
#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests fail by panicking")]
pub(crate) mod testing;
#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests fail by panicking")]
mod tests;

pub use census::Census;
pub(crate) use row::{MODELS, Row, RowModel, RowRelease};
use row::{Pool, Read};
pub use search::Query;
pub(crate) use search::{Found, Search};

use crate::changes::{Changes, Stale};
use crate::connections::Connections;
use crate::devices::{Device, ModelState};
use crate::error::Result;
use crate::store::{self, Store};
use flotilla_protocol::{DeviceId, Digest};
use flotilla_registry::Registry;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;
use tokio_util::sync::CancellationToken;

/// Several changes of a device within this time are read once.
const GATHER: Duration = Duration::from_millis(250);
/// How long the roster waits after the records could not be read.
const RETRY: Duration = Duration::from_secs(1);

/// A row a device.
pub(crate) struct Roster {
    store: Arc<Store>,
    registry: Arc<Registry>,
    connections: Arc<Connections>,
    stale: Arc<Stale>,
    rows: RwLock<BTreeMap<DeviceId, Arc<Row>>>,
    /// Rows that were read again.
    changes: AtomicU64,
    /// Held by whoever reads devices again.
    reader: tokio::sync::Mutex<Reader>,
}

/// What reading devices needs beside the records.
#[derive(Default)]
struct Reader {
    pool: Pool,
    /// Versions of releases that the registry knows; they never change.
    versions: HashMap<Digest, u32>,
}

impl Roster {
    /// Reads every device.
    pub(crate) async fn open(
        store: Arc<Store>,
        registry: Arc<Registry>,
        connections: Arc<Connections>,
        changes: &Changes,
    ) -> Result<Self> {
        let roster = Self {
            store,
            registry,
            connections,
            stale: changes.stale(),
            rows: RwLock::default(),
            changes: AtomicU64::new(0),
            reader: tokio::sync::Mutex::default(),
        };
        roster.rebuild().await?;
        Ok(roster)
    }

    /// Makes every row anew, a table after the other.
    async fn rebuild(&self) -> Result<()> {
        let mut reader = self.reader.lock().await;
        let mut all: BTreeMap<DeviceId, Read> = BTreeMap::new();
        let fresh = |device: Device| Read { device, twin: None, models: Vec::new(), sample: None };
        store::each(&self.store.devices, |device| drop(all.insert(device.id.clone(), fresh(device)))).await?;
        store::each(&self.store.twins, |twin| {
            if let Some(read) = all.get_mut(&twin.device) {
                read.twin = Some(twin);
            }
        })
        .await?;
        store::each(&self.store.models, |model| {
            if let Some(read) = all.get_mut(&model.device) {
                read.models.push(model);
            }
        })
        .await?;
        store::each(&self.store.samples, |sample| {
            if let Some(read) = all.get_mut(&sample.device) {
                read.sample = Some(sample);
            }
        })
        .await?;
        let mut rows = BTreeMap::new();
        for (id, read) in all {
            let row = self.row(&mut reader, read).await?;
            rows.insert(id, Arc::new(row));
        }
        *self.rows.write().unwrap_or_else(PoisonError::into_inner) = rows;
        Ok(())
    }

    /// Every row, by id, with all changes that were told before.
    pub(crate) async fn rows(&self) -> Result<Vec<Arc<Row>>> {
        self.refresh().await;
        Ok(self.rows.read().unwrap_or_else(PoisonError::into_inner).values().cloned().collect())
    }

    /// The row of one device.
    pub(crate) async fn one(&self, id: &DeviceId) -> Result<Option<Arc<Row>>> {
        self.refresh().await;
        Ok(self.rows.read().unwrap_or_else(PoisonError::into_inner).get(id).cloned())
    }

    /// How often a row was read again: who sees another number than before looks again.
    pub(crate) fn changes(&self) -> u64 {
        self.changes.load(Ordering::Relaxed)
    }

    /// Reads the devices again that have changed. One that cannot be read is shown as it was, and holds up no other.
    async fn refresh(&self) {
        // One at a time: who waits finds it done.
        let mut reader = self.reader.lock().await;
        let mut taken = self.stale.take();
        while let Some(id) = taken.first() {
            match self.fresh(&mut reader, &id).await {
                Ok(row) => {
                    self.put(&id, row);
                    self.changes.fetch_add(1, Ordering::Relaxed);
                    taken.done(&id);
                }
                Err(error) => {
                    tracing::error!(device = %id, %error, "what has changed of a device cannot be read now");
                    taken.later(&id);
                }
            }
        }
    }

    async fn fresh(&self, reader: &mut Reader, id: &DeviceId) -> Result<Option<Arc<Row>>> {
        let Some(read) = self.read(id).await? else { return Ok(None) };
        Ok(Some(Arc::new(self.row(reader, read).await?)))
    }

    fn put(&self, id: &DeviceId, row: Option<Arc<Row>>) {
        let mut rows = self.rows.write().unwrap_or_else(PoisonError::into_inner);
        match row {
            Some(row) => drop(rows.insert(id.clone(), row)),
            None => drop(rows.remove(id)),
        }
    }

    async fn read(&self, id: &DeviceId) -> Result<Option<Read>> {
        let (store, key) = (&self.store, id.as_str());
        let Some(device) = store.devices.get(key).await? else { return Ok(None) };
        let models = store::all(&store.models, &ModelState::prefix(id)).await?;
        Ok(Some(Read {
            device: device.value,
            twin: store.twins.get(key).await?.map(|found| found.value),
            models: models.into_iter().map(|found| found.value).collect(),
            sample: store.samples.get(key).await?.map(|found| found.value),
        }))
    }

    async fn row(&self, reader: &mut Reader, read: Read) -> Result<Row> {
        for digest in read.releases() {
            if reader.versions.contains_key(&digest) {
                continue;
            }
            // One that a device names may be of another registry, or a lie.
            match self.registry.find_release(&digest).await {
                Ok(release) => drop(reader.versions.insert(digest, release.version)),
                Err(flotilla_registry::Error::ReleaseMissing(_)) => {}
                Err(error) => return Err(error.into()),
            }
        }
        let Reader { pool, versions } = reader;
        let release = |digest: &Digest| RowRelease {
            digest: digest.to_string(),
            version: versions.get(digest).copied(),
        };
        let connection = self.connections.get(&read.device.id);
        Ok(read.row(connection, pool, release))
    }

    /// Keeps the rows fresh until stopped.
    pub(crate) async fn run(&self, stop: CancellationToken) {
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                () = self.stale.some() => {}
            }
            self.refresh().await;
            let pause = if self.stale.is_empty() { GATHER } else { RETRY };
            tokio::select! {
                () = stop.cancelled() => return,
                () = tokio::time::sleep(pause) => {}
            }
        }
    }

    /// The devices of these that a rollout may take.
    pub(crate) async fn taking_rollouts(&self, of: BTreeSet<DeviceId>) -> Result<Vec<DeviceId>> {
        self.refresh().await;
        let rows = self.rows.read().unwrap_or_else(PoisonError::into_inner);
        Ok(of.into_iter().filter(|id| rows.get(id).is_some_and(|row| row.takes_rollouts)).collect())
    }
}
