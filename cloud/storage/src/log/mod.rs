//! An append-only log of frames in segment files: the one place where durability is made.
//!
//! A group of frames is written with one call and made durable with one sync; only then does
//! [`Log::append`] return. Frames are numbered from the log's first frame on without gaps, and a segment is
//! named by its first frame.
//!
//! - Each frame carries a checksum seeded with the checksum before it, so a frame that is left over from an
//!   earlier write at the same place is never taken for a new one.
//! - Files grow by a run of zeros ahead of the frames. Most syncs then overwrite blocks the file already
//!   has, which saves the file system a metadata commit each, and a full disk shows before a frame is
//!   half-written.
//! - A new segment gets its name only when its header is durable, and only when all before it is durable.
//!   A segment that has a successor must therefore be whole; only the last one may end in a torn group,
//!   which was never acknowledged and is cut off when the log is opened.
//! - After a failed sync the log refuses to append until it is opened again: the system may have dropped the
//!   dirty pages, so trying the sync once more could report success for bytes that are gone.

mod frame;
mod scan;

pub(crate) use frame::{encode, segment_header};
pub(crate) use scan::Scan;

use crate::error::{Error, IoContext, Result};
use crate::folder::{TEMPORARY, remove_if_there};
use crate::fs::{Fs, FsFile};
use bytes::Bytes;
use std::collections::VecDeque;
use std::path::{Path, PathBuf};
use std::sync::Arc;

const SUFFIX: &str = ".log";

/// The sizes of a log.
#[derive(Debug, Clone, Copy)]
pub(crate) struct LogConfig {
    /// A segment is closed once it holds this much.
    pub(crate) segment_bytes: u64,
    /// Bytes of zeros a segment grows by.
    pub(crate) grow_bytes: u64,
    /// The largest frame.
    pub(crate) frame_bytes: usize,
}

/// A closed segment.
#[derive(Debug, Clone, Copy)]
struct Sealed {
    first: u64,
    bytes: u64,
}

/// The segment that is written.
struct Active {
    first: u64,
    file: Box<dyn FsFile>,
    path: PathBuf,
    /// Where the next frame goes.
    end: u64,
    /// Bytes the file has, zeros included.
    allocated: u64,
    /// The checksum of the last frame.
    chain: u32,
}

/// The log, owned by the one thread that writes it.
pub(crate) struct Log {
    fs: Arc<dyn Fs>,
    folder: PathBuf,
    config: LogConfig,
    sealed: VecDeque<Sealed>,
    active: Active,
    next: u64,
    refusing: Option<Error>,
}

/// The file name of the segment that starts with frame `first`.
pub(crate) fn segment_name(first: u64) -> String {
    format!("{first:020}{SUFFIX}")
}

/// The first frame of the segment with this file name.
fn segment_first(name: &str) -> Option<u64> {
    name.strip_suffix(SUFFIX).filter(|digits| digits.len() == 20)?.parse().ok()
}

impl Log {
    /// Opens the log in an existing folder, or starts one with frame number `start`. Cuts off a torn end.
    pub(crate) fn open(fs: Arc<dyn Fs>, folder: &Path, config: LogConfig, start: u64) -> Result<Self> {
        let mut firsts = Vec::new();
        for entry in fs.list(folder).at("list", folder)? {
            if entry.name.ends_with(TEMPORARY) {
                remove_if_there(&*fs, &folder.join(&entry.name))?;
            } else if let Some(first) = segment_first(&entry.name) {
                firsts.push(first);
            }
        }
        // A killed process may have named a segment without making the name durable.
        fs.sync_dir(folder).at("sync", folder)?;
        firsts.sort_unstable();
        let mut sealed = VecDeque::new();
        for pair in firsts.windows(2) {
            let path = folder.join(segment_name(pair[0]));
            let scan = scan_to_end(&*fs, &path, pair[0], config.frame_bytes)?;
            if scan.next() != pair[1] {
                return Err(Error::corrupt(
                    &path,
                    format!("frame {} is missing or broken, frame {} follows", scan.next(), pair[1]),
                ));
            }
            sealed.push_back(Sealed { first: pair[0], bytes: scan.position() });
        }
        let (active, next) = match firsts.last() {
            Some(&first) => recover_active(&*fs, folder, first, config.frame_bytes)?,
            None => (create_segment(&*fs, folder, start, config.grow_bytes)?, start),
        };
        Ok(Self { fs, folder: folder.to_path_buf(), config, sealed, active, next, refusing: None })
    }

