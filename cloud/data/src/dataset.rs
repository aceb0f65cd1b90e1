//! What a dataset is: facts that never change once a version is there.

use crate::split::Ratios;
use crate::unlabelled::Unlabelled;
use flotilla_protocol::{ActorId, DatasetName, Digest, Truth};
use flotilla_storage::{Entity, Table, compound};
use serde::{Deserialize, Serialize};

/// What a dataset is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// Pictures, each of one class.
    ImageClassification,
    /// Recordings, each of one class.
    SoundClassification,
    /// Pictures, and where things are in them.
    ObjectDetection,
    /// Rows of a table with a label column.
    Table,
}

impl Kind {
    /// The stable name.
    pub fn as_str(self) -> &'static str {
        match self {
            Kind::ImageClassification => "image_classification",
            Kind::SoundClassification => "sound_classification",
            Kind::ObjectDetection => "object_detection",
            Kind::Table => "table",
        }
    }
}

/// What a sample is used for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Split {
    /// To fit the model.
    Train,
    /// To choose among models while training.
    Validation,
    /// To measure what ships; never seen before.
    Test,
}

impl Split {
    /// All three.
    pub const ALL: [Split; 3] = [Split::Train, Split::Validation, Split::Test];

    /// The stable name.
    pub fn as_str(self) -> &'static str {
        match self {
            Split::Train => "train",
            Split::Validation => "validation",
            Split::Test => "test",
        }
    }
}

/// Samples in each split.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SplitCounts {
    /// In the training split.
    pub train: u64,
    /// In the validation split.
    pub validation: u64,
    /// In the test split.
    pub test: u64,
}

impl SplitCounts {
    /// The count of one split.
    pub fn of(&self, split: Split) -> u64 {
        match split {
            Split::Train => self.train,
            Split::Validation => self.validation,
            Split::Test => self.test,
        }
    }

    pub(crate) fn add(&mut self, split: Split, count: u64) {
        match split {
            Split::Train => self.train += count,
            Split::Validation => self.validation += count,
            Split::Test => self.test += count,
        }
    }
}

/// A dataset: a name under which versions are made.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Dataset {
    /// Its name within the project.
    pub name: DatasetName,
    /// What it is for.
    pub kind: Kind,
    /// When its first version was made, in milliseconds since 1970.
    pub created_at_ms: u64,
    /// Who made the first version.
    pub created_by: ActorId,
    /// The newest version; versions count from 1.
    pub latest_version: u32,
}

impl Entity for Dataset {
    const TABLE: Table = Table::new("datasets");

    fn id(&self) -> Vec<u8> {
        self.name.as_str().as_bytes().to_vec()
    }
}

/// One immutable version of a dataset.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct DatasetVersion {
    /// The dataset.
    pub dataset: DatasetName,
    /// Its number, from 1.
    pub version: u32,
    /// What it is for.
    pub kind: Kind,
    /// When it was made, in milliseconds since 1970.
    pub created_at_ms: u64,
    /// Who made it.
    pub created_by: ActorId,
    /// Samples in all splits.
    pub samples: u64,
    /// Samples in each split.
    pub splits: SplitCounts,
    /// Class names: what is true of a sample names indices into them. Empty for a table with a numeric target.
    pub classes: Vec<String>,
    /// Where the class names are when they are too many for the record.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) classes_object: Option<Digest>,
    /// Bytes of all samples.
    pub bytes: u64,
    /// More about pictures.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub images: Option<ImageFacts>,
    /// More about recordings.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sounds: Option<SoundFacts>,
    /// More about a table.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub table: Option<TableFacts>,
    /// Where the data came from.
    pub source: SourceFacts,
    /// Seed of the split.
    pub seed: u64,
    /// Shares of the split, where the source did not give one.
    pub ratios: Ratios,
    /// Samples that could not be read.
    pub skipped: u64,
    /// Samples that were there before: left out of pictures, kept (in one split) in tables.
    pub duplicates: u64,
    /// Digest of what the version means: kind, classes, and each sample with its label and split.
    pub digest: Digest,
    /// The object that lists the samples.
    pub list: Digest,
    /// Samples that nobody has labelled yet: in no split, and not among the others.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unlabelled: Option<Unlabelled>,
}

impl DatasetVersion {
    /// The id of a version.
    pub(crate) fn id_of(dataset: &DatasetName, version: u32) -> Vec<u8> {
        compound([dataset.as_str().as_bytes(), &version.to_be_bytes()])
    }

    /// The start of the ids of all versions of a dataset.
    pub(crate) fn ids_of(dataset: &DatasetName) -> Vec<u8> {
        compound([dataset.as_str()])
    }

    /// The value by which a version of this content is found.
    pub(crate) fn content_of(dataset: &DatasetName, digest: &Digest) -> Vec<u8> {
        compound([dataset.as_str().as_bytes(), digest.as_bytes()])
    }
}

impl Entity for DatasetVersion {
    const TABLE: Table = Table::new("dataset-versions");

    fn id(&self) -> Vec<u8> {
        Self::id_of(&self.dataset, self.version)
    }

    fn unique(&self) -> Vec<(&'static str, Vec<u8>)> {
        vec![("content", Self::content_of(&self.dataset, &self.digest))]
    }
}

/// What all pictures of a version have in common.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ImageFacts {
    /// Columns of the narrowest picture.
    pub min_width: u32,
    /// Columns of the widest picture.
    pub max_width: u32,
    /// Rows of the lowest picture.
    pub min_height: u32,
    /// Rows of the highest picture.
    pub max_height: u32,
    /// Whether all pictures are grey.
    pub grey: bool,
}

/// What all recordings of a version have in common.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SoundFacts {
    /// Milliseconds of the shortest recording.
    pub min_ms: u32,
    /// Milliseconds of the longest one.
    pub max_ms: u32,
    /// Lowest rate, in samples a second.
    pub min_rate: u32,
    /// Highest rate.
    pub max_rate: u32,
}

/// A table's shape. Its columns stand in the sample list: [`crate::Datasets::columns`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TableFacts {
    /// Columns, the label among them.
    pub columns: u32,
    /// Position of the label column.
    pub label: u32,
    /// Its name.
    pub label_name: String,
    /// Whether the label is a number to predict and not a class.
    pub numeric_label: bool,
}

/// One column of a table.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Column {
    /// Its name.
    pub name: String,
    /// What its cells hold.
    pub kind: ColumnKind,
    /// Cells without a value.
    pub missing: u64,
}

/// What the cells of a column hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ColumnKind {
    /// Whole numbers.
    Integer,
    /// Numbers.
    Number,
    /// Anything else.
    Text,
}

/// Where a version's data came from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SourceFacts {
    /// In words: the path, or the name of the bundled data with its origin and licence.
    pub description: String,
    /// The format it had.
    pub format: crate::Format,
    /// The licence that it comes under, as an SPDX expression; none where nobody says.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub licence: Option<String>,
}

/// One sample of a version.
#[derive(Clone, Debug, PartialEq)]
pub struct SampleRef {
    /// SHA-256 of its bytes.
    pub digest: Digest,
    /// What is true of it; labels are indices into the version's classes.
    pub truth: Truth,
    /// Its split.
    pub split: Split,
    /// How often it is there: more than once in tables only.
    pub copies: u32,
    /// The pack that holds it.
    pub(crate) pack: Digest,
    /// Where in the pack it begins.
    pub(crate) offset: u32,
    /// How many bytes it has.
    pub(crate) len: u32,
}

impl SampleRef {
    /// How many bytes the sample has.
    pub fn len(&self) -> u32 {
        self.len
    }

    /// Whether it has no bytes: never.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }
}
