//! The log on the disk, for whoever asks for it from afar: `logs/agent.log` and what it was before, together within a
//! bound. Lines are not synced: a power cut costs the last ones.

use crate::disk::DiskError;
use crate::folder::{Folder, LOGS};
use flotilla_device::excerpt::Excerpt;
use flotilla_protocol::limits;
use flotilla_protocol::message::LogQuery;
use std::collections::BTreeSet;
use std::fs::{self, File, OpenOptions};
use std::io::{self, BufRead, BufReader, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

/// Files that the bound is divided among: the oldest one goes as a whole.
const FILES: u64 = 4;
/// Longest line that is kept; one that is longer is cut.
const LINE: usize = 16 * limits::KIB;

/// Where a file of the log lies; the higher its number, the older it is.
fn place(folder: &Path, number: u64) -> PathBuf {
    match number {
        0 => folder.join("agent.log"),
        number => folder.join(format!("agent.log.{number}")),
    }
}

/// Writes lines. Never fails: a log must not be in anybody's way. What could not be written is counted, and said when it
/// can be written again.
pub(super) struct Writer {
    folder: PathBuf,
    file_bytes: u64,
    open: Option<(File, u64)>,
    lost: u64,
}

impl Writer {
    /// A log of at most so many bytes. Nothing is made before the first line.
    pub(super) fn new(folder: &Folder, bytes: u64) -> Self {
        Self { folder: folder.path(LOGS), file_bytes: bytes / FILES, open: None, lost: 0 }
    }

    fn line(&mut self, line: &[u8]) -> io::Result<()> {
        let said = match self.lost {
            0 => Vec::new(),
            lost => format!("  ({lost} lines before this one could not be written)\n").into_bytes(),
        };
        let length = (said.len() + line.len()) as u64;
        let full = |(_, size): &(File, u64)| *size > 0 && size + length > self.file_bytes;
        if self.open.as_ref().is_none_or(full) {
            self.open = None;
            let (file, size) = self.reopen()?;
            let over = size > 0 && size + length > self.file_bytes;
            self.open = Some(if over { self.rotate()? } else { (file, size) });
        }
        let Some((file, size)) = &mut self.open else { return Ok(()) };
        let written = file.write_all(&said).and_then(|()| file.write_all(line));
        if written.is_err() {
            // Half a line would run into the next one.
            drop(file.set_len(*size));
            self.open = None;
            return written;
        }
        *size += length;
        self.lost = 0;
        Ok(())
    }

    /// Opens the newest file; a line that a kill cut in two is ended.
    fn reopen(&self) -> io::Result<(File, u64)> {
        fs::create_dir_all(&self.folder)?;
        let path = place(&self.folder, 0);
        let mut file = OpenOptions::new().append(true).read(true).create(true).mode(0o600).open(path)?;
        let size = file.seek(SeekFrom::End(0))?;
        let mut last = *b"\n";
        if size > 0 {
            file.seek(SeekFrom::End(-1))?;
            file.read_exact(&mut last)?;
        }
        if last == *b"\n" {
            return Ok((file, size));
        }
        file.write_all(b"\n")?;
        Ok((file, size + 1))
    }

    fn rotate(&self) -> io::Result<(File, u64)> {
        for number in (1..FILES).rev() {
            match fs::rename(place(&self.folder, number - 1), place(&self.folder, number)) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => {}
            }
        }
        self.reopen()
    }
}

