//! Golden files of version 1.
//!
//! A golden file is append-only: old bytes must read for ever. `FLOTILLA_BLESS=1` writes files that are
//! missing, and never changes one that exists.

use crate::messages::{
    agent_report, desired, desired_agent, desired_hard_examples, download_settings, drift_telemetry,
    examined, hard_example, hello, log_offer, log_query, measured, npu_telemetry, reported, shadow_reports,
    shadow_telemetry, shadows, telemetry, upload,
};
use crate::models::{
    agent_manifest, baseline, baseline_manifest, detector, keywords, manifest, patched_manifest, stateful,
    trust,
};
use flotilla_protocol::envelope::EnvelopeKind;
use flotilla_protocol::manifest::{Golden, GoldenVector};
use flotilla_protocol::message::*;
use flotilla_protocol::renew::{Challenge, RenewAnswer, RenewRequest};
use flotilla_protocol::signature::SigningKey;
use flotilla_protocol::{Digest, Envelope, ErrorCode, codec, limits};
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::fmt::Debug;
use std::path::Path;

fn golden<T: Serialize + DeserializeOwned + PartialEq + Debug>(name: &str, value: &T) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("golden/v1").join(format!("{name}.cbor"));
    let now = codec::encode(value);
    if !path.exists() && std::env::var_os("FLOTILLA_BLESS").is_some() {
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, &now).unwrap();
    }
    let old = std::fs::read(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    assert_eq!(&codec::decode::<T>(&old, limits::ENVELOPE).unwrap(), value, "{name} reads differently");
    assert_eq!(old, now, "{name} is written differently");

    let mut other = Vec::new();
    ciborium::into_writer(value, &mut other).unwrap();
    assert_eq!(other, now, "ciborium writes {name} differently");
    assert_eq!(&ciborium::from_reader::<T, _>(&old[..]).unwrap(), value, "ciborium reads {name} differently");
}

