//! Who this device is: key, certificate, CA, and the trust file that came with them.

use crate::clock::Clock;
use crate::folder::{Folder, IDENTITY, TRUST};
use crate::pairs::{self, Credential};
use crate::{Error, disk, tls};
use flotilla_device::frame::{self, Kind};
use flotilla_device::renewal::Pair;
use flotilla_protocol::{DeviceId, Envelope, ProjectId, TrustFile, codec, limits};
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

const TRUST_KIND: Kind = Kind { name: *b"FTR", version: 1 };
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

/// Reads the folder's identity.
pub fn read(folder: &Folder, clock: &Clock) -> Result<Identity, Error> {
    let names = names(folder)?.ok_or_else(|| Error::NotEnrolled { folder: folder.root().to_owned() })?;
    split_address(&names.mqtt).ok_or_else(|| damaged(folder, NAMES, "mqtt is not HOST:PORT"))?;
    let ca =
        certificates(folder, CA)?.into_iter().next().ok_or_else(|| damaged(folder, CA, "it is empty"))?;
    pairs::tidy(folder);
    let present = pairs::present(folder, &ca, clock)?;
    let next = pairs::next(folder, &ca, clock);
    Ok(Identity { names, ca, present, next })
}

/// Stores an accepted trust file. The frame shows damage; that the content was believed is why it is here.
pub fn store_trust(folder: &Folder, envelope: &Envelope) -> Result<(), Error> {
    Ok(folder.disk().replace(TRUST.as_ref(), &frame::seal(TRUST_KIND, &envelope.to_bytes()))?)
}

/// Reads the trust file that was accepted last. Its signatures were checked then, by keys that it may have
/// replaced since, so they are not checked again.
pub fn trust(folder: &Folder, project: &ProjectId) -> Result<TrustFile, Error> {
    let path = folder.path(TRUST);
    let problem = |problem: String| Error::Damaged { path: path.clone(), problem };
    let bytes = folder
        .disk()
        .read(TRUST.as_ref(), limits::ENVELOPE + limits::KIB)?
        .ok_or_else(|| problem("it is missing".to_owned()))?;
    let (_, content) = frame::open(TRUST_KIND, &bytes).map_err(|e| problem(e.to_string()))?;
    let envelope = Envelope::from_bytes(content).map_err(|e| problem(e.to_string()))?;
    let trust: TrustFile =
        codec::decode(&envelope.payload, limits::ENVELOPE).map_err(|e| problem(e.to_string()))?;
    if trust.project != *project {
        return Err(problem(format!("it is of project {}", trust.project)));
    }
    let ca = certificates(folder, CA)?;
    if ca.first().and_then(|ca| tls::key_digest(ca)) != Some(trust.ca) {
        return Err(problem("it names another CA than the identity".to_owned()));
    }
    Ok(trust)
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
