//! Reads what the doctor looks at. Nothing here writes, locks or removes anything, so it may be done beside a running
//! agent and on a disk that is full or read-only.

use super::facts::{
    Agent, CertificateFacts, DesiredFacts, DiskFacts, Facts, IdentityFacts, KeyFacts, Link, MemoryFacts,
    ModelFacts, OutboxFacts, Problem, Read, Running, SlotFacts, SmallFiles, TrustFacts,
};
use super::{launcher, link};
use crate::api::Address;
use crate::clock::{build_ms, wall_ms};
use crate::config::Config;
use crate::disk::{self, DiskError};
use crate::folder::{DESIRED, ENDPOINT, Folder, IDENTITY, MODELS, OUTBOX};
use crate::http_client::{Ask, ask};
use crate::identity::{self, CA, CERTIFICATE, KEY};
use crate::npu::{Npus, Sources};
use crate::sensors::{Sensors, celsius};
use crate::slot::Slot;
use crate::{Error, daemon, outbox, tls};
use flotilla_device::update::UpdateJournal;
use flotilla_protocol::message::{Desired, SlotName};
use flotilla_protocol::{Digest, Envelope, EnvelopeKind, ErrorCode, ModelName, TrustFile, limits};
use rcgen::PublicKeyData;
use rustls::RootCertStore;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, UnixTime};
use rustls::server::WebPkiClientVerifier;
use serde_json::Value;
use std::collections::BTreeMap;
use std::fs::{self, File};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::{FromDer, X509Certificate};

const SMALL_FILE: usize = 64 * limits::KIB;
/// Time for the NPU to answer.
const NPU_TIME: Duration = Duration::from_secs(3);
/// A running agent answers from memory.
const STATUS_TIME: Duration = Duration::from_secs(5);

impl From<DiskError> for Problem {
    fn from(error: DiskError) -> Self {
        Problem::new(error.code(), error)
    }
}

impl From<Error> for Problem {
    fn from(error: Error) -> Self {
        Problem::new(error.code(), error)
    }
}

/// Gathers everything about the folder, which exists.
pub(super) async fn gather(folder: &Folder) -> Facts {
    // The hold on the folder tells, and not the address: a killed agent leaves that behind, and one on a full disk cannot
    // write it down. Where even that cannot be told, nobody is disturbed.
    let alone = !folder.is_in_use().unwrap_or(true);
    let agent = agent(folder, alone).await;
    let identity = identity_facts(folder);
    let small = small_files(folder);
    let names = identity.names.as_ref().ok().and_then(Option::as_ref);
    let link = match names {
        Some(names) => link::try_out(folder, names, small.proof_ms, alone).await,
        None => Link::NotTried,
    };
    let trust_file = names.map(|names| identity::trust(folder, &names.project));
    let desired = desired(folder, trust_file.as_ref().and_then(|trust| trust.as_ref().ok()));
    let trust_copy =
        names.and_then(|names| identity::damaged_copy(folder, &names.project)).map(Problem::from);
    let trust = match trust_file {
        Some(Ok(trust)) => Ok(TrustFacts {
            version: trust.version,
            issued_at_ms: trust.issued_at_ms,
            floors: trust.min_release,
        }),
        Some(Err(error)) => Err(error.into()),
        None => Err(Problem::new(ErrorCode::NotFound, "without an identity there is nobody to trust")),
    };
    let reading = folder.clone();
    // Every file of every slot is read: not on a thread that others wait for.
    let models = tokio::task::spawn_blocking(move || models(&reading)).await;
    let npus = tokio::task::spawn_blocking(|| Npus::new(Sources::default()).first(NPU_TIME)).await;
    let config = Config::read(folder);
    let thermometer = config.as_ref().ok().and_then(|config| config.temperature_file.clone());
    Facts {
        root: folder.root().to_owned(),
        now_ms: wall_ms(),
        build_ms: build_ms(),
        agent,
        launcher: launcher::gather(folder),
        config: config.map_err(Problem::from),
        identity,
        trust,
        trust_copy,
        small,
        desired,
        disk: disk_facts(folder),
        link,
        memory: memory(),
        npus: npus.unwrap_or_default(),
        blind: thermometer.filter(|file| celsius(file).is_none()),
        models: models.unwrap_or_else(|e| Err(Problem::new(ErrorCode::Internal, e))),
        outbox: outbox_facts(folder),
    }
}

