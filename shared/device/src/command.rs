//! Commands: each is begun at most once, whatever happens, and ends with a report.
//!
//! ```text
//! wanted -- known and in time --> running --> done | failed (code, detail)
//!   |                                |
//!   |                                +-- its deadline passed --> failed (expired)
//!   +-- deadline passed --> failed (expired)        +-- not known --> failed (unsupported)
//! ```
//!
//! A command is wanted for as long as the desired document names it, and its report is kept for as long. So what is
//! remembered is bounded by the document. Only what has ended is kept over a restart: a running command is one that may
//! safely begin anew (an examination, a measurement, lines of the log, or a renewal whose goal is a state), everything else ends, durably, before it is
//! performed. An end is a [`CommandState`] that every version knows.

use crate::fault::cut;
use flotilla_protocol::ErrorCode;
use flotilla_protocol::message::{
    Command, CommandKind, CommandReport, CommandState, Diagnosis, LogLevel, LogQuery, Measured,
};
use std::collections::BTreeMap;

/// The machine.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Commands {
    ended: Vec<CommandReport>,
    running: BTreeMap<u64, Option<u64>>,
}

/// What happened.
#[derive(Clone, Debug, PartialEq)]
pub enum Event {
    /// These commands are open, according to the desired document.
    Wanted(Vec<Command>),
    /// A command that was begun has ended.
    Ended {
        /// The command.
        id: u64,
        /// How.
        state: CommandState,
        /// What an examination found.
        diagnosis: Option<Diagnosis>,
    },
    /// A command that was begun has ended with these figures.
    Measured {
        /// The command.
        id: u64,
        /// What was measured.
        figures: Measured,
    },
    /// The moment of [`Commands::due_ms`] has come.
    Tick,
}

/// What is to be done, in this order.
#[derive(Clone, Debug, PartialEq)]
pub enum Effect {
    /// Store [`Commands::reports`], and let the cloud know.
    Keep,
    /// Begin this command: [`Event::Ended`] when it has ended.
    Begin(Command),
}

impl Commands {
    /// The machine of a device on whose disk these reports lie.
    pub fn new(ended: Vec<CommandReport>) -> Self {
        Self { ended, running: BTreeMap::new() }
    }

    /// The commands that have ended and are still wanted.
    pub fn reports(&self) -> &[CommandReport] {
        &self.ended
    }

    /// Whether a command has begun and not ended.
    pub fn is_running(&self, id: u64) -> bool {
        self.running.contains_key(&id)
    }

    /// When the first running command expires, in milliseconds since 1970.
    pub fn due_ms(&self) -> Option<u64> {
        self.running.values().flatten().min().copied()
    }

    /// One step, at this moment of the trusted calendar.
    pub fn step(&self, event: Event, calendar_ms: u64) -> (Self, Vec<Effect>) {
        let mut next = self.clone();
        let mut begun = Vec::new();
        match event {
            Event::Wanted(open) => begun = next.wanted(open, calendar_ms),
            Event::Ended { id, state, diagnosis } => {
                if next.running.remove(&id).is_some() {
                    next.end(id, state, diagnosis);
                }
            }
            Event::Measured { id, figures } => {
                if next.running.remove(&id).is_some() {
                    next.end(id, CommandState::Done, None);
                    next.ended
                        .iter_mut()
                        .filter(|report| report.id == id)
                        .for_each(|report| report.measured = Some(figures));
                }
            }
            Event::Tick => {}
        }
        let late = |deadline: &Option<u64>| deadline.is_some_and(|at| calendar_ms >= at);
        let over: Vec<u64> = next.running.iter().filter(|(_, at)| late(at)).map(|(id, _)| *id).collect();
        for id in over {
            next.running.remove(&id);
            next.end(id, expired("it was begun and did not end before its deadline"), None);
        }
        let keep = (next.ended != self.ended).then_some(Effect::Keep);
        let effects = keep.into_iter().chain(begun.into_iter().map(Effect::Begin)).collect();
        (next, effects)
    }

    fn wanted(&mut self, open: Vec<Command>, calendar_ms: u64) -> Vec<Command> {
        let is_open = |id: u64| open.iter().any(|command| command.id == id);
        self.ended.retain(|report| is_open(report.id));
        self.running.retain(|id, _| is_open(*id));
        let mut begun = Vec::new();
        for command in open {
            let known = self.ended.iter().any(|report| report.id == command.id);
            if let Some(deadline_ms) = self.running.get_mut(&command.id) {
                // Whoever asked again gave it more time.
                *deadline_ms = command.deadline_ms;
                continue;
            }
            if known {
                continue;
            }
            if command.deadline_ms.is_some_and(|at| calendar_ms >= at) {
                self.end(command.id, expired("its deadline had passed when it came"), None);
            } else if is_unknown(&command.kind) {
                let detail = "this agent does not know it: a newer one may".to_owned();
                self.end(command.id, CommandState::Failed { code: ErrorCode::Unsupported, detail }, None);
            } else {
                self.running.insert(command.id, command.deadline_ms);
                begun.push(command);
            }
        }
        begun
    }

    /// Findings travel with one report only, which bounds the message.
    fn end(&mut self, id: u64, mut state: CommandState, diagnosis: Option<Diagnosis>) {
        if let CommandState::Failed { detail, .. } = &mut state {
            *detail = cut(std::mem::take(detail));
        }
        if diagnosis.is_some() {
            self.ended.iter_mut().for_each(|earlier| earlier.diagnosis = None);
        }
        self.ended.push(CommandReport { id, state, diagnosis, measured: None });
    }
}

fn is_unknown(kind: &CommandKind) -> bool {
    match kind {
        CommandKind::Unknown => true,
        CommandKind::LogLevel { level } | CommandKind::LogPull(LogQuery { level, .. }) => {
            *level == LogLevel::Unknown
        }
        _ => false,
    }
}

fn expired(detail: &str) -> CommandState {
    CommandState::Failed { code: ErrorCode::Expired, detail: detail.to_owned() }
}

#[cfg(test)]
#[path = "command_tests.rs"]
mod tests;
