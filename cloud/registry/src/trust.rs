//! The project's trust file: made on first start, replaced when a floor rises.

use crate::error::{Error, Result};
use crate::keys::Keys;
use bytes::Bytes;
use flotilla_identity::{Actor, audit};
use flotilla_protocol::trust::KeySet;
use flotilla_protocol::{Digest, Envelope, EnvelopeKind, ErrorCode, ModelName, ProjectId, TrustFile, limits};
use flotilla_storage::{Batch, Collection, Entity, Objects, Records, Table, Versioned};
use serde::{Deserialize, Serialize};
use std::sync::{Arc, PoisonError, RwLock};

/// Where the current trust file of a project is.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct TrustRecord {
    project: ProjectId,
    version: u64,
    /// The encoded envelope, an object.
    envelope: Digest,
}

impl Entity for TrustRecord {
    const TABLE: Table = Table::new("trust");

    fn id(&self) -> Vec<u8> {
        self.project.as_str().into()
    }
}

/// The trust file in force, and its signed form.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CurrentTrust {
    /// What it says.
    pub file: TrustFile,
    /// The encoded envelope, as devices get it.
    pub envelope: Bytes,
}

/// Keeps the trust file of a project.
pub struct Trust {
    records: Collection<TrustRecord>,
    store: Arc<dyn Records>,
    objects: Objects,
    keys: Arc<Keys>,
    current: RwLock<Arc<CurrentTrust>>,
    /// One change at a time: versions count up one by one.
    changing: tokio::sync::Mutex<()>,
}

impl Trust {
    /// Opens the trust file of `project`, making version 1 where there is none. It must name these keys and this
    /// CA: devices believe no others.
    pub async fn open_or_create(
        store: Arc<dyn Records>,
        objects: Objects,
        keys: Arc<Keys>,
        project: &ProjectId,
        ca: Digest,
        now_ms: u64,
    ) -> Result<Self> {
        let records = Collection::<TrustRecord>::new(Arc::clone(&store));
        let current = match records.get(project.as_str()).await? {
            Some(found) => open(&objects, &keys, &found, ca).await?,
            None => {
                let file = TrustFile {
                    version: 1,
                    project: project.clone(),
                    ca,
                    release_keys: KeySet::single(keys.release.public()),
                    control_keys: KeySet::single(keys.control.public()),
                    min_release: Default::default(),
                    issued_at_ms: now_ms,
                };
                let (current, record) = seal(&objects, &keys, file).await?;
                let mut batch = Batch::new();
                records.insert(&mut batch, &record)?;
                let detail = serde_json::json!({ "version": 1, "release_key": keys.release.public().id(), "control_key": keys.control.public().id(), "ca": ca });
                audit::record(
                    &mut batch,
                    &Actor::system(),
                    "trust:create",
                    &subject(project),
                    detail,
                    now_ms,
                )?;
                store.commit(batch).await?;
                current
            }
        };
        let current = RwLock::new(Arc::new(current));
        Ok(Self { records, store, objects, keys, current, changing: tokio::sync::Mutex::new(()) })
    }

    /// The trust file in force.
    pub fn current(&self) -> Arc<CurrentTrust> {
        Arc::clone(&self.current.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Forbids every release of `model` below `counter`. A floor never goes down, and never above `newest`, the
    /// newest release, which would leave devices with nothing to run.
    pub(crate) async fn set_floor(
        &self,
        actor: &Actor,
        model: &ModelName,
        counter: u64,
        newest: u64,
        now_ms: u64,
    ) -> Result<Arc<CurrentTrust>> {
        let _one = self.changing.lock().await;
        let before = self.current();
        let from = before.file.floor(model);
        if counter == from {
            return Ok(before);
        }
        if counter < from || counter > newest {
            return Err(Error::Floor { model: model.clone(), from, to: counter, newest });
        }
        let project = &before.file.project;
        let found = self.records.get(project.as_str()).await?.ok_or(Error::Worker)?;
        let mut file = before.file.clone();
        file.version += 1;
        file.min_release.insert(model.clone(), counter);
        file.issued_at_ms = now_ms.max(before.file.issued_at_ms);
        let (current, record) = seal(&self.objects, &self.keys, file).await?;
        let mut batch = Batch::new();
        self.records.update(&mut batch, &found, &record)?;
        let detail =
            serde_json::json!({ "version": record.version, "model": model, "from": from, "to": counter });
        audit::record(&mut batch, actor, "trust:set-floor", &subject(project), detail, now_ms)?;
        self.store.commit(batch).await?;
        let current = Arc::new(current);
        *self.current.write().unwrap_or_else(PoisonError::into_inner) = Arc::clone(&current);
        Ok(current)
    }
}

fn subject(project: &ProjectId) -> String {
    format!("trust/{project}")
}

/// Signs a trust file with the release key and stores the envelope.
async fn seal(objects: &Objects, keys: &Keys, file: TrustFile) -> Result<(CurrentTrust, TrustRecord)> {
    let envelope: Bytes = Envelope::seal(EnvelopeKind::Trust, &file, &[&keys.release]).to_bytes().into();
    if envelope.len() > limits::ENVELOPE {
        let (size, bound) = (envelope.len() as u64, limits::ENVELOPE as u64);
        return Err(Error::TooLarge { what: "the trust file", size, bound });
    }
    let digest = objects.put(envelope.clone()).await?;
    let record = TrustRecord { project: file.project.clone(), version: file.version, envelope: digest };
    Ok((CurrentTrust { file, envelope }, record))
}

async fn open(
    objects: &Objects,
    keys: &Keys,
    found: &Versioned<TrustRecord>,
    ca: Digest,
) -> Result<CurrentTrust> {
    let envelope = objects.get(&found.value.envelope).await?;
    let file = TrustFile::accept_first(&Envelope::from_bytes(&envelope)?).map_err(Error::Trust)?;
    let foreign = |what, code| Err(Error::TrustForeign { what, code });
    if file.release_keys != KeySet::single(keys.release.public()) {
        return foreign("release key", ErrorCode::SignatureInvalid);
    }
    if file.control_keys != KeySet::single(keys.control.public()) {
        return foreign("control key", ErrorCode::SignatureInvalid);
    }
    if file.ca != ca {
        return foreign("CA", ErrorCode::CaMismatch);
    }
    Ok(CurrentTrust { file, envelope })
}
