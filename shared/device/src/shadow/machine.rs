//! The machine of a shadow: `step(state, event, context) -> (state, effects)`.

use super::event::{Context, Effect, End, Event};
use super::journal::{Held, ShadowJournal, ShadowStep};
use crate::backoff::Backoff;
use crate::fault::Fault;
use crate::update::{self, FailedRelease, PROBE_STARTS, REFILLS, ReleaseFacts, is_damage, is_lost};
use flotilla_protocol::message::{EventKind, EventRecord, Failure, ProbeReport, SHARE_ALL, ShadowRelease};
use flotilla_protocol::{Digest, ErrorCode, ModelName};

/// Times that a shadow may crash or hang before it is given up.
pub const CRASHES: u32 = 2;
/// Times that the device may go down soon after a shadow was started, before that is given up.
pub const STARTS: u32 = 5;
/// A device that stays up for so long does not go down because of the shadow that was started.
pub const SETTLED_MS: u64 = 60_000;

const RETRY: Backoff = Backoff { base_ms: 1_000, cap_ms: 300_000 };

#[derive(Clone, Debug, PartialEq)]
pub(super) enum Wanted {
    /// No desired document is known yet.
    Unknown,
    /// None is to run.
    Nothing,
    /// This release is to run.
    Release(ShadowRelease),
}

/// What is being done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Work {
    None,
    Fetching,
    Filling,
    Verifying,
    Probing,
    Waiting {
        due_ms: u64,
    },
    /// Whole and tried; there is nothing to run beside.
    Ready,
    Starting {
        against: Digest,
        share: u32,
    },
    Running {
        against: Digest,
        share: u32,
        since_ms: u64,
    },
}

/// The machine of one model's shadow.
#[derive(Clone, Debug, PartialEq)]
pub struct Shadow {
    pub(super) model: ModelName,
    pub(super) journal: ShadowJournal,
    pub(super) wanted: Wanted,
    pub(super) work: Work,
    /// The confirmed release is the one that was wanted as a shadow.
    pub(super) promoted: bool,
    pub(super) bytes_done: u64,
    pub(super) bytes_total: u64,
    pub(super) bytes_reused: u64,
    /// What holds it up.
    pub(super) hindrance: Option<Failure>,
    /// Its place was cleared, and nothing came into it since.
    swept: bool,
    expires_at_ms: Option<u64>,
    ticket: u64,
    retries: u32,
}

impl Shadow {
    /// The machine of `model`'s shadow as its journal left it.
    pub fn new(model: ModelName, journal: ShadowJournal) -> Self {
        Self {
            model,
            journal,
            wanted: Wanted::Unknown,
            work: Work::None,
            promoted: false,
            bytes_done: 0,
            bytes_total: 0,
            bytes_reused: 0,
            hindrance: None,
            swept: false,
            expires_at_ms: None,
            ticket: 0,
            retries: 0,
        }
    }

    /// The persistent part.
    pub fn journal(&self) -> &ShadowJournal {
        &self.journal
    }

    /// Whether nothing is on the device, wanted, or being done.
    pub fn is_gone(&self) -> bool {
        self.journal.is_empty() && self.wanted == Wanted::Nothing && self.swept
    }

    /// One step. A journal write, if any, is the first effect.
    pub fn step(&self, event: Event, ctx: &Context) -> (Self, Vec<Effect>) {
        let mut next = self.clone();
        let mut out = Vec::new();
        next.handle(event, ctx, &mut out);
        if next.journal != self.journal {
            out.insert(0, Effect::PersistJournal(next.journal.clone()));
        }
        if next.report() != self.report() {
            out.push(Effect::Report);
        }
        if let Some(at_ms) = next.due_ms() {
            out.push(Effect::ScheduleTick { at_ms });
        }
        (next, out)
    }

