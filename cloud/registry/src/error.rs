//! What can go wrong with models and releases, and what to do about it.

use flotilla_protocol::envelope::EnvelopeError;
use flotilla_protocol::manifest::ReleaseError;
use flotilla_protocol::trust::TrustError;
use flotilla_protocol::{Digest, ErrorCode, ModelName};
use std::io;
use std::path::PathBuf;

/// The result of a registry operation.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// A failed registry operation.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// There is no such model.
    #[error("there is no model {0}: list the models, or train or import one")]
    ModelMissing(ModelName),
    /// The model has no such version.
    #[error("model {model} has no version {version}")]
    VersionMissing {
        /// The model.
        model: ModelName,
        /// The version.
        version: u32,
    },
    /// There is no such release.
    #[error("there is no release {0} in this registry")]
    ReleaseMissing(Digest),
    /// The request cannot be fulfilled as it is.
    #[error("{0}")]
    Invalid(String),
    /// Something is over its bound.
    #[error("{what} has {size} bytes, the bound is {bound}")]
    TooLarge {
        /// What.
        what: &'static str,
        /// Its size.
        size: u64,
        /// The bound.
        bound: u64,
    },
    /// The model file cannot be run as its pipeline says.
    #[error("the model file cannot be used: {0}")]
    Model(#[from] flotilla_runtime::Error),
    /// A signed document is not acceptable.
    #[error("the signed document was refused: {0}")]
    Envelope(#[from] EnvelopeError),
    /// A release is not acceptable.
    #[error(transparent)]
    Release(#[from] ReleaseError),
    /// The stored trust file does not fit this installation's keys.
    #[error(
        "the stored trust file does not belong to the keys of this installation: restore keys and records from the same backup"
    )]
    Trust(#[source] TrustError),
    /// The stored trust file names another CA, or other keys.
    #[error(
        "the stored trust file names another {what} than this installation has: restore keys and records from the same backup"
    )]
    TrustForeign {
        /// What differs.
        what: &'static str,
        /// The stable code.
        code: ErrorCode,
    },
    /// A new trust file is not acceptable.
    #[error("the trust file is refused: {0}")]
    TrustRefused(#[source] TrustError),
    /// A new trust file would leave this installation, or new devices, without the keys they need.
    #[error("the trust file is refused: {problem}")]
    TrustUnfit {
        /// What is wrong, and what to do.
        problem: String,
        /// The stable code.
        code: ErrorCode,
    },
    /// The release key of this installation is not enough to sign.
    #[error(
        "{what} takes {needed} signatures of the project's release keys, and the key of this installation is not enough: {advice}"
    )]
    OfflineKeys {
        /// What is to be signed.
        what: &'static str,
        /// How many.
        needed: u16,
        /// What to do.
        advice: &'static str,
    },
    /// A floor can only go up, and never above the newest release.
    #[error(
        "the floor of model {model} is {from} and its newest release is {newest}: {to} is not between them"
    )]
    Floor {
        /// The model.
        model: ModelName,
        /// The floor now.
        from: u64,
        /// The wanted floor.
        to: u64,
        /// The newest release.
        newest: u64,
    },
    /// A bundle holds a path that does not belong in one.
    #[error("the bundle holds {path:?}, which is not a file of a release: it was not made by an export")]
    BundlePath {
        /// The path, cut to the bound.
        path: String,
    },
    /// A bundle is not readable or not complete.
    #[error("the bundle is not usable: {0}")]
    Bundle(String),
    /// A file of a bundle is not what the signed manifest says.
    #[error("file {name} of the bundle does not match its digest in the signed manifest")]
    BundleDigest {
        /// The file.
        name: String,
    },
    /// Another release has this counter already.
    #[error(
        "model {model} has another release with counter {counter} here: the bundle comes from a different history"
    )]
    CounterTaken {
        /// The model.
        model: ModelName,
        /// The counter.
        counter: u64,
    },
    /// A private key can be read by other users.
    #[error("{} holds a private key but has mode {mode:04o}, so other users can read it: if nobody has, run `chmod 600` on it; else replace the key", .path.display())]
    KeyExposed {
        /// The key file.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// A private key cannot be read.
    #[error("{} does not hold an Ed25519 private key: restore it from a backup; devices believe no other", .path.display())]
    KeyDamaged {
        /// The key file.
        path: PathBuf,
    },
    /// The file system failed.
    #[error("cannot {action} {}: check that the folder exists, belongs to this user and has room", .path.display())]
    Io {
        /// What was tried.
        action: &'static str,
        /// Where.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The records or objects failed.
    #[error(transparent)]
    Storage(#[from] flotilla_storage::Error),
    /// The audit record could not be made.
    #[error(transparent)]
    Identity(#[from] flotilla_identity::Error),
    /// Others kept changing the model.
    #[error("model {0} is being changed by others all the time: try again")]
    Contended(ModelName),
    /// A worker thread died; the log says why.
    #[error("an internal worker stopped: the log says why")]
    Worker,
}

impl Error {
    /// The stable code of this failure.
    pub fn code(&self) -> ErrorCode {
        match self {
            Self::ModelMissing(_) | Self::VersionMissing { .. } | Self::ReleaseMissing(_) => {
                ErrorCode::NotFound
            }
            Self::Invalid(_) | Self::Floor { .. } => ErrorCode::InvalidInput,
            Self::TooLarge { .. } => ErrorCode::TooLarge,
            Self::Model(error) => error.code(),
            Self::Envelope(error) => error.code(),
            Self::Release(error) => error.code(),
            Self::Trust(error) => error.code(),
            Self::TrustRefused(error) => error.code(),
            Self::TrustForeign { code, .. } | Self::TrustUnfit { code, .. } => *code,
            Self::OfflineKeys { .. } => ErrorCode::SignatureInvalid,
            Self::BundlePath { .. } => ErrorCode::ArchivePath,
            Self::Bundle(_) => ErrorCode::Malformed,
            Self::BundleDigest { .. } => ErrorCode::DigestMismatch,
            Self::CounterTaken { .. } => ErrorCode::AlreadyExists,
            Self::KeyExposed { .. } => ErrorCode::PermissionDenied,
            Self::KeyDamaged { .. } => ErrorCode::StorageCorrupt,
            Self::Io { source, .. } => match source.kind() {
                io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => ErrorCode::StorageFull,
                io::ErrorKind::ReadOnlyFilesystem | io::ErrorKind::PermissionDenied => {
                    ErrorCode::StorageReadOnly
                }
                _ => ErrorCode::StorageIo,
            },
            Self::Storage(error) => error.code(),
            Self::Identity(error) => error.code(),
            Self::Contended(_) => ErrorCode::Busy,
            Self::Worker => ErrorCode::Internal,
        }
    }

    /// Whether somebody else changed a record first, so that trying again may succeed.
    pub(crate) fn is_conflict(&self) -> bool {
        matches!(self, Self::Storage(flotilla_storage::Error::PreconditionFailed { .. }))
    }
}
