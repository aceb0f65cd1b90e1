//! A bound on unpacked bytes, shared by all entries of an archive.

use crate::bounds::{ARCHIVE_FREE, ARCHIVE_RATIO};
use crate::error::Error;
use std::cell::Cell;
use std::io::{self, Read};
use std::rc::Rc;

/// Bytes that may still be unpacked.
#[derive(Clone, Debug)]
pub(super) struct Meter {
    left: Rc<Cell<u64>>,
}

/// The error by which a [`Metered`] reader stops.
#[derive(Debug, thiserror::Error)]
#[error("unpacks to more than its bound")]
struct OverBound;

/// What `packed` bytes may unpack to.
pub(super) fn unpacked_bound(packed: u64, max_bytes: u64) -> u64 {
    packed.saturating_mul(ARCHIVE_RATIO).max(ARCHIVE_FREE).min(max_bytes)
}

impl Meter {
    pub(super) fn new(bound: u64) -> Self {
        Self { left: Rc::new(Cell::new(bound)) }
    }

    pub(super) fn reader<R: Read>(&self, inner: R) -> Metered<R> {
        Metered { inner, meter: self.clone() }
    }
}

/// A reader that stops with an error once the meter has run out.
pub(super) struct Metered<R> {
    inner: R,
    meter: Meter,
}

impl<R: Read> Read for Metered<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.inner.read(buffer)?;
        let left = self.meter.left.get().checked_sub(read as u64);
        self.meter.left.set(left.ok_or_else(|| io::Error::other(OverBound))?);
        Ok(read)
    }
}

/// Whether this failure is the meter's.
pub(super) fn is_over_bound(error: &io::Error) -> bool {
    error.get_ref().is_some_and(|inner| inner.is::<OverBound>())
}

/// The refusal of an archive that ran out its meter.
pub(super) fn bomb(archive: &str) -> Error {
    Error::ArchiveBomb {
        archive: archive.to_owned(),
        problem: format!(
            "unpacks to more than {ARCHIVE_RATIO} times its size, or than the import's bound in bytes"
        ),
    }
}