    fn handle(&mut self, event: Event, ctx: &Context, out: &mut Vec<Effect>) {
        match event {
            Event::Desired(wanted) => {
                self.wanted = wanted.map_or(Wanted::Nothing, Wanted::Release);
                self.pursue(ctx, out);
            }
            Event::Model => self.pursue(ctx, out),
            Event::Intake(event) => self.on_intake(event, ctx, out),
            Event::Runs { ticket } => {
                if let Work::Starting { against, share } = self.work
                    && ticket == self.ticket
                {
                    self.work = Work::Running { against, share, since_ms: ctx.now_ms };
                    self.hindrance = None;
                    self.retries = 0;
                }
            }
            Event::Ended { ticket, end } if ticket == self.ticket && self.is_up() => {
                self.on_end(end, ctx, out)
            }
            Event::Ended { .. } => {}
            Event::Tick => self.tick(ctx, out),
        }
    }

    fn on_intake(&mut self, event: update::Event, ctx: &Context, out: &mut Vec<Effect>) {
        use update::Event as E;
        match event {
            E::EnvelopeFetched { ticket, result } if self.awaits(ticket, Work::Fetching) => match result {
                Ok(facts) => self.on_envelope(facts, ctx, out),
                Err(fault) => self.on_fault(fault, ctx, out),
            },
            E::FileProgress { ticket, bytes_done } if self.awaits(ticket, Work::Filling) => {
                if bytes_done > self.bytes_done {
                    self.retries = 0;
                    self.hindrance = None;
                }
                self.bytes_done = bytes_done.min(self.bytes_total);
            }
            E::FilesReused { ticket, bytes } if self.awaits(ticket, Work::Filling) => {
                self.bytes_reused = self.bytes_reused.saturating_add(bytes).min(self.bytes_total);
            }
            // What a patch saves was on the device already, in another form.
            E::FilesRebuilt { ticket, bytes, patch_bytes } if self.awaits(ticket, Work::Filling) => {
                let saved = bytes.saturating_sub(patch_bytes);
                self.bytes_reused = self.bytes_reused.saturating_add(saved).min(self.bytes_total);
            }
            E::PatchFailed { ticket, fault } if self.awaits(ticket, Work::Filling) => {
                if let Some(held) = &self.journal.held {
                    self.emit(EventKind::Unpatched, held.release, fault.code, fault.detail, out);
                }
            }
            E::FilesComplete { ticket, result } if self.awaits(ticket, Work::Filling) => match result {
                Ok(()) => self.verify(out),
                Err(fault) if is_lost(&fault) => self.refill(fault, ctx, out),
                Err(fault) => self.on_fault(fault, ctx, out),
            },
            E::FilesVerified { ticket, result } if self.awaits(ticket, Work::Verifying) => match result {
                Ok(()) => self.probe(out),
                Err(fault) if is_lost(&fault) => self.refill(fault, ctx, out),
                Err(fault) => self.on_fault(fault, ctx, out),
            },
            E::ProbeDone { ticket, result } if self.awaits(ticket, Work::Probing) => match result {
                Ok(report) => self.passed(&report, ctx, out),
                Err(fault) if is_damage(&fault) => self.refill(fault, ctx, out),
                Err(fault) => self.on_fault(fault, ctx, out),
            },
            // Answers to work that was given up in the meantime, and what only updates know.
            _ => {}
        }
    }

    // === what is wanted ===

    /// Brings what is being done in line with what is wanted and what the model does.
    fn pursue(&mut self, ctx: &Context, out: &mut Vec<Effect>) {
        let wanted = match &self.wanted {
            Wanted::Unknown => return,
            Wanted::Nothing => return self.remove(ctx, out),
            Wanted::Release(wanted) => wanted.clone(),
        };
        if let Some(failed) = &self.journal.failed
            && (failed.release != wanted.release || wanted.attempt > failed.attempt)
        {
            self.journal.failed = None;
        }
        if ctx.confirmed == Some(wanted.release) {
            return self.promote(out);
        }
        self.promoted = false;
        if let Some(held) = &mut self.journal.held {
            if held.release == wanted.release {
                if wanted.attempt > held.attempt {
                    (held.attempt, held.crashes) = (wanted.attempt, 0);
                }
                return self.go_on(&wanted, ctx, out);
            }
            self.leave(out);
            self.journal.held = None;
        }
        if self.journal.failed.is_some() {
            return self.sweep(out);
        }
        if ctx.confirmed.is_some() {
            self.journal.held = Some(Held::new(wanted.release, wanted.attempt));
            (self.bytes_reused, self.retries, self.hindrance) = (0, 0, None);
            self.swept = false;
            self.resume(out);
        }
    }

