//! The bytes of hard examples: received piece by piece, each durable before it is acknowledged.

use crate::error::{Error, Result};
use flotilla_protocol::{DeviceId, Digest, limits};
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

/// Examples of one device that are on their way. A further one takes the place of the oldest.
const PARTS: usize = 4;
/// What has not gone on for so long is given up.
const STALE: Duration = Duration::from_secs(7 * 24 * 3_600);

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

    fn part(&self, device: &DeviceId, digest: &Digest) -> PathBuf {
        self.incoming().join(device.as_str()).join(digest.to_string())
    }

    pub(super) fn picture(&self, digest: &Digest) -> PathBuf {
        self.pictures().join(digest.to_string())
    }

    /// Bytes of a device's upload that are here, from its beginning.
    pub(super) fn received(&self, device: &DeviceId, digest: &Digest) -> Result<u64> {
        let path = self.part(device, digest);
        match fs::metadata(&path) {
            Ok(meta) => Ok(meta.len()),
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(0),
            Err(e) => Err(Error::io("read", &path)(e)),
        }
    }

    /// Adds a piece behind what is here. It is durable when this returns.
    pub(super) fn append(&self, device: &DeviceId, digest: &Digest, data: &[u8]) -> Result<()> {
        let path = self.part(device, digest);
        let failed = || Error::io("write", &path);
        let is_new = !path.exists();
        if is_new {
            self.make_room(device)?;
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

    /// Makes the folder of a device, with room for one more part.
    fn make_room(&self, device: &DeviceId) -> Result<()> {
        let folder = self.incoming().join(device.as_str());
        if !folder.exists() {
            fs::create_dir_all(&folder).map_err(Error::io("create", &folder))?;
            return sync(&self.incoming());
        }
        let mut parts = parts(&folder)?;
        parts.sort_by_key(|(_, changed)| std::cmp::Reverse(*changed));
        for (path, _) in parts.iter().skip(PARTS - 1) {
            fs::remove_file(path).map_err(Error::io("remove", path))?;
        }
        Ok(())
    }

    /// The whole of an upload.
    pub(super) fn read_part(&self, device: &DeviceId, digest: &Digest) -> Result<Vec<u8>> {
        let path = self.part(device, digest);
        fs::read(&path).map_err(Error::io("read", &path))
    }

    pub(super) fn remove_part(&self, device: &DeviceId, digest: &Digest) -> Result<()> {
        remove(&self.part(device, digest))
    }

    /// Puts a complete upload where pictures are kept, durably.
    pub(super) fn settle(&self, device: &DeviceId, digest: &Digest) -> Result<()> {
        let (from, to) = (self.part(device, digest), self.picture(digest));
        fs::rename(&from, &to).map_err(Error::io("rename", &to))?;
        sync(&self.pictures())?;
        sync(parent(&from))
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

    /// Removes pictures that `keep` does not name, parts that have not gone on for long, and empty folders.
    pub(super) fn tidy(&self, keep: impl Fn(&Digest) -> bool) -> Result<()> {
        let now = SystemTime::now();
        for (path, _) in parts(&self.pictures())? {
            let digest = path.file_name().and_then(|name| name.to_str()).and_then(|name| name.parse().ok());
            if !digest.is_some_and(|digest| keep(&digest)) {
                remove(&path)?;
            }
        }
        let incoming = self.incoming();
        for entry in fs::read_dir(&incoming).map_err(Error::io("read", &incoming))? {
            let folder = entry.map_err(Error::io("read", &incoming))?.path();
            for (path, changed) in parts(&folder)? {
                let len = fs::metadata(&path).map_or(0, |meta| meta.len());
                let stale = now.duration_since(changed).is_ok_and(|age| age > STALE);
                if stale || len > limits::HARD_EXAMPLE as u64 {
                    remove(&path)?;
                }
            }
            // It stays if anything is in it.
            drop(fs::remove_dir(&folder));
        }
        Ok(())
    }
}

fn parts(folder: &Path) -> Result<Vec<(PathBuf, SystemTime)>> {
    let failed = |e| Error::io("read", folder)(e);
    let mut all = Vec::new();
    for entry in fs::read_dir(folder).map_err(failed)? {
        let entry = entry.map_err(failed)?;
        let changed = entry.metadata().and_then(|meta| meta.modified()).map_err(failed)?;
        all.push((entry.path(), changed));
    }
    Ok(all)
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
