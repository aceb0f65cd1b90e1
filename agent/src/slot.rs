//! One slot on the disk: a release envelope and its files, from the first chunk to a loaded model.
//!
//! Chunks are written into `partial/NAME` as they come. What of them is right is found out by their digests when a
//! download is taken up again, so a torn write costs one chunk. Chunks that lie in another slot, wherever they stand
//! there, are copied. A complete file is checked as a whole, brought to stable storage and renamed to `files/NAME`.

use crate::disk::{self, DiskError};
use crate::probe::{FILES_FOLDER, RELEASE_FILE};
use flotilla_device::Fault;
use flotilla_device::download::Download;
use flotilla_protocol::manifest::{ENGINE_TRACT, FileEntry};
use flotilla_protocol::message::Chunk;
use flotilla_protocol::{Digest, Envelope, EnvelopeKind, ErrorCode, ReleaseManifest, codec, limits};
use flotilla_runtime::{Bundle, Model};
use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read};
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

const PARTIAL_FOLDER: &str = "partial";
/// What the system counts the size of files on the disk in.
const BLOCK: u64 = 512;

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

    /// Bytes of the release's files that take room already. A hole in a file takes none.
    pub fn present_bytes(&self, manifest: &ReleaseManifest) -> u64 {
        let size = |path: PathBuf| {
            fs::metadata(path).map_or(0, |meta| meta.len().min(meta.blocks().saturating_mul(BLOCK)))
        };
        let of = |file: &FileEntry| size(self.whole(file)).max(size(self.partial(file))).min(file.bytes);
        manifest.files.iter().map(of).sum()
    }

    /// Marks every chunk that is there and right. A finished file that is damaged becomes a partial one.
    pub fn resume(&self, manifest: &ReleaseManifest, download: &mut Download) -> Result<(), Fault> {
        let partial = self.path.join(PARTIAL_FOLDER);
        disk::private_folder(&partial).map_err(disk_fault)?;
        disk::private_folder(&self.path.join(FILES_FOLDER)).map_err(disk_fault)?;
        // Of files with the same content a chunk is there when it is right in all of them.
        let mut there: BTreeMap<Digest, Vec<bool>> = BTreeMap::new();
        for file in &manifest.files {
            let right = self.right_chunks(file)?;
            let both = there.entry(file.digest).or_insert_with(|| vec![true; right.len()]);
            both.iter_mut().zip(right).for_each(|(both, right)| *both &= right);
        }
        for (file, chunks) in there {
            let right = chunks.iter().enumerate().filter(|(_, right)| **right);
            right.for_each(|(index, _)| download.have(file, index));
        }
        Ok(())
    }

    /// Which chunks of a file lie here and are right.
    fn right_chunks(&self, file: &FileEntry) -> Result<Vec<bool>, Fault> {
        let (whole, partial) = (self.whole(file), self.partial(file));
        if whole.exists() {
            let (right, exact) = scan(&whole, file)?;
            if exact {
                return Ok(right);
            }
            fs::rename(&whole, &partial).map_err(|e| io_fault(&whole, e))?;
        }
        if partial.exists() {
            return Ok(scan(&partial, file)?.0);
        }
        Ok(vec![false; file.chunks.len()])
    }

    /// Copies what is missing here and lies in one of these slots, this one included. A chunk is known by its digest,
    /// wherever it stands. Returns the bytes that need not be fetched.
    pub fn reuse(
        &self,
        manifest: &ReleaseManifest,
        slots: &[&Slot],
        download: &mut Download,
    ) -> Result<u64, Fault> {
        let mut reused = 0;
        for slot in slots {
            let mut missing: BTreeSet<Digest> = download.missing().collect();
            if missing.is_empty() {
                break;
            }
            // What cannot be read there is fetched.
            let Some(theirs) = slot.some_manifest() else { continue };
            for file in &theirs.files {
                for (index, chunk) in file.chunks.iter().enumerate() {
                    if !missing.contains(chunk) {
                        continue;
                    }
                    let Some(data) = slot.chunk(file, index).filter(|data| Digest::of(data) == *chunk) else {
                        continue;
                    };
                    // Written before it is marked: a full disk in between costs nothing but another try.
                    self.place(manifest, &data)?;
                    reused += download.found(&data);
                    missing.remove(chunk);
                }
            }
        }
        Ok(reused)
    }

    /// The manifest that is here, whatever release it is of. Nothing of it is believed but where chunks may lie.
    fn some_manifest(&self) -> Option<ReleaseManifest> {
        let envelope = Envelope::from_bytes(&self.envelope_bytes()?).ok()?;
        let manifest: ReleaseManifest = codec::decode(&envelope.payload, limits::ENVELOPE).ok()?;
        manifest.check().is_ok().then_some(manifest)
    }

    /// What stands at a chunk's place, right or wrong.
    fn chunk(&self, file: &FileEntry, index: usize) -> Option<Vec<u8>> {
        let start = index as u64 * u64::from(file.chunk_bytes);
        let bytes = file.bytes.checked_sub(start)?.min(u64::from(file.chunk_bytes)) as usize;
        let stored = File::open(self.whole(file)).or_else(|_| File::open(self.partial(file))).ok()?;
        let mut data = vec![0; bytes];
        stored.read_exact_at(&mut data, start).ok()?;
        Some(data)
    }

    /// Writes a verified chunk wherever it stands.
    pub fn write(&self, manifest: &ReleaseManifest, chunk: &Chunk) -> Result<(), Fault> {
        self.place(manifest, &chunk.data)
    }

    fn place(&self, manifest: &ReleaseManifest, data: &[u8]) -> Result<(), Fault> {
        let digest = Digest::of(data);
        for file in &manifest.files {
            let places = file.chunks.iter().enumerate().filter(|(_, chunk)| **chunk == digest);
            let offsets: Vec<u64> = places.map(|(index, _)| index as u64 * limits::CHUNK as u64).collect();
            // A finished file is as it should be.
            if offsets.is_empty() || self.whole(file).exists() {
                continue;
            }
            let path = self.partial(file);
            OpenOptions::new()
                .write(true)
                .create(true)
                .truncate(false)
                .mode(0o600)
                .open(&path)
                .and_then(|out| offsets.iter().try_for_each(|offset| out.write_all_at(data, *offset)))
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

    /// Checks every file against the manifest once more. A file that is not there is as damaged as one that changed.
    pub fn verify(&self, manifest: &ReleaseManifest) -> Result<(), Fault> {
        manifest.files.iter().try_for_each(|file| {
            let whole = self.whole(file);
            if !whole.exists() {
                return Err(Fault::transient(ErrorCode::NotFound, format!("{} is missing", whole.display())));
            }
            check(&whole, file)
        })
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

/// Which chunks of a stored file are right, and whether all are and nothing is behind them.
fn scan(path: &Path, file: &FileEntry) -> Result<(Vec<bool>, bool), Fault> {
    let mut stored = File::open(path).map_err(|e| io_fault(path, e))?;
    let mut buffer = vec![0; limits::CHUNK];
    let exact = stored.metadata().map_err(|e| io_fault(path, e))?.len() == file.bytes;
    let mut right = Vec::with_capacity(file.chunks.len());
    for (index, chunk) in file.chunks.iter().enumerate() {
        let start = index as u64 * limits::CHUNK as u64;
        let want = (file.bytes - start).min(limits::CHUNK as u64) as usize;
        let got = fill(&mut stored, &mut buffer[..want]).map_err(|e| io_fault(path, e))?;
        right.push(got == want && Digest::of(&buffer[..got]) == *chunk);
    }
    let exact = exact && right.iter().all(|right| *right);
    Ok((right, exact))
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

/// Whatever a disk says may pass.
pub(crate) fn disk_fault(error: DiskError) -> Fault {
    let code = match error.code() {
        ErrorCode::StorageFull => ErrorCode::NoRoom,
        code => code,
    };
    Fault::transient(code, error.to_string())
}

#[cfg(test)]
#[path = "slot_tests.rs"]
pub(crate) mod tests;
