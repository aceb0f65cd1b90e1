//! Keys with their certificates: the present pair, the next one beside it, and the key that a new one is asked for with.
//!
//! `key.pem` holds the present key and, since the first rotation, its certificates behind it, so that one write replaces
//! the pair. `cert.pem` repeats the certificates for agents that look for them there alone. The first enrolment leaves
//! key and certificates in one file each.

use crate::clock::Clock;
use crate::disk::DiskError;
use crate::enrol::check_certificate;
use crate::folder::{Folder, IDENTITY};
use crate::identity::{CERTIFICATE, Identity, KEY, damaged};
use crate::{Error, tls};
use flotilla_device::renewal::Life;
use flotilla_protocol::limits;
use rcgen::KeyPair;
use rustls::ClientConfig;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use x509_parser::prelude::{FromDer, X509Certificate};
use zeroize::Zeroizing;

/// File with the key and certificates that are to take over.
pub const NEXT: &str = "next.pem";
/// File with the key for which a certificate is asked.
pub const ASKED: &str = "asked.pem";

const BOUND: usize = 64 * limits::KIB;
/// In a file with both, the certificates follow the key.
const CERTIFICATES: &[u8] = b"-----BEGIN CERTIFICATE-----";

/// A key with its certificate, ready for a connection.
#[derive(Clone, Debug)]
pub struct Credential {
    /// TLS with it.
    pub tls: Arc<ClientConfig>,
    /// From when until when it is valid.
    pub life: Life,
    /// Serial number, in hex.
    pub serial: String,
}

fn place(name: &str) -> PathBuf {
    Path::new(IDENTITY).join(name)
}

fn read(folder: &Folder, name: &str) -> Result<Option<Zeroizing<Vec<u8>>>, DiskError> {
    Ok(folder.disk().read(&place(name), BOUND)?.map(Zeroizing::new))
}

/// The certificates behind the key, if there are any.
fn certificates_of(pair: &[u8]) -> Option<&[u8]> {
    pair.windows(CERTIFICATES.len()).position(|window| window == CERTIFICATES).map(|at| &pair[at..])
}

/// The present pair.
pub(crate) fn present(
    folder: &Folder,
    ca: &CertificateDer<'static>,
    clock: &Clock,
) -> Result<Credential, Error> {
    let missing = |name| damaged(folder, name, "it is missing");
    let pair = read(folder, KEY)?.ok_or_else(|| missing(KEY))?;
    // Which of the two files is to blame is not told by what follows.
    PrivateKeyDer::from_pem_slice(&pair)
        .map_err(|_| damaged(folder, KEY, "there is no private key in it"))?;
    let separate = match certificates_of(&pair) {
        Some(_) => None,
        None => Some(read(folder, CERTIFICATE)?.ok_or_else(|| missing(CERTIFICATE))?),
    };
    let (name, chain) = match (&separate, certificates_of(&pair)) {
        (Some(chain), _) => (CERTIFICATE, chain.as_slice()),
        (None, chain) => (KEY, chain.unwrap_or_default()),
    };
    credential(&pair, chain, ca, clock).map_err(|problem| damaged(folder, name, &problem))
}

/// Whether the present pair is what the CA signed for this device, whatever the time: a changed byte may leave a
/// certificate that can be read, and that nobody accepts.
pub(crate) fn check(folder: &Folder, identity: &Identity) -> Result<(), Error> {
    let pair = read(folder, KEY)?.unwrap_or_default();
    let separate = read(folder, CERTIFICATE)?.unwrap_or_default();
    let (name, chain) = match certificates_of(&pair) {
        Some(chain) => (KEY, chain),
        None => (CERTIFICATE, separate.as_slice()),
    };
    let key = key_pair(&pair).ok_or_else(|| damaged(folder, KEY, "there is no private key in it"))?;
    check_certificate(&String::from_utf8_lossy(chain), identity.ca.clone(), &key, &identity.names, 0)
        .map_err(|fault| damaged(folder, name, &fault.detail))
}

/// The next pair, if there is one that can be used.
pub(crate) fn next(folder: &Folder, ca: &CertificateDer<'static>, clock: &Clock) -> Option<Credential> {
    let pair = read(folder, NEXT).unwrap_or_else(|error| {
        tracing::warn!(%error, "the next certificate cannot be read");
        None
    })?;
    let chain = certificates_of(&pair).unwrap_or_default();
    credential(&pair, chain, ca, clock)
        .inspect_err(|problem| tracing::warn!(problem, "the next certificate is damaged and not used"))
        .ok()
}

