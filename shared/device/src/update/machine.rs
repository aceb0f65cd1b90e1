//! The update machine: `step(state, event, context) -> (state, effects)`.

use super::event::{Context, Effect, Event};
use super::journal::{Candidate, Step, UpdateJournal};
use super::watch::Watch;
use crate::backoff::Backoff;
use crate::fault::Fault;
use flotilla_protocol::manifest::agent_name;
use flotilla_protocol::message::{DesiredModel, EventKind, EventRecord, Failure, SlotName};
use flotilla_protocol::{Digest, ErrorCode, ModelName};

/// Times that a probe of one candidate may be started before it is taken to be what kills the device.
pub const PROBE_STARTS: u32 = 3;
/// Times that a candidate on probation may be loaded, the first included, before it is reverted.
pub const TRIAL_STARTS: u32 = 3;
/// Predictions on probation before the share of failures, or latency, can end it early.
pub const MIN_PREDICTIONS: u64 = 20;
/// Times in a row that the agent may go down while a confirmed release is at work, before that gives way.
pub const CRASHES: u32 = 5;
/// A release that serves for so long is not one that takes the agent down.
pub const STABLE_MS: u64 = 600_000;
/// Times that a candidate whose files change on the disk is filled anew.
pub const REFILLS: u32 = 5;
/// Times that a release of the agent which had no session is taken up again.
pub const SESSION_TRIES: u32 = 3;

pub(super) const RETRY: Backoff = Backoff { base_ms: 1_000, cap_ms: 300_000 };
/// How long a release that takes the agent down, with nothing to give way to, is left alone.
pub(super) const CRASH_RETRY: Backoff = Backoff { base_ms: 60_000, cap_ms: 3_600_000 };
const HEALTH_INTERVAL_MS: u64 = 1_000;

#[derive(Clone, Debug, PartialEq)]
pub(super) enum Wanted {
    /// No desired document is known yet.
    Unknown,
    /// The model is to be removed.
    Nothing,
    /// This release is to run.
    Release(DesiredModel),
}

/// Whether the bytes on the disk are not those that were verified.
pub(crate) fn is_damage(fault: &Fault) -> bool {
    matches!(fault.code, ErrorCode::DigestMismatch | ErrorCode::StorageCorrupt | ErrorCode::NotFound)
}

/// Whether what the slot said of its files is gone.
pub(crate) fn is_lost(fault: &Fault) -> bool {
    !fault.transient && matches!(fault.code, ErrorCode::StorageCorrupt | ErrorCode::NotFound)
}

/// What is being done for the candidate before it serves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Work {
    None,
    Fetching,
    Filling,
    Verifying,
    Probing,
    Waiting { due_ms: u64 },
}

/// What the host has loaded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Serving {
    Off,
    Loading { ticket: u64, slot: SlotName, release: Digest, before: Option<SlotName> },
    On { slot: SlotName, release: Digest, since_ms: u64, watch: Watch },
    Broken { due_ms: u64 },
}

/// The update machine of one model, or of the agent.
#[derive(Clone, Debug, PartialEq)]
pub struct Update {
    pub(super) model: ModelName,
    /// A launcher stands behind it, which knows a way back of its own.
    pub(super) launched: bool,
    pub(super) journal: UpdateJournal,
    pub(super) wanted: Wanted,
    pub(super) work: Work,
    pub(super) serving: Serving,
    pub(super) reverting: bool,
    /// Why the confirmed release does not serve, although it should.
    pub(super) trouble: Option<Failure>,
    pub(super) bytes_done: u64,
    pub(super) bytes_total: u64,
    pub(super) bytes_reused: u64,
    pub(super) bytes_rebuilt: u64,
    pub(super) bytes_patches: u64,
    /// What holds the candidate up before it serves.
    pub(super) hindrance: Option<Failure>,
    /// Both slots were cleared, and nothing came into them since.
    swept: bool,
    /// Of the candidate, from its envelope.
    pub(super) expires_at_ms: Option<u64>,
    pub(super) ticket: u64,
    tickets: u64,
    pub(super) retries: u32,
    pub(super) load_retries: u32,
}

impl Update {
    /// The machine of `model` as its journal left it. [`Event::Started`] comes next.
    pub fn new(model: ModelName, journal: UpdateJournal) -> Self {
        Self {
            model,
            launched: false,
            journal,
            wanted: Wanted::Unknown,
            work: Work::None,
            serving: Serving::Off,
            reverting: false,
            trouble: None,
            bytes_done: 0,
            bytes_total: 0,
            bytes_reused: 0,
            bytes_rebuilt: 0,
            bytes_patches: 0,
            hindrance: None,
            swept: false,
            expires_at_ms: None,
            ticket: 0,
            tickets: 0,
            retries: 0,
            load_retries: 0,
        }
    }

    /// The machine of the agent's own release. Its way back, and what is done about crashes and damage of what runs,
    /// are the launcher's ([`crate::launch`]).
    pub fn of_agent(journal: UpdateJournal) -> Self {
        Self { launched: true, ..Self::new(agent_name(), journal) }
    }