    /// The wanted release is held: it runs if it can, and not otherwise.
    fn go_on(&mut self, wanted: &ShadowRelease, ctx: &Context, out: &mut Vec<Effect>) {
        let share = wanted.share_per_mille.min(SHARE_ALL);
        let beside = ctx.beside.map(|beside| beside.release);
        match &mut self.work {
            Work::None => self.resume(out),
            Work::Ready => self.start(ctx, out),
            Work::Starting { against, share: now } | Work::Running { against, share: now, .. } => {
                if beside != Some(*against) {
                    self.halt(out);
                    self.work = Work::Ready;
                    return self.start(ctx, out);
                }
                if *now != share {
                    *now = share;
                    out.push(Effect::Share { share_per_mille: share });
                }
            }
            Work::Fetching | Work::Filling | Work::Verifying | Work::Probing | Work::Waiting { .. } => {}
        }
    }

    fn remove(&mut self, ctx: &Context, out: &mut Vec<Effect>) {
        self.promoted = false;
        self.journal.failed = None;
        let held = self.journal.held.as_ref().map(|held| held.release);
        // An update to it takes what is here, and is quick; once it has ended the files go.
        if held.is_some() && held == ctx.coming && held != ctx.confirmed {
            return self.leave(out);
        }
        self.drop_held(out);
    }

    /// It is the confirmed release by now.
    fn promote(&mut self, out: &mut Vec<Effect>) {
        self.promoted = true;
        self.journal.failed = None;
        self.drop_held(out);
    }

    fn drop_held(&mut self, out: &mut Vec<Effect>) {
        self.leave(out);
        self.journal.held = None;
        self.sweep(out);
    }

    /// A kill may have come between a journal write and the clearing, so an empty journal alone does not mean an empty
    /// place.
    fn sweep(&mut self, out: &mut Vec<Effect>) {
        if !self.swept {
            self.swept = true;
            out.push(Effect::Clear);
        }
    }

    /// Gives up whatever is being done.
    fn leave(&mut self, out: &mut Vec<Effect>) {
        self.halt(out);
        if self.work != Work::None {
            out.push(Effect::Cancel);
        }
        self.work = Work::None;
        self.hindrance = None;
        (self.bytes_done, self.bytes_total, self.bytes_reused) = (0, 0, 0);
        self.ticket += 1;
    }

    fn is_up(&self) -> bool {
        matches!(self.work, Work::Starting { .. } | Work::Running { .. })
    }

    /// Stops what runs, in good order: the device did not go down meanwhile.
    fn halt(&mut self, out: &mut Vec<Effect>) {
        if self.is_up() {
            self.settle();
            self.ticket += 1;
            out.push(Effect::Stop);
        }
    }

    fn settle(&mut self) {
        if let Some(held) = &mut self.journal.held {
            held.starts = 0;
        }
    }

    // === the road ===

    /// Takes the held release up. Its envelope is examined anew each time: floor, expiry and trust may have moved.
    fn resume(&mut self, out: &mut Vec<Effect>) {
        let (Some(held), Wanted::Release(wanted)) = (&self.journal.held, &self.wanted) else {
            self.work = Work::None;
            return;
        };
        let (release, bytes) = (held.release, wanted.envelope_bytes);
        (self.bytes_done, self.bytes_total) = (0, 0);
        self.ticket += 1;
        self.work = Work::Fetching;
        out.push(Effect::FetchRelease { ticket: self.ticket, release, bytes });
    }

