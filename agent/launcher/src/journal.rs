//! The launch journal on the disk, which launcher and agent both read and write: never at the same time, because the
//! launcher writes only while no agent of its own runs.
//!
//! It is stored twice, the first copy first. What a lost last write of it says anew is safe: a start that is counted
//! again, a candidate that confirms itself again.

use crate::AGENT;
use crate::disk::{Disk, DiskError};
use flotilla_device::launch::LaunchJournal;
use flotilla_protocol::limits;
use std::path::{Path, PathBuf};
use std::sync::Arc;

const NAMES: [&str; 2] = ["launch", "launch.copy"];
const BOUND: usize = 32 * limits::KIB;

/// The launch journal of a folder.
#[derive(Clone)]
pub struct LaunchFile {
    disk: Arc<dyn Disk>,
}

impl LaunchFile {
    /// The one on the disk of the agent's folder.
    pub fn new(disk: Arc<dyn Disk>) -> Self {
        Self { disk }
    }

    /// The journal, and what was wrong with what is stored. An empty journal if there is no usable one.
    pub fn read(&self) -> (LaunchJournal, Option<String>) {
        let (mut found, mut problem) = (None, None);
        for name in NAMES.map(path) {
            let read = self.disk.read(&name, BOUND).map_err(|e| e.to_string());
            let read = read.and_then(|bytes| match bytes {
                Some(bytes) => LaunchJournal::from_bytes(&bytes).map(Some).map_err(|e| e.to_string()),
                None => Ok(None),
            });
            match read {
                Ok(journal) => found = found.or(journal),
                Err(error) => problem = Some(format!("{}: {error}", name.display())),
            }
        }
        (found.unwrap_or_default(), problem)
    }

    /// Stores the journal durably. The first copy decides: what stands there is read.
    pub fn store(&self, journal: &LaunchJournal) -> Result<(), DiskError> {
        let bytes = journal.to_bytes();
        let [first, copy] = NAMES.map(path);
        self.disk.replace(&first, &bytes)?;
        if let Err(error) = self.disk.replace(&copy, &bytes) {
            tracing::warn!(%error, "the second copy of the launch journal is behind");
        }
        Ok(())
    }
}

fn path(name: &str) -> PathBuf {
    Path::new(AGENT).join(name)
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests fail by panicking")]
mod tests {
    use super::*;
    use crate::disk::FolderDisk;
    use flotilla_device::launch::{GivenUp, Why};
    use flotilla_protocol::Digest;

    fn journal() -> LaunchJournal {
        let given_up =
            GivenUp { release: Digest::of(b"x"), why: Why::Late, starts: 1, detail: String::new() };
        LaunchJournal { given_up: Some(given_up), ..LaunchJournal::default() }
    }

    #[test]
    fn one_damaged_copy_is_no_loss_and_two_are_said() {
        let root = tempfile::tempdir().unwrap();
        let file = LaunchFile::new(Arc::new(FolderDisk::new(root.path()).unwrap()));
        assert_eq!(file.read(), (LaunchJournal::default(), None));
        file.store(&journal()).unwrap();
        assert_eq!(file.read(), (journal(), None));
        let place = |name: &str| root.path().join(AGENT).join(name);
        for damage in ["", "rubbish", "FLJ\x01rubbish"] {
            std::fs::write(place("launch"), damage).unwrap();
            let (read, problem) = file.read();
            assert_eq!(read, journal());
            assert!(problem.unwrap().contains("agent/launch"));
        }
        file.store(&journal()).unwrap();
        std::fs::write(place("launch.copy"), "rubbish").unwrap();
        let (read, problem) = file.read();
        assert_eq!(read, journal());
        assert!(problem.unwrap().contains("agent/launch.copy"), "before the other copy rots, too");
        file.store(&journal()).unwrap();
        std::fs::remove_file(place("launch")).unwrap();
        assert_eq!(file.read(), (journal(), None));
        std::fs::write(place("launch.copy"), "rubbish").unwrap();
        let (read, problem) = file.read();
        assert_eq!(read, LaunchJournal::default());
        assert!(problem.is_some());
    }
}
