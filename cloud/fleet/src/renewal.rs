//! The certificates after the first: rotation over the connection, and renewal over HTTPS with an approval.
//!
//! A new certificate is added to those that the device may show. The first hello with it retires the others, in one
//! commit with the audit record; until then both work, so that a device that is cut off at any moment gets back in.

use crate::ca::{CertificateAuthority, Serial};
use crate::devices::{Certificate, Device};
use crate::error::{Error, Result};
use crate::store::{self, ATTEMPTS, Store};
use crate::text::bounded;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use flotilla_identity::{Actor, audit};
use flotilla_protocol::renew::{CHALLENGE_MS, Challenge, RenewAnswer, RenewRequest, signed_text};
use flotilla_protocol::{ActorId, DeviceId, Digest, limits};
use flotilla_storage::{Batch, Entity, Table};
use ring::{hmac, signature};
use serde::{Deserialize, Serialize};
use serde_json::json;
use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, UNIX_EPOCH};
use x509_parser::prelude::{FromDer, SubjectPublicKeyInfo};

/// How long an approval waits for its device.
const APPROVAL_MS: u64 = 30 * 24 * 60 * 60 * 1000;
/// Used challenges that are remembered; each was signed by a device of this fleet.
const USED: usize = 65_536;
/// Longest base64 of a public key or a signature.
const BASE64: usize = 1024;
/// Longest reason of a rejection.
const REASON: usize = 256;

/// A device that asks for a new certificate after the end of its old one.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PendingRenewal {
    /// The device.
    pub device: DeviceId,
    /// Digest of the new key. An approval is for this key and no other.
    pub key: Digest,
    /// When it first asked, in milliseconds since 1970.
    pub asked_at_ms: u64,
    /// What a person said to it.
    pub decision: RenewalState,
}

/// What became of a request.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "state")]
pub enum RenewalState {
    /// Nobody has looked at it.
    Pending,
    /// The device gets its certificate when it asks next.
    Approved {
        /// By whom.
        by: ActorId,
        /// When, in milliseconds since 1970.
        at_ms: u64,
    },
    /// The device gets none for this key.
    Rejected {
        /// By whom.
        by: ActorId,
        /// When, in milliseconds since 1970.
        at_ms: u64,
        /// Why.
        reason: String,
    },
}

impl RenewalState {
    /// The stable text.
    pub fn as_str(&self) -> &'static str {
        match self {
            RenewalState::Pending => "pending",
            RenewalState::Approved { .. } => "approved",
            RenewalState::Rejected { .. } => "rejected",
        }
    }
}

impl Entity for PendingRenewal {
    const TABLE: Table = Table::new("renewals");

    fn id(&self) -> Vec<u8> {
        self.device.as_str().into()
    }
}

/// Gives challenges and takes each one once. A challenge proves itself, so that nobody fills the memory by asking.
pub(crate) struct Challenges {
    key: hmac::Key,
    used: Mutex<HashMap<String, u64>>,
}

impl Challenges {
    pub(crate) fn new() -> Self {
        let secret: [u8; 32] = rand::random();
        Self { key: hmac::Key::new(hmac::HMAC_SHA256, &secret), used: Mutex::default() }
    }

    pub(crate) fn give(&self, now_ms: u64) -> Challenge {
        let mut nonce = [0; 24];
        nonce[..8].copy_from_slice(&now_ms.to_be_bytes());
        nonce[8..].copy_from_slice(&rand::random::<[u8; 16]>());
        let tag = hmac::sign(&self.key, &nonce);
        Challenge { nonce: format!("{}{}", hex::encode(nonce), hex::encode(tag)) }
    }

    /// Whether this was given here lately; says nothing of its use.
    fn is_fresh(&self, nonce: &str, now_ms: u64) -> bool {
        let mut bytes = [0; 56];
        if hex::decode_to_slice(nonce, &mut bytes).is_err() {
            return false;
        }
        let (nonce, tag) = bytes.split_at(24);
        let given_ms = nonce.iter().take(8).fold(0, |all, byte| (all << 8) | u64::from(*byte));
        hmac::verify(&self.key, nonce, tag).is_ok() && now_ms.abs_diff(given_ms) <= CHALLENGE_MS
    }

    /// Takes a fresh challenge, once.
    fn take(&self, nonce: &str, now_ms: u64) -> bool {
        let mut used = self.used.lock().unwrap_or_else(PoisonError::into_inner);
        if used.len() >= USED {
            used.retain(|_, at| now_ms.saturating_sub(*at) <= 2 * CHALLENGE_MS);
        }
        used.len() < USED && used.insert(nonce.to_ascii_lowercase(), now_ms).is_none()
    }
}

