//! What can go wrong when somebody wants in.

use crate::permission::Permission;
use flotilla_protocol::{ActorId, ErrorCode};
use std::io;
use std::path::PathBuf;

/// The result of an identity operation.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// A refusal, or a failure behind it.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// No token, or not the valid one.
    #[error("no valid token: send `Authorization: Bearer` with the content of {}", .token_file.display())]
    Unauthenticated {
        /// Where the administrator finds the token.
        token_file: PathBuf,
    },
    /// The login code is not, or no longer, good.
    #[error("this login link is unknown, used or expired: make a new one with `flotilla login`")]
    LoginCode,
    /// The console session is not, or no longer, good.
    #[error("the session has ended: make a new login link with `flotilla login`")]
    Session,
    /// The actor may not do this.
    #[error("{actor} may not do this: it needs the permission {permission}")]
    PermissionDenied {
        /// Who tried.
        actor: ActorId,
        /// What is missing.
        permission: Permission,
    },
    /// More than the bound.
    #[error("{what} has {size} bytes, the bound is {bound}")]
    TooLarge {
        /// What.
        what: &'static str,
        /// Its size.
        size: usize,
        /// The bound.
        bound: usize,
    },
    /// The token file is not one.
    #[error("{} does not hold an administrator token: remove it and restart, then a new one is made", .path.display())]
    TokenFile {
        /// The file.
        path: PathBuf,
    },
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
    /// The records failed.
    #[error(transparent)]
    Storage(#[from] flotilla_storage::Error),
}

impl Error {
    /// The stable code of this failure.
    pub fn code(&self) -> ErrorCode {
        match self {
            Self::Unauthenticated { .. } | Self::LoginCode | Self::Session => ErrorCode::Unauthenticated,
            Self::PermissionDenied { .. } => ErrorCode::PermissionDenied,
            Self::TooLarge { .. } => ErrorCode::TooLarge,
            Self::TokenFile { .. } => ErrorCode::InvalidInput,
            Self::Io { source, .. } => match source.kind() {
                io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => ErrorCode::StorageFull,
                io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem => {
                    ErrorCode::StorageReadOnly
                }
                _ => ErrorCode::StorageIo,
            },
            Self::Storage(error) => error.code(),
        }
    }
}
