//! TLS with our own CA only: the provider is chosen explicitly, and time is the trusted one.

use crate::clock::Clock;
use flotilla_protocol::Digest;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{Resumption, WebPkiServerVerifier};
use rustls::crypto::{CryptoProvider, ring, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, OtherError, RootCertStore, SignatureScheme,
};
use std::sync::Arc;
use x509_parser::prelude::{FromDer, X509Certificate};

/// Session tickets that are kept of one server.
const TICKETS: usize = 8;

/// The one provider of cryptography.
pub(crate) fn provider() -> Arc<CryptoProvider> {
    Arc::new(ring::default_provider())
}

/// SHA-256 of a certificate's subject public key info; `None` if it is not a certificate.
pub(crate) fn key_digest(certificate: &[u8]) -> Option<Digest> {
    let (_, parsed) = X509Certificate::from_der(certificate).ok()?;
    Some(Digest::of(parsed.public_key().raw))
}

/// The connection of an enrolled device: this CA, this client certificate.
pub(crate) fn device_config(
    ca: CertificateDer<'static>,
    chain: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
    clock: &Clock,
) -> Result<ClientConfig, rustls::Error> {
    let mut roots = RootCertStore::empty();
    roots.add(ca)?;
    let mut config = ClientConfig::builder_with_details(provider(), Arc::new(clock.clone()))
        .with_safe_default_protocol_versions()?
        .with_root_certificates(roots)
        .with_client_auth_cert(chain, key)?;
    // There is one server: room for the tickets of 32, as usual, is room for nothing.
    config.resumption = Resumption::in_memory_sessions(TICKETS);
    Ok(config)
}

/// A connection to a server of this CA without a client certificate.
pub(crate) fn server_config(
    ca: CertificateDer<'static>,
    clock: &Clock,
) -> Result<ClientConfig, rustls::Error> {
    let mut roots = RootCertStore::empty();
    roots.add(ca)?;
    Ok(ClientConfig::builder_with_details(provider(), Arc::new(clock.clone()))
        .with_safe_default_protocol_versions()?
        .with_root_certificates(roots)
        .with_no_client_auth())
}

/// The connection of a device that only knows the hash of the CA's key.
pub(crate) fn enrol_config(ca: Digest, clock: &Clock) -> Result<ClientConfig, rustls::Error> {
    let verifier = HashedRoot { ca, provider: provider() };
    Ok(ClientConfig::builder_with_details(provider(), Arc::new(clock.clone()))
        .with_safe_default_protocol_versions()?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(verifier))
        .with_no_client_auth())
}

/// The server's chain holds no certificate with the expected key.
#[derive(Debug, thiserror::Error)]
#[error("no certificate of the chain has the key that the claim code names")]
pub(crate) struct NotTheCa;

impl NotTheCa {
    /// Whether this is why a handshake failed.
    pub(crate) fn is_cause_of(error: &rustls::Error) -> bool {
        matches!(error, rustls::Error::InvalidCertificate(CertificateError::Other(OtherError(cause)))
            if cause.downcast_ref::<NotTheCa>().is_some())
    }
}

/// Accepts a server whose presented chain ends in a root with the expected key. The root itself comes with the
/// chain; what makes it believable is its key's hash, and everything else is checked from there as usual.
#[derive(Debug)]
struct HashedRoot {
    ca: Digest,
    provider: Arc<CryptoProvider>,
}

impl ServerCertVerifier for HashedRoot {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let root = intermediates
            .iter()
            .find(|certificate| key_digest(certificate) == Some(self.ca))
            .ok_or_else(|| CertificateError::Other(OtherError(Arc::new(NotTheCa))))?;
        let mut roots = RootCertStore::empty();
        roots.add(root.clone().into_owned())?;
        let usual = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), Arc::clone(&self.provider))
            .build()
            .map_err(|e| rustls::Error::General(e.to_string()))?;
        usual.verify_server_cert(end_entity, intermediates, server_name, ocsp_response, now)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, cert, dss, &self.provider.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, cert, dss, &self.provider.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}
