//! One slot on the disk: a release envelope and its files, from the first chunk to a loaded model.
//!
//! Chunks are written into `partial/NAME` as they come. What of them is right is found out by their digests when a
//! download is taken up again, so a torn write costs one chunk. Chunks that lie in another slot, wherever they stand
//! there, are copied, and files that are sent as patches are made of those there. What a slot held before it was freed for another release lies aside in `before/` until then. A
//! complete file is checked as a whole, brought to stable storage and renamed to `files/NAME`.

use crate::disk::{Disk, DiskError, patiently};
use crate::probe::{FILES_FOLDER, RELEASE_FILE};
use flotilla_device::Fault;
use flotilla_device::download::Download;
use flotilla_protocol::manifest::{ENGINE_TRACT, FileEntry};
use flotilla_protocol::message::Chunk;
use flotilla_protocol::{Digest, Envelope, EnvelopeKind, ErrorCode, ReleaseManifest, codec, limits};
use flotilla_runtime::{Bundle, Model};
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;

mod patch;

pub(crate) use patch::Base;

const PARTIAL_FOLDER: &str = "partial";
const BEFORE_FOLDER: &str = "before";

/// A slot's folder.
#[derive(Clone)]
pub struct Slot {
    disk: Arc<dyn Disk>,
    /// Relative to the disk.
    place: PathBuf,
    /// For those that need a file of the system: the engine, the probe, the launcher.
    path: PathBuf,
}

impl Slot {
    /// The slot at `place` of a disk whose folder is `root`.
    pub fn new(disk: Arc<dyn Disk>, root: &Path, place: PathBuf) -> Self {
        Self { disk, path: root.join(&place), place }
    }

    /// Its folder.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Removes everything.
    pub fn clear(&self) -> Result<(), Fault> {
        self.disk.remove(&self.place).map_err(disk_fault)
    }

    /// Frees the slot of everything that is not of this release; its envelope, if that is there. What was here before lies
    /// aside until [`Self::reuse`] has looked at it.
    pub fn prepare(&self, release: Digest) -> Result<Option<Vec<u8>>, Fault> {
        let here = match self.envelope() {
            Ok(here) => here.filter(|bytes| Digest::of(bytes) == release),
            // A file that is not what we wrote goes like any other release's.
            Err(DiskError::TooLarge { .. }) => None,
            Err(e) => return Err(disk_fault(e)),
        };
        if here.is_none() && self.set_aside().is_err() {
            self.clear()?;
        }
        Ok(here)
    }

    fn set_aside(&self) -> Result<(), DiskError> {
        let parts = [FILES_FOLDER, PARTIAL_FOLDER, RELEASE_FILE];
        if !self.disk.exists(&self.place.join(RELEASE_FILE))? {
            // Nobody knows what the files here are of; those that lie aside stay.
            return parts.iter().try_for_each(|part| self.disk.remove(&self.place.join(part)));
        }
        let before = self.before();
        self.disk.remove(&before.place)?;
        self.disk.make_folder(&before.place)?;
        for part in parts {
            if self.disk.exists(&self.place.join(part))? {
                self.disk.rename(&self.place.join(part), &before.place.join(part))?;
            }
        }
        Ok(())
    }

    /// What lies aside.
    fn before(&self) -> Slot {
        Self {
            disk: Arc::clone(&self.disk),
            place: self.place.join(BEFORE_FOLDER),
            path: self.path.join(BEFORE_FOLDER),
        }
    }

    fn envelope(&self) -> Result<Option<Vec<u8>>, DiskError> {
        self.disk.read(&self.place.join(RELEASE_FILE), limits::ENVELOPE)
    }

