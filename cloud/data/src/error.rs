//! What can go wrong with a dataset, and what the reader of the message can do about it.

use flotilla_protocol::{DatasetName, DeviceId, Digest, ErrorCode};
use std::io;
use std::path::{Path, PathBuf};

/// The result of a dataset operation.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// A failed dataset operation. An import that fails leaves nothing behind.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// Nothing at the path.
    #[error("{} does not exist: give the path of a file or folder on the machine that runs the server", .path.display())]
    PathMissing {
        /// The path.
        path: PathBuf,
    },
    /// Not a format that is known here, or not a well-formed one.
    #[error(
        "{file}: {problem}; known are a folder or zip of png and jpeg pictures or of wav recordings by class \
         (CLASS/picture or SPLIT/CLASS/picture), pictures with boxes as COCO JSON or Pascal VOC XML, IDX pairs (images-idx3-ubyte and labels-idx1-ubyte, also gzipped), csv tables, and \
         csv with one grey picture a line (format image-csv)"
    )]
    Format {
        /// Which file or folder.
        file: String,
        /// What is wrong.
        problem: String,
    },
    /// Too little to train on.
    #[error("{dataset} has {problem}: add data, or check the list of skipped samples")]
    TooSmall {
        /// The dataset.
        dataset: DatasetName,
        /// What is too little.
        problem: String,
    },
    /// An entry of an archive leads out of it.
    #[error("{archive} holds the entry {entry:?}, which is {problem}: nothing of it was imported")]
    ArchivePath {
        /// The archive.
        archive: String,
        /// The entry, cut to a bound.
        entry: String,
        /// What is wrong with it.
        problem: &'static str,
    },
    /// An archive unpacks to more than its bound.
    #[error("{archive} {problem}: nothing of it was imported; unpack it yourself and import the folder")]
    ArchiveBomb {
        /// The archive.
        archive: String,
        /// Which bound.
        problem: String,
    },
    /// More than a bound.
    #[error("{what}: {size}, the bound is {bound}")]
    TooLarge {
        /// What.
        what: String,
        /// How much.
        size: u64,
        /// The bound.
        bound: u64,
    },
    /// A source without a single file.
    #[error(
        "{from} holds no file: name sample files as the model takes them, such as pictures, or a folder of them"
    )]
    NoSamples {
        /// The source.
        from: String,
    },
    /// There is no such set of samples any more.
    #[error("the samples {digest} are not kept any more: send them again")]
    NoSampleSet {
        /// Which.
        digest: Digest,
    },
    /// An option that does not fit the data or itself.
    #[error("the option {option} is not usable: {problem}")]
    Option {
        /// Which.
        option: &'static str,
        /// What is wrong, and what is possible.
        problem: String,
    },
    /// No such dataset, version or sample.
    #[error("{what} does not exist: `flotilla dataset list` shows what does")]
    NotFound {
        /// What.
        what: String,
    },
    /// The dataset holds data of another kind.
    #[error("{dataset} holds {held} data, this is {given} data: import it under another name")]
    KindDiffers {
        /// The dataset.
        dataset: DatasetName,
        /// What it holds.
        held: &'static str,
        /// What was given.
        given: &'static str,
    },
    /// There is no room for more hard examples.
    #[error("the quarantine of hard examples is full: accept or reject some of them first")]
    QuarantineFull,
    /// An import runs.
    #[error("a dataset is being imported: nothing was decided, accept again when the import has ended")]
    Importing,
    /// A piece of something that no offer stands for: none was made, or consent, right or patience ended since.
    #[error("{digest} is not expected: offer it first")]
    NotOffered {
        /// Which.
        digest: Digest,
    },
    /// A device sends more than it may.
    #[error("device {device} has sent its share of today: its policy allows {bound} bytes a day")]
    OverDailyBytes {
        /// The device.
        device: DeviceId,
        /// Bytes a day.
        bound: u64,
    },
    /// An upload has another content than was said.
    #[error("the bytes of {digest} are others: they were thrown away")]
    DigestDiffers {
        /// What was said.
        digest: Digest,
    },
    /// An upload is neither a picture, nor a recording, nor a row.
    #[error("{digest} is no usable picture, recording or row: {problem}; it was thrown away")]
    NoExampleData {
        /// Which.
        digest: Digest,
        /// Why.
        problem: String,
    },
    /// There is no such hard example.
    #[error("there is no hard example {digest}: `flotilla hard list` shows what there is")]
    NoExample {
        /// Which.
        digest: Digest,
    },
    /// Somebody was faster.
    #[error("the hard example {digest} is {state} already: nothing was decided, leave it out")]
    AlreadyDecided {
        /// Which.
        digest: Digest,
        /// Where it stands.
        state: &'static str,
    },
    /// Others changed the dataset all the time.
    #[error("{dataset} is being changed by others: try again")]
    Contended {
        /// The dataset.
        dataset: DatasetName,
    },
    /// Stored bytes are not those of the sample or list they should be.
    #[error("the stored {what} {digest} is damaged: {problem}; import the dataset again")]
    Damaged {
        /// What.
        what: &'static str,
        /// Its digest.
        digest: Digest,
        /// What is wrong.
        problem: String,
    },
    /// Whoever asked for the import no longer waits for it.
    #[error("the import was given up")]
    Cancelled,
    /// The file system failed.
    #[error("cannot {action} {}", .path.display())]
    Io {
        /// What was tried.
        action: &'static str,
        /// Where.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// Storing failed.
    #[error(transparent)]
    Storage(#[from] flotilla_storage::Error),
    /// Writing the audit record failed.
    #[error(transparent)]
    Identity(#[from] flotilla_identity::Error),
}

impl Error {
    /// The stable code of this failure.
    pub fn code(&self) -> ErrorCode {
        match self {
            Self::PathMissing { .. } => ErrorCode::DatasetPathMissing,
            Self::Format { .. } => ErrorCode::DatasetFormat,
            Self::TooSmall { .. } | Self::NoSamples { .. } => ErrorCode::DatasetTooSmall,
            Self::ArchivePath { .. } => ErrorCode::ArchivePath,
            Self::ArchiveBomb { .. } => ErrorCode::ArchiveBomb,
            Self::TooLarge { .. } => ErrorCode::TooLarge,
            Self::Option { .. } | Self::KindDiffers { .. } => ErrorCode::InvalidInput,
            Self::NotFound { .. } | Self::NoExample { .. } | Self::NoSampleSet { .. } => ErrorCode::NotFound,
            Self::QuarantineFull | Self::Importing | Self::OverDailyBytes { .. } => ErrorCode::Busy,
            Self::DigestDiffers { .. } => ErrorCode::DigestMismatch,
            Self::NoExampleData { .. } => ErrorCode::SampleInvalid,
            Self::AlreadyDecided { .. } | Self::NotOffered { .. } => ErrorCode::WrongState,
            Self::Contended { .. } => ErrorCode::Busy,
            Self::Damaged { .. } => ErrorCode::StorageCorrupt,
            Self::Cancelled => ErrorCode::Cancelled,
            Self::Io { source, .. } => match source.kind() {
                io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => ErrorCode::StorageFull,
                _ => ErrorCode::StorageIo,
            },
            Self::Storage(error) => error.code(),
            Self::Identity(error) => error.code(),
        }
    }

    pub(crate) fn format(file: impl Into<String>, problem: impl Into<String>) -> Self {
        Self::Format { file: file.into(), problem: problem.into() }
    }

    pub(crate) fn io(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        move |source| Self::Io { action, path: path.to_path_buf(), source }
    }

    pub(crate) fn unreadable(digest: &Digest, error: serde_json::Error) -> Self {
        Self::Damaged { what: "list", digest: *digest, problem: error.to_string() }
    }
}
