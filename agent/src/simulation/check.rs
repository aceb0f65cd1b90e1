//! What must hold, whatever is killed whenever.
//!
//! - Never bricked: once a release is confirmed and as long as the model is wanted, the journal on the disk names a
//!   confirmed release, and every byte of that, and of the one before it if that is named, is in its slot, which nothing
//!   writes to.
//! - Never the wrong version: what serves is what the journal calls confirmed or on trial; nothing that is not signed,
//!   below the floor or failed its probe ever does; an older desired document never wins.
//! - No acknowledged record is lost: what the device lets go the cloud has durably, once (`device`, `cloud`).

use super::device::Device;
use super::releases::{self, Nature};
use crate::folder::{DESIRED, Folder};
use crate::probe::{FILES_FOLDER, RELEASE_FILE};
use flotilla_device::update::{Effect, Step, UpdateJournal};
use flotilla_protocol::message::{Desired, Phase, SlotName};
use flotilla_protocol::{Digest, Envelope, ErrorCode, ModelName, codec, limits};
use std::collections::BTreeMap;

/// What the test remembers of what the device did.
#[derive(Default)]
pub(super) struct Seen {
    pub(super) kills: u64,
    /// Kills during an update from a confirmed release to another.
    pub(super) kills_at_stake: u64,
    /// Records made.
    pub(super) records: u64,
    /// Records let go.
    pub(super) acknowledged: u64,
    /// Files made from patches.
    pub(super) patched: u64,
    /// Patches that could not be used.
    pub(super) unpatched: u64,
    accepted: u64,
    journals: BTreeMap<ModelName, Stored>,
}

/// A model's journal on the disk, as far as that can be known.
#[derive(Default)]
struct Stored {
    /// It was brought to stable storage.
    sure: UpdateJournal,
    /// Writing them did not succeed, and they may be there all the same.
    maybe: Vec<UpdateJournal>,
}

impl Stored {
    fn all(&self) -> impl Iterator<Item = &UpdateJournal> {
        std::iter::once(&self.sure).chain(&self.maybe)
    }
}

impl Seen {
    /// A journal was written, with or without success.
    pub(super) fn journal(&mut self, name: &ModelName, journal: &UpdateJournal, stored: bool) {
        let entry = self.journals.entry(name.clone()).or_default();
        if stored {
            *entry = Stored { sure: journal.clone(), maybe: Vec::new() };
        } else {
            entry.maybe.push(journal.clone());
        }
    }

    /// A desired document was stored.
    pub(super) fn accepted(&mut self, version: u64) {
        assert!(version >= self.accepted, "version {version} after {}", self.accepted);
        self.accepted = version;
    }
}

/// Releases that a journal vouches for: whole, each in its slot.
fn vouched(journal: &UpdateJournal) -> Vec<(SlotName, Digest)> {
    [&journal.confirmed, &journal.previous].into_iter().flatten().map(|one| (one.slot, one.release)).collect()
}

fn on_trial(journal: &UpdateJournal) -> Option<(SlotName, Digest)> {
    let trial = journal.candidate.as_ref().filter(|candidate| candidate.step == Step::Trial);
    trial.map(|candidate| (candidate.slot, candidate.release))
}

impl Device {
    /// The journal is written first, and once.
    pub(super) fn check_effects(&self, effects: &[Effect]) {
        let late = effects.iter().skip(1).any(|effect| matches!(effect, Effect::PersistJournal(_)));
        assert!(!late, "{}: {effects:?}", self.label);
    }

    /// The journal that surely is on the disk.
    fn stored(&self, name: &ModelName) -> UpdateJournal {
        self.seen.journals.get(name).map(|stored| stored.sure.clone()).unwrap_or_default()
    }

    /// An effect is about to be performed: what it relies on is on the disk.
    pub(super) fn check_effect(&self, name: &ModelName, effect: &Effect) {
        let (stored, label) = (&self.stored(name), &self.label);
        match effect {
            Effect::FetchRelease { slot, .. } => {
                let kept = vouched(stored).iter().any(|(kept, _)| kept == slot);
                assert!(!kept, "{label}: {name} fetches into {slot:?} under {stored:?}");
            }
            Effect::Probe { slot, release, .. } => {
                let counted = stored.candidate.as_ref().is_some_and(|candidate| {
                    (candidate.slot, candidate.release, candidate.step) == (*slot, *release, Step::Staged)
                        && candidate.starts > 0
                });
                assert!(counted, "{label}: {name} is probed under {stored:?}");
                self.check_whole(name, *slot, *release);
            }
            Effect::Activate { slot, release, .. } => {
                let named = vouched(stored).contains(&(*slot, *release))
                    || on_trial(stored) == Some((*slot, *release));
                assert!(named, "{label}: {name} is switched under {stored:?}");
            }
            Effect::ClearSlot { slot } => {
                assert!(stored.is_empty(), "{label}: {name} loses {slot:?} under {stored:?}");
            }
            _ => {}
        }
    }

