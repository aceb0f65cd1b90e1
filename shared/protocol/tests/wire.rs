//! The wire formats: golden files of version 1, round trips, the exit to another CBOR library, and
//! arbitrary bytes.
//!
//! A golden file is append-only: old bytes must read for ever. `FLOTILLA_BLESS=1` writes files that are
//! missing, and never changes one that exists.

#![expect(clippy::unwrap_used, reason = "tests fail by panicking")]

use flotilla_protocol::baseline::{Baseline, Feature, FeatureBaseline};
use flotilla_protocol::envelope::EnvelopeKind;
use flotilla_protocol::manifest::{
    AgentFacts, Constraints, ENGINE_TRACT, FileEntry, Golden, GoldenVector, Lineage, Metrics, Patch,
    ReleaseKind, ReleaseManifest, Variant, agent_engine, agent_name,
};
use flotilla_protocol::message::*;
use flotilla_protocol::pipeline::detection::{AnchorFree, AnchorFreeLevel, CellBox};
use flotilla_protocol::pipeline::{
    Activation, Anomaly, AnomalyScore, Classification, Colour, ConstantTensor, Decoder, Detection, Filter,
    ImageInput, Input, Layout, Output, Place, Resize, SoundInput, StateTensor, TensorKind, TensorSpec,
    TensorsInput,
};
use flotilla_protocol::renew::{Challenge, RenewAnswer, RenewRequest};
use flotilla_protocol::signature::SigningKey;
use flotilla_protocol::trust::KeySet;
use flotilla_protocol::{Digest, Envelope, ErrorCode, ModelName, Pipeline, TrustFile, codec, limits};
use proptest::prelude::*;
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::collections::BTreeMap;
use std::fmt::Debug;
use std::path::Path;

fn pipeline() -> Pipeline {
    Pipeline::new(
        Input::Image(ImageInput {
            width: 8,
            height: 8,
            colour: Colour::Grey,
            resize: Resize::Stretch,
            layout: Layout::Nchw,
            mean: vec![0.5],
            std: vec![0.5],
            ..ImageInput::none()
        }),
        Output::Classification(Classification::new(vec!["zero".into(), "one".into()], Activation::None)),
    )
}

fn manifest() -> ReleaseManifest {
    ReleaseManifest {
        format: 1,
        kind: ReleaseKind::Model,
        project: "default".parse().unwrap(),
        model: "digits".parse().unwrap(),
        version: 2,
        counter: 7,
        created_at_ms: 1_790_000_000_000,
        expires_at_ms: Some(1_890_000_000_000),
        variants: vec![Variant { engine: ENGINE_TRACT.into(), boards: vec![], model: "model.onnx".into() }],
        files: vec![FileEntry::of("model.onnx", &[7; 300_000]), FileEntry::of("golden.cbor", b"vectors")],
        pipeline: pipeline(),
        golden: "golden.cbor".into(),
        metrics: Metrics { samples: 360, correct: 356, accuracy: 356.0 / 360.0, other: BTreeMap::new() },
        lineage: Lineage {
            dataset: "digits".into(),
            dataset_version: 1,
            training_job: "job-1".into(),
            recipe: "int8".into(),
        },
        constraints: Constraints { memory_bytes: 1 << 24, latency_us: 50_000 },
        agent: None,
        baseline: None,
    }
}

fn baseline() -> Baseline {
    let feature =
        FeatureBaseline { feature: Feature::Contrast, edges: vec![0.25, 0.5], counts: vec![400, 401, 399] };
    Baseline {
        format: 1,
        features: vec![feature],
        labels: vec![1, 0],
        classes: vec![700, 500, 0],
        confidence: vec![0, 0, 0, 0, 0, 3, 7, 20, 170, 1_000],
    }
}

/// A release whose model a device can have without fetching all of it.
fn patched_manifest() -> ReleaseManifest {
    let mut manifest = manifest();
    let base = Some(Digest::of(b"the model before"));
    manifest.files[0].patches =
        vec![Patch::of(base, "delta-1", &[1; 200_000]), Patch::of(None, "a method of later", b"small")];
    manifest
}

