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
/// Bytes of hard examples that nobody has decided on.
pub const QUARANTINE_BYTES: u64 = 4 * 1024 * MIB as u64;
/// Hard examples that are remembered, decided on or not.
pub const QUARANTINE_RECORDS: usize = 200_000;
/// Hard examples that are decided on at once.
pub const QUARANTINE_DECIDE: usize = 200;
/// How long a decision is remembered, in milliseconds.
pub(crate) const REMEMBERED_MS: u64 = 365 * 24 * 3_600 * 1_000;
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
