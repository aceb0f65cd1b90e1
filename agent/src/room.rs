//! Room on the disk that downloads under way still need. Two models that download side by side would each find the
//! same bytes free; so what one was promised counts as taken for the other, as far as it is not written yet.

use crate::slot::Slot;
use flotilla_device::Fault;
use flotilla_device::release::{Board, check_disk};
use flotilla_protocol::ReleaseManifest;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// The promises of one device.
#[derive(Clone, Default)]
pub(crate) struct Rooms(Arc<Mutex<Promises>>);

#[derive(Default)]
struct Promises {
    open: BTreeMap<u64, (Slot, ReleaseManifest)>,
    last: u64,
}

impl Promises {
    /// Bytes that the promised files take up when they are complete, beyond what they do now.
    fn bytes(&self) -> u64 {
        self.open.values().map(|(slot, manifest)| outstanding(slot, manifest)).sum()
    }
}

fn outstanding(slot: &Slot, manifest: &ReleaseManifest) -> u64 {
    manifest.total_bytes().saturating_sub(slot.present_bytes(manifest))
}

/// A promise of room for one release; given back when dropped.
pub(crate) struct Room {
    rooms: Rooms,
    number: u64,
}

impl Rooms {
    fn lock(&self) -> MutexGuard<'_, Promises> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Bytes that downloads under way will still write.
    pub(crate) fn promised_bytes(&self) -> u64 {
        self.lock().bytes()
    }

    /// Promises a release the room that it still needs, if that much is free beside the reserve and all other
    /// promises. `free_bytes` asks the disk.
    pub(crate) fn promise(
        &self,
        slot: &Slot,
        manifest: &ReleaseManifest,
        board: impl FnOnce(u64) -> Result<Board, Fault>,
    ) -> Result<Room, Fault> {
        // Checked and promised under one lock: nobody else is promised the same in between.
        let mut promises = self.lock();
        let board = board(promises.bytes())?;
        check_disk(outstanding(slot, manifest), &board)?;
        promises.last += 1;
        let number = promises.last;
        promises.open.insert(number, (slot.clone(), manifest.clone()));
        drop(promises);
        Ok(Room { rooms: self.clone(), number })
    }
}

impl Drop for Room {
    fn drop(&mut self) {
        self.rooms.lock().open.remove(&self.number);
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests fail by panicking")]
mod tests {
    use super::*;
    use crate::slot::tests::{content, manifest, slot_below};
    use flotilla_protocol::ErrorCode;
    use flotilla_protocol::message::Chunk;

    #[test]
    fn two_releases_are_never_promised_the_same_room_and_what_is_written_is_not_counted_twice() {
        let root = tempfile::tempdir().unwrap();
        let (one, two) = (slot_below(root.path(), "one"), slot_below(root.path(), "two"));
        let (rooms, manifest) = (Rooms::default(), manifest());
        let total = manifest.total_bytes();
        let board = |free: u64| {
            move |promised: u64| {
                Ok(Board {
                    name: "generic".into(),
                    model_bytes: u64::MAX,
                    disk_free_bytes: free.saturating_sub(promised),
                    disk_reserve_bytes: 1_000,
                    storage_left_bytes: u64::MAX,
                    memory_bytes: 0,
                })
            }
        };
        let first = rooms.promise(&one, &manifest, board(total + 1_500)).unwrap();
        assert_eq!(rooms.promised_bytes(), total);
        let refused = rooms.promise(&two, &manifest, board(total + 1_500)).err().unwrap();
        assert_eq!((refused.code, refused.transient), (ErrorCode::NoRoom, true));
        assert!(rooms.promise(&two, &manifest, board(2 * total + 999)).is_err(), "the reserve stays free");
        drop(rooms.promise(&two, &manifest, board(2 * total + 1_000)).unwrap());

        one.resume(&manifest, &mut flotilla_device::download::Download::files(&manifest.files)).unwrap();
        let file = content(1);
        let last = file.len() / flotilla_protocol::limits::CHUNK * flotilla_protocol::limits::CHUNK;
        let chunk = Chunk {
            digest: flotilla_protocol::Digest::of(&file),
            offset: last as u64,
            total: file.len() as u64,
            data: file[last..].to_vec(),
        };
        one.write(&manifest, &chunk).unwrap();
        let left = rooms.promised_bytes();
        assert!(left < total, "what is written takes room of its own");
        assert!(left > total - 3 * file.len() as u64 / 2, "a hole in a file takes none: {left} of {total}");
        drop(first);
        assert_eq!(rooms.promised_bytes(), 0);
        rooms.promise(&two, &manifest, board(total + 1_000)).unwrap();
    }
}
