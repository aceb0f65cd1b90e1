//! One slot on the disk: a release envelope and its files, from the first chunk to a loaded model.
//!
//! Chunks are written into `partial/NAME` as they come. What of them is right is found out by their digests when a
//! download is taken up again, so a torn write costs one chunk. A complete file is checked as a whole, brought to
//! stable storage and renamed to `files/NAME`.

use crate::disk::{self, DiskError};
use crate::probe::{FILES_FOLDER, RELEASE_FILE};
use flotilla_device::Fault;
use flotilla_device::download::Download;
use flotilla_protocol::manifest::{ENGINE_TRACT, FileEntry};
use flotilla_protocol::message::Chunk;
use flotilla_protocol::{Digest, Envelope, EnvelopeKind, ErrorCode, ReleaseManifest, codec, limits};
use flotilla_runtime::{Bundle, Model};
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

const PARTIAL_FOLDER: &str = "partial";

/// A slot's folder.
#[derive(Clone, Debug)]
pub struct Slot {
    path: PathBuf,
}

impl Slot {
    /// The slot at `path`.
    pub fn new(path: PathBuf) -> Self {
        Self { path }
    }

    /// Its folder.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Removes everything.
    pub fn clear(&self) -> Result<(), Fault> {
        disk::remove(&self.path).map_err(disk_fault)
    }

    /// Frees the slot of everything that is not of this release. True if its envelope is there.
    pub fn prepare(&self, release: Digest) -> Result<Option<Vec<u8>>, Fault> {
        let here = match self.envelope() {
            Ok(here) => here.filter(|bytes| Digest::of(bytes) == release),
            // A file that is not what we wrote goes like any other release's.
            Err(DiskError::TooLarge { .. }) => None,
            Err(e) => return Err(disk_fault(e)),
        };
        if here.is_none() {
            self.clear()?;
        }
        Ok(here)
    }

    fn envelope(&self) -> Result<Option<Vec<u8>>, DiskError> {
        disk::read(&self.path.join(RELEASE_FILE), limits::ENVELOPE)
    }

    /// Stores the release's envelope durably.
    pub fn put_envelope(&self, bytes: &[u8]) -> Result<(), Fault> {
        disk::replace(&self.path.join(RELEASE_FILE), bytes).map_err(disk_fault)
    }

    /// The manifest of the envelope that is there, which must be `release`. Its signature was checked when it
    /// came; the digest says that it is the same.
    pub fn manifest(&self, release: Digest) -> Result<ReleaseManifest, Fault> {
        let corrupt = |detail: String| Fault::lasting(ErrorCode::StorageCorrupt, detail);
        let bytes = self.envelope().map_err(disk_fault)?.ok_or_else(|| {
            Fault::lasting(
                ErrorCode::NotFound,
                format!("{} is missing", self.path.join(RELEASE_FILE).display()),
            )
        })?;
        if Digest::of(&bytes) != release {
            return Err(corrupt(format!("{} is damaged", self.path.join(RELEASE_FILE).display())));
        }
        let envelope = Envelope::from_bytes(&bytes).map_err(|e| corrupt(e.to_string()))?;
        if envelope.kind != EnvelopeKind::Release {
            return Err(corrupt("the stored document is not a release".to_owned()));
        }
        codec::decode(&envelope.payload, limits::ENVELOPE).map_err(|e| corrupt(e.to_string()))
    }

    /// The digest of the envelope that is there, whatever it is.
    pub fn release(&self) -> Option<Digest> {
        self.envelope().ok().flatten().map(|bytes| Digest::of(&bytes))
    }

    /// The envelope that is there, whatever it is.
    pub fn envelope_bytes(&self) -> Option<Vec<u8>> {
        self.envelope().ok().flatten()
    }

    /// Bytes of the release's files that take room already.
    pub fn present_bytes(&self, manifest: &ReleaseManifest) -> u64 {
        let size = |path: PathBuf| fs::metadata(path).map_or(0, |meta| meta.len());
        let of = |file: &FileEntry| size(self.whole(file)).max(size(self.partial(file))).min(file.bytes);
        manifest.files.iter().map(of).sum()
    }

    /// Marks every chunk that is there and right. A finished file that is damaged becomes a partial one.
    pub fn resume(&self, manifest: &ReleaseManifest, download: &mut Download) -> Result<(), Fault> {
        let partial = self.path.join(PARTIAL_FOLDER);
        disk::private_folder(&partial).map_err(disk_fault)?;
        disk::private_folder(&self.path.join(FILES_FOLDER)).map_err(disk_fault)?;
        for file in &manifest.files {
            let whole = self.whole(file);
            if whole.exists() {
                if mark(&whole, file, download)? {
                    continue;
                }
                fs::rename(&whole, self.partial(file)).map_err(|e| io_fault(&whole, e))?;
            }
            if self.partial(file).exists() {
                mark(&self.partial(file), file, download)?;
            }
        }
        Ok(())
    }

    /// Writes a verified chunk to its place in every file of that content.
    pub fn write(&self, manifest: &ReleaseManifest, chunk: &Chunk) -> Result<(), Fault> {
        for file in manifest.files.iter().filter(|file| file.digest == chunk.digest) {
            let path = self.partial(file);
            OpenOptions::new()
                .write(true)
                .create(true)
                .truncate(false)
                .mode(0o600)
                .open(&path)
                .and_then(|out| out.write_all_at(&chunk.data, chunk.offset))
                .map_err(|e| io_fault(&path, e))?;
        }
        Ok(())
    }

