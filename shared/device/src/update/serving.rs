//! What serves: loading it, watching a candidate on trial, confirming it or going back.

use super::event::{Context, Effect, Health};
use super::journal::{Candidate, Confirmed, FailedRelease};
use super::machine::{CRASH_RETRY, CRASHES, RETRY, STABLE_MS, Serving, Update, Wanted, Work, is_damage};
use super::watch::{Verdict, Watch};
use crate::fault::Fault;
use flotilla_protocol::message::{EventKind, Failure, SlotName};
use flotilla_protocol::{Digest, ErrorCode};

impl Update {
    pub(super) fn on_loaded(&mut self, ticket: u64, ctx: &Context, out: &mut Vec<Effect>) {
        let Serving::Loading { ticket: expected, slot, release, .. } = self.serving else { return };
        if ticket != expected {
            return;
        }
        self.serving = Serving::On { slot, release, since_ms: ctx.now_ms, watch: Watch::default() };
        self.reverting = false;
        self.trouble = None;
        self.load_retries = 0;
        if self.trial().is_some() {
            self.hindrance = None;
            self.emit(EventKind::Switched, Some(release), None, format!("slot {}", slot.as_str()), out);
        }
    }

    pub(super) fn on_load_failed(&mut self, ticket: u64, fault: Fault, ctx: &Context, out: &mut Vec<Effect>) {
        let Serving::Loading { ticket: expected, slot, release, before } = self.serving else { return };
        if ticket != expected {
            return;
        }
        if self.trial().is_some() {
            return self.on_trial_not_loaded(fault, ctx, out);
        }
        if self.launched && fault.transient {
            self.trouble = Some(Failure { release, code: fault.code, detail: fault.detail });
            return self.load_later(ctx);
        }
        self.reverting = false;
        self.emit(EventKind::Failed, Some(release), Some(fault.code), fault.detail.clone(), out);
        if before.is_some_and(|before| before != slot) {
            // A candidate that was given up must not go on serving only because nothing replaced it.
            out.push(Effect::Deactivate);
        }
        self.trouble = Some(Failure { release, code: fault.code, detail: fault.detail.clone() });
        let damaged = is_damage(&fault) || fault.code == ErrorCode::Malformed;
        if self.journal.previous.is_some() && (damaged || !fault.transient) {
            if !damaged {
                self.note_failed(fault.code, fault.detail.clone());
            }
            self.give_way(fault.code, &fault.detail, out);
        } else if damaged && matches!(self.wanted, Wanted::Release(_)) {
            // Its bytes are gone: what is wanted has to come anew.
            self.serving = Serving::Off;
            self.journal.confirmed = None;
            self.pursue(out);
        } else {
            self.load_later(ctx);
        }
    }

    /// What should serve is tried again after a while.
    pub(super) fn load_later(&mut self, ctx: &Context) {
        let wait = RETRY.delay_ms(self.load_retries, ctx.random);
        self.load_retries += 1;
        self.serving = Serving::Broken { due_ms: ctx.now_ms + wait };
    }

    fn on_trial_not_loaded(&mut self, fault: Fault, ctx: &Context, out: &mut Vec<Effect>) {
        if self.launched && !(fault.transient && is_damage(&fault)) {
            return self.on_not_handed_over(fault, ctx, out);
        }
        if !(fault.transient || is_damage(&fault)) {
            return self.fail(fault.code, fault.detail, out);
        }
        // It passed its probe, so it is the disk that fails. What serves meanwhile is the confirmed release.
        self.refill(fault, ctx, out);
        if self.journal.candidate.is_some() {
            self.serve_confirmed_or_nothing(out);
        }
    }

    /// After a restart with nothing on trial. Each start after a crash is counted before the release is loaded again.
    pub(super) fn start_confirmed(&mut self, crashed: bool, ctx: &Context, out: &mut Vec<Effect>) {
        let Some(confirmed) = &mut self.journal.confirmed else { return };
        confirmed.crashes = if crashed { confirmed.crashes.saturating_add(1) } else { 0 };
        let (crashes, release) = (confirmed.crashes, confirmed.release);
        if crashes < CRASHES {
            return self.serve_confirmed(out);
        }
        let code = ErrorCode::ModelCrashed;
        let detail = format!("the agent went down {crashes} times in a row while the release was at work");
        self.emit(EventKind::Failed, Some(release), Some(code), detail.clone(), out);
        if self.journal.previous.is_some() {
            self.note_failed(code, detail.clone());
            return self.give_way(code, &detail, out);
        }
        // There is nothing else to serve. The cause may lie elsewhere and go, so it is tried again, ever more rarely.
        self.trouble = Some(Failure { release, code, detail });
        let wait = CRASH_RETRY.delay_ms(crashes - CRASHES, ctx.random);
        self.serving = Serving::Broken { due_ms: ctx.now_ms + wait };
    }

    /// The confirmed release gives way to the one before it. What is wanted is brought in anew, unless it failed.
    fn give_way(&mut self, code: ErrorCode, why: &str, out: &mut Vec<Effect>) {
        let release = self.journal.confirmed.as_ref().map(|confirmed| confirmed.release);
        self.journal.confirmed = self.journal.previous.take();
        self.load_retries = 0;
        self.emit(EventKind::Reverted, release, Some(code), why.to_owned(), out);
        self.serve_confirmed(out);
        self.pursue(out);
    }