    /// A journal is about to be written over the one that is there.
    pub(super) fn check_journal(&mut self, name: &ModelName, next: &UpdateJournal) {
        self.check_touched();
        let before = &self.stored(name);
        let label = &self.label;
        if let Some(confirmed) = &before.confirmed
            && next.confirmed.is_none()
        {
            assert!(
                self.wanted(name).is_none(),
                "{label}: {name} gives up {confirmed:?} although it is wanted"
            );
        }
        for (slot, release) in vouched(next) {
            let was = vouched(before).contains(&(slot, release)) || on_trial(before) == Some((slot, release));
            assert!(was, "{label}: {name} confirms what was not on trial: {before:?} {next:?}");
        }
    }

    /// After every action.
    pub(super) fn check(&mut self) {
        self.check_touched();
        for (name, managed) in &self.run.models {
            let Some((slot, release)) = managed.serving else { continue };
            let nature = releases::all().find(release).nature;
            let journal = managed.update.journal();
            // One that is left goes on serving until the confirmed one is loaded in its place.
            let left = managed.load.is_some() || managed.update.phase() == Phase::Reverting;
            let right = left
                || vouched(journal).contains(&(slot, release))
                || on_trial(journal) == Some((slot, release));
            assert!(right, "{}: {name} serves a release of nature {nature:?} beside {journal:?}", self.label);
        }
    }

    /// Nothing was written to a slot that a journal vouches for.
    fn check_touched(&self) {
        for path in self.disk.touched() {
            for (name, stored) in &self.seen.journals {
                if self.wanted(name).is_none() {
                    continue;
                }
                for (slot, _) in stored.all().flat_map(vouched) {
                    let place = Folder::model(name).join(format!("slot-{}", slot.as_str()));
                    assert!(!path.starts_with(&place), "{}: {} was written to", self.label, path.display());
                }
            }
        }
    }

    /// What is on the disk after the device went down is what it was told to store, and works.
    pub(super) fn check_after_kill(&mut self) {
        self.check_touched();
        let at_stake = |stored: &Stored| stored.sure.confirmed.is_some() && stored.sure.candidate.is_some();
        self.seen.kills_at_stake += u64::from(self.seen.journals.values().any(at_stake));
        let mut journals = std::mem::take(&mut self.seen.journals);
        for (name, stored) in &mut journals {
            let bytes = self.disk.calmly(|| self.folder.disk().read(&Folder::journal(name), limits::MIB));
            let found = bytes.unwrap().map_or(UpdateJournal::default(), |bytes| {
                UpdateJournal::from_bytes(&bytes).unwrap_or_else(|e| panic!("{}: {name}: {e}", self.label))
            });
            let known = stored.all().any(|journal| *journal == found);
            assert!(known, "{}: {name} has {found:?}, stored was {:?}", self.label, stored.sure);
            for (slot, release) in vouched(&found) {
                let nature = releases::all().find(release).nature;
                assert_eq!(nature, Nature::Good, "{}: {name} vouches for it", self.label);
                // One that is to go may be half gone.
                if self.stored_desired().is_some_and(|desired| desired.models.contains_key(name)) {
                    self.check_whole(name, slot, release);
                }
            }
            // Another cut of the power may still bring another one back.
            stored.maybe.push(std::mem::replace(&mut stored.sure, found));
        }
        self.seen.journals = journals;
    }

    /// The desired document on the disk.
    fn stored_desired(&self) -> Option<Desired> {
        let bytes =
            self.disk.calmly(|| self.folder.disk().read(DESIRED.as_ref(), limits::ENVELOPE)).unwrap()?;
        let envelope = Envelope::from_bytes(&bytes).unwrap();
        Some(codec::decode(&envelope.payload, limits::ENVELOPE).unwrap())
    }

