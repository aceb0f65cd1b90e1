//! Where the broker listens, as whom, and within which bounds.

use crate::ca::ServerIdentity;
use flotilla_protocol::limits::{self, KIB, MIB};
use rustls_pki_types::CertificateDer;
use std::net::SocketAddr;
use std::num::NonZeroU16;
use std::time::Duration;

/// Everything the broker needs to start.
#[derive(Debug, Clone)]
pub struct BrokerConfig {
    /// Where devices connect; port 0 takes a free one.
    pub listen: SocketAddr,
    /// The broker's own certificate chain and key.
    pub server: ServerIdentity,
    /// Whose client certificates are accepted: the installation's root.
    pub client_roots: Vec<CertificateDer<'static>>,
    /// What one device, and all together, may use.
    pub bounds: Bounds,
}

/// What one device, and all devices together, may use of the broker.
#[derive(Debug, Clone)]
pub struct Bounds {
    /// Connections at a time, each with its MQTT session. A connection takes one file descriptor.
    pub connections: usize,
    /// Connections that have not been let in yet; the next one is dropped unheard.
    pub handshakes: usize,
    /// Connections of one device at a time: the current one, and a few that have not noticed they are replaced.
    pub connections_per_device: usize,
    /// Time from the first byte to a session.
    pub handshake_timeout: Duration,
    /// Unacknowledged messages on the way to one device.
    pub in_flight: NonZeroU16,
    /// Bytes queued and in flight to one device.
    pub queued_bytes_per_device: usize,
    /// Bytes queued and in flight to all devices.
    pub queued_bytes: usize,
    /// How long a publish waits for room before it fails.
    pub publish_timeout: Duration,
    /// How long a device with messages waiting may go without acknowledging one, before it is cut off.
    pub ack_timeout: Duration,
    /// Messages from one device per second, lastingly.
    pub messages_per_second: u32,
    /// Messages from one device at once.
    pub messages_burst: u32,
    /// Bytes from one device per second, lastingly.
    pub bytes_per_second: u32,
    /// Bytes from one device at once.
    pub bytes_burst: u32,
}

impl Default for Bounds {
    fn default() -> Self {
        Self {
            connections: 16_384,
            handshakes: 1_024,
            connections_per_device: 4,
            handshake_timeout: Duration::from_secs(10),
            in_flight: NonZeroU16::MIN.saturating_add(63),
            // A full fetch window twice over, and room for what is not model bytes.
            queued_bytes_per_device: 2 * limits::FETCH_WINDOW * limits::CHUNK + 4 * MIB,
            queued_bytes: limits::TRANSFER_IN_FLIGHT + 64 * MIB,
            publish_timeout: Duration::from_secs(20),
            // One chunk in this time is what the slowest usable link must carry: about 1 KiB/s.
            ack_timeout: Duration::from_secs(120),
            messages_per_second: 500,
            messages_burst: 2_000,
            bytes_per_second: (16 * MIB) as u32,
            bytes_burst: (64 * MIB) as u32,
        }
    }
}

/// Refused subscriptions after which a connection ends: a device that asks on is broken or probing.
pub(super) const REFUSALS: u32 = 32;
/// Largest message as a packet: a full payload and its topic.
pub(super) const PACKET: usize = limits::MQTT_PAYLOAD + KIB;
/// Largest packet of any other kind: ids and a small will, or some topics.
pub(super) const CONTROL: usize = 16 * KIB;
/// Longest keep-alive, in seconds. Longer ones, and none at all, become this one: a dead connection must end some time.
pub(super) const KEEP_ALIVE: u16 = 3600;