    /// Stores the release's envelope durably.
    pub fn put_envelope(&self, bytes: &[u8]) -> Result<(), Fault> {
        self.disk.replace(&self.place.join(RELEASE_FILE), bytes).map_err(disk_fault)
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

    /// Bytes of the release's files that take room already, or will be freed for it. A hole in a file takes none.
    pub fn present_bytes(&self, manifest: &ReleaseManifest) -> u64 {
        let before = self.before();
        let freed = before.some_manifest().map_or(0, |theirs| before.own_bytes(&theirs));
        self.own_bytes(manifest).saturating_add(freed).min(manifest.total_bytes())
    }

    fn own_bytes(&self, manifest: &ReleaseManifest) -> u64 {
        manifest.files.iter().map(|file| self.file_bytes(file)).sum()
    }

    fn file_bytes(&self, file: &FileEntry) -> u64 {
        let size = |path: PathBuf| {
            self.disk.size(&path).ok().flatten().map_or(0, |size| size.bytes.min(size.allocated))
        };
        size(self.whole(file)).max(size(self.partial(file))).min(file.bytes)
    }

    /// Marks every chunk that is there and right. A finished file that is damaged becomes a partial one.
    pub fn resume(&self, manifest: &ReleaseManifest, download: &mut Download) -> Result<(), Fault> {
        for folder in [PARTIAL_FOLDER, FILES_FOLDER] {
            self.disk.make_folder(&self.place.join(folder)).map_err(disk_fault)?;
        }
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
        if let Some(size) = self.disk.size(&whole).map_err(disk_fault)? {
            let right = self.scan(&whole, file)?;
            if size.bytes == file.bytes && right.iter().all(|right| *right) {
                return Ok(right);
            }
            self.disk.rename(&whole, &partial).map_err(disk_fault)?;
        }
        if self.exists(&partial)? {
            return self.scan(&partial, file);
        }
        Ok(vec![false; file.chunks.len()])
    }

    /// Which chunks of a stored file are right.
    fn scan(&self, path: &Path, file: &FileEntry) -> Result<Vec<bool>, Fault> {
        let mut buffer = vec![0; file.bytes.min(limits::CHUNK as u64) as usize];
        let mut right = Vec::with_capacity(file.chunks.len());
        for (index, chunk) in file.chunks.iter().enumerate() {
            let start = index as u64 * limits::CHUNK as u64;
            let want = (file.bytes - start).min(limits::CHUNK as u64) as usize;
            let got = self.disk.read_at(path, start, &mut buffer[..want]).map_err(disk_fault)?;
            right.push(got == want && Digest::of(&buffer[..got]) == *chunk);
        }
        Ok(right)
    }

    fn exists(&self, path: &Path) -> Result<bool, Fault> {
        self.disk.exists(path).map_err(disk_fault)
    }

    /// Copies what is missing here and lies in other slots, elsewhere in this one, or aside; what lies aside goes then.
    /// A chunk is known by its digest, wherever it stands. Returns the bytes that need not be fetched.
    pub fn reuse(
        &self,
        manifest: &ReleaseManifest,
        others: &[Slot],
        download: &mut Download,
    ) -> Result<u64, Fault> {
        let before = self.before();
        let slots: Vec<&Slot> = others.iter().chain([self, &before]).collect();
        let reused = self.copy(manifest, &slots, download);
        // Also if its room is what was missing.
        before.clear()?;
        reused
    }

    fn copy(
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
        let mut data = vec![0; bytes];
        let places = [self.whole(file), self.partial(file)];
        let read = places.iter().find_map(|path| self.disk.read_at(path, start, &mut data).ok())?;
        (read == bytes).then_some(data)
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
            if offsets.is_empty() || self.exists(&self.whole(file))? {
                continue;
            }
            let path = self.partial(file);
            let mut offsets = offsets.iter();
            offsets.try_for_each(|offset| self.disk.write_at(&path, *offset, data)).map_err(disk_fault)?;
        }
        Ok(())
    }

    /// Checks every file as a whole, brings it to stable storage and gives it its name.
    pub fn finish(&self, manifest: &ReleaseManifest) -> Result<(), Fault> {
        let files = self.place.join(FILES_FOLDER);
        self.disk.make_folder(&files).map_err(disk_fault)?;
        for file in &manifest.files {
            let whole = self.whole(file);
            if self.exists(&whole)? && self.judge(&whole, file).is_ok() {
                continue;
            }
            let partial = self.partial(file);
            if let Err(error) = self.disk.settle(&partial, file.bytes) {
                // The system may read back what it could not store until the power goes, and say that all is well the
                // next time it is asked; so it is fetched anew.
                patiently(|| self.disk.remove(&partial)).map_err(disk_fault)?;
                return Err(disk_fault(error));
            }
            self.judge(&partial, file)?;
            self.disk.rename(&partial, &whole).map_err(disk_fault)?;
        }
        self.disk.remove(&self.place.join(PARTIAL_FOLDER)).map_err(disk_fault)?;
        self.before().clear()?;
        self.disk.sync_folder(&files).map_err(disk_fault)?;
        self.disk.sync_folder(&self.place).map_err(disk_fault)
    }

