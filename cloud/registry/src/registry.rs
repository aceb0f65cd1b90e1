//! The registry: use cases over records and objects.

use crate::bundle::Bundle;
use crate::error::{Error, Result};
use crate::keys::Keys;
use crate::model::{Model, ModelVersion, NewSamples, NewVersion, SampleInputs, check_licence};
use crate::patches::{self, Base};
use crate::release::{self, BASELINE_FILE, GOLDEN_FILE, MODEL_FILE, Material, Release, ReleaseRequest};
use crate::trust::{CurrentTrust, Trust};
use bytes::Bytes;
use flotilla_identity::{Actor, audit};
use flotilla_protocol::envelope::EnvelopeError;
use flotilla_protocol::message::Desired;
use flotilla_protocol::signature::SigningKey;
use flotilla_protocol::{
    Baseline, Digest, Envelope, EnvelopeKind, ErrorCode, ModelName, Pipeline, ProjectId, ReleaseManifest,
    TrustFile, codec, limits,
};
use flotilla_runtime::Quality;
use flotilla_storage::{Batch, Collection, Objects, Page, Records, Versioned};
use serde_json::json;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// How often a change starts again because another changed the same model in between.
pub(crate) const ATTEMPTS: usize = 16;
/// Largest report of training or compression, as JSON.
pub(crate) const REPORT: usize = 4 * limits::MIB;

/// Models, versions, releases, and the keys and trust behind them.
pub struct Registry {
    project: ProjectId,
    records: Arc<dyn Records>,
    pub(crate) objects: Objects,
    pub(crate) keys: Arc<Keys>,
    pub(crate) trust: Trust,
    pub(crate) models: Collection<Model>,
    pub(crate) versions: Collection<ModelVersion>,
    pub(crate) releases: Collection<Release>,
}

impl Registry {
    /// The registry of `project`, kept in these records and objects. `ca` is the digest of the root CA's public
    /// key, which the trust file names; the trust file is made on first start.
    pub async fn open(
        project: ProjectId,
        records: Arc<dyn Records>,
        objects: Objects,
        keys: Keys,
        ca: Digest,
        now_ms: u64,
    ) -> Result<Self> {
        let keys = Arc::new(keys);
        let trust =
            Trust::open_or_create(records.clone(), objects.clone(), keys.clone(), &project, ca, now_ms)
                .await?;
        Ok(Self {
            project,
            models: Collection::new(records.clone()),
            versions: Collection::new(records.clone()),
            releases: Collection::new(records.clone()),
            records,
            objects,
            keys,
            trust,
        })
    }

    /// The project.
    pub fn project(&self) -> &ProjectId {
        &self.project
    }

    // === models and versions ===

    /// Adds a model version.
    pub async fn add_version(&self, actor: &Actor, new: NewVersion, now_ms: u64) -> Result<ModelVersion> {
        for _ in 0..ATTEMPTS {
            let mut batch = Batch::new();
            let version = self.stage_version(&mut batch, actor, new.clone(), now_ms).await?;
            match self.commit(batch).await {
                Err(error) if error.is_conflict() => {}
                done => return done.map(|()| version),
            }
        }
        Err(busy(&new.model))
    }