    /// The oldest frame kept (the next one to be written where there is none).
    pub(crate) fn first(&self) -> u64 {
        self.sealed.front().map_or(self.active.first, |s| s.first)
    }

    /// The number the next frame gets. All before it are durable.
    pub(crate) fn next(&self) -> u64 {
        self.next
    }

    /// The first frames of all segments, oldest first.
    pub(crate) fn segments(&self) -> Vec<u64> {
        self.sealed.iter().map(|s| s.first).chain([self.active.first]).collect()
    }

    /// Bytes of all segments on the disk.
    pub(crate) fn bytes(&self) -> u64 {
        self.sealed.iter().map(|s| s.bytes).sum::<u64>() + self.active.allocated
    }

    /// Bytes an append of frames with these lengths adds at most.
    pub(crate) fn cost(&self, frames: impl Iterator<Item = usize>) -> u64 {
        frames.map(|len| len as u64 + frame::HEADER as u64).sum::<u64>() + self.config.grow_bytes
    }

    /// Writes the frames and makes them durable. Returns the number of the first.
    ///
    /// On a full disk nothing is appended and the log stays usable.
    pub(crate) fn append(&mut self, frames: &[Bytes]) -> Result<u64> {
        self.check()?;
        if self.active.end >= self.config.segment_bytes {
            self.roll()?;
        }
        let mut encoded = Vec::with_capacity(frames.iter().map(|f| f.len() + frame::HEADER).sum());
        let mut chain = self.active.chain;
        for payload in frames {
            chain = encode(&mut encoded, chain, payload);
        }
        let end = self.active.end + encoded.len() as u64;
        let mut allocated = self.active.allocated;
        if end > allocated {
            allocated = end + self.config.grow_bytes;
            encoded.resize((allocated - self.active.end) as usize, 0);
        }
        if let Err(source) = self.active.file.write_all_at(&encoded, self.active.end) {
            let failed = Error::io("write", &self.active.path, source);
            return Err(self.rewind(failed));
        }
        if let Err(source) = self.active.file.sync() {
            let failed = Error::io("sync", &self.active.path, source);
            return Err(self.refuse(failed));
        }
        self.active.end = end;
        self.active.allocated = allocated;
        self.active.chain = chain;
        let first = self.next;
        self.next += frames.len() as u64;
        Ok(first)
    }

    /// Starts a new segment, so that the ones before can be removed. Does nothing in an empty segment.
    pub(crate) fn roll(&mut self) -> Result<()> {
        self.check()?;
        if self.next == self.active.first {
            return Ok(());
        }
        // Without the zeros the closed segment takes only the room it needs; they are harmless if they stay.
        self.active.file.set_len(self.active.end).at("cut", &self.active.path)?;
        self.active.allocated = self.active.end;
        let fresh = match create_segment(&*self.fs, &self.folder, self.next, self.config.grow_bytes) {
            Ok(fresh) => fresh,
            Err(failed) if self.fs.open_read(&self.folder.join(segment_name(self.next))).is_ok() => {
                // The new name may or may not survive: frames after it could follow either segment.
                return Err(self.refuse(failed));
            }
            Err(failed) => return Err(failed),
        };
        let closed = std::mem::replace(&mut self.active, fresh);
        self.sealed.push_back(Sealed { first: closed.first, bytes: closed.end });
        Ok(())
    }

    /// Removes the oldest segment if all its frames are before `keep_from`. Returns the bytes freed.
    pub(crate) fn remove_oldest(&mut self, keep_from: u64) -> Result<Option<u64>> {
        let Some(&oldest) = self.sealed.front() else { return Ok(None) };
        let end = self.sealed.get(1).map_or(self.active.first, |s| s.first);
        if end > keep_from {
            return Ok(None);
        }
        let path = self.folder.join(segment_name(oldest.first));
        remove_if_there(&*self.fs, &path)?;
        // One at a time and in order: a power loss may then not leave a gap between segments.
        self.fs.sync_dir(&self.folder).at("sync", &self.folder)?;
        self.sealed.pop_front();
        Ok(Some(oldest.bytes))
    }

