//! A store's folder: made durably, held by one process, marked with its format.

use crate::error::{Error, IoContext, Result};
use crate::fs::Fs;
use std::fs::{File, OpenOptions, TryLockError};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

const LOCK: &str = "LOCK";
const FORMAT: &str = "FORMAT";
/// Suffix of files being written; what carries it after a crash was never acknowledged.
pub(crate) const TEMPORARY: &str = ".tmp";

/// A folder held by a store until it is released or dropped, or the process ends, however it ends.
#[derive(Debug)]
pub(crate) struct Folder {
    pub(crate) path: PathBuf,
    pub(crate) fs: Arc<dyn Fs>,
    lock: Mutex<Option<File>>,
}

impl Folder {
    /// Makes (if need be), locks and checks the folder of a store of this `kind` and `format`.
    pub(crate) fn open(fs: Arc<dyn Fs>, path: &Path, kind: &str, format: u32) -> Result<Self> {
        create_durably(&*fs, path)?;
        sync_parent(&*fs, path)?;
        let lock = lock(path)?;
        let folder = Self { path: path.to_path_buf(), fs, lock: Mutex::new(Some(lock)) };
        folder.check_format(kind, format)?;
        Ok(folder)
    }

    /// The path of an entry.
    pub(crate) fn join(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }

    /// Lets others have the folder; called once nothing is written to it any more.
    pub(crate) fn release(&self) {
        self.lock.lock().unwrap_or_else(PoisonError::into_inner).take();
    }

    fn check_format(&self, kind: &str, format: u32) -> Result<()> {
        let path = self.join(FORMAT);
        let Some(text) = read_small(&*self.fs, &path)? else {
            return write_small(&*self.fs, &self.path, FORMAT, format!("{kind} {format}\n").as_bytes());
        };
        let text = String::from_utf8_lossy(&text);
        let (found_kind, number) = text.trim_end().split_once(' ').unwrap_or(("", ""));
        let found: u32 = number
            .parse()
            .map_err(|_| Error::corrupt(&path, "it does not say which format the folder has"))?;
        if found_kind != kind {
            return Err(Error::Invalid(format!(
                "{} holds {found_kind}, not {kind}: choose another folder",
                self.path.display()
            )));
        }
        if found > format {
            return Err(Error::NewerFormat { path: self.path.clone(), found, supported: format });
        }
        Ok(())
    }
}

/// The lock is taken on the machine's own file: it is not about durability.
fn lock(folder: &Path) -> Result<File> {
    let path = folder.join(LOCK);
    let file = OpenOptions::new().create(true).truncate(false).write(true).open(&path).at("open", &path)?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => Err(Error::InUse { folder: folder.to_path_buf() }),
        Err(TryLockError::Error(source)) => Err(Error::io("lock", &path, source)),
    }
}

/// Makes `path` and its missing parents, each entry durable before anything is put below it.
pub(crate) fn create_durably(fs: &dyn Fs, path: &Path) -> Result<()> {
    if path.is_dir() {
        return Ok(());
    }
    let parent = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    create_durably(fs, parent)?;
    create_dir_durably(fs, path, parent)
}

/// A killed process may have made the folder without making its name durable.
fn sync_parent(fs: &dyn Fs, path: &Path) -> Result<()> {
    let Some(parent) = path.parent().filter(|p| !p.as_os_str().is_empty()) else { return Ok(()) };
    match fs.sync_dir(parent) {
        // A parent that may not be opened was made by somebody else, long before.
        Err(e) if e.kind() == io::ErrorKind::PermissionDenied => Ok(()),
        result => result.at("sync", parent),
    }
}

/// Makes one folder durably; one that is there already is made durable too.
pub(crate) fn create_dir_durably(fs: &dyn Fs, path: &Path, parent: &Path) -> Result<()> {
    match fs.create_dir(path) {
        Err(e) if e.kind() != io::ErrorKind::AlreadyExists => return Err(Error::io("create", path, e)),
        _ => {}
    }
    fs.sync_dir(parent).at("sync", parent)
}

/// Writes a file so that after a crash either the old or the new content is there, whole.
pub(crate) fn write_small(fs: &dyn Fs, folder: &Path, name: &str, content: &[u8]) -> Result<()> {
    let temporary = folder.join(format!("{name}{TEMPORARY}"));
    write_file(fs, &temporary, content)?;
    let path = folder.join(name);
    fs.rename(&temporary, &path).at("rename", &temporary)?;
    fs.sync_dir(folder).at("sync", folder)
}

fn write_file(fs: &dyn Fs, path: &Path, content: &[u8]) -> Result<()> {
    remove_if_there(fs, path)?;
    let file = fs.create(path).at("create", path)?;
    file.write_all_at(content, 0).at("write", path)?;
    file.sync().at("sync", path)
}

/// Removes a file; that it is not there is fine.
pub(crate) fn remove_if_there(fs: &dyn Fs, path: &Path) -> Result<bool> {
    match fs.remove_file(path) {
        Ok(()) => Ok(true),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(e) => Err(Error::io("remove", path, e)),
    }
}

/// The content of a small file, if it is there.
pub(crate) fn read_small(fs: &dyn Fs, path: &Path) -> Result<Option<Vec<u8>>> {
    /// Marker files are one short line.
    const BOUND: usize = 4096;
    let file = match fs.open_read(path) {
        Ok(file) => file,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(e) => return Err(Error::io("open", path, e)),
    };
    let mut content = vec![0; BOUND];
    let mut filled = 0;
    loop {
        let read = file.read_at(&mut content[filled..], filled as u64).at("read", path)?;
        filled += read;
        if read == 0 || filled == BOUND {
            break;
        }
    }
    content.truncate(filled);
    Ok(Some(content))
}
