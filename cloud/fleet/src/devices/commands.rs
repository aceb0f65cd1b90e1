//! What operators asked of a device, and what became of it: open commands travel in the desired document, and the last
//! ones stay on record.

use super::device::Device;
use super::service::{active, subject};
use super::twin::{COMMANDS, Twin};
use crate::error::{Error, Result};
use crate::store::{self, ATTEMPTS, Store};
use crate::text::bounded;
use flotilla_identity::{Actor, audit};
use flotilla_protocol::message::{
    Command, CommandKind, CommandReport, CommandState, LogLevel, LogQuery, Measured, Measurement,
};
use flotilla_protocol::{ActorId, DeviceId, Digest, ErrorCode, ModelName, limits};
use flotilla_storage::{Batch, Entity, Table};
use serde::{Deserialize, Serialize};
use serde_json::json;

/// A command that no deadline is named for is given up after so long.
pub const COMMAND_DEADLINE_MS: u64 = 24 * 60 * 60 * 1000;
/// The longest deadline: a year.
pub const COMMAND_DEADLINE_MAX_MS: u64 = 366 * COMMAND_DEADLINE_MS;
/// Commands of a device that are remembered, if they fit into a record.
const REMEMBERED: usize = 32;
/// Logs of a device that are kept: the last ones.
const LOGS: usize = 4;
/// Longest reason that is remembered.
const DETAIL: usize = 256;

/// What an operator asks of a device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Order {
    /// Say that it is there.
    Ping,
    /// Load the confirmed release of a model anew.
    RestartModel(ModelName),
    /// Examine itself.
    Diagnostics,
    /// Replace the certificate that is in use now.
    RotateCertificate,
    /// Log at this level until the next start.
    LogLevel(LogLevel),
    /// Send what the log says.
    LogPull(LogQuery),
    /// Measure a model that was signed for that.
    Measure(Measurement),
}

/// Lines of its log that a device has sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PulledLog {
    /// Digest of the lines.
    pub digest: Digest,
    /// Their size.
    pub bytes: u64,
    /// Older lines that were asked for, too, and found no room.
    pub left_out: u64,
}

/// A command on record.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Asked {
    /// Its id.
    pub id: u64,
    /// What was asked for.
    pub kind: CommandKind,
    /// By whom; none where that is not on record.
    pub by: Option<ActorId>,
    /// When, in milliseconds since 1970; 0 where that is not on record.
    pub at_ms: u64,
    /// When it is given up, in milliseconds since 1970.
    pub deadline_ms: u64,
    /// How the device ended it.
    #[serde(default)]
    pub outcome: Option<CommandState>,
    /// When that came, in milliseconds since 1970.
    #[serde(default)]
    pub ended_at_ms: Option<u64>,
    /// The lines that it brought, as long as they are kept.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub log: Option<PulledLog>,
    /// What it measured.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub measured: Option<Measured>,
}

/// Where a command stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// The device has not seen it yet.
    Pending,
    /// The device has it.
    Running,
    /// Done.
    Done,
    /// Not possible.
    Failed,
    /// Its deadline passed first.
    Expired,
}

impl Stage {
    /// The stable text.
    pub fn as_str(self) -> &'static str {
        match self {
            Stage::Pending => "pending",
            Stage::Running => "running",
            Stage::Done => "done",
            Stage::Failed => "failed",
            Stage::Expired => "expired",
        }
    }
}

impl Asked {
    fn new(id: u64, kind: CommandKind, by: Option<ActorId>, at_ms: u64, deadline_ms: u64) -> Self {
        Self { id, kind, by, at_ms, deadline_ms, outcome: None, ended_at_ms: None, log: None, measured: None }
    }

    /// One that is open and not on record: it was asked for before there was one.
    fn unrecorded(open: &Command) -> Self {
        Self::new(open.id, open.kind.clone(), None, 0, open.deadline_ms.unwrap_or(u64::MAX))
    }

    fn is_open(&self, now_ms: u64) -> bool {
        self.outcome.is_none() && now_ms < self.deadline_ms
    }