    /// Judges what was downloaded. Right chunks that do not make up the right file are the manifest's fault; wrong
    /// chunks are the disk's, and are fetched anew.
    fn judge(&self, path: &Path, file: &FileEntry) -> Result<(), Fault> {
        let mut hasher = Digest::hasher();
        let mut chunks = Vec::with_capacity(file.chunks.len());
        self.each_chunk(path, file, |chunk| {
            hasher.update(chunk);
            chunks.push(Digest::of(chunk));
        })?;
        if chunks != file.chunks {
            return Err(Fault::transient(
                ErrorCode::StorageCorrupt,
                format!("{} changed on the disk", file.name),
            ));
        }
        if hasher.finish() != file.digest {
            let detail =
                format!("file {} has right chunks but another digest than the manifest says", file.name);
            return Err(Fault::lasting(ErrorCode::DigestMismatch, detail));
        }
        Ok(())
    }

    /// Checks that a finished file is here and is the one of the manifest.
    pub fn check_file(&self, file: &FileEntry) -> Result<(), Fault> {
        let path = self.whole(file);
        if !self.exists(&path)? {
            return Err(Fault::lasting(ErrorCode::NotFound, "it is missing"));
        }
        let (mut hasher, mut bytes) = (Digest::hasher(), 0);
        self.each_chunk(&path, file, |chunk| {
            hasher.update(chunk);
            bytes += chunk.len() as u64;
        })?;
        if bytes != file.bytes {
            let detail = format!("it has {bytes} bytes instead of {}", file.bytes);
            return Err(Fault::lasting(ErrorCode::DigestMismatch, detail));
        }
        if hasher.finish() != file.digest {
            return Err(Fault::lasting(ErrorCode::DigestMismatch, "its content has changed"));
        }
        Ok(())
    }

    /// Checks that every file of the manifest is here and right.
    pub fn check(&self, manifest: &ReleaseManifest) -> Result<(), Fault> {
        let named = |file: &FileEntry, fault: Fault| Fault {
            detail: format!("file {}: {}", file.name, fault.detail),
            ..fault
        };
        manifest.files.iter().try_for_each(|file| self.check_file(file).map_err(|fault| named(file, fault)))
    }

    /// Hands a stored file over, cut like a release's files are as long as it is not longer than it should be.
    fn each_chunk(&self, path: &Path, file: &FileEntry, mut chunk: impl FnMut(&[u8])) -> Result<(), Fault> {
        // A byte more shows that something is behind the end.
        let mut buffer = vec![0; file.bytes.saturating_add(1).min(limits::CHUNK as u64) as usize];
        let mut offset = 0;
        loop {
            let got = self.disk.read_at(path, offset, &mut buffer).map_err(disk_fault)?;
            if got == 0 {
                return Ok(());
            }
            chunk(&buffer[..got]);
            offset += got as u64;
        }
    }

    /// Loads the release: every file is checked against the manifest, the manifest against `release`.
    pub fn load(&self, release: Digest, board: &str) -> Result<Model, Fault> {
        let manifest = self.manifest(release)?;
        let opened = Bundle::open(self.path.join(FILES_FOLDER), manifest);
        let loaded = opened.and_then(|bundle| Model::from_bundle(&bundle, board, ENGINE_TRACT));
        loaded.map_err(|e| match e.code() {
            code @ ErrorCode::StorageIo => Fault::transient(code, e.detail()),
            code => Fault::lasting(code, e.detail()),
        })
    }

    fn whole(&self, file: &FileEntry) -> PathBuf {
        self.place.join(FILES_FOLDER).join(&file.name)
    }

    fn partial(&self, file: &FileEntry) -> PathBuf {
        self.place.join(PARTIAL_FOLDER).join(&file.name)
    }
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