    /// Checks every file as a whole, brings it to stable storage and gives it its name.
    pub fn finish(&self, manifest: &ReleaseManifest) -> Result<(), Fault> {
        let files = self.path.join(FILES_FOLDER);
        disk::private_folder(&files).map_err(disk_fault)?;
        for file in &manifest.files {
            let whole = self.whole(file);
            if whole.exists() && check(&whole, file).is_ok() {
                continue;
            }
            let partial = self.partial(file);
            settle(&partial, file).map_err(|e| io_fault(&partial, e))?;
            check(&partial, file)?;
            fs::rename(&partial, &whole).map_err(|e| io_fault(&whole, e))?;
        }
        disk::remove(&self.path.join(PARTIAL_FOLDER)).map_err(disk_fault)?;
        disk::sync_folder(&files).map_err(disk_fault)?;
        disk::sync_folder(&self.path).map_err(disk_fault)
    }

    /// Loads the release: every file is checked against the manifest, the manifest against `release`.
    pub fn load(&self, release: Digest, board: &str) -> Result<Model, Fault> {
        let manifest = self.manifest(release)?;
        let bundle = self.bundle(manifest)?;
        Model::from_bundle(&bundle, board, ENGINE_TRACT).map_err(|e| Fault::lasting(e.code(), e.detail()))
    }

    /// The complete release in the slot, every file checked.
    pub fn bundle(&self, manifest: ReleaseManifest) -> Result<Bundle, Fault> {
        let opened = Bundle::open(self.path.join(FILES_FOLDER), manifest);
        opened.map_err(|e| Fault::lasting(e.code(), e.detail()))
    }

    fn whole(&self, file: &FileEntry) -> PathBuf {
        self.path.join(FILES_FOLDER).join(&file.name)
    }

    fn partial(&self, file: &FileEntry) -> PathBuf {
        self.path.join(PARTIAL_FOLDER).join(&file.name)
    }
}

/// Marks the right chunks of a stored file. True if all of it is right and nothing is behind it.
fn mark(path: &Path, file: &FileEntry, download: &mut Download) -> Result<bool, Fault> {
    let mut stored = File::open(path).map_err(|e| io_fault(path, e))?;
    let mut buffer = vec![0; limits::CHUNK];
    let mut all = stored.metadata().map_err(|e| io_fault(path, e))?.len() == file.bytes;
    for index in 0..file.chunks.len() {
        let start = index as u64 * limits::CHUNK as u64;
        let want = (file.bytes - start).min(limits::CHUNK as u64) as usize;
        let got = fill(&mut stored, &mut buffer[..want]).map_err(|e| io_fault(path, e))?;
        all &= download.mark(file.digest, index, &buffer[..got]);
    }
    Ok(all)
}

/// Reads until the buffer is full or the file ends.
fn fill(file: &mut File, buffer: &mut [u8]) -> io::Result<usize> {
    let mut filled = 0;
    while filled < buffer.len() {
        match file.read(&mut buffer[filled..]) {
            Ok(0) => break,
            Ok(read) => filled += read,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
    Ok(filled)
}

/// Gives a file its exact size and brings it to stable storage.
fn settle(path: &Path, file: &FileEntry) -> io::Result<()> {
    let stored = OpenOptions::new().write(true).create(true).truncate(false).mode(0o600).open(path)?;
    stored.set_len(file.bytes)?;
    stored.sync_all()
}

/// Checks a whole file. Right chunks that do not make up the right file are the manifest's fault; wrong chunks are
/// the disk's, and are fetched anew.
fn check(path: &Path, file: &FileEntry) -> Result<(), Fault> {
    let mut stored = File::open(path).map_err(|e| io_fault(path, e))?;
    let mut buffer = vec![0; limits::CHUNK];
    let mut hasher = Digest::hasher();
    let mut chunks = Vec::with_capacity(file.chunks.len());
    loop {
        let got = fill(&mut stored, &mut buffer).map_err(|e| io_fault(path, e))?;
        if got == 0 {
            break;
        }
        hasher.update(&buffer[..got]);
        chunks.push(Digest::of(&buffer[..got]));
    }
    if chunks != file.chunks {
        return Err(Fault::transient(
            ErrorCode::StorageCorrupt,
            format!("{} changed on the disk", file.name),
        ));
    }
    if hasher.finish() != file.digest {
        let detail = format!("file {} has right chunks but another digest than the manifest says", file.name);
        return Err(Fault::lasting(ErrorCode::DigestMismatch, detail));
    }
    Ok(())
}

fn io_fault(path: &Path, error: io::Error) -> Fault {
    disk_fault(DiskError::of(path, error))
}

/// No room is final until the operator decides otherwise; everything else may pass.
pub(crate) fn disk_fault(error: DiskError) -> Fault {
    match error.code() {
        ErrorCode::StorageFull => Fault::lasting(ErrorCode::NoRoom, error.to_string()),
        code => Fault::transient(code, error.to_string()),
    }
}

#[cfg(test)]
#[path = "slot_tests.rs"]
mod tests;
