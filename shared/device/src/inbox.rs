//! The files of a folder that wait to be taken: which is ready, and which is still being written.
//!
//! A file is ready when it has not changed for a while after its writer has closed it. One whose writer neither writes
//! nor closes it for [`STALLED_MS`] is taken as it is. Whatever is missed (a full queue, lost notices) is found by looking
//! into the folder again, which is always allowed.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::{OsStr, OsString};
use std::fmt;

/// Files that wait at most; others stay in the folder until there is room.
pub const QUEUE: usize = 4_096;
/// How long a writer may do nothing with a file that it holds open.
pub const STALLED_MS: u64 = 60_000;

/// What tells one content of a file from another. The system sets the time by itself whenever content, name or rights
/// change: no copy and no later file of the same inode has it too.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Stamp {
    /// Number of the file in its file system.
    pub inode: u64,
    /// Its size.
    pub bytes: u64,
    /// When it was changed last, in nanoseconds since 1970.
    pub changed_ns: i128,
}

impl fmt::Display for Stamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}-{}", self.inode, self.bytes, self.changed_ns)
    }
}

impl std::str::FromStr for Stamp {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        let mut parts = text.splitn(3, '-');
        let mut part = || parts.next().ok_or(());
        Ok(Self {
            inode: part()?.parse().map_err(drop)?,
            bytes: part()?.parse().map_err(drop)?,
            changed_ns: part()?.parse().map_err(drop)?,
        })
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Waiting {
    stamp: Stamp,
    /// Somebody may still write into it.
    open: bool,
    ready_ms: u64,
}

/// The files that wait.
#[derive(Clone, Debug)]
pub struct Inbox {
    settle_ms: u64,
    files: BTreeMap<OsString, Waiting>,
    by_time: BTreeSet<(u64, OsString)>,
    missed: bool,
}

impl Inbox {
    /// An inbox of nothing, for files that are ready once they have not changed for so long.
    pub fn new(settle_ms: u64) -> Self {
        Self { settle_ms, files: BTreeMap::new(), by_time: BTreeSet::new(), missed: false }
    }

    /// A file was seen; `open` says that it was just made, and its writer has not closed it yet.
    pub fn seen(&mut self, name: &OsStr, stamp: Stamp, open: bool, now_ms: u64) {
        match self.files.get(name).copied() {
            Some(waiting) if waiting.stamp == stamp => {}
            // Whoever looks into the folder does not see who holds a file open.
            Some(waiting) => self.wait(name, stamp, open || waiting.open, now_ms),
            None if self.files.len() >= QUEUE => self.missed = true,
            None => self.wait(name, stamp, open, now_ms),
        }
    }

    /// The writer of a file has closed it.
    pub fn closed(&mut self, name: &OsStr, stamp: Stamp, now_ms: u64) {
        if self.files.len() >= QUEUE && !self.files.contains_key(name) {
            self.missed = true;
            return;
        }
        self.wait(name, stamp, false, now_ms);
    }

    /// A file is gone.
    pub fn gone(&mut self, name: &OsStr) {
        if let Some((name, waiting)) = self.files.remove_entry(name) {
            self.by_time.remove(&(waiting.ready_ms, name));
        }
    }

    /// Notices were lost: something may be in the folder of which nothing is known.
    pub fn lost_notices(&mut self) {
        self.missed = true;
    }

    /// Whether the folder is to be looked into, because something was missed and there is room again.
    pub fn wants_look(&self) -> bool {
        self.missed && self.files.is_empty()
    }

    /// The folder is being looked into.
    pub fn looks(&mut self) {
        self.missed = false;
    }

    /// The file that has been ready for the longest, if any is.
    pub fn next(&self, now_ms: u64) -> Option<&OsStr> {
        self.by_time.first().filter(|(ready_ms, _)| *ready_ms <= now_ms).map(|(_, name)| name.as_os_str())
    }

    /// What a file that is ready looks like now; `None` if it is not there. Whether it is to be taken, which it is
    /// unless it has changed: then it waits again.
    pub fn take(&mut self, name: &OsStr, stamp: Option<Stamp>, now_ms: u64) -> bool {
        let known = self.files.get(name).copied();
        match (known, stamp) {
            (Some(known), Some(stamp)) if known.stamp == stamp && known.ready_ms <= now_ms => {
                self.gone(name);
                true
            }
            (Some(known), Some(stamp)) => {
                self.wait(name, stamp, known.open, now_ms);
                false
            }
            _ => {
                self.gone(name);
                false
            }
        }
    }

    /// When the next file is ready, if one waits.
    pub fn due_ms(&self) -> Option<u64> {
        self.by_time.first().map(|(ready_ms, _)| *ready_ms)
    }

    /// Number of files that wait.
    pub fn len(&self) -> usize {
        self.files.len()
    }

    /// Whether none waits.
    pub fn is_empty(&self) -> bool {
        self.files.is_empty()
    }