/// A release that says what its model saw in training.
fn baseline_manifest() -> ReleaseManifest {
    let mut manifest = manifest();
    manifest.files.push(FileEntry::of("baseline.cbor", &codec::encode(&baseline())));
    manifest.baseline = Some("baseline.cbor".into());
    manifest
}

/// A sample and an event of a device whose inputs have drifted.
fn drift_telemetry() -> TelemetryBatch {
    let drift = Drift {
        predictions: 600,
        inputs: 3_141,
        feature: Some(Feature::Brightness),
        classes: 87,
        confidence: 212,
        chance: Chance::default(),
    };
    let model = ModelTelemetry {
        release: Some(Digest::of(b"release")),
        predictions: 4,
        confidence: vec![0, 0, 0, 0, 0, 1, 3],
        drift: Some(drift),
        ..ModelTelemetry::default()
    };
    let models = BTreeMap::from([("digits".parse().unwrap(), model)]);
    let event = EventRecord {
        kind: EventKind::Drift,
        model: Some("digits".parse().unwrap()),
        release: Some(Digest::of(b"release")),
        code: None,
        detail: "brightness".into(),
    };
    let sample = TelemetrySample { models, ..TelemetrySample::default() };
    TelemetryBatch {
        epoch: Epoch(7),
        stream: Stream::Live,
        records: vec![
            Record { seq: 1, at_ms: 1_790_000_000_000, body: RecordBody::Sample(sample) },
            Record { seq: 2, at_ms: 1_790_000_000_001, body: RecordBody::Event(event) },
        ],
        dropped: vec![],
    }
}

fn agent_manifest() -> ReleaseManifest {
    let binary = "flotilla-agent-linux-x86_64";
    ReleaseManifest {
        kind: ReleaseKind::Agent,
        model: agent_name(),
        variants: vec![Variant {
            engine: agent_engine("linux", "x86_64"),
            boards: vec![],
            model: binary.into(),
        }],
        files: vec![FileEntry::of(binary, &[9; 300_000])],
        pipeline: Pipeline::none(),
        golden: String::new(),
        metrics: Metrics::default(),
        lineage: Lineage::default(),
        constraints: Constraints::default(),
        agent: Some(AgentFacts { version: "0.2.0".into() }),
        ..manifest()
    }
}

fn desired_agent() -> DesiredModel {
    DesiredModel { release: Digest::of(b"agent"), envelope_bytes: 700, attempt: 2 }
}

fn agent_report() -> AgentReport {
    let upgrade = ModelReport {
        phase: Phase::Confirmed,
        confirmed: Some(Digest::of(b"agent")),
        slot: Some(SlotName::B),
        ..ModelReport::default()
    };
    AgentReport { version: "0.2.0".into(), slot: Some(SlotName::B), upgrade }
}

fn trust() -> TrustFile {
    TrustFile {
        version: 3,
        project: "default".parse().unwrap(),
        ca: Digest::of(b"ca"),
        release_keys: KeySet {
            threshold: 2,
            keys: (1..4).map(|i| SigningKey::from_seed(&[i; 32]).public()).collect(),
        },
        control_keys: KeySet::single(SigningKey::from_seed(&[9; 32]).public()),
        min_release: BTreeMap::from([("digits".parse().unwrap(), 5)]),
        issued_at_ms: 1_790_000_000_000,
    }
}

fn desired() -> Desired {
    Desired {
        project: "default".parse().unwrap(),
        device: "gate-7".parse().unwrap(),
        version: 12,
        issued_at_ms: 1_790_000_000_000,
        models: BTreeMap::from([(
            "digits".parse().unwrap(),
            DesiredModel { release: Digest::of(b"release"), envelope_bytes: 900, attempt: 1 },
        )]),
        settings: Settings::default(),
        commands: vec![
            Command { id: 1, kind: CommandKind::Ping, deadline_ms: None },
            Command {
                id: 2,
                kind: CommandKind::RestartModel { model: "digits".parse().unwrap() },
                deadline_ms: None,
            },
        ],
        agent: None,
        hard_examples: BTreeMap::new(),
        shadows: BTreeMap::new(),
    }
}