/// Asks the agent that left its address in the folder.
async fn agent(folder: &Folder, alone: bool) -> Agent {
    let address = match folder.disk().read(ENDPOINT.as_ref(), 256) {
        Ok(Some(text)) => String::from_utf8_lossy(&text).trim().parse::<Address>().ok(),
        _ if alone => return Agent::Stopped,
        _ => return Agent::Silent,
    };
    if alone {
        return Agent::Gone;
    }
    let answer = async {
        let address = address?;
        let stream = tokio::time::timeout(STATUS_TIME, address.connect()).await.ok()?.ok()?;
        let host = address.host();
        let asked = Ask {
            host: &host,
            method: http::Method::GET,
            path: "/status",
            content_type: "application/json",
            body: Vec::new(),
            max_answer: limits::MIB,
            timeout: STATUS_TIME,
        };
        let (_, body) = ask(stream, asked).await.ok()?;
        serde_json::from_slice::<Value>(&body).ok()
    };
    answer.await.map_or(Agent::Silent, |status| Agent::Runs(running(&status)))
}

fn running(status: &Value) -> Running {
    let problem = |problem: &Value| {
        let code = problem["code"].as_str().map_or(ErrorCode::Unknown, ErrorCode::from_text);
        Some(Problem::new(code, problem["detail"].as_str()?))
    };
    let feeds = |kind: &'static str, all: &str| {
        let of = move |(name, feed): (&String, &Value)| {
            let why = ["problem", "result_problem"].into_iter().find_map(|why| problem(&feed[why]))?;
            Some((format!("{kind} {name}"), why))
        };
        status[all].as_object().into_iter().flatten().filter_map(of).collect::<Vec<_>>()
    };
    Running {
        connected: status["connected"].as_bool().unwrap_or(false),
        problem: problem(&status["connection_problem"]),
        feeds: [feeds("folder", "folders"), feeds("stream", "streams")].concat(),
        clock_ahead_ms: status["clock_ahead_ms"].as_i64(),
        records_waiting: status["records_waiting"].as_u64(),
        records_lost: status["records_lost"].as_u64().unwrap_or(0),
        serving: status["serving"].as_object().into_iter().flat_map(|all| all.keys().cloned()).collect(),
    }
}

// === who the device is ===

fn identity_facts(folder: &Folder) -> IdentityFacts {
    let place = folder.path(IDENTITY);
    // Since the first rotation the certificates lie behind the key, and this file repeats them.
    let chain_pem = pem(&place.join(KEY)).or_else(|_| pem(&place.join(CERTIFICATE)));
    let ca_pem = pem(&place.join(CA));
    IdentityFacts {
        names: identity::names(folder).map_err(Problem::from),
        key: key(&place.join(KEY)),
        chain: chain(&chain_pem, &ca_pem),
        certificate: chain_pem.and_then(|all| certificate(all.first())),
        ca: ca_pem.and_then(|all| certificate(all.first())),
        has_copy: identity::has_copy(folder),
    }
}

fn small_file(path: &Path) -> Read<Vec<u8>> {
    let missing = || Problem::new(ErrorCode::NotFound, format!("{} is missing", path.display()));
    disk::read(path, SMALL_FILE)?.ok_or_else(missing)
}

fn key(path: &Path) -> Read<KeyFacts> {
    let bytes = zeroize::Zeroizing::new(small_file(path)?);
    // What the parser says could quote the key.
    let bad = || Problem::new(ErrorCode::StorageCorrupt, format!("{} is not a private key", path.display()));
    let pair = std::str::from_utf8(&bytes).ok().and_then(|text| rcgen::KeyPair::from_pem(text).ok());
    let public = Digest::of(&pair.ok_or_else(bad)?.subject_public_key_info());
    let mode = fs::metadata(path).map_err(|e| DiskError::of(path, e))?.permissions().mode() & 0o777;
    Ok(KeyFacts { public, mode })
}

