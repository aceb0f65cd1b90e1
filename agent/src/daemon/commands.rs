//! Commands of the operator: performs what their machine says.

use super::{Daemon, state};
use crate::logging;
use flotilla_device::command::{Commands, Effect, Event};
use flotilla_device::{renewal, session, update};
use flotilla_protocol::ErrorCode;
use flotilla_protocol::message::{Command, CommandKind, CommandState};

/// After this time a step that could not be noted down is tried again.
const RETRY_MS: u64 = 5_000;
/// Each try after which that time doubles: up to an hour and a half.
const RETRIES: u32 = 10;

impl Daemon {
    /// The desired document is as it is: begins what is new, and forgets what the cloud has taken back.
    pub(super) fn do_commands(&mut self) {
        let open = self.desired.as_ref().map(|desired| desired.commands.clone()).unwrap_or_default();
        self.command(Event::Wanted(open));
    }

    /// One step of the machine, by the cloud's time: before that is known no command is begun, and none is late. If what
    /// has ended cannot be noted down the step did not happen; all that has not ended is begun anew later, as after a
    /// restart. Says whether it happened.
    pub(super) fn command(&mut self, event: Event) -> bool {
        let Some(present_ms) = self.clock.present_ms() else { return false };
        let (next, effects) = self.commands.step(event, present_ms);
        if effects.contains(&Effect::Keep)
            && let Err(error) = state::store_commands(&self.options.folder, next.reports())
        {
            tracing::error!(%error, "commands cannot be noted down");
            self.commands = Commands::new(self.commands.reports().to_vec());
            // A full disk stays full for a while, and what is begun anew may cost traffic.
            self.commands_retry_ms = Some(self.clock.now_ms() + (RETRY_MS << self.commands_tries));
            self.commands_tries = (self.commands_tries + 1).min(RETRIES);
            return false;
        }
        if effects.contains(&Effect::Keep) {
            self.commands_tries = 0;
        }
        self.commands = next;
        self.drop_measurement();
        for effect in effects {
            match effect {
                Effect::Keep => self.session(session::Event::ReportChanged),
                // An end before it may not have been noted down: then all begin anew later.
                Effect::Begin(command) if self.commands.is_running(command.id) => self.begin(command),
                Effect::Begin(_) => {}
            }
        }
        true
    }

    /// When commands are looked at next, by the clock that only runs.
    pub(super) fn commands_due_ms(&self) -> Option<u64> {
        let late = || {
            let left_ms = self.commands.due_ms()?.saturating_sub(self.clock.present_ms()?);
            Some(self.clock.now_ms().saturating_add(left_ms))
        };
        self.commands_retry_ms.into_iter().chain(late()).min()
    }

    pub(super) fn look_at_commands(&mut self, now_ms: u64) {
        if self.commands_retry_ms.take_if(|at_ms| now_ms >= *at_ms).is_some() {
            self.do_commands();
        }
        let present_ms = self.clock.present_ms();
        if self.commands.due_ms().is_some_and(|at| present_ms.is_some_and(|present| present >= at)) {
            self.command(Event::Tick);
        }
    }

    fn begin(&mut self, Command { id, kind, .. }: Command) {
        tracing::info!(id, ?kind, "command");
        match kind {
            CommandKind::Ping => {
                self.end_command(id, CommandState::Done);
            }
            CommandKind::Diagnostics => self.examine(id),
            CommandKind::RestartModel { model } if self.models.contains_key(&model) => {
                // Noted down first: a command that brings the agent down must not be done for ever.
                if self.end_command(id, CommandState::Done) {
                    self.give(&model, update::Event::Reload);
                }
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
            CommandKind::Measure(wanted) => self.begin_measurement(id, wanted),
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

    /// Ends a command that has begun. Says whether that is noted down.
    pub(super) fn end_command(&mut self, id: u64, state: CommandState) -> bool {
        self.commands.is_running(id) && self.command(Event::Ended { id, state, diagnosis: None })
    }
}
