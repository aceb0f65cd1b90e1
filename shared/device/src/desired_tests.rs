//! What a device does with desired documents that others made.
#![expect(clippy::unwrap_used, reason = "tests fail by panicking")]

use super::*;
use flotilla_protocol::Digest;
use flotilla_protocol::message::Settings;
use flotilla_protocol::signature::SigningKey;
use flotilla_protocol::trust::KeySet;
use std::collections::BTreeMap;

fn control() -> SigningKey {
    SigningKey::from_seed(&[1; 32])
}

fn trust() -> TrustFile {
    TrustFile {
        version: 1,
        project: "default".parse().unwrap(),
        ca: Digest::of(b"ca"),
        release_keys: KeySet::single(SigningKey::from_seed(&[2; 32]).public()),
        control_keys: KeySet::single(control().public()),
        min_release: BTreeMap::new(),
        issued_at_ms: 1,
    }
}

fn document(version: u64) -> Desired {
    Desired {
        project: "default".parse().unwrap(),
        device: "gate-7".parse().unwrap(),
        version,
        issued_at_ms: 10,
        models: BTreeMap::new(),
        settings: Settings::default(),
        commands: Vec::new(),
        agent: None,
        hard_examples: BTreeMap::new(),
        shadows: BTreeMap::new(),
    }
}

fn offer(document: &Desired, key: &SigningKey, accepted: u64) -> Result<Accepted, ErrorCode> {
    let envelope = Envelope::seal(EnvelopeKind::Desired, document, &[key]);
    accept(&envelope, &trust(), &"gate-7".parse().unwrap(), accepted).map_err(|e| e.code())
}

#[test]
fn a_newer_document_is_taken_and_the_same_one_is_recognised() {
    assert_eq!(offer(&document(3), &control(), 2), Ok(Accepted { desired: document(3), newer: true }));
    assert_eq!(offer(&document(3), &control(), 3), Ok(Accepted { desired: document(3), newer: false }));
}

#[test]
fn an_older_document_is_a_replay() {
    assert_eq!(offer(&document(2), &control(), 3), Err(ErrorCode::Replayed));
}

#[test]
fn a_document_for_another_device_or_project_is_refused() {
    let mut other = document(3);
    other.device = "gate-8".parse().unwrap();
    assert_eq!(offer(&other, &control(), 2), Err(ErrorCode::WrongProject));
    let mut other = document(3);
    other.project = "elsewhere".parse().unwrap();
    assert_eq!(offer(&other, &control(), 2), Err(ErrorCode::WrongProject));
}

#[test]
fn a_document_signed_by_the_release_key_or_changed_on_the_way_is_refused() {
    assert_eq!(offer(&document(3), &SigningKey::from_seed(&[2; 32]), 2), Err(ErrorCode::SignatureInvalid));
    let mut envelope = Envelope::seal(EnvelopeKind::Desired, &document(3), &[&control()]);
    *envelope.payload.last_mut().unwrap() ^= 1;
    let refused = accept(&envelope, &trust(), &"gate-7".parse().unwrap(), 2).unwrap_err();
    assert_eq!(refused.code(), ErrorCode::SignatureInvalid);
}

#[test]
fn a_release_signed_by_the_control_key_is_not_a_desired_document() {
    let envelope = Envelope::seal(EnvelopeKind::Release, &document(3), &[&control()]);
    let refused = accept(&envelope, &trust(), &"gate-7".parse().unwrap(), 2).unwrap_err();
    assert_eq!(refused.code(), ErrorCode::Malformed);
}
