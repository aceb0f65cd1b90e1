//! Why the agent, or one of its commands, could not go on.

use crate::api::ApiError;
use crate::disk::DiskError;
use crate::program;
use flotilla_launcher::lock::LockError;
use flotilla_protocol::ErrorCode;
use std::path::PathBuf;

/// What failed, where, and what to do.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The disk or folder.
    #[error(transparent)]
    Disk(#[from] DiskError),
    /// The local endpoint.
    #[error(transparent)]
    Api(#[from] ApiError),
    /// Another agent runs on the folder.
    #[error("another agent runs on {folder}; stop it first, or use another --dir", folder = folder.display())]
    InUse {
        /// The folder.
        folder: PathBuf,
    },
    /// `agent.toml` is wrong.
    #[error("{path} is not usable: {problem}", path = path.display())]
    Config {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        problem: String,
    },
    /// The folder holds no identity.
    #[error("{folder} is not enrolled; run `{program} enrol --claim FILE --dir {folder}` first", folder = folder.display(), program = program::name())]
    NotEnrolled {
        /// The folder.
        folder: PathBuf,
    },
    /// The folder holds an identity already.
    #[error("{folder} is enrolled already, as device {device}; use another --dir, or remove its identity folder to give that device up", folder = folder.display())]
    AlreadyEnrolled {
        /// The folder.
        folder: PathBuf,
        /// The device.
        device: String,
    },
    /// A file of the identity or trust cannot be believed.
    #[error("{path} is damaged: {problem}; remove the folder identity, then enrol this device anew", path = path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        problem: String,
    },
    /// The claim code cannot be read.
    #[error("the claim code in {from} cannot be used: {problem}")]
    Claim {
        /// File, or standard input.
        from: String,
        /// What is wrong; never the code itself.
        problem: String,
    },
    /// The server is not the one that the claim code names.
    #[error(
        "the server at {server} does not show the CA that the claim code names; nothing was sent. Check the address, and that nobody stands between"
    )]
    CaMismatch {
        /// The server.
        server: String,
    },
    /// A certificate was not accepted for another reason.
    #[error("no safe connection to {server}: {problem}")]
    Tls {
        /// The server.
        server: String,
        /// What is wrong.
        problem: String,
    },
    /// The network failed.
    #[error("{server} cannot be reached: {problem}")]
    Network {
        /// The server.
        server: String,
        /// What is wrong.
        problem: String,
    },
    /// The server said no.
    #[error("{server} refused: {detail}")]
    Refused {
        /// The server.
        server: String,
        /// The stable code.
        code: ErrorCode,
        /// What it says.
        detail: String,
    },
    /// The server's answer cannot be accepted.
    #[error("the answer of {server} cannot be accepted: {problem}; nothing was stored")]
    Answer {
        /// The server.
        server: String,
        /// The stable code.
        code: ErrorCode,
        /// What is wrong.
        problem: String,
    },
    /// No agent runs on the folder.
    #[error("no agent runs on {folder}; start it with `{program} run --dir {folder}`, or its service", folder = folder.display(), program = program::name())]
    NotRunning {
        /// The folder.
        folder: PathBuf,
    },
    /// The doctor found what does not work.
    #[error("{fails} checks fail; what to do about each stands below it")]
    Sick {
        /// How many.
        fails: usize,
    },
    /// Something of the system that must not fail did.
    #[error("{what} failed: {problem}")]
    System {
        /// What.
        what: &'static str,
        /// How.
        problem: String,
    },
}

impl From<LockError> for Error {
    fn from(error: LockError) -> Self {
        match error {
            LockError::Disk(error) => Error::Disk(error),
            LockError::InUse { folder } => Error::InUse { folder },
        }
    }
}

impl Error {
    /// The stable code.
    pub fn code(&self) -> ErrorCode {
        match self {
            Error::Disk(e) => e.code(),
            Error::Api(e) => e.code(),
            Error::InUse { .. } => ErrorCode::StorageInUse,
            Error::Config { .. } => ErrorCode::InvalidInput,
            Error::NotEnrolled { .. } | Error::NotRunning { .. } | Error::Sick { .. } => {
                ErrorCode::WrongState
            }
            Error::AlreadyEnrolled { .. } => ErrorCode::AlreadyExists,
            Error::Damaged { .. } => ErrorCode::StorageCorrupt,
            Error::Claim { .. } => ErrorCode::ClaimInvalid,
            Error::CaMismatch { .. } => ErrorCode::CaMismatch,
            Error::Tls { .. } => ErrorCode::Tls,
            Error::Network { .. } => ErrorCode::Network,
            Error::Refused { code, .. } | Error::Answer { code, .. } => *code,
            Error::System { .. } => ErrorCode::Internal,
        }
    }

    /// The process's exit code; see [`crate::cli::EXIT_CODES`].
    pub fn exit_code(&self) -> u8 {
        match self {
            Error::Claim { .. } | Error::CaMismatch { .. } | Error::Refused { .. } | Error::Answer { .. } => {
                4
            }
            Error::Tls { .. } | Error::Network { .. } | Error::NotRunning { .. } => 5,
            Error::Disk(_) | Error::InUse { .. } | Error::Damaged { .. } => 6,
            Error::NotEnrolled { .. } | Error::AlreadyEnrolled { .. } | Error::Config { .. } => 3,
            Error::Sick { .. } => 7,
            Error::Api(_) | Error::System { .. } => 1,
        }
    }
}