    /// Where it stands at this moment, if the device has answered this version of its desired document.
    pub fn stage(&self, answered: u64, now_ms: u64) -> Stage {
        match &self.outcome {
            Some(CommandState::Done) => Stage::Done,
            Some(CommandState::Failed { code: ErrorCode::Expired, .. }) => Stage::Expired,
            Some(CommandState::Failed { .. }) => Stage::Failed,
            None if now_ms >= self.deadline_ms => Stage::Expired,
            None if answered >= self.id => Stage::Running,
            None => Stage::Pending,
        }
    }
}

/// The last commands of a device, oldest first.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct CommandHistory {
    device: DeviceId,
    commands: Vec<Asked>,
}

impl Entity for CommandHistory {
    const TABLE: Table = Table::new("commands");

    fn id(&self) -> Vec<u8> {
        self.device.as_str().into()
    }
}

impl CommandHistory {
    fn new(device: DeviceId) -> Self {
        Self { device, commands: Vec::new() }
    }

    /// Notes a command down. One that is asked for again has another deadline.
    fn asked(&mut self, asked: Asked, now_ms: u64) {
        match self.commands.iter_mut().find(|known| known.id == asked.id) {
            Some(known) => known.deadline_ms = asked.deadline_ms,
            None => self.commands.push(asked),
        }
        self.fit(now_ms);
    }

    fn ended(&mut self, reports: &[CommandReport], now_ms: u64) {
        for asked in self.commands.iter_mut().filter(|asked| asked.outcome.is_none()) {
            let Some(report) = reports.iter().find(|report| report.id == asked.id) else { continue };
            let mut outcome = report.state.clone();
            if let CommandState::Failed { detail, .. } = &mut outcome {
                *detail = bounded(detail, DETAIL);
            }
            (asked.outcome, asked.ended_at_ms) = (Some(outcome), Some(now_ms));
            asked.measured = report.measured;
        }
        self.fit(now_ms);
    }

    /// Ends every open command: nobody will carry it out any more.
    pub(super) fn give_up(&mut self, why: &CommandState, now_ms: u64) {
        for asked in self.commands.iter_mut().filter(|asked| asked.is_open(now_ms)) {
            (asked.outcome, asked.ended_at_ms) = (Some(why.clone()), Some(now_ms));
        }
        self.fit(now_ms);
    }

    /// Notes the lines down that a command brought; those of the oldest command give way. `false` if there is no such
    /// command.
    fn brought(&mut self, command: u64, log: PulledLog, now_ms: u64) -> bool {
        let Some(asked) = self.commands.iter_mut().find(|asked| asked.id == command) else { return false };
        asked.log = Some(log);
        for older in self.commands.iter_mut().rev().filter(|asked| asked.log.is_some()).skip(LOGS) {
            older.log = None;
        }
        self.fit(now_ms);
        true
    }

    /// Forgets what is over, the oldest first, within what a record holds. An open one may be older than all of these; there
    /// are [`COMMANDS`] of them at most, which always fit.
    fn fit(&mut self, now_ms: u64) {
        let size = |all: &Self| serde_json::to_vec(all).map_or(0, |text| text.len());
        while self.commands.len() > REMEMBERED || size(self) > limits::RECORD {
            let Some(over) = self.commands.iter().position(|asked| !asked.is_open(now_ms)) else { return };
            self.commands.remove(over);
        }
    }
}

/// Changes the twin of a device and the record of its commands together.
async fn change(
    store: &Store,
    id: &DeviceId,
    mut change: impl FnMut(&mut Twin, &mut CommandHistory, &mut Batch) -> Result<bool>,
) -> Result<()> {
    for _ in 0..ATTEMPTS {
        let found = store.twins.get(id.as_str()).await?.ok_or_else(|| Error::DeviceMissing(id.clone()))?;
        let before = store.commands.get(id.as_str()).await?;
        let mut twin = found.value.clone();
        let mut history =
            before.as_ref().map_or_else(|| CommandHistory::new(id.clone()), |before| before.value.clone());
        let mut batch = Batch::new();
        if !change(&mut twin, &mut history, &mut batch)? {
            return Ok(());
        }
        store.twins.update(&mut batch, &found, &twin)?;
        store::put(&store.commands, &mut batch, before.as_ref(), &history)?;
        if store.try_commit(batch).await? {
            return Ok(());
        }
    }
    Err(Error::Contended(format!("the commands of {id}")))
}

