//! The agent's side of the two journals: what is written when, and what is made good when the disk did not take it.

use crate::folder::{AGENT_JOURNAL, Folder};
use flotilla_device::launch::handover::{self, Adopted};
use flotilla_device::launch::{LaunchJournal, Place, SETTLED_MS};
use flotilla_device::update::{Update, UpdateJournal};
use flotilla_launcher::journal::LaunchFile;

/// What could not be written is tried again after so long.
pub(super) const JOURNAL_RETRY_MS: u64 = 5_000;

/// The journals of the agent's own release.
pub(super) struct Journals {
    pub(super) place: Place,
    folder: Folder,
    file: LaunchFile,
    /// What the launch journal is to hold.
    launch: LaunchJournal,
    /// The disk may hold something else.
    behind: bool,
    /// What the disk holds of the update journal; none for nobody knows what.
    noted: Option<UpdateJournal>,
    since_ms: u64,
    due_ms: Option<u64>,
    /// The launcher is to start another binary as soon as it is told.
    leaving: bool,
    /// It is told.
    left: bool,
}

impl Journals {
    /// What was found when this agent started. `damaged` says that a copy of the launch journal is.
    pub(super) fn new(
        folder: Folder,
        place: Place,
        found: &LaunchJournal,
        damaged: bool,
        noted: Option<UpdateJournal>,
        adopted: &Adopted,
        now_ms: u64,
    ) -> Self {
        Self {
            place,
            file: folder.launch_file(),
            folder,
            launch: adopted.launch.clone(),
            behind: damaged || adopted.launch != *found,
            noted,
            since_ms: now_ms,
            due_ms: None,
            leaving: adopted.leaves,
            left: false,
        }
    }

    pub(super) fn launch(&self) -> &LaunchJournal {
        &self.launch
    }

    /// Whether this agent is on its way out.
    pub(super) fn is_leaving(&self) -> bool {
        self.leaving || self.left
    }

    /// Whether the launcher waits for its end.
    pub(super) fn has_left(&self) -> bool {
        self.left
    }

    pub(super) fn up_ms(&self, now_ms: u64) -> u64 {
        now_ms.saturating_sub(self.since_ms)
    }

    pub(super) fn due_ms(&self) -> Option<u64> {
        self.due_ms
    }

    /// Writes the launch journal. False if that is not possible now; then what was to be there still is.
    pub(super) fn store(&mut self, next: &LaunchJournal) -> bool {
        let Err(error) = self.file.store(next) else {
            (self.launch, self.behind) = (next.clone(), false);
            return true;
        };
        tracing::error!(%error, "the launch journal cannot be written");
        // A write that failed may have happened all the same, and the launcher goes by what it reads.
        self.behind = true;
        let happened = self.file.read().0 == *next;
        if happened {
            self.launch = next.clone();
        }
        happened
    }

    /// Tells the launcher to start another binary. False if that is not possible now.
    pub(super) fn leave(&mut self, next: &LaunchJournal) -> bool {
        self.left = self.store(next);
        self.left
    }

    /// As [`Self::leave`], but until it is possible nothing else is done.
    pub(super) fn must_leave(&mut self, next: LaunchJournal) {
        if !self.leave(&next) {
            (self.launch, self.leaving) = (next, true);
        }
    }

    /// Writes the update journal, the launcher's confirmation of what it confirms before it. False if that is not
    /// possible now.
    pub(super) fn note(&mut self, journal: &UpdateJournal) -> bool {
        let release = journal.confirmed.as_ref().map(|confirmed| confirmed.release);
        let confirmed = release.and_then(|release| handover::confirm(&self.launch, self.place, release));
        if confirmed.is_some_and(|confirmed| !self.store(&confirmed)) {
            return false;
        }
        let written = self.folder.disk().replace(AGENT_JOURNAL.as_ref(), &journal.to_bytes());
        match written {
            Ok(()) => self.noted = Some(journal.clone()),
            Err(error) => {
                tracing::error!(%error, "the agent's journal cannot be written");
                self.noted = None;
            }
        }
        self.noted.is_some()
    }

    /// Makes good what could not be written, takes the count of starts back once this agent has stayed up, and forgets
    /// what was given up and is noted, and a spare below the signed floor.
    pub(super) fn tidy(&mut self, update: &Update, floor: u64, now_ms: u64) {
        // Whoever starts before the launch journal is made good finds the same again, so the update journal comes first.
        let mut done = self.noted.as_ref() == Some(update.journal()) || self.note(update.journal());
        if done {
            let settled = self.up_ms(now_ms) >= SETTLED_MS;
            let mut next = self.launch.clone();
            next = handover::forget(&next, self.place, update.journal()).unwrap_or(next);
            next = handover::raise_floor(&next, floor).unwrap_or(next);
            next = handover::settle(&next, self.place).filter(|_| settled).unwrap_or(next);
            done = (next == self.launch && !self.behind) || self.store(&next);
            self.left |= done && self.leaving;
        }
        let settles = handover::settle(&self.launch, self.place).map(|_| self.since_ms + SETTLED_MS);
        self.due_ms = if done { settles.filter(|at| *at > now_ms) } else { Some(now_ms + JOURNAL_RETRY_MS) };
    }
}

/// Takes the count of starts back for an agent that serves without any machines.
pub(in crate::daemon) fn settle(folder: &Folder, place: Place) {
    let file = folder.launch_file();
    if let Some(next) = handover::settle(&file.read().0, place)
        && let Err(error) = file.store(&next)
    {
        tracing::warn!(%error, "the launch journal cannot be written");
    }
}
