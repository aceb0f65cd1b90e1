//! How commands end: exit codes and the one line that says why.

use crate::http::api::{Json, OrderFailure};
use flotilla_protocol::ErrorCode;
use std::fmt::Display;
use std::process::ExitCode;

/// The documented exit codes (see `flotilla --help`). 2 is clap's, for a wrong command line.
mod code {
    /// The work failed.
    pub(super) const FAILED: u8 = 1;
    /// The control plane cannot be reached.
    pub(super) const UNREACHABLE: u8 = 3;
    /// Not signed in, or not allowed.
    pub(super) const DENIED: u8 = 4;
    /// The named thing does not exist.
    pub(super) const NOT_FOUND: u8 = 5;
    /// The folder or port is not usable: read-only, full, in use, damaged.
    pub(super) const ENVIRONMENT: u8 = 6;
}

/// Devices of a failed order that are named; the answer names all.
const NAMED: usize = 20;

/// An order for many devices has failed if it has on one.
pub(super) fn of_all(failed: &[OrderFailure]) -> Result<(), Failure> {
    let Some(first) = failed.first() else { return Ok(()) };
    let named = failed.iter().take(NAMED);
    let named = named.map(|one| format!("\n  {}: {} [{}]", one.device, one.failure.detail, one.failure.code));
    let more = failed.len().saturating_sub(NAMED);
    let more = if more > 0 { format!("\n  and {more} more") } else { String::new() };
    let detail = format!("not possible on these devices:{}{more}", named.collect::<String>());
    Err(Failure::new(ErrorCode::from_text(&first.failure.code), detail))
}

/// Why a command failed.
#[derive(Debug)]
pub struct Failure {
    code: ErrorCode,
    stage: Option<&'static str>,
    detail: String,
    facts: Option<Json>,
}

impl Failure {
    /// A failure with this code and explanation.
    pub fn new(code: ErrorCode, detail: impl Display) -> Self {
        Self { code, stage: None, detail: detail.to_string(), facts: None }
    }

    /// A failure of one stage of a longer command.
    pub fn stage(stage: &'static str, code: ErrorCode, detail: impl Display) -> Self {
        Self { code, stage: Some(stage), detail: detail.to_string(), facts: None }
    }

    /// The same with what was found out nevertheless, for scripts.
    #[must_use]
    pub fn with_facts(self, facts: Json) -> Self {
        Self { facts: Some(facts), ..self }
    }

    /// Prints the reason to stderr, as JSON when asked for, and gives the exit code.
    pub fn report(&self, json: bool) -> ExitCode {
        if json {
            let mut object = serde_json::json!({ "error": { "code": self.code, "stage": self.stage, "detail": self.detail } });
            if let Some(facts) = &self.facts {
                object["error"]["facts"] = facts.clone();
            }
            eprintln!("{object}");
        } else {
            let stage = self.stage.map(|s| format!("stage {s}: ")).unwrap_or_default();
            eprintln!("error: {stage}{} [{}]", self.detail, self.code);
        }
        ExitCode::from(self.exit_code())
    }

    fn exit_code(&self) -> u8 {
        match self.code {
            ErrorCode::Network => code::UNREACHABLE,
            ErrorCode::Unauthenticated | ErrorCode::PermissionDenied => code::DENIED,
            ErrorCode::NotFound | ErrorCode::DatasetPathMissing => code::NOT_FOUND,
            ErrorCode::PortInUse
            | ErrorCode::StorageFull
            | ErrorCode::StorageReadOnly
            | ErrorCode::StorageInUse
            | ErrorCode::StorageCorrupt
            | ErrorCode::StorageIo
            | ErrorCode::StorageVersion => code::ENVIRONMENT,
            _ => code::FAILED,
        }
    }
}

impl From<super::client::ClientError> for Failure {
    fn from(error: super::client::ClientError) -> Self {
        Self::new(error.code(), error)
    }
}
