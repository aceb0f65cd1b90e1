//! Keys, floors and trust files.

use crate::support::{NOW, ca, model, open, released, request, try_open};
use bytes::Bytes;
use flotilla_identity::{Actor, audit};
use flotilla_protocol::signature::SigningKey;
use flotilla_protocol::trust::KeySet;
use flotilla_protocol::{Digest, Envelope, EnvelopeKind, ErrorCode, ReleaseManifest, TrustFile};
use flotilla_registry::{Bundle, Registry};
use std::path::Path;

fn offline(seed: u8) -> SigningKey {
    SigningKey::from_seed(&[seed; 32])
}

/// The release key of an installation, as a person who keeps it has it.
fn release_key(dir: &Path) -> SigningKey {
    flotilla_registry::read_key(&dir.join("keys/release.key")).unwrap()
}

/// The next trust file with these release keys.
fn next(registry: &Registry, threshold: u16, keys: &[&SigningKey]) -> TrustFile {
    let mut file = registry.trust().file.clone();
    file.version += 1;
    file.release_keys = KeySet { threshold, keys: keys.iter().map(|key| key.public()).collect() };
    file
}

fn signed(file: &TrustFile, keys: &[&SigningKey]) -> Bytes {
    Envelope::seal(EnvelopeKind::Trust, file, keys).to_bytes().into()
}

#[tokio::test]
async fn floors_rise_and_are_signed_for_devices() {
    let dir = tempfile::tempdir().unwrap();
    let installation = open(dir.path()).await;
    released(&installation).await;
    let admin = Actor::administrator();
    let registry = &installation.registry;
    let second = registry.release(&admin, request(), NOW).await.unwrap();
    let before = registry.trust();
    let after = registry.set_floor(&admin, &model(), 2, NOW + 5).await.unwrap();
    let accepted = before.file.accept_next(&Envelope::from_bytes(&after.envelope).unwrap()).unwrap();
    assert_eq!((accepted.version, accepted.floor(&model())), (2, 2));
    assert_eq!(registry.set_floor(&admin, &model(), 2, NOW).await.unwrap().file.version, 2, "idempotent");
    for wrong in [1, 3] {
        let error = registry.set_floor(&admin, &model(), wrong, NOW).await.unwrap_err();
        assert_eq!(error.code(), ErrorCode::InvalidInput);
    }
    let first = registry.releases(&model(), None, 1).await.unwrap().remove(0);
    let open_on_device = async |digest: &Digest| {
        let envelope = installation.objects.get(digest).await.unwrap();
        ReleaseManifest::open(&Envelope::from_bytes(&envelope).unwrap(), &accepted, NOW)
    };
    assert_eq!(open_on_device(&first.digest).await.unwrap_err().code(), ErrorCode::BelowFloor);
    open_on_device(&second.digest).await.unwrap();
    installation.records.close().await.unwrap();
    drop(installation);
    assert_eq!(open(dir.path()).await.registry.trust(), after, "the floor is durable");
}

#[tokio::test]
async fn keys_and_records_of_different_installations_do_not_mix() {
    let dir = tempfile::tempdir().unwrap();
    let installation = open(dir.path()).await;
    installation.records.close().await.unwrap();
    drop(installation);
    let other_ca = try_open(dir.path(), Digest::of(b"another CA")).await.err().unwrap();
    assert_eq!(other_ca.code(), ErrorCode::CaMismatch);
    std::fs::remove_dir_all(dir.path().join("keys")).unwrap();
    assert_eq!(try_open(dir.path(), ca()).await.err().unwrap().code(), ErrorCode::SignatureInvalid);
}

