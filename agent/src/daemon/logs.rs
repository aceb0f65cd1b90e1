//! Lines of the log on their way to the cloud: one command's at a time, a piece at a time. Nothing of it is stored: after a
//! restart the command is begun anew.

use super::{Daemon, News};
use crate::intake::blocking;
use crate::logging;
use crate::slot::disk_fault;
use flotilla_device::Fault;
use flotilla_device::upload::{Next, Outcome, Uploader};
use flotilla_protocol::message::{Command, CommandKind, CommandState, LogOffer, Reply, ReplyBody};
use flotilla_protocol::topic::Up;
use flotilla_protocol::{Digest, ErrorCode, codec};

/// What is under way.
#[derive(Default)]
pub(super) struct LogPull {
    /// The command whose lines are gathered or sent.
    command: Option<u64>,
    lines: Vec<u8>,
    uploader: Uploader<LogOffer>,
    due_ms: Option<u64>,
}

impl LogPull {
    /// When to look again.
    pub(super) fn due_ms(&self) -> Option<u64> {
        self.due_ms
    }

    /// What was said on the connection before may not have come.
    pub(super) fn reconnected(&mut self) {
        self.uploader.reconnected();
        self.due_ms = self.command.map(|_| 0);
    }
}

impl Daemon {
    /// Begins with the oldest command that asks for the log, unless one is under way.
    pub(super) fn pull_log(&mut self) {
        if self.log_pull.command.is_some() {
            return;
        }
        let open = self.desired.iter().flat_map(|desired| &desired.commands);
        let asked = |command: &Command| match command.kind {
            CommandKind::LogPull(query) if self.commands.is_running(command.id) => Some((command.id, query)),
            _ => None,
        };
        let Some((id, query)) = open.filter_map(asked).min_by_key(|(id, _)| *id) else { return };
        self.log_pull.command = Some(id);
        if !logging::is_kept() {
            let detail =
                "the log of this agent is not kept on its disk: see log_bytes in agent.toml".to_owned();
            return self.end_log(CommandState::Failed { code: ErrorCode::Unsupported, detail });
        }
        let (folder, news) = (self.options.folder.clone(), self.news.clone());
        tokio::spawn(async move {
            let lines = blocking(move || logging::pull(&folder, query).map_err(disk_fault)).await;
            // Nobody listens any more only when the agent stops.
            let _ = news.send(News::Log(id, lines)).await;
        });
    }

    /// The lines are gathered.
    pub(super) fn on_log(&mut self, command: u64, lines: Result<(Vec<u8>, u64), Fault>) {
        if self.log_pull.command != Some(command) {
            return;
        }
        match lines {
            Ok((lines, _)) if lines.is_empty() => self.end_log(CommandState::Done),
            Ok((lines, left_out)) => {
                let offer = LogOffer { command, left_out };
                self.log_pull.uploader.begin(offer, Digest::of(&lines), lines.len() as u64);
                self.log_pull.lines = lines;
                self.log_pull.due_ms = Some(0);
            }
            Err(fault) => self.end_log(CommandState::Failed { code: fault.code, detail: fault.detail }),
        }
    }

    /// Sends what is due. A command that is over, whatever the reason, is given up.
    pub(super) fn send_log(&mut self, now_ms: u64) {
        let Some(command) = self.log_pull.command else { return };
        if !self.commands.is_running(command) {
            self.log_pull = LogPull::default();
            return self.pull_log();
        }
        if !self.session.is_up() {
            self.log_pull.due_ms = None;
            return;
        }
        while self.log_pull.due_ms.is_some_and(|at| now_ms >= at) {
            let (id, random) = (self.fetcher.next_id(), rand::random());
            let pull = &mut self.log_pull;
            let due_ms = match pull.uploader.next(id, u64::MAX, now_ms, random) {
                // Still gathered.
                Next::Idle | Next::Spent => None,
                Next::Wait { until_ms } => Some(until_ms),
                Next::Send { mut upload, len, .. } => {
                    let start = upload.offset as usize;
                    upload.data = pull.lines.get(start..start + len).unwrap_or_default().to_vec();
                    if !self.publish(Up::Upload, codec::encode(&*upload)) {
                        self.log_pull.uploader.unsent(now_ms, random);
                    }
                    Some(now_ms)
                }
            };
            self.log_pull.due_ms = due_ms;
        }
    }

    /// Takes an answer of the cloud, if it is about the log.
    pub(super) fn on_log_reply(&mut self, reply: &Reply) -> bool {
        let (now_ms, random) = (self.clock.now_ms(), rand::random());
        let uploader = &mut self.log_pull.uploader;
        let outcome = match &reply.body {
            ReplyBody::Stored { bytes } => uploader.stored(reply.id, *bytes, now_ms, random),
            ReplyBody::Error { code, .. } => uploader.refused(reply.id, *code, now_ms, random),
            _ => Outcome::Foreign,
        };
        match outcome {
            Outcome::Foreign => return false,
            Outcome::Onward => self.log_pull.due_ms = Some(now_ms),
            Outcome::Complete(_) | Outcome::Hopeless(_) => {
                let state = match &reply.body {
                    ReplyBody::Error { code, detail } => {
                        let detail = format!("the cloud does not take the lines: {detail}");
                        CommandState::Failed { code: *code, detail }
                    }
                    _ => CommandState::Done,
                };
                self.end_log(state);
            }
        }
        true
    }

    fn end_log(&mut self, state: CommandState) {
        let ended = std::mem::take(&mut self.log_pull);
        if let Some(command) = ended.command {
            self.end_command(command, state);
        }
        self.pull_log();
    }
}
