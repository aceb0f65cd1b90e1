//! The bounds of datasets and their importers.

use flotilla_protocol::limits::{KIB, MIB};

/// Samples of one version.
pub const SAMPLES_MAX: u64 = 1_000_000;
/// Samples below which a dataset is of no use for training.
pub const SAMPLES_MIN: u64 = 10;
/// Bytes that one import reads, after unpacking.
pub const IMPORT_BYTES: u64 = 16 * 1024 * MIB as u64;
/// Files of one archive or folder.
pub const IMPORT_FILES: usize = 1_000_000;
/// Bytes that one byte of an archive may unpack to, once past [`ARCHIVE_FREE`].
pub const ARCHIVE_RATIO: u64 = 200;
/// Unpacked bytes up to which an archive's ratio does not matter.
pub const ARCHIVE_FREE: u64 = 64 * MIB as u64;
/// Folders within folders.
pub const FOLDER_DEPTH: usize = 16;
/// Skipped samples that a report names one by one; all are counted.
pub const SKIPPED_LISTED: usize = 100;
/// Samples without a label in one version.
pub const UNLABELLED_MAX: u64 = 200_000;
/// Bytes of hard examples that nobody has decided on, those that are on their way included.
pub const QUARANTINE_BYTES: u64 = 4 * 1024 * MIB as u64;
/// Hard examples that wait for a decision.
pub const QUARANTINE_WAITING: usize = 200_000;
/// Decisions on hard examples that are remembered; the oldest give way.
pub const QUARANTINE_DECISIONS: usize = 200_000;
/// Hard examples that are decided on at once: with each picture in a pack of its own they still fit into one batch of
/// the records.
pub const QUARANTINE_DECIDE: usize = 1_000;
/// Bytes of the disk that hard examples leave free: many times what records and telemetry leave, so that these can be
/// written long after no device's upload is taken any more.
pub const QUARANTINE_RESERVE: u64 = 512 * MIB as u64;
/// Pixels of a hard example, and bytes that decoding it may take. Less than of other data: nobody has looked at the
/// device's choice yet.
pub(crate) const QUARANTINE_PIXELS: u64 = 16 * 1024 * 1024;
pub(crate) const QUARANTINE_DECODE_BYTES: u64 = 128 * MIB as u64;
/// How long a decision is remembered, in milliseconds.
pub(crate) const REMEMBERED_MS: u64 = 365 * 24 * 3_600 * 1_000;
/// A file with the boxes of many pictures.
pub const BOXES_FILE: usize = 256 * MIB;
/// A file with the boxes of one picture.
pub const BOXES_OF_ONE: usize = MIB;
/// Boxes in one picture.
pub const BOXES: usize = 4096;
/// Files of one set of samples that belong to no dataset.
pub const LOOSE_SAMPLES: usize = 4096;
/// Bytes of one such set.
pub const LOOSE_BYTES: u64 = 128 * MIB as u64;
/// Such sets that are kept; the oldest give way.
pub const SAMPLE_SETS: usize = 32;
/// Columns of a table.
pub const COLUMNS: usize = 1024;
/// One row of a table.
pub const ROW_BYTES: usize = 256 * KIB;
/// Lines that one quoted row may span.
pub const ROW_LINES: usize = 100;
/// Distinct numbers up to which a numeric label column means classes.
pub const NUMBER_CLASSES: usize = 64;
/// Bytes of samples in one stored pack; a larger sample has a pack of its own.
pub(crate) const PACK_BYTES: usize = 4 * MIB;
/// Packs of one version: all of them settle in one batch with the version.
pub(crate) const PACKS: usize = 4000;
/// Bytes of class names that are kept in the version's record; more are an object of their own.
pub(crate) const CLASSES_IN_RECORD: usize = 6 * KIB;
