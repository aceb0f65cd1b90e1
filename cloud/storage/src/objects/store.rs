//! The folder behind the object store, in blocking calls.

use super::OBJECT_IN_MEMORY;
use crate::error::{Error, IoContext, Result};
use crate::folder::{Folder, create_dir_durably, remove_if_there};
use crate::fs::{FsFile, ReadFrom};
use bytes::Bytes;
use flotilla_protocol::Digest;
use std::collections::HashSet;
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// Objects being written; emptied on open.
const INCOMING: &str = "incoming";
/// Damaged objects, kept for whoever looks into the disk.
const QUARANTINE: &str = "quarantine";
/// Bytes copied at once.
const COPY: usize = 256 * 1024;

/// An open object folder.
#[derive(Debug)]
pub(super) struct Store {
    folder: Folder,
    reserve_bytes: u64,
    counter: AtomicU64,
    /// Held while an object gets or loses its name, so that a good copy is never moved aside for a bad one.
    names: Mutex<()>,
}

/// An object under its temporary name, which goes if it gets no other.
struct Incoming<'a> {
    store: &'a Store,
    path: PathBuf,
    digest: Digest,
    named: bool,
}

impl Drop for Incoming<'_> {
    fn drop(&mut self) {
        if !self.named
            && let Err(error) = remove_if_there(&*self.store.folder.fs, &self.path)
        {
            tracing::warn!(%error, "an incomplete object stays until the next start");
        }
    }
}

impl Store {
    pub(super) fn open(folder: Folder, reserve_bytes: u64) -> Result<Self> {
        for name in [INCOMING, QUARANTINE] {
            create_dir_durably(&*folder.fs, &folder.join(name), &folder.path)?;
        }
        let incoming = folder.join(INCOMING);
        for entry in folder.fs.list(&incoming).at("list", &incoming)? {
            remove_if_there(&*folder.fs, &incoming.join(&entry.name))?;
        }
        Ok(Self { folder, reserve_bytes, counter: AtomicU64::new(0), names: Mutex::new(()) })
    }

    pub(super) fn path(&self) -> &Path {
        &self.folder.path
    }

    pub(super) fn put_bytes(&self, bytes: &[u8]) -> Result<Digest> {
        let digest = Digest::of(bytes);
        if self.is_intact(&digest)? {
            self.sync_fan_out(&digest)?;
            return Ok(digest);
        }
        self.put_reader(&mut &bytes[..], Path::new("memory"))
    }

    pub(super) fn put_reader(&self, reader: &mut dyn Read, source: &Path) -> Result<Digest> {
        let fs = &self.folder.fs;
        let incoming = self.receive(reader, source)?;
        let path = &incoming.path;
        fs.open(path).and_then(|file| file.sync()).at("sync", path)?;
        self.make_fan_out(&incoming.digest)?;
        let digest = self.name(incoming)?;
        let [_, inner] = self.fan_out(&digest);
        fs.sync_dir(&inner).at("sync", &inner)?;
        Ok(digest)
    }

    pub(super) fn put_many(&self, objects: &[Bytes]) -> Result<Vec<Digest>> {
        let fs = &self.folder.fs;
        let bytes = objects.iter().map(|object| object.len() as u64).sum();
        check_memory("putting objects from memory", bytes)?;
        let mut digests = Vec::with_capacity(objects.len());
        let mut received = Vec::new();
        let mut seen = HashSet::new();
        for object in objects {
            let digest = Digest::of(object);
            digests.push(digest);
            if seen.insert(digest) && !self.is_intact(&digest)? {
                received.push(self.receive(&mut &object[..], Path::new("memory"))?);
            }
        }
        // First the content, then the names.
        fs.sync_all(&self.folder.path).at("sync", &self.folder.path)?;
        for incoming in received {
            for folder in self.fan_out(&incoming.digest) {
                match fs.create_dir(&folder) {
                    Err(e) if e.kind() != io::ErrorKind::AlreadyExists => {
                        return Err(Error::io("create", &folder, e));
                    }
                    _ => {}
                }
            }
            self.name(incoming)?;
        }
        fs.sync_all(&self.folder.path).at("sync", &self.folder.path)?;
        Ok(digests)
    }

    pub(super) fn get(&self, digest: &Digest) -> Result<Bytes> {
        let (file, path) = self.open_object(digest)?;
        let len = file.size().at("read", &path)?;
        check_memory("reading an object into memory", len)?;
        let mut content = Vec::with_capacity(len as usize);
        ReadFrom::new(&*file, 0).read_to_end(&mut content).at("read", &path)?;
        if Digest::of(&content) != *digest {
            return Err(self.quarantine(digest, &path));
        }
        Ok(content.into())
    }

