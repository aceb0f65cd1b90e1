//! The CONNECT packet: read from the device and checked against its certificate.

use super::acl::{self, Denied};
use super::config;
use super::packet::{self, Connect, ConnectReturnCode, Malformed};
use super::{PeerIdentity, Refusal};
use bytes::BytesMut;
use tokio::io::{AsyncRead, AsyncReadExt};

/// Why a device is not let in. Texts go to the log; the device sees the return code, if any.
#[derive(Debug, thiserror::Error)]
pub(super) enum Refused {
    #[error("it closed the connection")]
    Gone,
    #[error("the connection failed: {0}")]
    Io(#[from] std::io::Error),
    #[error("its certificate was refused: {0}")]
    Certificate(crate::ca::Error),
    #[error("it did not begin with a CONNECT packet of at most {} bytes", config::CONTROL)]
    NotMqtt,
    #[error("it does not speak MQTT 3.1.1")]
    Version,
    #[error("its client id is not the device that its certificate names")]
    ClientId,
    #[error("its will is refused: {0}")]
    Will(Denied),
    #[error("the authority refused it: {0:?}")]
    Authority(Refusal),
    #[error("it has too many connections")]
    TooMany,
    #[error("it was cut off while connecting")]
    Cut,
}

impl Refused {
    /// The return code that says so, where the device spoke enough MQTT to read one.
    pub(super) fn answer(&self) -> Option<ConnectReturnCode> {
        match self {
            Self::Gone | Self::Io(_) | Self::NotMqtt => None,
            Self::Version => Some(ConnectReturnCode::RefusedProtocolVersion),
            Self::ClientId => Some(ConnectReturnCode::BadClientId),
            Self::Authority(Refusal::Unavailable) | Self::TooMany => {
                Some(ConnectReturnCode::ServiceUnavailable)
            }
            Self::Certificate(_) | Self::Will(_) | Self::Authority(_) | Self::Cut => {
                Some(ConnectReturnCode::NotAuthorized)
            }
        }
    }
}

impl From<Malformed> for Refused {
    fn from(malformed: Malformed) -> Self {
        match malformed {
            Malformed::Version => Self::Version,
            _ => Self::NotMqtt,
        }
    }
}

/// Reads the CONNECT packet; what the device sent after it stays in `buffer`.
pub(super) async fn read(
    stream: &mut (impl AsyncRead + Unpin),
    buffer: &mut BytesMut,
) -> Result<Connect, Refused> {
    loop {
        if let Some(connect) = packet::connect(buffer)? {
            return Ok(connect);
        }
        if stream.read_buf(buffer).await? == 0 {
            return Err(Refused::Gone);
        }
    }
}

/// Is this what the holder of that certificate may say?
pub(super) fn check(connect: &Connect, peer: &PeerIdentity) -> Result<(), Refused> {
    if connect.client_id != peer.device.as_str() {
        return Err(Refused::ClientId);
    }
    match &connect.last_will {
        Some(will) => {
            acl::will(peer, &will.topic, will.qos, will.retain, will.message.len()).map_err(Refused::Will)
        }
        None => Ok(()),
    }
}
