//! The release manifest: what a release is made of, where it may run, and what was measured on it.

use crate::digest::chunk_digests;
use crate::envelope::{Envelope, EnvelopeError, EnvelopeKind};
use crate::trust::TrustFile;
use crate::{Digest, ErrorCode, ModelName, Pipeline, ProjectId, limits};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// The signed description of one release.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ReleaseManifest {
    /// Format version: 1.
    pub format: u16,
    /// What the files are.
    pub kind: ReleaseKind,
    /// The project it was made for.
    pub project: ProjectId,
    /// The model.
    pub model: ModelName,
    /// The model version, for people: 1, 2, 3 …
    pub version: u32,
    /// Counts up with every release of the model; compared with the trust file's floor.
    pub counter: u64,
    /// When it was signed, in milliseconds since 1970.
    pub created_at_ms: u64,
    /// After this moment it is not activated any more.
    #[serde(default)]
    pub expires_at_ms: Option<u64>,
    /// The same model for different engines and boards; the first that fits is taken.
    pub variants: Vec<Variant>,
    /// Every file of the release.
    pub files: Vec<FileEntry>,
    /// Pre- and post-processing.
    pub pipeline: Pipeline,
    /// Name of the file with golden vectors ([`Golden`]).
    pub golden: String,
    /// What was measured on these very files.
    pub metrics: Metrics,
    /// Where the model comes from.
    pub lineage: Lineage,
    /// What a device needs.
    pub constraints: Constraints,
    /// The agent in it, of a release of kind [`ReleaseKind::Agent`]. Such a release is one of the reserved name
    /// [`AGENT_NAME`], so that floors, counters and rollouts of agents work as those of a model do; its variants
    /// name a binary a platform ([`agent_engine`]), and pipeline, golden vectors and metrics say nothing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub agent: Option<AgentFacts>,
    /// Name of the file with what the model saw and answered in training ([`crate::Baseline`]). A release without one
    /// works as well; its devices know of no drift.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub baseline: Option<String>,
}

/// The name under which releases of the agent itself go; no model has it.
pub const AGENT_NAME: &str = "flotilla-agent";

/// [`AGENT_NAME`] as a name.
pub fn agent_name() -> ModelName {
    ModelName::new(AGENT_NAME).expect("the name is well-formed")
}

/// The engine name of an agent binary: operating system and architecture, as Rust names them.
pub fn agent_engine(os: &str, arch: &str) -> String {
    format!("agent-{os}-{arch}")
}

/// What is in a release of the agent.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AgentFacts {
    /// Version of the agent, as it prints it itself.
    pub version: String,
}

/// What a release holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ReleaseKind {
    /// A model for inference.
    Model,
    /// A new agent binary.
    Agent,
    /// A model that devices run to measure it, and never activate.
    Measurement,
}

/// One form of the model.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Variant {
    /// The engine that runs it, such as [`ENGINE_TRACT`].
    pub engine: String,
    /// Boards it is for; empty for all.
    #[serde(default)]
    pub boards: Vec<String>,
    /// Name of the model file.
    pub model: String,
}

/// The engine name of ONNX files that tract runs.
pub const ENGINE_TRACT: &str = "tract-onnx";

/// One content-addressed file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileEntry {
    /// Name within the release: one path component.
    pub name: String,
    /// SHA-256 of the whole file.
    pub digest: Digest,
    /// Size.
    pub bytes: u64,
    /// SHA-256 of each piece of `chunk_bytes`; the last may be shorter.
    pub chunks: Vec<Digest>,
    /// Size of a piece.
    pub chunk_bytes: u32,
    /// Smaller files from which it can be made; the best first. Whoever knows none of the ways fetches the file itself.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub patches: Vec<Patch>,
}

/// A way to have a file without fetching all of it. It is fetched as files are: by digest and in chunks.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Patch {
    /// Digest of the file that it is made from with the patch; none where the patch is the file itself, compressed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub base: Option<Digest>,
    /// How that is done, such as `flotilla_patch::METHOD`.
    pub method: String,
    /// SHA-256 of the patch.
    pub digest: Digest,
    /// Its size.
    pub bytes: u64,
    /// SHA-256 of each piece of [`limits::CHUNK`]; the last may be shorter.
    pub chunks: Vec<Digest>,
}

impl Patch {
    /// Describes a patch with this content.
    pub fn of(base: Option<Digest>, method: impl Into<String>, content: &[u8]) -> Self {
        Self {
            base,
            method: method.into(),
            digest: Digest::of(content),
            bytes: content.len() as u64,
            chunks: chunk_digests(content),
        }
    }

    /// The patch as a file. No file of a release has a name like it.
    pub fn entry(&self) -> FileEntry {
        FileEntry {
            name: format!(".{}", self.digest),
            digest: self.digest,
            bytes: self.bytes,
            chunks: self.chunks.clone(),
            chunk_bytes: limits::CHUNK as u32,
            patches: Vec::new(),
        }
    }
}

