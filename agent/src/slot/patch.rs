//! Files made from patches. A patch lies among the parts of files while it is fetched; what comes out of it is believed
//! chunk by chunk, as everything else is. A kill leaves chunks that are right, and the patch, which is applied again.

use super::{Slot, disk_fault};
use crate::disk::{Disk, DiskError};
use flotilla_device::Fault;
use flotilla_device::download::Download;
use flotilla_device::patch::Choice;
use flotilla_patch::{RebuildError, rebuild};
use flotilla_protocol::manifest::{FileEntry, Patch};
use flotilla_protocol::{Digest, ErrorCode, ReleaseManifest, limits};
use std::io::{self, Read};
use std::path::PathBuf;

/// Where the file that a patch is applied to lies.
#[derive(Clone)]
pub(crate) struct Base {
    slot: Slot,
    file: FileEntry,
}

impl Slot {
    /// The file with this content, if the release that is here has it. Whether it is still right is another question.
    pub(crate) fn base(&self, digest: &Digest) -> Option<Base> {
        let manifest = self.some_manifest()?;
        let file = manifest.files.into_iter().find(|file| file.digest == *digest)?;
        let there = self.disk.exists(&self.whole(&file)).is_ok_and(|there| there);
        there.then(|| Base { slot: self.clone(), file })
    }

    /// Bytes of a patch that lie here.
    pub(crate) fn patch_bytes(&self, patch: &Patch) -> u64 {
        self.file_bytes(&patch.entry())
    }

    /// Makes a file from its patch, which is complete, as far as `download` still misses it. Returns the bytes that need not
    /// be fetched. The patch is used up, whatever comes of it.
    pub(crate) fn rebuild(
        &self,
        manifest: &ReleaseManifest,
        choice: &Choice,
        base: Option<&Base>,
        download: &mut Download,
        cancelled: &dyn Fn() -> bool,
    ) -> Result<u64, Fault> {
        let rebuilt = self.apply(manifest, choice, base, download, cancelled);
        if !rebuilt.as_ref().is_err_and(|fault| fault.code == ErrorCode::Cancelled) {
            self.remove_patch(&choice.patch)?;
        }
        rebuilt
    }

    /// Removes what is here of a patch.
    pub(crate) fn remove_patch(&self, patch: &Patch) -> Result<(), Fault> {
        self.disk.remove(&self.partial(&patch.entry())).map_err(disk_fault)
    }

    fn apply(
        &self,
        manifest: &ReleaseManifest,
        choice: &Choice,
        base: Option<&Base>,
        download: &mut Download,
        cancelled: &dyn Fn() -> bool,
    ) -> Result<u64, Fault> {
        let (file, mut index, mut saved) = (&choice.file, 0, 0);
        let mut patch = Reading { disk: &*self.disk, path: self.partial(&choice.patch.entry()), at: 0 };
        let mut read = |offset: u64, buffer: &mut [u8]| match base {
            Some(base) => {
                let read = base.slot.disk.read_at(&base.slot.whole(&base.file), offset, buffer);
                read.map_err(io::Error::other)
            }
            None => Ok(0),
        };
        let mut out = |piece: &[u8]| {
            if cancelled() {
                return Err(Fault::transient(ErrorCode::Cancelled, "it is not wanted any more"));
            }
            if file.chunks.get(index) != Some(&Digest::of(piece)) {
                let detail = format!("the patch of {} gives other bytes than the manifest says", file.name);
                return Err(Fault::lasting(ErrorCode::DigestMismatch, detail));
            }
            index += 1;
            // Written before it is marked: a full disk in between costs nothing but another try.
            self.place(manifest, piece)?;
            saved += download.found(piece);
            Ok(())
        };
        rebuild(&mut patch, &mut read, file.bytes, &mut out).map_err(|error| match error {
            RebuildError::Out(fault) => fault,
            error => Fault::transient(ErrorCode::StorageIo, format!("{} is not made: {error}", file.name)),
        })?;
        Ok(saved)
    }
}

impl Base {
    /// Checks that it is what the patch was made for.
    pub(crate) fn check(&self) -> Result<(), Fault> {
        self.slot.check_file(&self.file).map_err(|fault| Fault {
            detail: format!("the base of a patch, {}: {}", self.file.name, fault.detail),
            ..fault
        })
    }
}

/// A file that is read from its beginning to its end.
struct Reading<'a> {
    disk: &'a dyn Disk,
    path: PathBuf,
    at: u64,
}

impl Read for Reading<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let size = buffer.len().min(limits::CHUNK);
        let got = self
            .disk
            .read_at(&self.path, self.at, &mut buffer[..size])
            .map_err(io::Error::other::<DiskError>)?;
        self.at += got as u64;
        Ok(got)
    }
}