/// Signs a certificate over a new key for a connected device.
pub(crate) async fn rotate(
    store: &Store,
    authority: &CertificateAuthority,
    id: &DeviceId,
    csr_pem: &str,
    now_ms: u64,
) -> Result<String> {
    issue(store, authority, id, csr_pem, "device:rotate", now_ms).await
}

async fn issue(
    store: &Store,
    authority: &CertificateAuthority,
    id: &DeviceId,
    csr_pem: &str,
    action: &'static str,
    now_ms: u64,
) -> Result<String> {
    let now = UNIX_EPOCH + Duration::from_millis(now_ms);
    let issued = authority.sign_device_csr(csr_pem.as_bytes(), id, now)?;
    let certificate = Certificate::from(&issued);
    let life_ms = u64::try_from(authority.device_validity().as_millis()).unwrap_or(u64::MAX);
    let device = store
        .modify(&store.devices, id.as_str().as_bytes(), |device, batch| {
            if !device.may_connect() {
                return Err(Error::DeviceRevoked(id.clone()));
            }
            if !device.count_renewal(life_ms, now_ms) {
                return Err(Error::RenewedTooOften(id.clone()));
            }
            device.issue(certificate.clone());
            let detail = json!({
                "serial": certificate.serial, "key": certificate.key, "not_after_ms": certificate.not_after_ms,
            });
            audit::record(batch, &Actor::device(id), action, &subject(id), detail, now_ms)?;
            Ok(true)
        })
        .await?;
    device.map(|_| issued.chain_pem).ok_or_else(|| Error::DeviceMissing(id.clone()))
}

/// Takes note in a hello's batch that a certificate was used. The first use retires the others and ends the renewal
/// that it came from.
pub(crate) async fn used(
    store: &Store,
    batch: &mut Batch,
    device: &mut Device,
    serial: &Serial,
    now_ms: u64,
) -> Result<bool> {
    let Some(retired) = device.used(serial, now_ms) else { return Ok(false) };
    if let Some(over) = store.renewals.get(device.id.as_str()).await? {
        store.renewals.delete(batch, &over)?;
    }
    let retired: Vec<_> = retired.into_iter().map(|certificate| certificate.serial).collect();
    let detail = json!({ "serial": serial.to_string(), "retired": retired });
    let id = &device.id;
    audit::record(batch, &Actor::device(id), "device:rotated", &subject(id), detail, now_ms)?;
    Ok(true)
}

/// Takes a request over HTTPS. Whoever does not prove a key that a device of this fleet has learns nothing of the fleet.
pub(crate) async fn renew(
    store: &Store,
    authority: &CertificateAuthority,
    challenges: &Challenges,
    request: RenewRequest,
    now_ms: u64,
) -> Result<RenewAnswer> {
    if !challenges.is_fresh(&request.nonce, now_ms) {
        return Err(Error::RenewalStale);
    }
    let id = request.device.clone();
    let device = prove(store, authority, &request).await?;
    if !challenges.take(&request.nonce, now_ms) {
        return Err(Error::RenewalStale);
    }
    if !device.may_connect() {
        return Err(Error::DeviceRevoked(id));
    }
    // Signed only to look at the request; what is given out is signed when it is given.
    let now = UNIX_EPOCH + Duration::from_millis(now_ms);
    let key = authority.sign_device_csr(request.csr_pem.as_bytes(), &id, now)?.key_digest;
    match note(store, &id, key, now_ms).await?.decision {
        RenewalState::Pending => Ok(RenewAnswer::Pending),
        RenewalState::Rejected { reason, .. } => Err(Error::RenewalRejected { device: id, reason }),
        RenewalState::Approved { .. } => {
            let chain_pem = issue(store, authority, &id, &request.csr_pem, "device:renew", now_ms).await?;
            Ok(RenewAnswer::Approved { chain_pem })
        }
    }
}

