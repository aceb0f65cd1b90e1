//! What the agent does with its disk, behind a trait so that a simulator can tear, lose and reorder it.
//!
//! The trait's primitives are those of a file system; what must survive a power cut is made of them here, once: a
//! file is replaced as a whole (written beside its place, brought to stable storage, renamed, and the folder brought
//! to stable storage too), and a folder is durable with all its parents. Everything is private to the agent's user
//! (0600, folders 0700).

use flotilla_protocol::ErrorCode;
use std::ffi::OsString;
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Read};
use std::os::unix::fs::{DirBuilderExt, FileExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

/// What the system counts the size of files on the disk in.
const BLOCK: u64 = 512;

/// Why the disk failed.
#[derive(Debug, thiserror::Error)]
pub enum DiskError {
    /// No room.
    #[error("no room left on the disk for {path}; free some, then try again", path = path.display())]
    Full {
        /// The file.
        path: PathBuf,
    },
    /// Not writable.
    #[error("{path} cannot be written: {source}; give the agent's user the right to", path = path.display())]
    ReadOnly {
        /// The file.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
    /// Larger than such a file can be.
    #[error("{path} is larger than {max} bytes, so it is not the agent's", path = path.display())]
    TooLarge {
        /// The file.
        path: PathBuf,
        /// The bound.
        max: usize,
    },
    /// Anything else.
    #[error("{path}: {source}", path = path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
}

impl DiskError {
    /// The error of an operation on `path`.
    pub fn of(path: &Path, source: io::Error) -> Self {
        let path = path.to_owned();
        match source.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => DiskError::Full { path },
            io::ErrorKind::ReadOnlyFilesystem | io::ErrorKind::PermissionDenied => {
                DiskError::ReadOnly { path, source }
            }
            _ => DiskError::Io { path, source },
        }
    }

    /// The stable code.
    pub fn code(&self) -> ErrorCode {
        match self {
            DiskError::Full { .. } => ErrorCode::StorageFull,
            DiskError::ReadOnly { .. } => ErrorCode::StorageReadOnly,
            DiskError::TooLarge { .. } => ErrorCode::StorageCorrupt,
            DiskError::Io { .. } => ErrorCode::StorageIo,
        }
    }
}

/// How large a stored file is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Size {
    /// Bytes from its beginning to its end.
    pub bytes: u64,
    /// Bytes that it takes up on the disk; a hole takes none.
    pub allocated: u64,
}

/// How often something is tried before a fault of the disk is believed.
const TRIES: usize = 3;

/// Tries again where the disk fails: what matters once in a while must not be given up for one bad moment.
pub fn patiently<T>(mut work: impl FnMut() -> Result<T, DiskError>) -> Result<T, DiskError> {
    let mut result = work();
    for _ in 1..TRIES {
        if !matches!(result, Err(DiskError::Io { .. })) {
            break;
        }
        result = work();
    }
    result
}

