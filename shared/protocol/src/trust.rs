//! The trust file: which keys a device believes, and the floors below which it never goes.

use crate::envelope::{Envelope, EnvelopeError, EnvelopeKind};
use crate::signature::{KeyId, PublicKey};
use crate::{Digest, ErrorCode, ModelName, ProjectId, limits};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// Keys, and how many of them must sign.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeySet {
    /// Distinct valid signatures needed; at least 1.
    pub threshold: u16,
    /// The keys.
    pub keys: Vec<PublicKey>,
}

impl KeySet {
    /// A set of one key that signs alone.
    pub fn single(key: PublicKey) -> Self {
        Self { threshold: 1, keys: vec![key] }
    }

    /// The key with this id, if it is in the set.
    pub fn get(&self, id: KeyId) -> Option<&PublicKey> {
        self.keys.iter().take(limits::TRUST_KEYS).find(|key| key.id() == id)
    }

    /// Whether this key alone is enough.
    pub fn is_met_by(&self, key: &PublicKey) -> bool {
        self.threshold <= 1 && self.get(key.id()).is_some()
    }

    fn is_usable(&self) -> bool {
        let mut ids: Vec<_> = self.keys.iter().map(PublicKey::id).collect();
        ids.sort();
        ids.dedup();
        ids.len() == self.keys.len()
            && self.keys.len() <= limits::TRUST_KEYS
            && (1..=self.keys.len()).contains(&usize::from(self.threshold))
    }
}

/// What a device of a project believes. Signed by the release keys; each new version by those of the old one.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TrustFile {
    /// Counts up; a device never goes back.
    pub version: u64,
    /// The project this trust is for.
    pub project: ProjectId,
    /// SHA-256 of the root CA's subject public key info.
    pub ca: Digest,
    /// Keys that sign releases and the next trust file. They may live offline.
    pub release_keys: KeySet,
    /// Keys that sign desired documents, online in the control plane.
    pub control_keys: KeySet,
    /// Lowest release counter that may be activated, a model.
    #[serde(default)]
    pub min_release: BTreeMap<ModelName, u64>,
    /// When it was signed, in milliseconds since 1970.
    pub issued_at_ms: u64,
}

/// Why a trust file was not accepted.
#[derive(Debug, thiserror::Error)]
pub enum TrustError {
    /// Not signed by the keys that must sign it.
    #[error("the trust file is not acceptable: {0}")]
    Envelope(#[from] EnvelopeError),
    /// Of another project.
    #[error("the trust file is for project {got}, this device belongs to {expected}")]
    Project {
        /// The device's project.
        expected: ProjectId,
        /// The file's.
        got: ProjectId,
    },
    /// Not newer than the accepted one.
    #[error("trust file version {got} is not newer than the accepted version {accepted}")]
    Version {
        /// What the device has.
        accepted: u64,
        /// What came.
        got: u64,
    },
    /// A key set that could never, or always, be satisfied.
    #[error(
        "the trust file's {which} keys are unusable: the threshold must lie between 1 and the number of distinct keys"
    )]
    Keys {
        /// Which set.
        which: &'static str,
    },
    /// A floor went down.
    #[error("the trust file lowers the floor of model {model} from {from} to {to}")]
    Floor {
        /// The model.
        model: ModelName,
        /// The accepted floor.
        from: u64,
        /// The offered floor.
        to: u64,
    },
}

impl TrustError {
    /// The stable code.
    pub fn code(&self) -> ErrorCode {
        match self {
            TrustError::Envelope(e) => e.code(),
            TrustError::Project { .. } => ErrorCode::WrongProject,
            TrustError::Version { .. } => ErrorCode::Replayed,
            TrustError::Keys { .. } => ErrorCode::InvalidInput,
            TrustError::Floor { .. } => ErrorCode::BelowFloor,
        }
    }
}

impl TrustFile {
    /// Accepts the first trust file of a device, received over a connection already checked against the claim
    /// code's CA hash. It must be signed by its own release keys.
    pub fn accept_first(envelope: &Envelope) -> Result<Self, TrustError> {
        // The keys are read before the signature is checked only to know which keys to check it with.
        let claimed: TrustFile =
            crate::codec::decode(&envelope.payload, limits::ENVELOPE).map_err(EnvelopeError::from)?;
        claimed.check_keys()?;
        Ok(envelope.open(EnvelopeKind::Trust, &claimed.release_keys)?)
    }

    /// Accepts a newer trust file: signed by the release keys of `self`, same project, higher version,
    /// no floor lowered.
    pub fn accept_next(&self, envelope: &Envelope) -> Result<Self, TrustError> {
        let next: TrustFile = envelope.open(EnvelopeKind::Trust, &self.release_keys)?;
        if next.project != self.project {
            return Err(TrustError::Project { expected: self.project.clone(), got: next.project });
        }
        if next.version <= self.version {
            return Err(TrustError::Version { accepted: self.version, got: next.version });
        }
        next.check_keys()?;
        for (model, &from) in &self.min_release {
            let to = next.floor(model);
            if to < from {
                return Err(TrustError::Floor { model: model.clone(), from, to });
            }
        }
        Ok(next)
    }

    /// The lowest release counter of `model` that may be activated.
    pub fn floor(&self, model: &ModelName) -> u64 {
        self.min_release.get(model).copied().unwrap_or(0)
    }

    fn check_keys(&self) -> Result<(), TrustError> {
        for (which, set) in [("release", &self.release_keys), ("control", &self.control_keys)] {
            if !set.is_usable() {
                return Err(TrustError::Keys { which });
            }
        }
        Ok(())
    }
}
