//! Reads the frames of one segment in order and stops at the first place where there is none.

use super::frame::{self, HEADER, SEGMENT_HEADER};
use crate::error::{Error, IoContext, Result};
use crate::fs::{Fs, FsFile, ReadFrom};
use std::io::Read;
use std::path::{Path, PathBuf};

/// How much is read at once.
const READ_AHEAD: usize = 128 * 1024;

/// A reader at a place in one segment.
pub(crate) struct Scan {
    file: Box<dyn FsFile>,
    path: PathBuf,
    first: u64,
    position: u64,
    next: u64,
    chain: u32,
    frame_bytes: usize,
    ahead: Vec<u8>,
    ahead_at: u64,
}

impl Scan {
    /// A reader at the first frame. The segment's header must be right: a segment has no name before.
    pub(crate) fn open(fs: &dyn Fs, path: &Path, first: u64, frame_bytes: usize) -> Result<Self> {
        let file = fs.open_read(path).at("open", path)?;
        let (expected, chain) = frame::segment_header(first);
        let mut header = [0; SEGMENT_HEADER];
        match ReadFrom::new(&*file, 0).read_exact(&mut header) {
            Err(e) if e.kind() != std::io::ErrorKind::UnexpectedEof => {
                return Err(Error::io("read", path, e));
            }
            _ if header[..] != expected[..] => {
                return Err(Error::corrupt(path, "its first bytes are not those of a log segment"));
            }
            _ => {}
        }
        Ok(Self {
            file,
            path: path.to_path_buf(),
            first,
            position: SEGMENT_HEADER as u64,
            next: first,
            chain,
            frame_bytes,
            ahead: Vec::new(),
            ahead_at: 0,
        })
    }

    /// The number of the segment's first frame.
    pub(crate) fn first(&self) -> u64 {
        self.first
    }

    /// The number of the frame at the position.
    pub(crate) fn next(&self) -> u64 {
        self.next
    }

    /// Where the next frame starts.
    pub(crate) fn position(&self) -> u64 {
        self.position
    }

    /// The checksum of the last frame read.
    pub(crate) fn chain(&self) -> u32 {
        self.chain
    }

    /// The file that is read.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// The next frame with its number; none where no whole frame follows. May be called again after frames
    /// have been added.
    pub(crate) fn read(&mut self) -> Result<Option<(u64, Vec<u8>)>> {
        let mut header = [0; HEADER];
        if !self.fill(&mut header, self.position)? {
            return self.nothing();
        }
        let Some((len, checksum)) = frame::decode_header(header) else { return self.nothing() };
        if len as usize > self.frame_bytes {
            return self.nothing();
        }
        let mut payload = vec![0; len as usize];
        if !self.fill(&mut payload, self.position + HEADER as u64)?
            || frame::checksum(self.chain, len.to_le_bytes(), &payload) != checksum
        {
            return self.nothing();
        }
        let number = self.next;
        self.chain = checksum;
        self.next += 1;
        self.position += HEADER as u64 + u64::from(len);
        Ok(Some((number, payload)))
    }

    /// What was read ahead may be filled in later by the writer, so it is not kept.
    fn nothing(&mut self) -> Result<Option<(u64, Vec<u8>)>> {
        self.ahead.clear();
        Ok(None)
    }

    /// Copies the bytes at `position`; false where the file ends before.
    fn fill(&mut self, out: &mut [u8], position: u64) -> Result<bool> {
        let end = position + out.len() as u64;
        if position < self.ahead_at || end > self.ahead_at + self.ahead.len() as u64 {
            self.ahead.resize(out.len().max(READ_AHEAD), 0);
            self.ahead_at = position;
            let mut filled = 0;
            while filled < self.ahead.len() {
                let read = self
                    .file
                    .read_at(&mut self.ahead[filled..], position + filled as u64)
                    .at("read", &self.path)?;
                if read == 0 {
                    break;
                }
                filled += read;
            }
            self.ahead.truncate(filled);
            if filled < out.len() {
                return Ok(false);
            }
        }
        let start = (position - self.ahead_at) as usize;
        out.copy_from_slice(&self.ahead[start..start + out.len()]);
        Ok(true)
    }
}