impl FileEntry {
    /// Describes a file with this content.
    pub fn of(name: impl Into<String>, content: &[u8]) -> Self {
        Self {
            name: name.into(),
            digest: Digest::of(content),
            bytes: content.len() as u64,
            chunks: chunk_digests(content),
            chunk_bytes: limits::CHUNK as u32,
            patches: Vec::new(),
        }
    }
}

/// Accuracy on the test split, measured by the runtime on the files that ship.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Metrics {
    /// Samples of the test split.
    pub samples: u64,
    /// Of these predicted right.
    pub correct: u64,
    /// `correct / samples`, 0 to 1.
    pub accuracy: f64,
    /// Other figures by name.
    #[serde(default)]
    pub other: BTreeMap<String, f64>,
}

/// Where a model comes from.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lineage {
    /// Dataset name.
    pub dataset: String,
    /// Dataset version.
    pub dataset_version: u32,
    /// The training job.
    pub training_job: String,
    /// What compression did, as one line of text.
    pub recipe: String,
}

/// What a device must have.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Constraints {
    /// Memory that loading and running may take, in bytes; 0 for unknown.
    #[serde(default)]
    pub memory_bytes: u64,
    /// Longest time of one prediction that is acceptable, in microseconds; 0 for any.
    #[serde(default)]
    pub latency_us: u64,
}

/// Inputs with the outputs that the release gave when it was made. A device compares its own with them.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Golden {
    /// Largest absolute difference of an output value that is acceptable.
    pub tolerance: f32,
    /// The vectors.
    pub vectors: Vec<GoldenVector>,
}

/// One golden input and its output.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct GoldenVector {
    /// Raw input, as an application would send it.
    #[serde(with = "serde_bytes")]
    pub input: Vec<u8>,
    /// The answer's scores.
    pub scores: Vec<f32>,
}

/// Why a release was refused.
#[derive(Debug, thiserror::Error)]
pub enum ReleaseError {
    /// Not signed by the project's release keys.
    #[error("the release is not acceptable: {0}")]
    Envelope(#[from] EnvelopeError),
    /// Made for another project.
    #[error("the release is for project {got}, this device belongs to {expected}")]
    Project {
        /// The device's project.
        expected: ProjectId,
        /// The release's.
        got: ProjectId,
    },
    /// Below the signed floor.
    #[error("release counter {counter} of model {model} is below the signed floor {floor}")]
    BelowFloor {
        /// The model.
        model: ModelName,
        /// The release's counter.
        counter: u64,
        /// The floor.
        floor: u64,
    },
    /// Past its expiry.
    #[error("the release expired at {expires_at_ms} ms since 1970; it is {now_ms}")]
    Expired {
        /// Its expiry.
        expires_at_ms: u64,
        /// The moment of the check.
        now_ms: u64,
    },
    /// The manifest contradicts itself or a bound.
    #[error("the release manifest is not usable: {0}")]
    Invalid(String),
    /// No variant for this board and engine.
    #[error("the release has no variant for board {board} and engine {engine}")]
    Board {
        /// The board.
        board: String,
        /// The engine.
        engine: String,
    },
}

impl ReleaseError {
    /// The stable code.
    pub fn code(&self) -> ErrorCode {
        match self {
            ReleaseError::Envelope(e) => e.code(),
            ReleaseError::Project { .. } => ErrorCode::WrongProject,
            ReleaseError::BelowFloor { .. } => ErrorCode::BelowFloor,
            ReleaseError::Expired { .. } => ErrorCode::Expired,
            ReleaseError::Invalid(_) => ErrorCode::Malformed,
            ReleaseError::Board { .. } => ErrorCode::BoardMismatch,
        }
    }
}

impl ReleaseManifest {
    /// Opens a signed release: signatures against the trust file's release keys, project, floor, expiry and
    /// every bound. `now_ms` is the highest moment the caller has proof of, never a bare clock.
    pub fn open(envelope: &Envelope, trust: &TrustFile, now_ms: u64) -> Result<Self, ReleaseError> {
        let manifest: Self = envelope.open(EnvelopeKind::Release, &trust.release_keys)?;
        if manifest.project != trust.project {
            return Err(ReleaseError::Project { expected: trust.project.clone(), got: manifest.project });
        }
        manifest.check()?;
        let floor = trust.floor(&manifest.model);
        if manifest.counter < floor {
            return Err(ReleaseError::BelowFloor { model: manifest.model, counter: manifest.counter, floor });
        }
        match manifest.expires_at_ms {
            Some(expires_at_ms) if expires_at_ms <= now_ms => {
                Err(ReleaseError::Expired { expires_at_ms, now_ms })
            }
            _ => Ok(manifest),
        }
    }