/// Files and folders by a path relative to the agent's folder.
pub trait Disk: Send + Sync + 'static {
    /// The file's content, read once; `None` if there is no such file.
    fn content(&self, path: &Path, max: usize) -> Result<Option<Vec<u8>>, DiskError>;
    /// Reads from `offset` on until the buffer is full or the file ends; says how much that was.
    fn read_at(&self, path: &Path, offset: u64, buffer: &mut [u8]) -> Result<usize, DiskError>;
    /// Writes into a file, which is created if need be. A power cut may lose or tear it.
    fn write_at(&self, path: &Path, offset: u64, bytes: &[u8]) -> Result<(), DiskError>;
    /// The size of a file or folder; `None` if there is no such thing.
    fn size(&self, path: &Path) -> Result<Option<Size>, DiskError>;
    /// Gives a file, which is created if need be, exactly this size, and brings its content to stable storage.
    fn settle(&self, path: &Path, bytes: u64) -> Result<(), DiskError>;
    /// Gives a file another name; what had that name before is gone.
    fn rename(&self, from: &Path, to: &Path) -> Result<(), DiskError>;
    /// Removes a file or a folder with all that is in it, durably; nothing there is no error.
    fn remove(&self, path: &Path) -> Result<(), DiskError>;
    /// Creates a folder within one that is there.
    fn create_folder(&self, path: &Path) -> Result<(), DiskError>;
    /// Brings a folder's entries to stable storage.
    fn sync_folder(&self, path: &Path) -> Result<(), DiskError>;
    /// Names of the folders in a folder; none if it does not exist.
    fn folders(&self, path: &Path) -> Result<Vec<String>, DiskError>;

    /// The file's content; `None` if there is no such file. Tried again where the disk fails.
    fn read(&self, path: &Path, max: usize) -> Result<Option<Vec<u8>>, DiskError> {
        patiently(|| self.content(path, max))
    }

    /// Whether there is such a file or folder.
    fn exists(&self, path: &Path) -> Result<bool, DiskError> {
        Ok(self.size(path)?.is_some())
    }

    /// Creates a folder durably, with its parents; one that exists stays as it is.
    fn make_folder(&self, path: &Path) -> Result<(), DiskError> {
        if path.as_os_str().is_empty() || self.exists(path)? {
            return Ok(());
        }
        let above = parent(path);
        self.make_folder(above)?;
        self.create_folder(path)?;
        patiently(|| self.sync_folder(above)).inspect_err(|_| {
            // Found there the next time, it would be taken to be durable.
            let _ = self.remove(path);
        })
    }

    /// Replaces the file; its folder is created if need be. When this returns, the new content survives a power
    /// cut; if it fails or does not return, the old content or the new one is there, never anything else.
    fn replace(&self, path: &Path, bytes: &[u8]) -> Result<(), DiskError> {
        let folder = parent(path);
        self.make_folder(folder)?;
        let mut name = OsString::from(".");
        name.push(path.file_name().unwrap_or_default());
        name.push(".tmp");
        let beside = folder.join(name);
        // What an earlier try left may be the file itself under its other name: a power cut can keep one half of a rename.
        let written = self
            .remove(&beside)
            .and_then(|()| self.write_at(&beside, 0, bytes))
            .and_then(|()| self.settle(&beside, bytes.len() as u64))
            .and_then(|()| self.rename(&beside, path));
        if let Err(error) = written {
            // What is left beside the file would only take room.
            let _ = self.remove(&beside);
            return Err(error);
        }
        self.sync_folder(folder)
    }
}

fn parent(path: &Path) -> &Path {
    path.parent().unwrap_or(Path::new(""))
}

/// A folder of a real file system.
#[derive(Clone, Debug)]
pub struct FolderDisk {
    root: PathBuf,
}

impl FolderDisk {
    /// The disk below this folder, which is created if need be.
    pub fn new(root: impl Into<PathBuf>) -> Result<Self, DiskError> {
        let root = root.into();
        private_folder(&root)?;
        Ok(Self { root })
    }

    /// The whole file system: paths are taken as they are.
    fn whole() -> Self {
        Self { root: PathBuf::new() }
    }

    /// The path as the system takes it: the folder that has no name is the one that this process is in.
    fn at(&self, path: &Path) -> PathBuf {
        let path = self.root.join(path);
        if path.as_os_str().is_empty() { PathBuf::from(".") } else { path }
    }

    /// Does something at a path.
    fn on<T>(&self, path: &Path, work: impl FnOnce(&Path) -> io::Result<T>) -> Result<T, DiskError> {
        let path = self.at(path);
        work(&path).map_err(|e| DiskError::of(&path, e))
    }
}

/// `None` for what is not there.
fn if_there<T>(result: io::Result<T>) -> io::Result<Option<T>> {
    match result {
        Ok(found) => Ok(Some(found)),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(e) => Err(e),
    }
}

fn writable(path: &Path) -> io::Result<File> {
    OpenOptions::new().write(true).create(true).truncate(false).mode(0o600).open(path)
}

