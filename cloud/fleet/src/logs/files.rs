//! Pulled logs as files: `DEVICE/COMMAND.log`, and `DEVICE/COMMAND-DIGEST.part` while one comes, each piece durable before
//! it is acknowledged.

use crate::error::{Error, Result};
use flotilla_protocol::{DeviceId, Digest};
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

/// The folder. Blocks.
#[derive(Clone, Debug)]
pub(super) struct Files {
    root: PathBuf,
}

impl Files {
    pub(super) fn open(root: PathBuf) -> Result<Self> {
        let made = fs::create_dir_all(&root).and_then(|()| sync(root.parent().unwrap_or(Path::new("."))));
        made.map_err(failed("create", &root))?;
        Ok(Self { root })
    }

    pub(super) fn root(&self) -> &Path {
        &self.root
    }

    fn folder(&self, device: &DeviceId) -> PathBuf {
        self.root.join(device.as_str())
    }

    fn part(&self, device: &DeviceId, command: u64, digest: &Digest) -> PathBuf {
        self.folder(device).join(format!("{command}-{digest}.part"))
    }

    fn whole(&self, device: &DeviceId, command: u64) -> PathBuf {
        self.folder(device).join(format!("{command}.log"))
    }

    /// Bytes that are here, from the beginning.
    pub(super) fn received(&self, device: &DeviceId, command: u64, digest: &Digest) -> Result<u64> {
        let path = self.part(device, command, digest);
        match fs::metadata(&path) {
            Ok(meta) => Ok(meta.len()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(0),
            Err(error) => Err(failed("read", &path)(error)),
        }
    }

    /// Adds a piece behind what is here. It is durable when this returns. A device sends one log at a time, so the first
    /// piece of one takes the place of whatever else was on its way.
    pub(super) fn append(&self, device: &DeviceId, command: u64, digest: &Digest, data: &[u8]) -> Result<()> {
        let (folder, path) = (self.folder(device), self.part(device, command, digest));
        let is_new = !path.exists();
        if is_new {
            let made = fs::create_dir_all(&folder).and_then(|()| sync(&self.root));
            made.map_err(failed("create", &folder))?;
            self.remove(device, |name| name.ends_with(".part"))?;
        }
        let mut file =
            OpenOptions::new().append(true).create(true).open(&path).map_err(failed("write", &path))?;
        let before = file.metadata().map_err(failed("write", &path))?.len();
        if let Err(error) = file.write_all(data).and_then(|()| file.sync_data()) {
            // Half a piece must not pass for a whole one.
            drop(file.set_len(before));
            return Err(failed("write", &path)(error));
        }
        if is_new { sync(&folder).map_err(failed("sync", &folder)) } else { Ok(()) }
    }

    /// Makes what has come the log of its command, durably. `false`, and the part is gone, if it is not what it should be.
    pub(super) fn settle(&self, device: &DeviceId, command: u64, digest: &Digest) -> Result<bool> {
        let (folder, from) = (self.folder(device), self.part(device, command, digest));
        let bytes = fs::read(&from).map_err(failed("read", &from))?;
        if Digest::of(&bytes) != *digest {
            fs::remove_file(&from).map_err(failed("remove", &from))?;
            return Ok(false);
        }
        // Of a kill between write and sync the bytes may be in memory only.
        File::open(&from).and_then(|file| file.sync_data()).map_err(failed("sync", &from))?;
        let to = self.whole(device, command);
        fs::rename(&from, &to).map_err(failed("rename", &to))?;
        sync(&folder).map_err(failed("sync", &folder))?;
        Ok(true)
    }

    pub(super) fn read(&self, device: &DeviceId, command: u64) -> Result<Vec<u8>> {
        let path = self.whole(device, command);
        fs::read(&path).map_err(failed("read", &path))
    }

    /// Removes the logs of commands that `keep` does not name.
    pub(super) fn tidy(&self, device: &DeviceId, keep: &[u64]) -> Result<()> {
        let command = |name: &str| name.strip_suffix(".log").and_then(|number| number.parse::<u64>().ok());
        self.remove(device, |name| command(name).is_some_and(|command| !keep.contains(&command)))
    }

    fn remove(&self, device: &DeviceId, which: impl Fn(&str) -> bool) -> Result<()> {
        let folder = self.folder(device);
        for entry in fs::read_dir(&folder).map_err(failed("read", &folder))? {
            let entry = entry.map_err(failed("read", &folder))?;
            if entry.file_name().to_str().is_some_and(&which) {
                let path = entry.path();
                fs::remove_file(&path).map_err(failed("remove", &path))?;
            }
        }
        Ok(())
    }
}

fn failed(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Error {
    let path = path.to_owned();
    move |source| Error::Io { action, path, source }
}

fn sync(folder: &Path) -> io::Result<()> {
    File::open(folder)?.sync_all()
}
