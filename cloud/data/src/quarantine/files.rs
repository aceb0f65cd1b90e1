//! The bytes of hard examples: received piece by piece, each durable before it is acknowledged.

use super::held::Part;
use crate::error::{Error, Result};
use flotilla_protocol::{DeviceId, Digest};
use std::ffi::OsStr;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::UNIX_EPOCH;

/// A part on the disk.
pub(super) struct Found {
    pub(super) part: Part,
    pub(super) bytes: u64,
    /// When it was written last, in milliseconds since 1970.
    pub(super) at_ms: u64,
}

/// The folder. Blocks.
#[derive(Clone, Debug)]
pub(super) struct Files {
    root: PathBuf,
}

impl Files {
    pub(super) fn open(root: PathBuf) -> Result<Self> {
        let files = Self { root };
        for folder in [files.incoming(), files.pictures()] {
            fs::create_dir_all(&folder).map_err(Error::io("create", &folder))?;
        }
        sync(&files.root)?;
        Ok(files)
    }

    pub(super) fn root(&self) -> &Path {
        &self.root
    }

    fn incoming(&self) -> PathBuf {
        self.root.join("incoming")
    }

    fn pictures(&self) -> PathBuf {
        self.root.join("pictures")
    }

    fn folder(&self, device: &DeviceId) -> PathBuf {
        self.incoming().join(device.as_str())
    }

    fn part(&self, (device, digest): &Part) -> PathBuf {
        self.folder(device).join(digest.to_string())
    }

    fn picture(&self, digest: &Digest) -> PathBuf {
        self.pictures().join(digest.to_string())
    }

    /// Bytes of a device's upload that are here, from its beginning.
    pub(super) fn received(&self, part: &Part) -> Result<u64> {
        let path = self.part(part);
        match fs::metadata(&path) {
            Ok(meta) => Ok(meta.len()),
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(0),
            Err(e) => Err(Error::io("read", &path)(e)),
        }
    }

    /// Adds a piece behind what is here. It is durable when this returns.
    pub(super) fn append(&self, part: &Part, data: &[u8]) -> Result<()> {
        let path = self.part(part);
        let failed = || Error::io("write", &path);
        let is_new = !path.exists();
        let folder = self.folder(&part.0);
        if !folder.exists() {
            fs::create_dir_all(&folder).map_err(Error::io("create", &folder))?;
            sync(&self.incoming())?;
        }
        let mut file = OpenOptions::new().append(true).create(true).open(&path).map_err(failed())?;
        let before = file.metadata().map_err(failed())?.len();
        let written = file.write_all(data).and_then(|()| file.sync_data());
        if let Err(error) = written {
            // Half a piece must not pass for a whole one.
            drop(file.set_len(before));
            return Err(failed()(error));
        }
        if is_new { sync(parent(&path)) } else { Ok(()) }
    }

    /// The whole of an upload.
    pub(super) fn read_part(&self, part: &Part) -> Result<Vec<u8>> {
        let path = self.part(part);
        fs::read(&path).map_err(Error::io("read", &path))
    }

    pub(super) fn remove_part(&self, part: &Part) -> Result<()> {
        remove(&self.part(part))
    }

    /// Removes all that is on its way of a device.
    pub(super) fn remove_parts(&self, device: &DeviceId) -> Result<()> {
        let folder = self.folder(device);
        match fs::remove_dir_all(&folder) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => Err(Error::io("remove", &folder)(e)),
            _ => Ok(()),
        }
    }

    /// Puts a complete upload where pictures are kept, durably.
    pub(super) fn settle(&self, part: &Part) -> Result<()> {
        // Of a kill between write and sync the bytes may be in memory only.
        let path = self.part(part);
        File::open(&path).and_then(|file| file.sync_data()).map_err(Error::io("sync", &path))?;
        rename(&self.part(part), &self.picture(&part.1))
    }

    /// Makes a part of it again.
    pub(super) fn unsettle(&self, part: &Part) -> Result<()> {
        rename(&self.picture(&part.1), &self.part(part))
    }

    /// A picture that was kept.
    pub(super) fn read_picture(&self, digest: &Digest) -> Result<Vec<u8>> {
        let path = self.picture(digest);
        let bytes = fs::read(&path).map_err(Error::io("read", &path))?;
        if Digest::of(&bytes) == *digest {
            return Ok(bytes);
        }
        let problem = "its bytes are others".to_owned();
        Err(Error::Damaged { what: "hard example", digest: *digest, problem })
    }

    pub(super) fn remove_picture(&self, digest: &Digest) -> Result<()> {
        remove(&self.picture(digest))
    }

    /// Every picture that is kept. Whatever else is found beside them is removed.
    pub(super) fn every_picture(&self) -> Result<Vec<Digest>> {
        let mut all = Vec::new();
        for entry in entries(&self.pictures())? {
            match named(&entry.file_name()) {
                Some(digest) => all.push(digest),
                None => remove(&entry.path())?,
            }
        }
        Ok(all)
    }

    /// The devices that have a folder of parts.
    pub(super) fn senders(&self) -> Result<Vec<DeviceId>> {
        let folders = entries(&self.incoming())?;
        Ok(folders.iter().filter_map(|folder| named(&folder.file_name())).collect())
    }

    /// The parts of a device. Whatever else is found beside them is removed.
    pub(super) fn parts_of(&self, device: &DeviceId) -> Result<Vec<Found>> {
        let mut all = Vec::new();
        for entry in entries(&self.folder(device))? {
            let Some(digest) = named(&entry.file_name()) else {
                remove(&entry.path())?;
                continue;
            };
            let meta = entry.metadata().map_err(Error::io("read", &entry.path()))?;
            let since = meta.modified().ok().and_then(|at| at.duration_since(UNIX_EPOCH).ok());
            let at_ms = since.map_or(0, |since| u64::try_from(since.as_millis()).unwrap_or(u64::MAX));
            all.push(Found { part: (device.clone(), digest), bytes: meta.len(), at_ms });
        }
        Ok(all)
    }
}

fn entries(folder: &Path) -> Result<Vec<fs::DirEntry>> {
    let all: io::Result<_> = fs::read_dir(folder).and_then(Iterator::collect);
    all.map_err(Error::io("read", folder))
}

/// What a file is named after.
fn named<T: FromStr>(name: &OsStr) -> Option<T> {
    name.to_str()?.parse().ok()
}

fn rename(from: &Path, to: &Path) -> Result<()> {
    fs::rename(from, to).map_err(Error::io("rename", to))?;
    sync(parent(to))?;
    sync(parent(from))
}

fn remove(path: &Path) -> Result<()> {
    match fs::remove_file(path) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => Err(Error::io("remove", path)(e)),
        _ => Ok(()),
    }
}

fn parent(path: &Path) -> &Path {
    path.parent().unwrap_or(Path::new("."))
}

fn sync(folder: &Path) -> Result<()> {
    File::open(folder).and_then(|folder| folder.sync_all()).map_err(Error::io("sync", folder))
}
