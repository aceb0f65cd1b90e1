//! The CONNECT packet: read from the device, checked against its certificate, rewritten for the engine.

use super::acl::{self, Denied};
use super::config::{self, KEEP_ALIVE};
use super::link::Link;
use super::{PeerIdentity, Refusal};
use bytes::{Bytes, BytesMut};
use rmqtt::codec::error::DecodeError;
use rmqtt::codec::types::{MQTT_LEVEL_311, Protocol};
use rmqtt::codec::v3::{Codec, Connect, ConnectAckReason, Packet};
use tokio::io::{AsyncRead, AsyncReadExt};
use tokio_util::codec::{Decoder, Encoder};

/// First byte of a CONNECT packet.
const CONNECT_HEAD: u8 = 0x10;

/// Why a device is not let in. Texts go to the log; the device sees the return code, if any.
#[derive(Debug, thiserror::Error)]
pub(super) enum Refused {
    #[error("it closed the connection")]
    Gone,
    #[error("the connection failed: {0}")]
    Io(#[from] std::io::Error),
    #[error("its certificate was refused: {0}")]
    Certificate(crate::ca::Error),
    #[error("it did not begin with a CONNECT packet of at most {} bytes", config::CONNECT)]
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
    #[error("the engine did not accept it")]
    Engine,
}

impl Refused {
    /// The CONNACK that says so, where the device spoke enough MQTT to read one.
    pub(super) fn answer(&self) -> Option<[u8; 4]> {
        let reason = match self {
            Self::Gone | Self::Io(_) | Self::NotMqtt => return None,
            Self::Version => ConnectAckReason::UnacceptableProtocolVersion,
            Self::ClientId => ConnectAckReason::IdentifierRejected,
            Self::Authority(Refusal::Unavailable) | Self::TooMany | Self::Engine => {
                ConnectAckReason::ServiceUnavailable
            }
            Self::Certificate(_) | Self::Will(_) | Self::Authority(_) | Self::Cut => {
                ConnectAckReason::NotAuthorized
            }
        };
        Some([0x20, 2, 0, u8::from(reason)])
    }
}

/// Reads the CONNECT packet; what the device sent after it stays in `buffer`.
pub(super) async fn read(
    stream: &mut (impl AsyncRead + Unpin),
    buffer: &mut BytesMut,
) -> Result<Connect, Refused> {
    let mut codec = Codec::new(config::CONNECT as u32);
    loop {
        // Anything else might read as the head of a long packet, whose rest would be waited for.
        if buffer.first().is_some_and(|first| *first != CONNECT_HEAD) {
            return Err(Refused::NotMqtt);
        }
        match codec.decode(buffer) {
            Ok(Some((Packet::Connect(connect), _))) => return Ok(*connect),
            Ok(Some(_)) => return Err(Refused::NotMqtt),
            Ok(None) => {}
            Err(DecodeError::UnsupportedProtocolLevel) => return Err(Refused::Version),
            Err(_) => return Err(Refused::NotMqtt),
        }
        if stream.read_buf(buffer).await? == 0 {
            return Err(Refused::Gone);
        }
    }
}

/// Is this what the holder of that certificate may say?
pub(super) fn check(connect: &Connect, peer: &PeerIdentity) -> Result<(), Refused> {
    if connect.protocol != Protocol(MQTT_LEVEL_311) {
        return Err(Refused::Version);
    }
    if <_ as AsRef<str>>::as_ref(&connect.client_id) != peer.device.as_str() {
        return Err(Refused::ClientId);
    }
    match &connect.last_will {
        Some(will) => {
            acl::will(peer, &will.topic, will.qos, will.retain, will.message.len()).map_err(Refused::Will)
        }
        None => Ok(()),
    }
}

/// The CONNECT packet that the engine gets: our session name, a clean session, the link's one-time password.
pub(super) fn rewrite(connect: Connect, link: &Link) -> Result<BytesMut, Refused> {
    let keep_alive = match connect.keep_alive {
        0 => KEEP_ALIVE,
        wanted => wanted.min(KEEP_ALIVE),
    };
    let connect = Connect {
        protocol: Protocol(MQTT_LEVEL_311),
        clean_session: true,
        keep_alive,
        last_will: connect.last_will,
        client_id: link.session().clone(),
        username: Some(link.number().to_string().into()),
        password: Some(Bytes::copy_from_slice(link.password().as_bytes())),
        cert: None,
    };
    let mut bytes = BytesMut::new();
    Codec::new(0).encode(connect.into(), &mut bytes).map_err(|_| Refused::Engine)?;
    Ok(bytes)
}