    pub(super) fn read_range(&self, digest: &Digest, offset: u64, len: usize) -> Result<Bytes> {
        let (file, path) = self.open_object(digest)?;
        let size = file.size().at("read", &path)?;
        let end = offset.checked_add(len as u64);
        if end.is_none_or(|end| end > size) {
            return Err(Error::Invalid(format!(
                "object {digest} has {size} bytes; {len} bytes from {offset} on reach past its end"
            )));
        }
        check_memory("reading an object into memory", len as u64)?;
        let mut content = vec![0; len];
        ReadFrom::new(&*file, offset).read_exact(&mut content).at("read", &path)?;
        Ok(content.into())
    }

    pub(super) fn fetch_to(&self, digest: &Digest, target: &Path) -> Result<u64> {
        let (file, path) = self.open_object(digest)?;
        let mut out =
            std::fs::OpenOptions::new().write(true).create_new(true).open(target).at("create", target)?;
        let copied =
            copy(&mut ReadFrom::new(&*file, 0), &path, |piece, _| out.write_all(piece).at("write", target));
        let result = match copied {
            Ok((found, len)) if found == *digest => Ok(len),
            Ok(_) => Err(self.quarantine(digest, &path)),
            Err(error) => Err(error),
        };
        if result.is_err()
            && let Err(error) = std::fs::remove_file(target)
        {
            tracing::warn!(target = %target.display(), %error, "an incomplete copy could not be removed");
        }
        result
    }

    pub(super) fn verify(&self, digest: &Digest) -> Result<()> {
        let (found, path) = self.digest_of(digest)?;
        if found == *digest { Ok(()) } else { Err(self.quarantine(digest, &path)) }
    }

    pub(super) fn len(&self, digest: &Digest) -> Result<u64> {
        let (file, path) = self.open_object(digest)?;
        file.size().at("read", &path)
    }

    pub(super) fn remove(&self, digest: &Digest) -> Result<bool> {
        let [_, inner] = self.fan_out(digest);
        let removed = remove_if_there(&*self.folder.fs, &inner.join(digest.to_string()))?;
        if removed {
            self.folder.fs.sync_dir(&inner).at("sync", &inner)?;
        }
        Ok(removed)
    }

    pub(super) fn list(&self, after: Option<Digest>, limit: usize) -> Result<Vec<Digest>> {
        let after = after.map(|d| d.to_string()).unwrap_or_default();
        let mut found = Vec::new();
        for outer in self.fan_out_folders(&self.folder.path, after.get(..2))? {
            let bound = after.get(2..4).filter(|_| outer.ends_with(&after[..2]));
            for inner in self.fan_out_folders(&outer, bound)? {
                for entry in self.folder.fs.list(&inner).at("list", &inner)? {
                    if found.len() == limit {
                        return Ok(found);
                    }
                    if let Ok(digest) = entry.name.parse::<Digest>()
                        && entry.name > after
                    {
                        found.push(digest);
                    }
                }
            }
        }
        Ok(found)
    }

    /// The two-digit folders in `folder`, from `from` on.
    fn fan_out_folders(&self, folder: &Path, from: Option<&str>) -> Result<Vec<PathBuf>> {
        let entries = self.folder.fs.list(folder).at("list", folder)?;
        let is_fan_out = |name: &str| name.len() == 2 && name.bytes().all(|b| b.is_ascii_hexdigit());
        Ok(entries
            .into_iter()
            .filter(|e| e.is_dir && is_fan_out(&e.name) && from.is_none_or(|from| e.name.as_str() >= from))
            .map(|e| folder.join(e.name))
            .collect())
    }

    fn fan_out(&self, digest: &Digest) -> [PathBuf; 2] {
        let text = digest.to_string();
        let outer = self.folder.join(&text[..2]);
        let inner = outer.join(&text[2..4]);
        [outer, inner]
    }

    fn open_object(&self, digest: &Digest) -> Result<(Box<dyn FsFile>, PathBuf)> {
        let [_, inner] = self.fan_out(digest);
        let path = inner.join(digest.to_string());
        match self.folder.fs.open_read(&path) {
            Ok(file) => Ok((file, path)),
            Err(e) if e.kind() == io::ErrorKind::NotFound => {
                Err(Error::ObjectMissing { digest: *digest, folder: self.folder.path.clone() })
            }
            Err(e) => Err(Error::io("open", &path, e)),
        }
    }

