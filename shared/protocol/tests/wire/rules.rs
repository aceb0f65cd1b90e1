//! What messages and manifests say of themselves, and what is refused.

use crate::messages::{desired, download_settings, hard_example, log_offer, log_query, upload};
use crate::models::{agent_manifest, baseline_manifest, manifest, patched_manifest};
use flotilla_protocol::baseline::Feature;
use flotilla_protocol::manifest::{
    FileEntry, Patch, ReleaseKind, ReleaseManifest, Variant, agent_engine, agent_name,
};
use flotilla_protocol::message::*;
use flotilla_protocol::{Digest, ErrorCode, codec, limits};
use serde::Serialize;

#[test]
fn an_upload_is_an_offer_or_a_piece_within_its_bounds() {
    let check = |data: &[u8], example: bool, change: fn(&mut Upload)| {
        let mut upload = upload(data, example.then(hard_example));
        change(&mut upload);
        upload.check()
    };
    assert_eq!(check(b"", true, |_| ()), Ok(()));
    assert_eq!(check(b"abc", false, |_| ()), Ok(()));
    assert_eq!(check(b"", false, |_| ()), Err(ErrorCode::InvalidInput), "an offer says what it is");
    assert_eq!(check(b"abc", true, |_| ()), Err(ErrorCode::InvalidInput), "and brings nothing");
    assert_eq!(check(b"abc", false, |u| u.offset = 1), Err(ErrorCode::InvalidInput));
    assert_eq!(check(b"abc", false, |u| u.offset = u64::MAX), Err(ErrorCode::InvalidInput));
    assert_eq!(check(b"", true, |u| u.total = u64::MAX), Err(ErrorCode::TooLarge));
    assert_eq!(check(b"", true, |u| u.total = 0), Err(ErrorCode::InvalidInput));
    let label = |u: &mut Upload| u.example.as_mut().unwrap().label = "x".repeat(limits::LABEL + 1);
    assert_eq!(check(b"", true, label), Err(ErrorCode::TooLarge));
    let score = |u: &mut Upload| u.example.as_mut().unwrap().score = f32::NAN;
    assert_eq!(check(b"", true, score), Err(ErrorCode::InvalidInput));
    let log = |u: &mut Upload| u.log = Some(log_offer());
    assert_eq!(check(b"", false, log), Ok(()));
    assert_eq!(check(b"", true, log), Err(ErrorCode::InvalidInput), "one thing");
    assert_eq!(check(b"abc", false, log), Err(ErrorCode::InvalidInput), "and brings nothing");
    let long = |u: &mut Upload| (u.log, u.total) = (Some(log_offer()), limits::LOG_PULL as u64 + 1);
    assert_eq!(check(b"", false, long), Err(ErrorCode::TooLarge));
}

#[test]
fn a_question_for_a_log_is_a_span_within_the_bounds() {
    let query = log_query();
    assert_eq!(query.check(), Ok(()));
    let span = LogQuery { to_ms: query.from_ms, ..query };
    assert_eq!(span.check(), Err(InvalidLogQuery::Span(query.from_ms, query.from_ms)));
    for max_bytes in [0, limits::LOG_PULL_MIN as u32 - 1, limits::LOG_PULL as u32 + 1] {
        assert_eq!(LogQuery { max_bytes, ..query }.check(), Err(InvalidLogQuery::Bytes(max_bytes)));
    }
}

#[test]
fn an_agent_release_is_told_from_a_model_and_a_device_takes_its_own_binary() {
    let other = |change: fn(&mut ReleaseManifest)| {
        let mut manifest = agent_manifest();
        change(&mut manifest);
        manifest.check().map_err(|e| e.code())
    };
    assert_eq!(other(|_| ()), Ok(()));
    assert_eq!(other(|m| m.model = "digits".parse().unwrap()), Err(ErrorCode::Malformed));
    assert_eq!(other(|m| m.agent = None), Err(ErrorCode::Malformed));
    assert_eq!(other(|m| m.kind = ReleaseKind::Model), Err(ErrorCode::Malformed));
    let mut model = manifest();
    model.model = agent_name();
    assert_eq!(model.check().map_err(|e| e.code()), Err(ErrorCode::Malformed));

    let mut two = agent_manifest();
    two.files.push(FileEntry::of("other", b"for another board"));
    two.variants.push(Variant {
        engine: agent_engine("linux", "arm"),
        boards: vec![],
        model: "other".into(),
    });
    let part = two.clone().part_for("any", &agent_engine("linux", "arm")).unwrap();
    assert_eq!(part.files.iter().map(|f| f.name.as_str()).collect::<Vec<_>>(), ["other"]);
    let missing = two.part_for("any", &agent_engine("linux", "riscv64")).unwrap_err();
    assert_eq!(missing.code(), ErrorCode::BoardMismatch);
}

