//! The form in which a file is sent as what it differs from one that the device has: the method [`METHOD`].
//!
//! Files of one architecture have the same layout, and after a little more training nearly every weight is another one,
//! by a small step. So a file is not searched for equal pieces, but predicted number by number from the base, and the
//! steps are coded with adaptive probabilities: those of bytes (8-bit weights), and those of 32-bit floats as the steps
//! between neighbouring floats. Cells of [`CELL`] bytes say how they are predicted, and where from; those without a
//! counterpart in the base are coded by themselves. A patch without any base is the file compressed.
//!
//! What is read was signed, but nothing here relies on that: any bytes whatever are a patch of some file. [`rebuild`]
//! gives as many bytes as it is asked for, in memory and time that only depend on that, and whether they are the right
//! ones is for the digests to say. All arithmetic is of integers, so that every processor gives the same.
//!
//! - `bits`: arithmetic coding of bits. `model`: what is expected of them. `make`: which prediction to choose.

mod bits;
mod make;
mod model;

pub use make::make;

use bits::Decoder;
use flotilla_protocol::limits;
use model::{Model, Prediction};
use std::io::{self, Read};

/// The name of this method.
pub const METHOD: &str = "delta-1";

/// Bytes that share a prediction.
const CELL: usize = 256;
/// Bytes of the base that are read at once where one cell follows another.
const AHEAD: usize = 64 * limits::KIB;
/// Memory that rebuilding takes at most, whatever the patch and the file: the probabilities, and three buffers.
pub const MEMORY: usize = limits::MIB;

/// Why a file could not be rebuilt.
#[derive(Debug, thiserror::Error)]
pub enum RebuildError<E> {
    /// The patch cannot be read, or ends too early.
    #[error("the patch cannot be read: {0}")]
    Patch(#[source] io::Error),
    /// The base cannot be read.
    #[error("the base cannot be read: {0}")]
    Base(#[source] io::Error),
    /// What was rebuilt is not taken.
    #[error(transparent)]
    Out(E),
}

/// Reads a file at an offset until the buffer is full or the file ends, and says how much that was.
pub type ReadAt<'a> = &'a mut dyn FnMut(u64, &mut [u8]) -> io::Result<usize>;

/// Rebuilds the `bytes` bytes of a file, and hands them over in pieces of [`limits::CHUNK`]. What lies beyond the base's
/// end counts as zeros.
pub fn rebuild<E>(
    patch: &mut dyn Read,
    base: ReadAt<'_>,
    bytes: u64,
    out: &mut dyn FnMut(&[u8]) -> Result<(), E>,
) -> Result<(), RebuildError<E>> {
    let mut decoder = Decoder::new(patch);
    let (mut model, mut base) = (Model::new(), Window::new(base));
    let mut piece = Vec::with_capacity(bytes.min(limits::CHUNK as u64) as usize);
    let (mut cell, mut basis) = ([0; CELL], [0; CELL]);
    let mut done = 0;
    while done < bytes {
        let size = (bytes - done).min(CELL as u64) as usize;
        let (cell, basis) = (&mut cell[..size], &mut basis[..size]);
        // What is given here is what an encoder would write.
        let Prediction { mode, shift } = model.prediction(&mut decoder, Prediction::default());
        if mode.uses_base() {
            base.read(done, shift, basis).map_err(RebuildError::Base)?;
        }
        cell.fill(0);
        model.cell(&mut decoder, mode, basis, cell);
        if let Some(error) = decoder.error() {
            return Err(RebuildError::Patch(error));
        }
        piece.extend_from_slice(cell);
        done += size as u64;
        if piece.len() == limits::CHUNK || done == bytes {
            out(&piece).map_err(RebuildError::Out)?;
            piece.clear();
        }
    }
    Ok(())
}

/// The part of the base that was read last.
struct Window<'a> {
    base: ReadAt<'a>,
    start: u64,
    data: Vec<u8>,
}

impl<'a> Window<'a> {
    fn new(base: ReadAt<'a>) -> Self {
        Self { base, start: 0, data: Vec::with_capacity(AHEAD) }
    }

    /// Fills the buffer with what stands in the base `shift` bytes from `at`.
    fn read(&mut self, at: u64, shift: i64, buffer: &mut [u8]) -> io::Result<()> {
        buffer.fill(0);
        let from = at.cast_signed().saturating_add(shift);
        let skip = usize::try_from(from.saturating_neg().max(0)).unwrap_or(usize::MAX).min(buffer.len());
        let (Some(from), wanted) =
            (at.checked_add_signed(shift.saturating_add(skip as i64)), &mut buffer[skip..])
        else {
            return Ok(());
        };
        if wanted.is_empty() {
            return Ok(());
        }
        let end = self.start + self.data.len() as u64;
        if from < self.start || from + wanted.len() as u64 > end {
            // Reading ahead is for those that come one after the other: jumping about costs no more than it needs.
            let follows = (self.start..=end).contains(&from);
            self.data.resize(if follows { AHEAD } else { wanted.len() }, 0);
            let got = (self.base)(from, &mut self.data)?;
            self.data.truncate(got);
            self.start = from;
        }
        let here = &self.data[(from - self.start) as usize..];
        let size = here.len().min(wanted.len());
        wanted[..size].copy_from_slice(&here[..size]);
        Ok(())
    }
}

#[cfg(test)]
mod tests;
