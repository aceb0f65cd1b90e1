//! Releases that must not come onto a device, and one that may.
#![expect(clippy::unwrap_used, reason = "tests fail by panicking")]

use super::*;
use flotilla_protocol::EnvelopeKind;
use flotilla_protocol::manifest::{
    AgentFacts, Constraints, FileEntry, Lineage, Metrics, Variant, agent_engine, agent_name,
};
use flotilla_protocol::pipeline::{
    Activation, Classification, Colour, ImageInput, Input, Layout, Output, Resize,
};
use flotilla_protocol::signature::SigningKey;
use flotilla_protocol::trust::KeySet;
use flotilla_protocol::{Pipeline, codec};
use std::collections::BTreeMap;

fn key() -> SigningKey {
    SigningKey::from_seed(&[7; 32])
}

fn trust() -> TrustFile {
    TrustFile {
        version: 1,
        project: "default".parse().unwrap(),
        ca: Digest::of(b"ca"),
        release_keys: KeySet::single(key().public()),
        control_keys: KeySet::single(SigningKey::from_seed(&[8; 32]).public()),
        min_release: BTreeMap::from([("digits".parse().unwrap(), 5)]),
        issued_at_ms: 1,
    }
}

fn board() -> Board {
    Board {
        name: "generic".into(),
        model_bytes: 1_000_000,
        disk_free_bytes: 1_000_000,
        disk_reserve_bytes: 1_000,
        storage_left_bytes: u64::MAX,
        memory_bytes: 1_000_000,
    }
}

fn manifest() -> ReleaseManifest {
    let image = ImageInput {
        width: 8,
        height: 8,
        colour: Colour::Grey,
        resize: Resize::Exact,
        layout: Layout::Nchw,
        mean: vec![0.0],
        std: vec![1.0],
        ..ImageInput::none()
    };
    let output = Classification::new(vec!["0".into(), "1".into()], Activation::None);
    ReleaseManifest {
        format: 1,
        kind: ReleaseKind::Model,
        project: "default".parse().unwrap(),
        model: "digits".parse().unwrap(),
        version: 3,
        counter: 9,
        created_at_ms: 1,
        expires_at_ms: Some(10_000),
        variants: vec![Variant {
            engine: ENGINE_TRACT.into(),
            boards: vec!["generic".into()],
            model: "m".into(),
        }],
        files: vec![FileEntry::of("m", &[1; 5_000]), FileEntry::of("golden", &[2; 100])],
        pipeline: Pipeline::new(Input::Image(image), Output::Classification(output)),
        golden: "golden".into(),
        metrics: Metrics::default(),
        lineage: Lineage::default(),
        constraints: Constraints::default(),
        agent: None,
        baseline: None,
    }
}

fn offer_signed(
    manifest: &ReleaseManifest,
    key: &SigningKey,
    board: &Board,
) -> Result<u64, (ErrorCode, bool)> {
    let bytes = Envelope::seal(EnvelopeKind::Release, manifest, &[key]).to_bytes();
    let model = "digits".parse().unwrap();
    examine(&bytes, Digest::of(&bytes), &model, &trust(), 5_000, board, |_| 0)
        .map(|m| m.counter)
        .map_err(|fault| (fault.code, fault.transient))
}

fn offer(change: impl FnOnce(&mut ReleaseManifest)) -> Result<u64, (ErrorCode, bool)> {
    let mut manifest = manifest();
    change(&mut manifest);
    offer_signed(&manifest, &key(), &board())
}

fn make_agent(manifest: &mut ReleaseManifest) {
    manifest.kind = ReleaseKind::Agent;
    manifest.model = agent_name();
    manifest.agent = Some(AgentFacts { version: "0.2.0".into() });
    manifest.variants = vec![
        Variant { engine: agent_engine("linux", "x86_64"), boards: vec![], model: "m".into() },
        Variant { engine: agent_engine("linux", "aarch64"), boards: vec![], model: "golden".into() },
    ];
}

fn offer_agent(
    platform: (&str, &str),
    change: impl FnOnce(&mut ReleaseManifest),
) -> Result<Vec<String>, (ErrorCode, bool)> {
    let mut manifest = manifest();
    make_agent(&mut manifest);
    change(&mut manifest);
    let bytes = Envelope::seal(EnvelopeKind::Release, &manifest, &[&key()]).to_bytes();
    examine_agent(&bytes, Digest::of(&bytes), &trust(), 5_000, &board(), platform, |_| 0)
        .map(|m| m.files.into_iter().map(|f| f.name).collect())
        .map_err(|fault| (fault.code, fault.transient))
}