/// Gives a device a command and returns its id. It stays in the desired document until the device reports its end, or
/// its deadline has passed.
pub(crate) async fn command(
    store: &Store,
    actor: &Actor,
    id: &DeviceId,
    order: &Order,
    patience_ms: Option<u64>,
    now_ms: u64,
) -> Result<u64> {
    let patience_ms = patience_ms.unwrap_or(COMMAND_DEADLINE_MS);
    if patience_ms == 0 || patience_ms > COMMAND_DEADLINE_MAX_MS {
        let max = COMMAND_DEADLINE_MAX_MS / 1000;
        return Err(Error::Invalid(format!("a command's deadline is 1 to {max} seconds from now")));
    }
    let device = active(store, id).await?;
    let (kind, deadline_ms) = (kind(&device, order)?, now_ms.saturating_add(patience_ms));
    let mut command = 0;
    change(store, id, |twin, history, batch| {
        let before = twin.version;
        let busy = |_: ErrorCode| Error::Busy { what: "open commands", bound: COMMANDS };
        command = twin.command(kind.clone(), deadline_ms, now_ms).map_err(busy)?;
        if twin.version == before {
            return Ok(false);
        }
        let detail = json!({ "command": command, "kind": kind, "deadline_ms": deadline_ms });
        audit::record(batch, actor, "device:control", &subject(id), detail, now_ms)?;
        history.asked(Asked::new(command, kind.clone(), Some(actor.id.clone()), now_ms, deadline_ms), now_ms);
        Ok(true)
    })
    .await?;
    Ok(command)
}

fn kind(device: &Device, order: &Order) -> Result<CommandKind> {
    Ok(match order {
        Order::Ping => CommandKind::Ping,
        Order::RestartModel(model) => CommandKind::RestartModel { model: model.clone() },
        Order::Diagnostics => CommandKind::Diagnostics,
        Order::Measure(wanted) => CommandKind::Measure(*wanted),
        Order::LogLevel(level) => CommandKind::LogLevel { level: *level },
        Order::LogPull(query) => {
            query.check().map_err(|error| Error::Invalid(error.to_string()))?;
            CommandKind::LogPull(*query)
        }
        Order::RotateCertificate => {
            let used = device.certificates.iter().find(|known| !known.unused);
            let serial = used.map(|known| known.serial.clone());
            let none = || Error::Invalid(format!("{} has not used a certificate yet", device.id));
            CommandKind::RotateCertificate { serial: serial.ok_or_else(none)? }
        }
    })
}

/// A device has reported the ends of commands. Says whether its desired document is another now.
pub(crate) async fn finish(
    store: &Store,
    id: &DeviceId,
    reports: &[CommandReport],
    now_ms: u64,
    mut answer: impl FnMut(&Twin, &mut Batch) -> Result<()>,
) -> Result<bool> {
    let mut finished = false;
    change(store, id, |twin, history, batch| {
        answer(twin, batch)?;
        let before = history.clone();
        history.ended(reports, now_ms);
        finished = twin.finish(reports, now_ms);
        Ok(finished || *history != before)
    })
    .await?;
    Ok(finished)
}

/// The lines that a command brought, if they are here.
pub(crate) async fn pulled(store: &Store, id: &DeviceId, command: u64) -> Result<Option<PulledLog>> {
    let history =
        store.commands.get(id.as_str()).await?.map(|found| found.value.commands).unwrap_or_default();
    Ok(history.into_iter().find(|asked| asked.id == command).and_then(|asked| asked.log))
}

