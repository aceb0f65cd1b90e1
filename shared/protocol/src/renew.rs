//! Renewal over HTTPS: a new certificate for a device whose old one has ended.
//!
//! Nobody lets such a device speak MQTT, so it proves that it still has its old key: it signs a fresh challenge of the
//! server (so that nothing recorded earlier is of use) together with its request for a new certificate. A person then
//! approves or rejects it; the device asks again until that is done. Bodies are JSON
//! (`POST /api/v1/renew/challenge`, then `POST /api/v1/renew`).

use crate::{DeviceId, Digest, ProjectId, codec};
use serde::{Deserialize, Serialize};

/// Path that gives a [`Challenge`].
pub const CHALLENGE_PATH: &str = "/api/v1/renew/challenge";
/// Path that takes a [`RenewRequest`].
pub const RENEW_PATH: &str = "/api/v1/renew";
/// How long a challenge is good for.
pub const CHALLENGE_MS: u64 = 5 * 60 * 1000;

const SIGNED: &[u8] = b"flotilla/v1/renew\0";

/// What the device has to sign, once.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Challenge {
    /// Opaque; given back as it is.
    pub nonce: String,
}

/// What the device sends.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RenewRequest {
    /// The device's project.
    pub project: ProjectId,
    /// The device.
    pub device: DeviceId,
    /// Its old public key: subject public key info in DER, base64 (RFC 4648 section 4).
    pub key: String,
    /// Certificate signing request over the new key (PKCS#10, PEM).
    pub csr_pem: String,
    /// The challenge.
    pub nonce: String,
    /// The old key's signature over [`signed_text`], base64.
    pub signature: String,
}

/// What the server answers to a request that it believes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "state")]
pub enum RenewAnswer {
    /// Nobody has approved it yet: ask again later, with the same new key.
    Pending,
    /// Approved.
    Approved {
        /// The device's new certificate and the intermediates, PEM.
        chain_pem: String,
    },
    /// An answer of a newer server.
    #[serde(other)]
    Unknown,
}

/// The bytes that the old key signs. They name the installation by its CA's key, so that they are of use nowhere else.
pub fn signed_text(
    ca: &Digest,
    project: &ProjectId,
    device: &DeviceId,
    nonce: &str,
    csr_pem: &str,
) -> Vec<u8> {
    let csr = Digest::of(csr_pem.as_bytes());
    [SIGNED, &codec::encode(&(ca, project, device, nonce, csr))].concat()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[expect(clippy::unwrap_used, reason = "tests fail by panicking")]
    fn every_part_of_what_is_signed_counts() {
        let (ca, other) = (Digest::of(b"ca"), Digest::of(b"other"));
        let (shop, gate): (ProjectId, DeviceId) = ("shop".parse().unwrap(), "gate-7".parse().unwrap());
        let (away, gate8): (ProjectId, DeviceId) = ("away".parse().unwrap(), "gate-8".parse().unwrap());
        let texts = [
            signed_text(&ca, &shop, &gate, "n", "csr"),
            signed_text(&other, &shop, &gate, "n", "csr"),
            signed_text(&ca, &away, &gate, "n", "csr"),
            signed_text(&ca, &shop, &gate8, "n", "csr"),
            signed_text(&ca, &shop, &gate, "m", "csr"),
            signed_text(&ca, &shop, &gate, "n", "other"),
        ];
        let distinct: std::collections::BTreeSet<_> = texts.iter().collect();
        assert_eq!(distinct.len(), texts.len());
    }

    #[test]
    #[expect(clippy::unwrap_used, reason = "tests fail by panicking")]
    fn an_answer_of_a_newer_server_still_reads() {
        let answer: RenewAnswer = serde_json::from_str(r#"{"state":"queued","place":3}"#).unwrap();
        assert_eq!(answer, RenewAnswer::Unknown);
    }
}
