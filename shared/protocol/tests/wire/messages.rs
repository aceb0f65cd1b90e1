//! Messages of devices and of the cloud as examples.

use flotilla_protocol::baseline::Feature;
use flotilla_protocol::manifest::ENGINE_TRACT;
use flotilla_protocol::message::*;
use flotilla_protocol::{Digest, ErrorCode, ModelName};
use std::collections::BTreeMap;

/// A sample and an event of a device whose inputs have drifted.
pub(crate) fn drift_telemetry() -> TelemetryBatch {
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

pub(crate) fn desired_agent() -> DesiredModel {
    DesiredModel { release: Digest::of(b"agent"), envelope_bytes: 700, attempt: 2 }
}

pub(crate) fn agent_report() -> AgentReport {
    let upgrade = ModelReport {
        phase: Phase::Confirmed,
        confirmed: Some(Digest::of(b"agent")),
        slot: Some(SlotName::B),
        ..ModelReport::default()
    };
    AgentReport { version: "0.2.0".into(), slot: Some(SlotName::B), upgrade }
}

pub(crate) fn desired() -> Desired {
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

pub(crate) fn hello() -> Hello {
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

pub(crate) fn reported() -> Reported {
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

pub(crate) fn telemetry() -> TelemetryBatch {
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
pub(crate) fn npu_telemetry() -> TelemetryBatch {
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

pub(crate) fn shadows() -> BTreeMap<ModelName, ShadowRelease> {
    let release = Digest::of(b"shadow");
    let shadow = ShadowRelease { release, envelope_bytes: 800, attempt: 13, share_per_mille: 250 };
    BTreeMap::from([("digits".parse().unwrap(), shadow)])
}

pub(crate) fn shadow_reports() -> BTreeMap<ModelName, ShadowReport> {
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
pub(crate) fn shadow_telemetry() -> TelemetryBatch {
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
pub(crate) fn examined() -> Reported {
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

pub(crate) fn measured() -> Reported {
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

pub(crate) fn hard_example() -> HardExample {
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

pub(crate) fn upload(data: &[u8], example: Option<HardExample>) -> Upload {
    Upload { id: 6, digest: Digest::of(b"u"), offset: 0, total: 3, data: data.to_vec(), example, log: None }
}

/// The document of a device that may keep inputs of one model.
pub(crate) fn desired_hard_examples() -> Desired {
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

pub(crate) fn log_offer() -> LogOffer {
    LogOffer { command: 6, left_out: 17 }
}

pub(crate) fn log_query() -> LogQuery {
    LogQuery { from_ms: 1_790_000_000_000, to_ms: u64::MAX, max_bytes: 65_536, level: LogLevel::Info }
}

pub(crate) fn download_settings() -> Settings {
    let night = QuietHours { from_min: 22 * 60, to_min: 6 * 60 };
    Settings { download_bytes_per_s: Some(65_536), quiet_hours: vec![night], ..Settings::default() }
}
