//! The agent's side: what the update machine of the agent's release asks for, as changes of the launch journal.
//!
//! All of it is pure. A change is stored before anything follows from it; a [`Handover::Switch`] is stored and then
//! the agent exits with [`super::EXIT_SWITCH`].

use super::journal::{Binary, LaunchJournal, Place, Terms, Trial, Why};
use crate::backoff::Backoff;
use crate::fault::Fault;
use crate::update::{Candidate, Confirmed, FailedRelease, Step, UpdateJournal};
use flotilla_protocol::message::SlotName;
use flotilla_protocol::{Digest, ErrorCode};

/// What follows when a release of the agent is to be the one that runs.
#[expect(clippy::large_enum_variant, reason = "one at a time is made and used up")]
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Handover {
    /// It is the one that runs.
    Here,
    /// It cannot be: the launcher gave it up, or found it unusable.
    Refused(Fault),
    /// Store this journal, then exit.
    Switch(LaunchJournal),
}

/// A candidate that the launcher did not start is handed over again after so long, and then ever more rarely.
const AGAIN: Backoff = Backoff { base_ms: 60_000, cap_ms: 3_600_000 };

/// `binary` is to run: on trial on these terms, or as the confirmed one. `place` is where this agent runs from, `up_ms`
/// how long it has run.
pub fn activate(
    journal: &LaunchJournal,
    place: Place,
    binary: Binary,
    trial: Option<Terms>,
    up_ms: u64,
) -> Handover {
    let runs = journal.at(place).is_some_and(|here| here.release == binary.release);
    if runs && place == Place::Slot(binary.slot) {
        return Handover::Here;
    }
    match trial {
        Some(terms) => try_out(journal, place, binary, terms, up_ms),
        None => go_back(journal, binary),
    }
}

fn try_out(journal: &LaunchJournal, place: Place, binary: Binary, terms: Terms, up_ms: u64) -> Handover {
    if let Some(given_up) = journal.given_up.as_ref().filter(|given_up| given_up.release == binary.release) {
        return Handover::Refused(Fault::lasting(given_up.why.code(), given_up.detail.clone()));
    }
    if place == Place::Slot(binary.slot) {
        let detail = "it lies in the slot from which another agent runs";
        return Handover::Refused(Fault::lasting(ErrorCode::StorageCorrupt, detail));
    }
    let before = journal.candidate.as_ref().filter(|trial| trial.binary.release == binary.release);
    if let Some(trial) = before {
        // It was handed over, and yet this agent was started: its start could not be counted. That says nothing about
        // it, but asking at once would go round in circles.
        if up_ms < AGAIN.delay_ms(trial.again, 0) {
            let detail = "the launcher did not start it: its journal could not be written";
            return Handover::Refused(Fault::transient(ErrorCode::StorageIo, detail));
        }
        let candidate = Some(Trial { again: trial.again.saturating_add(1), ..trial.clone() });
        return Handover::Switch(LaunchJournal { candidate, ..journal.clone() });
    }
    let confirmed = journal.confirmed.clone().filter(|confirmed| confirmed.slot != binary.slot);
    let candidate = Some(Trial::new(binary, terms));
    Handover::Switch(LaunchJournal { confirmed, candidate, ..LaunchJournal::default() })
}

fn go_back(journal: &LaunchJournal, binary: Binary) -> Handover {
    let named = journal.confirmed.as_ref().is_some_and(|confirmed| confirmed.release == binary.release);
    if named && journal.candidate.is_none() {
        // The launcher has started something older than what it was told to.
        let detail = format!("the binary in slot {} does not start", binary.slot.as_str());
        return Handover::Refused(Fault::lasting(Why::Unusable.code(), detail));
    }
    let given_up = journal.given_up.clone();
    Handover::Switch(LaunchJournal { confirmed: Some(binary), given_up, ..LaunchJournal::default() })
}

/// No release is to run any more: the installed binary is. The journal to store, and whether the agent then exits.
pub fn deactivate(journal: &LaunchJournal, place: Place) -> (LaunchJournal, bool) {
    let next = LaunchJournal { given_up: journal.given_up.clone(), ..LaunchJournal::default() };
    (next, place != Place::Installed)
}