    /// Adds a model version to a batch that the caller commits, such as a job's outputs. The objects are stored
    /// at once; the version exists when the batch is committed. The batch fails if another version of the model
    /// came first.
    pub async fn stage_version(
        &self,
        batch: &mut Batch,
        actor: &Actor,
        new: NewVersion,
        now_ms: u64,
    ) -> Result<ModelVersion> {
        new.check()?;
        let (pipeline, onnx) = (new.pipeline.clone(), new.onnx.clone());
        blocking(move || Ok(flotilla_runtime::Model::load(&pipeline, &onnx).map(drop)?)).await?;
        let report =
            new.report.as_ref().map(|report| json_object("the report", report, REPORT)).transpose()?;
        let report = match report {
            Some(report) => Some(self.objects.put(report).await?),
            None => None,
        };
        let quality =
            new.quality.as_ref().map(|quality| json_object("the quality", quality, REPORT)).transpose()?;
        let quality = match quality {
            Some(quality) => Some(self.objects.put(quality).await?),
            None => None,
        };
        let baseline = match &new.baseline {
            Some(baseline) => Some(self.objects.put(encoded_baseline(baseline)?).await?),
            None => None,
        };
        let samples = match new.samples {
            Some(NewSamples { generated, inputs }) => {
                Some(SampleInputs { generated, inputs: self.objects.put_many(inputs).await? })
            }
            None => None,
        };
        let found = self.models.get(new.model.as_str()).await?;
        let version = ModelVersion {
            version: found.as_ref().map_or(0, |model| model.value.latest_version) + 1,
            onnx_bytes: new.onnx.len() as u64,
            onnx: self.objects.put(new.onnx).await?,
            pipeline: self.objects.put(json_object("the pipeline", &new.pipeline, REPORT)?).await?,
            model: new.model,
            source: new.source,
            metrics: new.metrics,
            lineage: new.lineage,
            quality,
            report,
            baseline,
            licence: new.licence,
            samples,
            created_at_ms: now_ms,
            created_by: actor.id.clone(),
        };
        self.versions.insert(batch, &version)?;
        self.put_model(batch, found, &version, |_| ())?;
        let detail =
            json!({ "onnx": version.onnx, "source": version.source, "accuracy": version.metrics.accuracy });
        let subject = format!("model/{}/{}", version.model, version.version);
        audit::record(batch, actor, "model:add-version", &subject, detail, now_ms)?;
        Ok(version)
    }

    /// One model.
    pub async fn model(&self, name: &ModelName) -> Result<Model> {
        let found = self.models.get(name.as_str()).await?;
        found.map(|model| model.value).ok_or_else(|| Error::ModelMissing(name.clone()))
    }

    /// A page of the models, by name.
    pub async fn models(&self, after: Option<&ModelName>, limit: usize) -> Result<Vec<Model>> {
        let after = after.map(|name| name.as_str().as_bytes());
        Ok(values(self.models.list(after, limit).await?))
    }

    /// One version of a model.
    pub async fn version(&self, model: &ModelName, version: u32) -> Result<ModelVersion> {
        let found = self.versions.get(ModelVersion::id_of(model, version)).await?;
        found.map(|found| found.value).ok_or(Error::VersionMissing { model: model.clone(), version })
    }

    /// The newest version of a model.
    pub async fn latest_version(&self, model: &ModelName) -> Result<ModelVersion> {
        self.version(model, self.model(model).await?.latest_version).await
    }

    /// A page of a model's versions behind `after`, oldest first.
    pub async fn versions(
        &self,
        model: &ModelName,
        after: Option<u32>,
        limit: usize,
    ) -> Result<Vec<ModelVersion>> {
        let after = after.map(|version| ModelVersion::id_of(model, version));
        let prefix = flotilla_storage::compound([model.as_str()]);
        Ok(values(self.versions.list_prefix(&prefix, after.as_deref(), limit).await?))
    }

    /// The ONNX file of a version.
    pub async fn onnx(&self, version: &ModelVersion) -> Result<Bytes> {
        Ok(self.objects.get(&version.onnx).await?)
    }

    /// The pre- and post-processing of a version.
    pub async fn pipeline(&self, version: &ModelVersion) -> Result<Pipeline> {
        self.read_json(&version.pipeline).await
    }

    /// What a version saw and answered in training, as its releases carry it.
    async fn baseline(&self, version: &ModelVersion) -> Result<Option<Bytes>> {
        match &version.baseline {
            Some(baseline) => Ok(Some(self.objects.get(baseline).await?)),
            None => Ok(None),
        }
    }

    /// Says under which licence a version comes, or takes back what was said.
    pub async fn set_licence(
        &self,
        actor: &Actor,
        model: &ModelName,
        version: u32,
        licence: Option<String>,
        now_ms: u64,
    ) -> Result<ModelVersion> {
        check_licence(licence.as_deref())?;
        for _ in 0..ATTEMPTS {
            let found = self.versions.get(ModelVersion::id_of(model, version)).await?;
            let found = found.ok_or(Error::VersionMissing { model: model.clone(), version })?;
            if found.value.licence == licence {
                return Ok(found.value);
            }
            let changed = ModelVersion { licence: licence.clone(), ..found.value.clone() };
            let mut batch = Batch::new();
            self.versions.update(&mut batch, &found, &changed)?;
            let detail = json!({ "before": found.value.licence, "after": licence });
            let subject = format!("model/{model}/{version}");
            audit::record(&mut batch, actor, "model:set-licence", &subject, detail, now_ms)?;
            match self.commit(batch).await {
                Err(error) if error.is_conflict() => {}
                done => return done.map(|()| changed),
            }
        }
        Err(busy(model))
    }

