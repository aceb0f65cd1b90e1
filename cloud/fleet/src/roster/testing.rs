//! Rows for tests.

use super::row::{Facts, Row, RowModel, RowRelease, RowSample};
use super::{MODELS, Pool, Read};
use crate::ca::Serial;
use crate::devices::{Certificate, Device};
use flotilla_protocol::message::{BoardFacts, Phase};
use flotilla_protocol::{Digest, ErrorCode, ProjectId};
use std::sync::Arc;

/// A device that nothing is known of.
pub(crate) fn bare_device(id: &str, now_ms: u64) -> Device {
    let certificate = Certificate {
        serial: Serial::random().unwrap().to_string(),
        key: Digest::of(id.as_bytes()),
        not_after_ms: now_ms,
        unused: false,
    };
    let project = ProjectId::new("shop").unwrap();
    Device::enrolled(
        project,
        id.parse().unwrap(),
        &BoardFacts::default(),
        certificate,
        "claim".into(),
        now_ms.saturating_sub(3_600_000),
    )
}

/// What a device on this board is made of, as far as anything is known.
pub(crate) fn board(name: &str) -> Facts {
    Facts { board: name.into(), ..Facts::clone(&bare_row(1_800_000_000_000).facts) }
}

pub(crate) fn bare_row(now_ms: u64) -> Row {
    let device = bare_device("gate-1", now_ms);
    let read = Read { device, twin: None, models: Vec::new(), sample: None };
    read.row(None, &mut Pool::default(), |digest| RowRelease { digest: digest.to_string(), version: None })
}

/// A device of which everything is known.
pub(crate) fn full_row(now_ms: u64) -> Row {
    let mut device = bare_device("gate-7", now_ms);
    device.last_seen_ms = Some(now_ms - 60_000);
    device.tags.name = Some("Gate 7".into());
    device.tags.labels = ["canary".to_owned(), "west".to_owned()].into();
    device.tags.attributes =
        [("site".to_owned(), "berlin".to_owned()), ("rack-no".to_owned(), "7".to_owned())].into();
    let read = Read { device, twin: None, models: Vec::new(), sample: None };
    let mut row = read
        .row(None, &mut Pool::default(), |digest| RowRelease { digest: digest.to_string(), version: None });
    let release = |digest: &str, version| Some(Arc::new(RowRelease { digest: digest.into(), version }));
    row.state = "failed";
    row.facts = Arc::new(Facts {
        board: "raspberry-pi-5".into(),
        arch: "aarch64".into(),
        os: "Debian 13".into(),
        agent: "0.1.0".into(),
        engines: vec!["tract".into()],
        cpus: 4,
        memory_bytes: 8 << 30,
        trust_version: 2,
    });
    row.models = [RowModel {
        name: "digits".into(),
        wanted: release("cd", Some(4)),
        confirmed: release("ab", Some(3)),
        phase: Phase::Failed,
        failure: Some(ErrorCode::ProbeTooSlow),
        drift: Some(250),
        predictions: Some(10),
        failures: Some(1),
        p95_us: Some(12_000),
    }]
    .into();
    row.sample = Some(RowSample {
        received_ms: now_ms - 30_000,
        cpu_percent: 80.0,
        memory_used_bytes: 1 << 30,
        disk_free_bytes: 999_999,
        temperature_c: Some(61.5),
        throttled: true,
        uptime_s: 5,
        agent_memory_bytes: 20 << 20,
    });
    row
}

/// A device with as many models as possible.
pub(crate) fn largest_row(now_ms: u64) -> Row {
    let mut row = full_row(now_ms);
    let model = row.models.first().cloned().unwrap();
    row.models = (0..MODELS).map(|n| RowModel { name: format!("m{n:04}").into(), ..model.clone() }).collect();
    row
}
