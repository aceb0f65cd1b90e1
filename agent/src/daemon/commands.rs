//! Commands of the operator: performs what their machine says.

use super::{Daemon, state};
use crate::logging;
use flotilla_device::command::{Effect, Event};
use flotilla_device::{renewal, session, update};
use flotilla_protocol::ErrorCode;
use flotilla_protocol::message::{Command, CommandKind, CommandState};

impl Daemon {
    /// The desired document is as it is: begins what is new, and forgets what the cloud has taken back.
    pub(super) fn do_commands(&mut self) {
        let open = self.desired.as_ref().map(|desired| desired.commands.clone()).unwrap_or_default();
        self.command(Event::Wanted(open));
    }

    /// One step of the machine.
    pub(super) fn command(&mut self, event: Event) {
        let (next, effects) = self.commands.step(event, self.clock.trusted_ms());
        self.commands = next;
        for effect in effects {
            match effect {
                Effect::Keep => {
                    self.keep_commands();
                    self.session(session::Event::ReportChanged);
                }
                Effect::Begin(command) => self.begin(command),
            }
        }
    }

    /// When the next command is given up, by the clock that only runs.
    pub(super) fn commands_due_ms(&self) -> Option<u64> {
        let left_ms = self.commands.due_ms()?.saturating_sub(self.clock.trusted_ms());
        Some(self.clock.now_ms().saturating_add(left_ms))
    }

    pub(super) fn expire_commands(&mut self) {
        if self.commands.due_ms().is_some_and(|at| self.clock.trusted_ms() >= at) {
            self.command(Event::Tick);
        }
    }

    fn begin(&mut self, Command { id, kind, .. }: Command) {
        tracing::info!(id, ?kind, "command");
        match kind {
            CommandKind::Ping => self.end_command(id, CommandState::Done),
            CommandKind::Diagnostics => self.examine(id),
            CommandKind::RestartModel { model } if self.models.contains_key(&model) => {
                // Noted down first: a command that brings the agent down must not be done for ever.
                self.end_command(id, CommandState::Done);
                self.give(&model, update::Event::Reload);
            }
            CommandKind::RestartModel { model } => {
                let detail = format!("there is no model {model} on this device");
                self.end_command(id, CommandState::Failed { code: ErrorCode::NotFound, detail });
            }
            CommandKind::LogLevel { level } => {
                let state = match logging::set(level) {
                    Ok(()) => CommandState::Done,
                    Err(detail) => CommandState::Failed { code: ErrorCode::Unsupported, detail },
                };
                self.status_stale = true;
                self.end_command(id, state);
            }
            // It changes nothing: it is done when the cloud has the lines.
            CommandKind::LogPull(_) => self.pull_log(),
            CommandKind::RotateCertificate { .. } => {
                self.certificate_commands();
                if self.commands.is_running(id) {
                    self.renewal(renewal::Event::Wanted);
                }
            }
            // The machine has refused it.
            CommandKind::Unknown => {}
        }
    }

    /// Ends the commands to replace a certificate that is not in use any more.
    pub(super) fn certificate_commands(&mut self) {
        let present = &self.identity.present.serial;
        let open = self.desired.iter().flat_map(|desired| &desired.commands);
        let replaced = |command: &&Command| matches!(&command.kind, CommandKind::RotateCertificate { serial } if serial != present);
        let done: Vec<u64> = open.filter(replaced).map(|command| command.id).collect();
        for id in done {
            self.end_command(id, CommandState::Done);
        }
    }

    pub(super) fn end_command(&mut self, id: u64, state: CommandState) {
        self.command(Event::Ended { id, state, diagnosis: None });
    }

    /// Notes the commands down that have ended.
    pub(super) fn keep_commands(&self) {
        if let Err(error) = state::store_commands(&self.options.folder, self.commands.reports()) {
            tracing::error!(%error, "commands cannot be noted down");
        }
    }
}