    /// How good a version is; none where nothing has measured it.
    pub async fn quality(&self, version: &ModelVersion) -> Result<Option<Quality>> {
        match &version.quality {
            Some(quality) => self.read_json(quality).await.map(Some),
            None => Ok(None),
        }
    }

    /// What training or compression said about a version.
    pub async fn report(&self, version: &ModelVersion) -> Result<Option<serde_json::Value>> {
        match &version.report {
            Some(report) => self.read_json(report).await.map(Some),
            None => Ok(None),
        }
    }

    /// The inputs that came with a version, and whether they were made up.
    pub async fn samples(&self, version: &ModelVersion) -> Result<Option<NewSamples>> {
        let Some(SampleInputs { generated, inputs: digests }) = &version.samples else { return Ok(None) };
        let mut inputs = Vec::with_capacity(digests.len());
        for digest in digests {
            inputs.push(self.objects.get(digest).await?);
        }
        Ok(Some(NewSamples { generated: *generated, inputs }))
    }

    // === releases ===

    /// Signs a model version as a release: runs the golden inputs through the very bytes that ship, and makes
    /// manifest, files and record visible in one commit.
    pub async fn release(&self, actor: &Actor, request: ReleaseRequest, now_ms: u64) -> Result<Release> {
        request.check(now_ms)?;
        let keys = &self.trust.current().file.release_keys;
        if !keys.is_met_by(&self.keys.release.public()) {
            return Err(Error::OfflineKeys {
                what: "a release",
                needed: keys.threshold,
                advice: "make a draft with `flotilla release draft`, sign it with `flotilla release sign`, import it",
            });
        }
        let request = Arc::new(request);
        for _ in 0..ATTEMPTS {
            let name = &request.model;
            let found =
                self.models.get(name.as_str()).await?.ok_or_else(|| Error::ModelMissing(name.clone()))?;
            let version = self.version(name, request.version.unwrap_or(found.value.latest_version)).await?;
            let material = Material {
                project: self.project.clone(),
                pipeline: self.pipeline(&version).await?,
                onnx: self.onnx(&version).await?,
                baseline: self.baseline(&version).await?,
                bases: self.bases(name, found.value.latest_release).await?,
                counter: found.value.latest_release + 1,
                version: version.clone(),
                now_ms,
            };
            let (wanted, keys) = (Arc::clone(&request), Arc::clone(&self.keys));
            let signed = blocking(move || release::sign(&wanted, material, &keys.release)).await?;
            let release = Release::of(&signed.manifest, &signed.envelope, &signed.encoded, &actor.id)?;
            self.objects.put(signed.encoded).await?;
            self.objects.put(signed.golden).await?;
            for patch in signed.patches {
                self.objects.put(patch).await?;
            }
            let mut batch = Batch::new();
            self.releases.insert(&mut batch, &release)?;
            self.put_model(&mut batch, Some(found), &version, |model| {
                model.latest_release = release.counter
            })?;
            audit_release(&mut batch, actor, "release:create", &release, now_ms)?;
            match self.commit(batch).await {
                Err(error) if error.is_conflict() => {}
                done => return done.map(|()| release),
            }
        }
        Err(busy(&request.model))
    }

    /// A release as a bundle for other keys to sign and to be imported then: nothing is recorded here. It carries the
    /// signature of this installation's release key where that counts.
    pub async fn draft(&self, request: ReleaseRequest, now_ms: u64) -> Result<Bytes> {
        request.check(now_ms)?;
        let model = self.model(&request.model).await?;
        let version = self.version(&request.model, request.version.unwrap_or(model.latest_version)).await?;
        let material = Material {
            project: self.project.clone(),
            pipeline: self.pipeline(&version).await?,
            onnx: self.onnx(&version).await?,
            baseline: self.baseline(&version).await?,
            bases: self.bases(&model.name, model.latest_release).await?,
            counter: model.latest_release + 1,
            version,
            now_ms,
        };
        let (keys, trust) = (Arc::clone(&self.keys), self.trust.current());
        blocking(move || {
            let (onnx, baseline) = (material.onnx.clone(), material.baseline.clone());
            let mut signed = release::sign(&request, material, &keys.release)?;
            if trust.file.release_keys.get(keys.release.public().id()).is_none() {
                signed.envelope.signatures.clear();
            }
            let always = [(MODEL_FILE, onnx), (GOLDEN_FILE, signed.golden)];
            let files = always.into_iter().chain(baseline.map(|baseline| (BASELINE_FILE, baseline)));
            let files = files.map(|(name, content)| (name.to_owned(), content)).collect();
            let patches = signed.patches.into_iter().map(|patch| (Digest::of(&patch), patch)).collect();
            Ok(Bundle { envelope: signed.envelope.to_bytes().into(), files, patches }.to_zip()?.into())
        })
        .await
    }

