//! Durable state of the control plane: records, objects and segments.
//!
//! - [`Records`]: ordered records with atomic batches, conditions, watches and leases; [`SledRecords`] keeps
//!   them on one disk. [`Collection`] puts typed entities with secondary indexes on top.
//! - [`Objects`]: content-addressed bytes of any size.
//! - [`Segments`]: an append-only log for what arrives faster than it is folded.
//!
//! `Ok` means durable: what a call has acknowledged survives a kill and a power loss. The calls that make it
//! so pass through [`fs::Fs`], and the tests rebuild from them what a disk may hold after a power loss.

pub mod fs;

mod batch;
mod collection;
mod durable;
mod error;
mod folder;
mod key;
mod lease;
mod log;
mod objects;
mod records;
mod segments;
mod watch;

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests fail by panicking")]
mod testing;

pub use batch::{BATCH_BYTES, BATCH_OPERATIONS, Batch, Expect};
pub use collection::{Collection, Entity, PAGE_ENTITIES, Page, Versioned};
pub use durable::{RecordsConfig, SledRecords};
pub use error::{Error, Result};
pub use fs::free_bytes;
pub use key::{KEY_ID, Key, RANGE_PAGE, Range, Table, compound};
pub use lease::Lease;
pub use objects::{OBJECT_IN_MEMORY, OBJECTS_PAGE, Objects};
pub use records::{Commit, Record, Records};
pub use segments::{SegmentReader, Segments, SegmentsConfig};
pub use watch::{News, Watch};
