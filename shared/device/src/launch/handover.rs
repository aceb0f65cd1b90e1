//! The agent's side: what the update machine of the agent's release asks for, as changes of the launch journal.
//!
//! All of it is pure. A change is stored before anything follows from it; a [`Handover::Switch`] is stored and then
//! the agent exits with [`super::EXIT_SWITCH`].

use super::journal::{Binary, LaunchJournal, Place, Trial, Why};
use crate::fault::Fault;
use crate::update::{Candidate, Confirmed, Step, UpdateJournal};
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

/// `binary` is to run: on trial with this patience, or as the confirmed one. `place` is where this agent runs from.
pub fn activate(journal: &LaunchJournal, place: Place, binary: Binary, trial: Option<u64>) -> Handover {
    let runs = journal.at(place).is_some_and(|here| here.release == binary.release);
    if runs && place == Place::Slot(binary.slot) {
        return Handover::Here;
    }
    match trial {
        Some(patience_ms) => try_out(journal, binary, patience_ms),
        None => go_back(journal, binary),
    }
}

fn try_out(journal: &LaunchJournal, binary: Binary, patience_ms: u64) -> Handover {
    if let Some(given_up) = journal.given_up.as_ref().filter(|given_up| given_up.release == binary.release) {
        return Handover::Refused(Fault::lasting(given_up.why.code(), given_up.detail.clone()));
    }
    if journal.candidate.as_ref().is_some_and(|trial| trial.binary.release == binary.release) {
        // It was handed over, and yet this agent was started: asking again would go round in circles.
        let detail = "the launcher could not start it: its journal cannot be written";
        return Handover::Refused(Fault::lasting(ErrorCode::StorageIo, detail));
    }
    let confirmed = journal.confirmed.clone().filter(|confirmed| confirmed.slot != binary.slot);
    let candidate = Some(Trial { binary, starts: 0, patience_ms });
    Handover::Switch(LaunchJournal { confirmed, spare: None, candidate, given_up: None })
}

fn go_back(journal: &LaunchJournal, binary: Binary) -> Handover {
    let named = journal.confirmed.as_ref().is_some_and(|confirmed| confirmed.release == binary.release);
    if named && journal.candidate.is_none() {
        // The launcher has started something older than what it was told to.
        let detail = format!("the binary in slot {} does not start", binary.slot.as_str());
        return Handover::Refused(Fault::lasting(Why::Unusable.code(), detail));
    }
    let given_up = journal.given_up.clone();
    Handover::Switch(LaunchJournal { confirmed: Some(binary), spare: None, candidate: None, given_up })
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
        candidate: None,
        given_up: None,
    })
}

/// The slot is about to be filled anew: what the journal names there is not to be started any more. That is the spare,
/// or a confirmed binary that was found unusable.
pub fn refill(journal: &LaunchJournal, slot: SlotName) -> Option<LaunchJournal> {
    let stays = |binary: &Binary| binary.slot != slot;
    let (confirmed, spare) = (journal.confirmed.clone().filter(stays), journal.spare.clone().filter(stays));
    let next = LaunchJournal { confirmed, spare, ..journal.clone() };
    (next != *journal).then_some(next)
}

/// The signed floor rose: a spare below it is never started again.
pub fn raise_floor(journal: &LaunchJournal, floor: u64) -> Option<LaunchJournal> {
    let below = journal.spare.as_ref().is_some_and(|spare| spare.counter < floor);
    below.then(|| LaunchJournal { spare: None, ..journal.clone() })
}

/// What was given up is noted in the update journal, or nobody asks for it any more: it can be forgotten, so that the
/// same release may be tried again.
pub fn forget(journal: &LaunchJournal, update: &UpdateJournal) -> Option<LaunchJournal> {
    let given_up = journal.given_up.as_ref()?;
    let open = update.candidate.as_ref();
    let asked = open.is_some_and(|c| c.step == Step::Trial && c.release == given_up.release);
    (!asked).then(|| LaunchJournal { given_up: None, ..journal.clone() })
}

/// The update journal of an agent that starts from this place. A kill between the launcher's confirmation and the
/// update journal's, and then more of them, can end with nothing confirmed there although this agent is: what the
/// launcher was told counts.
pub fn adopt(journal: &LaunchJournal, place: Place, update: UpdateJournal) -> UpdateJournal {
    let here = journal.confirmed.as_ref().filter(|binary| place == Place::Slot(binary.slot));
    let known = update.confirmed.is_some()
        || update.candidate.as_ref().is_some_and(|candidate| candidate.step == Step::Trial);
    if known || here.is_none() || journal.candidate.is_some() { update } else { recover(journal) }
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
