//! A file of lines within a bound: when it is full it becomes `NAME.1`, in place of an earlier one, and a new one
//! begins. What an append could not finish is cut off again, at once or when the file is opened: half a line, or the
//! zeros that a power cut leaves where a file grew and its content did not come to the disk.

use super::config::older;
use crate::disk::{self, DiskError};
use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

/// Longest line; the end of a file is read so far back.
const LINE: u64 = 64 * 1024;

/// The file, open for appending.
#[derive(Debug)]
pub(super) struct ResultLog {
    path: PathBuf,
    max: u64,
    file: File,
    length: u64,
}

impl ResultLog {
    /// Opens or makes the file, and gives the last line that was ever written.
    pub(super) fn open(path: &Path, max: u64) -> Result<(Self, Option<Vec<u8>>), DiskError> {
        let failed = |source| DiskError::of(path, source);
        disk::private_folder(path.parent().unwrap_or(Path::new("/")))?;
        let file = open(path)?;
        let found = file.metadata().map_err(failed)?.len();
        let written = without_zeros(&file, found).map_err(failed)?;
        let tail = tail(&file, written).map_err(failed)?;
        let whole = tail.iter().rposition(|byte| *byte == b'\n').map_or(0, |last| last + 1);
        // Of blocks that are written in any order the first ones may be missing, too.
        let begins = tail[whole..].iter().find(|byte| **byte != 0);
        // Somebody else's file must not lose its end.
        if begins.is_some_and(|byte| *byte != b'{' || (whole == 0 && written > LINE)) {
            let problem = io::Error::new(io::ErrorKind::InvalidData, "it holds something else than results");
            return Err(failed(problem));
        }
        let length = written - (tail.len() - whole) as u64;
        if length < found {
            file.set_len(length).and_then(|()| file.sync_all()).map_err(failed)?;
        }
        let mut last = last_line(&tail[..whole]);
        if last.is_none() {
            let before = File::open(older(path)).and_then(|file| tail_of(&file));
            last = before.ok().and_then(|tail| last_line(&tail));
        }
        Ok((Self { path: path.to_owned(), max, file, length }, last))
    }

    /// Appends a line and its end. `durable` says that it survives a power cut when this returns. After an error the
    /// file is what it was before.
    pub(super) fn append(&mut self, line: &str, durable: bool) -> Result<(), DiskError> {
        let bytes = [line.as_bytes(), b"\n"].concat();
        self.find()?;
        if self.length > 0 && self.length + bytes.len() as u64 > self.max {
            self.rotate()?;
        }
        let written = self.file.write_all_at(&bytes, self.length);
        let written = written.and_then(|()| if durable { self.file.sync_data() } else { Ok(()) });
        if let Err(error) = written {
            let _ = self.file.set_len(self.length);
            return Err(DiskError::of(&self.path, error));
        }
        self.length += bytes.len() as u64;
        Ok(())
    }

    /// Somebody may have moved or removed the file.
    fn find(&mut self) -> Result<(), DiskError> {
        let failed = |source| DiskError::of(&self.path, source);
        let own = self.file.metadata().map_err(failed)?;
        let there = fs::metadata(&self.path).ok();
        if there.is_none_or(|there| (there.dev(), there.ino()) != (own.dev(), own.ino())) {
            self.file = open(&self.path)?;
            self.length = self.file.metadata().map_err(|e| DiskError::of(&self.path, e))?.len();
        }
        Ok(())
    }

    fn rotate(&mut self) -> Result<(), DiskError> {
        fs::rename(&self.path, older(&self.path)).map_err(|e| DiskError::of(&self.path, e))?;
        self.file = open(&self.path)?;
        self.length = 0;
        Ok(())
    }
}

/// The file's place is durable, too.
fn open(path: &Path) -> Result<File, DiskError> {
    let file = OpenOptions::new().read(true).write(true).create(true).truncate(false).mode(0o644).open(path);
    let file = file.map_err(|e| DiskError::of(path, e))?;
    disk::sync_folder(path.parent().unwrap_or(Path::new("/")))?;
    Ok(file)
}

/// Where the zeros begin that a file ends with; its length if there are none.
fn without_zeros(file: &File, length: u64) -> io::Result<u64> {
    let mut end = length;
    while end > 0 {
        let tail = tail(file, end)?;
        let from = end - tail.len() as u64;
        if let Some(last) = tail.iter().rposition(|byte| *byte != 0) {
            return Ok(from + last as u64 + 1);
        }
        end = from;
    }
    Ok(end)
}

