//! For tests: a file system that fails on purpose, and sizes small enough that everything happens often.

use crate::fs::{Entry, Fs, FsFile, RealFs};
use crate::{RecordsConfig, SegmentsConfig};
use std::io;
use std::path::Path;
use std::sync::{Arc, Mutex};

/// What goes wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fault {
    /// Nothing.
    None,
    /// The disk is full: writes end half-way.
    Full,
    /// Syncs fail.
    Sync,
    /// Nothing can be created, written, renamed or removed.
    ReadOnly,
    /// Ordinary users have this many bytes left.
    Free(u64),
}

/// The machine's file system with a fault that can be switched.
#[derive(Debug, Clone)]
pub(crate) struct FaultyFs(Arc<Mutex<Fault>>);

struct FaultyFile {
    file: Box<dyn FsFile>,
    fs: FaultyFs,
}

impl FaultyFs {
    pub(crate) fn new() -> Self {
        Self(Arc::new(Mutex::new(Fault::None)))
    }

    pub(crate) fn set(&self, fault: Fault) {
        *self.0.lock().unwrap() = fault;
    }

    fn get(&self) -> Fault {
        *self.0.lock().unwrap()
    }

    fn check_writable(&self) -> io::Result<()> {
        match self.get() {
            Fault::ReadOnly => Err(io::ErrorKind::ReadOnlyFilesystem.into()),
            Fault::Full => Err(io::ErrorKind::StorageFull.into()),
            _ => Ok(()),
        }
    }

    fn check_sync(&self) -> io::Result<()> {
        if self.get() == Fault::Sync { Err(io::Error::other("the disk does not answer")) } else { Ok(()) }
    }

    fn wrap(&self, file: Box<dyn FsFile>) -> Box<dyn FsFile> {
        Box::new(FaultyFile { file, fs: self.clone() })
    }
}

impl Fs for FaultyFs {
    fn create_dir(&self, path: &Path) -> io::Result<()> {
        self.check_writable()?;
        RealFs.create_dir(path)
    }

    fn create(&self, path: &Path) -> io::Result<Box<dyn FsFile>> {
        self.check_writable()?;
        Ok(self.wrap(RealFs.create(path)?))
    }

    fn open(&self, path: &Path) -> io::Result<Box<dyn FsFile>> {
        if self.get() == Fault::ReadOnly {
            self.check_writable()?;
        }
        Ok(self.wrap(RealFs.open(path)?))
    }

    fn open_read(&self, path: &Path) -> io::Result<Box<dyn FsFile>> {
        RealFs.open_read(path)
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.check_writable()?;
        RealFs.rename(from, to)
    }

    fn remove_file(&self, path: &Path) -> io::Result<()> {
        if self.get() == Fault::ReadOnly {
            self.check_writable()?;
        }
        RealFs.remove_file(path)
    }

    fn remove_dir_all(&self, path: &Path) -> io::Result<()> {
        RealFs.remove_dir_all(path)
    }

    fn sync_dir(&self, path: &Path) -> io::Result<()> {
        self.check_sync()?;
        RealFs.sync_dir(path)
    }

    fn sync_all(&self, path: &Path) -> io::Result<()> {
        self.check_sync()?;
        RealFs.sync_all(path)
    }

    fn list(&self, path: &Path) -> io::Result<Vec<Entry>> {
        RealFs.list(path)
    }

    fn free_bytes(&self, path: &Path) -> io::Result<u64> {
        match self.get() {
            Fault::Free(bytes) => Ok(bytes),
            _ => RealFs.free_bytes(path),
        }
    }

    fn hand_over(&self, folder: &Path) {
        RealFs.hand_over(folder);
    }

    fn sync_foreign(&self, path: &Path) -> io::Result<()> {
        self.check_sync()?;
        RealFs.sync_foreign(path)
    }
}

impl FsFile for FaultyFile {
    fn write_all_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        if let Err(full) = self.fs.check_writable() {
            self.file.write_all_at(&bytes[..bytes.len() / 2], offset)?;
            return Err(full);
        }
        self.file.write_all_at(bytes, offset)
    }

    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        self.file.read_at(buffer, offset)
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.file.set_len(len)
    }

    fn size(&self) -> io::Result<u64> {
        self.file.size()
    }

    fn sync(&self) -> io::Result<()> {
        self.fs.check_sync()?;
        self.file.sync()
    }
}

/// Sizes at which a handful of commits fills segments and begins snapshots.
pub(crate) fn small_records() -> RecordsConfig {
    RecordsConfig {
        cache_bytes: 1 << 20,
        checkpoint_bytes: 4 << 10,
        segment_bytes: 2 << 10,
        grow_bytes: 512,
        reserve_bytes: 1 << 20,
    }
}

/// Sizes at which a handful of frames fills segments.
pub(crate) fn small_segments() -> SegmentsConfig {
    SegmentsConfig {
        segment_bytes: 256,
        total_bytes: 2 << 10,
        frame_bytes: 128,
        grow_bytes: 64,
        reserve_bytes: 1 << 20,
    }
}
