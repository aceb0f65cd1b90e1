//! [`Records`] on one disk: a journal that is durable, and a sled index that is quick.
//!
//! sled 0.34 cannot carry durability alone: its `flush` ends in `sync_file_range`, which promises nothing
//! after a power loss; it rewrites freed segments of its file in place, so a loss can take data that an
//! earlier sync had secured; and none of this can be tested, because its writes cannot be intercepted. So
//! durability rests on our own files, whose every call passes through [`Fs`]:
//!
//! - **journal/**: each commit is one frame of the log, numbered by its version. One thread takes the batches that
//!   wait, checks their conditions, writes them as one group and syncs once.
//! - **snapshot-N**: all records as of commit N, written in the background when the journal has outgrown
//!   the last snapshot; then the journal up to N goes. It is taken while commits go on, so a record in it
//!   may be newer than N; replaying the journal from N + 1 over it gives exactly the last state, because
//!   every frame says what a record is, not how it changes.
//! - **index-K/**: sled, holding every record in one tree. A commit is applied to it after the journal's sync and
//!   before it is acknowledged, so reads see durable records only. It may be lost at any time: on opening it
//!   is made anew from snapshot and journal, unless the file **CLEAN** says that this very folder was
//!   flushed, synced and closed at the journal's last commit. CLEAN is durably gone before sled is opened.
//!
//! An index that fails while the store is open, as sled does for good after one failed write of its own, is made anew
//! in the same way before the next commit.
//!
//! A restart after a crash therefore costs time in proportion to the records; a clean one does not. Memory is
//! bounded by sled's cache, the queue's bytes and one group.

mod committer;
mod encoding;
mod index;
mod recovery;
mod snapshot;

use crate::batch::Batch;
use crate::error::{Error, Result};
use crate::folder::Folder;
use crate::fs::{Fs, RealFs};
use crate::key::{Key, Range};
use crate::records::{Commit, Record, Records};
use crate::watch::{Watch, Watchers};
use async_trait::async_trait;
use index::Index;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use std::thread::JoinHandle;
use tokio::sync::{Semaphore, mpsc, oneshot};

const KIND: &str = "flotilla-records";
const FORMAT: u32 = 1;
/// Batches that may wait for the committer.
const QUEUE: usize = 1024;
/// Bytes of batches that may wait for the committer.
const QUEUED_BYTES: usize = 32 * 1024 * 1024;
/// What a waiting batch takes besides its keys and values.
const BATCH_OVERHEAD: usize = 256;

/// The sizes of a record store.
#[derive(Debug, Clone, Copy)]
pub struct RecordsConfig {
    /// sled's cache.
    pub cache_bytes: u64,
    /// The journal is cut at this size or at the size of the last snapshot, whichever is greater.
    pub checkpoint_bytes: u64,
    /// One file of the journal.
    pub segment_bytes: u64,
    /// The journal grows by this many bytes ahead of the commits.
    pub grow_bytes: u64,
    /// Free bytes on the disk below which commits are refused. They are for what must not fail: the index
    /// and the snapshot.
    pub reserve_bytes: u64,
}

impl Default for RecordsConfig {
    fn default() -> Self {
        Self {
            cache_bytes: 64 << 20,
            checkpoint_bytes: 32 << 20,
            segment_bytes: 8 << 20,
            grow_bytes: 256 << 10,
            reserve_bytes: 16 << 20,
        }
    }
}

/// What readers and the committer share.
#[derive(Debug)]
struct Shared {
    folder: Folder,
    config: RecordsConfig,
    index: Index,
    watchers: RwLock<Watchers>,
}

/// Durable records in a folder of this machine.
#[derive(Debug)]
pub struct SledRecords {
    shared: Arc<Shared>,
    /// Gone once closed.
    requests: Mutex<Option<mpsc::Sender<committer::Request>>>,
    queued: Arc<Semaphore>,
    committer: Mutex<Option<JoinHandle<Result<()>>>>,
}

impl SledRecords {
    /// Opens the records in a folder, making it where it is missing. Blocks: after a crash the index is made
    /// anew.
    pub fn open(folder: &Path) -> Result<Self> {
        Self::open_with(Arc::new(RealFs), folder, RecordsConfig::default())
    }

