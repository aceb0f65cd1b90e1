//! What a device believes: signatures, thresholds, floors, expiry, topics and claim codes.

#![expect(clippy::unwrap_used, reason = "tests fail by panicking")]

use flotilla_protocol::enrol::{ClaimCode, ClaimSecret};
use flotilla_protocol::envelope::EnvelopeKind;
use flotilla_protocol::signature::SigningKey;
use flotilla_protocol::topic::{Channel, Down, Topic, Up};
use flotilla_protocol::trust::{KeySet, TrustError};
use flotilla_protocol::{DeviceId, Digest, Envelope, ErrorCode, ProjectId, TrustFile};
use proptest::prelude::*;
use std::collections::BTreeMap;

fn key(seed: u8) -> SigningKey {
    SigningKey::from_seed(&[seed; 32])
}

fn trust(version: u64, threshold: u16, release: &[&SigningKey], floor: u64) -> TrustFile {
    TrustFile {
        version,
        project: "default".parse().unwrap(),
        ca: Digest::of(b"ca"),
        release_keys: KeySet { threshold, keys: release.iter().map(|k| k.public()).collect() },
        control_keys: KeySet::single(key(99).public()),
        min_release: BTreeMap::from([("digits".parse().unwrap(), floor)]),
        issued_at_ms: 1,
    }
}

fn seal(trust: &TrustFile, keys: &[&SigningKey]) -> Envelope {
    Envelope::seal(EnvelopeKind::Trust, trust, keys)
}

#[test]
fn a_trust_chain_moves_forward_by_the_old_keys_only() {
    let (a, b, c) = (key(1), key(2), key(3));
    let first = TrustFile::accept_first(&seal(&trust(1, 1, &[&a], 0), &[&a])).unwrap();

    let second = seal(&trust(2, 2, &[&b, &c], 3), &[&a]);
    let second = first.accept_next(&second).unwrap();
    let third = trust(3, 1, &[&c], 3);
    assert_eq!(second.accept_next(&seal(&third, &[&b])).unwrap_err().code(), ErrorCode::SignatureInvalid);
    assert_eq!(second.accept_next(&seal(&third, &[&b, &b])).unwrap_err().code(), ErrorCode::SignatureInvalid);
    assert!(second.accept_next(&seal(&third, &[&b, &c])).is_ok());

    let by_new_keys_alone = seal(&trust(2, 1, &[&b], 0), &[&b]);
    assert_eq!(first.accept_next(&by_new_keys_alone).unwrap_err().code(), ErrorCode::SignatureInvalid);
    assert_eq!(
        first.accept_next(&seal(&trust(1, 1, &[&a], 0), &[&a])).unwrap_err().code(),
        ErrorCode::Replayed
    );
    let lowered = seal(&trust(4, 1, &[&b], 2), &[&b, &c]);
    assert!(matches!(second.accept_next(&lowered), Err(TrustError::Floor { from: 3, to: 2, .. })));
    let unsatisfiable = seal(&trust(4, 2, &[&b], 3), &[&b, &c]);
    assert_eq!(second.accept_next(&unsatisfiable).unwrap_err().code(), ErrorCode::InvalidInput);
    let mut foreign = trust(5, 1, &[&b], 3);
    foreign.project = "other".parse().unwrap();
    assert_eq!(second.accept_next(&seal(&foreign, &[&b, &c])).unwrap_err().code(), ErrorCode::WrongProject);
}

#[test]
fn a_signature_counts_for_its_kind_and_its_bytes_only() {
    let a = key(1);
    let mut envelope = seal(&trust(1, 1, &[&a], 0), &[&a]);
    assert!(TrustFile::accept_first(&envelope).is_ok());
    let keys = KeySet::single(a.public());
    envelope.kind = EnvelopeKind::Desired;
    let passed_off = envelope.open::<TrustFile>(EnvelopeKind::Desired, &keys).unwrap_err();
    assert_eq!(passed_off.code(), ErrorCode::SignatureInvalid);
    envelope.kind = EnvelopeKind::Trust;
    for byte in 0..envelope.payload.len() {
        let mut damaged = envelope.clone();
        damaged.payload[byte] ^= 1;
        assert!(damaged.open::<TrustFile>(EnvelopeKind::Trust, &keys).is_err(), "byte {byte}");
    }
}

#[test]
fn a_claim_code_survives_copying_and_hides_its_secret() {
    let claim =
        ClaimCode { server: "localhost:8443".into(), ca: Digest::of(b"ca"), secret: ClaimSecret::random() };
    let text = claim.to_text();
    assert_eq!(format!(" {text}\n").parse::<ClaimCode>().unwrap(), claim);
    assert!(!format!("{claim:?}").contains(&hex_of(&claim.secret)));
    for bad in ["", "flotilla-claim-1.", "flotilla-claim-1.!!!!", &text[..text.len() - 2], "hello"] {
        assert!(bad.parse::<ClaimCode>().is_err(), "{bad}");
    }
}

fn hex_of(secret: &ClaimSecret) -> String {
    serde_json::to_value(secret).unwrap().as_str().unwrap().to_owned()
}

fn any_id() -> impl Strategy<Value = String> {
    "[a-z0-9][a-z0-9_-]{0,20}(\\.[a-z0-9]{1,5})?"
}

proptest! {
    #[test]
    fn topics_round_trip(project in any_id(), device in any_id(), up in prop::sample::select(Up::ALL), down in prop::sample::select(Down::ALL)) {
        let (project, device): (ProjectId, DeviceId) = (project.parse().unwrap(), device.parse().unwrap());
        for topic in [Topic::up(&project, &device, up), Topic::down(&project, &device, down)] {
            prop_assert_eq!(topic.to_string().parse::<Topic>().unwrap(), topic);
        }
    }

    #[test]
    fn what_parses_as_a_topic_is_written_the_same(text in "(flotilla/v1/)?[a-z0-9/#+$.]{0,30}(hello|desired)?") {
        if let Ok(topic) = text.parse::<Topic>() {
            prop_assert_eq!(topic.to_string(), text);
        }
    }

    #[test]
    fn ids_hold_nothing_that_could_leave_a_folder_or_topic(text in any::<String>()) {
        if let Ok(id) = text.parse::<DeviceId>() {
            prop_assert!(!id.as_str().contains(['/', '\\', '+', '#', '$', '\0']) && !id.as_str().contains(".."));
        }
    }
}

#[test]
fn no_wildcard_or_foreign_topic_parses() {
    for text in [
        "flotilla/v1/+/d/hello",
        "flotilla/v1/p/#",
        "flotilla/v1/p/d/hello/x",
        "$SYS/x",
        "flotilla/v2/p/d/hello",
    ] {
        assert!(text.parse::<Topic>().is_err(), "{text}");
    }
    let topic: Topic = "flotilla/v1/p/d/ack".parse().unwrap();
    assert_eq!(topic.channel, Channel::Down(Down::Ack));
}
