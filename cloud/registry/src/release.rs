//! Releases: model versions signed for devices.

use crate::error::{Error, Result};
use bytes::Bytes;
use flotilla_protocol::manifest::{
    AgentFacts, Constraints, ENGINE_TRACT, FileEntry, Golden, Metrics, Patch, ReleaseKind, ReleaseManifest,
    Variant,
};
use flotilla_protocol::signature::{KeyId, SigningKey};
use flotilla_protocol::{
    ActorId, Digest, Envelope, EnvelopeKind, ModelName, Pipeline, ProjectId, codec, limits,
};
use flotilla_runtime::Model as Runner;
use flotilla_storage::{Entity, Table, compound};
use serde::{Deserialize, Serialize};

use crate::model::ModelVersion;
use crate::patches::{self, Base};

/// Name of the model file in a release.
pub(crate) const MODEL_FILE: &str = "model.onnx";
/// Name of the file with the golden vectors.
pub(crate) const GOLDEN_FILE: &str = "golden.cbor";
/// Name of the file with the baseline.
pub(crate) const BASELINE_FILE: &str = "baseline.cbor";
/// Golden vectors in a release made here.
const GOLDEN_VECTORS: usize = 64;
/// Difference of a score that other processors may show: summation order and fused operations differ.
const GOLDEN_TOLERANCE: f32 = 1e-3;

/// A release as it is remembered; the signed manifest and the files are objects.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Release {
    /// The model.
    pub model: ModelName,
    /// The model version.
    pub version: u32,
    /// Counts up with every release of the model.
    pub counter: u64,
    /// Digest of the signed envelope: the release's name everywhere.
    pub digest: Digest,
    /// Size of the signed envelope.
    pub envelope_bytes: u32,
    /// The files.
    pub files: Vec<ReleaseFile>,
    /// Bytes of all files.
    pub total_bytes: u64,
    /// The key that signed.
    pub key_id: KeyId,
    /// What was measured on the model file.
    pub metrics: Metrics,
    /// When it was signed, in milliseconds since 1970.
    pub created_at_ms: u64,
    /// After this moment devices do not activate it any more.
    #[serde(default)]
    pub expires_at_ms: Option<u64>,
    /// Who released it.
    pub created_by: ActorId,
    /// The agent in it, where it is a release of the agent itself.
    #[serde(default)]
    pub agent: Option<AgentFacts>,
}

/// A file of a release.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReleaseFile {
    /// Its name within the release.
    pub name: String,
    /// Its digest.
    pub digest: Digest,
    /// Its size.
    pub bytes: u64,
    /// What it can be made from, instead of being fetched.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub patches: Vec<ReleasePatch>,
}

/// A patch of a file of a release.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReleasePatch {
    /// The file that it is applied to; none where it is the compressed file.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub base: Option<Digest>,
    /// Its digest.
    pub digest: Digest,
    /// Its size.
    pub bytes: u64,
}

impl Release {
    pub(crate) const BY_DIGEST: &'static str = "digest";

    pub(crate) fn id_of(model: &ModelName, counter: u64) -> Vec<u8> {
        compound([model.as_str().as_bytes(), &counter.to_be_bytes()])
    }

    /// What is remembered of a manifest and its envelope.
    pub(crate) fn of(
        manifest: &ReleaseManifest,
        envelope: &Envelope,
        encoded: &[u8],
        by: &ActorId,
    ) -> Result<Self> {
        let signature =
            envelope.signatures.first().ok_or_else(|| Error::Bundle("it is not signed".into()))?;
        let patch = |p: &Patch| ReleasePatch { base: p.base, digest: p.digest, bytes: p.bytes };
        let file = |f: &FileEntry| ReleaseFile {
            name: f.name.clone(),
            digest: f.digest,
            bytes: f.bytes,
            patches: f.patches.iter().map(patch).collect(),
        };
        Ok(Self {
            model: manifest.model.clone(),
            version: manifest.version,
            counter: manifest.counter,
            digest: Digest::of(encoded),
            envelope_bytes: u32::try_from(encoded.len()).map_err(|_| envelope_too_large(encoded.len()))?,
            files: manifest.files.iter().map(file).collect(),
            total_bytes: manifest.total_bytes(),
            key_id: signature.key,
            metrics: manifest.metrics.clone(),
            created_at_ms: manifest.created_at_ms,
            expires_at_ms: manifest.expires_at_ms,
            created_by: by.clone(),
            agent: manifest.agent.clone(),
        })
    }
}

impl Entity for Release {
    const TABLE: Table = Table::new("releases");

    fn id(&self) -> Vec<u8> {
        Self::id_of(&self.model, self.counter)
    }

    fn unique(&self) -> Vec<(&'static str, Vec<u8>)> {
        vec![(Self::BY_DIGEST, self.digest.as_bytes().to_vec())]
    }
}

