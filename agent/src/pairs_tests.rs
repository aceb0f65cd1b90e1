//! Whatever write fails or is the last before a power cut, the folder holds a pair that works.
#![expect(clippy::unwrap_used, reason = "tests fail by panicking")]

use super::*;
use crate::disk::{Disk, FolderDisk, Size};
use crate::identity::{CA, NAMES};
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, PublicKeyData, SerialNumber};
use std::fs;
use std::io;
use std::sync::atomic::{AtomicU32, Ordering};

/// A disk that takes so many changes and no more.
struct Failing {
    disk: FolderDisk,
    left: AtomicU32,
}

impl Failing {
    fn change(&self, path: &Path) -> Result<(), DiskError> {
        let less = |left: u32| left.checked_sub(1);
        match self.left.fetch_update(Ordering::SeqCst, Ordering::SeqCst, less) {
            Ok(_) => Ok(()),
            Err(_) => Err(DiskError::of(path, io::ErrorKind::StorageFull.into())),
        }
    }
}

impl Disk for Failing {
    fn content(&self, path: &Path, max: usize) -> Result<Option<Vec<u8>>, DiskError> {
        self.disk.content(path, max)
    }

    fn read_at(&self, path: &Path, offset: u64, buffer: &mut [u8]) -> Result<usize, DiskError> {
        self.disk.read_at(path, offset, buffer)
    }

    fn write_at(&self, path: &Path, offset: u64, bytes: &[u8]) -> Result<(), DiskError> {
        self.change(path)?;
        self.disk.write_at(path, offset, bytes)
    }

    fn size(&self, path: &Path) -> Result<Option<Size>, DiskError> {
        self.disk.size(path)
    }

    fn settle(&self, path: &Path, bytes: u64) -> Result<(), DiskError> {
        self.change(path)?;
        self.disk.settle(path, bytes)
    }

    fn rename(&self, from: &Path, to: &Path) -> Result<(), DiskError> {
        self.change(to)?;
        self.disk.rename(from, to)
    }

    fn remove(&self, path: &Path) -> Result<(), DiskError> {
        self.change(path)?;
        self.disk.remove(path)
    }

    fn create_folder(&self, path: &Path) -> Result<(), DiskError> {
        self.change(path)?;
        self.disk.create_folder(path)
    }

    fn sync_folder(&self, path: &Path) -> Result<(), DiskError> {
        self.change(path)?;
        self.disk.sync_folder(path)
    }

    fn folders(&self, path: &Path) -> Result<Vec<String>, DiskError> {
        self.disk.folders(path)
    }
}

struct Bench {
    root: tempfile::TempDir,
    issuer: Issuer<'static, KeyPair>,
}

impl Bench {
    /// A folder as the first enrolment leaves it, with a certificate of serial number 1.
    fn new() -> Self {
        let root = tempfile::tempdir().unwrap();
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name.push(DnType::CommonName, "test root");
        let ca = params.self_signed(&key).unwrap();
        let bench = Self { root, issuer: Issuer::new(params, key) };
        let device = KeyPair::generate().unwrap();
        let identity = bench.root.path().join(IDENTITY);
        fs::create_dir_all(&identity).unwrap();
        fs::write(identity.join(KEY), device.serialize_pem()).unwrap();
        fs::write(identity.join(CERTIFICATE), bench.certificate(&device, 1)).unwrap();
        fs::write(identity.join(CA), ca.pem()).unwrap();
        let names = serde_json::json!({ "project": "default", "device": "gate-7", "mqtt": "127.0.0.1:1" });
        fs::write(identity.join(NAMES), names.to_string()).unwrap();
        bench
    }

    fn certificate(&self, key: &impl PublicKeyData, serial: u8) -> String {
        let mut params = CertificateParams::default();
        params.serial_number = Some(SerialNumber::from_slice(&[serial]));
        params.signed_by(key, &self.issuer).unwrap().pem()
    }

    fn folder(&self) -> Folder {
        Folder::open(self.root.path()).unwrap()
    }

    fn failing(&self, after: u32) -> Folder {
        let disk = FolderDisk::new(self.root.path()).unwrap();
        Folder::with_disk(self.root.path(), Arc::new(Failing { disk, left: AtomicU32::new(after) }))
    }

    /// Serial numbers of the present and the next pair after a start.
    fn serials(&self) -> (String, Option<String>) {
        tidy(&self.folder());
        let identity = crate::identity::read(&self.folder(), &Clock::new(0)).unwrap();
        (identity.present.serial, identity.next.map(|next| next.serial))
    }

