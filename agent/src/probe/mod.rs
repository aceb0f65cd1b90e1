//! The probe: a candidate release is tried in a child process before anything depends on it.
//!
//! The child loads the files from the idle slot, runs the golden vectors and measures itself. Whatever goes
//! wrong there, a crash, endless work or too much memory, ends the child and not the device.
//!
//! A slot is a folder with `release.cbor` (the signed envelope, verified by the parent) and `files/NAME`. The
//! child writes one line of JSON: a [`ProbeReport`] and exits with 0, or a [`ProbeFailure`] and exits with 1.
//!
//! [`ProbeReport`]: flotilla_protocol::message::ProbeReport

mod child;
mod memory;
mod parent;

pub use child::{ChildArgs, child_main};
pub(crate) use child::{answer, end_with_parent, limit_memory, manifest, peak_rss_bytes, refused};
pub use parent::{ProbeError, ProbeLimits, run, self_test, version};
pub(crate) use parent::{measure, tail, tells_of_memory};

pub use flotilla_launcher::FILES_FOLDER;
use flotilla_protocol::ErrorCode;
use serde::{Deserialize, Serialize};

/// Name of the signed envelope within a slot.
pub const RELEASE_FILE: &str = "release.cbor";

/// What a child says of a candidate that did not pass.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProbeFailure {
    /// The stable code.
    pub code: ErrorCode,
    /// For people.
    pub detail: String,
}
