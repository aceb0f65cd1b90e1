//! Whether the cloud's answer is acceptable. Nothing is stored before all of it is.

use crate::identity::{Names, split_address};
use crate::tls;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use flotilla_device::Fault;
use flotilla_protocol::enrol::{ClaimCode, EnrolAnswer};
use flotilla_protocol::{Digest, Envelope, ErrorCode, TrustFile, limits};
use rcgen::{KeyPair, PublicKeyData};
use rustls::RootCertStore;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, UnixTime};
use rustls::server::WebPkiClientVerifier;
use std::sync::Arc;
use std::time::Duration;
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::{FromDer, X509Certificate};

/// What is left to store after the checks.
#[derive(Debug)]
pub(super) struct Checked {
    pub(super) names: Names,
    pub(super) trust: Envelope,
    /// What the trust file says.
    pub(super) believes: TrustFile,
}

fn no(code: ErrorCode, detail: impl Into<String>) -> Fault {
    Fault::lasting(code, detail)
}

/// Checks the answer:
///
/// 1. the root CA is the claim code's;
/// 2. the certificate is over our key, by that CA, and names the device of the answer;
/// 3. the trust file is signed by its own release keys, and is of that CA and project;
/// 4. the broker's address can be read.
pub(super) fn check(
    answer: &EnrolAnswer,
    claim: &ClaimCode,
    key: &KeyPair,
    trusted_now_ms: u64,
) -> Result<Checked, Fault> {
    let ca = CertificateDer::from_pem_slice(answer.ca_pem.as_bytes())
        .map_err(|e| no(ErrorCode::Malformed, format!("the CA is not a certificate: {e}")))?;
    if tls::key_digest(&ca) != Some(claim.ca) {
        return Err(no(ErrorCode::CaMismatch, "it brings another CA than the claim code names"));
    }
    let names = Names {
        project: answer.project.clone(),
        device: answer.device.clone(),
        mqtt: answer.mqtt.clone(),
        server: Some(claim.server.clone()),
    };
    check_certificate(&answer.certificate_pem, ca, key, &names, trusted_now_ms)?;
    let (trust, believes) = check_trust(answer, claim)?;
    if split_address(&names.mqtt).is_none() {
        return Err(no(ErrorCode::Malformed, "the broker's address is not HOST:PORT"));
    }
    Ok(Checked { names, trust, believes })
}

/// Whether a chain is a certificate over our key, by that CA, for the device of these names.
pub(crate) fn check_certificate(
    chain_pem: &str,
    ca: CertificateDer<'static>,
    key: &KeyPair,
    names: &Names,
    trusted_now_ms: u64,
) -> Result<(), Fault> {
    let malformed =
        |what: String| no(ErrorCode::Malformed, format!("the certificate cannot be used: {what}"));
    let refused = |what: String| no(ErrorCode::Tls, format!("the certificate is not acceptable: {what}"));
    if chain_pem.len() > limits::CERTIFICATE {
        return Err(malformed(format!("it has more than {} bytes", limits::CERTIFICATE)));
    }
    let chain = CertificateDer::pem_slice_iter(chain_pem.as_bytes())
        .collect::<Result<Vec<_>, _>>()
        .map_err(|e| malformed(e.to_string()))?;
    let (own, intermediates) = chain.split_first().ok_or_else(|| malformed("there is none".to_owned()))?;
    if tls::key_digest(own) != Some(Digest::of(&key.subject_public_key_info())) {
        return Err(refused("it is over another key than ours".to_owned()));
    }
    let (_, parsed) = X509Certificate::from_der(own).map_err(|e| malformed(e.to_string()))?;
    let expected = format!("flotilla:{}/{}", names.project, names.device);
    let named = parsed
        .subject_alternative_name()
        .ok()
        .flatten()
        .is_some_and(|san| san.value.general_names.contains(&GeneralName::URI(&expected)));
    if !named {
        return Err(refused(format!("it does not name {expected}")));
    }
    // The trusted time is a lower bound, so it can show that a certificate is over but not that it has yet to begin.
    let begins = u64::try_from(parsed.validity().not_before.timestamp()).unwrap_or(0);
    let now = UnixTime::since_unix_epoch(Duration::from_secs(begins.max(trusted_now_ms / 1_000)));
    let mut roots = RootCertStore::empty();
    roots.add(ca).map_err(|e| malformed(e.to_string()))?;
    WebPkiClientVerifier::builder_with_provider(Arc::new(roots), tls::provider())
        .build()
        .map_err(|e| malformed(e.to_string()))?
        .verify_client_cert(own, intermediates, now)
        .map_err(|e| refused(e.to_string()))?;
    Ok(())
}

fn check_trust(answer: &EnrolAnswer, claim: &ClaimCode) -> Result<(Envelope, TrustFile), Fault> {
    let bytes = STANDARD
        .decode(&answer.trust)
        .map_err(|e| no(ErrorCode::Malformed, format!("the trust file is not base64: {e}")))?;
    let envelope = Envelope::from_bytes(&bytes).map_err(|e| no(e.code(), e.to_string()))?;
    let trust = TrustFile::accept_first(&envelope).map_err(|e| no(e.code(), e.to_string()))?;
    if trust.ca != claim.ca {
        return Err(no(ErrorCode::CaMismatch, "its trust file names another CA than the claim code"));
    }
    if trust.project != answer.project {
        let detail = format!("its trust file is of project {}, not {}", trust.project, answer.project);
        return Err(no(ErrorCode::WrongProject, detail));
    }
    Ok((envelope, trust))
}
