//! Models signed to be measured on devices: a manifest like a release's, of a kind that no device activates. It is no
//! release: it has no counter of its own, and nobody can roll it out.

use bytes::Bytes;
use flotilla_protocol::manifest::{
    Constraints, ENGINE_TRACT, FileEntry, Lineage, Metrics, ReleaseKind, ReleaseManifest, Variant,
};
use flotilla_protocol::message::Measurement;
use flotilla_protocol::{Digest, Envelope, EnvelopeKind, ModelName, Pipeline, codec, limits};
use flotilla_runtime::{Model as Runner, make_golden};
use std::collections::BTreeSet;
use std::sync::Arc;

use crate::error::{Error, Result};
use crate::registry::{Registry, blocking};
use crate::release::{GOLDEN_FILE, MODEL_FILE, envelope_too_large};

/// Inputs that a device is to run a model on, at most.
const INPUTS: usize = 64;
/// An answer may differ by as much: what is reported is how much it does.
const TOLERANCE: f32 = f32::MAX;

/// What is to be measured.
#[derive(Clone, Debug)]
pub struct ToMeasure {
    /// The model that it is, or may become a version of.
    pub model: ModelName,
    /// The version, for people; 0 for one that is none yet.
    pub version: u32,
    /// The ONNX file.
    pub onnx: Bytes,
    /// What stands around it.
    pub pipeline: Pipeline,
    /// Inputs to run it on: real samples, each a PNG, a JPEG or raw values.
    pub inputs: Vec<Bytes>,
}

impl Registry {
    /// Signs a model to be measured, and keeps its files where devices that are asked can fetch them.
    pub async fn to_measure(&self, wanted: ToMeasure, now_ms: u64) -> Result<Measurement> {
        let vectors = wanted.inputs.len();
        if vectors == 0 || vectors > INPUTS {
            return Err(Error::Invalid(format!(
                "{vectors} inputs to measure with; 1 to {INPUTS} are possible"
            )));
        }
        let size = wanted.inputs.iter().map(Bytes::len).sum::<usize>();
        if size > limits::PREDICT_INPUT {
            let (size, bound) = (size as u64, limits::PREDICT_INPUT as u64);
            return Err(Error::TooLarge { what: "the inputs to measure with", size, bound });
        }
        let (keys, trust) = (Arc::clone(&self.keys), self.trust().file.clone());
        if !trust.release_keys.is_met_by(&keys.release.public()) {
            return Err(Error::OfflineKeys {
                what: "a measurement",
                needed: trust.release_keys.threshold,
                advice: "measure where the release key of the installation is enough",
            });
        }
        let project = self.project().clone();
        let counter = trust.floor(&wanted.model).max(1);
        let onnx = wanted.onnx.clone();
        let (golden, encoded) = blocking(move || {
            let mut runner = Runner::load(&wanted.pipeline, &wanted.onnx)?;
            let golden = Bytes::from(codec::encode(&make_golden(&mut runner, &wanted.inputs, TOLERANCE)?));
            let manifest = ReleaseManifest {
                format: 1,
                kind: ReleaseKind::Measurement,
                project,
                model: wanted.model,
                version: wanted.version,
                counter,
                created_at_ms: now_ms,
                expires_at_ms: None,
                variants: vec![Variant {
                    engine: ENGINE_TRACT.into(),
                    boards: Vec::new(),
                    model: MODEL_FILE.into(),
                }],
                files: vec![FileEntry::of(MODEL_FILE, &wanted.onnx), FileEntry::of(GOLDEN_FILE, &golden)],
                pipeline: wanted.pipeline,
                golden: GOLDEN_FILE.into(),
                metrics: Metrics::default(),
                lineage: Lineage::default(),
                constraints: Constraints::default(),
                agent: None,
                baseline: None,
            };
            manifest.check()?;
            let encoded = Envelope::seal(EnvelopeKind::Release, &manifest, &[&keys.release]).to_bytes();
            if encoded.len() > limits::ENVELOPE {
                return Err(envelope_too_large(encoded.len()));
            }
            Ok((golden, Bytes::from(encoded)))
        })
        .await?;
        let (manifest, envelope_bytes) = (Digest::of(&encoded), encoded.len() as u32);
        for object in [onnx, golden, encoded] {
            self.objects.put(object).await?;
        }
        Ok(Measurement { manifest, envelope_bytes })
    }

    /// Everything that a device which is to measure this may fetch.
    pub async fn measurable(&self, wanted: &Measurement) -> Result<BTreeSet<Digest>> {
        let files = self.manifest(&wanted.manifest).await?.files;
        Ok(files.into_iter().map(|file| file.digest).chain([wanted.manifest]).collect())
    }
}
