//! A candidate before it serves: fetched, verified, probed, and switched to.

use super::event::{Context, Effect, ReleaseFacts};
use super::journal::{FailedRelease, Step};
use super::machine::{PROBE_STARTS, REFILLS, RETRY, Update, Work};
use crate::fault::Fault;
use flotilla_protocol::ErrorCode;
use flotilla_protocol::message::{EventKind, Failure, ProbeReport};

impl Update {
    pub(super) fn on_envelope(&mut self, facts: ReleaseFacts, ctx: &Context, out: &mut Vec<Effect>) {
        let Some(candidate) = &mut self.journal.candidate else { return };
        candidate.counter = facts.counter;
        candidate.promise = facts.promise;
        let (slot, release, step) = (candidate.slot, candidate.release, candidate.step);
        self.expires_at_ms = facts.expires_at_ms;
        self.bytes_total = facts.total_bytes;
        if let Some(fault) = self.refusal(ctx) {
            return self.on_fault(fault, ctx, out);
        }
        if step == Step::Staged {
            self.bytes_done = facts.total_bytes;
            return self.probe(out);
        }
        self.work = Work::Filling;
        out.push(Effect::FetchFiles { ticket: self.ticket, slot, release });
    }

    pub(super) fn verify(&mut self, out: &mut Vec<Effect>) {
        let Some(candidate) = &self.journal.candidate else { return };
        self.bytes_done = self.bytes_total;
        self.hindrance = None;
        self.work = Work::Verifying;
        let (slot, release) = (candidate.slot, candidate.release);
        out.push(Effect::VerifyFiles { ticket: self.ticket, slot, release });
    }

    /// The slot is complete. Counts the start of the probe before it is started.
    pub(super) fn probe(&mut self, out: &mut Vec<Effect>) {
        let Some(candidate) = &mut self.journal.candidate else { return };
        if candidate.step != Step::Staged {
            candidate.step = Step::Staged;
            candidate.starts = 0;
        }
        if candidate.starts >= PROBE_STARTS {
            let detail =
                format!("the device went down {} times while the release was being probed", candidate.starts);
            return self.refuse(ErrorCode::ProbeCrashed, detail, out);
        }
        candidate.starts += 1;
        let (slot, release) = (candidate.slot, candidate.release);
        self.work = Work::Probing;
        out.push(Effect::Probe { ticket: self.ticket, slot, release });
    }

    /// The probe passed: the journal write of this step is the switch.
    pub(super) fn switch(&mut self, report: ProbeReport, ctx: &Context, out: &mut Vec<Effect>) {
        if let Some(fault) = self.refusal(ctx) {
            return self.on_fault(fault, ctx, out);
        }
        let Some(candidate) = &mut self.journal.candidate else { return };
        candidate.step = Step::Trial;
        candidate.starts = 1;
        let (slot, release) = (candidate.slot, candidate.release);
        let detail = format!(
            "{} golden vectors, largest difference {:e}, median {:.3} ms",
            report.vectors, report.max_abs_error, report.p50_ms
        );
        candidate.probe = Some(report);
        self.work = Work::None;
        self.hindrance = None;
        self.emit(EventKind::Probed, Some(release), None, detail, out);
        self.activate(slot, release, out);
    }

    /// Floor and expiry, at the moment of activation.
    pub(super) fn refusal(&self, ctx: &Context) -> Option<Fault> {
        let candidate = self.journal.candidate.as_ref()?;
        if candidate.counter < ctx.floor {
            let detail =
                format!("release counter {} is below the signed floor {}", candidate.counter, ctx.floor);
            return Some(Fault::lasting(ErrorCode::BelowFloor, detail));
        }
        let expires = self.expires_at_ms.filter(|expires| *expires <= ctx.trusted_now_ms)?;
        let detail = format!("the release expired at {expires} ms since 1970; it is {}", ctx.trusted_now_ms);
        Some(Fault::lasting(ErrorCode::Expired, detail))
    }

    pub(super) fn on_fault(&mut self, fault: Fault, ctx: &Context, out: &mut Vec<Effect>) {
        if !fault.transient {
            return self.refuse(fault.code, fault.detail, out);
        }
        let release = self.journal.candidate.as_ref().map(|candidate| candidate.release);
        self.hindrance = release.map(|release| Failure { release, code: fault.code, detail: fault.detail });
        let wait = RETRY.delay_ms(self.retries, ctx.random);
        self.retries += 1;
        self.work = Work::Waiting { due_ms: ctx.now_ms + wait };
    }

    /// The candidate's files changed on the disk after they had been verified: what is wrong is fetched anew, and
    /// everything after that done again. A disk that goes on doing so has the last word.
    pub(super) fn refill(&mut self, fault: Fault, ctx: &Context, out: &mut Vec<Effect>) {
        let Some(candidate) = &mut self.journal.candidate else { return };
        if candidate.refills >= REFILLS {
            return self.fail(fault.code, fault.detail, out);
        }
        candidate.refills += 1;
        candidate.step = Step::Filling;
        candidate.starts = 0;
        candidate.probe = None;
        let release = candidate.release;
        self.emit(EventKind::Repaired, Some(release), Some(fault.code), fault.detail.clone(), out);
        self.on_fault(Fault { transient: true, ..fault }, ctx, out);
    }

    /// Ends a candidate that does not serve; what serves is not touched.
    pub(super) fn refuse(&mut self, code: ErrorCode, detail: String, out: &mut Vec<Effect>) {
        let Some(candidate) = self.journal.candidate.take() else { return };
        self.work = Work::None;
        self.hindrance = None;
        self.emit(EventKind::Failed, Some(candidate.release), Some(code), detail.clone(), out);
        self.journal.failed = Some(FailedRelease {
            release: candidate.release,
            attempt: candidate.attempt,
            code,
            detail,
            again: None,
        });
    }
}
