//! The authority itself: opening or creating its keys, and signing with them.

use super::identity::{intermediate_name, uri};
use super::{Error, Serial, files};
use flotilla_protocol::{DeviceId, Digest, ProjectId, limits};
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer,
    KeyPair, KeyUsagePurpose, PKCS_ECDSA_P256_SHA256, PKCS_ED25519, PublicKeyData, SanType, SerialNumber,
    SubjectPublicKeyInfo, date_time_ymd,
};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, CertificateSigningRequestDer, PrivateKeyDer, ServerName};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::Path;
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use x509_parser::prelude::{FromDer, X509Certificate, X509CertificationRequest};
use zeroize::Zeroizing;

const DAY: Duration = Duration::from_secs(24 * 60 * 60);
/// How long the root and the intermediates are valid. Replacing them means enrolling the fleet again.
const AUTHORITY_VALIDITY: Duration = DAY.saturating_mul(30 * 365);
/// How long a server certificate is valid. A server takes a new one at every start.
const SERVER_VALIDITY: Duration = DAY.saturating_mul(825);
/// How long a device certificate is valid where nothing else is configured.
pub const DEVICE_VALIDITY: Duration = DAY.saturating_mul(365);
/// How far a device certificate reaches into the past, so that a server clock set back a little refuses nobody.
const DEVICE_BACKDATE: Duration = DAY;

const ROOT_FILE: &str = "root.pem";
const ROOT_NAME: &str = "Flotilla installation root";
/// In a key file the certificate follows the private key; nothing before this line may leave the process.
const CERTIFICATE: &str = "-----BEGIN CERTIFICATE-----";

/// The root and one project's intermediate, with their private keys.
pub struct CertificateAuthority {
    project: ProjectId,
    root: Pair,
    intermediate: Pair,
    device_validity: Duration,
}

struct Pair {
    certificate: CertificateDer<'static>,
    pem: String,
    issuer: Issuer<'static, KeyPair>,
}

/// A server's certificate chain (leaf first, root last) and private key.
#[derive(Debug)]
pub struct ServerIdentity {
    /// The chain as it is sent in the TLS handshake. The root is part of it: see the module's description.
    pub chain: Vec<CertificateDer<'static>>,
    /// The private key; its `Debug` form is elided.
    pub key: PrivateKeyDer<'static>,
    /// The leaf's serial number.
    pub serial: Serial,
}

impl Clone for ServerIdentity {
    fn clone(&self) -> Self {
        Self { chain: self.chain.clone(), key: self.key.clone_key(), serial: self.serial }
    }
}

/// A certificate issued to a device.
#[derive(Clone, Debug)]
pub struct DeviceCertificate {
    /// PEM: the device's certificate, then the project's intermediate.
    pub chain_pem: String,
    /// The certificate's serial number: record it, revocation works by it.
    pub serial: Serial,
    /// Digest of the device's public key (SubjectPublicKeyInfo), by which a renewal shows it has the same key.
    pub key_digest: Digest,
    /// When the certificate ends.
    pub not_after: SystemTime,
}

impl CertificateAuthority {
    /// Opens the authority in `folder`, creating root and intermediate where they do not exist yet. Blocks on the disk.
    pub fn open_or_create(folder: &Path, project: &ProjectId) -> Result<Self, Error> {
        Self::open_or_create_at(folder, project, SystemTime::now())
    }

    pub(super) fn open_or_create_at(
        folder: &Path,
        project: &ProjectId,
        now: SystemTime,
    ) -> Result<Self, Error> {
        files::private_folder(folder)?;
        let root = match Pair::open(&folder.join(ROOT_FILE))? {
            Some(root) => root,
            None if has_intermediates(folder)? => {
                return Err(Error::RootMissing { path: folder.join(ROOT_FILE) });
            }
            None => Pair::create(folder, ROOT_FILE, ROOT_NAME, None, now)?,
        };
        root.check(&folder.join(ROOT_FILE), ROOT_NAME, &root)?;
        let file = intermediate_file(project);
        let name = intermediate_name(project);
        let intermediate = match Pair::open(&folder.join(&file))? {
            Some(intermediate) => intermediate,
            None => Pair::create(folder, &file, &name, Some(&root), now)?,
        };
        intermediate.check(&folder.join(&file), &name, &root)?;
        Ok(Self { project: project.clone(), root, intermediate, device_validity: DEVICE_VALIDITY })
    }

    /// The same authority with another life of device certificates.
    pub fn with_device_validity(self, device_validity: Duration) -> Self {
        Self { device_validity, ..self }
    }

    /// How long a device certificate is valid.
    pub fn device_validity(&self) -> Duration {
        self.device_validity
    }

    /// The project whose devices this authority signs.
    pub fn project(&self) -> &ProjectId {
        &self.project
    }

    /// SHA-256 of the root's public key (SubjectPublicKeyInfo in DER): what a claim code carries.
    pub fn ca_hash(&self) -> Digest {
        Digest::of(&self.root.issuer.key().subject_public_key_info())
    }