    /// The persistent part.
    pub fn journal(&self) -> &UpdateJournal {
        &self.journal
    }

    /// Whether nothing is on the device, wanted, or being done.
    pub fn is_gone(&self) -> bool {
        self.journal.is_empty()
            && matches!(self.wanted, Wanted::Unknown | Wanted::Nothing)
            && self.serving == Serving::Off
    }

    /// Whether a candidate serves and is being watched, or is about to.
    pub fn in_probation(&self) -> bool {
        self.trial().is_some()
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
        if let Some(at_ms) = next.due_ms(ctx) {
            out.push(Effect::ScheduleTick { at_ms });
        }
        (next, out)
    }

    fn handle(&mut self, event: Event, ctx: &Context, out: &mut Vec<Effect>) {
        match event {
            Event::Started { crashed } => self.start(crashed, ctx, out),
            Event::Desired(wanted) => {
                self.wanted = wanted.map_or(Wanted::Nothing, Wanted::Release);
                self.pursue(out);
            }
            Event::EnvelopeFetched { ticket, result } if self.awaits(ticket, Work::Fetching) => {
                match result {
                    Ok(facts) => self.on_envelope(facts, ctx, out),
                    Err(fault) => self.on_fault(fault, ctx, out),
                }
            }
            Event::FileProgress { ticket, bytes_done } if self.awaits(ticket, Work::Filling) => {
                if bytes_done > self.bytes_done {
                    self.retries = 0;
                    self.hindrance = None;
                }
                self.bytes_done = bytes_done.min(self.bytes_total);
            }
            Event::FilesReused { ticket, bytes } if self.awaits(ticket, Work::Filling) => {
                self.bytes_reused += bytes;
            }
            Event::FilesRebuilt { ticket, bytes, patch_bytes } if self.awaits(ticket, Work::Filling) => {
                self.bytes_rebuilt = self.bytes_rebuilt.saturating_add(bytes);
                self.bytes_patches = self.bytes_patches.saturating_add(patch_bytes);
            }
            Event::PatchFailed { ticket, fault } if self.awaits(ticket, Work::Filling) => {
                let release = self.journal.candidate.as_ref().map(|candidate| candidate.release);
                self.emit(EventKind::Unpatched, release, Some(fault.code), fault.detail, out);
            }
            Event::FilesComplete { ticket, result } if self.awaits(ticket, Work::Filling) => match result {
                Ok(()) => self.verify(out),
                Err(fault) if is_lost(&fault) => self.refill(fault, ctx, out),
                Err(fault) => self.on_fault(fault, ctx, out),
            },
            Event::FilesVerified { ticket, result } if self.awaits(ticket, Work::Verifying) => match result {
                Ok(()) => self.probe(out),
                Err(fault) if is_lost(&fault) => self.refill(fault, ctx, out),
                Err(fault) => self.on_fault(fault, ctx, out),
            },
            Event::ProbeDone { ticket, result } if self.awaits(ticket, Work::Probing) => match result {
                Ok(report) => self.switch(report, ctx, out),
                Err(fault) if is_damage(&fault) => self.refill(fault, ctx, out),
                Err(fault) => self.on_fault(fault, ctx, out),
            },
            Event::SwitchDone { ticket } => self.on_loaded(ticket, ctx, out),
            Event::LoadFailed { ticket, fault } => self.on_load_failed(ticket, fault, ctx, out),
            Event::Online => self.online(out),
            Event::Reload => self.reload(out),
            Event::Tick { health } => self.tick(health, ctx, out),
            // Answers to work that was given up in the meantime.
            Event::EnvelopeFetched { .. }
            | Event::FileProgress { .. }
            | Event::FilesReused { .. }
            | Event::FilesRebuilt { .. }
            | Event::PatchFailed { .. }
            | Event::FilesComplete { .. }
            | Event::FilesVerified { .. }
            | Event::ProbeDone { .. } => {}
        }
    }

    /// After a restart: a candidate on probation gets another chance, counted first; otherwise the confirmed
    /// release serves. Nothing here needs the network.
    fn start(&mut self, crashed: bool, ctx: &Context, out: &mut Vec<Effect>) {
        let Some(trial) = self.trial().cloned() else {
            return self.start_confirmed(crashed, ctx, out);
        };
        if self.launched {
            // The launcher counts, and starts what is to run.
            return self.activate(trial.slot, trial.release, out);
        }
        if trial.starts >= TRIAL_STARTS {
            let detail =
                format!("the agent was started {} times while the release was on probation", trial.starts);
            return self.fail(ErrorCode::ProbationFailed, detail, out);
        }
        if let Some(candidate) = &mut self.journal.candidate {
            candidate.starts += 1;
        }
        self.activate(trial.slot, trial.release, out);
    }

