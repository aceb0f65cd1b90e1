//! What the authority promises: one installation keeps one root, devices get what we say and not what they ask for,
//! and damaged, foreign or exposed key files are refused with their name.

#![expect(clippy::unwrap_used, reason = "tests fail by panicking")]

use super::*;
use flotilla_protocol::{DeviceId, Digest, ErrorCode, ProjectId};
use rcgen::{CertificateParams, DnType, KeyPair, PKCS_ECDSA_P256_SHA256, SanType};
use rustls::RootCertStore;
use rustls::client::danger::ServerCertVerifier;
use rustls::server::WebPkiClientVerifier;
use rustls::server::danger::ClientCertVerifier;
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use x509_parser::prelude::{FromDer, X509Certificate};

fn project() -> ProjectId {
    ProjectId::new("default").unwrap()
}

fn device() -> DeviceId {
    DeviceId::new("gate-7").unwrap()
}

fn open(folder: &Path) -> Result<CertificateAuthority, Error> {
    CertificateAuthority::open_or_create(folder, &project())
}

/// A signing request that asks for everything it must not get.
fn greedy_request(key: &KeyPair) -> rcgen::CertificateSigningRequest {
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::CommonName, "another-device");
    params.subject_alt_names = vec![SanType::URI("flotilla:default/another-device".try_into().unwrap())];
    params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    params.serialize_request(key).unwrap()
}

fn chain(pem: &str) -> Vec<CertificateDer<'static>> {
    CertificateDer::pem_slice_iter(pem.as_bytes()).collect::<Result<_, _>>().unwrap()
}

fn roots(authority: &CertificateAuthority) -> Arc<RootCertStore> {
    let mut roots = RootCertStore::empty();
    roots.add(authority.root().clone()).unwrap();
    Arc::new(roots)
}

fn client_verifier(authority: &CertificateAuthority) -> Arc<dyn ClientCertVerifier> {
    let ring = Arc::new(rustls::crypto::ring::default_provider());
    WebPkiClientVerifier::builder_with_provider(roots(authority), ring).build().unwrap()
}

fn server_verifier(authority: &CertificateAuthority) -> Arc<dyn ServerCertVerifier> {
    let ring = Arc::new(rustls::crypto::ring::default_provider());
    rustls::client::WebPkiServerVerifier::builder_with_provider(roots(authority), ring).build().unwrap()
}

fn at(time: SystemTime) -> UnixTime {
    UnixTime::since_unix_epoch(time.duration_since(UNIX_EPOCH).unwrap())
}

#[test]
fn a_second_start_finds_the_same_authority() {
    let folder = tempfile::tempdir().unwrap();
    let first = open(folder.path()).unwrap();
    let second = open(folder.path()).unwrap();
    assert_eq!(first.ca_hash(), second.ca_hash());
    assert_eq!(first.root_pem(), second.root_pem());
    let key = KeyPair::generate().unwrap();
    let signed = first.sign_device_csr(greedy_request(&key).der(), &device(), SystemTime::now()).unwrap();
    let again = second.sign_device_csr(greedy_request(&key).der(), &device(), SystemTime::now()).unwrap();
    assert_eq!(chain(&signed.chain_pem)[1], chain(&again.chain_pem)[1], "both carry the same intermediate");
    assert_ne!(signed.serial, again.serial);
    assert_eq!(signed.key_digest, again.key_digest);
}

#[test]
fn projects_share_the_root_and_nothing_else() {
    let folder = tempfile::tempdir().unwrap();
    let one = open(folder.path()).unwrap();
    let other =
        CertificateAuthority::open_or_create(folder.path(), &ProjectId::new("other").unwrap()).unwrap();
    assert_eq!(one.ca_hash(), other.ca_hash());
    let key = KeyPair::generate().unwrap();
    let signed = other.sign_device_csr(greedy_request(&key).der(), &device(), SystemTime::now()).unwrap();
    assert_eq!(device_identity(&chain(&signed.chain_pem)[0]).unwrap().project.as_str(), "other");
}

#[test]
fn key_files_and_their_folder_are_private() {
    let folder = tempfile::tempdir().unwrap();
    let inside = folder.path().join("ca");
    open(&inside).unwrap();
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o7777;
    assert_eq!(mode(&inside), 0o700);
    let mut names = vec![];
    for entry in fs::read_dir(&inside).unwrap() {
        let path = entry.unwrap().path();
        assert_eq!(mode(&path), 0o600, "{}", path.display());
        names.push(path.file_name().unwrap().to_str().unwrap().to_owned());
    }
    names.sort();
    assert_eq!(names, ["project-default.pem", "root.pem"], "no drafts are left behind");
}