    fn on_envelope(&mut self, facts: ReleaseFacts, ctx: &Context, out: &mut Vec<Effect>) {
        let Some(held) = &mut self.journal.held else { return };
        held.counter = facts.counter;
        held.promise = facts.promise;
        let (release, step) = (held.release, held.step);
        self.expires_at_ms = facts.expires_at_ms;
        self.bytes_total = facts.total_bytes;
        if let Some(fault) = self.refusal(ctx) {
            return self.on_fault(fault, ctx, out);
        }
        match step {
            ShadowStep::Filling => {
                self.work = Work::Filling;
                out.push(Effect::FetchFiles { ticket: self.ticket, release });
            }
            ShadowStep::Staged => {
                self.bytes_done = self.bytes_total;
                self.probe(out);
            }
            ShadowStep::Passed => {
                self.bytes_done = self.bytes_total;
                self.work = Work::Ready;
                self.start(ctx, out);
            }
        }
    }

    fn verify(&mut self, out: &mut Vec<Effect>) {
        let Some(held) = &self.journal.held else { return };
        self.bytes_done = self.bytes_total;
        self.hindrance = None;
        self.work = Work::Verifying;
        out.push(Effect::VerifyFiles { ticket: self.ticket, release: held.release });
    }

    /// Complete. Counts the start of the probe before it is started.
    fn probe(&mut self, out: &mut Vec<Effect>) {
        let Some(held) = &mut self.journal.held else { return };
        if held.step != ShadowStep::Staged {
            held.step = ShadowStep::Staged;
            held.starts = 0;
        }
        if held.starts >= PROBE_STARTS {
            let detail =
                format!("the device went down {} times while the release was being probed", held.starts);
            return self.refuse(ErrorCode::ProbeCrashed, detail, out);
        }
        held.starts += 1;
        self.work = Work::Probing;
        out.push(Effect::Probe { ticket: self.ticket, release: held.release });
    }

    fn passed(&mut self, report: &ProbeReport, ctx: &Context, out: &mut Vec<Effect>) {
        let Some(held) = &mut self.journal.held else { return };
        (held.step, held.starts, held.peak_bytes) = (ShadowStep::Passed, 0, report.peak_rss_bytes);
        // A float to an integer saturates, and what is no number is 0.
        held.p95_us = (report.p95_ms * 1e3).ceil() as u64;
        self.hindrance = None;
        self.work = Work::Ready;
        self.start(ctx, out);
    }

    /// Lets it run beside what is confirmed, if that rests. Counted before it is started.
    fn start(&mut self, ctx: &Context, out: &mut Vec<Effect>) {
        let (Some(beside), Wanted::Release(wanted)) = (ctx.beside, &self.wanted) else { return };
        // That the model has come to it may not have been noted down yet, if the disk took nothing then.
        if beside.release == wanted.release {
            return self.promote(out);
        }
        let share = wanted.share_per_mille.min(SHARE_ALL);
        if let Some(fault) = self.refusal(ctx) {
            return self.on_fault(fault, ctx, out);
        }
        let Some(held) = &mut self.journal.held else { return };
        if held.starts >= STARTS {
            let detail =
                format!("the device went down {} times soon after the shadow was started", held.starts);
            return self.refuse(ErrorCode::ModelCrashed, detail, out);
        }
        held.starts += 1;
        let (release, against) = (held.release, beside.release);
        self.ticket += 1;
        self.work = Work::Starting { against, share };
        out.push(Effect::Start { ticket: self.ticket, release, against, share_per_mille: share });
    }

    /// Floor and expiry, and whether both releases fit.
    fn refusal(&self, ctx: &Context) -> Option<Fault> {
        let held = self.journal.held.as_ref()?;
        if held.counter < ctx.floor {
            let detail = format!("release counter {} is below the signed floor {}", held.counter, ctx.floor);
            return Some(Fault::lasting(ErrorCode::BelowFloor, detail));
        }
        if let Some(expires) = self.expires_at_ms.filter(|expires| *expires <= ctx.trusted_now_ms) {
            let detail =
                format!("the release expired at {expires} ms since 1970; it is {}", ctx.trusted_now_ms);
            return Some(Fault::lasting(ErrorCode::Expired, detail));
        }
        let (own, other) = (held.memory_bytes(), ctx.beside.map_or(0, |beside| beside.memory_bytes));
        if ctx.memory_bytes > 0 && own > 0 && own.saturating_add(other) > ctx.memory_bytes {
            let detail = format!(
                "the shadow takes {own} bytes of memory and the confirmed release {other}; the board has {} for a model",
                ctx.memory_bytes
            );
            return Some(Fault::lasting(ErrorCode::NoRoom, detail));
        }
        None
    }