#[test]
fn a_shadow_of_which_little_is_said_sees_everything_and_a_newer_phase_is_unknown() {
    #[derive(Serialize)]
    struct Short {
        release: Digest,
        envelope_bytes: u32,
        phase: &'static str,
    }
    let short = Short { release: Digest::of(b"x"), envelope_bytes: 9, phase: "learning" };
    let bytes = codec::encode(&short);
    let wanted: ShadowRelease = codec::decode(&bytes, 1024).unwrap();
    assert_eq!((wanted.attempt, wanted.share_per_mille), (0, SHARE_ALL));
    let report: ShadowReport = codec::decode(&bytes, 1024).unwrap();
    assert_eq!(report.phase, ShadowPhase::Unknown);
    let many = (0..=limits::DESIRED_SHADOWS).map(|n| (format!("m{n}").parse().unwrap(), wanted.clone()));
    let desired = Desired { shadows: many.collect(), ..desired() };
    assert_eq!(desired.check(), Err(ErrorCode::TooLarge));
}

#[test]
fn a_newer_cloud_can_add_fields_and_kinds() {
    #[derive(Serialize)]
    struct NewerAck {
        epoch: Epoch,
        stream: Stream,
        up_to: u64,
        added_later: Vec<u8>,
    }
    let bytes =
        codec::encode(&NewerAck { epoch: Epoch(1), stream: Stream::Live, up_to: 2, added_later: vec![0] });
    let ack: Ack = codec::decode(&bytes, 1024).unwrap();
    assert_eq!(ack, Ack { epoch: Epoch(1), stream: Stream::Live, up_to: 2, reported: None });

    let code: ErrorCode = codec::decode(&codec::encode(&"invented_later"), 64).unwrap();
    assert_eq!(code, ErrorCode::Unknown);
    let kind: CommandKind = codec::decode(&codec::encode(&"invented_later"), 64).unwrap();
    assert_eq!(kind, CommandKind::Unknown);
}

#[test]
fn patches_are_smaller_than_their_file_and_cut_as_they_say() {
    let manifest = patched_manifest();
    manifest.check().unwrap();
    let with = |change: fn(&mut Vec<Patch>)| {
        let mut other = manifest.clone();
        change(&mut other.files[0].patches);
        other.check().map_err(|e| e.code())
    };
    assert_eq!(with(|patches| patches[0].bytes = 300_001), Err(ErrorCode::Malformed));
    assert_eq!(with(|patches| patches[0].chunks.truncate(1)), Err(ErrorCode::Malformed));
    assert_eq!(with(|patches| patches[1].method = "m".repeat(limits::LABEL + 1)), Err(ErrorCode::Malformed));
    assert_eq!(with(|patches| *patches = vec![patches[1].clone(); 9]), Err(ErrorCode::Malformed));
    // No file of a release is named as a patch lies on a device.
    let mut hidden = manifest.clone();
    hidden.files.push(manifest.files[0].patches[1].entry());
    assert_eq!(hidden.check().map_err(|e| e.code()), Err(ErrorCode::Malformed));
    assert_eq!(manifest.total_bytes(), 300_007, "patches are no files of the release");
}

/// An agent that knows nothing of patches reads the files.
#[test]
fn an_older_agent_sees_the_files() {
    #[derive(serde::Deserialize)]
    struct OlderManifest {
        files: Vec<OlderFile>,
    }
    #[derive(serde::Deserialize)]
    struct OlderFile {
        name: String,
        digest: Digest,
        bytes: u64,
        chunks: Vec<Digest>,
        chunk_bytes: u32,
    }
    let new = patched_manifest();
    let old: OlderManifest = codec::decode(&codec::encode(&new), limits::ENVELOPE).unwrap();
    for (old, new) in old.files.iter().zip(&new.files) {
        let same = (&old.name, old.digest, old.bytes, &old.chunks, old.chunk_bytes);
        assert_eq!(same, (&new.name, new.digest, new.bytes, &new.chunks, new.chunk_bytes));
    }
}

