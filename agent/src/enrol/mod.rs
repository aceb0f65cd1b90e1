//! Enrolment: a claim code turns a folder into a device of a fleet.
//!
//! 1. The claim code names the server, the hash of the root CA's key and a secret.
//! 2. The server's certificate chain must end in a root with that key; only then anything is sent.
//! 3. The key is made here, is on the disk before anything is sent, and never leaves; a signing request with the
//!    secret goes out.
//! 4. The answer is checked as a whole: the CA again, a certificate over our key by that CA that names the device,
//!    and a trust file that fits both.
//! 5. Everything is stored, or nothing: the identity folder appears by one rename. What an earlier identity accepted and
//!    recorded in this folder is gone by then.

mod answer;
mod renew;
mod server;

#[cfg(test)]
mod tests;

use crate::clock::Clock;
use crate::folder::{ACCEPTED, COMMANDS, DESIRED, Folder, IDENTITY, IDENTITY_COPY, MODELS, OUTBOX};
use crate::identity::{self, CA, CERTIFICATE, KEY, NAMES, Names, split_address};
use crate::{Error, disk, tls};
use answer::Checked;
pub(crate) use answer::check_certificate;
use flotilla_device::update::UpdateJournal;
use flotilla_protocol::enrol::{BoardSerial, ClaimCode, ENROL_PATH, EnrolAnswer, EnrolRequest};
use flotilla_protocol::message::BoardFacts;
use flotilla_protocol::{
    DeviceId, Digest, Envelope, EnvelopeKind, ModelName, ReleaseManifest, TrustFile, limits,
};
use rcgen::{CertificateParams, KeyPair};
pub(crate) use renew::Renewal;
use server::Server;
use std::fs;
use std::io::{self, Read};
use std::path::Path;
use std::sync::Arc;
use zeroize::Zeroizing;

const STAGING: &str = "identity.new";
const JOURNAL: usize = 64 * limits::KIB;

/// Reads a claim code from a file, or from standard input for `-`. It is never taken from the command line, where
/// every user of the machine could read it.
pub fn read_claim(path: &Path) -> Result<ClaimCode, Error> {
    let stdin = path == Path::new("-");
    let from = if stdin { "standard input".to_owned() } else { path.display().to_string() };
    let wrong = |problem: String| Error::Claim { from: from.clone(), problem };
    let mut text = Zeroizing::new(String::new());
    let read =
        |source: &mut dyn Read, text: &mut String| source.take(limits::CLAIM as u64 + 2).read_to_string(text);
    if stdin {
        read(&mut io::stdin().lock(), &mut text)
    } else {
        fs::File::open(path).and_then(|mut file| read(&mut file, &mut text))
    }
    .map_err(|e| wrong(e.to_string()))?;
    text.parse().map_err(|e: flotilla_protocol::enrol::InvalidClaim| wrong(e.to_string()))
}

/// What a device says of itself when it enrols.
#[derive(Clone, Debug, Default)]
pub struct Applicant {
    /// The id that it would like; the cloud decides.
    pub device: Option<DeviceId>,
    /// What it is.
    pub board: BoardFacts,
    /// The serial number of its board, if it has one.
    pub serial: Option<BoardSerial>,
}

/// Enrols the folder.
pub async fn enrol(
    folder: &Folder,
    claim: &ClaimCode,
    applicant: Applicant,
    clock: &Clock,
) -> Result<Names, Error> {
    let _lock = folder.lock()?;
    if let Some(names) = identity::names(folder)? {
        return Err(Error::AlreadyEnrolled {
            folder: folder.root().to_owned(),
            device: names.device.to_string(),
        });
    }
    if folder.path(IDENTITY).exists() {
        let path = folder.path(IDENTITY);
        return Err(Error::Damaged { path, problem: format!("it has no {NAMES}") });
    }
    let key = enrolment_key(folder)?;
    let enrolled = ask(claim, &key, applicant, clock).await?;
    store(folder, &key, &enrolled)?;
    Ok(enrolled.names)
}

/// What an enrolment brings. It has been checked, and nothing of it is stored.
#[derive(Debug)]
pub struct Enrolled {
    /// Who the device is from now on.
    pub names: Names,
    /// Its certificate and the intermediates, PEM.
    pub certificate_pem: String,
    /// The root CA, PEM.
    pub ca_pem: String,
    /// The trust file as it was signed.
    pub trust: Envelope,
    /// What that says.
    pub believes: TrustFile,
}

