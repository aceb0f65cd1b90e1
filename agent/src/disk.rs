//! Small files that survive a power cut, behind a trait so that a simulator can tear, lose and reorder them.
//!
//! A file is replaced as a whole: written beside its place, brought to stable storage, renamed, and the folder
//! brought to stable storage too. Everything is private to the agent's user (0600, folders 0700).

use flotilla_protocol::ErrorCode;
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

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

/// Small files by a path relative to the agent's folder.
pub trait Disk: Send + Sync + 'static {
    /// The file's content; `None` if there is no such file.
    fn read(&self, path: &Path, max: usize) -> Result<Option<Vec<u8>>, DiskError>;
    /// Replaces the file. When this returns, the new content survives a power cut; if it fails or does not
    /// return, the old content or the new one is there, never anything else.
    fn replace(&self, path: &Path, bytes: &[u8]) -> Result<(), DiskError>;
    /// Removes a file or a folder with all that is in it; nothing there is no error.
    fn remove(&self, path: &Path) -> Result<(), DiskError>;
    /// Names of the folders in a folder; none if it does not exist.
    fn folders(&self, path: &Path) -> Result<Vec<String>, DiskError>;
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
}

impl Disk for FolderDisk {
    fn read(&self, path: &Path, max: usize) -> Result<Option<Vec<u8>>, DiskError> {
        read(&self.root.join(path), max)
    }

    fn replace(&self, path: &Path, bytes: &[u8]) -> Result<(), DiskError> {
        replace(&self.root.join(path), bytes)
    }

    fn remove(&self, path: &Path) -> Result<(), DiskError> {
        remove(&self.root.join(path))
    }

    fn folders(&self, path: &Path) -> Result<Vec<String>, DiskError> {
        let path = self.root.join(path);
        let fail = |e| DiskError::of(&path, e);
        let entries = match fs::read_dir(&path) {
            Ok(entries) => entries,
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(e) => return Err(fail(e)),
        };
        let mut names = Vec::new();
        for entry in entries {
            let entry = entry.map_err(fail)?;
            if entry.file_type().map_err(fail)?.is_dir() {
                names.extend(entry.file_name().into_string());
            }
        }
        names.sort();
        Ok(names)
    }
}

/// The content of a file of at most `max` bytes; `None` if there is no such file.
pub(crate) fn read(path: &Path, max: usize) -> Result<Option<Vec<u8>>, DiskError> {
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
pub(crate) fn replace(path: &Path, bytes: &[u8]) -> Result<(), DiskError> {
    let folder = parent(path);
    private_folder(folder)?;
    let mut name = std::ffi::OsString::from(".");
    name.push(path.file_name().unwrap_or_default());
    name.push(".tmp");
    let beside = folder.join(name);
    let written = write_whole(&beside, bytes).and_then(|()| fs::rename(&beside, path));
    if let Err(e) = written {
        // What is left beside the file would only take room.
        let _ = fs::remove_file(&beside);
        return Err(DiskError::of(path, e));
    }
    sync_folder(folder)
}

fn write_whole(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(path)?;
    file.write_all(bytes)?;
    file.sync_all()
}

/// Removes a file or a folder with all that is in it.
pub(crate) fn remove(path: &Path) -> Result<(), DiskError> {
    let removed = match fs::symlink_metadata(path) {
        Ok(meta) if meta.is_dir() => fs::remove_dir_all(path),
        Ok(_) => fs::remove_file(path),
        Err(e) => Err(e),
    };
    match removed {
        Ok(()) => sync_folder(parent(path)),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(e) => Err(DiskError::of(path, e)),
    }
}

/// Creates a folder for the agent's user alone, with its parents; one that exists stays as it is.
pub(crate) fn private_folder(path: &Path) -> Result<(), DiskError> {
    if path.is_dir() {
        return Ok(());
    }
    DirBuilder::new().recursive(true).mode(0o700).create(path).map_err(|e| DiskError::of(path, e))?;
    sync_folder(parent(path))
}

/// Brings a folder's entries to stable storage.
pub(crate) fn sync_folder(path: &Path) -> Result<(), DiskError> {
    File::open(path).and_then(|folder| folder.sync_all()).map_err(|e| DiskError::of(path, e))
}

fn parent(path: &Path) -> &Path {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    }
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
    fn a_file_that_cannot_be_replaced_stays_as_it_was_and_the_error_says_where() {
        let root = tempfile::tempdir().unwrap();
        let disk = FolderDisk::new(root.path()).unwrap();
        disk.replace(Path::new("counter"), b"1").unwrap();
        // A folder in the way of the temporary file fails for every user, root included.
        fs::create_dir(root.path().join(".counter.tmp")).unwrap();
        let error = disk.replace(Path::new("counter"), b"2").unwrap_err();
        assert_eq!(error.code(), ErrorCode::StorageIo);
        assert!(error.to_string().contains("counter"), "{error}");
        assert_eq!(disk.read(Path::new("counter"), 9).unwrap().as_deref(), Some(b"1".as_slice()));
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
