//! What can go wrong with the broker, and what to do about it.

use flotilla_protocol::topic::Down;
use flotilla_protocol::{DeviceId, ErrorCode, ProjectId};
use std::net::SocketAddr;
use std::time::Duration;

/// An error of the broker.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The address is taken.
    #[error(
        "cannot listen for devices on {address}: another program uses this address; stop it, or choose another address or port"
    )]
    AddressInUse {
        /// The address wanted.
        address: SocketAddr,
        /// The system's answer.
        source: std::io::Error,
    },
    /// The address cannot be listened on.
    #[error(
        "cannot listen for devices on {address}: choose an address of this machine and a port this user may open"
    )]
    Bind {
        /// The address wanted.
        address: SocketAddr,
        /// The system's answer.
        source: std::io::Error,
    },
    /// The certificates do not make a TLS server.
    #[error("the broker's certificates cannot be used: {reason}")]
    Tls {
        /// What is wrong.
        reason: String,
        /// Why, where TLS says so.
        source: Option<rustls::Error>,
    },
    /// The device has no connection.
    #[error("device {project}/{device} is not connected: it gets what it needs after its next hello")]
    NotConnected {
        /// The device's project.
        project: ProjectId,
        /// The device.
        device: DeviceId,
    },
    /// The device has not subscribed to the topic.
    #[error("device {project}/{device} is connected but has not subscribed to {:?}: wait for its hello", channel.as_str())]
    NotSubscribed {
        /// The device's project.
        project: ProjectId,
        /// The device.
        device: DeviceId,
        /// The topic.
        channel: Down,
    },
    /// The payload is larger than a device accepts.
    #[error("a message of {bytes} bytes is larger than the {limit} that a device accepts")]
    TooLarge {
        /// Size of the payload.
        bytes: usize,
        /// The bound.
        limit: usize,
    },
    /// The device takes its messages more slowly than they are sent.
    #[error(
        "device {project}/{device} has not taken its earlier messages within {waited:?}: send again later"
    )]
    DeviceBusy {
        /// The device's project.
        project: ProjectId,
        /// The device.
        device: DeviceId,
        /// How long the message waited.
        waited: Duration,
    },
    /// All room for messages to devices is taken.
    #[error(
        "no room for another message to a device within {waited:?}: send less at a time, or raise the bound on queued bytes"
    )]
    Busy {
        /// How long the message waited.
        waited: Duration,
    },
}

impl Error {
    /// The stable code of this error.
    pub fn code(&self) -> ErrorCode {
        match self {
            Self::AddressInUse { .. } => ErrorCode::PortInUse,
            Self::Bind { .. } => ErrorCode::Network,
            Self::Tls { .. } => ErrorCode::Tls,
            Self::NotConnected { .. } | Self::NotSubscribed { .. } => ErrorCode::WrongState,
            Self::TooLarge { .. } => ErrorCode::TooLarge,
            Self::DeviceBusy { .. } | Self::Busy { .. } => ErrorCode::Busy,
        }
    }
}