#[test]
fn the_root_pem_that_leaves_the_process_holds_no_key() {
    let folder = tempfile::tempdir().unwrap();
    open(folder.path()).unwrap();
    let reopened = open(folder.path()).unwrap();
    let key = KeyPair::generate().unwrap();
    let signed = reopened.sign_device_csr(greedy_request(&key).der(), &device(), SystemTime::now()).unwrap();
    for text in [reopened.root_pem(), signed.chain_pem] {
        assert!(text.starts_with("-----BEGIN CERTIFICATE-----"), "{text}");
        assert!(!text.contains("PRIVATE"), "{text}");
    }
    assert!(!format!("{reopened:?}").contains("BEGIN"));
}

#[test]
fn the_hash_in_a_claim_code_is_that_of_the_root_in_the_servers_chain() {
    let folder = tempfile::tempdir().unwrap();
    let authority = open(folder.path()).unwrap();
    let server = authority.issue_server(&["fleet.example.org".to_owned()], SystemTime::now()).unwrap();
    let (_, root) = X509Certificate::from_der(server.chain.last().unwrap()).unwrap();
    assert_eq!(Digest::of(root.public_key().raw), authority.ca_hash());
}

#[test]
fn a_server_is_trusted_under_its_names_even_in_1970() {
    let folder = tempfile::tempdir().unwrap();
    let authority = open(folder.path()).unwrap();
    let names = ["fleet.example.org".to_owned(), "192.0.2.7".to_owned(), "localhost".to_owned()];
    let server = authority.issue_server(&names, SystemTime::now()).unwrap();
    let verifier = server_verifier(&authority);
    let check = |name: &'static str, time| {
        let name = ServerName::try_from(name).unwrap();
        verifier.verify_server_cert(&server.chain[0], &server.chain[1..], &name, &[], time)
    };
    for name in ["fleet.example.org", "192.0.2.7", "localhost", "127.0.0.1", "::1"] {
        check(name, at(SystemTime::now())).unwrap();
        check(name, at(UNIX_EPOCH + Duration::from_secs(60))).unwrap();
    }
    check("evil.example.org", at(SystemTime::now())).unwrap_err();
    let later = SystemTime::now() + Duration::from_secs(3 * 365 * 24 * 60 * 60);
    check("localhost", at(later)).unwrap_err();
    assert!(matches!(authority.issue_server(&["not a name".to_owned()], later), Err(Error::BadName { .. })));
}

#[test]
fn a_device_gets_the_identity_we_say_and_nothing_it_asks_for() {
    let folder = tempfile::tempdir().unwrap();
    let authority = open(folder.path()).unwrap();
    let key = KeyPair::generate().unwrap();
    let request = greedy_request(&key);
    for form in [request.der().to_vec(), request.pem().unwrap().into_bytes()] {
        let signed = authority.sign_device_csr(&form, &device(), SystemTime::now()).unwrap();
        let chain = chain(&signed.chain_pem);
        let identity = device_identity(&chain[0]).unwrap();
        assert_eq!(identity, PeerIdentity { project: project(), device: device(), serial: signed.serial });
        let (_, leaf) = X509Certificate::from_der(&chain[0]).unwrap();
        assert!(!leaf.is_ca());
        assert!(!leaf.subject().to_string().contains("another"));
        assert_eq!(Digest::of(leaf.public_key().raw), signed.key_digest);
        client_verifier(&authority)
            .verify_client_cert(&chain[0], &chain[1..], at(SystemTime::now()))
            .unwrap();
    }
}

#[test]
fn a_device_certificate_cannot_play_server_nor_a_server_certificate_device() {
    let folder = tempfile::tempdir().unwrap();
    let authority = open(folder.path()).unwrap();
    let now = SystemTime::now();
    let key = KeyPair::generate().unwrap();
    let signed = authority.sign_device_csr(greedy_request(&key).der(), &device(), now).unwrap();
    let device_chain = chain(&signed.chain_pem);
    let name = ServerName::try_from("localhost").unwrap();
    server_verifier(&authority)
        .verify_server_cert(&device_chain[0], &device_chain[1..], &name, &[], at(now))
        .unwrap_err();
    let server = authority.issue_server(&[], now).unwrap();
    client_verifier(&authority)
        .verify_client_cert(&server.chain[0], &server.chain[1..], at(now))
        .unwrap_err();
    assert!(matches!(device_identity(&server.chain[0]), Err(Error::BadCertificate { .. })));
    assert!(matches!(device_identity(authority.root()), Err(Error::BadCertificate { .. })));
}

#[test]
fn a_request_must_prove_its_key() {
    let folder = tempfile::tempdir().unwrap();
    let authority = open(folder.path()).unwrap();
    let mut forged = greedy_request(&KeyPair::generate().unwrap()).der().to_vec();
    *forged.last_mut().unwrap() ^= 1;
    let too_long = vec![0; flotilla_protocol::limits::CSR + 1];
    let mut trailing = greedy_request(&KeyPair::generate().unwrap()).der().to_vec();
    trailing.push(0);
    for bad in [forged, too_long, trailing, b"-----BEGIN nonsense".to_vec(), vec![]] {
        let error = authority.sign_device_csr(&bad, &device(), SystemTime::now()).unwrap_err();
        assert!(matches!(error, Error::BadRequest { .. }), "{error}");
        assert_eq!(error.code(), ErrorCode::InvalidInput);
    }
}

