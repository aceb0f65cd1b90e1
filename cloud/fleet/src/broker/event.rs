//! What devices do, as the control plane sees it.

use super::PeerIdentity;
use bytes::Bytes;
use flotilla_protocol::topic::Up;
use std::net::SocketAddr;
use std::sync::Arc;

/// One thing that happened on a device's connection.
///
/// Events of one connection arrive in order: `Connected`, messages, `Disconnected`. When a device reconnects while its
/// old connection still lingers, the old `Disconnected` may come after the new `Connected`; `connection` grows with every
/// connection and tells them apart.
#[derive(Clone, Debug)]
pub enum Inbound {
    /// A device is connected. It has not subscribed yet: wait for its `hello` before sending.
    Connected {
        /// Who.
        peer: Arc<PeerIdentity>,
        /// Number of this connection, larger than every earlier one.
        connection: u64,
        /// Where from.
        remote: SocketAddr,
    },
    /// A connection ended. Follows every `Connected`.
    Disconnected {
        /// Who.
        peer: Arc<PeerIdentity>,
        /// Number of the connection.
        connection: u64,
    },
    /// A message from a device, on one of its own topics. With QoS 1 it is acknowledged once it stands in this channel;
    /// only an `ack` message says that it is durable.
    Message {
        /// Who.
        peer: Arc<PeerIdentity>,
        /// Number of the connection.
        connection: u64,
        /// Which of its topics.
        channel: Up,
        /// The payload, at most `limits::MQTT_PAYLOAD` bytes.
        payload: Bytes,
    },
}