fn pem(path: &Path) -> Read<Vec<CertificateDer<'static>>> {
    let bytes = small_file(path)?;
    let bad = |problem: String| {
        Problem::new(ErrorCode::StorageCorrupt, format!("{} is damaged: {problem}", path.display()))
    };
    let all = CertificateDer::pem_slice_iter(&bytes)
        .collect::<Result<Vec<_>, _>>()
        .map_err(|e| bad(e.to_string()))?;
    if all.is_empty() { Err(bad("it holds no certificate".to_owned())) } else { Ok(all) }
}

fn certificate(der: Option<&CertificateDer<'static>>) -> Read<CertificateFacts> {
    let bad = || Problem::new(ErrorCode::StorageCorrupt, "a stored certificate is damaged");
    let (_, parsed) = X509Certificate::from_der(der.ok_or_else(bad)?).map_err(|_| bad())?;
    let ms = |seconds: i64| u64::try_from(seconds).unwrap_or(0).saturating_mul(1_000);
    let names = parsed.subject_alternative_name().ok().flatten();
    let uri = names.and_then(|names| {
        names.value.general_names.iter().find_map(|name| match name {
            GeneralName::URI(uri) => Some((*uri).to_owned()),
            _ => None,
        })
    });
    Ok(CertificateFacts {
        public: Digest::of(parsed.public_key().raw),
        not_before_ms: ms(parsed.validity().not_before.timestamp()),
        not_after_ms: ms(parsed.validity().not_after.timestamp()),
        uri,
    })
}

/// Checks the chain at the moment from which its first certificate is valid: whether that moment is past is another
/// question.
fn chain(chain: &Read<Vec<CertificateDer<'static>>>, ca: &Read<Vec<CertificateDer<'static>>>) -> Read<()> {
    let (Ok(chain), Ok(ca)) = (chain, ca) else { return Ok(()) };
    let ([device, intermediates @ ..], Some(ca)) = (&chain[..], ca.first()) else { return Ok(()) };
    let bad = |e: String| Problem::new(ErrorCode::CaMismatch, e);
    let mut roots = RootCertStore::empty();
    roots.add(ca.clone()).map_err(|e| bad(e.to_string()))?;
    let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), tls::provider())
        .build()
        .map_err(|e| bad(e.to_string()))?;
    // The youngest of the chain says from when on all are valid.
    let from = chain.iter().filter_map(|c| certificate(Some(c)).ok()).map(|c| c.not_before_ms).max();
    let at = UnixTime::since_unix_epoch(Duration::from_millis(from.unwrap_or(0)));
    verifier.verify_client_cert(device, intermediates, at).map(drop).map_err(|e| bad(e.to_string()))
}

// === small files ===

fn small_files(folder: &Folder) -> SmallFiles {
    let stored = daemon::stored(folder);
    SmallFiles { accepted: stored.accepted, proof_ms: stored.proof_ms, damage: stored.damage }
}

fn desired(folder: &Folder, trust: Option<&TrustFile>) -> Read<Option<DesiredFacts>> {
    let Some(bytes) = folder.disk().read(DESIRED.as_ref(), limits::ENVELOPE)? else { return Ok(None) };
    let envelope = Envelope::from_bytes(&bytes).map_err(|e| Problem::new(ErrorCode::StorageCorrupt, e))?;
    let Some(trust) = trust else {
        return Err(Problem::new(ErrorCode::SignatureInvalid, "without a trust file it cannot be believed"));
    };
    let desired: Desired =
        envelope.open(EnvelopeKind::Desired, &trust.control_keys).map_err(|e| Problem::new(e.code(), e))?;
    Ok(Some(DesiredFacts {
        version: desired.version,
        issued_at_ms: desired.issued_at_ms,
        project: desired.project,
        device: desired.device.to_string(),
        models: desired.models.into_iter().map(|(name, model)| (name, model.release)).collect(),
    }))
}

