//! Importing: what is asked for, what is told while it runs, and what came of it.
//!
//! Reading is blocking and streaming: a [`tree`] of files (folder, zip or single file) is read by the module of
//! its format, which hands each sample to the [`collector`]; that one packs samples, finds duplicates and
//! lists what is bad. Packs leave through a bounded channel to the async side, which stores them.

mod class_folders;
mod coco;
mod collector;
mod detect;
mod grey_png;
mod idx;
mod image_csv;
mod loose;
mod metered;
mod picture;
mod read;
mod recording;
mod rows;
mod table;
mod things;
mod tree;
mod voc;
mod xml;

pub(crate) use collector::{Collected, Step};
pub(crate) use loose::collect as collect_loose;
pub(crate) use picture::look_into;
pub(crate) use read::read;
pub(crate) use recording::check as check_recording;
pub(crate) use table::is_missing;
pub(crate) use tree::read_up_to;

use crate::bounds::{IMPORT_BYTES, SAMPLES_MAX};
use crate::dataset::DatasetVersion;
use crate::error::{Error, Result};
use crate::split::Ratios;
use flotilla_protocol::DatasetName;
use serde::{Deserialize, Serialize};
use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

/// Seed of the split when none is given.
const DEFAULT_SEED: u64 = 1;

/// What to import.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ImportRequest {
    /// The dataset that gets a (new) version.
    pub name: DatasetName,
    /// Where the data is.
    pub source: Source,
    /// Its format; found out when not given.
    #[serde(default)]
    pub format: Option<Format>,
    /// More about it.
    #[serde(default)]
    pub options: ImportOptions,
}

/// Where data is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Source {
    /// The digits that come with the program.
    BundledDigits,
    /// A file or folder on the machine of the server.
    Path(PathBuf),
}

/// The formats that are known.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Format {
    /// A folder or zip of png and jpeg pictures: `CLASS/picture` or `SPLIT/CLASS/picture`.
    ImageFolders,
    /// IDX files, as of MNIST: `*images-idx3-ubyte` with `*labels-idx1-ubyte`, also gzipped.
    Idx,
    /// A csv with one square grey picture a line: its pixels, and the label.
    ImageCsv,
    /// A csv table with a label column.
    Table,
    /// A folder or zip of wav recordings: `CLASS/recording` or `SPLIT/CLASS/recording`.
    SoundFolders,
    /// Pictures, and COCO JSON with the boxes in them.
    Coco,
    /// Pictures, and Pascal VOC XML with the boxes in them.
    Voc,
}

impl Format {
    /// Every format.
    pub const ALL: [Format; 7] = [
        Format::ImageFolders,
        Format::Idx,
        Format::ImageCsv,
        Format::Table,
        Format::SoundFolders,
        Format::Coco,
        Format::Voc,
    ];

    /// The stable name.
    pub fn as_str(self) -> &'static str {
        match self {
            Format::ImageFolders => "image-folders",
            Format::Idx => "idx",
            Format::ImageCsv => "image-csv",
            Format::Table => "table",
            Format::SoundFolders => "sound-folders",
            Format::Coco => "coco",
            Format::Voc => "voc",
        }
    }
}

impl fmt::Display for Format {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for Format {
    type Err = Error;
    fn from_str(text: &str) -> Result<Self> {
        let names = Self::ALL.map(Self::as_str).join(", ");
        let problem = || format!("{text:?} is none of {names}");
        Self::ALL
            .into_iter()
            .find(|format| format.as_str() == text)
            .ok_or_else(|| Error::Option { option: "format", problem: problem() })
    }
}

/// How to import.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ImportOptions {
    /// The column with the label: its name, or `first` or `last`. By default the one that is called label, class
    /// or target; for pictures in a csv without a header the last.
    pub label_column: Option<String>,
    /// Whether the labels of a table are numbers to predict and not classes. By default they are where they are fractions
    /// or too many to be names.
    pub numeric_label: Option<bool>,
    /// Whether the first line of a csv names the columns. Found out when not given.
    pub header: Option<bool>,
    /// The value of a white pixel in a csv: 1 to 255. By default 16 when no value is larger, else 255.
    pub pixel_max: Option<u16>,
    /// Seed of the split.
    pub seed: u64,
    /// Shares of the split, where the source has none of its own.
    pub ratios: Ratios,
    /// Samples after which the import is refused.
    pub max_samples: u64,
    /// Bytes, after unpacking, after which the import is refused.
    pub max_bytes: u64,
}

impl Default for ImportOptions {
    fn default() -> Self {
        Self {
            label_column: None,
            numeric_label: None,
            header: None,
            pixel_max: None,
            seed: DEFAULT_SEED,
            ratios: Ratios::default(),
            max_samples: SAMPLES_MAX,
            max_bytes: IMPORT_BYTES,
        }
    }
}

impl ImportOptions {
    /// Refuses what no import can use.
    pub fn check(&self) -> Result<()> {
        self.ratios.check()?;
        let refuse = |option, problem: String| Err(Error::Option { option, problem });
        if self.pixel_max.is_some_and(|max| !(1..=255).contains(&max)) {
            return refuse("pixel_max", "it is 1 to 255".into());
        }
        if !(1..=SAMPLES_MAX).contains(&self.max_samples) {
            return refuse("max_samples", format!("it is 1 to {SAMPLES_MAX}"));
        }
        if !(1..=IMPORT_BYTES).contains(&self.max_bytes) {
            return refuse("max_bytes", format!("it is 1 to {IMPORT_BYTES}"));
        }
        Ok(())
    }
}

/// How far an import is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct ImportProgress {
    /// What it is doing.
    pub stage: ImportStage,
    /// Samples so far.
    pub done: u64,
    /// Samples in all, where that is known before.
    pub total: Option<u64>,
}

/// What an import is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum ImportStage {
    /// Reading, checking and storing samples.
    Reading,
    /// Splitting, listing and committing.
    Finishing,
    /// It is there.
    Done,
}

impl ImportStage {
    /// The stable name.
    pub fn as_str(self) -> &'static str {
        match self {
            ImportStage::Reading => "reading",
            ImportStage::Finishing => "finishing",
            ImportStage::Done => "done",
        }
    }
}

/// What came of an import.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct ImportReport {
    /// The version.
    pub version: DatasetVersion,
    /// Whether that version was there before, with the same content and split.
    pub existing: bool,
    /// Samples of the version.
    pub imported: u64,
    /// The first samples that could not be read.
    pub skipped: Vec<Skipped>,
    /// How many could not be read.
    pub skipped_total: u64,
    /// Samples that were there before: left out of pictures, kept (in one split) in tables.
    pub duplicates: u64,
}

/// A sample that could not be read.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Skipped {
    /// Its file.
    pub file: String,
    /// Its line, or its number within the file, from 1.
    pub line: Option<u64>,
    /// Why.
    pub reason: String,
}
