//! Enrolment: a claim code turns a folder into a device of a fleet.
//!
//! 1. The claim code names the server, the hash of the root CA's key and a secret.
//! 2. The server's certificate chain must end in a root with that key; only then anything is sent.
//! 3. The key is made here, is on the disk before anything is sent, and never leaves; a signing request with the
//!    secret goes out.
//! 4. The answer is checked as a whole: the CA again, a certificate over our key by that CA that names the device,
//!    and a trust file that fits both.
//! 5. Everything is stored, or nothing: the identity folder appears by one rename.

mod answer;

#[cfg(test)]
mod tests;

use crate::clock::Clock;
use crate::folder::{Folder, IDENTITY};
use crate::http_client::{Ask, ask};
use crate::identity::{self, CA, CERTIFICATE, KEY, NAMES, Names, split_address};
use crate::tls::{self, NotTheCa};
use crate::{Error, disk};
use answer::Checked;
use flotilla_protocol::enrol::{ClaimCode, ENROL_PATH, EnrolAnswer, EnrolRequest};
use flotilla_protocol::message::BoardFacts;
use flotilla_protocol::{DeviceId, ErrorCode, limits};
use http::{Method, StatusCode};
use rcgen::{CertificateParams, KeyPair};
use rustls::pki_types::ServerName;
use serde::Deserialize;
use std::fs;
use std::io::{self, Read};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use zeroize::Zeroizing;

const CONNECT: Duration = Duration::from_secs(15);
const ANSWER: Duration = Duration::from_secs(60);
const STAGING: &str = "identity.new";

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

/// Enrols the folder. `device` is the id that it would like; the cloud decides.
pub async fn enrol(
    folder: &Folder,
    claim: &ClaimCode,
    device: Option<DeviceId>,
    board: BoardFacts,
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
    let csr_pem = CertificateParams::default()
        .serialize_request(&key)
        .and_then(|csr| csr.pem())
        .map_err(|e| system("making a signing request", &e))?;
    let request = EnrolRequest { secret: claim.secret.clone(), csr_pem, device, board };
    let stream = connect(claim, clock).await?;
    let answer = send(claim, stream, &request).await?;
    let checked = answer::check(&answer, claim, &key, clock.trusted_ms()).map_err(|fault| Error::Answer {
        server: claim.server.clone(),
        code: fault.code,
        problem: fault.detail,
    })?;
    store(folder, &key, &answer, &checked)?;
    Ok(checked.names)
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

/// Opens a TLS connection to the server that the claim code means, or to none.
async fn connect(claim: &ClaimCode, clock: &Clock) -> Result<TlsStream<TcpStream>, Error> {
    let server = claim.server.clone();
    let network = |problem: String| Error::Network { server: server.clone(), problem };
    let (host, port) = split_address(&claim.server).ok_or_else(|| Error::Claim {
        from: "the claim code".to_owned(),
        problem: "its server is not HOST:PORT".to_owned(),
    })?;
    let name = ServerName::try_from(host.to_owned()).map_err(|e| network(e.to_string()))?;
    let config = tls::enrol_config(claim.ca, clock).map_err(|e| system("setting TLS up", &e))?;
    let shake = async {
        let tcp = TcpStream::connect((host, port)).await.map_err(|e| network(e.to_string()))?;
        TlsConnector::from(Arc::new(config))
            .connect(name, tcp)
            .await
            .map_err(|e| handshake_error(&server, &e))
    };
    let shaken = tokio::time::timeout(CONNECT, shake).await;
    shaken.unwrap_or_else(|_| Err(network(format!("no connection within {} s", CONNECT.as_secs()))))
}

fn handshake_error(server: &str, error: &io::Error) -> Error {
    let server = server.to_owned();
    match error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>()) {
        Some(tls) if NotTheCa::is_cause_of(tls) => Error::CaMismatch { server },
        Some(tls) => Error::Tls { server, problem: tls.to_string() },
        None => Error::Network { server, problem: error.to_string() },
    }
}

#[derive(Deserialize)]
struct Problem {
    code: ErrorCode,
    #[serde(default)]
    detail: String,
}

async fn send(
    claim: &ClaimCode,
    stream: TlsStream<TcpStream>,
    request: &EnrolRequest,
) -> Result<EnrolAnswer, Error> {
    let server = claim.server.clone();
    let body = serde_json::to_vec(request).map_err(|e| system("writing the request", &e))?;
    let asked = Ask {
        host: &claim.server,
        method: Method::POST,
        path: ENROL_PATH,
        content_type: "application/json",
        body,
        max_answer: limits::ENROL_BODY,
        timeout: ANSWER,
    };
    let (status, body) =
        ask(stream, asked).await.map_err(|problem| Error::Network { server: server.clone(), problem })?;
    if status != StatusCode::OK && status != StatusCode::CREATED {
        let problem = serde_json::from_slice(&body).unwrap_or_else(|_| Problem {
            code: ErrorCode::Unknown,
            detail: format!("HTTP status {status}"),
        });
        let detail = problem.detail.chars().filter(|c| !c.is_control()).take(limits::TEXT).collect();
        return Err(Error::Refused { server, code: problem.code, detail });
    }
    serde_json::from_slice(&body).map_err(|e| Error::Answer {
        server,
        code: ErrorCode::Malformed,
        problem: format!("it cannot be read: {e}"),
    })
}

/// The identity folder appears last and at once; without it, what was written before counts for nothing.
fn store(folder: &Folder, key: &KeyPair, answer: &EnrolAnswer, checked: &Checked) -> Result<(), Error> {
    let names = serde_json::to_vec_pretty(&checked.names).map_err(|e| system("writing the names", &e))?;
    let staging = folder.path(STAGING);
    let key = Zeroizing::new(key.serialize_pem());
    for (name, content) in [
        (KEY, key.as_bytes()),
        (CERTIFICATE, answer.certificate_pem.as_bytes()),
        (CA, answer.ca_pem.as_bytes()),
        (NAMES, &names),
    ] {
        disk::replace(&staging.join(name), content)?;
    }
    identity::store_trust(folder, &checked.trust)?;
    let identity = folder.path(IDENTITY);
    fs::rename(&staging, &identity).map_err(|e| disk::DiskError::of(&identity, e))?;
    Ok(disk::sync_folder(folder.root())?)
}

fn system(what: &'static str, error: &dyn std::fmt::Display) -> Error {
    Error::System { what, problem: error.to_string() }
}