    fn wait(&mut self, name: &OsStr, stamp: Stamp, open: bool, now_ms: u64) {
        self.gone(name);
        let ready_ms =
            now_ms.saturating_add(if open { STALLED_MS.max(self.settle_ms) } else { self.settle_ms });
        self.by_time.insert((ready_ms, name.to_owned()));
        self.files.insert(name.to_owned(), Waiting { stamp, open, ready_ms });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn stamp(bytes: u64) -> Stamp {
        Stamp { inode: 1, bytes, changed_ns: 5 }
    }

    fn name(text: &str) -> &OsStr {
        OsStr::new(text)
    }

    #[test]
    fn a_file_is_ready_once_its_writer_is_done_with_it() {
        let mut inbox = Inbox::new(100);
        inbox.seen(name("a"), stamp(0), true, 0);
        assert_eq!((inbox.next(5_000), inbox.due_ms()), (None, Some(STALLED_MS)));
        inbox.closed(name("a"), stamp(7), 6_000);
        assert_eq!((inbox.next(6_099), inbox.next(6_100)), (None, Some(name("a"))));
        assert!(inbox.take(name("a"), Some(stamp(7)), 6_100));
        assert!(inbox.is_empty());
    }

    #[test]
    fn looking_into_the_folder_does_not_make_a_file_ready_that_is_being_written() {
        let mut inbox = Inbox::new(100);
        inbox.seen(name("a"), stamp(0), true, 0);
        inbox.seen(name("a"), stamp(0), false, 30_000);
        inbox.seen(name("a"), stamp(5), false, 40_000);
        assert_eq!(inbox.due_ms(), Some(40_000 + STALLED_MS));
        inbox.closed(name("a"), stamp(5), 41_000);
        assert_eq!(inbox.due_ms(), Some(41_100));
    }

    #[test]
    fn a_file_that_changes_waits_again_and_one_that_is_gone_is_forgotten() {
        let mut inbox = Inbox::new(100);
        inbox.seen(name("a"), stamp(1), false, 0);
        inbox.seen(name("b"), stamp(1), false, 1);
        assert_eq!(inbox.next(200), Some(name("a")));
        assert!(!inbox.take(name("a"), Some(stamp(2)), 200), "it grew");
        assert_eq!(inbox.next(250), Some(name("b")));
        assert!(!inbox.take(name("b"), None, 250));
        assert!(inbox.take(name("a"), Some(stamp(2)), 300));
    }

    #[test]
    fn a_writer_that_hangs_is_not_waited_for_for_ever() {
        let mut inbox = Inbox::new(100);
        inbox.seen(name("a"), stamp(1), true, 0);
        assert_eq!(inbox.next(STALLED_MS), Some(name("a")));
        assert!(!inbox.take(name("a"), Some(stamp(2)), STALLED_MS), "it still writes");
        assert!(inbox.take(name("a"), Some(stamp(2)), 2 * STALLED_MS));
    }

    #[test]
    fn beyond_the_bound_files_stay_where_they_are_until_there_is_room() {
        let mut inbox = Inbox::new(0);
        for number in 0..=QUEUE {
            inbox.seen(name(&format!("{number:05}")), stamp(1), false, 0);
        }
        assert_eq!(inbox.len(), QUEUE);
        assert!(!inbox.wants_look(), "there is no room yet");
        while let Some(next) = inbox.next(0).map(OsStr::to_owned) {
            assert!(inbox.take(&next, Some(stamp(1)), 0));
        }
        assert!(inbox.wants_look());
        inbox.looks();
        assert!(!inbox.wants_look());
    }

    proptest! {
        #[test]
        fn every_file_is_taken_once_it_rests_and_only_as_it_was_seen_last(
            steps in prop::collection::vec((0u8..4, 0u8..3, 0u64..5, 0u64..300), 0..100),
        ) {
            let mut inbox = Inbox::new(100);
            let mut now_ms = 0;
            let mut last = BTreeMap::new();
            for (what, file, bytes, later) in steps {
                now_ms += later;
                let file = file.to_string();
                let file = name(&file);
                match what {
                    0 => inbox.seen(file, stamp(bytes), true, now_ms),
                    1 => inbox.seen(file, stamp(bytes), false, now_ms),
                    2 => inbox.closed(file, stamp(bytes), now_ms),
                    _ => inbox.gone(file),
                }
                if what == 3 { last.remove(file); } else { last.insert(file.to_owned(), stamp(bytes)); }
                prop_assert_eq!(inbox.files.len(), inbox.by_time.len());
            }
            prop_assert_eq!(inbox.len(), last.len());
            now_ms += STALLED_MS + 1;
            while let Some(file) = inbox.next(now_ms).map(OsStr::to_owned) {
                prop_assert!(inbox.take(&file, last.remove(&file), now_ms));
            }
            prop_assert!(last.is_empty() && inbox.is_empty());
        }

        #[test]
        fn a_stamp_reads_as_it_was_written(inode: u64, bytes: u64, changed_ns: i128) {
            let stamp = Stamp { inode, bytes, changed_ns };
            prop_assert_eq!(stamp.to_string().parse(), Ok(stamp));
        }
    }
}