    /// The root certificate, PEM.
    pub fn root_pem(&self) -> String {
        self.root.pem.clone()
    }

    /// The root certificate: the one trust anchor for both servers and devices.
    pub fn root(&self) -> &CertificateDer<'static> {
        &self.root.certificate
    }

    /// Makes a key and certificate for a server that is reached under `names` (DNS names or IP addresses);
    /// `localhost`, `127.0.0.1` and `::1` are always among them.
    pub fn issue_server(&self, names: &[String], now: SystemTime) -> Result<ServerIdentity, Error> {
        let mut params = leaf("Flotilla server", ExtendedKeyUsagePurpose::ServerAuth);
        params.subject_alt_names = vec![
            SanType::DnsName("localhost".try_into()?),
            SanType::IpAddress(IpAddr::V4(Ipv4Addr::LOCALHOST)),
            SanType::IpAddress(IpAddr::V6(Ipv6Addr::LOCALHOST)),
        ];
        for name in names {
            let name = server_name(name)?;
            if !params.subject_alt_names.contains(&name) {
                params.subject_alt_names.push(name);
            }
        }
        params.not_before = date_time_ymd(1970, 1, 1);
        params.not_after = date_time_ymd(1970, 1, 1) + since_epoch(now + SERVER_VALIDITY);
        let serial = Serial::random()?;
        params.serial_number = Some(SerialNumber::from_slice(serial.as_bytes()));
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
        let certificate = params.signed_by(&key, &self.root.issuer)?;
        let chain = vec![certificate.der().clone(), self.root.certificate.clone()];
        Ok(ServerIdentity { chain, key: key.into(), serial })
    }

    /// Digest of the public key in a device's request, after its self-signature proved that the device holds the
    /// private one.
    pub fn key_of_csr(&self, request: &[u8]) -> Result<Digest, Error> {
        Ok(Digest::of(&requested_key(request)?.subject_public_key_info()))
    }

    /// Signs a device's request (PEM or DER). Only its public key is used, after its self-signature proved that the
    /// device holds the private one; every name and usage in the certificate is ours.
    pub fn sign_device_csr(
        &self,
        request: &[u8],
        device: &DeviceId,
        now: SystemTime,
    ) -> Result<DeviceCertificate, Error> {
        let key = requested_key(request)?;
        let mut params = leaf(device.as_str(), ExtendedKeyUsagePurpose::ClientAuth);
        params.distinguished_name.push(DnType::OrganizationName, self.project.as_str());
        params.subject_alt_names = vec![SanType::URI(uri(&self.project, device).try_into()?)];
        let not_after = now + self.device_validity;
        // A device counts its certificate's age from this moment: it stays small beside the whole life.
        let backdate = DEVICE_BACKDATE.min(self.device_validity / 10);
        params.not_before = date_time_ymd(1970, 1, 1) + since_epoch(now).saturating_sub(backdate);
        params.not_after = date_time_ymd(1970, 1, 1) + since_epoch(not_after);
        let serial = Serial::random()?;
        params.serial_number = Some(SerialNumber::from_slice(serial.as_bytes()));
        let certificate = params.signed_by(&key, &self.intermediate.issuer)?;
        Ok(DeviceCertificate {
            chain_pem: certificate.pem() + &self.intermediate.pem,
            serial,
            key_digest: Digest::of(&key.subject_public_key_info()),
            not_after,
        })
    }
}

impl std::fmt::Debug for CertificateAuthority {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("CertificateAuthority").field("project", &self.project).finish_non_exhaustive()
    }
}

impl Pair {
    fn open(path: &Path) -> Result<Option<Self>, Error> {
        let Some(text) = files::read(path)? else { return Ok(None) };
        let damaged = |reason: String| Error::Damaged { path: path.to_path_buf(), reason };
        let key = KeyPair::from_pem(&text).map_err(|_| damaged("no readable private key".to_owned()))?;
        if key.algorithm() != &PKCS_ECDSA_P256_SHA256 {
            return Err(damaged("the key is not ECDSA P-256".to_owned()));
        }
        let certificates = CertificateDer::pem_slice_iter(text.as_bytes())
            .collect::<Result<Vec<_>, _>>()
            .map_err(|error| damaged(format!("unreadable certificate: {error}")))?;
        let [certificate] = <[_; 1]>::try_from(certificates)
            .map_err(|found| damaged(format!("{} certificates where one is expected", found.len())))?;
        let issuer = Issuer::from_ca_cert_der(&certificate, key)
            .map_err(|error| damaged(format!("unreadable certificate: {error}")))?;
        let start = text.find(CERTIFICATE).ok_or_else(|| damaged("no certificate".to_owned()))?;
        Ok(Some(Self { certificate, pem: text[start..].to_owned(), issuer }))
    }

