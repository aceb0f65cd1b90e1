//! A content-addressed store: bytes go in, their SHA-256 digest comes out, and only those bytes come back.
//!
//! Objects lie in a folder, two levels of fan-out deep (`ab/cd/<digest>`). One is written under a temporary
//! name, synced, renamed and its folders synced before [`Objects::put`] returns; putting the same bytes
//! again is cheap and repairs a copy that has been damaged. Whole reads are checked against the digest; a
//! damaged object is moved to `quarantine/` and reported, so that it can be put again.
//!
//! All calls are async and do their work on the runtime's blocking threads. The folder is the first backend;
//! nothing in this interface assumes a local path, so an S3 bucket can stand behind it.

mod store;

use crate::error::{Error, Result};
use crate::folder::Folder;
use crate::fs::{Fs, RealFs};
use bytes::Bytes;
use flotilla_protocol::{Digest, limits};
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use store::Store;

const KIND: &str = "flotilla-objects";
const FORMAT: u32 = 1;
/// The largest object that [`Objects::get`] and [`Objects::read_range`] bring into memory at once.
pub const OBJECT_IN_MEMORY: u64 = 128 * limits::MIB as u64;
/// Entries of one page of [`Objects::list`].
pub const OBJECTS_PAGE: usize = 1000;
/// Free bytes on the disk below which puts are refused.
const RESERVE_BYTES: u64 = 16 * limits::MIB as u64;

/// A handle to the store; clones share it.
#[derive(Debug, Clone)]
pub struct Objects {
    store: Arc<Store>,
}

impl Objects {
    /// Opens the store in a folder, making it where it is missing. Blocks briefly.
    pub fn open(folder: &Path) -> Result<Self> {
        Self::open_with(Arc::new(RealFs), folder)
    }

    /// [`Objects::open`] with its own file system.
    pub fn open_with(fs: Arc<dyn Fs>, folder: &Path) -> Result<Self> {
        let folder = Folder::open(fs, folder, KIND, FORMAT)?;
        Ok(Self { store: Arc::new(Store::open(folder, RESERVE_BYTES)?) })
    }

    /// Stores bytes; they are durable when this returns.
    pub async fn put(&self, bytes: impl Into<Bytes>) -> Result<Digest> {
        let bytes = bytes.into();
        self.blocking(move |store| store.put_bytes(&bytes)).await
    }

    /// Stores many small objects with two syncs in all, instead of several for each. They are durable when
    /// this returns; after an error any of them may be there. Together at most [`OBJECT_IN_MEMORY`].
    pub async fn put_many(&self, objects: Vec<Bytes>) -> Result<Vec<Digest>> {
        self.blocking(move |store| store.put_many(&objects)).await
    }

    /// Stores everything a reader gives, in constant memory. The reader is used on a blocking thread.
    pub async fn put_reader(&self, mut reader: impl Read + Send + 'static) -> Result<Digest> {
        self.blocking(move |store| store.put_reader(&mut reader, Path::new("the input"))).await
    }

    /// Stores the content of a file, in constant memory.
    pub async fn put_file(&self, path: impl Into<PathBuf>) -> Result<Digest> {
        let path = path.into();
        self.blocking(move |store| {
            let mut file = std::fs::File::open(&path).map_err(|e| Error::io("open", &path, e))?;
            store.put_reader(&mut file, &path)
        })
        .await
    }

    /// The whole object, checked. Larger ones than [`OBJECT_IN_MEMORY`] are refused: fetch them to a file.
    pub async fn get(&self, digest: &Digest) -> Result<Bytes> {
        let digest = *digest;
        self.blocking(move |store| store.get(&digest)).await
    }

    /// `len` bytes from `offset` on, not checked against the digest (chunks have their own digests).
    pub async fn read_range(&self, digest: &Digest, offset: u64, len: usize) -> Result<Bytes> {
        let digest = *digest;
        self.blocking(move |store| store.read_range(&digest, offset, len)).await
    }

    /// Copies the object to a new file, checked, in constant memory. On a failure no file is left.
    pub async fn fetch_to(&self, digest: &Digest, path: impl Into<PathBuf>) -> Result<u64> {
        let (digest, path) = (*digest, path.into());
        self.blocking(move |store| store.fetch_to(&digest, &path)).await
    }

    /// Reads the object through and checks it, keeping nothing.
    pub async fn verify(&self, digest: &Digest) -> Result<()> {
        let digest = *digest;
        self.blocking(move |store| store.verify(&digest)).await
    }

    /// Whether the object is there.
    pub async fn contains(&self, digest: &Digest) -> Result<bool> {
        match self.len(digest).await {
            Ok(_) => Ok(true),
            Err(Error::ObjectMissing { .. }) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// The object's length in bytes.
    pub async fn len(&self, digest: &Digest) -> Result<u64> {
        let digest = *digest;
        self.blocking(move |store| store.len(&digest)).await
    }

    /// Removes the object. Says whether it was there.
    pub async fn remove(&self, digest: &Digest) -> Result<bool> {
        let digest = *digest;
        self.blocking(move |store| store.remove(&digest)).await
    }

    /// Up to `limit` (at most [`OBJECTS_PAGE`]) digests after `after`, in order.
    pub async fn list(&self, after: Option<Digest>, limit: usize) -> Result<Vec<Digest>> {
        self.blocking(move |store| store.list(after, limit.min(OBJECTS_PAGE))).await
    }

    async fn blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Store) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let store = Arc::clone(&self.store);
        let path = store.path().to_path_buf();
        match tokio::task::spawn_blocking(move || work(&store)).await {
            Ok(result) => result,
            Err(failed) if failed.is_panic() => std::panic::resume_unwind(failed.into_panic()),
            Err(_) => Err(Error::Closed { path }),
        }
    }
}

#[cfg(test)]
mod tests;
