//! The certificates after the first: rotation, renewal after the end, revocation, and the folder that was copied.

use crate::support::{Credentials, Installation, device};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use flotilla_fleet::{Error, RenewalState};
use flotilla_identity::audit;
use flotilla_protocol::message::{EventKind, ReplyBody, Request, RequestBody};
use flotilla_protocol::renew::{RenewAnswer, RenewRequest, signed_text};
use flotilla_protocol::topic::Up;
use flotilla_protocol::{DeviceId, Digest, ErrorCode};
use rcgen::{CertificateParams, DnType, KeyPair, PublicKeyData, SigningKey};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;

fn request_over(key: &KeyPair) -> String {
    CertificateParams::default().serialize_request(key).unwrap().pem().unwrap()
}

/// Rotates over the device's own connection; the new credentials have not been used yet.
async fn rotate(device: &mut crate::support::Device, old: &Credentials) -> Result<Credentials, ErrorCode> {
    let key = KeyPair::generate().unwrap();
    let body = RequestBody::Certificate { csr_pem: request_over(&key) };
    device.send(Up::Request, &Request { id: 7, body }).await;
    let reply = device.reply().await;
    assert_eq!(reply.id, 7);
    match reply.body {
        ReplyBody::Certificate { chain_pem } => Ok(old.with(key, chain_pem)),
        ReplyBody::Error { code, .. } => Err(code),
        other => panic!("{other:?}"),
    }
}

async fn audited(installation: &Installation, action: &str) -> usize {
    let trail = audit::list(&*installation.records, audit::Order::NewestFirst, None, 500).await.unwrap();
    trail.iter().filter(|record| record.action == action && record.subject == "device/gate-7").count()
}

