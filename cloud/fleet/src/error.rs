//! What can go wrong with the fleet, and what to do about it.

use crate::expression::ExpressionError;
use crate::{broker, ca};
use flotilla_protocol::enrol::BoardSerial;
use flotilla_protocol::{DeviceId, Digest, ErrorCode, ExperimentId, GroupName, ModelName, RolloutId};
use std::io;
use std::path::PathBuf;

/// The result of a fleet operation.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// A failed fleet operation.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// No claim has this secret.
    #[error("this claim code is unknown: make a new one and copy it whole")]
    ClaimInvalid,
    /// The claim's uses are gone.
    #[error("this claim code is used up: make a new one")]
    ClaimUsed,
    /// The claim's time is over.
    #[error("this claim code has expired: make a new one")]
    ClaimExpired,
    /// Another device has the id.
    #[error("there is a device {0} already: choose another id, or none to be given one")]
    DeviceExists(DeviceId),
    /// There is no such device.
    #[error("there is no device {0}")]
    DeviceMissing(DeviceId),
    /// A device did not measure what it was asked to.
    #[error("{device} did not measure it: {detail}")]
    NotMeasured {
        /// The device.
        device: DeviceId,
        /// The stable code.
        code: ErrorCode,
        /// What it says.
        detail: String,
    },
    /// The device may not connect any more.
    #[error("device {0} is shut out for good, revoked or decommissioned: enrol it anew under another id")]
    DeviceRevoked(DeviceId),
    /// A claim lets in registered serial numbers only.
    #[error(
        "this claim code is for registered serial numbers: register the board's (`flotilla device register`), or say it at enrolment with --serial"
    )]
    SerialUnknown,
    /// A device has the serial number already.
    #[error(
        "device {device} has enrolled with serial number {serial}: decommission it first, or take the number off the list with `flotilla device unregister`"
    )]
    SerialTaken {
        /// The serial number.
        serial: BoardSerial,
        /// The device.
        device: DeviceId,
    },
    /// There is no such serial number.
    #[error("serial number {0} is not registered")]
    SerialMissing(BoardSerial),
    /// The device waits for somebody's approval.
    #[error("device {0} waits for approval: `flotilla device approve {0}`")]
    DeviceWaiting(DeviceId),
    /// The device waits for nobody's approval.
    #[error("device {0} does not wait for approval; `flotilla device revoke {0}` shuts one of the fleet out")]
    DeviceNotWaiting(DeviceId),
    /// No rollout takes the device.
    #[error("device {0} is in quarantine: release it first with `flotilla device release {0}`")]
    DeviceQuarantined(DeviceId),
    /// A renewal is not by a key that a device of this fleet has.
    #[error("no device of this fleet is proven by this request: ask with the key that the device had")]
    RenewalUnproven,
    /// A renewal is not signed over a fresh challenge.
    #[error("the challenge is too old or was used before: ask for a new one")]
    RenewalStale,
    /// The device waits for no approval.
    #[error("device {0} has not asked for a new certificate")]
    RenewalMissing(DeviceId),
    /// Another request took the place of the one that was looked at.
    #[error(
        "device {device} asks for a certificate over another key by now, {key}: look at it again, compare it with the log \
         of the device, and approve that key if it is the same"
    )]
    RenewalChanged {
        /// The device.
        device: DeviceId,
        /// Digest of the key of the request that waits now.
        key: Digest,
    },
    /// A person said no.
    #[error("the renewal of device {device} was rejected: {reason}")]
    RenewalRejected {
        /// The device.
        device: DeviceId,
        /// Why.
        reason: String,
    },
    /// Too many certificates in a short time.
    #[error("device {0} has been given too many certificates in a short time: it gets another one later")]
    RenewedTooOften(DeviceId),
    /// A filter is no expression over devices.
    #[error(transparent)]
    Expression(#[from] ExpressionError),
    /// There is no such group.
    #[error("there is no group {0}: `flotilla group list` shows those that there are")]
    GroupMissing(GroupName),
    /// The name is taken.
    #[error("there is a group {0} already: choose another name, or delete that one")]
    GroupExists(GroupName),
    /// Members of a dynamic group are whoever matches.
    #[error(
        "group {0} is dynamic: whoever matches its expression is in it, and nobody is added or removed by hand"
    )]
    GroupDynamic(GroupName),
    /// Something would lose its devices.
    #[error("group {group} is used by {user}: it cannot be deleted before that ends")]
    GroupInUse {
        /// The group.
        group: GroupName,
        /// What uses it.
        user: String,
    },
    /// There is no such rollout.
    #[error("there is no rollout {0}")]
    RolloutMissing(RolloutId),
    /// The rollout is not in a state that allows the action.
    #[error("rollout {rollout} is {state}: it cannot be {action} now")]
    RolloutState {
        /// The rollout.
        rollout: RolloutId,
        /// Where it stands.
        state: &'static str,
        /// What was asked.
        action: &'static str,
    },
    /// The device does not stand in the rollout as the action needs it.
    #[error("device {device} is {state} in rollout {rollout}: it cannot be {action}")]
    RolloutDeviceState {
        /// The rollout.
        rollout: RolloutId,
        /// The device.
        device: DeviceId,
        /// Where it stands.
        state: &'static str,
        /// What was asked.
        action: &'static str,
    },
    /// There is no such experiment.
    #[error("there is no experiment {0}: `flotilla experiment list` shows those that there are")]
    ExperimentMissing(ExperimentId),
    /// The experiment is not in a state that allows the action.
    #[error("experiment {experiment} is {state}: it cannot be {action} now")]
    ExperimentState {
        /// The experiment.
        experiment: ExperimentId,
        /// Where it stands.
        state: &'static str,
        /// What was asked.
        action: &'static str,
    },
    /// Two experiments would compare releases of one model on the same devices.
    #[error("experiment {experiment} of model {model} is not over: stop it first, or wait for its end")]
    ExperimentExists {
        /// The model.
        model: ModelName,
        /// The experiment that is not over.
        experiment: ExperimentId,
    },
    /// The model has no release.
    #[error("model {0} has no release yet: make one first")]
    NoRelease(ModelName),
    /// A bound on open things of one kind is reached.
    #[error("{what} is at its bound of {bound}: finish some first")]
    Busy {
        /// What.
        what: &'static str,
        /// The bound.
        bound: usize,
    },
    /// There are as many of something as there may be.
    #[error("there are at most {bound} {what}: take some away first")]
    TooMany {
        /// What.
        what: &'static str,
        /// The bound.
        bound: usize,
    },
    /// Nobody asked the device for these lines, or they are not here any more.
    #[error("there is no log of device {device} for command {command}: ask for it anew")]
    LogMissing {
        /// The device.
        device: DeviceId,
        /// The command.
        command: u64,
    },
    /// A device sends more than it was asked for.
    #[error("device {device} offers {bytes} bytes of its log; it was asked for {bound} at most")]
    LogTooLarge {
        /// The device.
        device: DeviceId,
        /// What it offers.
        bytes: u64,
        /// What it was asked for.
        bound: u32,
    },
    /// A log is not what it was when it was stored.
    #[error("the log of device {device} for command {command} is damaged here: ask for it anew")]
    LogDamaged {
        /// The device.
        device: DeviceId,
        /// The command.
        command: u64,
    },
    /// A file of a device's log.
    #[error("cannot {action} {path}: {source}")]
    Io {
        /// What was tried.
        action: &'static str,
        /// The file or folder.
        path: PathBuf,
        /// What failed.
        source: io::Error,
    },
    /// The request is not usable.
    #[error("{0}")]
    Invalid(String),
    /// The control plane stops before the device's turn came.
    #[error("the control plane is stopping: ask again when it is back")]
    Stopping,
    /// Others kept changing the same records.
    #[error("{0} is being changed by others all the time: try again")]
    Contended(String),
    /// The broker.
    #[error(transparent)]
    Broker(#[from] broker::Error),
    /// The certificate authority.
    #[error(transparent)]
    Authority(#[from] ca::Error),
    /// The registry.
    #[error(transparent)]
    Registry(#[from] flotilla_registry::Error),
    /// The audit record could not be made.
    #[error(transparent)]
    Identity(#[from] flotilla_identity::Error),
    /// The quarantine of hard examples.
    #[error(transparent)]
    Data(#[from] flotilla_data::Error),
    /// The records, objects or segments.
    #[error(transparent)]
    Storage(#[from] flotilla_storage::Error),
}

impl Error {
    /// The stable code of this failure.
    pub fn code(&self) -> ErrorCode {
        match self {
            Self::ClaimInvalid => ErrorCode::ClaimInvalid,
            Self::ClaimUsed => ErrorCode::ClaimUsed,
            Self::ClaimExpired => ErrorCode::ClaimExpired,
            Self::DeviceExists(_) | Self::GroupExists(_) | Self::ExperimentExists { .. } => {
                ErrorCode::AlreadyExists
            }
            Self::NotMeasured { code, .. } => *code,
            Self::DeviceMissing(_)
            | Self::RolloutMissing(_)
            | Self::ExperimentMissing(_)
            | Self::SerialMissing(_)
            | Self::GroupMissing(_)
            | Self::NoRelease(_)
            | Self::LogMissing { .. }
            | Self::RenewalMissing(_) => ErrorCode::NotFound,
            Self::RenewalUnproven => ErrorCode::Unauthenticated,
            Self::RenewalStale => ErrorCode::Replayed,
            Self::RenewalRejected { .. } => ErrorCode::PermissionDenied,
            Self::RenewedTooOften(_) => ErrorCode::Busy,
            Self::DeviceRevoked(_) => ErrorCode::Revoked,
            Self::SerialUnknown => ErrorCode::PermissionDenied,
            Self::SerialTaken { .. } => ErrorCode::AlreadyExists,
            Self::DeviceWaiting(_)
            | Self::DeviceNotWaiting(_)
            | Self::RolloutState { .. }
            | Self::RolloutDeviceState { .. }
            | Self::ExperimentState { .. }
            | Self::RenewalChanged { .. }
            | Self::GroupDynamic(_)
            | Self::DeviceQuarantined(_)
            | Self::GroupInUse { .. } => ErrorCode::WrongState,
            Self::Busy { .. } | Self::TooMany { .. } | Self::Contended(_) | Self::Stopping => ErrorCode::Busy,
            Self::Invalid(_) | Self::Expression(_) => ErrorCode::InvalidInput,
            Self::LogTooLarge { .. } => ErrorCode::TooLarge,
            Self::LogDamaged { .. } => ErrorCode::StorageCorrupt,
            Self::Io { .. } => ErrorCode::StorageIo,
            Self::Broker(error) => error.code(),
            Self::Authority(error) => error.code(),
            Self::Registry(error) => error.code(),
            Self::Identity(error) => error.code(),
            Self::Data(error) => error.code(),
            Self::Storage(error) => error.code(),
        }
    }

    /// Whether somebody else changed a record first, so that trying again may succeed.
    pub(crate) fn is_conflict(&self) -> bool {
        matches!(self, Self::Storage(flotilla_storage::Error::PreconditionFailed { .. }))
    }
}
