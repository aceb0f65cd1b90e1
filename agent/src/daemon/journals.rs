//! The update journals of the models: stored before a step counts, read at start, and made anew from what lies in the
//! slots when they cannot be read.

use crate::disk::{DiskError, patiently};
use crate::folder::{Folder, MODELS};
use flotilla_device::release::{Board, examine};
use flotilla_device::shadow::ShadowJournal;
use flotilla_device::update::UpdateJournal;
use flotilla_protocol::message::SlotName;
use flotilla_protocol::{Digest, ModelName, TrustFile, limits};
use std::path::Path;

const JOURNAL: usize = 64 * limits::KIB;

/// The models on the disk.
pub(crate) fn models(folder: &Folder) -> Result<Vec<ModelName>, DiskError> {
    settle(folder, Path::new(""));
    settle(folder, MODELS.as_ref());
    let names = folder.disk().folders(MODELS.as_ref())?;
    Ok(names.iter().filter_map(|name| name.parse().ok()).collect())
}

/// What was made right before the process was killed is there, but a power cut may still undo it, with all that was
/// done since because of it.
pub(super) fn settle(folder: &Folder, path: &Path) {
    let disk = folder.disk();
    let settled = patiently(|| if disk.exists(path)? { disk.sync_folder(path) } else { Ok(()) });
    if let Err(error) = settled {
        tracing::warn!(folder = %path.display(), %error, "what is in a folder may not survive a power cut");
    }
}

/// A model's journal, durable as it is, if there is one; or why it cannot be used.
pub(crate) fn read(folder: &Folder, name: &ModelName) -> Result<Option<UpdateJournal>, String> {
    settle(folder, &Folder::model(name));
    let bytes = folder.disk().read(&Folder::journal(name), JOURNAL).map_err(|e| e.to_string())?;
    bytes.map(|bytes| UpdateJournal::from_bytes(&bytes).map_err(|e| e.to_string())).transpose()
}

/// The journal with which a model goes on, made anew by `recover` if the stored one cannot be used; and why that was so.
pub(crate) fn take_up(
    folder: &Folder,
    name: &ModelName,
    recover: impl FnOnce() -> Option<UpdateJournal>,
) -> (UpdateJournal, Option<String>) {
    let problem = match read(folder, name) {
        Ok(Some(journal)) => return (journal, None),
        Ok(None) => None,
        Err(problem) => Some(problem),
    };
    let journal = recover().unwrap_or_default();
    // A model that comes or goes has nothing in its slots that could be lost.
    let missing = (!journal.is_empty()).then(|| "it is missing".to_owned());
    (journal, problem.or(missing))
}

/// Stores a model's journal durably.
pub(crate) fn store(folder: &Folder, name: &ModelName, journal: &UpdateJournal) -> Result<(), DiskError> {
    folder.disk().replace(&Folder::journal(name), &journal.to_bytes())
}

/// The journal of a model's shadow, durable as it is; an empty one if there is none; or why it cannot be used.
pub(crate) fn read_shadow(folder: &Folder, name: &ModelName) -> Result<ShadowJournal, String> {
    settle(folder, &Folder::model(name));
    let bytes = folder.disk().read(&Folder::shadow_journal(name), JOURNAL).map_err(|e| e.to_string())?;
    let journal =
        bytes.map(|bytes| ShadowJournal::from_bytes(&bytes).map_err(|e| e.to_string())).transpose()?;
    Ok(journal.unwrap_or_default())
}

/// Stores the journal of a model's shadow durably.
pub(crate) fn store_shadow(
    folder: &Folder,
    name: &ModelName,
    journal: &ShadowJournal,
) -> Result<(), DiskError> {
    folder.disk().replace(&Folder::shadow_journal(name), &journal.to_bytes())
}

/// Without a journal nobody knows which slot worked. A whole release that passes every check of a new one, the wanted one
/// first, is taken as a candidate, and has to pass probe and probation again.
pub(crate) fn recovered(
    folder: &Folder,
    name: &ModelName,
    wanted: Option<Digest>,
    trust: &TrustFile,
    trusted_ms: u64,
    board: &Board,
) -> UpdateJournal {
    let whole = |slot: SlotName| {
        let place = folder.slot(name, slot);
        let bytes = place.envelope_bytes()?;
        let release = Digest::of(&bytes);
        let manifest = examine(&bytes, release, name, trust, trusted_ms, board, |m| m.total_bytes()).ok()?;
        place.check(&manifest).ok()?;
        Some((manifest.counter, slot, release))
    };
    let found = [SlotName::A, SlotName::B].into_iter().filter_map(whole);
    let best = found.max_by_key(|(counter, _, release)| (wanted == Some(*release), *counter));
    best.map_or_else(UpdateJournal::default, |(counter, slot, release)| {
        UpdateJournal::recovered(slot, release, counter)
    })
}