/// One call a line, as `tracing_subscriber` writes them.
impl Write for Writer {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        let most = LINE.min(self.file_bytes as usize);
        let kept = if line.len() <= most {
            self.line(line)
        } else {
            let mut cut = line[..most.saturating_sub(1)].to_vec();
            cut.push(b'\n');
            self.line(&cut)
        };
        if kept.is_err() {
            self.lost += 1;
        }
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// The lines that are asked for, and how many of them found no room. Blocks.
pub(crate) fn pull(folder: &Folder, query: LogQuery) -> Result<(Vec<u8>, u64), DiskError> {
    let folder = folder.path(LOGS);
    // From the newest on: a file that is renamed meanwhile is then met twice rather than not at all.
    let (mut files, mut met) = (Vec::new(), BTreeSet::new());
    for number in 0..FILES {
        let path = place(&folder, number);
        let failed = |error| DiskError::of(&path, error);
        match File::open(&path) {
            Ok(file) => {
                let meta = file.metadata().map_err(failed)?;
                if met.insert(meta.ino()) {
                    files.push((path, file, meta.len()));
                }
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(failed(error)),
        }
    }
    let mut excerpt = Excerpt::new(query);
    let mut line = Vec::new();
    for (path, file, length) in files.into_iter().rev() {
        let mut reader = BufReader::new(file.take(length));
        loop {
            line.clear();
            let piece = (&mut reader).take(LINE as u64 + 1).read_until(b'\n', &mut line);
            if piece.map_err(|error| DiskError::of(&path, error))? == 0 {
                break;
            }
            if line.last() == Some(&b'\n') {
                line.pop();
            }
            excerpt.line(&line);
        }
    }
    Ok(excerpt.finish())
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests fail by panicking")]
mod tests {
    use super::*;
    use flotilla_protocol::message::LogLevel;

    const ALL: LogQuery =
        LogQuery { from_ms: 0, to_ms: u64::MAX, max_bytes: 1 << 20, level: LogLevel::Trace };

    fn text(n: usize) -> String {
        format!("1970-01-01T{:02}:{:02}:{:02}.000001Z  INFO a: line {n}\n", n / 3_600, n / 60 % 60, n % 60)
    }

    fn size(folder: &Folder) -> u64 {
        let entries = fs::read_dir(folder.path(LOGS)).unwrap();
        entries.map(|entry| entry.unwrap().metadata().unwrap().len()).sum()
    }

    #[test]
    fn the_newest_lines_are_kept_within_the_bound_over_restarts_in_the_middle_of_a_line() {
        let root = tempfile::tempdir().unwrap();
        let folder = Folder::open(root.path()).unwrap();
        assert_eq!(pull(&folder, ALL).unwrap(), (Vec::new(), 0), "no log, no lines");
        let bound = 4_096;
        let mut writer = Writer::new(&folder, bound);
        for n in 0..1_000 {
            writer.write_all(text(n).as_bytes()).unwrap();
            assert!(size(&folder) <= bound, "{n}");
            if n % 97 == 0 {
                // Killed while it wrote.
                let path = place(&folder.path(LOGS), 0);
                OpenOptions::new().append(true).open(path).unwrap().write_all(b"1970-01-0").unwrap();
                writer = Writer::new(&folder, bound);
            }
        }
        let (bytes, left_out) = pull(&folder, ALL).unwrap();
        let lines = String::from_utf8(bytes).unwrap();
        let whole: Vec<_> = lines.lines().filter(|line| line.contains("INFO")).collect();
        let first = 1_000 - whole.len();
        assert_eq!(whole, (first..1_000).map(|n| text(n).trim_end().to_owned()).collect::<Vec<_>>());
        assert!(lines.len() as u64 > bound / 2, "most of what may be kept is");
        assert_eq!(left_out, 0);
        let mode = fs::metadata(place(&folder.path(LOGS), 0)).unwrap().mode();
        assert_eq!(mode & 0o777, 0o600);

        let few = LogQuery { max_bytes: 200, ..ALL };
        let (bytes, left_out) = pull(&folder, few).unwrap();
        assert!(bytes.len() <= 200 && bytes.ends_with(text(999).as_bytes()));
        assert_eq!(left_out as usize + bytes.split(|b| *b == b'\n').count() - 1, lines.lines().count());
    }

    #[test]
    fn a_log_that_cannot_be_written_is_in_nobodys_way_and_says_so_later() {
        let root = tempfile::tempdir().unwrap();
        let folder = Folder::open(root.path()).unwrap();
        fs::write(folder.path(LOGS), "not a folder").unwrap();
        let mut writer = Writer::new(&folder, 1 << 20);
        for n in 0..3 {
            writer.write_all(text(n).as_bytes()).unwrap();
        }
        fs::remove_file(folder.path(LOGS)).unwrap();
        writer.write_all(text(3).as_bytes()).unwrap();
        writer.write_all(&[b'x'; 3 * LINE]).unwrap();
        let (bytes, _) = pull(&folder, ALL).unwrap();
        let lines = String::from_utf8(bytes).unwrap();
        assert!(lines.ends_with(&format!("{}\n", "x".repeat(LINE - 1))), "cut");
        let log = fs::read_to_string(place(&folder.path(LOGS), 0)).unwrap();
        assert!(log.starts_with("  (3 lines before this one could not be written)\n"), "{}", &log[..80]);
    }
}