    /// Brings what is being done in line with what is wanted.
    pub(super) fn pursue(&mut self, out: &mut Vec<Effect>) {
        let wanted = match &self.wanted {
            Wanted::Unknown => return,
            Wanted::Nothing if self.launched => return self.withdraw(out),
            Wanted::Nothing => return self.remove(out),
            Wanted::Release(wanted) => wanted.clone(),
        };
        if let Some(failed) = &self.journal.failed
            && (failed.release != wanted.release || wanted.attempt > failed.attempt)
        {
            self.journal.failed = None;
        }
        if let Some(candidate) = &mut self.journal.candidate {
            if candidate.release == wanted.release {
                candidate.attempt = wanted.attempt;
                if candidate.step != Step::Trial && self.work == Work::None {
                    self.resume(out);
                }
                return;
            }
            if candidate.step == Step::Trial {
                if self.journal.confirmed.is_none() {
                    // Nothing else could serve: its probation comes to its end first.
                    return;
                }
                self.leave_trial("another release is wanted", None, out);
            } else {
                self.drop_candidate(out);
            }
        }
        let here = self.journal.confirmed.as_ref().is_some_and(|c| c.release == wanted.release);
        if !here && self.journal.failed.is_none() {
            self.begin(&wanted, out);
        }
    }

    pub(super) fn begin(&mut self, wanted: &DesiredModel, out: &mut Vec<Effect>) {
        let slot = self.journal.idle_slot();
        // Its slot is about to be written to.
        self.journal.previous = None;
        self.journal.candidate = Some(Candidate {
            attempt: wanted.attempt,
            ..Candidate::new(slot, wanted.release, 0, Step::Filling)
        });
        self.swept = false;
        self.retries = 0;
        self.hindrance = None;
        (self.bytes_reused, self.bytes_rebuilt, self.bytes_patches) = (0, 0, 0);
        self.resume(out);
    }

    /// Takes a candidate up that is not yet on trial. Its envelope is examined anew each time: floor, expiry and
    /// trust may have moved.
    pub(super) fn resume(&mut self, out: &mut Vec<Effect>) {
        let (Some(candidate), Wanted::Release(wanted)) = (&self.journal.candidate, &self.wanted) else {
            // Taken up when it is known what is wanted.
            self.work = Work::None;
            return;
        };
        let (slot, release, bytes) = (candidate.slot, candidate.release, wanted.envelope_bytes);
        (self.bytes_done, self.bytes_total) = (0, 0);
        self.ticket = self.next_ticket();
        self.work = Work::Fetching;
        out.push(Effect::FetchRelease { ticket: self.ticket, slot, release, bytes });
    }

    pub(super) fn drop_candidate(&mut self, out: &mut Vec<Effect>) {
        self.journal.candidate = None;
        self.work = Work::None;
        self.hindrance = None;
        (self.bytes_done, self.bytes_total, self.bytes_reused) = (0, 0, 0);
        (self.bytes_rebuilt, self.bytes_patches) = (0, 0);
        out.push(Effect::Cancel);
    }

    fn remove(&mut self, out: &mut Vec<Effect>) {
        if self.swept {
            return;
        }
        // A kill may have come between the journal write and the clearing, so an empty journal alone does not
        // mean empty slots.
        self.swept = true;
        self.drop_candidate(out);
        self.journal = UpdateJournal::default();
        self.serving = Serving::Off;
        self.reverting = false;
        self.trouble = None;
        out.push(Effect::Deactivate);
        out.extend([SlotName::A, SlotName::B].map(|slot| Effect::ClearSlot { slot }));
    }

    pub(super) fn trial(&self) -> Option<&Candidate> {
        self.journal.candidate.as_ref().filter(|candidate| candidate.step == Step::Trial)
    }

    fn awaits(&self, ticket: u64, work: Work) -> bool {
        self.ticket == ticket && self.work == work
    }

    pub(super) fn next_ticket(&mut self) -> u64 {
        self.tickets += 1;
        self.tickets
    }

    pub(super) fn emit(
        &self,
        kind: EventKind,
        release: Option<Digest>,
        code: Option<ErrorCode>,
        detail: String,
        out: &mut Vec<Effect>,
    ) {
        out.push(Effect::EmitEvent(EventRecord {
            kind,
            model: Some(self.model.clone()),
            release,
            code,
            detail,
        }));
    }

    fn due_ms(&self, ctx: &Context) -> Option<u64> {
        let retry = match self.work {
            Work::Waiting { due_ms } => Some(due_ms),
            _ => None,
        };
        let serving = match self.serving {
            Serving::Broken { due_ms } => Some(due_ms),
            Serving::On { since_ms, watch, .. } if self.trial().is_some() => {
                let end = since_ms.saturating_add(ctx.probation_ms);
                let next = ctx.now_ms + HEALTH_INTERVAL_MS;
                // A first look comes at once: what follows is measured against it.
                Some(match watch.is_doubtful() {
                    _ if watch.first.is_none() => ctx.now_ms,
                    false if ctx.now_ms < end => end.min(next),
                    _ => next,
                })
            }
            Serving::On { since_ms, .. } if self.crashes() > 0 => Some(since_ms.saturating_add(STABLE_MS)),
            _ => None,
        };
        [retry, serving].into_iter().flatten().min()
    }
}
