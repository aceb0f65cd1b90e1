//! Datasets: importing, listing and reading immutable, split versions of real data.
//!
//! - [`Datasets`]: the service. [`Datasets::import`] turns a [`Source`] into a [`DatasetVersion`] or leaves
//!   nothing behind; the other calls read.
//! - A version never changes. Its samples are content-addressed (SHA-256 of the encoded sample) and lie in
//!   packs of a few MiB, which are objects themselves: a store of millions of tiny files would be slow to sync,
//!   to list and to copy. The sample list is one more object; the records hold what people and decisions need.
//! - [`split`]: the seeded, stratified split. It depends on the samples' content and the seed alone, so the
//!   order of files does not matter and equal samples never stand on both sides.
//! - [`Quarantine`]: hard examples that devices send, until somebody has looked at them; accepted ones become samples
//!   without a label ([`Unlabelled`]).
//! - [`SampleSet`]: samples that belong to no dataset, as a model is calibrated on.
//! - [`SampleFile`]: one split as a single local file, for a job that may see its folder only.

mod bounds;
mod dataset;
mod datasets;
mod digits;
mod draft;
mod error;
mod import;
mod input;
mod quarantine;
mod sample_file;
mod sample_list;
mod sample_set;
pub mod split;
mod staging;
mod unlabelled;

pub use bounds::*;
pub use dataset::{
    Column, ColumnKind, Dataset, DatasetVersion, ImageFacts, Kind, SampleRef, SoundFacts, SourceFacts, Split,
    SplitCounts, TableFacts,
};
pub use datasets::Datasets;
pub use error::{Error, Result};
pub use import::{
    Format, ImportOptions, ImportProgress, ImportReport, ImportRequest, ImportStage, Skipped, Source,
};
pub use input::InputForm;
pub use quarantine::{Decided, ExampleState, Medium, Quarantine, Quarantined};
pub use sample_file::{SampleFile, SampleFileWriter};
pub use sample_set::SampleSet;
pub use unlabelled::{Unlabelled, UnlabelledRef};
