//! sled, the quick and forgettable half of the store.

use super::encoding::{self, Operation};
use crate::error::{Error, IoContext, Result};
use crate::fs::Fs;
use crate::key::Key;
use crate::records::Record;
use std::fs::{File, TryLockError};
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{PoisonError, RwLock, RwLockReadGuard};
use std::time::Duration;

/// Holds the last applied commit. No table name starts with a zero byte.
const APPLIED: &[u8] = b"\0applied";
/// How long sled's background threads may take to let go of a closed file.
const CLOSE_ATTEMPTS: u32 = 400;
const CLOSE_WAIT: Duration = Duration::from_millis(5);

/// All records in one tree. Gone once closed.
#[derive(Debug)]
pub(super) struct Index {
    /// Written while a group is applied, so that a page is read at one moment.
    tree: RwLock<Tree>,
    /// sled goes on failing after one failed write of its own, even when the cause has gone.
    broken: AtomicBool,
}

#[derive(Debug)]
struct Tree {
    path: PathBuf,
    db: Option<sled::Db>,
}

impl Index {
    /// Opens or makes the tree in this folder.
    pub(super) fn open(path: &Path, cache_bytes: u64) -> Result<Self> {
        let config = sled::Config::new().path(path).cache_capacity(cache_bytes);
        // sled panics on some kinds of damage; for us that is one more reason to make the index anew.
        let db = catch_unwind(AssertUnwindSafe(|| config.open()))
            .unwrap_or_else(|_| Err(sled::Error::ReportableBug("it panicked on opening".into())))
            .map_err(|error| failed(path, error))?;
        let tree = Tree { path: path.to_path_buf(), db: Some(db) };
        Ok(Self { tree: RwLock::new(tree), broken: AtomicBool::new(false) })
    }

    /// The folder.
    pub(super) fn path(&self) -> PathBuf {
        self.tree().path.clone()
    }

    /// Whether it has failed: what it says need not be the last state any more.
    pub(super) fn is_broken(&self) -> bool {
        self.broken.load(Ordering::Acquire)
    }

    /// Takes the place of a broken tree, and gives that one's folder back, closed as well as it can be.
    pub(super) fn replace(&self, fresh: Index) -> PathBuf {
        let fresh = fresh.tree.into_inner().unwrap_or_else(PoisonError::into_inner);
        let mut tree = self.tree.write().unwrap_or_else(PoisonError::into_inner);
        let old = std::mem::replace(&mut *tree, fresh);
        self.broken.store(false, Ordering::Release);
        drop(tree);
        drop(old.db);
        old.path
    }

    fn tree(&self) -> RwLockReadGuard<'_, Tree> {
        self.tree.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// The last commit that was applied; 0 for none.
    pub(super) fn applied(&self) -> Result<u64> {
        self.with(|db| {
            let found = db.get(APPLIED)?;
            Ok(found.and_then(|v| Some(u64::from_be_bytes(v.as_ref().try_into().ok()?))).unwrap_or(0))
        })
    }

    /// One record.
    pub(super) fn get(&self, key: &[u8]) -> Result<Option<Record>> {
        let found = self.with(|db| db.get(key))?;
        found.map(|value| encoding::record(&value).ok_or_else(|| self.damaged(key))).transpose()
    }

    /// Up to `limit` records with `low <= key < high`.
    pub(super) fn page(
        &self,
        low: &[u8],
        high: &[u8],
        limit: usize,
        backwards: bool,
    ) -> Result<Vec<(Key, Record)>> {
        if low >= high {
            return Ok(Vec::new());
        }
        let found = self.with(|db| {
            let range = db.range(low..high);
            if backwards {
                range.rev().take(limit).collect::<sled::Result<Vec<_>>>()
            } else {
                range.take(limit).collect()
            }
        })?;
        found
            .iter()
            .map(|(key, value)| {
                Key::decode(key).zip(encoding::record(value)).ok_or_else(|| self.damaged(key))
            })
            .collect()
    }