/// The device whose old key signed the request.
async fn prove(store: &Store, authority: &CertificateAuthority, request: &RenewRequest) -> Result<Device> {
    if request.project != *authority.project()
        || request.key.len() > BASE64
        || request.signature.len() > BASE64
        || request.csr_pem.len() > limits::CSR
    {
        return Err(Error::RenewalUnproven);
    }
    let unproven = |_| Error::RenewalUnproven;
    let key = STANDARD.decode(&request.key).map_err(unproven)?;
    let signed = STANDARD.decode(&request.signature).map_err(unproven)?;
    let ca = authority.ca_hash();
    let text = signed_text(&ca, &request.project, &request.device, &request.nonce, &request.csr_pem);
    let found = store.devices.get(request.device.as_str()).await?;
    let known = found.filter(|device| device.value.knows(&Digest::of(&key)));
    let (Some(device), true) = (known, verifies(&key, &text, &signed)) else {
        return Err(Error::RenewalUnproven);
    };
    Ok(device.value)
}

/// Whether a signature is by this key: ECDSA P-256 or Ed25519, as the authority signs for.
fn verifies(key: &[u8], text: &[u8], signed: &[u8]) -> bool {
    let Ok((_, info)) = SubjectPublicKeyInfo::from_der(key) else { return false };
    let algorithm: &dyn signature::VerificationAlgorithm =
        match info.algorithm.algorithm.to_id_string().as_str() {
            "1.2.840.10045.2.1" => &signature::ECDSA_P256_SHA256_ASN1,
            "1.3.101.112" => &signature::ED25519,
            _ => return false,
        };
    signature::UnparsedPublicKey::new(algorithm, &info.subject_public_key.data).verify(text, signed).is_ok()
}

/// The record of this request. A request for another key, or after a forgotten approval, begins anew.
async fn note(store: &Store, id: &DeviceId, key: Digest, now_ms: u64) -> Result<PendingRenewal> {
    for _ in 0..ATTEMPTS {
        let found = store.renewals.get(id.as_str()).await?;
        let known = found.as_ref().map(|found| &found.value).filter(|known| known.key == key);
        let over = |known: &&PendingRenewal| match known.decision {
            RenewalState::Approved { at_ms, .. } => now_ms.saturating_sub(at_ms) > APPROVAL_MS,
            _ => false,
        };
        if let Some(known) = known.filter(|known| !over(known)) {
            return Ok(known.clone());
        }
        let new =
            PendingRenewal { device: id.clone(), key, asked_at_ms: now_ms, decision: RenewalState::Pending };
        let mut batch = Batch::new();
        store::put(&store.renewals, &mut batch, found.as_ref(), &new)?;
        let detail = json!({ "key": key });
        audit::record(&mut batch, &Actor::device(id), "device:ask-renewal", &subject(id), detail, now_ms)?;
        if store.try_commit(batch).await? {
            tracing::warn!(device = %id, "a device asks for a new certificate and waits for an approval");
            return Ok(new);
        }
    }
    Err(Error::Contended(format!("the renewal of device {id}")))
}

/// What a person said.
pub(crate) enum Word<'a> {
    /// The holder of this key, which they looked at, may have a certificate.
    Approve(&'a Digest),
    /// Whoever asks now gets none, for this reason.
    Reject(&'a str),
}

/// Takes a person's word. An approval is for the request that was looked at: another one may have come since, from
/// whoever else has the device's old key.
pub(crate) async fn decide(
    store: &Store,
    actor: &Actor,
    id: &DeviceId,
    word: Word<'_>,
    now_ms: u64,
) -> Result<PendingRenewal> {
    let device = store.devices.get(id.as_str()).await?.ok_or_else(|| Error::DeviceMissing(id.clone()))?;
    if !device.value.may_connect() {
        return Err(Error::DeviceRevoked(id.clone()));
    }
    let (by, at_ms) = (actor.id.clone(), now_ms);
    let (action, wanted, decision) = match word {
        Word::Approve(key) => ("device:approve", Some(key), RenewalState::Approved { by, at_ms }),
        Word::Reject(reason) => {
            let reason = bounded(reason, REASON);
            ("device:reject", None, RenewalState::Rejected { by, at_ms, reason })
        }
    };
    let decided = store
        .modify(&store.renewals, id.as_str().as_bytes(), |renewal, batch| {
            if wanted.is_some_and(|key| *key != renewal.key) {
                return Err(Error::RenewalChanged { device: id.clone(), key: renewal.key });
            }
            renewal.decision = decision.clone();
            let detail = json!({ "key": renewal.key, "decision": decision });
            audit::record(batch, actor, action, &subject(id), detail, now_ms)?;
            Ok(true)
        })
        .await?;
    decided.ok_or_else(|| Error::RenewalMissing(id.clone()))
}

fn subject(id: &DeviceId) -> String {
    format!("device/{id}")
}

#[cfg(test)]
#[path = "renewal_tests.rs"]
mod tests;
