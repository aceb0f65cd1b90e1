//! Releases as one file: out of this registry, and back in.

use crate::bundle::Bundle;
use crate::error::{Error, Result};
use crate::model::{ModelVersion, Source};
use crate::registry::{ATTEMPTS, REPORT, Registry, audit_release, blocking, busy, json_object};
use crate::release::Release;
use bytes::Bytes;
use flotilla_identity::Actor;
use flotilla_protocol::manifest::ReleaseKind;
use flotilla_protocol::{Digest, ReleaseManifest};
use flotilla_storage::{Batch, Entity};
use std::collections::BTreeMap;

impl Registry {
    /// A release as one file.
    pub async fn export(&self, release: &Digest) -> Result<Bytes> {
        let release = self.find_release(release).await?;
        let mut files = BTreeMap::new();
        for file in &release.files {
            files.insert(file.name.clone(), self.objects.get(&file.digest).await?);
        }
        let mut patches = BTreeMap::new();
        for patch in release.files.iter().flat_map(|file| &file.patches) {
            patches.insert(patch.digest, self.objects.get(&patch.digest).await?);
        }
        let bundle = Bundle { envelope: self.objects.get(&release.digest).await?, files, patches };
        blocking(move || Ok(bundle.to_zip()?.into())).await
    }

    /// Takes back a release that this project signed. Everything is checked before anything is stored: form,
    /// signature, digests, and that the model still gives its golden outputs. Importing one that is there
    /// already changes nothing.
    pub async fn import_bundle(&self, actor: &Actor, zip: Bytes, now_ms: u64) -> Result<Release> {
        let trust = self.trust.current();
        let (bundle, envelope, manifest) = blocking(move || {
            let bundle = Bundle::from_zip(&zip)?;
            let (envelope, manifest) = bundle.verify(&trust.file, now_ms)?;
            if manifest.kind == ReleaseKind::Model {
                check_golden(&bundle, &manifest)?;
            }
            Ok((bundle, envelope, manifest))
        })
        .await?;
        let mut release = Release::of(&manifest, &envelope, &bundle.envelope, &actor.id)?;
        for file in &mut release.files {
            file.patches.retain(|patch| bundle.patches.contains_key(&patch.digest));
        }
        for _ in 0..ATTEMPTS {
            match self.find_release(&release.digest).await {
                Err(Error::ReleaseMissing(_)) => {}
                found => return found,
            }
            let mut batch = Batch::new();
            self.stage_import(&mut batch, actor, &bundle, &manifest, &release, now_ms).await?;
            match self.commit(batch).await {
                Err(error) if error.is_conflict() => {}
                done => return done.map(|()| release),
            }
        }
        Err(busy(&manifest.model))
    }

    async fn stage_import(
        &self,
        batch: &mut Batch,
        actor: &Actor,
        bundle: &Bundle,
        manifest: &ReleaseManifest,
        release: &Release,
        now_ms: u64,
    ) -> Result<()> {
        let (model, counter) = (&manifest.model, manifest.counter);
        if self.releases.get(Release::id_of(model, counter)).await?.is_some() {
            return Err(Error::CounterTaken { model: model.clone(), counter });
        }
        self.objects.put(bundle.envelope.clone()).await?;
        for content in bundle.files.values().chain(bundle.patches.values()) {
            self.objects.put(content.clone()).await?;
        }
        self.releases.insert(batch, release)?;
        audit_release(batch, actor, "release:import", release, now_ms)?;
        let found = self.models.get(model.as_str()).await?;
        if manifest.kind == ReleaseKind::Agent {
            return self.put_agent(batch, actor, found, counter, now_ms);
        }
        let onnx = manifest.variants.first().and_then(|variant| manifest.file(&variant.model));
        let onnx = onnx.ok_or_else(|| Error::Bundle("it holds no model".into()))?;
        let pipeline = self.objects.put(json_object("the pipeline", &manifest.pipeline, REPORT)?).await?;
        let version = ModelVersion {
            model: model.clone(),
            version: manifest.version,
            onnx: onnx.digest,
            onnx_bytes: onnx.bytes,
            pipeline,
            source: Source::Imported { from: format!("bundle {}", release.digest.short()) },
            metrics: manifest.metrics.clone(),
            lineage: manifest.lineage.clone(),
            quality: None,
            report: None,
            baseline: manifest.baseline.as_ref().and_then(|name| manifest.file(name)).map(|file| file.digest),
            licence: None,
            samples: None,
            created_at_ms: now_ms,
            created_by: actor.id.clone(),
        };
        match self.versions.get(version.id()).await? {
            Some(known) if known.value.onnx != version.onnx => {
                return Err(Error::CounterTaken { model: model.clone(), counter });
            }
            Some(_) => {}
            None => self.versions.insert(batch, &version)?,
        }
        self.put_model(batch, found, &version, |model| {
            model.latest_release = model.latest_release.max(counter)
        })
    }
}

/// Runs the golden vectors of a verified bundle.
fn check_golden(bundle: &Bundle, manifest: &ReleaseManifest) -> Result<()> {
    let files = bundle.files.iter().map(|(name, bytes)| (name.clone(), bytes.to_vec())).collect();
    let bundle = flotilla_runtime::Bundle::from_files(manifest.clone(), files)?;
    let variant = manifest.variants.first().ok_or_else(|| Error::Bundle("it holds no model".into()))?;
    let mut model = flotilla_runtime::Model::load(&manifest.pipeline, &bundle.read(&variant.model)?)?;
    flotilla_runtime::check_golden(&mut model, &bundle.golden()?)?;
    // A device would refuse the release for one that cannot be read.
    bundle.baseline()?;
    Ok(())
}
