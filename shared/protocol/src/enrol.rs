//! Enrolment: a claim code turns a box into a device of the fleet.
//!
//! The code holds the server's address, the hash of the CA's key and a secret. The device checks the CA
//! against the hash before it sends anything, makes its key, and sends a signing request with the secret.
//! Bodies are JSON over HTTPS (`POST /api/v1/enrol`).

use crate::message::BoardFacts;
use crate::{DeviceId, Digest, ProjectId, codec, limits};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::{Deserialize, Serialize};
use std::fmt;
use std::str::FromStr;

const PREFIX: &str = "flotilla-claim-1.";

/// Path of the enrolment endpoint.
pub const ENROL_PATH: &str = "/api/v1/enrol";

/// 256 random bits that prove the right to enrol. `Debug` shows none of them; the cloud stores their hash only.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct ClaimSecret(Digest);

impl ClaimSecret {
    /// A new random secret.
    pub fn random() -> Self {
        let mut bytes = [0; 32];
        ring::rand::SecureRandom::fill(&ring::rand::SystemRandom::new(), &mut bytes)
            .expect("the system's random source works");
        Self(Digest::from_bytes(bytes))
    }

    /// What the cloud stores.
    pub fn hash(&self) -> Digest {
        Digest::of(self.0.as_bytes())
    }
}

impl fmt::Debug for ClaimSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ClaimSecret(..)")
    }
}

/// A claim code. Its text form holds the secret: read it from a file or prompt, never from argv.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClaimCode {
    /// `host:port` of the HTTPS server.
    pub server: String,
    /// SHA-256 of the root CA's subject public key info.
    pub ca: Digest,
    /// The secret.
    pub secret: ClaimSecret,
}

/// Why a text is not a claim code. Says nothing of the text itself.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "not a claim code: it starts with {PREFIX} and is copied whole, without spaces or line breaks inside"
)]
pub struct InvalidClaim;

impl ClaimCode {
    /// The text to hand to the device.
    pub fn to_text(&self) -> String {
        format!("{PREFIX}{}", URL_SAFE_NO_PAD.encode(codec::encode(self)))
    }
}

impl FromStr for ClaimCode {
    type Err = InvalidClaim;
    fn from_str(text: &str) -> Result<Self, InvalidClaim> {
        let text = text.trim();
        if text.len() > limits::CLAIM {
            return Err(InvalidClaim);
        }
        let body = text.strip_prefix(PREFIX).ok_or(InvalidClaim)?;
        let bytes = URL_SAFE_NO_PAD.decode(body).map_err(|_| InvalidClaim)?;
        codec::decode(&bytes, limits::CLAIM).map_err(|_| InvalidClaim)
    }
}

/// What the device sends.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct EnrolRequest {
    /// The claim code's secret.
    pub secret: ClaimSecret,
    /// Certificate signing request (PKCS#10, PEM). Only its public key is used.
    pub csr_pem: String,
    /// The id the device would like; the cloud decides.
    #[serde(default)]
    pub device: Option<DeviceId>,
    /// What the device is.
    pub board: BoardFacts,
}

/// What the cloud answers.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct EnrolAnswer {
    /// The device's project.
    pub project: ProjectId,
    /// The device's id from now on.
    pub device: DeviceId,
    /// The device's certificate and the intermediates, PEM.
    pub certificate_pem: String,
    /// The root CA, PEM; its key must hash to the claim code's value.
    pub ca_pem: String,
    /// The encoded trust envelope, base64 (RFC 4648 section 4).
    pub trust: String,
    /// `host:port` of the MQTT broker (TLS).
    pub mqtt: String,
}