    /// [`SledRecords::open`] with its own file system and sizes.
    pub fn open_with(fs: Arc<dyn Fs>, folder: &Path, config: RecordsConfig) -> Result<Self> {
        let folder = Folder::open(fs, folder, KIND, FORMAT)?;
        let recovered = recovery::open(&folder, &config)?;
        let shared = Arc::new(Shared {
            folder,
            config,
            index: recovered.index,
            watchers: RwLock::new(Watchers::new()),
        });
        let (requests, received) = mpsc::channel(QUEUE);
        let committer =
            committer::start(Arc::clone(&shared), recovered.log, recovered.snapshot_bytes, received)?;
        Ok(Self {
            shared,
            requests: Mutex::new(Some(requests)),
            queued: Arc::new(Semaphore::new(QUEUED_BYTES)),
            committer: Mutex::new(Some(committer)),
        })
    }

    async fn read<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Index) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let shared = Arc::clone(&self.shared);
        match tokio::task::spawn_blocking(move || work(&shared.index)).await {
            Ok(result) => result,
            Err(failed) if failed.is_panic() => std::panic::resume_unwind(failed.into_panic()),
            Err(_) => Err(self.closed()),
        }
    }

    /// Tells the committer to end once its queue is empty.
    fn take_committer(&self) -> Option<JoinHandle<Result<()>>> {
        lock(&self.requests).take();
        lock(&self.committer).take()
    }

    fn closed(&self) -> Error {
        Error::Closed { path: self.shared.folder.path.clone() }
    }
}

/// What a committer's thread came to; a panic has said so on its own.
fn join(committer: JoinHandle<Result<()>>, closed: impl FnOnce() -> Error) -> Result<()> {
    committer.join().unwrap_or_else(|_| Err(closed()))
}

/// Every value kept under these locks is replaced whole, so it is valid even after a panic.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[async_trait]
impl Records for SledRecords {
    async fn get(&self, key: &Key) -> Result<Option<Record>> {
        let encoded = key.encode();
        self.read(move |index| index.get(&encoded)).await
    }

    async fn get_many(&self, keys: &[Key]) -> Result<Vec<Option<Record>>> {
        let encoded: Vec<_> = keys.iter().map(Key::encode).collect();
        self.read(move |index| encoded.iter().map(|key| index.get(key)).collect()).await
    }

    async fn range(&self, range: &Range) -> Result<Vec<(Key, Record)>> {
        let (low, high) = range.encoded_bounds();
        let (limit, backwards) = (range.page_limit(), range.is_backwards());
        self.read(move |index| index.page(&low, &high, limit, backwards)).await
    }

    async fn commit(&self, batch: Batch) -> Result<Commit> {
        let bytes = batch.check()? + BATCH_OVERHEAD;
        let permit =
            Arc::clone(&self.queued).acquire_many_owned(bytes as u32).await.map_err(|_| self.closed())?;
        let (reply, answer) = oneshot::channel();
        let requests = lock(&self.requests).clone().ok_or_else(|| self.closed())?;
        let request = committer::Request { batch, bytes, reply, _permit: permit };
        requests.send(request).await.map_err(|_| self.closed())?;
        drop(requests);
        answer.await.map_err(|_| self.closed())?
    }

    fn watch(&self, range: Range) -> Watch {
        self.shared.watchers.read().unwrap_or_else(PoisonError::into_inner).watch(range)
    }

    async fn close(&self) -> Result<()> {
        let Some(committer) = self.take_committer() else { return Ok(()) };
        let closed = self.closed();
        tokio::task::spawn_blocking(move || join(committer, || closed))
            .await
            .unwrap_or_else(|_| Err(self.closed()))
    }
}

impl Drop for SledRecords {
    fn drop(&mut self) {
        if let Some(committer) = self.take_committer()
            && let Err(error) = join(committer, || self.closed())
        {
            tracing::error!(%error, cause = ?error, "the records were not closed cleanly; the next start takes longer");
        }
    }
}

#[cfg(test)]
mod tests;