    /// Checks the manifest against itself and the limits.
    pub fn check(&self) -> Result<(), ReleaseError> {
        let invalid = |text: String| Err(ReleaseError::Invalid(text));
        if self.format != 1 {
            return invalid(format!("format {} is not known here, only 1", self.format));
        }
        if self.files.is_empty() || self.files.len() > limits::RELEASE_FILES {
            return invalid(format!(
                "{} files; 1 to {} are possible",
                self.files.len(),
                limits::RELEASE_FILES
            ));
        }
        for (index, file) in self.files.iter().enumerate() {
            check_file(file)?;
            if self.files[..index].iter().any(|other| other.name == file.name) {
                return invalid(format!("file {} is named twice", file.name));
            }
        }
        let golden = (self.kind != ReleaseKind::Agent).then_some(&self.golden);
        for name in self.variants.iter().map(|v| &v.model).chain(golden).chain(&self.baseline) {
            if self.file(name).is_none() {
                return invalid(format!("file {name} is referred to but not listed"));
            }
        }
        let baseline = self.baseline.as_ref().and_then(|name| self.file(name));
        if let Some(file) = baseline.filter(|file| file.bytes > limits::BASELINE as u64) {
            return invalid(format!(
                "baseline {} has {} bytes, over the bound of {}",
                file.name,
                file.bytes,
                limits::BASELINE
            ));
        }
        let reserved = self.model.as_str() == AGENT_NAME;
        match (self.kind, &self.agent) {
            (ReleaseKind::Model | ReleaseKind::Measurement, _) if reserved => {
                invalid(format!("{AGENT_NAME} is not a model's name"))
            }
            (ReleaseKind::Model | ReleaseKind::Measurement, _) => {
                self.pipeline.check().map_err(|e| ReleaseError::Invalid(e.to_string()))
            }
            (ReleaseKind::Agent, _) if !reserved => {
                invalid(format!("an agent is named {}, not {AGENT_NAME}", self.model))
            }
            (ReleaseKind::Agent, Some(agent)) if (1..=limits::ID).contains(&agent.version.len()) => Ok(()),
            (ReleaseKind::Agent, _) => invalid("the agent's version is missing or too long".to_owned()),
        }
    }

    /// What one device needs of the release: the variant for its board and engine, and that variant's file. An agent
    /// release holds a binary a platform, of which a device fetches its own only.
    pub fn part_for(mut self, board: &str, engine: &str) -> Result<Self, ReleaseError> {
        let variant = self.variant_for(board, engine)?.clone();
        self.files.retain(|file| file.name == variant.model);
        self.variants = vec![variant];
        Ok(self)
    }

    /// The entry of the file with this name.
    pub fn file(&self, name: &str) -> Option<&FileEntry> {
        self.files.iter().find(|file| file.name == name)
    }

    /// The first variant for this board and engine.
    pub fn variant_for(&self, board: &str, engine: &str) -> Result<&Variant, ReleaseError> {
        self.variants
            .iter()
            .find(|v| v.engine == engine && (v.boards.is_empty() || v.boards.iter().any(|b| b == board)))
            .ok_or_else(|| ReleaseError::Board { board: board.to_owned(), engine: engine.to_owned() })
    }

    /// Bytes of all files.
    pub fn total_bytes(&self) -> u64 {
        self.files.iter().map(|file| file.bytes).sum()
    }
}

fn check_file(file: &FileEntry) -> Result<(), ReleaseError> {
    let invalid = |text: String| Err(ReleaseError::Invalid(format!("file {:?} {text}", file.name)));
    let plain = !file.name.is_empty()
        && file.name.len() <= limits::LABEL
        && !file.name.starts_with('.')
        && file.name.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.".contains(&b));
    if !plain {
        return invalid("has a name other than one plain path component".to_owned());
    }
    if file.bytes > limits::RELEASE_FILE {
        return invalid(format!("has {} bytes, over the bound of {}", file.bytes, limits::RELEASE_FILE));
    }
    let chunk = u64::from(file.chunk_bytes);
    if chunk == 0 || chunk > limits::CHUNK as u64 || file.chunks.len() as u64 != file.bytes.div_ceil(chunk) {
        return invalid("has chunk digests that do not fit its size".to_owned());
    }
    if file.patches.len() > limits::FILE_PATCHES {
        return invalid(format!("has more than {} patches", limits::FILE_PATCHES));
    }
    file.patches.iter().try_for_each(|patch| {
        let fits = patch.chunks.len() as u64 == patch.bytes.div_ceil(limits::CHUNK as u64);
        if patch.bytes > file.bytes || !fits || patch.method.len() > limits::LABEL {
            return invalid(
                "has a patch that is larger than it, or cut in another way than its size says".to_owned(),
            );
        }
        Ok(())
    })
}
