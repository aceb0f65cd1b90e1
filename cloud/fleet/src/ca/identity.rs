//! Who a device certificate speaks for: written by the authority, read back by the broker.

use super::Error;
use flotilla_protocol::{DeviceId, ProjectId};
use ring::rand::{SecureRandom, SystemRandom};
use std::fmt;
use std::str::FromStr;
use x509_parser::prelude::{FromDer, GeneralName, X509Certificate};

const SCHEME: &str = "flotilla:";

/// The serial number of a certificate, by which it is revoked: 128 bits, of which 126 are random.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Serial([u8; 16]);

impl Serial {
    /// A new random serial number.
    pub fn random() -> Result<Self, Error> {
        let mut bytes = [0; 16];
        SystemRandom::new().fill(&mut bytes).map_err(|_| Error::Random)?;
        // A DER integer is signed and without leading zeros: these two bits keep every serial at exactly 16 bytes.
        bytes[0] = (bytes[0] & 0x7f) | 0x40;
        Ok(Self(bytes))
    }

    /// The number, most significant byte first.
    pub fn as_bytes(&self) -> &[u8; 16] {
        &self.0
    }
}

impl fmt::Display for Serial {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex::encode(self.0))
    }
}

impl fmt::Debug for Serial {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Serial({self})")
    }
}

/// Why a text is not a serial number.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("a serial number is 32 lower-case hex digits")]
pub struct InvalidSerial;

impl FromStr for Serial {
    type Err = InvalidSerial;
    fn from_str(text: &str) -> Result<Self, InvalidSerial> {
        let mut bytes = [0; 16];
        if text.bytes().any(|b| b.is_ascii_uppercase()) {
            return Err(InvalidSerial);
        }
        hex::decode_to_slice(text, &mut bytes).map_err(|_| InvalidSerial)?;
        Ok(Self(bytes))
    }
}

/// Who is at the other end of a connection, as its certificate proves.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct PeerIdentity {
    /// The project the device belongs to.
    pub project: ProjectId,
    /// The device.
    pub device: DeviceId,
    /// Serial number of the certificate shown.
    pub serial: Serial,
}

impl fmt::Display for PeerIdentity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.project, self.device)
    }
}

/// The URI name that a device certificate carries.
pub(super) fn uri(project: &ProjectId, device: &DeviceId) -> String {
    format!("{SCHEME}{project}/{device}")
}

/// The common name of a project's intermediate.
pub(super) fn intermediate_name(project: &ProjectId) -> String {
    format!("Flotilla project {project}")
}

/// Reads who a device certificate speaks for.
///
/// The caller must have verified the chain up to the root already; this function adds that the certificate is a
/// client certificate, names exactly one device, and was issued by the intermediate of that device's project.
pub fn device_identity(certificate: &[u8]) -> Result<PeerIdentity, Error> {
    let bad = |reason: &str| Error::BadCertificate { reason: reason.to_owned() };
    let (rest, parsed) = X509Certificate::from_der(certificate).map_err(|_| bad("it is not X.509"))?;
    if !rest.is_empty() {
        return Err(bad("bytes follow it"));
    }
    let usage = parsed.extended_key_usage().map_err(|_| bad("its key usage is unreadable"))?;
    if !usage.is_some_and(|usage| usage.value.client_auth && !usage.value.server_auth && !usage.value.any) {
        return Err(bad("it is not a client certificate"));
    }
    if parsed.is_ca() {
        return Err(bad("it is an authority's"));
    }
    let names = parsed.subject_alternative_name().map_err(|_| bad("its names are unreadable"))?;
    let names = names.map_or(&[][..], |names| names.value.general_names.as_slice());
    let [GeneralName::URI(name)] = names else {
        return Err(bad("it does not carry exactly one URI name"));
    };
    let (project, device) = name
        .strip_prefix(SCHEME)
        .and_then(|path| path.split_once('/'))
        .ok_or_else(|| bad("its name is not of the form flotilla:PROJECT/DEVICE"))?;
    let project = ProjectId::new(project).map_err(|error| bad(&error.to_string()))?;
    let device = DeviceId::new(device).map_err(|error| bad(&error.to_string()))?;
    let mut issuers = parsed.issuer().iter_common_name();
    let issuer = issuers.next().and_then(|name| name.as_str().ok());
    if issuer != Some(intermediate_name(&project).as_str()) || issuers.next().is_some() {
        return Err(bad("it was issued for another project"));
    }
    let serial = parsed.raw_serial().try_into().map_err(|_| bad("its serial number is not 128 bits"))?;
    Ok(PeerIdentity { project, device, serial: Serial(serial) })
}