/// Notes the lines down that a command brought. Returns the commands of the device whose lines are kept from now on.
pub(crate) async fn keep_log(
    store: &Store,
    id: &DeviceId,
    command: u64,
    log: PulledLog,
    now_ms: u64,
) -> Result<Vec<u64>> {
    let mut noted = false;
    let history = store
        .modify(&store.commands, id.as_str().as_bytes(), |history, _| {
            noted = history.brought(command, log, now_ms);
            Ok(noted)
        })
        .await?;
    match history {
        Some(history) if noted => {
            Ok(history.commands.iter().filter(|asked| asked.log.is_some()).map(|asked| asked.id).collect())
        }
        _ => Err(Error::LogMissing { device: id.clone(), command }),
    }
}

/// The last commands of a device with where each stands, newest first.
pub(crate) async fn commands(store: &Store, id: &DeviceId, now_ms: u64) -> Result<Vec<(Asked, Stage)>> {
    let twin = store.twins.get(id.as_str()).await?.ok_or_else(|| Error::DeviceMissing(id.clone()))?.value;
    let answered = store.reports.get(id.as_str()).await?.map_or(0, |head| head.value.desired_version);
    let kept = store.commands.get(id.as_str()).await?.map(|found| found.value.commands).unwrap_or_default();
    let staged = |asked: Asked| {
        let stage = asked.stage(answered, now_ms);
        (asked, stage)
    };
    Ok(with_unrecorded(kept, &twin, now_ms).into_iter().rev().map(staged).collect())
}