#[test]
fn a_certificate_of_another_projects_intermediate_names_nobody_here() {
    let folder = tempfile::tempdir().unwrap();
    let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).unwrap();
    let mut issuer = CertificateParams::default();
    issuer.distinguished_name = rcgen::DistinguishedName::new();
    issuer.distinguished_name.push(DnType::CommonName, "Flotilla project other");
    let issuer = rcgen::Issuer::new(issuer, key);
    let mut params = CertificateParams::default();
    params.subject_alt_names = vec![SanType::URI("flotilla:default/gate-7".try_into().unwrap())];
    params.extended_key_usages = vec![rcgen::ExtendedKeyUsagePurpose::ClientAuth];
    let forged = params.signed_by(&KeyPair::generate().unwrap(), &issuer).unwrap();
    let error = device_identity(forged.der()).unwrap_err();
    assert!(error.to_string().contains("another project"), "{error}");
    open(folder.path()).unwrap();
}

#[test]
fn damaged_foreign_missing_and_exposed_files_are_named_and_nothing_is_replaced() {
    let home = tempfile::tempdir().unwrap();
    let elsewhere = tempfile::tempdir().unwrap();
    open(home.path()).unwrap();
    open(elsewhere.path()).unwrap();
    let root = home.path().join("root.pem");
    let intermediate = home.path().join("project-default.pem");
    let good = (fs::read(&root).unwrap(), fs::read(&intermediate).unwrap());
    let put = |path: &Path, bytes: &[u8]| fs::write(path, bytes).unwrap();
    let fails = |file: &str| {
        let error = open(home.path()).unwrap_err();
        assert!(error.to_string().contains(file), "{error}");
        error
    };

    for damage in [&good.0[..good.0.len() / 2], b"", b"\xff\xfe", &[b'x'; 70_000][..]] {
        put(&root, damage);
        assert_eq!(fails("root.pem").code(), ErrorCode::StorageCorrupt);
        assert_eq!(fs::read(&root).unwrap(), damage, "the damaged file is kept for its owner to look at");
    }
    put(&root, &good.1);
    assert_eq!(fails("root.pem").code(), ErrorCode::WrongProject);

    put(&root, &fs::read(elsewhere.path().join("root.pem")).unwrap());
    assert_eq!(fails("project-default.pem").code(), ErrorCode::WrongProject);

    let text = String::from_utf8(good.0.clone()).unwrap();
    let other = fs::read_to_string(elsewhere.path().join("root.pem")).unwrap();
    let cut = "-----BEGIN CERTIFICATE-----";
    let mixed = format!("{}{cut}{}", text.split(cut).next().unwrap(), other.split(cut).nth(1).unwrap());
    put(&root, mixed.as_bytes());
    assert!(fails("root.pem").to_string().contains("one pair"));

    fs::remove_file(&root).unwrap();
    assert!(matches!(fails("root.pem"), Error::RootMissing { .. }));
    assert!(!root.exists(), "no second root is made beside existing intermediates");

    put(&root, &good.0);
    fs::set_permissions(&root, fs::Permissions::from_mode(0o644)).unwrap();
    assert!(matches!(fails("root.pem"), Error::Exposed { mode: 0o644, .. }));

    fs::set_permissions(&root, fs::Permissions::from_mode(0o600)).unwrap();
    open(home.path()).unwrap();
}

#[test]
fn a_draft_left_by_a_power_cut_does_not_stop_the_first_start() {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join(".root.pem.draft"), b"half a key").unwrap();
    let authority = open(folder.path()).unwrap();
    assert_eq!(open(folder.path()).unwrap().ca_hash(), authority.ca_hash());
}

#[test]
fn a_file_in_the_place_of_the_folder_is_an_error_that_names_it() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("taken");
    fs::write(&path, b"").unwrap();
    let error = open(&path).unwrap_err();
    assert!(error.to_string().contains("taken"), "{error}");
    assert_eq!(error.code(), ErrorCode::StorageIo);
}

#[test]
fn serials_are_distinct_and_read_back() {
    let serial = Serial::random().unwrap();
    assert_ne!(serial, Serial::random().unwrap());
    assert_eq!(serial.to_string().parse::<Serial>().unwrap(), serial);
    assert_eq!(serial.to_string().len(), 32);
    let upper = "4F".repeat(16);
    assert_eq!(upper.parse::<Serial>(), Err(InvalidSerial), "one serial has one text");
    assert!(upper.to_lowercase().parse::<Serial>().is_ok());
    assert_eq!("12".parse::<Serial>(), Err(InvalidSerial));
}