#[test]
fn a_baseline_is_a_small_file_of_the_release() {
    let manifest = baseline_manifest();
    manifest.check().unwrap();
    let missing = ReleaseManifest { baseline: Some("other.cbor".into()), ..manifest.clone() };
    assert!(missing.check().unwrap_err().to_string().contains("other.cbor"));
    let mut large = manifest;
    large.files[2] = FileEntry::of("baseline.cbor", &vec![0; limits::BASELINE + 1]);
    assert!(large.check().unwrap_err().to_string().contains("over the bound of 16384"));
}

#[test]
fn a_drift_threshold_is_above_chance_and_within_reach() {
    let with = |milli| Settings { drift_threshold_milli: Some(milli), ..Settings::default() }.check();
    assert_eq!([100, 250, 5_000].map(with), [Ok(()); 3]);
    assert_eq!([99, 5_001].map(with), [99, 5_001].map(|milli| Err(InvalidSettings::Drift(milli))));
}

#[test]
fn drift_is_named_after_what_is_farthest_off() {
    let drift = |inputs, classes, confidence| Drift {
        predictions: 600,
        inputs,
        feature: Some(Feature::Contrast),
        classes,
        confidence,
        chance: Chance::default(),
    };
    let said = |drift: Drift| (drift.score(), drift.cause(), drift.shift().as_str());
    assert_eq!(said(drift(30, 20, 10)), (30, "contrast", "stable"));
    assert_eq!(said(drift(30, 200, 10)), (200, "classes", "moderate shift"));
    assert_eq!(said(drift(30, 200, 900)), (900, "confidence", "major shift"));

    // What chance may explain is shown and does not count.
    let chance = Chance { inputs: 800, classes: 0, confidence: 500 };
    let few = |inputs, classes, confidence| Drift { chance, ..drift(inputs, classes, confidence) };
    assert_eq!(said(few(850, 20, 590)), (850, "confidence", "stable"));
    assert_eq!(
        (said(few(850, 200, 590)), few(850, 200, 590).judged()),
        ((850, "classes", "moderate shift"), 200)
    );
    assert_eq!(
        (said(few(1_300, 200, 590)), few(1_300, 200, 590).worst()),
        ((1_300, "contrast", "major shift"), ("contrast", 1_300))
    );
    let bytes = codec::encode(&few(1, 2, 3));
    assert_eq!(codec::decode::<Drift>(&bytes, 1_000).ok(), Some(few(1, 2, 3)));
    // An older agent says nothing of it, and neither does one that has nothing to leave out.
    assert!(!codec::encode(&drift(1, 2, 3)).windows(6).any(|key| key == b"chance"));
}

#[test]
fn quiet_hours_may_go_past_midnight_and_must_leave_time() {
    let night = download_settings();
    assert_eq!(night.check(), Ok(()));
    let quiet: Vec<bool> = [0, 359, 360, 1_319, 1_320, 1_439].map(|m| night.is_quiet(m)).to_vec();
    assert_eq!(quiet, [true, true, false, false, true, true]);
    let span = |from_min, to_min| QuietHours { from_min, to_min };
    let with = |quiet_hours| Settings { quiet_hours, ..Settings::default() }.check();
    let all_day = vec![span(0, 720), span(720, 1_439), span(1_439, 1)];
    assert_eq!(with(all_day), Err(InvalidSettings::AlwaysQuiet));
    for wrong in [span(5, 5), span(1_440, 3), span(3, 1_440)] {
        assert_eq!(with(vec![wrong]), Err(InvalidSettings::Span(wrong)));
    }
    assert_eq!(with(vec![span(1, 2); 17]), Err(InvalidSettings::Spans(17)));
    let slow = Settings { download_bytes_per_s: Some(1_023), ..Settings::default() };
    assert_eq!(slow.check(), Err(InvalidSettings::Rate(1_023)));
}
