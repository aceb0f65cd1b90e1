//! Bytes that are verified once, by whichever device has them first.
//!
//! Everything is named by the digest of its content, so what holds for one device holds for all: the signature of a
//! release envelope (all devices believe the same trust file, and its version is part of the name), and the digest of a
//! whole file over chunks that each device has compared with the signed manifest. Floor and expiry are a matter of each
//! device and moment, and are judged by its update machine.

use flotilla_device::Fault;
use flotilla_device::release::{Board, examine};
use flotilla_protocol::manifest::FileEntry;
use flotilla_protocol::{Digest, ErrorCode, ModelName, ReleaseManifest, TrustFile, limits};
use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Bytes of all releases that are kept.
const ROOM: usize = 512 * limits::MIB;
/// Largest release that a simulated device takes.
pub(crate) const MODEL_BYTES: u64 = 64 * limits::MIB as u64;

/// What is shared.
#[derive(Default)]
pub(crate) struct Library(Mutex<Shelves>);

#[derive(Default)]
struct Shelves {
    releases: HashMap<(Digest, u64), Arc<ReleaseManifest>>,
    chunks: HashMap<Digest, Arc<[u8]>>,
    bytes: usize,
    files: HashSet<Digest>,
}

impl Library {
    fn shelves(&self) -> MutexGuard<'_, Shelves> {
        // Every change is an insertion: what is there is whole even after a panic.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The manifest in an envelope whose bytes have this digest, examined as the agent does.
    pub(crate) fn examine(
        &self,
        envelope: &[u8],
        release: Digest,
        model: &ModelName,
        trust: &TrustFile,
        now_ms: u64,
        board: &str,
    ) -> Result<Arc<ReleaseManifest>, Fault> {
        if let Some(known) = self.known(release, trust) {
            return Ok(known);
        }
        let board = Board {
            name: board.to_owned(),
            model_bytes: MODEL_BYTES,
            disk_free_bytes: u64::MAX / 2,
            disk_reserve_bytes: 0,
            storage_left_bytes: u64::MAX / 2,
            memory_bytes: 0,
        };
        let manifest = Arc::new(examine(envelope, release, model, trust, now_ms, &board, |_| 0)?);
        self.shelves().releases.insert((release, trust.version), Arc::clone(&manifest));
        Ok(manifest)
    }

    /// The manifest of a release that was examined under this trust file.
    pub(crate) fn known(&self, release: Digest, trust: &TrustFile) -> Option<Arc<ReleaseManifest>> {
        self.shelves().releases.get(&(release, trust.version)).cloned()
    }

    /// Takes a chunk that was verified against its digest.
    pub(crate) fn put(&self, chunk: Digest, data: &[u8]) -> Result<(), Fault> {
        let mut shelves = self.shelves();
        if shelves.chunks.contains_key(&chunk) {
            return Ok(());
        }
        if shelves.bytes + data.len() > ROOM {
            let detail = format!("the simulation keeps {ROOM} bytes of releases, and they are used up");
            return Err(Fault::transient(ErrorCode::NoRoom, detail));
        }
        shelves.bytes += data.len();
        shelves.chunks.insert(chunk, data.into());
        Ok(())
    }

    /// Whether a file of verified chunks has its digest as a whole.
    pub(crate) fn verify(&self, file: &FileEntry) -> Result<(), Fault> {
        let damaged =
            |what: &str| Fault::transient(ErrorCode::DigestMismatch, format!("file {} {what}", file.name));
        let chunks: Option<Vec<Arc<[u8]>>> = {
            let shelves = self.shelves();
            if shelves.files.contains(&file.digest) {
                return Ok(());
            }
            file.chunks.iter().map(|chunk| shelves.chunks.get(chunk).cloned()).collect()
        };
        let mut hasher = Digest::hasher();
        chunks.ok_or_else(|| damaged("is not whole"))?.iter().for_each(|chunk| hasher.update(chunk));
        if hasher.finish() != file.digest {
            return Err(damaged("has another digest"));
        }
        self.shelves().files.insert(file.digest);
        Ok(())
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests fail by panicking")]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_whole_when_all_its_chunks_are_here_and_it_has_its_digest() {
        let library = Library::default();
        let content = vec![7u8; limits::CHUNK + 5];
        let file = FileEntry::of("model.onnx", &content);
        assert!(library.verify(&file).is_err(), "nothing is here yet");
        for piece in content.chunks(limits::CHUNK) {
            library.put(Digest::of(piece), piece).unwrap();
        }
        assert!(library.verify(&file).is_ok());
        let other = FileEntry { digest: Digest::of(b"something else"), ..file };
        assert_eq!(library.verify(&other).unwrap_err().code, ErrorCode::DigestMismatch);
    }
}