/// A key and its certificates, both PEM, made ready for a connection; what is wrong with them as text.
pub fn credential(
    key: &[u8],
    chain: &[u8],
    ca: &CertificateDer<'static>,
    clock: &Clock,
) -> Result<Credential, String> {
    let key = PrivateKeyDer::from_pem_slice(key).map_err(|_| "there is no private key in it".to_owned())?;
    let chain =
        CertificateDer::pem_slice_iter(chain).collect::<Result<Vec<_>, _>>().map_err(|e| e.to_string())?;
    let own = chain.first().ok_or("there is no certificate in it")?;
    let (_, parsed) = X509Certificate::from_der(own).map_err(|e| e.to_string())?;
    let ms = |seconds: i64| u64::try_from(seconds).unwrap_or(0).saturating_mul(1_000);
    let life = Life {
        begins_ms: ms(parsed.validity().not_before.timestamp()),
        ends_ms: ms(parsed.validity().not_after.timestamp()),
    };
    let serial = parsed.raw_serial().iter().map(|byte| format!("{byte:02x}")).collect();
    let tls = tls::device_config(ca.clone(), chain, key, clock)
        .map_err(|e| format!("key and certificate cannot be used: {e}"))?;
    Ok(Credential { tls: Arc::new(tls), life, serial })
}

/// Finishes what a stop left half done. Nothing of it is needed to connect. For whoever holds the folder alone: another
/// might be in the middle of it.
pub(crate) fn tidy(folder: &Folder) {
    let done = || -> Result<(), DiskError> {
        let (present, next) = (read(folder, KEY)?, read(folder, NEXT)?);
        // The key of any other question may be the one that a person approves right now.
        if let (Some(next), Some(asked)) = (&next, read(folder, ASKED)?)
            && let (Some(next), Some(asked)) = (key_pair(next), key_pair(&asked))
            && next.serialized_der() == asked.serialized_der()
        {
            folder.disk().remove(&place(ASKED))?;
        }
        if next.is_some() && next == present {
            folder.disk().remove(&place(NEXT))?;
        }
        let chain = present.as_ref().and_then(|pair| certificates_of(pair));
        if let Some(chain) = chain
            && read(folder, CERTIFICATE)?.is_none_or(|there| there.as_slice() != chain)
        {
            folder.disk().replace(&place(CERTIFICATE), chain)?;
        }
        Ok(())
    };
    if let Err(error) = done() {
        tracing::warn!(%error, "what the last change of the certificate left behind cannot be tidied up");
    }
}

/// The key for which a certificate is asked: the same until one has come, also over restarts.
pub(crate) fn asked_key(folder: &Folder) -> Result<KeyPair, Error> {
    if let Some(stored) = read(folder, ASKED)?
        && let Some(key) = key_pair(&stored)
    {
        return Ok(key);
    }
    let key =
        KeyPair::generate().map_err(|e| Error::System { what: "making a key", problem: e.to_string() })?;
    folder.disk().replace(&place(ASKED), Zeroizing::new(key.serialize_pem()).as_bytes())?;
    Ok(key)
}

/// The keys by which the cloud may know this device: the next pair's, which may be the only one it still knows, and the
/// present one.
pub(crate) fn known_keys(folder: &Folder) -> Result<Vec<KeyPair>, Error> {
    let mut keys = Vec::new();
    for name in [NEXT, KEY] {
        keys.extend(read(folder, name)?.and_then(|pair| key_pair(&pair)));
    }
    Ok(keys)
}

fn key_pair(pem: &[u8]) -> Option<KeyPair> {
    KeyPair::from_pem(std::str::from_utf8(pem).ok()?).ok()
}

/// Stores a pair, which has been checked, as the next one.
pub(crate) fn store_next(folder: &Folder, key: &KeyPair, chain_pem: &str) -> Result<(), DiskError> {
    let pair = Zeroizing::new(format!("{}{chain_pem}", *Zeroizing::new(key.serialize_pem())));
    folder.disk().replace(&place(NEXT), pair.as_bytes())?;
    folder.disk().remove(&place(ASKED))
}

/// Makes the next pair the present one. The first write does it; what follows is tidied up at the next start, should
/// it fail.
pub(crate) fn adopt(folder: &Folder) -> Result<(), DiskError> {
    if let Some(pair) = read(folder, NEXT)? {
        folder.disk().replace(&place(KEY), &pair)?;
        tidy(folder);
    }
    Ok(())
}

/// Throws the next pair away, and the key of the question for it.
pub(crate) fn discard(folder: &Folder) -> Result<(), DiskError> {
    folder.disk().remove(&place(NEXT))?;
    folder.disk().remove(&place(ASKED))
}

#[cfg(test)]
#[path = "pairs_tests.rs"]
mod tests;
