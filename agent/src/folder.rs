//! The agent's folder: where everything lies, and that only one agent uses it.

use crate::Error;
use crate::disk::{Disk, DiskError, FolderDisk};
use crate::slot::Slot;
pub use flotilla_launcher::AGENT;
use flotilla_launcher::journal::LaunchFile;
use flotilla_launcher::lock::{self, Lock};
use flotilla_launcher::slot_folder;
use flotilla_protocol::ModelName;
use flotilla_protocol::message::SlotName;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Folder with the identity.
pub const IDENTITY: &str = "identity";
/// A second copy of what is in it.
pub const IDENTITY_COPY: &str = "identity.copy";
/// The accepted trust file.
pub const TRUST: &str = "trust.cbor";
/// A second copy of it.
pub const TRUST_COPY: &str = "trust.copy.cbor";
/// The accepted desired document.
pub const DESIRED: &str = "desired.cbor";
/// Version of the accepted desired document and the latest proof of time.
pub const ACCEPTED: &str = "accepted";
/// How often a hello was said.
pub const COUNTER: &str = "counter";
/// Commands that were done.
pub const COMMANDS: &str = "commands";
/// The update journal of the agent's own release.
pub const AGENT_JOURNAL: &str = "agent/journal";
/// Folder with the models.
pub const MODELS: &str = "models";
/// Folder with inputs that are kept for the cloud.
pub const HARD: &str = "hard";
/// Folder with what is being measured.
pub const MEASURE: &str = "measure";
/// Folder with the outbox.
pub const OUTBOX: &str = "outbox";
/// Folder with the lines of what came from folders and cameras.
pub const RESULTS: &str = "results";
/// Folder with the log.
pub const LOGS: &str = "logs";
/// Folder with what was done of them.
pub const FEEDS: &str = "feeds";
/// Folder with what only the running process has to say.
pub const RUN: &str = "run";
/// Where the local endpoint listens.
pub const ENDPOINT: &str = "run/endpoint";
/// Configuration.
pub const CONFIG: &str = "agent.toml";

/// The agent's folder, without a claim on it.
#[derive(Clone)]
pub struct Folder {
    root: PathBuf,
    disk: Arc<dyn Disk>,
}

impl Folder {
    /// The folder at `root`, created if need be.
    pub fn open(root: &Path) -> Result<Self, DiskError> {
        let disk = FolderDisk::new(root)?;
        Ok(Self { root: root.to_owned(), disk: Arc::new(disk) })
    }

    /// A folder whose small files go through `disk`.
    pub fn with_disk(root: &Path, disk: Arc<dyn Disk>) -> Self {
        Self { root: root.to_owned(), disk }
    }

    /// Claims the folder for this process.
    pub fn lock(&self) -> Result<Lock, Error> {
        Ok(lock::agent(&self.root)?)
    }

    /// Whether an agent uses the folder. Makes and keeps nothing: whoever looks is in nobody's way.
    pub fn is_in_use(&self) -> Result<bool, DiskError> {
        lock::is_held(&self.root)
    }

    /// The launch journal.
    pub fn launch_file(&self) -> LaunchFile {
        LaunchFile::new(Arc::clone(&self.disk))
    }

    /// The folder itself.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Its small files.
    pub fn disk(&self) -> &dyn Disk {
        &*self.disk
    }

    /// An absolute path.
    pub fn path(&self, relative: &str) -> PathBuf {
        self.root.join(relative)
    }

    /// Relative path of a model's journal.
    pub fn journal(model: &ModelName) -> PathBuf {
        Self::model(model).join("journal")
    }

    /// Relative path of a model's folder.
    pub fn model(model: &ModelName) -> PathBuf {
        Path::new(MODELS).join(model.as_str())
    }

    /// A slot of a model.
    pub fn slot(&self, model: &ModelName, slot: SlotName) -> Slot {
        self.slot_in(&Self::model(model), slot)
    }

    /// Where the release lies that runs beside a model's confirmed one.
    pub fn shadow(&self, model: &ModelName) -> Slot {
        Slot::new(Arc::clone(&self.disk), &self.root, Self::model(model).join("shadow"))
    }

    /// Where a model lies that is being measured.
    pub fn measurement(&self) -> Slot {
        Slot::new(Arc::clone(&self.disk), &self.root, MEASURE.into())
    }

    /// Relative path of the journal of a model's shadow.
    pub fn shadow_journal(model: &ModelName) -> PathBuf {
        Self::model(model).join("shadow.journal")
    }

    /// A slot of the agent's own releases.
    pub fn agent_slot(&self, slot: SlotName) -> Slot {
        self.slot_in(AGENT.as_ref(), slot)
    }

    fn slot_in(&self, folder: &Path, slot: SlotName) -> Slot {
        Slot::new(Arc::clone(&self.disk), &self.root, slot_folder(folder, slot))
    }

    /// Bytes that slots, records, hard examples, results of feeds and the agent's own releases take on the disk: all but
    /// the log, for which [`crate::config::Config`] sets its whole bound aside.
    pub fn used_bytes(&self) -> u64 {
        [MODELS, MEASURE, AGENT, OUTBOX, HARD, RESULTS, FEEDS]
            .iter()
            .map(|part| taken(&self.root.join(part)))
            .sum()
    }

    /// Free bytes on its disk for the agent's user.
    pub fn free_bytes(&self) -> Result<u64, DiskError> {
        let fail = |e: rustix::io::Errno| DiskError::of(&self.root, e.into());
        let stat = rustix::fs::statvfs(&self.root).map_err(fail)?;
        Ok(stat.f_bavail.saturating_mul(stat.f_frsize))
    }
}

/// Bytes that a folder's files take on the disk. What cannot be looked at takes none.
fn taken(path: &Path) -> u64 {
    let entries = std::fs::read_dir(path).into_iter().flatten().flatten();
    let of = |entry: std::fs::DirEntry| match entry.metadata() {
        Ok(meta) if meta.is_dir() => taken(&entry.path()),
        // What the system counts the size of files on the disk in: stat(2), `st_blocks`.
        Ok(meta) => meta.blocks().saturating_mul(512),
        Err(_) => 0,
    };
    entries.map(of).sum()
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests fail by panicking")]
mod tests {
    use super::*;
    use flotilla_protocol::ErrorCode;

    #[test]
    fn a_second_agent_on_the_same_folder_is_told_so() {
        let root = tempfile::tempdir().unwrap();
        let folder = Folder::open(root.path()).unwrap();
        let lock = folder.lock().unwrap();
        let error = Folder::open(root.path()).unwrap().lock().unwrap_err();
        assert_eq!(error.code(), ErrorCode::StorageInUse);
        drop(lock);
        folder.lock().unwrap();
    }

    #[test]
    fn what_lies_in_slots_and_outbox_is_counted() {
        let root = tempfile::tempdir().unwrap();
        let folder = Folder::open(root.path()).unwrap();
        assert_eq!(folder.used_bytes(), 0);
        for file in
            ["models/m/slot-a/files/x", "outbox/db", "agent/slot-b/files/y", "results/door.jsonl", "log"]
        {
            folder.disk().replace(file.as_ref(), &[7; 100_000]).unwrap();
        }
        assert!((400_000..480_000).contains(&folder.used_bytes()), "{}", folder.used_bytes());
    }

    #[test]
    fn the_disk_has_some_room() {
        let root = tempfile::tempdir().unwrap();
        assert!(Folder::open(root.path()).unwrap().free_bytes().unwrap() > 0);
    }
}
