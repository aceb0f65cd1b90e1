//! The files that are done with and still in their folder: those that are to be kept, and those that cannot be moved.

use crate::disk::{self, DiskError};
use flotilla_device::inbox::Stamp;
use flotilla_protocol::limits;
use std::collections::BTreeMap;
use std::fs::OpenOptions;
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

/// Files in one folder that are done with at most.
pub(super) const MOST: usize = 65_536;
/// Files that are gone from the folder and need not be forgotten yet.
const SLACK: usize = 1_024;
/// Largest stored list: a stamp has three numbers, of 20, 20 and 40 digits at most.
const BYTES: usize = 8 * limits::MIB;

/// The list: each stamp, and whether the file was refused.
#[derive(Debug)]
pub(super) struct Kept {
    path: PathBuf,
    files: BTreeMap<Stamp, bool>,
}

impl Kept {
    /// Reads the list; what a kill cut short has its line in the results, and is found there.
    pub(super) fn open(path: &Path) -> Result<Self, DiskError> {
        let bytes = disk::read(path, BYTES)?.unwrap_or_default();
        let of = |line: &str| {
            let (stamp, how) = line.split_once(' ')?;
            Some((
                stamp.parse().ok()?,
                match how {
                    "refused" => true,
                    "predicted" => false,
                    _ => return None,
                },
            ))
        };
        let files = String::from_utf8_lossy(&bytes).lines().filter_map(of).collect();
        Ok(Self { path: path.to_owned(), files })
    }

    /// Whether the file is done with; if so, whether it was refused.
    pub(super) fn get(&self, stamp: &Stamp) -> Option<bool> {
        self.files.get(stamp).copied()
    }

    /// Whether there is no room for another one.
    pub(super) fn is_full(&self) -> bool {
        self.files.len() >= MOST
    }

    /// Whether many of them may be gone from the folder, which holds so many files.
    pub(super) fn is_stale(&self, there: usize) -> bool {
        self.is_full() || self.files.len() > 2 * there + SLACK
    }

    /// Adds a file, durably.
    pub(super) fn add(&mut self, stamp: Stamp, refused: bool) -> Result<(), DiskError> {
        if self.get(&stamp) == Some(refused) {
            return Ok(());
        }
        let fail = |error| DiskError::of(&self.path, error);
        disk::private_folder(self.path.parent().unwrap_or(Path::new("/")))?;
        let file = OpenOptions::new().append(true).create(true).mode(0o600).open(&self.path);
        // A torn line before it must not take this one with it.
        let line = format!("\n{}", line(&stamp, refused));
        file.and_then(|mut file| file.write_all(line.as_bytes()).and_then(|()| file.sync_data()))
            .map_err(fail)?;
        self.files.insert(stamp, refused);
        Ok(())
    }

    /// Forgets a file that is gone from the folder.
    pub(super) fn remove(&mut self, stamp: &Stamp) {
        self.files.remove(stamp);
    }

    /// Forgets all files but these, which are in the folder.
    pub(super) fn retain(&mut self, there: impl Fn(&Stamp) -> bool) -> Result<(), DiskError> {
        let before = self.files.len();
        self.files.retain(|stamp, _| there(stamp));
        if self.files.len() == before {
            return Ok(());
        }
        let text: String = self.files.iter().map(|(stamp, refused)| line(stamp, *refused)).collect();
        disk::replace(&self.path, text.as_bytes())
    }
}

fn line(stamp: &Stamp, refused: bool) -> String {
    format!("{stamp} {}\n", if refused { "refused" } else { "predicted" })
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests fail by panicking")]
mod tests {
    use super::*;

    #[test]
    fn the_list_outlives_the_process_and_a_torn_line() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("feeds/in.kept");
        let stamp = |inode| Stamp { inode, bytes: 5, changed_ns: -1 };
        let mut kept = Kept::open(&path).unwrap();
        kept.add(stamp(1), false).unwrap();
        kept.add(stamp(2), true).unwrap();
        let whole = std::fs::read(&path).unwrap();
        std::fs::write(&path, &whole[..whole.len() - 4]).unwrap();
        let mut kept = Kept::open(&path).unwrap();
        assert_eq!((kept.get(&stamp(1)), kept.get(&stamp(2))), (Some(false), None));
        kept.add(stamp(3), true).unwrap();
        let mut kept = Kept::open(&path).unwrap();
        assert_eq!((kept.get(&stamp(1)), kept.get(&stamp(3))), (Some(false), Some(true)));
        kept.retain(|kept| *kept == stamp(3)).unwrap();
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "3-5--1 refused\n");
    }
}
