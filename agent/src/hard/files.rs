//! What lies in the folder `hard`: `MODEL/DIGEST`, an example a file, and `ledger`. Each is replaced as a whole, so a
//! kill leaves the old or the new one; what cannot be read is thrown away.

use crate::disk::DiskError;
use crate::folder::{Folder, HARD};
use flotilla_device::hard::ledger::{self, Ledger};
use flotilla_device::hard::shelf::Kept;
use flotilla_device::hard::stored::{self, StoredExample};
use flotilla_protocol::{Digest, ModelName};
use std::path::{Path, PathBuf};

const LEDGER: &str = "hard/ledger";

/// The folder. Blocks: to be used where that holds nobody up.
#[derive(Clone)]
pub(super) struct Files(pub(super) Folder);

impl Files {
    fn model(model: &ModelName) -> PathBuf {
        Path::new(HARD).join(model.as_str())
    }

    fn example(model: &ModelName, digest: &Digest) -> PathBuf {
        Self::model(model).join(digest.to_string())
    }

    /// What is kept of the models that `wanted` names, and how many files were no good. All else is removed.
    pub(super) fn take_stock(
        &self,
        wanted: impl Fn(&ModelName) -> bool,
    ) -> Result<(Vec<Kept>, u64), DiskError> {
        let disk = self.0.disk();
        let (mut all, mut damaged) = (Vec::new(), 0);
        for name in disk.folders(HARD.as_ref())? {
            let model = name.parse::<ModelName>().ok().filter(|model| wanted(model));
            let Some(model) = model else {
                disk.remove(&Path::new(HARD).join(name))?;
                continue;
            };
            let folder = Self::model(&model);
            let path = self.0.root().join(&folder);
            let entries = std::fs::read_dir(&path).map_err(|e| DiskError::of(&path, e))?;
            for entry in entries {
                let name = entry.map_err(|e| DiskError::of(&path, e))?.file_name();
                let digest = name.to_str().and_then(|name| name.parse::<Digest>().ok());
                let found = digest.and_then(|digest| self.read(&model, &digest));
                match (digest, found) {
                    (Some(digest), Some((stored, bytes))) => all.push(Kept {
                        digest,
                        model: model.clone(),
                        reason: stored.example.reason,
                        at_ms: stored.example.at_ms,
                        bytes,
                    }),
                    (digest, _) => {
                        // What a kill left under a temporary name was never kept.
                        damaged += u64::from(digest.is_some());
                        disk.remove(&folder.join(name))?;
                    }
                }
            }
        }
        Ok((all, damaged))
    }

    /// One that is kept, with the size of its file; `None` if it is not whole.
    pub(super) fn read(&self, model: &ModelName, digest: &Digest) -> Option<(StoredExample, u64)> {
        let bytes = self.0.disk().read(&Self::example(model, digest), stored::BOUND).ok()??;
        let stored = StoredExample::from_bytes(&bytes).ok()?;
        let right = Digest::of(&stored.picture) == *digest && stored.example.model == *model;
        right.then_some((stored, bytes.len() as u64))
    }

    pub(super) fn write(&self, model: &ModelName, digest: &Digest, bytes: &[u8]) -> Result<(), DiskError> {
        self.0.disk().replace(&Self::example(model, digest), bytes)
    }

    pub(super) fn remove(&self, model: &ModelName, digest: &Digest) -> Result<(), DiskError> {
        self.0.disk().remove(&Self::example(model, digest))
    }

    /// Removes all that is kept of a model.
    pub(super) fn forget(&self, model: &ModelName) -> Result<(), DiskError> {
        self.0.disk().remove(&Self::model(model))
    }

    /// The ledger; one in which all of today is spent in place of one that cannot be read.
    pub(super) fn ledger(&self, today: Option<u64>) -> Ledger {
        let read = match self.0.disk().read(LEDGER.as_ref(), ledger::BOUND) {
            Ok(None) => return Ledger::default(),
            Ok(Some(bytes)) => Ledger::from_bytes(&bytes).map_err(|e| e.to_string()),
            Err(error) => Err(error.to_string()),
        };
        read.unwrap_or_else(|problem| {
            tracing::warn!(%problem, "what was sent of hard examples today is not known, so no more is");
            let ledger = Ledger::in_place_of_lost(today);
            // Else every start would find the damage, and take its own day for that of the loss.
            if let Err(error) = self.store_ledger(&ledger) {
                tracing::warn!(%error, "the damaged account of hard examples stays");
            }
            ledger
        })
    }

    pub(super) fn store_ledger(&self, ledger: &Ledger) -> Result<(), DiskError> {
        self.0.disk().replace(LEDGER.as_ref(), &ledger.to_bytes())
    }
}