/// Reads until the buffer is full or the file ends.
fn fill(file: &File, mut offset: u64, buffer: &mut [u8]) -> io::Result<usize> {
    let mut filled = 0;
    while filled < buffer.len() {
        match file.read_at(&mut buffer[filled..], offset) {
            Ok(0) => break,
            Ok(read) => {
                filled += read;
                offset += read as u64;
            }
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
    Ok(filled)
}

impl Disk for FolderDisk {
    fn content(&self, path: &Path, max: usize) -> Result<Option<Vec<u8>>, DiskError> {
        read(&self.at(path), max)
    }

    fn read_at(&self, path: &Path, offset: u64, buffer: &mut [u8]) -> Result<usize, DiskError> {
        self.on(path, |path| fill(&File::open(path)?, offset, buffer))
    }

    fn write_at(&self, path: &Path, offset: u64, bytes: &[u8]) -> Result<(), DiskError> {
        self.on(path, |path| writable(path)?.write_all_at(bytes, offset))
    }

    fn size(&self, path: &Path) -> Result<Option<Size>, DiskError> {
        let meta = self.on(path, |path| if_there(fs::metadata(path)))?;
        Ok(meta.map(|meta| Size { bytes: meta.len(), allocated: meta.blocks().saturating_mul(BLOCK) }))
    }

    fn settle(&self, path: &Path, bytes: u64) -> Result<(), DiskError> {
        self.on(path, |path| {
            let file = writable(path)?;
            file.set_len(bytes)?;
            file.sync_all()
        })
    }

    fn rename(&self, from: &Path, to: &Path) -> Result<(), DiskError> {
        let from = self.at(from);
        self.on(to, |to| fs::rename(from, to))
    }

    fn remove(&self, path: &Path) -> Result<(), DiskError> {
        let removed = self.on(path, |path| {
            let Some(meta) = if_there(fs::symlink_metadata(path))? else { return Ok(None) };
            if_there(if meta.is_dir() { fs::remove_dir_all(path) } else { fs::remove_file(path) })
        })?;
        removed.map_or(Ok(()), |()| self.sync_folder(parent(path)))
    }

    fn create_folder(&self, path: &Path) -> Result<(), DiskError> {
        self.on(path, |path| match DirBuilder::new().mode(0o700).create(path) {
            // Somebody else was as fast.
            Err(_) if path.is_dir() => Ok(()),
            created => created,
        })
    }

    fn sync_folder(&self, path: &Path) -> Result<(), DiskError> {
        self.on(path, |path| File::open(path)?.sync_all())
    }

    fn folders(&self, path: &Path) -> Result<Vec<String>, DiskError> {
        self.on(path, |path| {
            let Some(entries) = if_there(fs::read_dir(path))? else { return Ok(Vec::new()) };
            let mut names = Vec::new();
            for entry in entries {
                let entry = entry?;
                if entry.file_type()?.is_dir() {
                    names.extend(entry.file_name().into_string());
                }
            }
            names.sort();
            Ok(names)
        })
    }
}

/// The content of a file of at most `max` bytes; `None` if there is no such file.
pub fn read(path: &Path, max: usize) -> Result<Option<Vec<u8>>, DiskError> {
    let file = match File::open(path) {
        Ok(file) => file,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(e) => return Err(DiskError::of(path, e)),
    };
    let mut bytes = Vec::new();
    file.take(max as u64 + 1).read_to_end(&mut bytes).map_err(|e| DiskError::of(path, e))?;
    if bytes.len() > max {
        return Err(DiskError::TooLarge { path: path.to_owned(), max });
    }
    Ok(Some(bytes))
}

/// Replaces a file durably; its folder is created if need be.
pub fn replace(path: &Path, bytes: &[u8]) -> Result<(), DiskError> {
    FolderDisk::whole().replace(path, bytes)
}

/// Removes a file or a folder with all that is in it.
pub fn remove(path: &Path) -> Result<(), DiskError> {
    FolderDisk::whole().remove(path)
}

/// Creates a folder for the agent's user alone, with its parents; one that exists stays as it is.
pub fn private_folder(path: &Path) -> Result<(), DiskError> {
    FolderDisk::whole().make_folder(path)
}

/// Brings a folder's entries to stable storage.
pub fn sync_folder(path: &Path) -> Result<(), DiskError> {
    FolderDisk::whole().sync_folder(path)
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests fail by panicking")]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    fn mode(path: &Path) -> u32 {
        fs::metadata(path).unwrap().permissions().mode() & 0o777
    }

    #[test]
    fn what_is_replaced_is_private_and_leaves_nothing_beside_it() {
        let root = tempfile::tempdir().unwrap();
        let disk = FolderDisk::new(root.path().join("state")).unwrap();
        let path = Path::new("models/digits/journal");
        assert_eq!(disk.read(path, 10).unwrap(), None);
        disk.replace(path, b"one").unwrap();
        disk.replace(path, b"two").unwrap();
        assert_eq!(disk.read(path, 10).unwrap().as_deref(), Some(b"two".as_slice()));
        let folder = root.path().join("state/models/digits");
        assert_eq!((mode(&folder.join("journal")), mode(&folder)), (0o600, 0o700));
        assert_eq!(fs::read_dir(&folder).unwrap().count(), 1);
        assert_eq!(disk.folders(Path::new("models")).unwrap(), ["digits"]);
    }

    #[test]
    fn half_a_rename_that_a_power_cut_left_does_not_let_the_next_write_tear_the_file() {
        let root = tempfile::tempdir().unwrap();
        let disk = FolderDisk::new(root.path()).unwrap();
        disk.replace(Path::new("journal"), b"one").unwrap();
        // The new name is there, and so is the old one.
        fs::hard_link(root.path().join("journal"), root.path().join(".journal.tmp")).unwrap();
        let mut before = File::open(root.path().join("journal")).unwrap();
        disk.replace(Path::new("journal"), b"two").unwrap();
        let mut content = String::new();
        before.read_to_string(&mut content).unwrap();
        assert_eq!(content, "one", "what the file was is written over before the new content is safe");
        assert_eq!(disk.read(Path::new("journal"), 9).unwrap().as_deref(), Some(b"two".as_slice()));
    }

    #[test]
    fn what_cannot_be_replaced_stays_as_it_was_and_the_error_says_where() {
        let root = tempfile::tempdir().unwrap();
        let disk = FolderDisk::new(root.path()).unwrap();
        disk.replace(Path::new("counter/inside"), b"1").unwrap();
        // A file cannot take the place of a folder, whoever the user is, root included.
        let error = disk.replace(Path::new("counter"), b"2").unwrap_err();
        assert_eq!(error.code(), ErrorCode::StorageIo);
        assert!(error.to_string().contains("counter"), "{error}");
        assert_eq!(disk.read(Path::new("counter/inside"), 9).unwrap().as_deref(), Some(b"1".as_slice()));
        assert_eq!(fs::read_dir(root.path()).unwrap().count(), 1, "nothing is left beside it");
    }

    #[test]
    fn a_file_over_its_bound_is_not_read() {
        let root = tempfile::tempdir().unwrap();
        let disk = FolderDisk::new(root.path()).unwrap();
        disk.replace(Path::new("x"), &[0; 11]).unwrap();
        assert_eq!(disk.read(Path::new("x"), 10).unwrap_err().code(), ErrorCode::StorageCorrupt);
    }

    #[test]
    fn removing_what_is_not_there_is_no_error() {
        let root = tempfile::tempdir().unwrap();
        let disk = FolderDisk::new(root.path()).unwrap();
        disk.replace(Path::new("a/b/c"), b"").unwrap();
        disk.remove(Path::new("a")).unwrap();
        disk.remove(Path::new("a")).unwrap();
        assert!(!root.path().join("a").exists());
    }
}
