//! What can go wrong when something is stored, and what the reader of the message can do about it.

use crate::key::Key;
use flotilla_protocol::ErrorCode;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// The result of a storage operation.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// A failed storage operation. Cloneable, because one failed sync fails every commit that waited for it.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// Another process holds the folder.
    #[error(
        "the folder {} is in use by another process: stop the other server or choose another folder",
        .folder.display()
    )]
    InUse {
        /// The folder.
        folder: PathBuf,
    },
    /// The folder cannot be written.
    #[error("cannot {action} {}: it is read-only for this user; make it writable or choose another folder", .path.display())]
    ReadOnly {
        /// What was tried.
        action: &'static str,
        /// Where.
        path: PathBuf,
        /// What the system said.
        source: Arc<io::Error>,
    },
    /// No room on the disk. Nothing acknowledged is lost, and the call may be repeated once there is room.
    #[error("no room to {action} {}: free some space on this disk and try again; everything acknowledged is kept", .path.display())]
    DiskFull {
        /// What was tried.
        action: &'static str,
        /// Where.
        path: PathBuf,
        /// What the system said; absent where the store refused before touching its reserve.
        source: Option<Arc<io::Error>>,
    },
    /// A log has reached its own bound and nothing in it has been released yet.
    #[error("{} holds {bytes} bytes, its bound: try again after older entries have been processed", .path.display())]
    OverBound {
        /// The folder of the log.
        path: PathBuf,
        /// The bound.
        bytes: u64,
    },
    /// A newer version wrote the folder.
    #[error("{} has format {found}, this version reads up to {supported}: start the newer version that wrote it", .path.display())]
    NewerFormat {
        /// The folder.
        path: PathBuf,
        /// The format found.
        found: u32,
        /// The newest format this build knows.
        supported: u32,
    },
    /// Stored bytes are not what was written.
    #[error("{} is damaged: {detail}; restore it from a backup", .path.display())]
    Corrupt {
        /// The damaged file.
        path: PathBuf,
        /// What is wrong with it.
        detail: String,
    },
    /// The file system failed.
    #[error("cannot {action} {}", .path.display())]
    Io {
        /// What was tried.
        action: &'static str,
        /// Where.
        path: PathBuf,
        /// What the system said.
        source: Arc<io::Error>,
    },
    /// A sync failed, so what the disk holds is unknown and nothing more may be acknowledged.
    #[error(
        "{} refuses writes because an earlier write could not be made durable: check the disk, then restart; \
         everything acknowledged before is kept, unacknowledged writes may or may not appear",
        .path.display()
    )]
    Refusing {
        /// The folder.
        path: PathBuf,
        /// The failure that caused it.
        source: Arc<dyn std::error::Error + Send + Sync>,
    },
    /// Somebody else changed the record first.
    #[error("{key} is not as expected ({expected}, found {found}): read it again and repeat")]
    PreconditionFailed {
        /// The record.
        key: Box<Key>,
        /// What the batch required.
        expected: String,
        /// What was there.
        found: String,
    },
    /// The lease belongs to somebody else by now, or to nobody.
    #[error(
        "the lease {name:?} is no longer held with token {token}: stop this work, its new holder continues it"
    )]
    LeaseLost {
        /// The lease.
        name: String,
        /// The token that is no longer valid.
        token: u64,
    },
    /// Something is larger than its bound.
    #[error("{what} has {size}, the bound is {bound}")]
    TooLarge {
        /// What.
        what: String,
        /// Its size.
        size: u64,
        /// The bound.
        bound: u64,
    },
    /// The object is not in the store.
    #[error("object {digest} is not in {}", .folder.display())]
    ObjectMissing {
        /// Its digest.
        digest: flotilla_protocol::Digest,
        /// The store's folder.
        folder: PathBuf,
    },
    /// A range reaches past the end of an object, or the call is otherwise not well-formed.
    #[error("{0}")]
    Invalid(String),
    /// A record does not decode as the type it is read as.
    #[error("the record {key} cannot be read by this version")]
    Decode {
        /// The record.
        key: Box<Key>,
        /// Why.
        source: Arc<serde_json::Error>,
    },
    /// A value cannot be written as JSON.
    #[error("a record of table {table} cannot be encoded")]
    Encode {
        /// The table.
        table: String,
        /// Why.
        source: Arc<serde_json::Error>,
    },
    /// The store has been closed, or its writer has stopped after a fault that is in the log.
    #[error("the store {} is closed: restart the server if this was not intended", .path.display())]
    Closed {
        /// The folder.
        path: PathBuf,
    },
}

impl Error {
    /// The stable code of this failure.
    pub fn code(&self) -> ErrorCode {
        match self {
            Self::InUse { .. } => ErrorCode::StorageInUse,
            Self::ReadOnly { .. } => ErrorCode::StorageReadOnly,
            Self::DiskFull { .. } | Self::OverBound { .. } => ErrorCode::StorageFull,
            Self::NewerFormat { .. } => ErrorCode::StorageVersion,
            Self::Corrupt { .. } | Self::Decode { .. } => ErrorCode::StorageCorrupt,
            Self::Io { .. } | Self::Refusing { .. } | Self::Closed { .. } => ErrorCode::StorageIo,
            Self::PreconditionFailed { .. } => ErrorCode::PreconditionFailed,
            Self::LeaseLost { .. } => ErrorCode::LeaseLost,
            Self::TooLarge { .. } => ErrorCode::TooLarge,
            Self::ObjectMissing { .. } => ErrorCode::NotFound,
            Self::Invalid(_) => ErrorCode::InvalidInput,
            Self::Encode { .. } => ErrorCode::Internal,
        }
    }

    /// The error for a failed call of the system: full and read-only disks get their own kinds.
    pub(crate) fn io(action: &'static str, path: &Path, source: io::Error) -> Self {
        use io::ErrorKind::{PermissionDenied, QuotaExceeded, ReadOnlyFilesystem, StorageFull};
        let path = path.to_path_buf();
        match source.kind() {
            StorageFull | QuotaExceeded => Self::DiskFull { action, path, source: Some(Arc::new(source)) },
            ReadOnlyFilesystem | PermissionDenied => {
                Self::ReadOnly { action, path, source: Arc::new(source) }
            }
            _ => Self::Io { action, path, source: Arc::new(source) },
        }
    }

    /// The error for bytes that are not what was written.
    pub(crate) fn corrupt(path: &Path, detail: impl Into<String>) -> Self {
        Self::Corrupt { path: path.to_path_buf(), detail: detail.into() }
    }

    /// The state after `self` made durability unknown.
    pub(crate) fn into_refusing(self, folder: &Path) -> Self {
        match self {
            refusing @ Self::Refusing { .. } => refusing,
            other => Self::Refusing { path: folder.to_path_buf(), source: Arc::new(other) },
        }
    }
}

/// Turns a failed call of the system into an [`Error`] that says what was tried and where.
pub(crate) trait IoContext<T> {
    /// Adds what was tried and where.
    fn at(self, action: &'static str, path: &Path) -> Result<T>;
}

impl<T> IoContext<T> for io::Result<T> {
    fn at(self, action: &'static str, path: &Path) -> Result<T> {
        self.map_err(|source| Error::io(action, path, source))
    }
}
