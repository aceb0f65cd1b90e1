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

/// The serial number of a board, as its maker wrote it: 1 to [`limits::ID`] printable ASCII characters without spaces.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(transparent)]
pub struct BoardSerial(String);

/// Why a text is not the serial number of a board.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("a serial number is 1 to {max} printable ASCII characters without spaces: not {0:?}", max = limits::ID)]
pub struct InvalidSerial(String);

impl BoardSerial {
    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for BoardSerial {
    type Err = InvalidSerial;
    fn from_str(text: &str) -> Result<Self, InvalidSerial> {
        if (1..=limits::ID).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_graphic()) {
            return Ok(Self(text.to_owned()));
        }
        Err(InvalidSerial(text.chars().take(limits::ID).collect()))
    }
}

impl fmt::Display for BoardSerial {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl<'de> Deserialize<'de> for BoardSerial {
    fn deserialize<D: serde::Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        String::deserialize(d)?.parse().map_err(serde::de::Error::custom)
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
    /// The serial number that the device says its board has. It is a claim and no proof: the secret admits the device.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub serial: Option<BoardSerial>,
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

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests fail by panicking")]
mod tests {
    use super::*;

    #[test]
    fn a_request_of_an_older_agent_has_no_serial_and_one_without_is_written_as_before() {
        let old = format!(
            r#"{{"secret":"{}","csr_pem":"x","device":null,"board":{}}}"#,
            "0".repeat(64),
            serde_json::to_string(&BoardFacts::default()).unwrap()
        );
        let request: EnrolRequest = serde_json::from_str(&old).unwrap();
        assert_eq!(request.serial, None);
        assert_eq!(serde_json::to_string(&request).unwrap(), old);
        let with = EnrolRequest { serial: Some("PF-2/A.7".parse().unwrap()), ..request };
        let text = serde_json::to_string(&with).unwrap();
        assert!(text.ends_with(r#","serial":"PF-2/A.7"}"#), "{text}");
        assert_eq!(serde_json::from_str::<EnrolRequest>(&text).unwrap().serial, with.serial);
    }

    #[test]
    fn what_is_no_serial_number_is_refused() {
        for bad in ["", "a b", "a\n", "\u{fc}", &"x".repeat(65)] {
            assert!(bad.parse::<BoardSerial>().is_err(), "{bad:?}");
            assert!(serde_json::from_value::<BoardSerial>(bad.into()).is_err());
        }
        assert!("x".repeat(64).parse::<BoardSerial>().is_ok());
    }
}