/// The commands on record and the open ones that are not.
fn with_unrecorded(mut kept: Vec<Asked>, twin: &Twin, now_ms: u64) -> Vec<Asked> {
    let known: Vec<u64> = kept.iter().map(|asked| asked.id).collect();
    let missing = twin.open_commands(now_ms).filter(|open| !known.contains(&open.id));
    kept.extend(missing.map(Asked::unrecorded));
    kept.sort_by_key(|asked| asked.id);
    kept
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests fail by panicking")]
mod tests {
    use super::*;

    fn asked(id: u64) -> Asked {
        let kind = CommandKind::RestartModel { model: ModelName::new("m".repeat(64)).unwrap() };
        Asked::new(id, kind, ActorId::new("a".repeat(limits::ID)).ok(), u64::MAX, 100)
    }

    #[test]
    fn a_command_that_nobody_took_up_is_expired_at_its_deadline_and_a_late_end_is_still_told() {
        let mut history = CommandHistory::new(DeviceId::new("gate-7").unwrap());
        history.asked(asked(5), 0);
        let stage = |history: &CommandHistory, answered, now| history.commands[0].stage(answered, now);
        assert_eq!(stage(&history, 4, 99), Stage::Pending);
        assert_eq!(stage(&history, 5, 99), Stage::Running);
        assert_eq!(stage(&history, 4, 100), Stage::Expired);
        history.ended(
            &[CommandReport { id: 5, state: CommandState::Done, diagnosis: None, measured: None }],
            120,
        );
        assert_eq!(stage(&history, 5, 130), Stage::Done);
        let late = CommandState::Failed { code: ErrorCode::Expired, detail: String::new() };
        history.ended(&[CommandReport { id: 5, state: late, diagnosis: None, measured: None }], 140);
        assert_eq!(stage(&history, 5, 150), Stage::Done, "an end is the end");
    }

    #[test]
    fn the_last_logs_are_kept_and_a_command_that_is_forgotten_brings_none() {
        let mut history = CommandHistory::new(DeviceId::new("gate-7").unwrap());
        (0..6).for_each(|id| history.asked(asked(id), 0));
        let log = |bytes| PulledLog { digest: Digest::of(b"lines"), bytes, left_out: 0 };
        for id in [1, 0, 2, 3, 4, 5, 5] {
            assert!(history.brought(id, log(id), 0));
        }
        assert!(!history.brought(6, log(6), 0));
        let kept: Vec<_> = history.commands.iter().map(|asked| asked.log.map(|log| log.bytes)).collect();
        assert_eq!(kept, [None, None, Some(2), Some(3), Some(4), Some(5)]);
    }

    #[test]
    fn the_record_of_commands_fits_and_holds_the_newest() {
        let mut history = CommandHistory::new(DeviceId::new("d".repeat(limits::ID)).unwrap());
        for id in 0..100 {
            history.asked(asked(id), 0);
            let detail = "\"".repeat(5000);
            let state = CommandState::Failed { code: ErrorCode::Unsupported, detail };
            history.ended(&[CommandReport { id, state, diagnosis: None, measured: None }], u64::MAX);
            let log = PulledLog { digest: Digest::of(b""), bytes: u64::MAX, left_out: u64::MAX };
            history.brought(id, log, u64::MAX);
            assert!(serde_json::to_vec(&history).unwrap().len() <= limits::RECORD);
            assert_eq!(history.commands.last().unwrap().id, id);
        }
        for id in 100..100 + COMMANDS as u64 {
            history.asked(asked(id), 0);
        }
        let open = |history: &CommandHistory| history.commands.iter().filter(|one| one.is_open(0)).count();
        assert_eq!(open(&history), COMMANDS);
        assert!(serde_json::to_vec(&history).unwrap().len() <= limits::RECORD);
    }

    #[test]
    fn an_open_command_is_remembered_after_many_that_have_ended_or_expired() {
        let mut history = CommandHistory::new(DeviceId::new("gate-7").unwrap());
        history.asked(Asked { deadline_ms: u64::MAX, ..asked(1) }, 0);
        for id in 2..90 {
            // Every other one is not answered, and expires.
            let now_ms = id * 1_000;
            history.asked(Asked { deadline_ms: now_ms + 100, ..asked(id) }, now_ms);
            let done = [CommandReport { id, state: CommandState::Done, diagnosis: None, measured: None }];
            history.ended(&done[..(id % 2) as usize], now_ms);
        }
        assert_eq!((history.commands.len(), history.commands[0].id), (REMEMBERED, 1));
        assert_eq!(history.commands.last().unwrap().id, 89);
        let end = [CommandReport { id: 1, state: CommandState::Done, diagnosis: None, measured: None }];
        history.ended(&end, 100_000);
        assert_eq!(history.commands[0].stage(1, 100_000), Stage::Done, "its end is on record");
        history.asked(Asked { deadline_ms: u64::MAX, ..asked(90) }, 100_000);
        assert_ne!(history.commands[0].id, 1, "and then it may go");
    }

    #[test]
    fn an_open_command_from_before_there_was_a_record_is_shown_and_a_question_asked_again_waits_longer() {
        let mut twin = Twin::new(DeviceId::new("gate-7").unwrap(), Default::default(), 1);
        let ping = twin.command(CommandKind::Ping, 100, 1).unwrap();
        let asked_id = twin.command(CommandKind::Diagnostics, 100, 1).unwrap();
        let all =
            with_unrecorded(vec![Asked { kind: CommandKind::Diagnostics, ..asked(asked_id) }], &twin, 5);
        let seen: Vec<_> = all.iter().map(|one| (one.id, one.by.is_some(), one.deadline_ms)).collect();
        assert_eq!(seen, [(ping, false, 100), (asked_id, true, 100)]);
        assert!(with_unrecorded(vec![], &twin, 100).is_empty(), "expired");

        let version = twin.version;
        assert_eq!(twin.command(CommandKind::Diagnostics, 90, 6), Ok(asked_id));
        assert_eq!(twin.version, version, "it waits longer than that already");
        assert_eq!(twin.command(CommandKind::Diagnostics, 200, 6), Ok(asked_id));
        assert_eq!((twin.version, twin.examination(150)), (version + 1, Some(asked_id)));
        let mut history = CommandHistory::new(DeviceId::new("gate-7").unwrap());
        history.asked(asked(asked_id), 1);
        history.asked(Asked { deadline_ms: 200, ..asked(asked_id) }, 6);
        assert_eq!((history.commands.len(), history.commands[0].deadline_ms), (1, 200));
    }
}
