//! Which file is being predicted, kept where a kill cannot undo it: one that takes the agent down again and again is put
//! aside before its model is blamed. The system's cache holds what is written here; only a power cut can lose it, and
//! that is no file's fault.

use crate::disk::{self, DiskError};
use flotilla_device::inbox::Stamp;
use std::fs::{File, OpenOptions};
use std::io::{self, Read};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;

/// The agent may end so often while it predicts a file. The model gives way after five times.
pub(super) const MOST: u32 = 3;
/// A stamp, a number and blanks.
const BYTES: usize = 128;

/// The file that is at it.
#[derive(Debug)]
pub(super) struct Trial {
    file: File,
    /// The file at which an earlier agent ended, and how often.
    before: Option<(Stamp, u32)>,
}

impl Trial {
    pub(super) fn open(path: &Path) -> Result<Self, DiskError> {
        let failed = |error: io::Error| DiskError::of(path, error);
        disk::private_folder(path.parent().unwrap_or(Path::new("/")))?;
        let file =
            OpenOptions::new().read(true).write(true).create(true).truncate(false).mode(0o600).open(path);
        let file = file.map_err(failed)?;
        let mut text = String::new();
        // What cannot be read was written by nobody here.
        let _ = (&file).take(BYTES as u64).read_to_string(&mut text);
        let before = text
            .split_once(' ')
            .and_then(|(stamp, count)| Some((stamp.parse().ok()?, count.trim().parse().ok()?)));
        Ok(Self { file, before })
    }

    /// How often the agent has ended at this file.
    pub(super) fn ended(&self, stamp: Stamp) -> u32 {
        self.before.filter(|(before, _)| *before == stamp).map_or(0, |(_, count)| count)
    }

    /// A file is being predicted from now on. What cannot be noted is only not known later.
    pub(super) fn begin(&self, stamp: Stamp) {
        self.note(&format!("{stamp} {}", self.ended(stamp).saturating_add(1)));
    }

    /// The file did no harm.
    pub(super) fn end(&self) {
        self.note("");
    }

    fn note(&self, text: &str) {
        let _ = self.file.write_all_at(format!("{text:BYTES$}").as_bytes(), 0);
    }
}
