//! The project's trust file: made on first start, replaced when a floor rises, or by one that was signed elsewhere.

use crate::error::{Error, Result};
use crate::keys::Keys;
use bytes::Bytes;
use flotilla_identity::{Actor, audit};
use flotilla_protocol::trust::KeySet;
use flotilla_protocol::{Digest, Envelope, EnvelopeKind, ErrorCode, ModelName, ProjectId, TrustFile, limits};
use flotilla_storage::{Batch, Collection, Entity, Objects, Records, Table, Versioned, compound};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::sync::{Arc, PoisonError, RwLock};

/// How far the clock of whoever makes a trust file may run ahead.
const CLOCKS_MS: u64 = 60 * 60 * 1000;

/// Where the current trust file of a project is.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct TrustRecord {
    project: ProjectId,
    version: u64,
    /// The encoded envelope, an object.
    envelope: Digest,
    /// Whether a person brought it: then its release keys need not be those of this installation.
    #[serde(default)]
    brought: bool,
}

impl TrustRecord {
    fn version(&self) -> TrustVersion {
        TrustVersion { project: self.project.clone(), version: self.version, envelope: self.envelope }
    }
}

impl Entity for TrustRecord {
    const TABLE: Table = Table::new("trust");

    fn id(&self) -> Vec<u8> {
        self.project.as_str().into()
    }
}

/// Every trust file that was in force: devices take one after the other.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct TrustVersion {
    project: ProjectId,
    version: u64,
    /// The encoded envelope, an object.
    envelope: Digest,
}

impl TrustVersion {
    fn id_of(project: &ProjectId, version: u64) -> Vec<u8> {
        compound([project.as_str().as_bytes(), &version.to_be_bytes()])
    }
}

impl Entity for TrustVersion {
    const TABLE: Table = Table::new("trust-versions");