    /// What devices may have of a model: the model files of its latest releases, the newest first.
    async fn bases(&self, model: &ModelName, latest: u64) -> Result<Vec<Base>> {
        let mut bases: Vec<Base> = Vec::new();
        for counter in (1..=latest).rev().take(patches::RELEASES) {
            let Some(release) = self.releases.get(Release::id_of(model, counter)).await? else { continue };
            let file = release.value.files.into_iter().find(|file| file.name == MODEL_FILE);
            let Some(file) = file.filter(|file| patches::is_base(file.bytes)) else { continue };
            if bases.iter().any(|base| base.digest == file.digest) {
                continue;
            }
            match self.objects.get(&file.digest).await {
                Ok(content) => bases.push(Base { digest: file.digest, content }),
                // A release can be made without a patch of a file that is gone or damaged.
                Err(error) => {
                    tracing::warn!(%model, counter, %error, "there is no patch of an earlier release")
                }
            }
        }
        Ok(bases)
    }

    /// The release whose envelope has this digest.
    pub async fn find_release(&self, digest: &Digest) -> Result<Release> {
        let found = self.releases.find_unique(Release::BY_DIGEST, digest.as_bytes()).await?;
        found.map(|found| found.value).ok_or(Error::ReleaseMissing(*digest))
    }

    /// The newest release of a model; `None` where it has none.
    pub async fn latest_release(&self, model: &ModelName) -> Result<Option<Release>> {
        let counter = self.model(model).await?.latest_release;
        Ok(self.releases.get(Release::id_of(model, counter)).await?.map(|found| found.value))
    }

    /// A page of a model's releases behind `after`, oldest first.
    pub async fn releases(
        &self,
        model: &ModelName,
        after: Option<u64>,
        limit: usize,
    ) -> Result<Vec<Release>> {
        let after = after.map(|counter| Release::id_of(model, counter));
        let prefix = flotilla_storage::compound([model.as_str()]);
        Ok(values(self.releases.list_prefix(&prefix, after.as_deref(), limit).await?))
    }

    /// Everything that a device which should run this release may fetch: the envelope, its files, and their patches.
    pub async fn reachable(&self, release: &Digest) -> Result<BTreeSet<Digest>> {
        let release = self.find_release(release).await?;
        let patches = release.files.iter().flat_map(|file| &file.patches).map(|patch| patch.digest);
        let files = release.files.iter().map(|file| file.digest);
        Ok(files.chain(patches).chain([release.digest]).collect())
    }

    /// The signed manifest of a release, opened.
    pub async fn manifest(&self, release: &Digest) -> Result<ReleaseManifest> {
        let envelope = Envelope::from_bytes(&self.objects.get(release).await?)?;
        Ok(envelope.open(EnvelopeKind::Release, &self.trust.current().file.release_keys)?)
    }

    // === keys and trust ===

    /// The trust file in force.
    pub fn trust(&self) -> Arc<CurrentTrust> {
        self.trust.current()
    }

    /// Forbids every release of `model` below `counter`, on every device, for good.
    pub async fn set_floor(
        &self,
        actor: &Actor,
        model: &ModelName,
        counter: u64,
        now_ms: u64,
    ) -> Result<Arc<CurrentTrust>> {
        let newest = self.model(model).await?.latest_release;
        self.trust.set_floor(actor, model, counter, newest, now_ms).await
    }

    /// Takes a trust file that was made and signed elsewhere, on every device, for good.
    pub async fn publish_trust(
        &self,
        actor: &Actor,
        envelope: Bytes,
        now_ms: u64,
    ) -> Result<Arc<CurrentTrust>> {
        let said: TrustFile = codec::decode(&Envelope::from_bytes(&envelope)?.payload, limits::ENVELOPE)
            .map_err(EnvelopeError::from)?;
        let mut newest = BTreeMap::new();
        for name in said.min_release.into_keys() {
            if let Some(model) = self.models.get(name.as_str()).await? {
                newest.insert(name, model.value.latest_release);
            }
        }
        self.trust.publish(actor, envelope, &newest, now_ms).await
    }