fn outbox_facts(folder: &Folder) -> OutboxFacts {
    let path = folder.path(OUTBOX);
    let mut facts = OutboxFacts {
        opening: folder.path(outbox::OPENING).exists(),
        exists: path.join("db").exists(),
        ..OutboxFacts::default()
    };
    for entry in fs::read_dir(&path).into_iter().flatten().flatten() {
        if !entry.file_type().is_ok_and(|kind| kind.is_file()) {
            continue;
        }
        let read =
            File::open(entry.path()).and_then(|mut file| std::io::copy(&mut file, &mut std::io::sink()));
        match read {
            Ok(bytes) => facts.bytes += bytes,
            // A running agent replaces some of them.
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => {}
            Err(e) => facts.problem = Some(DiskError::of(&entry.path(), e).into()),
        }
    }
    facts
}

// === models ===

fn models(folder: &Folder) -> Read<BTreeMap<ModelName, ModelFacts>> {
    let names = folder.disk().folders(MODELS.as_ref())?;
    let of = |name: ModelName| {
        let slots = [SlotName::A, SlotName::B]
            .into_iter()
            .filter_map(|slot| Some((slot, slot_facts(&folder.slot(&name, slot))?)))
            .collect();
        (name.clone(), ModelFacts { journal: journal(folder, &name), slots })
    };
    Ok(names.iter().filter_map(|name| name.parse().ok()).map(of).collect())
}

fn journal(folder: &Folder, name: &ModelName) -> Read<Option<UpdateJournal>> {
    let Some(bytes) = folder.disk().read(&Folder::journal(name), SMALL_FILE)? else { return Ok(None) };
    UpdateJournal::from_bytes(&bytes).map(Some).map_err(|e| Problem::new(e.code(), e))
}

/// What is in a slot; `None` for nothing.
fn slot_facts(slot: &Slot) -> Option<SlotFacts> {
    if !slot.path().is_dir() {
        return None;
    }
    let release =
        slot.release().ok_or_else(|| Problem::new(ErrorCode::NotFound, "its release document is missing"));
    let release = release.and_then(|digest| {
        let manifest = slot.manifest(digest).map_err(|fault| Problem::new(fault.code, fault.detail))?;
        Ok((digest, Box::new(manifest)))
    });
    let mut facts = SlotFacts { release, bad_files: Vec::new(), good_files: 0 };
    if let Ok((_, manifest)) = &facts.release {
        for file in &manifest.files {
            match slot.check_file(file) {
                Ok(()) => facts.good_files += 1,
                Err(fault) => {
                    facts.bad_files.push((file.name.clone(), Problem::new(fault.code, fault.detail)));
                }
            }
        }
    }
    Some(facts)
}

// === the box ===

fn disk_facts(folder: &Folder) -> Read<DiskFacts> {
    let root = folder.root();
    let stat = rustix::fs::statvfs(root).map_err(|e| DiskError::of(root, e.into()))?;
    let folders = [root.to_owned(), folder.path(IDENTITY), folder.path(MODELS), folder.path(OUTBOX)];
    let writable = rustix::fs::Access::WRITE_OK | rustix::fs::Access::EXEC_OK;
    let not_writable = folders
        .into_iter()
        .filter(|path| path.exists() && rustix::fs::access(path, writable).is_err())
        .collect();
    Ok(DiskFacts {
        total_bytes: stat.f_blocks.saturating_mul(stat.f_frsize),
        free_bytes: stat.f_bavail.saturating_mul(stat.f_frsize),
        free_files: (stat.f_files > 0).then_some(stat.f_favail),
        read_only: stat.f_flag.contains(rustix::fs::StatVfsMountFlags::RDONLY),
        not_writable,
    })
}

fn memory() -> MemoryFacts {
    let available = fs::read_to_string("/proc/meminfo").ok().and_then(|text| {
        let line = text.lines().find_map(|line| line.strip_prefix("MemAvailable:"))?;
        line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()?.checked_mul(1024)
    });
    MemoryFacts { total_bytes: Sensors::new().memory_bytes(), available_bytes: available }
}