    /// Removes every segment whose frames are all before `keep_from`.
    pub(crate) fn remove_before(&mut self, keep_from: u64) -> Result<()> {
        while self.remove_oldest(keep_from)?.is_some() {}
        Ok(())
    }

    /// Calls `visit` with every frame from `from` on.
    pub(crate) fn replay(&self, from: u64, mut visit: impl FnMut(u64, Vec<u8>) -> Result<()>) -> Result<()> {
        let segments = self.segments();
        for (i, &first) in segments.iter().enumerate() {
            if segments.get(i + 1).is_some_and(|&next| next <= from) {
                continue;
            }
            let path = self.folder.join(segment_name(first));
            let mut scan = Scan::open(&*self.fs, &path, first, self.config.frame_bytes)?;
            while let Some((number, payload)) = scan.read()? {
                if number >= from {
                    visit(number, payload)?;
                }
            }
        }
        Ok(())
    }

    fn check(&self) -> Result<()> {
        self.refusing.clone().map_or(Ok(()), Err)
    }

    fn refuse(&mut self, failed: Error) -> Error {
        let refusing = failed.into_refusing(&self.folder);
        tracing::error!(error = %refusing, cause = ?refusing, "the log refuses further writes");
        self.refusing = Some(refusing.clone());
        refusing
    }

    /// Takes a half-written group back, durably: a frame that was reported as failed must not come back.
    fn rewind(&mut self, failed: Error) -> Error {
        let taken_back = self.active.file.set_len(self.active.end).and_then(|()| self.active.file.sync());
        if taken_back.is_err() {
            return self.refuse(failed);
        }
        self.active.allocated = self.active.end;
        failed
    }
}

fn scan_to_end(fs: &dyn Fs, path: &Path, first: u64, frame_bytes: usize) -> Result<Scan> {
    let mut scan = Scan::open(fs, path, first, frame_bytes)?;
    while scan.read()?.is_some() {}
    Ok(scan)
}

fn recover_active(fs: &dyn Fs, folder: &Path, first: u64, frame_bytes: usize) -> Result<(Active, u64)> {
    let path = folder.join(segment_name(first));
    let scan = scan_to_end(fs, &path, first, frame_bytes)?;
    let (end, chain, next) = (scan.position(), scan.chain(), scan.next());
    let file = fs.open(&path).at("open", &path)?;
    if file.size().at("read", &path)? > end {
        // What follows is zeros or a group that was never acknowledged. It must be gone for good before new
        // frames are written over it.
        file.set_len(end).at("cut", &path)?;
    }
    // A killed process may have written frames without a sync: they are shown from now on.
    file.sync().at("sync", &path)?;
    Ok((Active { first, file, path, end, allocated: end, chain }, next))
}

fn create_segment(fs: &dyn Fs, folder: &Path, first: u64, grow_bytes: u64) -> Result<Active> {
    let path = folder.join(segment_name(first));
    let temporary = folder.join(format!("{}{TEMPORARY}", segment_name(first)));
    remove_if_there(fs, &temporary)?;
    let file = fs.create(&temporary).at("create", &temporary)?;
    let (mut content, chain) = segment_header(first);
    let end = content.len() as u64;
    content.resize(content.len() + grow_bytes as usize, 0);
    let allocated = content.len() as u64;
    if let Err(source) = file.write_all_at(&content, 0).and_then(|()| file.sync()) {
        let failed = Error::io("write", &temporary, source);
        // The half-written file takes room on what may be a full disk.
        if let Err(error) = remove_if_there(fs, &temporary) {
            tracing::warn!(%error, "a temporary file stays until the next start");
        }
        return Err(failed);
    }
    fs.rename(&temporary, &path).at("rename", &temporary)?;
    fs.sync_dir(folder).at("sync", folder)?;
    Ok(Active { first, file, path, end, allocated, chain })
}

#[cfg(test)]
mod tests;
