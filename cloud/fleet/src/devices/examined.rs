//! What a device last found when it was told to examine itself.

use super::twin::Twin;
use crate::error::{Error, Result};
use crate::store::Store;
use flotilla_identity::now_ms;
use flotilla_protocol::DeviceId;
use flotilla_protocol::message::{CommandKind, CommandReport, CommandState, Diagnosis};
use flotilla_storage::{Entity, Table};
use serde::{Deserialize, Serialize};

/// The last examination of a device.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Examined {
    /// The device.
    pub device: DeviceId,
    /// The command that asked for it.
    pub command: u64,
    /// When its report came, in milliseconds since 1970.
    pub at_ms: u64,
    /// How the command ended.
    pub outcome: CommandState,
    /// What was found.
    pub diagnosis: Option<Diagnosis>,
}

impl Entity for Examined {
    const TABLE: Table = Table::new("diagnoses");

    fn id(&self) -> Vec<u8> {
        self.device.as_str().into()
    }
}

impl Examined {
    /// The answer to the newest open examination of a device among its reports.
    pub(crate) fn answer(twin: &Twin, reports: &[CommandReport], now_ms: u64) -> Option<Self> {
        let asked = |id| twin.commands.iter().any(|c| c.id == id && c.kind == CommandKind::Diagnostics);
        let newest = reports.iter().filter(|report| asked(report.id)).max_by_key(|report| report.id)?;
        Some(Self {
            device: twin.device.clone(),
            command: newest.id,
            at_ms: now_ms,
            outcome: newest.state.clone(),
            diagnosis: newest.diagnosis.clone(),
        })
    }
}

/// The open examination of a device, and its last one.
pub(crate) async fn examination(store: &Store, id: &DeviceId) -> Result<(Option<u64>, Option<Examined>)> {
    // The twin first: an examination that ends in between is then seen twice rather than not at all.
    let twin = store.twins.get(id.as_str()).await?.ok_or_else(|| Error::DeviceMissing(id.clone()))?;
    let last = store.examined.get(id.as_str()).await?;
    Ok((twin.value.examination(now_ms()), last.map(|last| last.value)))
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests fail by panicking")]
mod tests {
    use super::*;
    use flotilla_protocol::message::{Finding, Settings, Subject, Verdict};
    use flotilla_protocol::{ErrorCode, limits};

    #[test]
    fn the_largest_diagnosis_fits_into_a_record() {
        let finding = Finding {
            subject: Subject::Certificates,
            verdict: Verdict::Unknown,
            code: Some(ErrorCode::DatasetPathMissing),
            what: "\"\\\n\u{1}x".repeat(1000),
            remedy: "\u{7f}\"".repeat(1000),
        };
        let diagnosis = Diagnosis {
            at_ms: u64::MAX,
            agent: "\"".repeat(1000),
            findings: vec![finding; 1000],
            left_out: u32::MAX - 1000,
        };
        let examined = Examined {
            device: DeviceId::new("d".repeat(limits::ID)).unwrap(),
            command: u64::MAX,
            at_ms: u64::MAX,
            outcome: CommandState::Failed { code: ErrorCode::Unsupported, detail: "x".repeat(512) },
            diagnosis: Some(diagnosis.bounded()),
        };
        let size = serde_json::to_string(&examined).unwrap().len();
        assert!(size <= limits::RECORD, "{size}");
    }

    #[test]
    fn only_an_open_examination_is_answered() {
        let mut twin = Twin::new(DeviceId::new("gate-7").unwrap(), Settings::default(), 1);
        let ping = twin.command(CommandKind::Ping, u64::MAX, 1).unwrap();
        let asked = twin.command(CommandKind::Diagnostics, u64::MAX, 2).unwrap();
        assert_eq!(twin.command(CommandKind::Diagnostics, u64::MAX, 3).unwrap(), asked, "one at a time");
        let report = |id| CommandReport { id, state: CommandState::Done, diagnosis: None, measured: None };
        assert_eq!(Examined::answer(&twin, &[report(ping)], 5), None);
        let answer = Examined::answer(&twin, &[report(ping), report(asked), report(asked + 9)], 5).unwrap();
        assert_eq!((answer.command, answer.at_ms), (asked, 5));
        assert!(twin.finish(&[report(asked)], 6));
        assert_eq!(Examined::answer(&twin, &[report(asked)], 7), None);
        assert_ne!(twin.command(CommandKind::Diagnostics, u64::MAX, 8).unwrap(), asked);
    }
}