    fn create(
        folder: &Path,
        file: &str,
        name: &str,
        parent: Option<&Pair>,
        now: SystemTime,
    ) -> Result<Self, Error> {
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
        let mut params = CertificateParams::default();
        params.distinguished_name = named(name);
        let below = u8::from(parent.is_none());
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(below));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        params.not_before = date_time_ymd(1970, 1, 1);
        params.not_after = date_time_ymd(1970, 1, 1) + since_epoch(now + AUTHORITY_VALIDITY);
        params.serial_number = Some(SerialNumber::from_slice(Serial::random()?.as_bytes()));
        let certificate = match parent {
            Some(parent) => {
                params.use_authority_key_identifier_extension = true;
                params.signed_by(&key, &parent.issuer)?
            }
            None => params.self_signed(&key)?,
        };
        let pem = certificate.pem();
        let secret = Zeroizing::new(key.serialize_pem());
        files::write(folder, file, &Zeroizing::new(format!("{}{pem}", *secret)))?;
        Ok(Self { certificate: certificate.der().clone(), pem, issuer: Issuer::new(params, key) })
    }

    /// Checks that this is the authority it should be: `name`'s, signed by `parent`, with its own key.
    fn check(&self, path: &Path, name: &str, parent: &Pair) -> Result<(), Error> {
        let damaged = |reason: &str| Error::Damaged { path: path.to_path_buf(), reason: reason.to_owned() };
        let foreign = |reason: String| Error::Foreign { path: path.to_path_buf(), reason };
        let parse = |der| X509Certificate::from_der(der).map_err(|_| damaged("unreadable certificate"));
        let (_, own) = parse(&self.certificate)?;
        let (_, above) = parse(&parent.certificate)?;
        if own.public_key().raw != self.issuer.key().subject_public_key_info() {
            return Err(damaged("the key and the certificate are not of one pair"));
        }
        if !own.is_ca() {
            return Err(damaged("the certificate is not an authority's"));
        }
        let found = own.subject().iter_common_name().next().and_then(|name| name.as_str().ok());
        if found != Some(name) {
            return Err(foreign(format!("it is {:?}, not {name:?}", found.unwrap_or("unnamed"))));
        }
        own.verify_signature(Some(above.public_key()))
            .map_err(|_| foreign("it is not signed by this installation's root".to_owned()))
    }
}

fn intermediate_file(project: &ProjectId) -> String {
    format!("project-{project}.pem")
}

fn has_intermediates(folder: &Path) -> Result<bool, Error> {
    let failed = |source| Error::Io { action: "list", path: folder.to_path_buf(), source };
    for entry in std::fs::read_dir(folder).map_err(failed)? {
        let name = entry.map_err(failed)?.file_name();
        if name.to_string_lossy().starts_with("project-") {
            return Ok(true);
        }
    }
    Ok(false)
}

fn named(name: &str) -> DistinguishedName {
    let mut subject = DistinguishedName::new();
    subject.push(DnType::CommonName, name);
    subject
}

fn leaf(name: &str, usage: ExtendedKeyUsagePurpose) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = named(name);
    params.is_ca = IsCa::ExplicitNoCa;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![usage];
    params.use_authority_key_identifier_extension = true;
    params
}

fn server_name(name: &str) -> Result<SanType, Error> {
    let bad = || Error::BadName { name: name.chars().take(limits::LABEL).collect() };
    match ServerName::try_from(name).map_err(|_| bad())? {
        ServerName::IpAddress(address) => Ok(SanType::IpAddress(address.into())),
        ServerName::DnsName(name) => Ok(SanType::DnsName(name.as_ref().try_into()?)),
        _ => Err(bad()),
    }
}

/// The public key of a signing request whose self-signature is right.
fn requested_key(request: &[u8]) -> Result<SubjectPublicKeyInfo, Error> {
    let bad = |reason: &str| Error::BadRequest { reason: reason.to_owned() };
    if request.len() > limits::CSR {
        return Err(bad(&format!("it has {} bytes, {} are allowed", request.len(), limits::CSR)));
    }
    let der = if request.trim_ascii_start().starts_with(b"-----BEGIN") {
        CertificateSigningRequestDer::from_pem_slice(request).map_err(|_| bad("it is not readable PEM"))?
    } else {
        CertificateSigningRequestDer::from(request)
    };
    let (rest, parsed) =
        X509CertificationRequest::from_der(&der).map_err(|_| bad("it is not a PKCS#10 request"))?;
    if !rest.is_empty() {
        return Err(bad("bytes follow it"));
    }
    let key = SubjectPublicKeyInfo::from_der(parsed.certification_request_info.subject_pki.raw)
        .map_err(|_| bad("its key is of an unknown kind"))?;
    if ![&PKCS_ECDSA_P256_SHA256, &PKCS_ED25519].contains(&key.algorithm()) {
        return Err(bad("its key must be ECDSA P-256 or Ed25519"));
    }
    parsed.verify_signature().map_err(|_| bad("its signature is wrong: the sender does not hold the key"))?;
    Ok(key)
}

/// Time since the epoch; a clock before it counts as the epoch.
fn since_epoch(time: SystemTime) -> Duration {
    time.duration_since(UNIX_EPOCH).unwrap_or_default()
}
