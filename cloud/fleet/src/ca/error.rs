//! What can go wrong with the certificate authority, and what to do about it.

use flotilla_protocol::ErrorCode;
use std::path::PathBuf;

/// An error of the certificate authority.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A file of the authority could not be read or written.
    #[error("cannot {action} {}: check that the folder exists, belongs to this user and has room", path.display())]
    Io {
        /// What was tried.
        action: &'static str,
        /// The file or folder.
        path: PathBuf,
        /// Why it failed.
        source: std::io::Error,
    },
    /// A private key can be read by other users.
    #[error("{} holds a private key but has mode {mode:04o}, so other users can read it: if nobody has, run `chmod 600` on it; else replace the authority", path.display())]
    Exposed {
        /// The key file.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// A file is not what this authority wrote.
    #[error("{} is damaged ({reason}): restore it from a backup; a new one would orphan every device enrolled with the old", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// A file belongs to another authority or project.
    #[error("{} belongs elsewhere ({reason}): restore this installation's own file from a backup", path.display())]
    Foreign {
        /// The file.
        path: PathBuf,
        /// What it belongs to.
        reason: String,
    },
    /// Intermediates exist, but the root that signed them is gone.
    #[error("{} is missing but project authorities signed by it exist: restore it from a backup; a new one would orphan every device", path.display())]
    RootMissing {
        /// Where the root should be.
        path: PathBuf,
    },
    /// A signing request is not acceptable.
    #[error("the certificate signing request is refused: {reason}")]
    BadRequest {
        /// Why.
        reason: String,
    },
    /// A name cannot stand in a server certificate.
    #[error("{name:?} is neither a DNS name nor an IP address: name the server as devices will reach it")]
    BadName {
        /// The name given.
        name: String,
    },
    /// A certificate does not identify a device of this installation.
    #[error("the certificate does not identify a device: {reason}")]
    BadCertificate {
        /// Why.
        reason: String,
    },
    /// The system gave no randomness.
    #[error("the system's random generator failed: try again, and check the system if it stays so")]
    Random,
    /// A certificate could not be made.
    #[error("a certificate could not be made")]
    Generate(#[from] rcgen::Error),
}

impl Error {
    /// The stable code of this error.
    pub fn code(&self) -> ErrorCode {
        match self {
            Self::Io { source, .. } => match source.kind() {
                std::io::ErrorKind::StorageFull => ErrorCode::StorageFull,
                std::io::ErrorKind::ReadOnlyFilesystem | std::io::ErrorKind::PermissionDenied => {
                    ErrorCode::StorageReadOnly
                }
                _ => ErrorCode::StorageIo,
            },
            Self::Exposed { .. } => ErrorCode::PermissionDenied,
            Self::Damaged { .. } | Self::RootMissing { .. } => ErrorCode::StorageCorrupt,
            Self::Foreign { .. } => ErrorCode::WrongProject,
            Self::BadRequest { .. } | Self::BadName { .. } => ErrorCode::InvalidInput,
            Self::BadCertificate { .. } => ErrorCode::Tls,
            Self::Random | Self::Generate(_) => ErrorCode::Internal,
        }
    }
}
