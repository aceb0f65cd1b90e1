//! Objects of an import that has not been committed yet.
//!
//! Each new object is noted in the records before it is put, and the notes go in the batch that makes the
//! version. So a failed import removes what it put, and the next import removes what a killed one left.
//! The notes name objects that were not there before, so nothing that others refer to is ever removed; for
//! this, one import runs at a time.

use crate::error::Result;
use bytes::Bytes;
use flotilla_protocol::Digest;
use flotilla_storage::{Batch, Error, Key, Objects, Range, Records, Table};

const NOTES: Table = Table::new("dataset-imports");

/// The objects of one import.
pub(crate) struct Staging<'a> {
    records: &'a dyn Records,
    objects: &'a Objects,
    noted: Vec<Digest>,
    /// Whether a commit that keeps the objects may have happened.
    in_doubt: bool,
}

fn note(digest: &Digest) -> Key {
    Key::new(NOTES, digest.as_bytes())
}

impl<'a> Staging<'a> {
    /// Begins, after removing what a killed import left.
    pub(crate) async fn begin(records: &'a dyn Records, objects: &'a Objects) -> Result<Self> {
        loop {
            let left = records.range(&Range::table(NOTES)).await?;
            if left.is_empty() {
                break;
            }
            tracing::info!(objects = left.len(), "removing what an interrupted import left");
            let mut batch = Batch::new();
            for (key, _) in left {
                if let Ok(digest) = key.id()[..].try_into() {
                    objects.remove(&Digest::from_bytes(digest)).await?;
                }
                batch.delete(key);
            }
            records.commit(batch).await?;
        }
        Ok(Self { records, objects, noted: Vec::new(), in_doubt: false })
    }

    /// Stores an object of this import.
    pub(crate) async fn put(&mut self, bytes: Bytes) -> Result<Digest> {
        let digest = Digest::of(&bytes);
        if !self.objects.contains(&digest).await? {
            let mut batch = Batch::new();
            batch.put(note(&digest), Bytes::new());
            self.records.commit(batch).await?;
            self.noted.push(digest);
        }
        Ok(self.objects.put(bytes).await?)
    }

    /// Commits the batch of the version: with it the objects stay.
    pub(crate) async fn settle(&mut self, mut batch: Batch) -> Result<()> {
        for digest in &self.noted {
            batch.delete(note(digest));
        }
        self.in_doubt = true;
        let committed = self.records.commit(batch).await;
        if let Err(Error::PreconditionFailed { .. } | Error::TooLarge { .. } | Error::DiskFull { .. }) =
            committed
        {
            // These say that nothing has happened.
            self.in_doubt = false;
        }
        committed?;
        Ok(())
    }

    /// Removes what this import put. What cannot be removed now, or may belong to a version, is left: the next
    /// import removes what is still noted then.
    pub(crate) async fn discard(self) {
        if self.in_doubt {
            return;
        }
        for digest in &self.noted {
            let removed = async {
                self.objects.remove(digest).await?;
                let mut batch = Batch::new();
                batch.delete(note(digest));
                self.records.commit(batch).await
            };
            if let Err(error) = removed.await {
                tracing::warn!(%error, %digest, "an object of a failed import stays until the next import");
                return;
            }
        }
    }
}