    /// Whether the object is there and whole. It may have been renamed into place by a put that has not
    /// synced the folders yet.
    fn is_intact(&self, digest: &Digest) -> Result<bool> {
        match self.verify(digest) {
            Ok(()) => Ok(true),
            Err(Error::ObjectMissing { .. } | Error::Corrupt { .. }) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Writes an object under a temporary name, without a sync.
    fn receive(&self, reader: &mut dyn Read, source: &Path) -> Result<Incoming<'_>> {
        let fs = &self.folder.fs;
        let name = self.counter.fetch_add(1, Ordering::Relaxed).to_string();
        let path = self.folder.join(INCOMING).join(name);
        let file = fs.create(&path).at("create", &path)?;
        let mut incoming = Incoming { store: self, path, digest: Digest::from_bytes([0; 32]), named: false };
        let (digest, _) = copy(reader, source, |piece, offset| {
            let free = fs.free_bytes(&self.folder.path).at("measure", &self.folder.path)?;
            if free < self.reserve_bytes + piece.len() as u64 {
                return Err(Error::DiskFull {
                    action: "store an object in",
                    path: self.folder.path.clone(),
                    source: None,
                });
            }
            file.write_all_at(piece, offset).at("write", &incoming.path)
        })?;
        incoming.digest = digest;
        Ok(incoming)
    }

    fn make_fan_out(&self, digest: &Digest) -> Result<()> {
        let [outer, inner] = self.fan_out(digest);
        create_dir_durably(&*self.folder.fs, &outer, &self.folder.path)?;
        create_dir_durably(&*self.folder.fs, &inner, &outer)
    }

    /// Gives an object, durably written, its name. Replaces a copy that is there with the same, checked
    /// bytes.
    fn name(&self, mut incoming: Incoming<'_>) -> Result<Digest> {
        let [_, inner] = self.fan_out(&incoming.digest);
        let target = inner.join(incoming.digest.to_string());
        let _names = self.names();
        self.folder.fs.rename(&incoming.path, &target).at("rename", &incoming.path)?;
        incoming.named = true;
        Ok(incoming.digest)
    }

    fn sync_fan_out(&self, digest: &Digest) -> Result<()> {
        let [outer, inner] = self.fan_out(digest);
        for folder in [&self.folder.path, &outer, &inner] {
            self.folder.fs.sync_dir(folder).at("sync", folder)?;
        }
        Ok(())
    }

    /// Moves a damaged object aside and says so.
    fn quarantine(&self, digest: &Digest, path: &Path) -> Error {
        let _names = self.names();
        if let Ok((found, _)) = self.digest_of(digest)
            && found == *digest
        {
            return Error::corrupt(path, "it was damaged and has been replaced by now: read it again");
        }
        let aside = self.folder.join(QUARANTINE).join(digest.to_string());
        let detail = match self.folder.fs.rename(path, &aside) {
            Ok(()) => format!("its content does not match its digest; it was moved to {}", aside.display()),
            Err(e) => format!("its content does not match its digest, and it could not be moved aside ({e})"),
        };
        tracing::error!(%digest, path = %path.display(), "a stored object is damaged");
        Error::corrupt(path, detail)
    }

    /// The digest of what is stored under `digest`, and where that is.
    fn digest_of(&self, digest: &Digest) -> Result<(Digest, PathBuf)> {
        let (file, path) = self.open_object(digest)?;
        let (found, _) = copy(&mut ReadFrom::new(&*file, 0), &path, |_, _| Ok(()))?;
        Ok((found, path))
    }

    fn names(&self) -> MutexGuard<'_, ()> {
        self.names.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn check_memory(what: &str, len: u64) -> Result<()> {
    if len <= OBJECT_IN_MEMORY {
        return Ok(());
    }
    Err(Error::TooLarge { what: what.to_owned(), size: len, bound: OBJECT_IN_MEMORY })
}

/// Passes everything that `reader` gives to `write`, piece by piece with its offset.
fn copy(
    reader: &mut dyn Read,
    source: &Path,
    mut write: impl FnMut(&[u8], u64) -> Result<()>,
) -> Result<(Digest, u64)> {
    let mut hasher = Digest::hasher();
    let mut buffer = vec![0; COPY];
    let mut offset = 0;
    loop {
        let read = match reader.read(&mut buffer) {
            Ok(0) => return Ok((hasher.finish(), offset)),
            Ok(read) => read,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
            Err(e) => return Err(Error::io("read", source, e)),
        };
        hasher.update(&buffer[..read]);
        write(&buffer[..read], offset)?;
        offset += read as u64;
    }
}
