//! What serves: loading it, watching a candidate on trial, confirming it or going back.

use super::event::{Context, Effect, Health};
use super::journal::{Candidate, Confirmed, FailedRelease};
use super::machine::{MIN_PREDICTIONS, RETRY, Serving, Update, Wanted, Work};
use crate::fault::Fault;
use flotilla_protocol::message::{EventKind, Failure, SlotName};
use flotilla_protocol::{Digest, ErrorCode};

impl Update {
    pub(super) fn on_loaded(&mut self, ticket: u64, ctx: &Context, out: &mut Vec<Effect>) {
        let Serving::Loading { ticket: expected, slot, release, .. } = self.serving else { return };
        if ticket != expected {
            return;
        }
        self.serving = Serving::On { slot, release, since_ms: ctx.now_ms };
        self.reverting = false;
        self.trouble = None;
        self.load_retries = 0;
        if self.trial().is_some() {
            self.emit(EventKind::Switched, Some(release), None, format!("slot {}", slot.as_str()), out);
        }
    }

    pub(super) fn on_load_failed(&mut self, ticket: u64, fault: Fault, ctx: &Context, out: &mut Vec<Effect>) {
        let Serving::Loading { ticket: expected, slot, release, before } = self.serving else { return };
        if ticket != expected {
            return;
        }
        if self.trial().is_some() {
            return self.fail(fault.code, fault.detail, out);
        }
        self.reverting = false;
        self.emit(EventKind::Failed, Some(release), Some(fault.code), fault.detail.clone(), out);
        if before.is_some_and(|before| before != slot) {
            // A candidate that was given up must not go on serving only because nothing replaced it.
            out.push(Effect::Deactivate);
        }
        let damaged = matches!(
            fault.code,
            ErrorCode::DigestMismatch
                | ErrorCode::StorageCorrupt
                | ErrorCode::NotFound
                | ErrorCode::Malformed
        );
        self.trouble = Some(Failure { release, code: fault.code, detail: fault.detail });
        if damaged && matches!(self.wanted, Wanted::Release(_)) {
            // Its bytes are gone: what is wanted has to come anew.
            self.serving = Serving::Off;
            self.journal.confirmed = None;
            self.pursue(out);
        } else {
            let wait = RETRY.delay_ms(self.load_retries, ctx.random);
            self.load_retries += 1;
            self.serving = Serving::Broken { due_ms: ctx.now_ms + wait };
        }
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
            Serving::Broken { due_ms } if ctx.now_ms >= due_ms => self.serve_confirmed(out),
            Serving::On { since_ms, .. } if self.trial().is_some() => self.judge(health, since_ms, ctx, out),
            _ => {}
        }
    }

    pub(super) fn judge(&mut self, health: Health, since_ms: u64, ctx: &Context, out: &mut Vec<Effect>) {
        let total = health.predictions.saturating_add(health.failures);
        let over = u128::from(health.failures) * 1_000
            > u128::from(total) * u128::from(ctx.probation_error_per_mille);
        let ended = ctx.now_ms.saturating_sub(since_ms) >= ctx.probation_ms;
        if over && (ended || total >= MIN_PREDICTIONS) {
            let detail = format!("{} of {total} predictions failed on probation", health.failures);
            self.fail(ErrorCode::ProbationFailed, detail, out);
        } else if ended {
            self.confirm(out);
        }
    }

    pub(super) fn confirm(&mut self, out: &mut Vec<Effect>) {
        let Some(candidate) = self.journal.candidate.take() else { return };
        let Candidate { slot, release, counter, probe, .. } = candidate;
        self.journal.confirmed = Some(Confirmed { slot, release, counter, probe });
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
            self.journal.failed = Some(FailedRelease { release, attempt, code, detail });
        }
        self.emit(EventKind::Reverted, Some(release), failure, why.to_owned(), out);
        if self.journal.confirmed.is_some() {
            self.reverting = true;
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
