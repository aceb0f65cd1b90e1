//! TLS for the devices' port: ring, mandatory client certificates, no resumption.

use super::{BrokerConfig, Error};
use rustls::crypto::ring;
use rustls::server::{NoServerSessionStorage, WebPkiClientVerifier};
use rustls::{RootCertStore, ServerConfig};
use std::sync::Arc;
use tokio_rustls::TlsAcceptor;

/// The acceptor for device connections.
pub(super) fn acceptor(config: &BrokerConfig) -> Result<TlsAcceptor, Error> {
    let refused = |reason: &str, source| Error::Tls { reason: reason.to_owned(), source };
    let mut roots = RootCertStore::empty();
    for root in &config.client_roots {
        roots.add(root.clone()).map_err(|error| refused("a client root is unreadable", Some(error)))?;
    }
    let provider = Arc::new(ring::default_provider());
    let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider.clone())
        .build()
        .map_err(|error| refused(&error.to_string(), None))?;
    let mut tls = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| refused("no common protocol version", Some(error)))?
        .with_client_cert_verifier(verifier)
        .with_single_cert(config.server.chain.clone(), config.server.key.clone_key())
        .map_err(|error| refused("the server's chain and key do not fit", Some(error)))?;
    // A resumed session would skip the check of the client's chain, expiry included.
    tls.session_storage = Arc::new(NoServerSessionStorage {});
    tls.send_tls13_tickets = 0;
    Ok(TlsAcceptor::from(Arc::new(tls)))
}
