//! Signed envelopes: verify the exact bytes, then decode; nothing is re-encoded.
//!
//! The signed text is `"flotilla/v1/" || kind || 0x00 || payload`, so that a signature over one kind of
//! document can never be passed off as one over another.

use crate::codec::{self, DecodeError};
use crate::signature::{KeyId, SigningKey};
use crate::trust::KeySet;
use crate::{Digest, ErrorCode, limits};
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;

/// What an envelope holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum EnvelopeKind {
    /// A [`crate::ReleaseManifest`].
    Release,
    /// A [`crate::message::Desired`].
    Desired,
    /// A [`crate::TrustFile`].
    Trust,
}

impl EnvelopeKind {
    fn tag(self) -> &'static [u8] {
        match self {
            EnvelopeKind::Release => b"flotilla/v1/release\0",
            EnvelopeKind::Desired => b"flotilla/v1/desired\0",
            EnvelopeKind::Trust => b"flotilla/v1/trust\0",
        }
    }
}

/// One signature over an envelope's payload.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Signature {
    /// The key that signed.
    pub key: KeyId,
    /// The 64 signature bytes.
    #[serde(with = "serde_bytes")]
    pub bytes: Vec<u8>,
}

/// A payload and the signatures over it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Envelope {
    /// What the payload is.
    pub kind: EnvelopeKind,
    /// The document's CBOR, byte for byte as signed.
    #[serde(with = "serde_bytes")]
    pub payload: Vec<u8>,
    /// Signatures by distinct keys.
    pub signatures: Vec<Signature>,
}

/// Why an envelope was not believed.
#[derive(Debug, thiserror::Error)]
pub enum EnvelopeError {
    /// Not an envelope, or its document does not decode.
    #[error("the signed document does not decode: {0}")]
    Decode(#[from] DecodeError),
    /// The envelope holds another kind of document.
    #[error("expected a signed {expected:?} document, got {got:?}")]
    Kind {
        /// What was wanted.
        expected: EnvelopeKind,
        /// What came.
        got: EnvelopeKind,
    },
    /// Not enough valid signatures by trusted keys.
    #[error("{valid} of the {needed} needed signatures by trusted keys are valid")]
    Signature {
        /// Distinct trusted keys whose signature is valid.
        valid: usize,
        /// The threshold.
        needed: usize,
    },
}

impl EnvelopeError {
    /// The stable code.
    pub fn code(&self) -> ErrorCode {
        match self {
            EnvelopeError::Decode(e) => e.code(),
            EnvelopeError::Kind { .. } => ErrorCode::Malformed,
            EnvelopeError::Signature { .. } => ErrorCode::SignatureInvalid,
        }
    }
}

impl Envelope {
    /// Encodes `document` and signs it with each of `keys`.
    pub fn seal<T: Serialize>(kind: EnvelopeKind, document: &T, keys: &[&SigningKey]) -> Self {
        let payload = codec::encode(document);
        let text = Self::signed_text(kind, &payload);
        let signatures = keys
            .iter()
            .map(|key| Signature { key: key.public().id(), bytes: key.sign(&text).to_vec() })
            .collect();
        Self { kind, payload, signatures }
    }

    /// Adds the signature of a further key; one that has signed already changes nothing. False if there is no room.
    pub fn sign(&mut self, key: &SigningKey) -> bool {
        let id = key.public().id();
        if self.signatures.iter().any(|s| s.key == id) {
            return true;
        }
        if self.signatures.len() >= limits::SIGNATURES {
            return false;
        }
        let text = Self::signed_text(self.kind, &self.payload);
        self.signatures.push(Signature { key: id, bytes: key.sign(&text).to_vec() });
        true
    }

    /// The encoded envelope: what travels, what is stored, and what a release digest covers.
    pub fn to_bytes(&self) -> Vec<u8> {
        codec::encode(self)
    }

    /// Reads an encoded envelope without believing it.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, EnvelopeError> {
        Ok(codec::decode(bytes, limits::ENVELOPE)?)
    }

    /// The digest of an encoded envelope.
    pub fn digest(&self) -> Digest {
        Digest::of(&self.to_bytes())
    }

    /// Checks kind and signatures against `keys`, then decodes the document.
    pub fn open<T: serde::de::DeserializeOwned>(
        &self,
        kind: EnvelopeKind,
        keys: &KeySet,
    ) -> Result<T, EnvelopeError> {
        if self.kind != kind {
            return Err(EnvelopeError::Kind { expected: kind, got: self.kind });
        }
        let valid = self.valid_signers(keys).len();
        let needed = keys.threshold.max(1) as usize;
        if valid < needed {
            return Err(EnvelopeError::Signature { valid, needed });
        }
        Ok(codec::decode(&self.payload, limits::ENVELOPE)?)
    }

    /// The distinct keys of `keys` whose signature here is valid.
    pub fn valid_signers(&self, keys: &KeySet) -> BTreeSet<KeyId> {
        let text = Self::signed_text(self.kind, &self.payload);
        self.signatures
            .iter()
            .take(limits::SIGNATURES)
            .filter(|s| keys.get(s.key).is_some_and(|key| key.verifies(&text, &s.bytes)))
            .map(|s| s.key)
            .collect()
    }

    fn signed_text(kind: EnvelopeKind, payload: &[u8]) -> Vec<u8> {
        [kind.tag(), payload].concat()
    }
}