    /// The trust file that a device takes next which has this version; `None` if it has the newest.
    pub async fn trust_after(&self, have: u64) -> Result<Option<Bytes>> {
        self.trust.after(have).await
    }

    /// Signs a desired document with the control key and encodes the envelope.
    pub fn seal_desired(&self, desired: &Desired) -> Result<Bytes> {
        let bound = limits::ENVELOPE as u64;
        let too_large = |size| Error::TooLarge { what: "the desired document", size, bound };
        desired.check().map_err(|_: ErrorCode| too_large(desired.models.len() as u64))?;
        let envelope = Envelope::seal(EnvelopeKind::Desired, desired, &[&self.keys.control]).to_bytes();
        if envelope.len() > limits::ENVELOPE {
            return Err(too_large(envelope.len() as u64));
        }
        Ok(envelope.into())
    }

    // === helpers ===

    /// Writes the model's record: a new one, or the found one with the version counted in.
    pub(crate) fn put_model(
        &self,
        batch: &mut Batch,
        found: Option<Versioned<Model>>,
        version: &ModelVersion,
        change: impl FnOnce(&mut Model),
    ) -> Result<()> {
        let mut model = match &found {
            Some(found) => found.value.clone(),
            None => Model {
                name: version.model.clone(),
                latest_version: 0,
                latest_release: 0,
                created_at_ms: version.created_at_ms,
                created_by: version.created_by.clone(),
            },
        };
        model.latest_version = model.latest_version.max(version.version);
        change(&mut model);
        match &found {
            Some(found) => self.models.update(batch, found, &model)?,
            None => self.models.insert(batch, &model)?,
        }
        Ok(())
    }

    pub(crate) fn release_key(&self) -> &SigningKey {
        &self.keys.release
    }

    pub(crate) async fn commit(&self, batch: Batch) -> Result<()> {
        self.records.commit(batch).await?;
        Ok(())
    }

    async fn read_json<T: serde::de::DeserializeOwned>(&self, digest: &Digest) -> Result<T> {
        let bytes = self.objects.get(digest).await?;
        serde_json::from_slice(&bytes)
            .map_err(|error| Error::Invalid(format!("object {digest} cannot be read: {error}")))
    }
}

pub(crate) fn audit_release(
    batch: &mut Batch,
    actor: &Actor,
    action: &str,
    release: &Release,
    now_ms: u64,
) -> Result<()> {
    let subject = format!("release/{}/{}", release.model, release.counter);
    let file = |name: &str| release.files.iter().find(|file| file.name == name).map(|file| file.digest);
    let detail = json!({
        "digest": release.digest, "version": release.version, "key": release.key_id,
        "model": file(MODEL_FILE), "golden": file(GOLDEN_FILE),
    });
    audit::record(batch, actor, action, &subject, detail, now_ms)?;
    Ok(())
}

pub(crate) fn busy(model: &ModelName) -> Error {
    Error::Contended(model.clone())
}

fn values<T>(page: Page<T>) -> Vec<T> {
    page.items.into_iter().map(|item| item.value).collect()
}

pub(crate) fn json_object(what: &'static str, value: &impl serde::Serialize, bound: usize) -> Result<Bytes> {
    let bytes = serde_json::to_vec(value)
        .map_err(|error| Error::Invalid(format!("{what} cannot be written: {error}")))?;
    if bytes.len() > bound {
        return Err(Error::TooLarge { what, size: bytes.len() as u64, bound: bound as u64 });
    }
    Ok(bytes.into())
}

/// A baseline as releases carry it.
fn encoded_baseline(baseline: &Baseline) -> Result<Bytes> {
    let bytes = codec::encode(baseline);
    let (size, bound) = (bytes.len(), limits::BASELINE);
    if size > bound {
        return Err(Error::TooLarge { what: "the baseline", size: size as u64, bound: bound as u64 });
    }
    Ok(bytes.into())
}

/// Runs work that computes or blocks on a thread that may.
pub(crate) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T> + Send + 'static,
) -> Result<T> {
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result,
        Err(failed) if failed.is_panic() => std::panic::resume_unwind(failed.into_panic()),
        Err(_) => Err(Error::Worker),
    }
}