/// The update machine has confirmed a release: the journal to store if it is the candidate that runs here. To be
/// stored before the update journal, so that what is confirmed there is never taken back by the launcher.
pub fn confirm(journal: &LaunchJournal, place: Place, release: Digest) -> Option<LaunchJournal> {
    let trial = journal.candidate.as_ref()?;
    let ours = trial.binary.release == release && place == Place::Slot(trial.binary.slot);
    ours.then(|| LaunchJournal {
        confirmed: Some(trial.binary.clone()),
        spare: journal.confirmed.clone(),
        ..LaunchJournal::default()
    })
}

/// This agent has stayed up: the journal to store if its starts were counted.
pub fn settle(journal: &LaunchJournal, place: Place) -> Option<LaunchJournal> {
    let confirmed = journal.confirmed.as_ref().is_some_and(|binary| place == Place::Slot(binary.slot));
    (confirmed && journal.starts > 0).then(|| LaunchJournal { starts: 0, ..journal.clone() })
}

/// The slot is about to be filled anew: what the journal names there is not to be started any more. That is the spare, a
/// confirmed binary that was found unusable, or a candidate of which the launcher was not told that it was given up.
/// Never the slot from which this agent runs: one that is on its way out, and cannot tell the launcher yet, waits.
pub fn refill(journal: &LaunchJournal, place: Place, slot: SlotName) -> Result<Option<LaunchJournal>, Fault> {
    if place == Place::Slot(slot) {
        let detail = format!("the agent still runs from slot {}", slot.as_str());
        return Err(Fault::transient(ErrorCode::WrongState, detail));
    }
    let stays = |binary: &Binary| binary.slot != slot;
    let (confirmed, spare) = (journal.confirmed.clone().filter(stays), journal.spare.clone().filter(stays));
    let candidate = journal.candidate.clone().filter(|trial| stays(&trial.binary));
    let next = LaunchJournal { confirmed, spare, candidate, ..journal.clone() };
    Ok((next != *journal).then_some(next))
}

/// The signed floor rose: a spare below it is never started again.
pub fn raise_floor(journal: &LaunchJournal, floor: u64) -> Option<LaunchJournal> {
    let below = journal.spare.as_ref().is_some_and(|spare| spare.counter < floor);
    below.then(|| LaunchJournal { spare: None, ..journal.clone() })
}

/// What is noted in the stored update journal, or nobody asks for any more, can be forgotten: what was given up, so that
/// the same release may be tried again; and a candidate that does not run and is not being tried.
pub fn forget(journal: &LaunchJournal, place: Place, update: &UpdateJournal) -> Option<LaunchJournal> {
    let given_up = journal.given_up.clone().filter(|given_up| is_open(update, given_up.release));
    let candidate = journal
        .candidate
        .clone()
        .filter(|Trial { binary, .. }| place == Place::Slot(binary.slot) || is_open(update, binary.release));
    let next = LaunchJournal { given_up, candidate, ..journal.clone() };
    (next != *journal).then_some(next)
}

/// Whether the update journal takes this release for one that is on trial or confirmed.
fn is_open(update: &UpdateJournal, release: Digest) -> bool {
    update.candidate.as_ref().is_some_and(|c| c.step == Step::Trial && c.release == release)
        || update.confirmed.as_ref().is_some_and(|confirmed| confirmed.release == release)
}

/// What an agent that starts finds: its journals, brought in line with what the launcher did.
#[derive(Clone, Debug, PartialEq)]
pub struct Adopted {
    /// The update journal.
    pub update: UpdateJournal,
    /// The launch journal.
    pub launch: LaunchJournal,
    /// The release that was confirmed and gave way, and why.
    pub gave_way: Option<(Digest, Fault)>,
    /// This agent has given itself up already: once the launch journal is stored, it ends with [`super::EXIT_SWITCH`].
    pub leaves: bool,
}

