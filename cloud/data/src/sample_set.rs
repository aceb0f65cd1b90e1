//! Samples that belong to no dataset: files on which a model is calibrated and compared with itself.
//!
//! A set is one object, a file of samples as jobs read them, and a record under its digest. The record comes first, so
//! that no object is ever without one; the oldest sets give way to new ones.

use crate::bounds::SAMPLE_SETS;
use crate::datasets::blocking;
use crate::error::{Error, Result};
use crate::{Datasets, import};
use flotilla_identity::{Actor, Permission, audit};
use flotilla_protocol::{ActorId, Digest};
use flotilla_storage::{Batch, Entity, PAGE_ENTITIES, Table};
use serde::{Deserialize, Serialize};
use serde_json::json;
use std::path::{Path, PathBuf};

/// Samples that belong to no dataset.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SampleSet {
    /// The object that holds them.
    pub digest: Digest,
    /// How many there are.
    pub samples: u64,
    /// Bytes of all of them.
    pub bytes: u64,
    /// When they came, in milliseconds since 1970.
    pub created_at_ms: u64,
    /// Who brought them.
    pub created_by: ActorId,
}

impl Entity for SampleSet {
    const TABLE: Table = Table::new("sample-sets");

    fn id(&self) -> Vec<u8> {
        self.digest.as_bytes().to_vec()
    }
}

impl Datasets {
    /// Keeps files as a set of samples: a file, a folder or a zip. `beside` is a path for a file while it is made, and is
    /// not there any more afterwards. A set that is kept already is the same set.
    pub async fn add_sample_set(
        &self,
        actor: &Actor,
        source: PathBuf,
        beside: PathBuf,
        now_ms: u64,
    ) -> Result<SampleSet> {
        let made = beside.clone();
        let added = self.add_collected(actor, source, &beside, now_ms).await;
        // It lies in a folder that goes as well; what cannot be removed goes with it.
        let _ = blocking(move || std::fs::remove_file(made)).await?;
        added
    }

    async fn add_collected(
        &self,
        actor: &Actor,
        source: PathBuf,
        beside: &Path,
        now_ms: u64,
    ) -> Result<SampleSet> {
        let target = beside.to_path_buf();
        let collected = blocking(move || {
            let (samples, bytes) = import::collect_loose(&source, &target)?;
            let whole = std::fs::read(&target).map_err(Error::io("read", &target))?;
            Ok::<_, Error>((Digest::of(&whole), samples, bytes))
        });
        let (digest, samples, bytes) = collected.await??;
        let set = SampleSet { digest, samples, bytes, created_at_ms: now_ms, created_by: actor.id.clone() };
        if let Some(kept) = self.sample_sets.get(digest.as_bytes()).await? {
            self.objects.put_file(beside).await?;
            return Ok(kept.value);
        }
        let mut sets = self.sample_sets.list(None, PAGE_ENTITIES).await?.items;
        sets.sort_by_key(|set| set.value.created_at_ms);
        let leaving = &sets[..(sets.len() + 1).saturating_sub(SAMPLE_SETS)];
        let mut batch = Batch::new();
        for old in leaving {
            self.sample_sets.delete(&mut batch, old)?;
        }
        self.sample_sets.insert(&mut batch, &set)?;
        let detail = json!({ "samples": samples, "bytes": bytes });
        let action = Permission::CompressCreate.as_str();
        audit::record(&mut batch, actor, action, &format!("samples/{digest}"), detail, now_ms)?;
        self.records.commit(batch).await?;
        for old in leaving {
            self.objects.remove(&old.value.digest).await?;
        }
        self.objects.put_file(beside).await?;
        Ok(set)
    }

    /// A set of samples.
    pub async fn sample_set(&self, digest: &Digest) -> Result<SampleSet> {
        let found = self.sample_sets.get(digest.as_bytes()).await?;
        found.map(|found| found.value).ok_or_else(|| Error::NoSampleSet { digest: *digest })
    }

    /// Writes a set of samples as one file, for [`crate::SampleFile`] to read.
    pub async fn write_sample_set(&self, set: &SampleSet, path: &Path) -> Result<()> {
        match self.objects.fetch_to(&set.digest, path).await {
            Err(flotilla_storage::Error::ObjectMissing { .. }) => {
                Err(Error::NoSampleSet { digest: set.digest })
            }
            fetched => Ok(fetched.map(drop)?),
        }
    }
}
