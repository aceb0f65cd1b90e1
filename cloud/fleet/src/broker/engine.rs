//! rmqtt, reduced to what we need of it: sessions behind a loopback listener that only the gate can use.

use super::config::{BACKLOG, PACKET};
use super::hooks::{self, Shared};
use super::link::Link;
use super::{Bounds, Error};
use bytes::Bytes;
use flotilla_protocol::topic::{Down, Topic};
use rmqtt::codec::types::{Publish as Packet, QoS};
use rmqtt::context::ServerContext;
use rmqtt::net::Builder;
use rmqtt::server::MqttServer;
use rmqtt::types::{ClientId, From, Id, Publish};
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;
use tokio::task::AbortHandle;

/// Smallest room a message takes in a device's budget; see `budget`.
const SMALLEST_MESSAGE: usize = 1024;

/// The running engine.
pub(super) struct Engine {
    context: ServerContext,
    address: SocketAddr,
    cloud: Id,
    listener: AbortHandle,
}

impl Engine {
    pub(super) async fn start(bounds: &Bounds, shared: &Arc<Shared>) -> Result<Self, Error> {
        let failed = |error: rmqtt::Error| Error::Engine { source: error.into() };
        let context = ServerContext::new()
            .busy_check_enable(false)
            .mqtt_max_sessions(isize::try_from(bounds.connections).unwrap_or(isize::MAX))
            .build()
            .await;
        hooks::register(context.extends.hook_mgr(), shared).await;
        let listener = Builder::new()
            .name("flotilla")
            .laddr((Ipv4Addr::LOCALHOST, 0).into())
            .backlog(BACKLOG)
            .nodelay(true)
            .allow_anonymous(false)
            .max_connections(bounds.connections)
            .max_handshaking_limit(bounds.handshakes)
            .handshake_timeout(bounds.handshake_timeout)
            .send_timeout(bounds.ack_timeout)
            .max_packet_size(PACKET as u32)
            .max_inflight(bounds.in_flight)
            // The budget bounds the queue first, so the engine never drops a message for lack of room in it.
            .max_mqueue_len(bounds.queued_bytes_per_device / SMALLEST_MESSAGE + 1)
            .max_qos_allowed(QoS::AtLeastOnce)
            .max_subscriptions(2 * Down::ALL.len())
            .max_topic_levels(16)
            // No retransmission within a connection (MQTT 3.1.1 wants none), and no expiry: the budget cuts off who stalls.
            .message_retry_interval(Duration::ZERO)
            .message_expiry_interval(Duration::ZERO)
            .session_expiry_interval(Duration::ZERO)
            .bind()
            .and_then(|listener| listener.tcp())
            .map_err(failed)?;
        let address = listener.local_addr().map_err(failed)?;
        let server = MqttServer::new(context.clone()).listener_by_id(listener, 1).build();
        let cloud = Id::from(context.node.id(), ClientId::from_static("cloud"));
        let listener = tokio::spawn(async move {
            if let Err(error) = server.run().await {
                tracing::error!(%error, "the MQTT engine stopped");
            }
        });
        Ok(Self { context, address, cloud, listener: listener.abort_handle() })
    }

    /// Where the gate reaches the engine.
    pub(super) fn address(&self) -> SocketAddr {
        self.address
    }

    /// Queues a message for the device. Its budget must have been taken.
    pub(super) async fn deliver(&self, link: &Link, channel: Down, payload: Bytes) -> Result<(), Error> {
        let peer = link.peer();
        let bytes = payload.len();
        let packet = Packet {
            dup: false,
            retain: false,
            qos: QoS::AtLeastOnce,
            topic: Topic::down(&peer.project, &peer.device, channel).to_string().into(),
            packet_id: None,
            payload,
            properties: None,
        };
        let publish = Publish::new(Box::new(packet), Some(link.session().clone()), None, None);
        let from = From::from_system(self.cloud.clone());
        let forwarded = self.context.extends.shared().await.forwards(None, from, publish).await;
        forwarded.map(|_| ()).map_err(|_| {
            link.budget.give_back(bytes);
            Error::NotConnected { project: peer.project.clone(), device: peer.device.clone() }
        })
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        self.listener.abort();
    }
}