fn hello() -> Hello {
    Hello {
        protocol: 1,
        agent: "0.1.0".into(),
        counter: 41,
        epoch: Epoch(0x1234_5678_9abc_def0),
        desired_version: 11,
        trust_version: 3,
        board: BoardFacts {
            board: "generic-x86-64".into(),
            engines: vec![ENGINE_TRACT.into()],
            arch: "x86_64".into(),
            cpus: 2,
            memory_bytes: 1 << 33,
            os: "Linux 6.1".into(),
        },
    }
}

fn reported() -> Reported {
    Reported {
        version: 4,
        desired_version: 12,
        models: BTreeMap::from([(
            "digits".parse().unwrap(),
            ModelReport {
                phase: Phase::Probation,
                confirmed: Some(Digest::of(b"old")),
                candidate: Some(Digest::of(b"release")),
                attempt: 1,
                slot: Some(SlotName::B),
                bytes_done: 300_007,
                bytes_total: 300_007,
                bytes_reused: 0,
                bytes_rebuilt: 0,
                bytes_patches: 0,
                probe: Some(ProbeReport {
                    vectors: 8,
                    max_abs_error: 1e-6,
                    p50_ms: 0.1,
                    p95_ms: 0.2,
                    peak_rss_bytes: 1 << 24,
                }),
                failure: Some(Failure {
                    release: Digest::of(b"bad"),
                    code: ErrorCode::ProbeMismatch,
                    detail: "0.2 off".into(),
                }),
            },
        )]),
        commands: vec![CommandReport {
            id: 2,
            state: CommandState::Failed { code: ErrorCode::NotFound, detail: "no such model".into() },
            diagnosis: None,
            measured: None,
        }],
        agent: None,
        shadows: BTreeMap::new(),
    }
}

fn telemetry() -> TelemetryBatch {
    let mut latency = Histogram::default();
    [1, 90, 900, 5_000].into_iter().for_each(|us| latency.record(us));
    let model = ModelTelemetry {
        release: Some(Digest::of(b"release")),
        predictions: 4,
        failures: 1,
        latency,
        classes: BTreeMap::from([(0, 3), (1, 1)]),
        ..ModelTelemetry::default()
    };
    let sample = TelemetrySample {
        uptime_s: 60,
        cpu_percent: 12.5,
        memory_used_bytes: 1 << 30,
        rss_bytes: 1 << 24,
        disk_free_bytes: 1 << 35,
        models: BTreeMap::from([("digits".parse().unwrap(), model)]),
        ..TelemetrySample::default()
    };
    let event = EventRecord {
        kind: EventKind::Failed,
        model: Some("digits".parse().unwrap()),
        release: Some(Digest::of(b"bad")),
        code: Some(ErrorCode::ProbeMismatch),
        detail: "0.2 off".into(),
    };
    TelemetryBatch {
        epoch: Epoch(7),
        stream: Stream::Backlog,
        records: vec![
            Record { seq: 5, at_ms: 1_790_000_000_000, body: RecordBody::Sample(sample) },
            Record { seq: 6, at_ms: 1_790_000_000_001, body: RecordBody::Event(event) },
        ],
        dropped: vec![SeqRange { first: 1, last: 4 }],
    }
}

/// A sample of a device with a neural processing unit.
fn npu_telemetry() -> TelemetryBatch {
    let npu = NpuSample {
        chip: "310B4".into(),
        utilisation_percent: Some(42),
        memory_total_mb: Some(15_609),
        memory_used_mb: Some(3_628),
        temperature_c: Some(65),
        power_w: None,
        health: Some(NpuHealth::Alarm),
    };
    let sample = TelemetrySample {
        temperature_c: Some(61.5),
        received_bytes: Some(1 << 32),
        sent_bytes: Some(77),
        npus: vec![npu],
        ..TelemetrySample::default()
    };
    let record = Record { seq: 1, at_ms: 1_790_000_000_000, body: RecordBody::Sample(sample) };
    TelemetryBatch { epoch: Epoch(7), stream: Stream::Live, records: vec![record], dropped: vec![] }
}