/// Asks for a certificate over this key, and checks the answer as a whole.
pub async fn ask(
    claim: &ClaimCode,
    key: &KeyPair,
    applicant: Applicant,
    clock: &Clock,
) -> Result<Enrolled, Error> {
    let csr_pem = signing_request(key)?;
    let Applicant { device, board, serial } = applicant;
    let request = EnrolRequest { secret: claim.secret.clone(), csr_pem, device, board, serial };
    if split_address(&claim.server).is_none() {
        let problem = "its server is not HOST:PORT".to_owned();
        return Err(Error::Claim { from: "the claim code".to_owned(), problem });
    }
    let config = tls::enrol_config(claim.ca, clock).map_err(|e| system("setting TLS up", &e))?;
    let server = Server { address: &claim.server, tls: Arc::new(config) };
    let answer: EnrolAnswer = server.post(ENROL_PATH, &request).await?;
    let Checked { names, trust, believes } =
        answer::check(&answer, claim, key, clock.trusted_ms()).map_err(|fault| Error::Answer {
            server: claim.server.clone(),
            code: fault.code,
            problem: fault.detail,
        })?;
    let EnrolAnswer { certificate_pem, ca_pem, .. } = answer;
    Ok(Enrolled { names, certificate_pem, ca_pem, trust, believes })
}

/// The key of this enrolment. It is on the disk before anything is sent: if the answer is lost, enrolling again with
/// the same claim asks for the same device, and the cloud gives it.
fn enrolment_key(folder: &Folder) -> Result<KeyPair, Error> {
    let path = folder.path(STAGING).join(KEY);
    if let Some(pem) = disk::read(&path, 64 * limits::KIB)? {
        let pem = Zeroizing::new(String::from_utf8_lossy(&pem).into_owned());
        if let Ok(key) = KeyPair::from_pem(&pem) {
            return Ok(key);
        }
    }
    let key = KeyPair::generate().map_err(|e| system("making a key", &e))?;
    disk::replace(&path, Zeroizing::new(key.serialize_pem()).as_bytes())?;
    Ok(key)
}

/// The identity folder appears last and at once; without it, what was written before counts for nothing.
fn store(folder: &Folder, key: &KeyPair, enrolled: &Enrolled) -> Result<(), Error> {
    let names = serde_json::to_vec_pretty(&enrolled.names).map_err(|e| system("writing the names", &e))?;
    let staging = folder.path(STAGING);
    let key = Zeroizing::new(key.serialize_pem());
    for (name, content) in [
        (KEY, key.as_bytes()),
        (CERTIFICATE, enrolled.certificate_pem.as_bytes()),
        (CA, enrolled.ca_pem.as_bytes()),
        (NAMES, &names),
    ] {
        disk::replace(&staging.join(name), content)?;
    }
    forget(folder, &enrolled.believes)?;
    identity::store_trust(folder, &enrolled.trust)?;
    let identity = folder.path(IDENTITY);
    fs::rename(&staging, &identity).map_err(|e| disk::DiskError::of(&identity, e))?;
    Ok(disk::sync_folder(folder.root())?)
}

/// Removes what an earlier identity left behind. The new one begins with version 1 of everything, which would count as
/// replayed beside what the earlier one accepted, and what that one recorded is not of this device. A model goes on
/// serving, until the cloud says what it should be, only if the new trust would take its releases.
fn forget(folder: &Folder, trust: &TrustFile) -> Result<(), Error> {
    for name in [IDENTITY_COPY, ACCEPTED, DESIRED, COMMANDS, OUTBOX] {
        folder.disk().remove(name.as_ref())?;
    }
    for name in folder.disk().folders(MODELS.as_ref())? {
        let Ok(model) = name.parse::<ModelName>() else { continue };
        if is_foreign(folder, &model, trust) {
            tracing::warn!(%model, "a model of another project, or signed by other keys, is removed");
            folder.disk().remove(&Folder::model(&model))?;
        }
    }
    Ok(())
}

/// Whether a model's journal counts on a release that is not of this project and signed by its keys. What is damaged is
/// no such release, and what the journal does not name is examined before it serves.
fn is_foreign(folder: &Folder, model: &ModelName, trust: &TrustFile) -> bool {
    let bytes = folder.disk().read(&Folder::journal(model), JOURNAL).ok().flatten();
    let Some(journal) = bytes.and_then(|bytes| UpdateJournal::from_bytes(&bytes).ok()) else { return false };
    let UpdateJournal { confirmed, previous, candidate, .. } = journal;
    let worked = [confirmed, previous].into_iter().flatten().map(|release| (release.slot, release.release));
    let mut named = worked.chain(candidate.map(|release| (release.slot, release.release)));
    named.any(|(slot, release)| {
        let bytes = folder.slot(model, slot).envelope_bytes().filter(|bytes| Digest::of(bytes) == release);
        let Some(Ok(envelope)) = bytes.map(|bytes| Envelope::from_bytes(&bytes)) else { return false };
        let opened = envelope.open::<ReleaseManifest>(EnvelopeKind::Release, &trust.release_keys);
        opened.map_or(true, |manifest| manifest.project != trust.project)
    })
}

/// A signing request over a key; it says nothing else.
pub(crate) fn signing_request(key: &KeyPair) -> Result<String, Error> {
    CertificateParams::default()
        .serialize_request(key)
        .and_then(|csr| csr.pem())
        .map_err(|e| system("making a signing request", &e))
}

fn system(what: &'static str, error: &dyn std::fmt::Display) -> Error {
    Error::System { what, problem: error.to_string() }
}
