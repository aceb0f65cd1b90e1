//! Claims on the agent's folder: one agent uses it, and one launcher.

use crate::AGENT;
use crate::disk::{self, DiskError};
use std::fs::{File, OpenOptions, TryLockError};
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

const LOCK: &str = "lock";
/// How often a lock that is held is tried, and how long after each other.
const TRIES: u32 = 4;
const PAUSE: Duration = Duration::from_millis(10);

/// Proof that nobody else of its kind uses the folder; given back when dropped.
#[derive(Debug)]
pub struct Lock {
    _file: File,
}

/// Why there is no claim.
#[derive(Debug, thiserror::Error)]
pub enum LockError {
    /// The disk.
    #[error(transparent)]
    Disk(#[from] DiskError),
    /// Another process has it.
    #[error("another agent runs on {folder}; stop it first, or use another --dir", folder = folder.display())]
    InUse {
        /// The folder.
        folder: PathBuf,
    },
}

/// Claims the folder for this agent.
pub fn agent(root: &Path) -> Result<Lock, LockError> {
    claim(root, &root.join(LOCK))
}

/// Claims the folder for this launcher.
pub fn launcher(root: &Path) -> Result<Lock, LockError> {
    let folder = root.join(AGENT);
    disk::private_folder(&folder)?;
    claim(root, &folder.join(LOCK))
}

/// Whether an agent uses the folder. Makes and keeps nothing: whoever looks is in nobody's way.
pub fn is_held(root: &Path) -> Result<bool, DiskError> {
    let path = root.join(LOCK);
    let file = match File::open(&path) {
        Ok(file) => file,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(false),
        Err(e) => return Err(DiskError::of(&path, e)),
    };
    match file.try_lock_shared() {
        // Closing the file gives it back at once.
        Ok(()) => Ok(false),
        Err(TryLockError::WouldBlock) => Ok(true),
        Err(TryLockError::Error(e)) => Err(DiskError::of(&path, e)),
    }
}

fn claim(root: &Path, path: &Path) -> Result<Lock, LockError> {
    let file = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .open(path)
        .map_err(|e| DiskError::of(path, e))?;
    for try_ in 1.. {
        match file.try_lock() {
            Ok(()) => break,
            // Somebody may just be looking whether it is held, which takes no time.
            Err(TryLockError::WouldBlock) if try_ < TRIES => std::thread::sleep(PAUSE),
            Err(TryLockError::WouldBlock) => return Err(LockError::InUse { folder: root.to_owned() }),
            Err(TryLockError::Error(e)) => return Err(DiskError::of(path, e).into()),
        }
    }
    Ok(Lock { _file: file })
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests fail by panicking")]
mod tests {
    use super::*;

    #[test]
    fn a_second_agent_on_the_same_folder_is_told_so() {
        let root = tempfile::tempdir().unwrap();
        let lock = agent(root.path()).unwrap();
        assert!(matches!(agent(root.path()), Err(LockError::InUse { folder }) if folder == root.path()));
        launcher(root.path()).unwrap();
        drop(lock);
        agent(root.path()).unwrap();
    }

    #[test]
    fn whoever_looks_whether_a_folder_is_in_use_leaves_nothing_behind_and_holds_nobody_up() {
        let root = tempfile::tempdir().unwrap();
        assert!(!is_held(root.path()).unwrap());
        assert_eq!(std::fs::read_dir(root.path()).unwrap().count(), 0, "not even the lock's file");
        let lock = agent(root.path()).unwrap();
        assert!(is_held(root.path()).unwrap());
        drop(lock);
        assert!(!is_held(root.path()).unwrap());
        let looking = File::open(root.path().join(LOCK)).unwrap();
        looking.try_lock_shared().unwrap();
        assert!(!is_held(root.path()).unwrap(), "two may look");
        drop(looking);
        agent(root.path()).unwrap();
    }
}
