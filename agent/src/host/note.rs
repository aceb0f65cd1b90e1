//! What was at work when the process ended.
//!
//! A model that takes the agent down leaves no word. So while a model is being loaded or predicts, one byte in a small
//! file says so. It is written without bringing it to stable storage, which outlives the process and costs about a
//! microsecond; beside it stands which boot of the machine it is of, since a power cut is nobody's fault.

use flotilla_protocol::ModelName;
use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

const WORKS: u8 = b'1';
const RESTS: u8 = b'0';
const BOOT_ID: &str = "/proc/sys/kernel/random/boot_id";

/// The notes of all models, one file each.
#[derive(Debug, Default)]
pub struct Notes {
    folder: Option<PathBuf>,
    notes: Mutex<BTreeMap<ModelName, Arc<Note>>>,
}

impl Notes {
    /// Notes that lie in this folder.
    pub fn new(folder: PathBuf) -> Self {
        Self { folder: Some(folder), notes: Mutex::default() }
    }

    /// The note of a model. Where its file cannot be written, nothing is noted.
    pub(crate) fn of(&self, model: &ModelName) -> Arc<Note> {
        let mut notes = self.notes.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(note) = notes.get(model) {
            return Arc::clone(note);
        }
        let opened = self.path(model).map(|path| Note::open(&path)).unwrap_or_default();
        let note = Arc::new(opened);
        notes.insert(model.clone(), Arc::clone(&note));
        note
    }

    /// Whether the process before this one, in this boot of the machine, ended while the model was at work. To be asked
    /// before anything is noted.
    pub(crate) fn was_at_work(&self, model: &ModelName) -> bool {
        let left = self.path(model).and_then(|path| fs::read(path).ok());
        left.is_some_and(|left| left.first() == Some(&WORKS) && left.get(1..) == Some(boot_id().as_bytes()))
    }

    fn path(&self, model: &ModelName) -> Option<PathBuf> {
        self.folder.as_ref().map(|folder| folder.join(format!("work-{model}")))
    }
}

/// Whether one model is at work.
#[derive(Debug, Default)]
pub(crate) struct Note {
    file: Option<File>,
    /// Loads and predictions that run.
    running: Mutex<u32>,
}

impl Note {
    fn open(path: &Path) -> Self {
        let file = OpenOptions::new().write(true).create(true).truncate(false).mode(0o600).open(path);
        let written = file.and_then(|file| {
            let content = format!("{}{}", char::from(RESTS), boot_id());
            file.write_all_at(content.as_bytes(), 0).map(|()| file)
        });
        if let Err(error) = &written {
            tracing::warn!(path = %path.display(), %error, "what is at work cannot be noted");
        }
        Self { file: written.ok(), running: Mutex::default() }
    }

    /// The model is at work until what is returned is dropped.
    pub(crate) fn at_work(self: &Arc<Self>) -> AtWork {
        self.count(|running| running + 1);
        AtWork(Arc::clone(self))
    }

    fn count(&self, change: impl FnOnce(u32) -> u32) {
        let mut running = self.running.lock().unwrap_or_else(PoisonError::into_inner);
        let before = *running;
        *running = change(before);
        if (before == 0) != (*running == 0)
            && let Some(file) = &self.file
        {
            // What cannot be noted is only not known later.
            let _ = file.write_all_at(&[if *running == 0 { RESTS } else { WORKS }], 0);
        }
    }
}

/// Proof that a model is noted as at work.
#[derive(Debug)]
pub(crate) struct AtWork(Arc<Note>);

impl Drop for AtWork {
    fn drop(&mut self) {
        self.0.count(|running| running.saturating_sub(1));
    }
}

fn boot_id() -> String {
    fs::read_to_string(BOOT_ID).unwrap_or_default().trim().to_owned()
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests fail by panicking")]
mod tests {
    use super::*;

    #[test]
    fn what_was_at_work_is_known_afterwards_and_a_reboot_is_no_crash() {
        let root = tempfile::tempdir().unwrap();
        let model: ModelName = "letters".parse().unwrap();
        let notes = Notes::new(root.path().to_owned());
        assert!(!notes.was_at_work(&model));
        let (one, two) = (notes.of(&model).at_work(), notes.of(&model).at_work());
        drop(one);
        // As a process that starts now sees it.
        let after = || Notes::new(root.path().to_owned()).was_at_work(&model);
        assert!(after());
        drop(two);
        assert!(!after());
        let _third = notes.of(&model).at_work();
        assert!(after());
        fs::write(root.path().join("work-letters"), "1another-boot").unwrap();
        assert!(!after(), "the machine went down, not the process");
    }
}
