//! Whether a desired document is accepted.

use flotilla_protocol::envelope::EnvelopeError;
use flotilla_protocol::message::Desired;
use flotilla_protocol::{DeviceId, Envelope, EnvelopeKind, ErrorCode, ProjectId, TrustFile};

/// Why a desired document was not accepted.
#[derive(Debug, thiserror::Error)]
pub enum DesiredError {
    /// Not signed by the project's control keys.
    #[error("the desired document is not acceptable: {0}")]
    Envelope(#[from] EnvelopeError),
    /// For another project.
    #[error("the desired document is for project {got}, this device belongs to {expected}")]
    Project {
        /// The device's project.
        expected: ProjectId,
        /// The document's.
        got: ProjectId,
    },
    /// For another device.
    #[error("the desired document is for device {got}, this is {expected}")]
    Device {
        /// This device.
        expected: DeviceId,
        /// The document's.
        got: DeviceId,
    },
    /// Older than the last accepted one.
    #[error("desired version {got} is older than the accepted version {accepted}")]
    Replayed {
        /// The accepted version.
        accepted: u64,
        /// The document's.
        got: u64,
    },
    /// Over a bound.
    #[error("the desired document names more models or commands than a device takes")]
    TooLarge,
}

impl DesiredError {
    /// The stable code.
    pub fn code(&self) -> ErrorCode {
        match self {
            DesiredError::Envelope(e) => e.code(),
            DesiredError::Project { .. } | DesiredError::Device { .. } => ErrorCode::WrongProject,
            DesiredError::Replayed { .. } => ErrorCode::Replayed,
            DesiredError::TooLarge => ErrorCode::TooLarge,
        }
    }
}

/// An acceptable document.
#[derive(Clone, Debug, PartialEq)]
pub struct Accepted {
    /// The document.
    pub desired: Desired,
    /// Whether it is newer than the accepted one: then it is stored before it is acted on. Otherwise it is the
    /// accepted one again.
    pub newer: bool,
}

/// Checks a desired document: signature by the control keys, project, device, bounds, and that it is not older
/// than the last accepted version (0 for none).
///
/// Going back to an older release is a *newer* document that names the older release.
pub fn accept(
    envelope: &Envelope,
    trust: &TrustFile,
    device: &DeviceId,
    accepted: u64,
) -> Result<Accepted, DesiredError> {
    let desired: Desired = envelope.open(EnvelopeKind::Desired, &trust.control_keys)?;
    if desired.project != trust.project {
        return Err(DesiredError::Project { expected: trust.project.clone(), got: desired.project });
    }
    if desired.device != *device {
        return Err(DesiredError::Device { expected: device.clone(), got: desired.device });
    }
    if desired.version < accepted {
        return Err(DesiredError::Replayed { accepted, got: desired.version });
    }
    desired.check().map_err(|_| DesiredError::TooLarge)?;
    let newer = desired.version > accepted;
    Ok(Accepted { desired, newer })
}

#[cfg(test)]
#[path = "desired_tests.rs"]
mod tests;
