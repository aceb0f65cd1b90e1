//! Renewal over HTTPS: a device whose certificate has ended proves that it has its old key, and waits for a person's
//! approval. The server is known by the installation's CA, as at enrolment; nothing is sent to another.

use super::server::Server;
use super::system;
use crate::clock::Clock;
use crate::identity::Names;
use crate::{Error, tls};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use flotilla_protocol::ErrorCode;
use flotilla_protocol::renew::{
    CHALLENGE_PATH, Challenge, RENEW_PATH, RenewAnswer, RenewRequest, signed_text,
};
use rcgen::{KeyPair, PublicKeyData, SigningKey};
use rustls::pki_types::CertificateDer;
use std::sync::Arc;

/// What a renewal needs of the device.
pub(crate) struct Renewal {
    pub(crate) names: Names,
    pub(crate) ca: CertificateDer<'static>,
    /// Keys by which the cloud may know the device, the likeliest first.
    pub(crate) keys: Vec<KeyPair>,
    /// Signing request over the new key.
    pub(crate) csr_pem: String,
}

impl Renewal {
    /// Asks once. `None` while nobody has approved it.
    pub(crate) async fn ask(&self, clock: &Clock) -> Result<Option<String>, Error> {
        let Some(address) = &self.names.server else {
            return Err(Error::System {
                what: "renewing the certificate",
                problem:
                    "identity/device.json names no `server` (HOST:PORT of the enrolment server): add it, or \
                          enrol this device anew"
                        .to_owned(),
            });
        };
        let config = tls::server_config(self.ca.clone(), clock).map_err(|e| system("setting TLS up", &e))?;
        let server = Server { address, tls: Arc::new(config) };
        let ca = tls::key_digest(&self.ca).ok_or_else(|| system("reading the CA", &"it has no key"))?;
        let mut unknown = None;
        for key in &self.keys {
            let challenge: Challenge = server.post(CHALLENGE_PATH, &serde_json::json!({})).await?;
            let (project, device) = (&self.names.project, &self.names.device);
            let text = signed_text(&ca, project, device, &challenge.nonce, &self.csr_pem);
            let signature = key.sign(&text).map_err(|e| system("signing", &e))?;
            let request = RenewRequest {
                project: project.clone(),
                device: device.clone(),
                key: STANDARD.encode(key.subject_public_key_info()),
                csr_pem: self.csr_pem.clone(),
                nonce: challenge.nonce,
                signature: STANDARD.encode(signature),
            };
            match server.post(RENEW_PATH, &request).await {
                Ok(RenewAnswer::Approved { chain_pem }) => return Ok(Some(chain_pem)),
                Ok(RenewAnswer::Pending | RenewAnswer::Unknown) => return Ok(None),
                Err(error) if error.code() == ErrorCode::Unauthenticated => unknown = Some(error),
                Err(error) => return Err(error),
            }
        }
        unknown.map_or(Ok(None), Err)
    }
}
