//! What is different for the agent's own release: a launcher stands behind it, and it needs a session.

use super::event::{Context, Effect, Unready};
use super::machine::{SESSION_TRIES, Serving, Update, Wanted};
use crate::fault::Fault;
use flotilla_protocol::ErrorCode;
use flotilla_protocol::message::Failure;

/// An agent that is not healthy at the end of its probation may become so within this time.
const READY_MS: u64 = 60_000;

impl Unready {
    /// What the link says of an agent: whether it has a session, what its last try ended of, and whether the agent before
    /// it had a session. An agent that was handed over without one need not have one as long as nobody refuses it.
    pub fn of_link(up: bool, problem: Option<ErrorCode>, online: bool) -> Option<Self> {
        match problem {
            _ if up => None,
            // What any agent would meet.
            Some(ErrorCode::Network | ErrorCode::Timeout | ErrorCode::Busy) if !online => None,
            None | Some(ErrorCode::Network | ErrorCode::Timeout | ErrorCode::Busy) => Some(Unready::Offline),
            Some(_) => Some(Unready::Refused),
        }
    }
}

impl Update {
    /// The release on trial could not be handed over to the launcher, or cannot be called healthy.
    pub(super) fn on_not_handed_over(&mut self, fault: Fault, ctx: &Context, out: &mut Vec<Effect>) {
        match fault {
            Fault { transient: true, code: ErrorCode::AgentUnhealthy, detail } => {
                self.fail_offline(detail, out)
            }
            // A fault of the moment says nothing about the release, however long it lasts.
            Fault { transient: true, code, detail } => {
                let release = self.trial().map(|trial| trial.release);
                self.hindrance = release.map(|release| Failure { release, code, detail });
                self.load_later(ctx);
            }
            Fault { code, detail, .. } => self.fail(code, detail, out),
        }
    }

    /// Probation is over and nothing speaks against the agent, but it is not healthy just now.
    pub(super) fn wait_until_ready(&mut self, why: Unready, ctx: &Context, out: &mut Vec<Effect>) {
        let Serving::On { since_ms, .. } = self.serving else { return };
        if ctx.now_ms.saturating_sub(since_ms) < ctx.probation_ms.saturating_add(READY_MS) {
            return;
        }
        let detail = format!("the new agent is not healthy at the end of its probation: {}", why.as_str());
        match why {
            Unready::Offline => self.fail_offline(detail, out),
            Unready::Silent | Unready::Refused => self.fail(ErrorCode::AgentUnhealthy, detail, out),
        }
    }

    /// The agent got no session where the one before it had one. Whether that is its own fault or the network's nobody
    /// can tell, so it goes back, and is tried again a few times once the agent before it has a session again.
    fn fail_offline(&mut self, detail: String, out: &mut Vec<Effect>) {
        let tries = self.journal.candidate.as_ref().map_or(0, |candidate| candidate.again);
        self.fail(ErrorCode::AgentUnhealthy, detail, out);
        if let Some(failed) = self.journal.failed.as_mut().filter(|_| tries < SESSION_TRIES) {
            failed.again = Some(tries);
        }
    }

    /// There is a session.
    pub(super) fn online(&mut self, out: &mut Vec<Effect>) {
        let (Some(failed), Wanted::Release(wanted)) = (&self.journal.failed, self.wanted.clone()) else {
            return;
        };
        let Some(tries) = failed.again.filter(|_| failed.release == wanted.release) else { return };
        if self.journal.candidate.is_some() {
            return;
        }
        self.journal.failed = None;
        self.begin(&wanted, out);
        if let Some(candidate) = &mut self.journal.candidate {
            candidate.again = tries + 1;
        }
    }

    /// No release is wanted any more: what is on its way in is given up, and what is confirmed stays. An agent is never
    /// removed.
    pub(super) fn withdraw(&mut self, out: &mut Vec<Effect>) {
        self.journal.failed = None;
        if self.trial().is_some() {
            self.leave_trial("no release is wanted any more", None, out);
        } else if self.journal.candidate.is_some() {
            self.drop_candidate(out);
        }
    }
}
