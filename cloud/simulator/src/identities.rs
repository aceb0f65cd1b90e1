//! Who the devices are: enrolled with a claim code as a real one is, each with a key of its own; and kept, if there is a
//! folder for it, so that the next simulation is of the same devices.
//!
//! ```text
//! DIR/identities.jsonl   a device a line: names, key, certificates; only its owner may read it
//! DIR/ca.pem, trust.cbor the root CA and the trust file that came with them
//! ```

use crate::Error;
use crate::options::Options;
use flotilla_agent::clock::Clock;
use flotilla_agent::disk::{self, DiskError};
use flotilla_agent::enrol::{self, Applicant, Enrolled};
use flotilla_agent::identity::Names;
use flotilla_device::backoff::Backoff;
use flotilla_protocol::enrol::ClaimCode;
use flotilla_protocol::message::BoardFacts;
use flotilla_protocol::{DeviceId, Envelope, ErrorCode, TrustFile, limits};
use rcgen::KeyPair;
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;
use serde::{Deserialize, Serialize};
use std::fs::{File, OpenOptions, TryLockError};
use std::io::{BufRead, BufReader, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use tokio::task::JoinSet;
use zeroize::Zeroizing;

const IDENTITIES: &str = "identities.jsonl";
const CA: &str = "ca.pem";
const TRUST: &str = "trust.cbor";
/// Longest line of the file.
const LINE: usize = limits::CERTIFICATE + 8 * limits::KIB;
/// Enrolments at a time. All of them use one claim, which the control plane counts one after the other.
const AT_A_TIME: usize = 4;
/// Times that an enrolment is tried again after a fault of the moment.
const TRIES: u32 = 8;
const RETRY: Backoff = Backoff { base_ms: 100, cap_ms: 5_000 };

/// One enrolled device.
#[derive(Clone, Serialize, Deserialize)]
pub(crate) struct Identity {
    pub(crate) names: Names,
    /// Private key, PKCS#8 PEM.
    pub(crate) key_pem: String,
    /// Certificate and intermediates, PEM.
    pub(crate) certificate_pem: String,
}

/// All of them, and what they have in common.
pub(crate) struct Identities {
    pub(crate) devices: Vec<Arc<Identity>>,
    pub(crate) ca: CertificateDer<'static>,
    pub(crate) trust: TrustFile,
    /// Held as long as they are in use.
    _file: Option<File>,
}

/// What all devices of one control plane have in common.
struct Common {
    ca_pem: String,
    trust: Envelope,
}

/// Finds the devices that are kept, and enrols those that are missing. `progress` hears how many there are.
pub(crate) async fn establish(
    options: &Options,
    progress: &mut dyn FnMut(usize),
) -> Result<Identities, Error> {
    let mut store = options.state.as_deref().map(Store::open).transpose()?;
    let (mut devices, mut common) = match &mut store {
        Some(store) => store.read()?,
        None => (Vec::new(), None),
    };
    devices.truncate(options.devices as usize);
    let missing = options.devices as usize - devices.len();
    if missing > 0 {
        let wanted = options.devices;
        let Some(claim) = &options.claim else {
            return Err(Error::NoClaim { enrolled: devices.len(), wanted });
        };
        let claim = Arc::new(enrol::read_claim(claim).map_err(Error::Claim)?);
        enrol_missing(options, &claim, &mut devices, &mut common, &mut store, progress).await?;
    }
    let Some(common) = common else { return Err(Error::NoClaim { enrolled: 0, wanted: options.devices }) };
    let wrong = |problem: String| Error::State {
        path: options.state.clone().unwrap_or_default().join(TRUST),
        problem: format!("{problem}; remove the folder and enrol anew"),
        code: ErrorCode::StorageCorrupt,
    };
    let ca = CertificateDer::from_pem_slice(common.ca_pem.as_bytes()).map_err(|e| wrong(e.to_string()))?;
    let trust = TrustFile::accept_first(&common.trust).map_err(|e| wrong(e.to_string()))?;
    Ok(Identities { devices, ca, trust, _file: store.map(|store| store.file) })
}

async fn enrol_missing(
    options: &Options,
    claim: &Arc<ClaimCode>,
    devices: &mut Vec<Arc<Identity>>,
    common: &mut Option<Common>,
    store: &mut Option<Store>,
    progress: &mut dyn FnMut(usize),
) -> Result<(), Error> {
    let clock = Clock::new(0);
    let mut names = (devices.len() as u32..options.devices).map(|index| options.device(index));
    let mut under_way = JoinSet::new();
    loop {
        while under_way.len() < AT_A_TIME
            && let Some(name) = names.next()
        {
            let (claim, clock, name, board) = (claim.clone(), clock.clone(), name?, facts(&options.board));
            under_way.spawn(async move { enrol_one(&claim, name, board, &clock).await });
        }
        let Some(ended) = under_way.join_next().await else { return Ok(()) };
        let (identity, enrolled) =
            ended.map_err(|e| Error::System { what: "an enrolment", problem: e.to_string() })??;
        let new = Common { ca_pem: enrolled.ca_pem, trust: enrolled.trust };
        if common.as_ref().is_none_or(|common| common.ca_pem != new.ca_pem) {
            if common.is_some() {
                return Err(Error::State {
                    path: options.state.clone().unwrap_or_default(),
                    problem: "its devices are of another control plane than the claim; use another folder"
                        .to_owned(),
                    code: ErrorCode::CaMismatch,
                });
            }
            if let Some(store) = store {
                store.keep_common(&new)?;
            }
            *common = Some(new);
        }
        if let Some(store) = store {
            store.append(&identity)?;
        }
        devices.push(Arc::new(identity));
        progress(devices.len());
    }
}

async fn enrol_one(
    claim: &ClaimCode,
    device: DeviceId,
    board: BoardFacts,
    clock: &Clock,
) -> Result<(Identity, Enrolled), Error> {
    let key =
        KeyPair::generate().map_err(|e| Error::System { what: "making a key", problem: e.to_string() })?;
    let applicant = Applicant { device: Some(device.clone()), board, serial: None };
    let mut tried = 0;
    loop {
        match enrol::ask(claim, &key, applicant.clone(), clock).await {
            Ok(enrolled) => {
                let identity = Identity {
                    names: enrolled.names.clone(),
                    key_pem: key.serialize_pem(),
                    certificate_pem: enrolled.certificate_pem.clone(),
                };
                return Ok((identity, enrolled));
            }
            Err(error) if tried < TRIES && is_of_the_moment(error.code()) => {
                let wait_ms = RETRY.delay_ms(tried, rand::random());
                tokio::time::sleep(std::time::Duration::from_millis(wait_ms)).await;
                tried += 1;
            }
            Err(source) => return Err(Error::Enrol { device: device.to_string(), source }),
        }
    }
}

fn is_of_the_moment(code: ErrorCode) -> bool {
    matches!(code, ErrorCode::Network | ErrorCode::Busy | ErrorCode::Timeout | ErrorCode::PreconditionFailed)
}

/// What such a device says that it is made of.
pub(crate) fn facts(board: &str) -> BoardFacts {
    BoardFacts {
        board: board.to_owned(),
        engines: vec![flotilla_protocol::manifest::ENGINE_TRACT.to_owned()],
        arch: std::env::consts::ARCH.to_owned(),
        cpus: 4,
        memory_bytes: 1024 * limits::MIB as u64,
        os: "simulated".to_owned(),
    }
}

/// The folder.
struct Store {
    folder: PathBuf,
    file: File,
}

impl Store {
    fn open(folder: &Path) -> Result<Self, Error> {
        disk::private_folder(folder).map_err(|e| of_disk(folder, &e))?;
        let path = folder.join(IDENTITIES);
        let file = OpenOptions::new().read(true).append(true).create(true).mode(0o600).open(&path);
        let file = file.map_err(|e| of_disk(&path, &DiskError::of(&path, e)))?;
        match file.try_lock() {
            Ok(()) => Ok(Self { folder: folder.to_owned(), file }),
            Err(TryLockError::WouldBlock) => Err(Error::State {
                path: folder.to_owned(),
                problem: "another simulation uses it; stop that one, or use another folder".to_owned(),
                code: ErrorCode::StorageInUse,
            }),
            Err(TryLockError::Error(e)) => Err(of_disk(&path, &DiskError::of(&path, e))),
        }
    }

    /// The devices that are kept. A line that a kill cut off is the last one, and goes.
    fn read(&mut self) -> Result<(Vec<Arc<Identity>>, Option<Common>), Error> {
        let path = self.folder.join(IDENTITIES);
        let io = |e: std::io::Error| of_disk(&path, &DiskError::of(&path, e));
        let (mut devices, mut whole) = (Vec::new(), 0);
        let mut lines = BufReader::new(&self.file);
        let mut line = Zeroizing::new(Vec::new());
        loop {
            line.clear();
            let read =
                std::io::Read::take(&mut lines, LINE as u64).read_until(b'\n', &mut line).map_err(io)?;
            if read == 0 || line.last() != Some(&b'\n') && read < LINE {
                break;
            }
            let identity = serde_json::from_slice(&line).map_err(|e| Error::State {
                path: path.clone(),
                problem: format!(
                    "line {} is damaged ({e}); remove the folder and enrol anew",
                    devices.len() + 1
                ),
                code: ErrorCode::StorageCorrupt,
            })?;
            devices.push(Arc::new(identity));
            whole += read as u64;
        }
        self.file.set_len(whole).map_err(io)?;
        let common = self.read_common()?;
        // Without what they have in common they are nobody.
        if common.is_none() {
            self.file.set_len(0).map_err(io)?;
            devices.clear();
        }
        Ok((devices, common))
    }

    fn read_common(&self) -> Result<Option<Common>, Error> {
        let read = |name: &str| {
            let path = self.folder.join(name);
            disk::read(&path, limits::ENVELOPE).map_err(|e| of_disk(&path, &e))
        };
        let (Some(ca), Some(trust)) = (read(CA)?, read(TRUST)?) else { return Ok(None) };
        let trust = Envelope::from_bytes(&trust).map_err(|e| Error::State {
            path: self.folder.join(TRUST),
            problem: format!("{e}; remove the folder and enrol anew"),
            code: e.code(),
        })?;
        Ok(Some(Common { ca_pem: String::from_utf8_lossy(&ca).into_owned(), trust }))
    }

    fn keep_common(&self, common: &Common) -> Result<(), Error> {
        for (name, content) in [(CA, common.ca_pem.as_bytes()), (TRUST, &common.trust.to_bytes())] {
            let path = self.folder.join(name);
            disk::replace(&path, content).map_err(|e| of_disk(&path, &e))?;
        }
        Ok(())
    }

    fn append(&mut self, identity: &Identity) -> Result<(), Error> {
        let path = self.folder.join(IDENTITIES);
        let mut line = Zeroizing::new(
            serde_json::to_vec(identity)
                .map_err(|e| Error::System { what: "writing an identity", problem: e.to_string() })?,
        );
        line.push(b'\n');
        self.file.write_all(&line).map_err(|e| of_disk(&path, &DiskError::of(&path, e)))
    }
}

fn of_disk(path: &Path, error: &DiskError) -> Error {
    Error::State { path: path.to_owned(), problem: error.to_string(), code: error.code() }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests fail by panicking")]
mod tests {
    use super::*;

    fn identity(name: &str) -> Identity {
        let names = Names {
            project: "default".parse().unwrap(),
            device: name.parse().unwrap(),
            mqtt: "127.0.0.1:1".to_owned(),
            server: None,
        };
        Identity { names, key_pem: "key".to_owned(), certificate_pem: "certificate".to_owned() }
    }

    fn common() -> Common {
        let key = flotilla_protocol::signature::SigningKey::from_seed(&[7; 32]);
        let keys = flotilla_protocol::trust::KeySet::single(key.public());
        let trust = TrustFile {
            version: 1,
            project: "default".parse().unwrap(),
            ca: flotilla_protocol::Digest::of(b"ca"),
            release_keys: keys.clone(),
            control_keys: keys,
            min_release: Default::default(),
            issued_at_ms: 1,
        };
        let trust = Envelope::seal(flotilla_protocol::EnvelopeKind::Trust, &trust, &[&key]);
        Common { ca_pem: "ca".to_owned(), trust }
    }

    fn names(store: &mut Store) -> Vec<String> {
        store.read().unwrap().0.iter().map(|device| device.names.device.to_string()).collect()
    }

    #[test]
    fn devices_are_kept_and_a_line_that_was_cut_off_costs_only_itself() {
        let folder = tempfile::tempdir().unwrap();
        let mut store = Store::open(folder.path()).unwrap();
        store.keep_common(&common()).unwrap();
        store.append(&identity("sim-1")).unwrap();
        store.append(&identity("sim-2")).unwrap();
        drop(store);
        let path = folder.path().join(IDENTITIES);
        let bytes = std::fs::read(&path).unwrap();
        std::fs::write(&path, &bytes[..bytes.len() - 5]).unwrap();
        let mut store = Store::open(folder.path()).unwrap();
        assert_eq!(names(&mut store), ["sim-1"]);
        store.append(&identity("sim-3")).unwrap();
        drop(store);
        assert_eq!(names(&mut Store::open(folder.path()).unwrap()), ["sim-1", "sim-3"]);
    }

    #[test]
    fn two_simulations_of_the_same_devices_are_refused() {
        let folder = tempfile::tempdir().unwrap();
        let _first = Store::open(folder.path()).unwrap();
        let second = Store::open(folder.path()).map(|_| ()).map_err(|error| error.code());
        assert_eq!(second, Err(ErrorCode::StorageInUse));
    }
}
