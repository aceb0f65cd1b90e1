//! `flotilla trust`, and the offline signing of releases. What signs needs no control plane: a private key never leaves
//! the machine on which it lives.

use super::args::Trust;
use super::commands::{Done, Out, client, write_new};
use super::exit::Failure;
use super::read_file;
use crate::http::api::TrustView;
use flotilla_identity::now_ms;
use flotilla_protocol::envelope::EnvelopeError;
use flotilla_protocol::signature::{PublicKey, SigningKey};
use flotilla_protocol::trust::KeySet;
use flotilla_protocol::{Digest, Envelope, EnvelopeKind, ErrorCode, TrustFile, codec, limits};
use flotilla_registry::{Bundle, read_key};
use serde_json::{Value, json};
use std::io::{Read, Write};
use std::path::Path;

/// Largest draft of a release that is signed.
const DRAFT: u64 = 256 * limits::MIB as u64;

pub(super) fn run(command: Trust, out: &Out) -> Done {
    match command {
        Trust::Show { file: Some(file), .. } => {
            let envelope = read_envelope(&file)?;
            out.show(&shown(&envelope)?, print)
        }
        Trust::Show { file: None, target } => {
            let trust: TrustView = client(&target)?.get("/api/v1/trust")?;
            out.show(&shown(&current(&trust)?)?, print)
        }
        Trust::Key { file, .. } => {
            let secret = zeroize::Zeroizing::new(SigningKey::generate_pkcs8());
            let key = SigningKey::from_pkcs8(&secret).map_err(|e| Failure::new(ErrorCode::Internal, e))?;
            write_new(&file, || Ok(secret.to_vec()))?;
            let public = json!({ "public": key.public(), "id": key.public().id() });
            out.show(&public, |public| println!("{}", text(&public["public"])))
        }
        Trust::Propose { file, release_keys, threshold, control_keys, floors, target } => {
            let trust: TrustView = client(&target)?.get("/api/v1/trust")?;
            let mut next = document(&current(&trust)?)?;
            next.version += 1;
            next.issued_at_ms = now_ms().max(next.issued_at_ms);
            if !release_keys.is_empty() {
                next.release_keys.keys = keys(&release_keys)?;
            }
            next.release_keys.threshold = threshold.unwrap_or(next.release_keys.threshold);
            if !control_keys.is_empty() {
                next.control_keys.keys = keys(&control_keys)?;
            }
            for floor in &floors {
                let (model, counter) = read_floor(floor)?;
                next.min_release.insert(model, counter);
            }
            let envelope = Envelope::seal(EnvelopeKind::Trust, &next, &[]);
            write_new(&file, || Ok(envelope.to_bytes()))?;
            out.show(&shown(&envelope)?, print)
        }
        Trust::Sign { file, key, .. } => {
            let mut envelope = read_envelope(&file)?;
            sign(&mut envelope, &key)?;
            replace(&file, &envelope.to_bytes())?;
            out.show(&shown(&envelope)?, print)
        }
        Trust::Publish { file, target } => {
            let trust: TrustView = client(&target)?.post_file("/api/v1/trust", read_file(&file)?)?;
            out.show(&shown(&current(&trust)?)?, print)
        }
    }
}

/// Adds a signature to the envelope in a bundle.
pub(super) fn sign_release(file: &Path, key: &Path, out: &Out) -> Done {
    let mut zip = Vec::new();
    let unreadable =
        |e| Failure::new(ErrorCode::StorageIo, format!("{} cannot be read: {e}", file.display()));
    read_file(file)?.take(DRAFT + 1).read_to_end(&mut zip).map_err(unreadable)?;
    let refused = |e: flotilla_registry::Error| Failure::new(e.code(), e);
    let mut bundle = Bundle::from_zip(&zip).map_err(refused)?;
    let mut envelope = Envelope::from_bytes(&bundle.envelope).map_err(not_readable)?;
    if envelope.kind != EnvelopeKind::Release {
        return Err(Failure::new(ErrorCode::Malformed, "the bundle does not hold a release"));
    }
    sign(&mut envelope, key)?;
    bundle.envelope = envelope.to_bytes().into();
    replace(file, &bundle.to_zip().map_err(refused)?)?;
    let signed = json!({ "release": envelope.digest(), "signed_by": signers(&envelope) });
    out.show(&signed, |signed| println!("{} signed by {}", text(&signed["release"]), signed["signed_by"]))
}

