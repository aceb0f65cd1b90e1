//! The card of a model version: what it is, how good it is and how sure that is, what it was made of, what compression
//! cost, under which licence it comes and who signed it.
//!
//! - [`Card`]: the facts, as whoever asks the registry has put them together. It is the card's JSON form.
//! - [`Card::page`]: the same in words, tables and pictures: a [`Page`], which the console shows.
//! - [`Card::markdown`]: with the metadata block that Hugging Face's tools read.
//! - [`Card::html`]: one file that needs no other, in light and dark, on screen and on paper.
//!
//! Names and labels come from anywhere: every form escapes them. What nobody knows is said to be unknown.

mod compression;
mod facts;
mod figures;
mod html;
mod markdown;
mod metadata;
mod page;
mod plot;
mod text;

pub use facts::settings;
pub use page::{Block, Cell, Fact, Page, Section, Table};

use flotilla_compress::Report;
use flotilla_protocol::manifest::Metrics;
use flotilla_protocol::{Digest, Pipeline};
use flotilla_runtime::Quality;
use serde::{Deserialize, Serialize};

/// The format of [`Card`] that this build writes.
pub const FORMAT: u16 = 1;
/// Steps of a lineage at most.
pub const STEPS: usize = 32;
/// Releases that a card names at most, the newest.
pub const RELEASES: usize = 20;

/// The facts about a model version.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Card {
    /// Format version: [`FORMAT`].
    pub format: u16,
    /// The model.
    pub model: String,
    /// Which version.
    pub version: u32,
    /// When it was made, in milliseconds since 1970.
    pub created_at_ms: u64,
    /// Who made it.
    pub created_by: String,
    /// The ONNX file.
    pub file: File,
    /// What it takes and gives.
    pub pipeline: Pipeline,
    /// How it came about.
    pub origin: Origin,
    /// Settings of the training, or what an import found, by name.
    pub settings: Vec<(String, String)>,
    /// The licence that it comes under; none where nobody says.
    pub licence: Option<String>,
    /// What it was trained on and judged by; none where that is not known here.
    pub data: Option<Data>,
    /// Figures that every version has.
    pub metrics: Metrics,
    /// How good it is; none where nothing has measured it.
    pub quality: Option<Quality>,
    /// What compression did; none of a version that was not compressed.
    pub compression: Option<Report>,
    /// What it was made of: the version itself, the one before, and so on; at most [`STEPS`].
    pub lineage: Vec<Step>,
    /// Its releases, the newest first; at most [`RELEASES`].
    pub releases: Vec<Release>,
}

/// A file and its name everywhere.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub struct File {
    /// SHA-256.
    pub digest: Digest,
    /// Size.
    pub bytes: u64,
}

/// How a version came about.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "kind")]
pub enum Origin {
    /// A job trained it.
    Trained {
        /// The job.
        job: String,
    },
    /// It was compressed.
    Compressed {
        /// The version it was made of.
        from_version: u32,
        /// What was done.
        recipe: String,
    },
    /// It was brought in from elsewhere.
    Imported {
        /// From where.
        from: String,
    },
}

/// A dataset version.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Data {
    /// The dataset.
    pub dataset: String,
    /// Its version.
    pub version: u32,
    /// More about it; none where this installation does not have it.
    pub facts: Option<DataFacts>,
}

/// More about a dataset version.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct DataFacts {
    /// What it is for.
    pub kind: String,
    /// Samples to train, to choose and to judge by.
    pub splits: [u64; 3],
    /// Classes; 0 where there are none.
    pub classes: u64,
    /// Bytes of all samples.
    pub bytes: u64,
    /// Digest of kind, classes, samples, labels and splits.
    pub digest: Digest,
    /// Where it came from, in words.
    pub source: String,
    /// Its licence; none where nobody says.
    pub licence: Option<String>,
}

/// One version of a lineage.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Step {
    /// The version.
    pub version: u32,
    /// How it came about.
    pub origin: Origin,
    /// The ONNX file.
    pub file: File,
    /// What was measured on it.
    pub metrics: Metrics,
    /// When it was made, in milliseconds since 1970.
    pub created_at_ms: u64,
}

/// A signed release of the version.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Release {
    /// Its number among the model's.
    pub counter: u64,
    /// Digest of the signed envelope.
    pub digest: Digest,
    /// Key that signed.
    pub key: String,
    /// Whether devices believe that key now, and the release is not below the floor.
    pub trusted: bool,
    /// The signed files: name, digest and size.
    pub files: Vec<(String, File)>,
    /// When it was signed, in milliseconds since 1970.
    pub created_at_ms: u64,
    /// After this moment devices do not activate it any more.
    pub expires_at_ms: Option<u64>,
}