fn shadows() -> BTreeMap<ModelName, ShadowRelease> {
    let release = Digest::of(b"shadow");
    let shadow = ShadowRelease { release, envelope_bytes: 800, attempt: 13, share_per_mille: 250 };
    BTreeMap::from([("digits".parse().unwrap(), shadow)])
}

fn shadow_reports() -> BTreeMap<ModelName, ShadowReport> {
    let release = Digest::of(b"shadow");
    let report = ShadowReport {
        release,
        phase: ShadowPhase::Failed,
        attempt: 13,
        bytes_done: 5,
        bytes_total: 9,
        bytes_reused: 4,
        failure: Some(Failure { release, code: ErrorCode::NoRoom, detail: "too large".into() }),
    };
    BTreeMap::from([("digits".parse().unwrap(), report)])
}

/// A sample of a device with a shadow.
fn shadow_telemetry() -> TelemetryBatch {
    let mut shadow = ShadowTelemetry {
        release: Some(Digest::of(b"shadow")),
        against: Some(Digest::of(b"release")),
        compared: 2,
        agreed: 1,
        failures: 1,
        skipped: 7,
        disagreements: vec![Disagreement { confirmed: 3, shadow: 8, count: 1 }],
        ..ShadowTelemetry::default()
    };
    [(90, 0.5), (70, 0.75)].into_iter().for_each(|(us, score)| shadow.confirmed.record(us, score));
    [(900, 1.0), (700, 0.25)].into_iter().for_each(|(us, score)| shadow.shadow.record(us, score));
    let sample = TelemetrySample {
        shadows: BTreeMap::from([("digits".parse().unwrap(), shadow)]),
        ..TelemetrySample::default()
    };
    let record = Record { seq: 1, at_ms: 1_790_000_000_000, body: RecordBody::Sample(sample) };
    TelemetryBatch { epoch: Epoch(7), stream: Stream::Live, records: vec![record], dropped: vec![] }
}

/// A report of a device that has examined itself.
fn examined() -> Reported {
    let diagnosis = Diagnosis {
        at_ms: 1_790_000_000_000,
        agent: "0.1.0".into(),
        findings: vec![
            Finding {
                subject: Subject::Board,
                verdict: Verdict::Ok,
                code: None,
                what: "profile generic".into(),
                remedy: String::new(),
            },
            Finding {
                subject: Subject::Link,
                verdict: Verdict::Fail,
                code: Some(ErrorCode::CaMismatch),
                what: "another CA".into(),
                remedy: "check the address".into(),
            },
        ],
        left_out: 1,
    };
    let report =
        CommandReport { id: 3, state: CommandState::Done, diagnosis: Some(diagnosis), measured: None };
    Reported { commands: vec![report], models: BTreeMap::new(), ..reported() }
}

fn measured() -> Reported {
    let measured = Measured {
        vectors: 16,
        p50_us: 1_800,
        p95_us: 2_100,
        peak_bytes: 24 << 20,
        max_error_micro: 3,
        outputs: Digest::of(b"scores"),
    };
    let report =
        CommandReport { id: 8, state: CommandState::Done, diagnosis: None, measured: Some(measured) };
    Reported { commands: vec![report], models: BTreeMap::new(), ..reported() }
}

fn hard_example() -> HardExample {
    HardExample {
        model: "digits".parse().unwrap(),
        release: Digest::of(b"release"),
        reason: HardReason::Margin,
        label: "seven".into(),
        label_index: 7,
        score: 0.5,
        margin: 0.125,
        at_ms: 1_790_000_000_000,
    }
}