    // === what goes wrong ===

    fn on_end(&mut self, end: End, ctx: &Context, out: &mut Vec<Effect>) {
        // It is gone already: this takes it from where inputs come.
        out.push(Effect::Stop);
        self.settle();
        match end {
            End::Refused(fault) if is_damage(&fault) => self.refill(fault, ctx, out),
            End::Refused(fault) => self.on_fault(fault, ctx, out),
            End::Crashed(fault) => {
                let Some(held) = &mut self.journal.held else { return };
                held.crashes += 1;
                if held.crashes >= CRASHES {
                    let detail = format!("it failed {} times while it ran: {}", held.crashes, fault.detail);
                    return self.refuse(fault.code, crate::fault::cut(detail), out);
                }
                self.on_fault(Fault { transient: true, ..fault }, ctx, out);
            }
        }
    }

    fn on_fault(&mut self, fault: Fault, ctx: &Context, out: &mut Vec<Effect>) {
        if !fault.transient {
            return self.refuse(fault.code, fault.detail, out);
        }
        let release = self.journal.held.as_ref().map(|held| held.release);
        self.hindrance = release.map(|release| Failure { release, code: fault.code, detail: fault.detail });
        let wait = RETRY.delay_ms(self.retries, ctx.random);
        self.retries += 1;
        self.work = Work::Waiting { due_ms: ctx.now_ms + wait };
    }

    /// Its files changed on the disk after they had been verified: what is wrong is fetched anew. A disk that goes on
    /// doing so has the last word.
    fn refill(&mut self, fault: Fault, ctx: &Context, out: &mut Vec<Effect>) {
        let Some(held) = &mut self.journal.held else { return };
        if held.refills >= REFILLS {
            return self.refuse(fault.code, fault.detail, out);
        }
        held.refills += 1;
        (held.step, held.starts) = (ShadowStep::Filling, 0);
        let release = held.release;
        self.emit(EventKind::Repaired, release, fault.code, fault.detail.clone(), out);
        self.on_fault(Fault { transient: true, ..fault }, ctx, out);
    }

    /// Gives it up, and frees its place.
    fn refuse(&mut self, code: ErrorCode, detail: String, out: &mut Vec<Effect>) {
        let Some(held) = self.journal.held.take() else { return };
        self.work = Work::None;
        self.hindrance = None;
        self.ticket += 1;
        self.emit(EventKind::Failed, held.release, code, format!("shadow: {detail}"), out);
        let (release, attempt) = (held.release, held.attempt);
        self.journal.failed = Some(FailedRelease { release, attempt, code, detail, again: None });
        self.sweep(out);
    }

    fn emit(&self, kind: EventKind, release: Digest, code: ErrorCode, detail: String, out: &mut Vec<Effect>) {
        let (model, release, code) = (Some(self.model.clone()), Some(release), Some(code));
        let detail = crate::fault::cut(detail);
        out.push(Effect::EmitEvent(EventRecord { kind, model, release, code, detail }));
    }

    // === time ===

    fn tick(&mut self, ctx: &Context, out: &mut Vec<Effect>) {
        match self.work {
            Work::Waiting { due_ms } if ctx.now_ms >= due_ms => self.resume(out),
            Work::Running { since_ms, .. } if ctx.now_ms.saturating_sub(since_ms) >= SETTLED_MS => {
                self.settle()
            }
            _ => {}
        }
    }

    fn due_ms(&self) -> Option<u64> {
        let counted = self.journal.held.as_ref().is_some_and(|held| held.starts > 0);
        match self.work {
            Work::Waiting { due_ms } => Some(due_ms),
            Work::Running { since_ms, .. } if counted => Some(since_ms.saturating_add(SETTLED_MS)),
            _ => None,
        }
    }

    fn awaits(&self, ticket: u64, work: Work) -> bool {
        self.ticket == ticket && self.work == work
    }
}