fn sign(envelope: &mut Envelope, key: &Path) -> Done {
    let key = read_key(key).map_err(|e| Failure::new(e.code(), e))?;
    if envelope.sign(&key) {
        return Ok(());
    }
    Err(Failure::new(ErrorCode::TooLarge, format!("{} signatures are there already", limits::SIGNATURES)))
}

fn not_readable(error: EnvelopeError) -> Failure {
    Failure::new(error.code(), error)
}

fn read_envelope(file: &Path) -> Result<Envelope, Failure> {
    let mut bytes = Vec::new();
    let unreadable =
        |e| Failure::new(ErrorCode::StorageIo, format!("{} cannot be read: {e}", file.display()));
    read_file(file)?.take(limits::ENVELOPE as u64 + 1).read_to_end(&mut bytes).map_err(unreadable)?;
    let envelope = Envelope::from_bytes(&bytes).map_err(not_readable)?;
    if envelope.kind != EnvelopeKind::Trust {
        let detail = format!("{} does not hold a trust file", file.display());
        return Err(Failure::new(ErrorCode::Malformed, detail));
    }
    Ok(envelope)
}

fn current(trust: &TrustView) -> Result<Envelope, Failure> {
    let bytes = hex::decode(&trust.envelope).map_err(|e| Failure::new(ErrorCode::Malformed, e))?;
    Envelope::from_bytes(&bytes).map_err(not_readable)
}

fn document(envelope: &Envelope) -> Result<TrustFile, Failure> {
    codec::decode(&envelope.payload, limits::ENVELOPE).map_err(|e| Failure::new(e.code(), e))
}

fn keys(texts: &[String]) -> Result<Vec<PublicKey>, Failure> {
    let key = |text: &String| match text.trim().parse::<Digest>() {
        Ok(bytes) => Ok(PublicKey::from_bytes(*bytes.as_bytes())),
        Err(_) => {
            Err(Failure::new(ErrorCode::InvalidInput, format!("{text:?} is not a public key: 64 hex digits")))
        }
    };
    texts.iter().map(key).collect()
}

fn read_floor(text: &str) -> Result<(flotilla_protocol::ModelName, u64), Failure> {
    let parsed = text.split_once('=').and_then(|(m, c)| Some((m.parse().ok()?, c.parse().ok()?)));
    parsed.ok_or_else(|| Failure::new(ErrorCode::InvalidInput, format!("{text:?} is not MODEL=COUNTER")))
}

/// The keys whose signatures are there, valid or not: the file may be of another installation.
fn signers(envelope: &Envelope) -> Vec<String> {
    envelope.signatures.iter().map(|signature| signature.key.to_string()).collect()
}

fn shown(envelope: &Envelope) -> Result<Value, Failure> {
    let file = document(envelope)?;
    let set = |keys: &KeySet| {
        let list: Vec<_> =
            keys.keys.iter().map(|key| json!({ "id": key.id().to_string(), "public": key })).collect();
        json!({ "threshold": keys.threshold, "keys": list })
    };
    Ok(json!({
        "version": file.version,
        "project": file.project,
        "ca": file.ca,
        "release": set(&file.release_keys),
        "control": set(&file.control_keys),
        "floors": file.min_release,
        "issued_at_ms": file.issued_at_ms,
        "signed_by": signers(envelope),
        "own_signatures": envelope.valid_signers(&file.release_keys).len(),
    }))
}

fn print(trust: &Value) {
    println!("trust file version {} of project {}", trust["version"], text(&trust["project"]));
    for which in ["release", "control"] {
        println!("{which} keys, {} must sign:", trust[which]["threshold"]);
        for key in trust[which]["keys"].as_array().into_iter().flatten() {
            println!("  {}  {}", text(&key["id"]), text(&key["public"]));
        }
    }
    for (model, counter) in trust["floors"].as_object().into_iter().flatten() {
        println!("no release of {model} below {counter}");
    }
    let signed: Vec<_> = trust["signed_by"].as_array().into_iter().flatten().map(text).collect();
    println!("signed by {}", if signed.is_empty() { "nobody yet".to_owned() } else { signed.join(", ") });
}

fn text(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}

/// Replaces a file as a whole.
fn replace(path: &Path, bytes: &[u8]) -> Done {
    let failed = |e: std::io::Error| {
        Failure::new(ErrorCode::StorageIo, format!("{} cannot be written: {e}", path.display()))
    };
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(".tmp");
    let beside = path.with_file_name(name);
    let mut file = std::fs::File::create(&beside).map_err(failed)?;
    file.write_all(bytes).and_then(|()| file.sync_all()).map_err(failed)?;
    std::fs::rename(&beside, path).map_err(failed)
}