    fn id(&self) -> Vec<u8> {
        Self::id_of(&self.project, self.version)
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
    versions: Collection<TrustVersion>,
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
        let versions = Collection::<TrustVersion>::new(Arc::clone(&store));
        let current = match records.get(project.as_str()).await? {
            Some(found) => {
                let current = open(&objects, &keys, &found, ca).await?;
                let version = found.value.version();
                if versions.get(version.id()).await?.is_none() {
                    // Early installations kept the newest alone.
                    let mut batch = Batch::new();
                    versions.insert(&mut batch, &version)?;
                    store.commit(batch).await?;
                }
                current
            }
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
                versions.insert(&mut batch, &record.version())?;
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
        Ok(Self { records, versions, store, objects, keys, current, changing: tokio::sync::Mutex::new(()) })
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
        if !before.file.release_keys.is_met_by(&self.keys.release.public()) {
            return Err(Error::OfflineKeys {
                what: "a floor",
                needed: before.file.release_keys.threshold,
                advice: "make the next trust file with `flotilla trust propose --floor`, sign and publish it",
            });
        }
        let mut file = before.file.clone();
        file.version += 1;
        file.min_release.insert(model.clone(), counter);
        file.issued_at_ms = now_ms.max(before.file.issued_at_ms);
        let (current, record) = seal(&self.objects, &self.keys, file).await?;
        let detail =
            serde_json::json!({ "version": record.version, "model": model, "from": from, "to": counter });
        self.replace(actor, "trust:set-floor", detail, current, record, now_ms).await
    }

    /// Takes a trust file that was made and signed elsewhere as the next version. `newest` says the newest release of a
    /// model, `None` for one that does not exist here.
    ///
    /// It must be signed by the keys in force, which is what devices check, and by its own, which is what a device
    /// checks that enrols later: both at their thresholds.
    pub(crate) async fn publish(
        &self,
        actor: &Actor,
        envelope: Bytes,
        newest: &BTreeMap<ModelName, u64>,
        now_ms: u64,
    ) -> Result<Arc<CurrentTrust>> {
        let _one = self.changing.lock().await;
        let before = self.current();
        let signed = Envelope::from_bytes(&envelope)?;
        let file = before.file.accept_next(&signed).map_err(Error::TrustRefused)?;
        let unfit = |code, problem: String| Err(Error::TrustUnfit { problem, code });
        if TrustFile::accept_first(&signed).is_err() {
            let problem = format!(
                "it is not signed by {} of its own release keys, so no new device could believe it and nobody could sign \
                 the version after it: sign with these keys too",
                file.release_keys.threshold
            );
            return unfit(ErrorCode::SignatureInvalid, problem);
        }
        if file.version != before.file.version + 1 {
            let problem = format!("it is version {}, the next is {}", file.version, before.file.version + 1);
            return unfit(ErrorCode::InvalidInput, problem);
        }
        if file.ca != before.file.ca {
            return unfit(ErrorCode::CaMismatch, "it names another CA than devices have".to_owned());
        }
        if !file.control_keys.is_met_by(&self.keys.control.public()) {
            let problem = "the control key of this installation is not enough to sign what devices should do: keep it \
                           among the control keys, with a threshold of 1";
            return unfit(ErrorCode::SignatureInvalid, problem.to_owned());
        }
        if file.issued_at_ms > now_ms.saturating_add(CLOCKS_MS) {
            // Devices take it as a proof of time.
            return unfit(ErrorCode::InvalidInput, "it says that it was made in the future".to_owned());
        }
        for (model, &to) in &file.min_release {
            let (from, newest) = (before.file.floor(model), newest.get(model).copied().unwrap_or(0));
            if to != from && to > newest {
                return Err(Error::Floor { model: model.clone(), from, to, newest });
            }
        }
        let digest = self.objects.put(envelope.clone()).await?;
        let (project, version) = (file.project.clone(), file.version);
        let record = TrustRecord { project, version, envelope: digest, brought: true };
        let keys = |set: &KeySet| set.keys.iter().map(|key| key.id().to_string()).collect::<Vec<_>>();
        let detail = serde_json::json!({
            "version": version, "threshold": file.release_keys.threshold, "release_keys": keys(&file.release_keys),
            "control_keys": keys(&file.control_keys), "envelope": digest,
        });
        self.replace(actor, "trust:publish", detail, CurrentTrust { file, envelope }, record, now_ms).await
    }

    /// The trust file that a device takes next which has this version; `None` if it has the newest.
    pub(crate) async fn after(&self, have: u64) -> Result<Option<Bytes>> {
        let current = self.current();
        if have >= current.file.version {
            return Ok(None);
        }
        let project = &current.file.project;
        let (prefix, after) = (compound([project.as_str()]), TrustVersion::id_of(project, have));
        let next = self.versions.list_prefix(&prefix, Some(&after), 1).await?.items.into_iter().next();
        match next {
            Some(next) => Ok(Some(self.objects.get(&next.value.envelope).await?)),
            None => Ok(Some(current.envelope.clone())),
        }
    }

    async fn replace(
        &self,
        actor: &Actor,
        action: &'static str,
        detail: serde_json::Value,
        current: CurrentTrust,
        record: TrustRecord,
        now_ms: u64,
    ) -> Result<Arc<CurrentTrust>> {
        let found = self.records.get(record.project.as_str()).await?.ok_or(Error::Worker)?;
        let mut batch = Batch::new();
        self.records.update(&mut batch, &found, &record)?;
        self.versions.insert(&mut batch, &record.version())?;
        audit::record(&mut batch, actor, action, &subject(&record.project), detail, now_ms)?;
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
    let record = TrustRecord {
        project: file.project.clone(),
        version: file.version,
        envelope: digest,
        brought: false,
    };
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
    // What was signed here alone is believed by the key that lies here, whoever else may sign beside it.
    if !found.value.brought && !file.release_keys.is_met_by(&keys.release.public()) {
        return foreign("release key", ErrorCode::SignatureInvalid);
    }
    if !file.control_keys.is_met_by(&keys.control.public()) {
        return foreign("control key", ErrorCode::SignatureInvalid);
    }
    if file.ca != ca {
        return foreign("CA", ErrorCode::CaMismatch);
    }
    Ok(CurrentTrust { file, envelope })
}