#[test]
fn every_format_of_version_1_still_reads() {
    let key = SigningKey::from_seed(&[1; 32]);
    golden("hello", &hello());
    golden("settings-download", &download_settings());
    golden("model-report-reused", &ModelReport { bytes_reused: 131_072, ..ModelReport::default() });
    golden(
        "model-report-rebuilt",
        &ModelReport { bytes_rebuilt: 131_072, bytes_patches: 20_000, ..ModelReport::default() },
    );
    golden(
        "event-unpatched",
        &EventRecord {
            kind: EventKind::Unpatched,
            model: Some("digits".parse().unwrap()),
            release: Some(Digest::of(b"new")),
            code: Some(ErrorCode::DigestMismatch),
            detail: "its base is damaged".into(),
        },
    );
    golden("desired", &desired());
    golden("desired-agent", &Desired { agent: Some(desired_agent()), ..desired() });
    golden("reported", &reported());
    golden("reported-agent", &Reported { agent: Some(agent_report()), ..reported() });
    golden("reported-diagnosis", &examined());
    golden("desired-shadow", &Desired { shadows: shadows(), ..desired() });
    golden("reported-shadow", &Reported { shadows: shadow_reports(), ..reported() });
    golden("telemetry-shadow", &shadow_telemetry());
    golden("pipeline-detector", &detector());
    golden("pipeline-keywords", &keywords());
    golden("pipeline-stateful", &stateful());
    golden("command-diagnostics", &Command { id: 3, kind: CommandKind::Diagnostics, deadline_ms: None });
    golden(
        "command-rotate-certificate",
        &Command {
            id: 4,
            kind: CommandKind::RotateCertificate { serial: "5f01".into() },
            deadline_ms: Some(1_790_000_000_000),
        },
    );
    let level = CommandKind::LogLevel { level: LogLevel::Debug };
    golden("command-log-level", &Command { id: 5, kind: level, deadline_ms: None });
    golden("telemetry", &telemetry());
    golden("telemetry-npu", &npu_telemetry());
    golden("telemetry-drift", &drift_telemetry());
    golden("baseline", &baseline());
    golden("manifest-baseline", &baseline_manifest());
    golden("settings-drift", &Settings { drift_threshold_milli: Some(400), ..Settings::default() });
    let ack = Ack { epoch: Epoch(7), stream: Stream::Live, up_to: 6, reported: None };
    golden("ack", &ack);
    golden("ack-reported", &Ack { reported: Some(ReportStored { counter: 3, version: 12 }), ..ack });
    golden("fetch", &Fetch { id: 3, digest: Digest::of(b"x"), offset: limits::CHUNK as u64, chunks: 8 });
    golden("chunk", &Chunk { digest: Digest::of(b"x"), offset: 0, total: 5, data: b"hello".to_vec() });
    golden("request", &Request { id: 4, body: RequestBody::Trust { have: 2 } });
    let csr_pem = "-----BEGIN CERTIFICATE REQUEST-----".to_owned();
    golden("request-certificate", &Request { id: 7, body: RequestBody::Certificate { csr_pem } });
    let chain_pem = "-----BEGIN CERTIFICATE-----".to_owned();
    golden("reply-certificate", &Reply { id: 7, body: ReplyBody::Certificate { chain_pem } });
    golden(
        "reply",
        &Reply { id: 4, body: ReplyBody::Error { code: ErrorCode::FetchDenied, detail: "no".into() } },
    );
    golden("reply-trust", &Reply { id: 5, body: ReplyBody::Trust(vec![1, 2]) });
    golden("upload", &upload(b"abc", None));
    golden("upload-offer", &upload(b"", Some(hard_example())));
    golden("upload-offer-log", &Upload { log: Some(log_offer()), ..upload(b"", None) });
    golden(
        "command-log-pull",
        &Command { id: 6, kind: CommandKind::LogPull(log_query()), deadline_ms: None },
    );
    let wanted = Measurement { manifest: Digest::of(b"manifest"), envelope_bytes: 1_500 };
    golden("command-measure", &Command { id: 8, kind: CommandKind::Measure(wanted), deadline_ms: None });
    golden("reported-measured", &measured());
    golden("reply-stored", &Reply { id: 6, body: ReplyBody::Stored { bytes: 131_072 } });
    golden("desired-hard-examples", &desired_hard_examples());
    golden("manifest", &manifest());
    golden("manifest-agent", &agent_manifest());
    golden("manifest-patched", &patched_manifest());
    golden("trust", &trust());
    golden("release-envelope", &Envelope::seal(EnvelopeKind::Release, &manifest(), &[&key]));
    golden(
        "golden-vectors",
        &Golden {
            tolerance: 1e-4,
            vectors: vec![GoldenVector { input: vec![1, 2], scores: vec![0.25, 0.75] }],
        },
    );
}

/// The same for what travels as JSON over HTTPS.
fn golden_json<T: Serialize + DeserializeOwned + PartialEq + Debug>(name: &str, value: &T) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("golden/v1").join(format!("{name}.json"));
    let now = serde_json::to_string_pretty(value).unwrap() + "\n";
    if !path.exists() && std::env::var_os("FLOTILLA_BLESS").is_some() {
        std::fs::write(&path, &now).unwrap();
    }
    let old = std::fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    assert_eq!(&serde_json::from_str::<T>(&old).unwrap(), value, "{name} reads differently");
    assert_eq!(old, now, "{name} is written differently");
}

#[test]
fn every_json_body_of_a_renewal_still_reads() {
    golden_json("renew-challenge", &Challenge { nonce: "00ff".into() });
    golden_json(
        "renew-request",
        &RenewRequest {
            project: "default".parse().unwrap(),
            device: "gate-7".parse().unwrap(),
            key: "MFkw".into(),
            csr_pem: "-----BEGIN CERTIFICATE REQUEST-----".into(),
            nonce: "00ff".into(),
            signature: "MEUC".into(),
        },
    );
    golden_json("renew-pending", &RenewAnswer::Pending);
    let chain_pem = "-----BEGIN CERTIFICATE-----".to_owned();
    golden_json("renew-approved", &RenewAnswer::Approved { chain_pem });
}
