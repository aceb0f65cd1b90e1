//! Why a simulation cannot begin, or does not go on.

use flotilla_protocol::ErrorCode;
use std::path::PathBuf;

/// What failed, where, and what to do.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// An option is outside its bounds.
    #[error("{option} is {given}; {possible}")]
    Option {
        /// Which.
        option: &'static str,
        /// What was given.
        given: String,
        /// What is possible.
        possible: String,
    },
    /// More connections than the system permits this process.
    #[error(
        "{devices} devices need {needed} file descriptors, and this process may have {limit}; raise the limit \
         (`ulimit -n {needed}`, or LimitNOFILE= of its service), or simulate fewer devices"
    )]
    Descriptors {
        /// Devices asked for.
        devices: u32,
        /// What they need.
        needed: u64,
        /// What there is.
        limit: u64,
    },
    /// The file of identities cannot be used.
    #[error("{} cannot be used: {problem}", path.display())]
    State {
        /// The file.
        path: PathBuf,
        /// What is wrong, and what to do.
        problem: String,
        /// The stable code.
        code: ErrorCode,
    },
    /// There is no claim code and not enough enrolled devices.
    #[error(
        "{enrolled} devices are enrolled and {wanted} are asked for; give a claim code for the others with --claim \
         (`flotilla device claim FILE --uses N` makes one)"
    )]
    NoClaim {
        /// Devices there are.
        enrolled: usize,
        /// Devices asked for.
        wanted: u32,
    },
    /// Enrolment failed.
    #[error("device {device} cannot be enrolled: {source}")]
    Enrol {
        /// The device.
        device: String,
        /// Why.
        source: flotilla_agent::Error,
    },
    /// The claim code cannot be read.
    #[error(transparent)]
    Claim(flotilla_agent::Error),
    /// An enrolled device has keys or certificates that cannot be used.
    #[error(
        "the identity of device {device} cannot be used: {problem}; remove it from the state folder and enrol anew"
    )]
    Identity {
        /// The device.
        device: String,
        /// Why.
        problem: String,
    },
    /// It was stopped before there were devices.
    #[error("the simulation was stopped while devices enrolled")]
    Stopped,
    /// Something of the system that must not fail did.
    #[error("{what} failed: {problem}")]
    System {
        /// What.
        what: &'static str,
        /// How.
        problem: String,
    },
}

impl Error {
    /// The stable code.
    pub fn code(&self) -> ErrorCode {
        match self {
            Error::Option { .. } | Error::NoClaim { .. } => ErrorCode::InvalidInput,
            Error::Descriptors { .. } => ErrorCode::Unsupported,
            Error::State { code, .. } => *code,
            Error::Enrol { source, .. } | Error::Claim(source) => source.code(),
            Error::Identity { .. } => ErrorCode::StorageCorrupt,
            Error::Stopped => ErrorCode::Cancelled,
            Error::System { .. } => ErrorCode::Internal,
        }
    }
}