/// Brings both journals in line with where this agent was started from. What the launcher knows counts:
/// - It gave the confirmed release up: that is noted as failed, and the one now confirmed there is confirmed here.
/// - It started the spare because the confirmed binary does not start: the spare is what works, and the release that was
///   confirmed can be brought in anew, in the slot that does not run.
/// - A kill between the launcher's confirmation and the update journal's, and then more of them, can end with nothing
///   confirmed here although this agent is.
/// - It still names a candidate that was given up: the kill came before it was told.
pub fn adopt(journal: &LaunchJournal, place: Place, update: UpdateJournal) -> Adopted {
    let mut launch = journal.clone();
    if let Some(Trial { binary, .. }) = &journal.candidate {
        let (here, open) = (place == Place::Slot(binary.slot), is_open(&update, binary.release));
        if update.confirmed.as_ref().is_some_and(|confirmed| confirmed.release == binary.release) {
            // The launcher's journal may have been lost with the disk's last writes.
            launch = confirm(journal, place, binary.release).unwrap_or(launch);
        } else if !open {
            launch.candidate = None;
        }
        return Adopted { update, launch, gave_way: None, leaves: here && !open };
    }
    let runs = journal.confirmed.as_ref().is_some_and(|confirmed| place == Place::Slot(confirmed.slot));
    if let Some(retired) = launch.retire().filter(|_| !runs) {
        // The launcher could not write that down.
        launch = retired;
    }
    if let Some(given_up) = &launch.given_up
        && let Some(before) = update.confirmed.clone().filter(|before| before.release == given_up.release)
    {
        let fault = Fault::lasting(given_up.why.code(), given_up.detail.clone());
        let failed = FailedRelease {
            release: before.release,
            attempt: before.attempt,
            code: fault.code,
            detail: fault.detail.clone(),
            again: None,
        };
        let update = UpdateJournal { failed: Some(failed), ..confirmed_by(&launch, update) };
        return Adopted { update, launch, gave_way: Some((before.release, fault)), leaves: false };
    }
    let spare = journal.spare.as_ref().filter(|spare| place == Place::Slot(spare.slot));
    if let (Some(spare), Some(confirmed)) = (spare, &journal.confirmed) {
        let detail = format!("the agent in slot {} does not start", confirmed.slot.as_str());
        let gave_way = Some((confirmed.release, Fault::lasting(Why::Unusable.code(), detail)));
        launch = LaunchJournal { confirmed: Some(spare.clone()), spare: None, starts: 0, ..launch };
        return Adopted { update: confirmed_by(&launch, update), launch, gave_way, leaves: false };
    }
    let here = journal.confirmed.as_ref().is_some_and(|binary| place == Place::Slot(binary.slot));
    let known = update.confirmed.is_some()
        || update.candidate.as_ref().is_some_and(|candidate| candidate.step == Step::Trial);
    let update = if known || !here { update } else { confirmed_by(journal, update) };
    Adopted { update, launch, gave_way: None, leaves: false }
}

/// The update journal with what the launcher holds confirmed. A candidate in its slot is none any more.
fn confirmed_by(journal: &LaunchJournal, update: UpdateJournal) -> UpdateJournal {
    let confirmed = recover(journal).confirmed;
    let slot = confirmed.as_ref().map(|confirmed| confirmed.slot);
    let candidate = update.candidate.filter(|candidate| Some(candidate.slot) != slot);
    UpdateJournal { confirmed, candidate, previous: None, ..update }
}

/// The update journal of a device that has lost it, from what the launcher knows.
pub fn recover(journal: &LaunchJournal) -> UpdateJournal {
    let confirmed = journal.confirmed.as_ref().map(|binary| Confirmed {
        slot: binary.slot,
        release: binary.release,
        counter: binary.counter,
        probe: None,
        attempt: 0,
        crashes: 0,
    });
    let candidate = journal.candidate.as_ref().map(|Trial { binary, starts, .. }| Candidate {
        starts: *starts,
        ..Candidate::new(binary.slot, binary.release, binary.counter, Step::Trial)
    });
    UpdateJournal { confirmed, candidate, ..UpdateJournal::default() }
}