#[test]
fn an_agent_release_is_let_in_with_the_binary_of_this_platform_only() {
    let arm = ("linux", "aarch64");
    assert_eq!(offer_agent(arm, |_| ()), Ok(vec!["golden".to_owned()]));
    assert_eq!(offer_agent(("linux", "riscv64"), |_| ()), Err((ErrorCode::BoardMismatch, false)));
    let model = |m: &mut ReleaseManifest| *m = manifest();
    assert_eq!(offer_agent(arm, model), Err((ErrorCode::Unsupported, false)));
    assert_eq!(offer_agent(arm, |m| m.expires_at_ms = Some(1)), Err((ErrorCode::Expired, false)));
    let large = |m: &mut ReleaseManifest| m.files[1] = FileEntry::of("golden", &[3; 1_000_001]);
    assert_eq!(offer_agent(arm, large), Err((ErrorCode::TooLarge, false)));
    assert_eq!(offer_agent(("linux", "x86_64"), large), Ok(vec!["m".to_owned()]));
}

#[test]
fn a_proper_release_is_let_in() {
    assert_eq!(offer(|_| ()), Ok(9));
}

#[test]
fn releases_that_must_not_run_here_are_final_failures_with_their_codes() {
    let other_board = |m: &mut ReleaseManifest| m.variants[0].boards = vec!["pi-5".into()];
    assert_eq!(offer(|m| m.counter = 4), Err((ErrorCode::BelowFloor, false)));
    assert_eq!(offer(|m| m.expires_at_ms = Some(5_000)), Err((ErrorCode::Expired, false)));
    assert_eq!(offer(|m| m.project = "elsewhere".parse().unwrap()), Err((ErrorCode::WrongProject, false)));
    assert_eq!(offer(other_board), Err((ErrorCode::BoardMismatch, false)));
    assert_eq!(offer(make_agent), Err((ErrorCode::Unsupported, false)));
    assert_eq!(offer(|m| m.model = "faces".parse().unwrap()), Err((ErrorCode::InvalidInput, false)));
    assert_eq!(offer(|m| m.files[0].name = "../m".into()), Err((ErrorCode::Malformed, false)));
    assert_eq!(offer(|m| m.constraints.memory_bytes = 2_000_000), Err((ErrorCode::NoRoom, false)));
    let stranger = SigningKey::from_seed(&[9; 32]);
    assert_eq!(offer_signed(&manifest(), &stranger, &board()), Err((ErrorCode::SignatureInvalid, false)));
}

#[test]
fn a_release_that_does_not_fit_is_refused_before_any_file_is_fetched() {
    let small = Board { model_bytes: 5_000, ..board() };
    assert_eq!(offer_signed(&manifest(), &key(), &small), Err((ErrorCode::TooLarge, false)));
    let full = Board { disk_free_bytes: 6_000, ..board() };
    assert_eq!(offer_signed(&manifest(), &key(), &full), Err((ErrorCode::NoRoom, true)), "room may be made");
    let just = Board { disk_free_bytes: 6_100, ..board() };
    assert_eq!(offer_signed(&manifest(), &key(), &just), Ok(9));
    let bytes = Envelope::seal(EnvelopeKind::Release, &manifest(), &[&key()]).to_bytes();
    let model = "digits".parse().unwrap();
    let resumed = examine(&bytes, Digest::of(&bytes), &model, &trust(), 5_000, &full, |_| 100);
    assert!(resumed.is_ok(), "what is there already needs no room: {resumed:?}");
    let none = Board { disk_free_bytes: 0, ..board() };
    let complete = examine(&bytes, Digest::of(&bytes), &model, &trust(), 5_000, &none, |m| m.total_bytes());
    assert!(complete.is_ok(), "what is complete needs not even the reserve: {complete:?}");
}

#[test]
fn other_bytes_than_the_wanted_ones_are_fetched_again_and_no_failure() {
    let bytes = Envelope::seal(EnvelopeKind::Release, &manifest(), &[&key()]).to_bytes();
    let wanted = Digest::of(b"something else");
    let model = "digits".parse().unwrap();
    let fault = examine(&bytes, wanted, &model, &trust(), 5_000, &board(), |_| 0).unwrap_err();
    assert_eq!((fault.code, fault.transient), (ErrorCode::DigestMismatch, true));
}

#[test]
fn an_envelope_that_is_not_cbor_is_a_final_failure() {
    let model = "digits".parse().unwrap();
    let bytes = codec::encode(&"no envelope");
    let fault = examine(&bytes, Digest::of(&bytes), &model, &trust(), 5_000, &board(), |_| 0).unwrap_err();
    assert_eq!((fault.code, fault.transient), (ErrorCode::Malformed, false));
}

#[test]
fn what_the_agent_may_store_is_a_bound_beside_what_is_free() {
    let board = Board { disk_free_bytes: 1_000_000, storage_left_bytes: 500, ..board() };
    assert_eq!(check_disk(500, &board), Ok(()));
    let fault = check_disk(501, &board).unwrap_err();
    assert!(fault.transient && fault.code == ErrorCode::NoRoom, "{fault}");
    assert!(fault.detail.contains("storage_bytes"), "{fault}");
    assert_eq!(
        check_disk(0, &Board { storage_left_bytes: 0, ..board }),
        Ok(()),
        "what is complete needs none"
    );
}
