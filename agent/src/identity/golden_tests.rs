//! Identity and trust as agents of version 1 leave them: read for ever, and written just so. What a later agent adds is
//! passed over, because an agent that is taken back to must read what the newer one wrote.
//!
//! `agent/golden/device` is the folder of a device whose certificate was rotated once, is to be rotated again and is being
//! asked for. Its keys were made for it. After a deliberate new version, add a folder; never change this one.
#![expect(clippy::unwrap_used, reason = "tests fail by panicking")]

use super::*;
use flotilla_device::frame::{self, Kind};
use flotilla_protocol::signature::SigningKey;
use flotilla_protocol::trust::KeySet;
use flotilla_protocol::{Digest, Envelope, EnvelopeKind, codec};
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, PublicKeyData, SanType,
};
use serde_json::json;
use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

const FILES: [&str; 6] = [KEY, CERTIFICATE, CA, NAMES, pairs::NEXT, pairs::ASKED];

fn golden() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("golden/device")
}

fn names_of_version_1() -> Names {
    Names {
        project: "default".parse().unwrap(),
        device: "gate-7".parse().unwrap(),
        mqtt: "fleet.example:8883".into(),
        server: Some("fleet.example:8443".into()),
    }
}

/// Makes the folder. Only ever needed for a new version.
fn bless(to: &Path) {
    let identity = to.join(IDENTITY);
    fs::create_dir_all(&identity).unwrap();
    let root = KeyPair::generate().unwrap();
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    params.distinguished_name.push(DnType::CommonName, "root of the golden files");
    let ca = params.self_signed(&root).unwrap();
    let hash = Digest::of(&root.subject_public_key_info());
    let issuer = Issuer::new(params, root);
    let pair = || {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::default();
        params.subject_alt_names = vec![SanType::URI("flotilla:default/gate-7".try_into().unwrap())];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        (key.serialize_pem(), params.signed_by(&key, &issuer).unwrap().pem())
    };
    let ((key, certificate), (next_key, next)) = (pair(), pair());
    let trust = TrustFile {
        version: 3,
        project: "default".parse().unwrap(),
        ca: hash,
        release_keys: KeySet::single(SigningKey::from_seed(&[1; 32]).public()),
        control_keys: KeySet::single(SigningKey::from_seed(&[2; 32]).public()),
        min_release: BTreeMap::from([("digits".parse().unwrap(), 7)]),
        issued_at_ms: 1_790_000_000_000,
    };
    let envelope = Envelope::seal(EnvelopeKind::Trust, &trust, &[&SigningKey::from_seed(&[1; 32])]);
    for (name, text) in [
        (KEY, format!("{key}{certificate}")),
        (CERTIFICATE, certificate),
        (CA, ca.pem()),
        (NAMES, serde_json::to_string(&names_of_version_1()).unwrap()),
        (pairs::NEXT, format!("{next_key}{next}")),
        (pairs::ASKED, KeyPair::generate().unwrap().serialize_pem()),
    ] {
        fs::write(identity.join(name), text).unwrap();
    }
    let folder = Folder::open(to).unwrap();
    store_trust(&folder, &envelope).unwrap();
    copy::renew(&folder).unwrap();
}

/// The golden folder, to work in.
fn unpacked() -> (tempfile::TempDir, Folder) {
    if !golden().exists() && std::env::var_os("FLOTILLA_BLESS").is_some() {
        bless(&golden());
    }
    let root = tempfile::tempdir().unwrap();
    fs::create_dir(root.path().join(IDENTITY)).unwrap();
    let identity = FILES.map(|name| format!("{IDENTITY}/{name}"));
    for name in
        identity.iter().map(String::as_str).chain([crate::folder::TRUST, crate::folder::IDENTITY_COPY])
    {
        fs::copy(golden().join(name), root.path().join(name)).unwrap();
    }
    let folder = Folder::open(root.path()).unwrap();
    (root, folder)
}

fn established(folder: &Folder) -> (Identity, TrustFile, Vec<String>) {
    let mut damage = Vec::new();
    let (identity, trust) = establish(folder, &Clock::new(0), &mut damage).unwrap();
    (identity, trust, damage)
}

#[test]
fn identity_and_trust_of_version_1_still_read_and_are_still_written_so() {
    let (root, folder) = unpacked();
    let (identity, trust, damage) = established(&folder);
    assert_eq!((&identity.names, trust.version, damage), (&names_of_version_1(), 3, vec![]));
    assert!(identity.next.is_some(), "the pair that is to take over");
    assert_ne!(identity.present.serial, identity.next.unwrap().serial);
    let file = |name: &str| fs::read(root.path().join(name)).unwrap();
    for name in FILES {
        assert_eq!(
            file(&format!("identity/{name}")),
            fs::read(golden().join(IDENTITY).join(name)).unwrap(),
            "{name}"
        );
    }
    // Both are written anew where they are not, to the same bytes.
    for (name, other) in
        [(crate::folder::TRUST, crate::folder::TRUST_COPY), (crate::folder::IDENTITY_COPY, "")]
    {
        let old = fs::read(golden().join(name)).unwrap();
        assert_eq!(file(name), old);
        if other.is_empty() {
            fs::remove_file(root.path().join(name)).unwrap();
            established(&folder);
            assert_eq!(file(name), old, "{name}");
        } else {
            assert_eq!(file(other), old, "{other}");
        }
    }
    // The copy alone is enough.
    fs::write(root.path().join("identity").join(KEY), b"rubbish").unwrap();
    let (_, _, damage) = established(&folder);
    assert_eq!(damage.len(), 1, "{damage:?}");
    assert_eq!(file("identity/key.pem"), fs::read(golden().join("identity/key.pem")).unwrap());
}

#[test]
fn what_a_later_agent_adds_to_identity_and_trust_is_passed_over() {
    let (root, folder) = unpacked();
    let kind = |name: [u8; 3]| Kind { name, version: 1 };
    // A further name, a further file in the copy and beside the others, a further field of the trust file.
    let mut names: serde_json::Value =
        serde_json::from_slice(&fs::read(root.path().join("identity").join(NAMES)).unwrap()).unwrap();
    names["later"] = json!({ "a": [1, 2] });
    fs::write(root.path().join("identity").join(NAMES), names.to_string()).unwrap();
    fs::write(root.path().join("identity/later.pem"), "later").unwrap();
    let copy = fs::read(golden().join(crate::folder::IDENTITY_COPY)).unwrap();
    let (_, content) = frame::open(kind(*b"FIC"), &copy).unwrap();
    let mut files: BTreeMap<String, String> = codec::decode(content, BOUND).unwrap();
    files.insert("later.pem".into(), "later".into());
    fs::write(
        root.path().join(crate::folder::IDENTITY_COPY),
        frame::seal(kind(*b"FIC"), &codec::encode(&files)),
    )
    .unwrap();
    let trusted = trust(&folder, &names_of_version_1().project).unwrap();
    #[derive(Serialize)]
    struct Later {
        #[serde(flatten)]
        now: TrustFile,
        later: Vec<u32>,
    }
    let later = Later { now: trusted.clone(), later: vec![1, 2] };
    let envelope = Envelope::seal(EnvelopeKind::Trust, &later, &[&SigningKey::from_seed(&[1; 32])]);
    store_trust(&folder, &envelope).unwrap();

    let (identity, trust, damage) = established(&folder);
    assert_eq!((identity.names, trust, damage), (names_of_version_1(), trusted, vec![]));
    fs::write(root.path().join("identity").join(CA), b"").unwrap();
    let (_, _, damage) = established(&folder);
    assert_eq!(damage.len(), 1, "{damage:?}");
}