#[tokio::test(flavor = "multi_thread")]
async fn both_certificates_work_until_the_first_hello_with_the_new_one_and_then_it_alone() {
    let folder = tempfile::tempdir().unwrap();
    let installation = Installation::open(folder.path()).await;
    let old = installation.enrol("gate-7").await;
    let mut gate = installation.connect(&old, 1).await;
    gate.desired().await;
    let new = rotate(&mut gate, &old).await.unwrap();
    assert_eq!(audited(&installation, "device:rotate").await, 1);

    // The answer might have been lost: the old one goes on working, and asking again is no harm.
    let mut gate = installation.connect(&old, 2).await;
    gate.desired().await;
    let newer = rotate(&mut gate, &old).await.unwrap();

    // A connection alone retires nothing; the hello does.
    drop(installation.try_connect(&new).await.unwrap());
    drop(installation.try_connect(&newer).await.unwrap());
    let mut gate = installation.connect(&old, 3).await;
    gate.desired().await;
    let mut gate = installation.connect(&newer, 4).await;
    gate.desired().await;
    assert_eq!(audited(&installation, "device:rotated").await, 1);
    assert!(installation.try_connect(&old).await.is_err(), "the old one is retired");
    assert!(installation.try_connect(&new).await.is_err(), "so is the one that was never used");
    let view = installation.until("gate-7", |view| view.certificates.len() == 1).await;
    assert!(!view.certificates[0].unused);
    gate.send(Up::Request, &Request { id: 1, body: RequestBody::Desired }).await;
    gate.desired().await;
    installation.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rotated_certificate_names_the_device_of_the_connection_whatever_was_asked() {
    let folder = tempfile::tempdir().unwrap();
    let installation = Installation::open(folder.path()).await;
    let credentials = installation.enrol("gate-7").await;
    installation.enrol("gate-8").await;
    let mut gate = installation.connect(&credentials, 1).await;
    let key = KeyPair::generate().unwrap();
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::CommonName, "gate-8");
    let csr_pem = params.serialize_request(&key).unwrap().pem().unwrap();
    gate.send(Up::Request, &Request { id: 1, body: RequestBody::Certificate { csr_pem } }).await;
    let ReplyBody::Certificate { chain_pem } = gate.reply().await.body else { panic!("a certificate") };
    let own = CertificateDer::from_pem_slice(chain_pem.as_bytes()).unwrap();
    let named = flotilla_fleet::ca::device_identity(&own).unwrap();
    assert_eq!(named.device, device("gate-7"));

    for csr_pem in ["", "rubbish", &"x".repeat(100_000)] {
        let body = RequestBody::Certificate { csr_pem: csr_pem.to_owned() };
        gate.send(Up::Request, &Request { id: 2, body }).await;
        assert_eq!(gate.refusal().await, ErrorCode::InvalidInput);
    }
    for _ in 1..6 {
        rotate(&mut gate, &credentials).await.map(drop).unwrap();
    }
    assert_eq!(rotate(&mut gate, &credentials).await.map(drop), Err(ErrorCode::Busy), "not without end");
    installation.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn revocation_ends_the_connection_and_shuts_every_certificate_of_the_device_out() {
    let folder = tempfile::tempdir().unwrap();
    let installation = Installation::open(folder.path()).await;
    let old = installation.enrol("gate-7").await;
    let mut gate = installation.connect(&old, 1).await;
    let new = rotate(&mut gate, &old).await.unwrap();
    let mut gate = installation.connect(&new, 2).await;
    gate.desired().await;
    let next = rotate(&mut gate, &new).await.unwrap();
    installation.fleet.revoke(&installation.admin, &device("gate-7"), "stolen").await.unwrap();
    gate.closed().await;
    for credentials in [&old, &new, &next] {
        assert!(installation.try_connect(credentials).await.is_err());
        let error =
            installation.fleet.renew(renewal(&installation, credentials, &KeyPair::generate().unwrap()));
        let code = error.await.unwrap_err().code();
        assert!(matches!(code, ErrorCode::Revoked | ErrorCode::Unauthenticated), "{code}");
    }
    installation.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_copied_folder_is_an_event_in_the_audit_trail_and_locks_nobody_out() {
    let folder = tempfile::tempdir().unwrap();
    let installation = Installation::open(folder.path()).await;
    let credentials = installation.enrol("gate-7").await;
    let mut first = installation.connect(&credentials, 5).await;
    first.desired().await;
    for _ in 0..3 {
        let mut copy = installation.connect(&credentials, 5).await;
        copy.desired().await;
    }
    let view = installation.until("gate-7", |view| view.health.repeated_hellos == 3).await;
    assert_eq!(view.health.last_problem.unwrap().code, ErrorCode::Replayed);
    let events = installation.fleet.events(&device("gate-7")).await.unwrap();
    let cloned: Vec<_> = events.iter().filter(|event| event.kind == EventKind::Cloned).collect();
    assert_eq!(cloned.len(), 1, "raised once in a while, not at every hello");
    assert_eq!(audited(&installation, "device:cloned").await, 1);
    let mut again = installation.connect(&credentials, 6).await;
    again.desired().await;
    installation.close().await;
}

/// A request as an honest device makes it.
fn renewal(installation: &Installation, old: &Credentials, new: &KeyPair) -> RenewRequest {
    let id: DeviceId = old.answer.device.clone();
    let nonce = installation.fleet.challenge().nonce;
    let csr_pem = request_over(new);
    let ca = CertificateDer::from_pem_slice(old.answer.ca_pem.as_bytes()).unwrap();
    let (_, ca) = x509_parser::parse_x509_certificate(&ca).unwrap();
    let ca = Digest::of(ca.public_key().raw);
    let text = signed_text(&ca, &old.answer.project, &id, &nonce, &csr_pem);
    RenewRequest {
        project: old.answer.project.clone(),
        device: id,
        key: STANDARD.encode(old.key.subject_public_key_info()),
        csr_pem,
        nonce,
        signature: STANDARD.encode(old.key.sign(&text).unwrap()),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_device_that_proves_its_old_key_gets_a_certificate_when_a_person_approves() {
    let folder = tempfile::tempdir().unwrap();
    let installation = Installation::open(folder.path()).await;
    let (fleet, admin, id) = (&installation.fleet, &installation.admin, device("gate-7"));
    let old = installation.enrol("gate-7").await;
    let key = KeyPair::generate().unwrap();
    let asked = Digest::of(&key.subject_public_key_info());
    let none = fleet.approve_renewal(admin, &id, &asked).await.unwrap_err();
    assert_eq!(none.code(), ErrorCode::NotFound, "nothing was asked");

    let ask = async || fleet.renew(renewal(&installation, &old, &key)).await;
    assert_eq!(ask().await.unwrap(), RenewAnswer::Pending);
    assert_eq!(ask().await.unwrap(), RenewAnswer::Pending);
    assert_eq!(
        audited(&installation, "device:ask-renewal").await,
        1,
        "one question, however often it is asked"
    );
    let view = fleet.device(&id).await.unwrap();
    assert_eq!(view.renewal.unwrap().decision, RenewalState::Pending);

    fleet.reject_renewal(admin, &id, "who is this?").await.unwrap();
    let rejected = ask().await.unwrap_err();
    assert_eq!(rejected.code(), ErrorCode::PermissionDenied);
    assert!(rejected.to_string().contains("who is this?"), "{rejected}");

    assert_eq!(fleet.device(&id).await.unwrap().renewal.unwrap().key, asked);
    fleet.approve_renewal(admin, &id, &asked).await.unwrap();
    let other = KeyPair::generate().unwrap();
    let swapped = fleet.renew(renewal(&installation, &old, &other)).await.unwrap();
    assert_eq!(swapped, RenewAnswer::Pending, "an approval is for the key that was asked for");
    assert_eq!(ask().await.unwrap(), RenewAnswer::Pending, "and forgotten with it");
    fleet.approve_renewal(admin, &id, &asked).await.unwrap();

    let RenewAnswer::Approved { .. } = ask().await.unwrap() else { panic!("approved") };
    let RenewAnswer::Approved { chain_pem } = ask().await.unwrap() else { panic!("an answer may be lost") };
    let mut gate = installation.connect(&old.with(key, chain_pem), 1).await;
    gate.desired().await;
    let view = installation.until("gate-7", |view| view.renewal.is_none()).await;
    assert_eq!(view.certificates.len(), 1);
    assert!(installation.try_connect(&old).await.is_err());
    assert_eq!(audited(&installation, "device:approve").await, 2);
    assert_eq!(audited(&installation, "device:reject").await, 1);
    installation.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_approval_is_for_the_request_that_was_looked_at_and_not_for_one_that_slipped_in() {
    let folder = tempfile::tempdir().unwrap();
    let installation = Installation::open(folder.path()).await;
    let (fleet, admin, id) = (&installation.fleet, &installation.admin, device("gate-7"));
    let old = installation.enrol("gate-7").await;
    let (honest, copied) = (KeyPair::generate().unwrap(), KeyPair::generate().unwrap());
    let ask = async |key: &KeyPair| fleet.renew(renewal(&installation, &old, key)).await.unwrap();
    assert_eq!(ask(&honest).await, RenewAnswer::Pending);
    let looked_at = fleet.device(&id).await.unwrap().renewal.unwrap().key;
    // Whoever copied the folder has the old key too.
    assert_eq!(ask(&copied).await, RenewAnswer::Pending);
    let error = fleet.approve_renewal(admin, &id, &looked_at).await.unwrap_err();
    assert_eq!(error.code(), ErrorCode::WrongState);
    assert!(
        error.to_string().contains(&Digest::of(&copied.subject_public_key_info()).to_string()),
        "{error}"
    );
    assert_eq!(audited(&installation, "device:approve").await, 0);
    assert_eq!(ask(&copied).await, RenewAnswer::Pending, "nothing was approved");
    assert_eq!(ask(&honest).await, RenewAnswer::Pending);
    fleet.approve_renewal(admin, &id, &looked_at).await.unwrap();
    let RenewAnswer::Approved { .. } = ask(&honest).await else { panic!("approved") };
    installation.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_does_not_prove_the_key_freshly_gets_nothing_and_learns_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let installation = Installation::open(folder.path()).await;
    let (old, other) = (installation.enrol("gate-7").await, installation.enrol("gate-8").await);
    let new = KeyPair::generate().unwrap();
    let good = || renewal(&installation, &old, &new);
    let refused = async |request| installation.fleet.renew(request).await.unwrap_err();

    let used = good();
    installation.fleet.renew(used.clone()).await.unwrap();
    assert_eq!(refused(used).await.code(), ErrorCode::Replayed, "recorded on the way");
    let invented = RenewRequest { nonce: "00".repeat(56), ..good() };
    assert_eq!(refused(invented).await.code(), ErrorCode::Replayed);

    let key = |credentials: &Credentials| STANDARD.encode(credentials.key.subject_public_key_info());
    let strangers = KeyPair::generate().unwrap();
    let nobodys = RenewRequest { key: STANDARD.encode(strangers.subject_public_key_info()), ..good() };
    let cases = [
        ("a stranger's key", nobodys),
        ("another device's key", RenewRequest { key: key(&other), ..good() }),
        ("for another device", RenewRequest { device: device("gate-8"), ..good() }),
        ("for a device that does not exist", RenewRequest { device: device("nobody"), ..good() }),
        ("of another project", RenewRequest { project: "elsewhere".parse().unwrap(), ..good() }),
        ("another new key", RenewRequest { csr_pem: request_over(&strangers), ..good() }),
        ("no signature", RenewRequest { signature: String::new(), ..good() }),
        ("not base64", RenewRequest { key: "!".into(), ..good() }),
        ("far too long", RenewRequest { signature: "A".repeat(50_000), ..good() }),
        ("a signature over another challenge", RenewRequest { nonce: good().nonce, ..good() }),
    ];
    for (what, request) in cases {
        let error = refused(request).await;
        assert!(matches!(error, Error::RenewalUnproven), "{what}: {error}");
    }
    let view = installation.fleet.device(&device("gate-8")).await.unwrap();
    assert_eq!(view.renewal, None);
    installation.close().await;
}