    /// The confirmed release is not to be taken up again as it is.
    fn note_failed(&mut self, code: ErrorCode, detail: String) {
        let Some(Confirmed { release, attempt, .. }) = self.journal.confirmed else { return };
        self.journal.failed = Some(FailedRelease { release, attempt, code, detail, again: None });
    }

    pub(super) fn crashes(&self) -> u32 {
        self.journal.confirmed.as_ref().map_or(0, |confirmed| confirmed.crashes)
    }

    pub(super) fn reload(&mut self, out: &mut Vec<Effect>) {
        if let Serving::On { slot, release, .. } = self.serving {
            self.activate(slot, release, out);
        } else if matches!(self.serving, Serving::Broken { .. }) {
            self.serve_confirmed(out);
        }
    }

    pub(super) fn tick(&mut self, health: Health, ctx: &Context, out: &mut Vec<Effect>) {
        if matches!(self.work, Work::Waiting { due_ms } if ctx.now_ms >= due_ms) {
            self.resume(out);
        }
        match self.serving {
            Serving::Broken { due_ms } if ctx.now_ms >= due_ms => match self.trial() {
                Some(trial) if self.launched => self.activate(trial.slot, trial.release, out),
                _ => self.serve_confirmed(out),
            },
            Serving::On { .. } if self.trial().is_some() => self.judge(&health, ctx, out),
            Serving::On { since_ms, .. } if ctx.now_ms.saturating_sub(since_ms) >= STABLE_MS => {
                if let Some(confirmed) = &mut self.journal.confirmed {
                    confirmed.crashes = 0;
                }
            }
            _ => {}
        }
    }

    fn judge(&mut self, health: &Health, ctx: &Context, out: &mut Vec<Effect>) {
        let (Serving::On { since_ms, watch, .. }, Some(candidate)) =
            (&mut self.serving, &self.journal.candidate)
        else {
            return;
        };
        let ended = ctx.now_ms.saturating_sub(*since_ms) >= ctx.probation_ms;
        match watch.look(candidate, health, ctx, ended) {
            Verdict::Ill(detail) => self.fail(ErrorCode::ProbationFailed, detail, out),
            Verdict::Well if ended => match health.unready {
                None => self.confirm(out),
                Some(why) => self.wait_until_ready(why, ctx, out),
            },
            Verdict::Well | Verdict::Doubtful => {}
        }
    }

    fn confirm(&mut self, out: &mut Vec<Effect>) {
        let Some(candidate) = self.journal.candidate.take() else { return };
        let Candidate { slot, release, counter, probe, attempt, .. } = candidate;
        let confirmed = Confirmed { slot, release, counter, probe, attempt, crashes: 0 };
        let before = self.journal.confirmed.replace(confirmed);
        self.journal.previous = before.filter(|_| !self.launched);
        self.journal.failed = None;
        self.emit(EventKind::Confirmed, Some(release), None, format!("slot {}", slot.as_str()), out);
        // Another release may be wanted by now.
        self.pursue(out);
    }

    /// Ends a candidate, on trial or before, as failed.
    pub(super) fn fail(&mut self, code: ErrorCode, detail: String, out: &mut Vec<Effect>) {
        if self.trial().is_none() {
            return self.refuse(code, detail, out);
        }
        self.leave_trial(&detail, Some(code), out);
        // While it was on trial another release may have become wanted.
        self.pursue(out);
    }

    /// Ends a trial: back to the confirmed release, or to serving nothing if there never was one.
    pub(super) fn leave_trial(&mut self, why: &str, failure: Option<ErrorCode>, out: &mut Vec<Effect>) {
        let Some(Candidate { release, attempt, .. }) = self.journal.candidate.take() else { return };
        if let Some(code) = failure {
            let detail = why.to_owned();
            self.emit(EventKind::Failed, Some(release), failure, detail.clone(), out);
            self.journal.failed = Some(FailedRelease { release, attempt, code, detail, again: None });
        }
        self.emit(EventKind::Reverted, Some(release), failure, why.to_owned(), out);
        self.reverting = self.journal.confirmed.is_some();
        self.serve_confirmed_or_nothing(out);
    }

    fn serve_confirmed_or_nothing(&mut self, out: &mut Vec<Effect>) {
        if self.journal.confirmed.is_some() {
            self.serve_confirmed(out);
        } else {
            self.serving = Serving::Off;
            out.push(Effect::Deactivate);
        }
    }

    pub(super) fn serve_confirmed(&mut self, out: &mut Vec<Effect>) {
        if let Some(confirmed) = &self.journal.confirmed {
            let (slot, release) = (confirmed.slot, confirmed.release);
            self.activate(slot, release, out);
        }
    }

    pub(super) fn activate(&mut self, slot: SlotName, release: Digest, out: &mut Vec<Effect>) {
        let ticket = self.next_ticket();
        let before = self.serving_slot();
        self.serving = Serving::Loading { ticket, slot, release, before };
        out.push(Effect::Activate { ticket, slot, release });
    }
}