    /// Every byte of a release is in its slot.
    fn check_whole(&self, name: &ModelName, slot: SlotName, release: Digest) {
        let place = Folder::model(name).join(format!("slot-{}", slot.as_str()));
        let release = releases::all().find(release);
        let files =
            release.files.iter().map(|(name, content)| (place.join(FILES_FOLDER).join(name), content));
        let envelope = [(place.join(RELEASE_FILE), &release.envelope)];
        for (path, content) in files.chain(envelope) {
            let found = self.disk.calmly(|| self.folder.disk().read(&path, limits::MIB)).unwrap();
            assert!(found.as_ref() == Some(content), "{}: {} is damaged", self.label, path.display());
        }
        let names = self.disk.names(&place.join(FILES_FOLDER));
        assert!(names.iter().eq(release.files.keys()), "{}: {name} has {names:?}", self.label);
    }

    /// A release is about to serve.
    pub(super) fn check_installed(&self, name: &ModelName, slot: SlotName, release: Digest) {
        let journal = &self.stored(name);
        let named = vouched(journal).contains(&(slot, release)) || on_trial(journal) == Some((slot, release));
        assert!(named, "{}: {name} loads what {journal:?} does not name", self.label);
        let nature = releases::all().find(release).nature;
        let refused = matches!(
            nature,
            Nature::Unsigned | Nature::BelowFloor | Nature::FailsProbe | Nature::KillsProbed
        );
        assert!(!refused, "{}: {name} is to serve a release of nature {nature:?}", self.label);
        self.check_whole(name, slot, release);
    }

    /// After a start: no older document than the last one that was accepted is followed.
    pub(super) fn check_accepted(&self) {
        let (now, before) = (self.run.accepted_version, self.seen.accepted);
        assert!(now >= before, "{}: version {now} wins over {before}", self.label);
    }

    /// The device is where it should be, or says why not. `healthy` is whether nothing kept it from getting there.
    pub(super) fn check_converged(&self, healthy: bool) {
        let label = &self.label;
        assert_eq!(self.run.accepted_version, self.cloud.version(), "{label}: another document is followed");
        for name in [releases::large(), releases::small()] {
            let Some(wanted) = self.cloud.wanted().get(&name) else {
                assert!(!self.run.models.contains_key(&name), "{label}: {name} was not removed");
                let folders = self.disk.calmly(|| self.folder.disk().folders(&Folder::model(&name)));
                assert!(folders.unwrap().is_empty(), "{label}: something of {name} stays behind");
                continue;
            };
            let managed = &self.run.models[&name];
            let report = managed.update.report();
            let serving = managed.serving.map(|(_, release)| release);
            assert_eq!(serving, report.confirmed, "{label}: {name} rests in {report:?}");
            let nature = releases::all().find(wanted.release).nature;
            let reason = report.failure.as_ref().map(|failure| failure.code);
            match report.phase {
                Phase::Confirmed => assert_eq!(serving, Some(wanted.release), "{label}: {name}"),
                Phase::Failed => {
                    let failed = report.failure.as_ref().map(|failure| failure.release);
                    assert_eq!(failed, Some(wanted.release), "{label}: {name}");
                }
                phase => panic!("{label}: {name} rests in {phase:?}: {report:?}"),
            }
            let expected = match nature {
                Nature::Good => None,
                Nature::Unsigned => Some(ErrorCode::SignatureInvalid),
                Nature::BelowFloor => Some(ErrorCode::BelowFloor),
                Nature::FailsProbe => Some(ErrorCode::ProbeMismatch),
                Nature::FailsLoad => Some(ErrorCode::ModelUnsupported),
                Nature::FailsUnderLoad | Nature::KillsLoaded => Some(ErrorCode::ProbationFailed),
                Nature::KillsProbed => Some(ErrorCode::ProbeCrashed),
            };
            // A device that goes down again and again gives the release that is at work then up.
            let given_up = matches!(
                reason,
                Some(ErrorCode::ProbeCrashed | ErrorCode::ProbationFailed | ErrorCode::ModelCrashed)
            );
            assert!(
                reason == expected || !healthy && given_up,
                "{label}: {name} of nature {nature:?} ends with {reason:?}, expected {expected:?}"
            );
        }
        let mut moments = self.cloud.moments();
        let records = moments.len();
        moments.sort_unstable();
        moments.dedup();
        assert_eq!(moments.len(), records, "{label}: the cloud has a record twice");
        let waiting = self.run.records.as_ref().map(|records| records.waiting());
        assert_eq!(waiting, Some(0), "{label}: records wait for a cloud that is there");
    }
}