fn tail_of(file: &File) -> io::Result<Vec<u8>> {
    tail(file, file.metadata()?.len())
}

fn tail(file: &File, length: u64) -> io::Result<Vec<u8>> {
    let from = length.saturating_sub(LINE);
    let mut bytes = vec![0; usize::try_from(length - from).unwrap_or(0)];
    file.read_exact_at(&mut bytes, from)?;
    Ok(bytes)
}

fn last_line(whole: &[u8]) -> Option<Vec<u8>> {
    let lines = whole.strip_suffix(b"\n")?;
    Some(lines.rsplit(|byte| *byte == b'\n').next().unwrap_or(lines).to_vec())
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests fail by panicking")]
mod tests {
    use super::*;

    #[test]
    fn two_files_of_bounded_size_hold_the_newest_lines() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("results/out.jsonl");
        let (mut log, last) = ResultLog::open(&path, 100).unwrap();
        assert_eq!(last, None);
        for number in 0..50 {
            log.append(&format!("{{\"number\":{number:04}}}"), number % 2 == 0).unwrap();
        }
        let (now, before) = (fs::read_to_string(&path).unwrap(), fs::read_to_string(older(&path)).unwrap());
        assert!(now.len() <= 100 && before.len() <= 100);
        let all = before + &now;
        let numbers: Vec<&str> = all.lines().map(|line| &line[10..14]).collect();
        assert_eq!(numbers.last(), Some(&"0049"));
        assert!(numbers.windows(2).all(|pair| pair[0] < pair[1]), "{numbers:?}");
        assert_eq!(fs::read_dir(folder.path().join("results")).unwrap().count(), 2);
        drop(log);
        assert_eq!(ResultLog::open(&path, 100).unwrap().1.unwrap(), b"{\"number\":0049}");
        // A kill between the rename and the first line.
        fs::rename(&path, older(&path)).unwrap();
        assert_eq!(ResultLog::open(&path, 100).unwrap().1.unwrap(), b"{\"number\":0049}");
    }

    #[test]
    fn half_a_line_is_cut_off_but_never_the_end_of_somebody_elses_file() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("out.jsonl");
        for (before, after, last) in [
            ("{\"a\":1}\n{\"b\"", "{\"a\":1}\n", Some(&b"{\"a\":1}"[..])),
            ("{\"a\"", "", None),
            ("{\"a\":1}\n", "{\"a\":1}\n", Some(b"{\"a\":1}")),
            // A power cut.
            ("{\"a\":1}\n\0\0\0", "{\"a\":1}\n", Some(b"{\"a\":1}")),
            ("{\"a\":1}\n{\"b\0\0", "{\"a\":1}\n", Some(b"{\"a\":1}")),
            ("{\"a\":1}\n\0\0{\"b\"", "{\"a\":1}\n", Some(b"{\"a\":1}")),
            ("\0\0\0\0", "", None),
            (
                &format!("{{\"a\":1}}\n{{\"b{}", "\0".repeat(3 * LINE as usize)),
                "{\"a\":1}\n",
                Some(b"{\"a\":1}"),
            ),
        ] {
            fs::write(&path, before).unwrap();
            let (mut log, got) = ResultLog::open(&path, 100).unwrap();
            assert_eq!(got.as_deref(), last, "{before}");
            log.append("{}", true).unwrap();
            assert_eq!(fs::read_to_string(&path).unwrap(), format!("{after}{{}}\n"));
        }
        for foreign in ["a letter to my mother", "a list\nof things", "a picture\0\0", "{}\n\0\0\u{1}\0"] {
            fs::write(&path, foreign).unwrap();
            assert!(ResultLog::open(&path, 100).unwrap_err().to_string().contains("something else"));
            assert_eq!(fs::read_to_string(&path).unwrap(), foreign);
        }
    }

    #[test]
    fn a_file_that_others_moved_away_begins_anew() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("out.jsonl");
        let (mut log, _) = ResultLog::open(&path, 1_000).unwrap();
        log.append("{\"a\":1}", true).unwrap();
        fs::rename(&path, folder.path().join("archived")).unwrap();
        log.append("{\"b\":2}", true).unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), "{\"b\":2}\n");
        assert_eq!(fs::read_to_string(folder.path().join("archived")).unwrap(), "{\"a\":1}\n");
    }
}