/// What a release is to be made of.
#[derive(Clone, Debug)]
pub struct ReleaseRequest {
    /// The model.
    pub model: ModelName,
    /// The version; the newest where none is named.
    pub version: Option<u32>,
    /// Inputs whose outputs every device must reproduce: real samples, each a PNG, a JPEG or raw pixels.
    pub golden_inputs: Vec<Bytes>,
    /// What a device needs.
    pub constraints: Constraints,
    /// The boards it is for; empty for all.
    pub boards: Vec<String>,
    /// After this moment devices do not activate it any more.
    pub expires_at_ms: Option<u64>,
}

impl ReleaseRequest {
    /// A release of the newest version, for every board, without expiry.
    pub fn newest(model: ModelName, golden_inputs: Vec<Bytes>) -> Self {
        let constraints = Constraints::default();
        Self { model, version: None, golden_inputs, constraints, boards: Vec::new(), expires_at_ms: None }
    }

    pub(crate) fn check(&self, now_ms: u64) -> Result<()> {
        let (vectors, bytes) =
            (self.golden_inputs.len(), self.golden_inputs.iter().map(Bytes::len).sum::<usize>());
        if vectors == 0 || vectors > GOLDEN_VECTORS {
            return Err(Error::Invalid(format!(
                "{vectors} golden inputs; 1 to {GOLDEN_VECTORS} are possible: devices check a release with them"
            )));
        }
        if bytes > limits::PREDICT_INPUT {
            let (size, bound) = (bytes as u64, limits::PREDICT_INPUT as u64);
            return Err(Error::TooLarge { what: "the golden inputs", size, bound });
        }
        if self.boards.len() > limits::RELEASE_FILES || self.boards.iter().any(|b| b.len() > limits::LABEL) {
            return Err(Error::Invalid("too many boards, or too long a board name".into()));
        }
        match self.expires_at_ms {
            Some(at) if at <= now_ms => Err(Error::Invalid("the release would be expired already".into())),
            _ => Ok(()),
        }
    }
}

/// A signed release and its files, in memory.
pub(crate) struct Signed {
    pub(crate) manifest: ReleaseManifest,
    pub(crate) envelope: Envelope,
    pub(crate) encoded: Bytes,
    pub(crate) golden: Bytes,
    pub(crate) patches: Vec<Bytes>,
}

/// Everything that signing needs beside the request.
pub(crate) struct Material {
    pub(crate) project: ProjectId,
    pub(crate) version: ModelVersion,
    pub(crate) pipeline: Pipeline,
    pub(crate) onnx: Bytes,
    pub(crate) baseline: Option<Bytes>,
    /// What devices may have of the model.
    pub(crate) bases: Vec<Base>,
    pub(crate) counter: u64,
    pub(crate) now_ms: u64,
}

/// Runs the golden inputs through the very bytes that ship, and signs. Blocks: inference is work.
pub(crate) fn sign(request: &ReleaseRequest, material: Material, key: &SigningKey) -> Result<Signed> {
    let mut runner = Runner::load(&material.pipeline, &material.onnx)?;
    let golden: Golden =
        flotilla_runtime::make_golden(&mut runner, request.golden_inputs.iter(), GOLDEN_TOLERANCE)?;
    let golden = codec::encode(&golden);
    let (patches, contents) = patches::make(&material.onnx, &material.bases).into_iter().unzip();
    let model = FileEntry { patches, ..FileEntry::of(MODEL_FILE, &material.onnx) };
    let mut files = vec![model, FileEntry::of(GOLDEN_FILE, &golden)];
    files.extend(material.baseline.iter().map(|baseline| FileEntry::of(BASELINE_FILE, baseline)));
    let manifest = ReleaseManifest {
        format: 1,
        kind: ReleaseKind::Model,
        project: material.project,
        model: material.version.model,
        version: material.version.version,
        counter: material.counter,
        created_at_ms: material.now_ms,
        expires_at_ms: request.expires_at_ms,
        variants: vec![Variant {
            engine: ENGINE_TRACT.into(),
            boards: request.boards.clone(),
            model: MODEL_FILE.into(),
        }],
        files,
        pipeline: material.pipeline,
        golden: GOLDEN_FILE.into(),
        metrics: material.version.metrics,
        lineage: material.version.lineage,
        constraints: request.constraints.clone(),
        agent: None,
        baseline: material.baseline.is_some().then(|| BASELINE_FILE.to_owned()),
    };
    manifest.check()?;
    let envelope = Envelope::seal(EnvelopeKind::Release, &manifest, &[key]);
    let encoded = envelope.to_bytes();
    if encoded.len() > limits::ENVELOPE {
        return Err(envelope_too_large(encoded.len()));
    }
    Ok(Signed { manifest, envelope, encoded: encoded.into(), golden: golden.into(), patches: contents })
}

pub(crate) fn envelope_too_large(size: usize) -> Error {
    Error::TooLarge { what: "the signed manifest", size: size as u64, bound: limits::ENVELOPE as u64 }
}