    fn names(&self) -> Vec<String> {
        let entries = fs::read_dir(self.root.path().join(IDENTITY)).unwrap();
        let mut names: Vec<_> = entries.map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    /// What an agent reads that knows no rotation: the first key, and the certificates of their own file.
    fn check_older_agents(&self) {
        let read = |name: &str| fs::read(self.root.path().join(IDENTITY).join(name)).unwrap();
        let key = KeyPair::from_pem(std::str::from_utf8(&read(KEY)).unwrap()).unwrap();
        let certificate = CertificateDer::from_pem_slice(&read(CERTIFICATE)).unwrap();
        let of_key = flotilla_protocol::Digest::of(&key.subject_public_key_info());
        assert_eq!(tls::key_digest(&certificate), Some(of_key));
    }
}

fn rotate(bench: &Bench, folder: &Folder, serial: u8) -> Result<(), Error> {
    let key = asked_key(folder)?;
    store_next(folder, &key, &bench.certificate(&key, serial))?;
    Ok(adopt(folder)?)
}

#[test]
fn a_pair_takes_over_and_older_agents_can_read_it() {
    let bench = Bench::new();
    assert_eq!(bench.serials(), ("01".into(), None));
    bench.check_older_agents();
    for serial in 2..5 {
        rotate(&bench, &bench.folder(), serial).unwrap();
        assert_eq!(bench.serials(), (format!("{serial:02x}"), None));
        bench.check_older_agents();
        assert_eq!(bench.names(), ["ca.pem", "cert.pem", "device.json", "key.pem"], "nothing stays behind");
    }
    use std::os::unix::fs::PermissionsExt;
    let key = bench.root.path().join(IDENTITY).join(KEY);
    assert_eq!(fs::metadata(key).unwrap().permissions().mode() & 0o777, 0o600);
}

#[test]
fn a_power_cut_or_full_disk_after_any_write_leaves_a_pair_that_works() {
    let mut seen = std::collections::BTreeSet::new();
    for writes in 0.. {
        let bench = Bench::new();
        rotate(&bench, &bench.folder(), 2).unwrap();
        let through = rotate(&bench, &bench.failing(writes), 3).is_ok();
        let (present, next) = bench.serials();
        // Until the switch the old pair and, once it is stored, the new one: the cloud accepts both then.
        assert!(["02", "03"].contains(&present.as_str()), "{writes}: {present}");
        assert!(!through || present == "03", "{writes}");
        bench.check_older_agents();
        seen.insert((present, next));
        rotate(&bench, &bench.folder(), 4).unwrap();
        assert_eq!(bench.serials(), ("04".into(), None));
        if through {
            break;
        }
    }
    let before = ("02".to_owned(), None);
    let stored = ("02".to_owned(), Some("03".to_owned()));
    assert_eq!(seen.into_iter().collect::<Vec<_>>(), [before, stored, ("03".to_owned(), None)]);
}

#[test]
fn the_key_of_a_question_is_the_same_until_it_is_answered_or_given_up() {
    let bench = Bench::new();
    let folder = bench.folder();
    let key = asked_key(&folder).unwrap();
    assert_eq!(asked_key(&folder).unwrap().serialized_der(), key.serialized_der());
    discard(&folder).unwrap();
    let other = asked_key(&folder).unwrap();
    assert_ne!(other.serialized_der(), key.serialized_der());
    store_next(&folder, &other, &bench.certificate(&other, 9)).unwrap();
    assert_eq!(bench.serials(), ("01".into(), Some("09".into())));
    let known: Vec<_> = known_keys(&folder).unwrap().iter().map(|k| k.serialized_der().to_vec()).collect();
    assert_eq!((known.len(), known[0].as_slice()), (2, other.serialized_der()));
    discard(&folder).unwrap();
    assert_eq!(bench.serials(), ("01".into(), None));
}

#[test]
fn a_restart_keeps_the_key_that_waits_for_an_approval() {
    let bench = Bench::new();
    let folder = bench.folder();
    let first = asked_key(&folder).unwrap();
    store_next(&folder, &first, &bench.certificate(&first, 9)).unwrap();
    // The cloud does not take the next pair, so another one is asked for while it lies there.
    let second = asked_key(&folder).unwrap();
    for _ in 0..3 {
        assert_eq!(bench.serials(), ("01".into(), Some("09".into())));
        assert_eq!(asked_key(&folder).unwrap().serialized_der(), second.serialized_der());
    }
    // The key of the next pair itself is left over from a stop between two writes.
    fs::write(bench.root.path().join(IDENTITY).join(ASKED), first.serialize_pem()).unwrap();
    tidy(&folder);
    assert!(!bench.names().contains(&ASKED.to_owned()), "{:?}", bench.names());
}

#[test]
fn reading_an_identity_writes_nothing_whatever_a_stop_has_left_behind() {
    let bench = Bench::new();
    let folder = bench.folder();
    let key = asked_key(&folder).unwrap();
    store_next(&folder, &key, &bench.certificate(&key, 9)).unwrap();
    let identity = bench.root.path().join(IDENTITY);
    fs::copy(identity.join(NEXT), identity.join(KEY)).unwrap();
    fs::write(identity.join(ASKED), key.serialize_pem()).unwrap();
    let content = || bench.names().iter().map(|n| fs::read(identity.join(n)).unwrap()).collect::<Vec<_>>();
    let (names, before) = (bench.names(), content());
    let read = crate::identity::read(&folder, &Clock::new(0)).unwrap();
    assert_eq!((read.present.serial.as_str(), bench.names(), content()), ("09", names, before));
}

#[test]
fn a_damaged_next_pair_is_not_used_and_does_not_stop_the_device() {
    let bench = Bench::new();
    let key = asked_key(&bench.folder()).unwrap();
    let good = format!("{}{}", key.serialize_pem(), bench.certificate(&key, 9));
    let path = bench.root.path().join(IDENTITY).join(NEXT);
    for cut in [0, 10, good.len() / 3, good.len() - 40] {
        fs::write(&path, &good[..cut]).unwrap();
        assert_eq!(bench.serials(), ("01".into(), None), "cut at {cut}");
    }
    let other = KeyPair::generate().unwrap();
    fs::write(&path, format!("{}{}", other.serialize_pem(), bench.certificate(&key, 9))).unwrap();
    assert_eq!(bench.serials(), ("01".into(), None), "of two pairs");
    fs::write(&path, good).unwrap();
    assert_eq!(bench.serials(), ("01".into(), Some("09".into())));
}
