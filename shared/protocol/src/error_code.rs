//! The stable error codes of the whole platform.
//!
//! A code never changes its text once released: scripts, dashboards and rollout retry policies match on it.

use serde::{Deserialize, Serialize};
use std::fmt;

macro_rules! codes {
    ($($(#[doc = $doc:literal])+ $name:ident = $text:literal,)+) => {
        /// A stable, machine-readable error code.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        #[non_exhaustive]
        pub enum ErrorCode {
            $($(#[doc = $doc])+ $name,)+
            /// A code of a newer version that this build does not know.
            Unknown,
        }

        impl ErrorCode {
            /// Every known code.
            pub const ALL: &'static [ErrorCode] = &[$(ErrorCode::$name,)+];

            /// The stable text.
            pub fn as_str(self) -> &'static str {
                match self { $(ErrorCode::$name => $text,)+ ErrorCode::Unknown => "unknown" }
            }

            /// The code with this text; [`ErrorCode::Unknown`] for texts of newer versions.
            pub fn from_text(text: &str) -> Self {
                match text { $($text => ErrorCode::$name,)+ _ => ErrorCode::Unknown }
            }
        }
    };
}

codes! {
    /// A fault of our own.
    Internal = "internal",
    /// A request or document is not well-formed.
    InvalidInput = "invalid_input",
    /// A message could not be decoded.
    Malformed = "malformed",
    /// Something is larger than its bound.
    TooLarge = "too_large",
    /// The named thing does not exist.
    NotFound = "not_found",
    /// The named thing exists already.
    AlreadyExists = "already_exists",
    /// Somebody else changed the thing first.
    PreconditionFailed = "precondition_failed",
    /// The thing is not in a state that allows the action.
    WrongState = "wrong_state",
    /// No, or no valid, credentials.
    Unauthenticated = "unauthenticated",
    /// The actor may not do this.
    PermissionDenied = "permission_denied",
    /// A quota or rate bound is used up; try later.
    Busy = "busy",
    /// The work was cancelled.
    Cancelled = "cancelled",
    /// A deadline passed.
    Timeout = "timeout",
    /// This build or board cannot do it.
    Unsupported = "unsupported",

    /// No room left on the disk.
    StorageFull = "storage_full",
    /// The folder cannot be written.
    StorageReadOnly = "storage_read_only",
    /// Another process uses the folder.
    StorageInUse = "storage_in_use",
    /// Stored bytes do not match their checksum or format.
    StorageCorrupt = "storage_corrupt",
    /// The file system failed.
    StorageIo = "storage_io",
    /// A newer version wrote this folder.
    StorageVersion = "storage_version",
    /// The lease was lost to another holder.
    LeaseLost = "lease_lost",

    /// The address is taken by another program.
    PortInUse = "port_in_use",
    /// The network failed.
    Network = "network",
    /// A TLS handshake or certificate was refused.
    Tls = "tls",

    /// A dataset file or folder is not there.
    DatasetPathMissing = "dataset_path_missing",
    /// The format of a dataset could not be recognised.
    DatasetFormat = "dataset_format",
    /// An archive holds a path that leaves it.
    ArchivePath = "archive_path",
    /// An archive unpacks to more than its bound.
    ArchiveBomb = "archive_bomb",
    /// A dataset has too few samples or classes for the task.
    DatasetTooSmall = "dataset_too_small",
    /// One sample is bad.
    SampleInvalid = "sample_invalid",

    /// Training diverged or could not start.
    TrainingFailed = "training_failed",
    /// The child process of a job died.
    JobCrashed = "job_crashed",
    /// Work in a child process needed more memory than it may have.
    JobMemory = "job_memory",
    /// Compression costs more than the budget.
    OverBudget = "over_budget",
    /// A model file is not valid.
    ModelInvalid = "model_invalid",
    /// The engine cannot run an operator of the model.
    ModelUnsupported = "model_unsupported",
    /// A pipeline was guessed, and nobody has confirmed it.
    PipelineUnconfirmed = "pipeline_unconfirmed",
    /// Inference failed.
    InferenceFailed = "inference_failed",

    /// A signature is missing, wrong, or by a key that is not trusted.
    SignatureInvalid = "signature_invalid",
    /// A document is of another project or device.
    WrongProject = "wrong_project",
    /// A document is older than one already accepted.
    Replayed = "replayed",
    /// The release is below the signed floor.
    BelowFloor = "below_floor",
    /// The document has expired.
    Expired = "expired",
    /// A digest does not match the bytes.
    DigestMismatch = "digest_mismatch",
    /// The release does not fit this board.
    BoardMismatch = "board_mismatch",
    /// The release needs more room than the device has.
    NoRoom = "no_room",
    /// The device may not fetch this digest.
    FetchDenied = "fetch_denied",

    /// The golden outputs of the candidate differ.
    ProbeMismatch = "probe_mismatch",
    /// The candidate is too slow on this board.
    ProbeTooSlow = "probe_too_slow",
    /// The candidate needs too much memory.
    ProbeMemory = "probe_memory",
    /// The probe process died.
    ProbeCrashed = "probe_crashed",
    /// The candidate failed under real load.
    ProbationFailed = "probation_failed",
    /// A confirmed release takes the agent down again and again.
    ModelCrashed = "model_crashed",
    /// A new agent did not stay up.
    AgentCrashed = "agent_crashed",
    /// A new agent ran, but did not show in time that it works.
    AgentUnhealthy = "agent_unhealthy",

    /// The claim code is unknown.
    ClaimInvalid = "claim_invalid",
    /// The claim code is used up.
    ClaimUsed = "claim_used",
    /// The claim code has expired.
    ClaimExpired = "claim_expired",
    /// The server's CA is not the one the claim code names.
    CaMismatch = "ca_mismatch",
    /// The certificate is revoked.
    Revoked = "revoked",

    /// A newer rollout has taken over.
    Superseded = "superseded",
    /// The device failed again and again, and gets no update until it is released.
    Quarantined = "quarantined",
    /// Somebody has to approve it first.
    ApprovalNeeded = "approval_needed",
}

impl fmt::Display for ErrorCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl Serialize for ErrorCode {
    fn serialize<S: serde::Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.serialize_str(self.as_str())
    }
}

impl<'de> Deserialize<'de> for ErrorCode {
    fn deserialize<D: serde::Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        Ok(ErrorCode::from_text(&String::deserialize(d)?))
    }
}