fn upload(data: &[u8], example: Option<HardExample>) -> Upload {
    Upload { id: 6, digest: Digest::of(b"u"), offset: 0, total: 3, data: data.to_vec(), example, log: None }
}

/// The document of a device that may keep inputs of one model.
fn desired_hard_examples() -> Desired {
    let policy = HardExamples {
        confidence_below_per_mille: Some(600),
        margin_below_per_mille: Some(50),
        shadow_disagreement: true,
        audit_per_million: 10,
        daily_bytes: 1_000_000,
        dataset: Some("digits".parse().unwrap()),
    };
    Desired { hard_examples: BTreeMap::from([("digits".parse().unwrap(), policy)]), ..desired() }
}

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

fn log_offer() -> LogOffer {
    LogOffer { command: 6, left_out: 17 }
}

fn log_query() -> LogQuery {
    LogQuery { from_ms: 1_790_000_000_000, to_ms: u64::MAX, max_bytes: 65_536, level: LogLevel::Info }
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

fn download_settings() -> Settings {
    let night = QuietHours { from_min: 22 * 60, to_min: 6 * 60 };
    Settings { download_bytes_per_s: Some(65_536), quiet_hours: vec![night], ..Settings::default() }
}

/// Old bytes read to the same value, and today's encoder still writes them.
/// A pipeline with everything that pictures and detectors may have.
fn detector() -> Pipeline {
    let image = ImageInput {
        width: 320,
        height: 240,
        colour: Colour::Bgr,
        resize: Resize::Letterbox { fill: 114, place: Place::Centre },
        layout: Layout::Nhwc,
        mean: vec![0.0; 3],
        std: vec![1.0; 3],
        filter: Filter::Bilinear,
        orient: true,
    };
    let level = AnchorFreeLevel {
        stride: 8,
        classes: "cls_8".into(),
        objectness: Some("obj_8".into()),
        boxes: "bbox_8".into(),
    };
    let decoder = Decoder::AnchorFree(AnchorFree {
        levels: vec![level],
        boxes: CellBox::Distribution { bins: 16 },
        sigmoid: true,
        root: true,
        point: 0.5,
    });
    let labels = vec!["face".into()];
    let detection = Detection { labels, decoder, score: 0.5, overlap: 0.45, limit: 100 };
    Pipeline::new(Input::Image(image), Output::Detection(detection))
}

fn keywords() -> Pipeline {
    let classes = Classification::new(vec!["yes".into(), "no".into()], Activation::None);
    Pipeline::new(Input::Sound(SoundInput::mlperf_keywords()), Output::Classification(classes))
}

fn stateful() -> Pipeline {
    let spec =
        |name: &str, kind, shape: &[u32]| TensorSpec { name: name.into(), kind, shape: shape.to_vec() };
    let tensors = vec![spec("x", TensorKind::Fp32, &[1, 512])];
    let anomaly = Anomaly { score: AnomalyScore::SquaredError, threshold: 0.25, output: Some("y".into()) };
    Pipeline {
        states: vec![StateTensor { input: spec("h", TensorKind::Fp32, &[2, 1, 64]), output: "hn".into() }],
        constants: vec![ConstantTensor { input: spec("sr", TensorKind::Int64, &[]), values: vec![16_000.0] }],
        ..Pipeline::new(Input::Tensors(TensorsInput { tensors }), Output::Anomaly(anomaly))
    }
}

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
fn bytes_over_the_bound_or_after_the_end_are_refused() {
    let mut bytes = codec::encode(&hello());
    assert_eq!(codec::decode::<Hello>(&bytes, bytes.len() - 1).unwrap_err().code(), ErrorCode::TooLarge);
    bytes.push(0);
    assert_eq!(codec::decode::<Hello>(&bytes, 4096).unwrap_err().code(), ErrorCode::Malformed);
    let nested = vec![0x81; 200_000];
    assert_eq!(codec::decode::<Hello>(&nested, 1 << 20).unwrap_err().code(), ErrorCode::Malformed);
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

#[test]
fn error_codes_are_distinct_and_read_back() {
    let texts: std::collections::BTreeSet<_> = ErrorCode::ALL.iter().map(|c| c.as_str()).collect();
    assert_eq!(texts.len(), ErrorCode::ALL.len());
    for code in ErrorCode::ALL {
        assert_eq!(ErrorCode::from_text(code.as_str()), *code);
    }
}

fn reads_without_panic<T: DeserializeOwned>(bytes: &[u8]) {
    drop(codec::decode::<T>(bytes, limits::ENVELOPE));
}

fn try_every_decoder(bytes: &[u8]) {
    reads_without_panic::<Hello>(bytes);
    reads_without_panic::<Desired>(bytes);
    reads_without_panic::<Reported>(bytes);
    reads_without_panic::<Fetch>(bytes);
    reads_without_panic::<Chunk>(bytes);
    reads_without_panic::<Request>(bytes);
    reads_without_panic::<Reply>(bytes);
    reads_without_panic::<Upload>(bytes);
    reads_without_panic::<Ack>(bytes);
    reads_without_panic::<Golden>(bytes);
    if let Ok(batch) = codec::decode::<TelemetryBatch>(bytes, limits::ENVELOPE) {
        _ = batch.check();
        for record in batch.records {
            if let RecordBody::Sample(sample) = record.body {
                sample.models.values().for_each(|m| _ = m.latency.quantile_us(0.95));
            }
        }
    }
    if let Ok(envelope) = Envelope::from_bytes(bytes) {
        drop(TrustFile::accept_first(&envelope));
        drop(ReleaseManifest::open(&envelope, &trust(), 0));
    }
    if let Ok(manifest) = codec::decode::<ReleaseManifest>(bytes, limits::ENVELOPE) {
        drop(manifest.check());
    }
}

proptest! {
    #[test]
    fn arbitrary_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..512)) {
        try_every_decoder(&bytes);
    }

    #[test]
    fn damaged_messages_never_panic(which in 0usize..6, at in any::<prop::sample::Index>(), to in any::<u8>(), cut in any::<prop::sample::Index>()) {
        let key = SigningKey::from_seed(&[1; 32]);
        let mut bytes = match which {
            0 => codec::encode(&hello()),
            1 => codec::encode(&reported()),
            2 => codec::encode(&telemetry()),
            3 => codec::encode(&manifest()),
            4 => Envelope::seal(EnvelopeKind::Trust, &trust(), &[&key]).to_bytes(),
            _ => Envelope::seal(EnvelopeKind::Release, &manifest(), &[&key]).to_bytes(),
        };
        let index = at.index(bytes.len());
        bytes[index] = to;
        try_every_decoder(&bytes);
        bytes.truncate(cut.index(bytes.len()));
        try_every_decoder(&bytes);
    }

    #[test]
    fn digests_round_trip(bytes in any::<[u8; 32]>()) {
        let digest = Digest::from_bytes(bytes);
        prop_assert_eq!(digest.to_string().parse::<Digest>().unwrap(), digest);
        prop_assert_eq!(codec::decode::<Digest>(&codec::encode(&digest), 64).unwrap(), digest);
        let json = serde_json::to_string(&digest).unwrap();
        prop_assert_eq!(serde_json::from_str::<Digest>(&json).unwrap(), digest);
    }

    #[test]
    fn histogram_quantiles_bound_the_values(mut values in prop::collection::vec(1u64..1_000_000_000, 1..200), q in 0.0f64..1.0) {
        let mut histogram = Histogram::default();
        values.iter().for_each(|v| histogram.record(*v));
        values.sort_unstable();
        let rank = ((values.len() as f64 * q).ceil() as usize).clamp(1, values.len());
        let exact = values[rank - 1];
        let bound = histogram.quantile_us(q).unwrap();
        prop_assert!(bound >= exact && bound < exact * 2 + 1, "{} for {}", bound, exact);
        prop_assert_eq!(histogram.count(), values.len() as u64);
    }
}
