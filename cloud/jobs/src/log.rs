//! A job's log: bounded, with its end at hand for crash reports.

use crate::bounds::{LOG, LOG_TAIL};
use std::collections::VecDeque;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

/// Each of the two files in turn.
const FILE: usize = LOG / 2;

/// The log of a running attempt. Two files take turns, so that the end is always kept. Writing is a short copy
/// into the system's cache, therefore done in place.
#[derive(Debug)]
pub(crate) struct Log {
    path: PathBuf,
    file: File,
    written: usize,
    tail: VecDeque<u8>,
}

impl Log {
    pub(crate) fn create(path: &Path) -> io::Result<Self> {
        Ok(Self { path: path.to_path_buf(), file: open(path)?, written: 0, tail: VecDeque::new() })
    }

    pub(crate) fn append(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.tail.extend(&bytes[bytes.len().saturating_sub(LOG_TAIL)..]);
        self.tail.drain(..self.tail.len().saturating_sub(LOG_TAIL));
        for piece in bytes.chunks(FILE) {
            if self.written + piece.len() > FILE {
                fs::rename(&self.path, earlier(&self.path))?;
                self.file = open(&self.path)?;
                self.written = 0;
            }
            self.file.write_all(piece)?;
            self.written += piece.len();
        }
        Ok(())
    }

    /// The last whole lines.
    pub(crate) fn tail(&self) -> String {
        let bytes: Vec<u8> = self.tail.iter().copied().collect();
        let text = String::from_utf8_lossy(&bytes);
        let text = text.trim();
        match text.split_once('\n') {
            Some((_, whole)) if bytes.len() == LOG_TAIL => whole.to_owned(),
            _ => text.to_owned(),
        }
    }
}

fn open(path: &Path) -> io::Result<File> {
    OpenOptions::new().write(true).create(true).truncate(true).open(path)
}

fn earlier(path: &Path) -> PathBuf {
    path.with_extension("earlier.txt")
}

/// What is kept of a log. Blocking.
pub(crate) fn read(path: &Path) -> io::Result<Vec<u8>> {
    let mut all = Vec::new();
    for path in [earlier(path), path.to_path_buf()] {
        match fs::read(&path) {
            Ok(bytes) => all.extend(bytes),
            Err(e) if e.kind() == io::ErrorKind::NotFound => {}
            Err(e) => return Err(e),
        }
    }
    Ok(all)
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests fail by panicking")]
mod tests {
    use super::*;

    #[test]
    fn a_log_is_bounded_and_keeps_its_end() {
        let dir = tempfile::TempDir::new().unwrap();
        let path = dir.path().join("log.txt");
        let mut log = Log::create(&path).unwrap();
        let mut line = 0;
        let mut written = 0;
        while written < 5 * LOG {
            let text = format!("line {line} {}\n", "x".repeat(line % 3000));
            log.append(text.as_bytes()).unwrap();
            written += text.len();
            line += 1;
        }
        log.append(b"the end\n").unwrap();
        let kept = read(&path).unwrap();
        assert!(kept.len() <= LOG && kept.len() >= LOG / 2 - 3000, "{}", kept.len());
        assert!(kept.ends_with(b"the end\n"));
        assert!(log.tail().ends_with("the end") && log.tail().len() <= LOG_TAIL);
        log.append(&vec![b'y'; 3 * LOG]).unwrap();
        assert!(read(&path).unwrap().len() <= LOG);
    }
}
