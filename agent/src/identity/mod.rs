//! Who this device is: key, certificate, CA, and the trust file that came with them. Without them a device cannot be
//! reached any more, so each is kept twice, and one that is damaged is put back from its copy.

mod copy;
#[cfg(test)]
mod golden_tests;
mod trust;

pub(crate) use trust::damaged_copy;
pub use trust::{store_trust, trust};

use crate::clock::Clock;
use crate::folder::{Folder, IDENTITY};
use crate::pairs::{self, Credential};
use crate::{Error, disk};
use flotilla_device::renewal::Pair;
use flotilla_protocol::{DeviceId, ProjectId, TrustFile, limits};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use serde::{Deserialize, Serialize};
use std::path::PathBuf;
use std::sync::Arc;

/// File with the private key, PKCS#8 PEM, and since the first rotation the certificates of [`CERTIFICATE`] behind it.
pub const KEY: &str = "key.pem";
/// File with the device's certificate and the intermediates, PEM.
pub const CERTIFICATE: &str = "cert.pem";
/// File with the root CA, PEM.
pub const CA: &str = "ca.pem";
/// File with the names, JSON.
pub const NAMES: &str = "device.json";

const BOUND: usize = 64 * limits::KIB;

/// The names of a device, as stored.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Names {
    /// Its project.
    pub project: ProjectId,
    /// Its id.
    pub device: DeviceId,
    /// `host:port` of the broker.
    pub mqtt: String,
    /// `host:port` of the enrolment server, where a certificate that has ended is renewed; enrolments of early agents
    /// did not note it down.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub server: Option<String>,
}

/// An enrolled device.
#[derive(Debug)]
pub struct Identity {
    /// The names.
    pub names: Names,
    /// The root CA.
    pub ca: CertificateDer<'static>,
    /// The pair that is known to work.
    pub present: Credential,
    /// The pair that is to take over.
    pub next: Option<Credential>,
}

impl Identity {
    /// TLS with a pair.
    pub fn tls(&self, pair: Pair) -> Arc<rustls::ClientConfig> {
        match (pair, &self.next) {
            (Pair::Next, Some(next)) => Arc::clone(&next.tls),
            _ => Arc::clone(&self.present.tls),
        }
    }
}

/// The names of the device that the folder holds; `None` if it is not enrolled.
pub fn names(folder: &Folder) -> Result<Option<Names>, Error> {
    let path = file(folder, NAMES);
    let Some(bytes) = disk::read(&path, BOUND)? else { return Ok(None) };
    let names = serde_json::from_slice(&bytes)
        .map_err(|e| Error::Damaged { path: path.clone(), problem: e.to_string() })?;
    Ok(Some(names))
}

/// Reads the folder's identity, and writes nothing.
pub fn read(folder: &Folder, clock: &Clock) -> Result<Identity, Error> {
    let names = names(folder)?.ok_or_else(|| Error::NotEnrolled { folder: folder.root().to_owned() })?;
    split_address(&names.mqtt).ok_or_else(|| damaged(folder, NAMES, "mqtt is not HOST:PORT"))?;
    let ca =
        certificates(folder, CA)?.into_iter().next().ok_or_else(|| damaged(folder, CA, "it is empty"))?;
    let present = pairs::present(folder, &ca, clock)?;
    let next = pairs::next(folder, &ca, clock);
    Ok(Identity { names, ca, present, next })
}

/// Identity and trust of the folder, for the agent that runs on it. What is damaged is put back from its copy, and said
/// in `damage`.
pub(crate) fn establish(
    folder: &Folder,
    clock: &Clock,
    damage: &mut Vec<String>,
) -> Result<(Identity, TrustFile), Error> {
    let sound = || -> Result<Identity, Error> {
        let identity = read(folder, clock)?;
        pairs::check(folder, &identity)?;
        Ok(identity)
    };
    let mut identity = sound().or_else(|error| {
        // A folder without an identity is not enrolled, or was given up by somebody.
        if !folder.path(IDENTITY).exists() || !copy::put_back(folder)? {
            return Err(error);
        }
        let identity = sound()?;
        damage.push(put_back_text(&error));
        Ok(identity)
    })?;
    pairs::tidy(folder);
    identity.next = pairs::next(folder, &identity.ca, clock);
    if let Err(error) = copy::renew(folder) {
        tracing::warn!(%error, "the copy of the identity cannot be renewed");
    }
    damage.extend(trust::mend(folder, &identity.names.project)?);
    let trust = trust(folder, &identity.names.project)?;
    Ok((identity, trust))
}

/// What was wrong with a file that is right again, without what to do about it.
fn put_back_text(error: &Error) -> String {
    match error {
        Error::Damaged { path, problem } => {
            format!("{} was damaged: {problem}; it was put back from its copy", path.display())
        }
        other => format!("{other}; it was put back from its copy"),
    }
}

/// Whether a copy of the identity is there that a start of the agent can put back.
pub(crate) fn has_copy(folder: &Folder) -> bool {
    copy::read(folder).is_ok_and(|files| files.is_some())
}

/// Host and port of `host:port` or `[v6]:port`.
pub fn split_address(address: &str) -> Option<(&str, u16)> {
    let (host, port) = address.rsplit_once(':')?;
    let host = host.strip_prefix('[').and_then(|h| h.strip_suffix(']')).unwrap_or(host);
    let port = port.parse().ok().filter(|port| *port != 0)?;
    (!host.is_empty()).then_some((host, port))
}

fn file(folder: &Folder, name: &str) -> PathBuf {
    folder.path(IDENTITY).join(name)
}

fn bytes(folder: &Folder, name: &str) -> Result<Vec<u8>, Error> {
    disk::read(&file(folder, name), BOUND)?.ok_or_else(|| damaged(folder, name, "it is missing"))
}

fn certificates(folder: &Folder, name: &str) -> Result<Vec<CertificateDer<'static>>, Error> {
    let bytes = bytes(folder, name)?;
    CertificateDer::pem_slice_iter(&bytes)
        .collect::<Result<Vec<_>, _>>()
        .map_err(|e| damaged(folder, name, &e.to_string()))
}

pub(crate) fn damaged(folder: &Folder, name: &str, problem: &str) -> Error {
    Error::Damaged { path: file(folder, name), problem: problem.to_owned() }
}

#[cfg(test)]
mod tests {
    use super::split_address;

    #[test]
    fn addresses_are_split_with_and_without_brackets() {
        assert_eq!(split_address("example.org:8883"), Some(("example.org", 8883)));
        assert_eq!(split_address("127.0.0.1:1"), Some(("127.0.0.1", 1)));
        assert_eq!(split_address("[::1]:1"), Some(("::1", 1)));
        for wrong in ["example.org", ":1", "a:0", "a:65536", "a:b", ""] {
            assert_eq!(split_address(wrong), None, "{wrong}");
        }
    }
}