#[tokio::test]
async fn release_keys_move_offline_step_by_step_and_devices_follow_every_step() {
    let dir = tempfile::tempdir().unwrap();
    let installation = open(dir.path()).await;
    released(&installation).await;
    let (registry, admin) = (&installation.registry, Actor::administrator());
    let (own, b, c) = (release_key(dir.path()), offline(2), offline(3));
    let first = registry.trust().file.clone();

    // Two of two, then two of three without the key that lies here.
    let two = next(registry, 2, &[&own, &b]);
    registry.publish_trust(&admin, signed(&two, &[&own, &b]), NOW).await.unwrap();
    let three = next(registry, 2, &[&b, &c, &offline(4)]);
    registry.publish_trust(&admin, signed(&three, &[&own, &b, &c]), NOW).await.unwrap();
    assert_eq!(registry.trust().file, three);

    // A device that slept since version 1 walks: it could not believe version 3 by the keys of version 1.
    let mut device = first.clone();
    let newest = Envelope::from_bytes(&registry.trust().envelope).unwrap();
    let by_old_keys_alone = signed(&three, &[&own]);
    assert!(device.accept_next(&newest).is_ok(), "the old key happens to be among those that signed");
    let without = Envelope::from_bytes(&signed(&three, &[&b, &c])).unwrap();
    assert_eq!(device.accept_next(&without).unwrap_err().code(), ErrorCode::SignatureInvalid);
    for version in 2..=3 {
        let bytes = registry.trust_after(device.version).await.unwrap().unwrap();
        device = device.accept_next(&Envelope::from_bytes(&bytes).unwrap()).unwrap();
        assert_eq!(device.version, version);
    }
    assert_eq!(registry.trust_after(3).await.unwrap(), None);
    assert_eq!(registry.trust_after(u64::MAX).await.unwrap(), None);
    // A device that enrols now believes it as its first.
    assert_eq!(TrustFile::accept_first(&newest).unwrap(), three);
    assert!(TrustFile::accept_first(&Envelope::from_bytes(&by_old_keys_alone).unwrap()).is_err());

    // What the key of this installation alone may no longer sign says what to do.
    let refused = registry.release(&admin, request(), NOW).await.unwrap_err();
    assert_eq!(refused.code(), ErrorCode::SignatureInvalid);
    assert!(refused.to_string().contains("release draft"), "{refused}");
    let refused = registry.set_floor(&admin, &model(), 1, NOW).await.unwrap_err();
    assert_eq!(refused.code(), ErrorCode::SignatureInvalid);

    // A draft counts when enough keys have signed it.
    let draft = registry.draft(request(), NOW).await.unwrap();
    let with = |keys: &[&SigningKey]| {
        let mut bundle = Bundle::from_zip(&draft).unwrap();
        let mut envelope = Envelope::from_bytes(&bundle.envelope).unwrap();
        keys.iter().for_each(|key| assert!(envelope.sign(key)));
        bundle.envelope = envelope.to_bytes().into();
        Bytes::from(bundle.to_zip().unwrap())
    };
    for keys in [&[][..], &[&b], &[&b, &b], &[&own, &b], &[&offline(9), &c]] {
        let refused = registry.import_bundle(&admin, with(keys), NOW).await.unwrap_err();
        assert_eq!(refused.code(), ErrorCode::SignatureInvalid);
    }
    let release = registry.import_bundle(&admin, with(&[&c, &b]), NOW).await.unwrap();
    assert_eq!(release.counter, 2);
    let envelope = Envelope::from_bytes(&installation.objects.get(&release.digest).await.unwrap()).unwrap();
    ReleaseManifest::open(&envelope, &device, NOW).unwrap();
    assert!(ReleaseManifest::open(&envelope, &first, NOW).is_err(), "its keys are new");

    let trail = audit::list(&*installation.records, audit::Order::NewestFirst, None, 10).await.unwrap();
    assert_eq!(trail.iter().filter(|record| record.action == "trust:publish").count(), 2);
    installation.records.close().await.unwrap();
    drop(installation);
    let again = open(dir.path()).await;
    assert_eq!(again.registry.trust().file, three, "durable, and no other release key is expected here");
    assert!(again.registry.trust_after(1).await.unwrap().is_some(), "history too");
}