    /// Up to `limit` records after `after`, of all tables, as they are encoded.
    pub(super) fn all_after(&self, after: &[u8], limit: usize) -> Result<Vec<Operation>> {
        use std::ops::Bound::{Excluded, Unbounded};
        let found = self.with(|db| {
            let range = db.range::<&[u8], _>((Excluded(after), Unbounded));
            range.take(limit).collect::<sled::Result<Vec<_>>>()
        })?;
        found
            .iter()
            .map(|(key, value)| {
                let record = encoding::record(value).ok_or_else(|| self.damaged(key))?;
                Ok(Operation { key: key.to_vec(), version: record.version, value: Some(record.value) })
            })
            .collect()
    }

    /// Where [`Index::all_after`] starts: before the first table.
    pub(super) const BEFORE_TABLES: &[u8] = &[0, 0xff];

    /// Applies operations at one moment and notes the commit they end with.
    pub(super) fn apply(&self, operations: &[Operation], applied: u64) -> Result<()> {
        let mut batch = sled::Batch::default();
        for operation in operations {
            match &operation.value {
                Some(value) => {
                    batch.insert(&operation.key[..], encoding::indexed(operation.version, value));
                }
                None => batch.remove(&operation.key[..]),
            }
        }
        batch.insert(APPLIED, &applied.to_be_bytes());
        let tree = self.tree.write().unwrap_or_else(PoisonError::into_inner);
        let db = tree.db.as_ref().ok_or_else(|| closed(&tree.path))?;
        db.apply_batch(batch).map_err(|error| self.failed(&tree.path, error))
    }

    /// Closes the tree and makes its files durable. On an error the folder must not be trusted again.
    pub(super) fn close(&self, fs: &dyn Fs) -> Result<()> {
        let (path, db) = self.take();
        let Some(db) = db else { return Err(closed(&path)) };
        db.flush().map_err(|error| failed(&path, error))?;
        drop(db);
        wait_until_free(&path)?;
        sync_tree(fs, &path)
    }

    /// Forgets the tree.
    pub(super) fn discard(&self) {
        drop(self.take());
    }

    fn take(&self) -> (PathBuf, Option<sled::Db>) {
        let mut tree = self.tree.write().unwrap_or_else(PoisonError::into_inner);
        (tree.path.clone(), tree.db.take())
    }

    fn with<T>(&self, read: impl FnOnce(&sled::Db) -> sled::Result<T>) -> Result<T> {
        let tree = self.tree();
        let db = tree.db.as_ref().ok_or_else(|| closed(&tree.path))?;
        read(db).map_err(|error| self.failed(&tree.path, error))
    }

    fn failed(&self, path: &Path, error: sled::Error) -> Error {
        self.broken.store(true, Ordering::Release);
        failed(path, error)
    }

    fn damaged(&self, key: &[u8]) -> Error {
        Error::corrupt(&self.path(), format!("the entry {} is not a record", key.escape_ascii()))
    }
}

fn closed(path: &Path) -> Error {
    Error::Closed { path: path.to_path_buf() }
}

/// sled's threads may write until its file is unlocked.
pub(super) fn wait_until_free(folder: &Path) -> Result<()> {
    let path = folder.join("db");
    let file = File::open(&path).at("open", &path)?;
    for _ in 0..CLOSE_ATTEMPTS {
        match file.try_lock() {
            Ok(()) => return Ok(()),
            Err(TryLockError::WouldBlock) => std::thread::sleep(CLOSE_WAIT),
            Err(TryLockError::Error(source)) => return Err(Error::io("lock", &path, source)),
        }
    }
    Err(Error::InUse { folder: folder.to_path_buf() })
}

fn failed(path: &Path, error: sled::Error) -> Error {
    match error {
        sled::Error::Io(source) => Error::io("use the index", path, source),
        other => Error::io("use the index", path, io::Error::other(other)),
    }
}

fn sync_tree(fs: &dyn Fs, folder: &Path) -> Result<()> {
    for entry in fs.list(folder).at("list", folder)? {
        let path = folder.join(&entry.name);
        if entry.is_dir {
            sync_tree(fs, &path)?;
        } else {
            fs.sync_foreign(&path).at("sync", &path)?;
        }
    }
    fs.sync_dir(folder).at("sync", folder)
}