#[tokio::test]
async fn a_floor_may_rise_beside_a_backup_key_and_the_control_plane_starts_again() {
    let dir = tempfile::tempdir().unwrap();
    let installation = open(dir.path()).await;
    released(&installation).await;
    let (registry, admin) = (&installation.registry, Actor::administrator());
    registry.release(&admin, request(), NOW).await.unwrap();
    let (own, backup) = (release_key(dir.path()), offline(2));
    let either = next(registry, 1, &[&own, &backup]);
    registry.publish_trust(&admin, signed(&either, &[&own]), NOW).await.unwrap();
    let risen = registry.set_floor(&admin, &model(), 2, NOW).await.unwrap();
    assert_eq!(risen.file.release_keys, either.release_keys);
    installation.records.close().await.unwrap();
    drop(installation);
    let again = open(dir.path()).await;
    assert_eq!(again.registry.trust(), risen);
    again.records.close().await.unwrap();
    drop(again);
    std::fs::remove_dir_all(dir.path().join("keys")).unwrap();
    let foreign = try_open(dir.path(), ca()).await.err().unwrap();
    assert_eq!(foreign.code(), ErrorCode::SignatureInvalid, "keys of another installation are still told");
}

#[tokio::test]
async fn a_trust_file_that_breaks_a_rule_is_refused_and_changes_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let installation = open(dir.path()).await;
    released(&installation).await;
    let (registry, admin) = (&installation.registry, Actor::administrator());
    let (own, b) = (release_key(dir.path()), offline(2));
    registry.set_floor(&admin, &model(), 1, NOW).await.unwrap();
    let good = next(registry, 2, &[&own, &b]);
    let both = [&own, &b];
    type Change = fn(&mut TrustFile);
    let changes: [(&str, ErrorCode, Change); 9] = [
        ("rolled back", ErrorCode::Replayed, |f| f.version = 1),
        ("the same version", ErrorCode::Replayed, |f| f.version = 2),
        ("a version left out", ErrorCode::InvalidInput, |f| f.version = 4),
        ("a floor lowered", ErrorCode::BelowFloor, |f| f.min_release.clear()),
        ("a floor above the newest release", ErrorCode::InvalidInput, |f| {
            f.min_release.insert(model(), 2);
        }),
        ("another project", ErrorCode::WrongProject, |f| f.project = "elsewhere".parse().unwrap()),
        ("another CA", ErrorCode::CaMismatch, |f| f.ca = Digest::of(b"other")),
        ("control keys that lie elsewhere", ErrorCode::SignatureInvalid, |f| {
            f.control_keys = KeySet::single(offline(8).public());
        }),
        ("out of the future", ErrorCode::InvalidInput, |f| f.issued_at_ms = NOW + 86_400_000),
    ];
    let before = registry.trust();
    for (what, code, change) in changes {
        let mut file = good.clone();
        change(&mut file);
        let refused = registry.publish_trust(&admin, signed(&file, &both), NOW).await.unwrap_err();
        assert_eq!(refused.code(), code, "{what}: {refused}");
    }
    let unsatisfiable = next(registry, 3, &[&own, &b]);
    let twice = next(registry, 2, &[&own, &own]);
    for (what, code, bytes) in [
        ("not signed", ErrorCode::SignatureInvalid, signed(&good, &[])),
        ("signed by its own keys alone", ErrorCode::SignatureInvalid, signed(&good, &[&b])),
        ("not signed by its own keys", ErrorCode::SignatureInvalid, signed(&good, &[&own])),
        ("the same key twice", ErrorCode::SignatureInvalid, signed(&good, &[&own, &own])),
        ("more signatures than keys", ErrorCode::InvalidInput, signed(&unsatisfiable, &both)),
        ("one key named twice", ErrorCode::InvalidInput, signed(&twice, &both)),
        ("rubbish", ErrorCode::Malformed, Bytes::from_static(b"rubbish")),
    ] {
        let refused = registry.publish_trust(&admin, bytes, NOW).await.unwrap_err();
        assert_eq!(refused.code(), code, "{what}: {refused}");
    }
    let mut changed = signed(&good, &both).to_vec();
    let at = changed.len() / 3;
    changed[at] ^= 1;
    assert!(registry.publish_trust(&admin, changed.into(), NOW).await.is_err());
    assert_eq!(registry.trust(), before);
    registry.publish_trust(&admin, signed(&good, &both), NOW).await.unwrap();
}
