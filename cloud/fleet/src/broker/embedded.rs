//! The embedded broker, and the trait behind which it stands.

use super::budget::NoRoom;
use super::config::BrokerConfig;
use super::gate::{self, Gate};
use super::registry::Registry;
use super::{Authority, Error, Inbound};
use async_trait::async_trait;
use bytes::Bytes;
use flotilla_protocol::topic::Down;
use flotilla_protocol::{DeviceId, ProjectId, limits};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// How long a shutdown waits for connections to end.
const SHUTDOWN: Duration = Duration::from_secs(10);

/// How the control plane reaches connected devices.
#[async_trait]
pub trait Downlink: Send + Sync {
    /// Sends a message to a device with QoS 1. Returns when it is queued, which may wait for room while the device takes
    /// earlier messages. The answer says nothing about arrival: that is what the device's own messages are for.
    ///
    /// Do not await this on the task that receives [`Inbound`]: a device that waits for that task to take its messages
    /// cannot take ours.
    async fn publish(
        &self,
        project: &ProjectId,
        device: &DeviceId,
        channel: Down,
        payload: Bytes,
    ) -> Result<(), Error>;

    /// Ends a device's connections now, also those that are being let in. To keep it out, make the [`Authority`] refuse
    /// it first.
    fn disconnect(&self, project: &ProjectId, device: &DeviceId);

    /// Does the device have a connection?
    fn is_connected(&self, project: &ProjectId, device: &DeviceId) -> bool;
}

/// The embedded broker. Dropping it ends all connections; [`Broker::shutdown`] also waits for that.
///
/// It keeps nothing across restarts: devices reconnect and subscribe, and everything they need is sent again.
pub struct Broker {
    address: SocketAddr,
    publish_timeout: Duration,
    registry: Arc<Registry>,
    tasks: TaskTracker,
    stop: CancellationToken,
}

impl Broker {
    /// Opens the devices' port. Events go to `inbound`, which should hold few of them: each may be a full payload, and a
    /// full channel is what slows devices down.
    pub async fn start(
        config: BrokerConfig,
        authority: Arc<dyn Authority>,
        inbound: mpsc::Sender<Inbound>,
    ) -> Result<Self, Error> {
        let listener = gate::bind(config.listen).await?;
        let address =
            listener.local_addr().map_err(|source| Error::Bind { address: config.listen, source })?;
        let stop = CancellationToken::new();
        let registry = Arc::new(Registry::new(config.bounds.clone(), stop.clone()));
        let gate = Arc::new(Gate::new(&config, authority, registry.clone(), inbound)?);
        let tasks = TaskTracker::new();
        tasks.spawn(gate.run(listener, tasks.clone(), stop.clone()));
        tracing::info!(%address, "devices may connect");
        Ok(Self { address, publish_timeout: config.bounds.publish_timeout, registry, tasks, stop })
    }

    /// Where devices connect: the real port when 0 was asked for.
    pub fn local_addr(&self) -> SocketAddr {
        self.address
    }

    /// Ends all connections and waits until their ends have been reported; then the event channel closes.
    pub async fn shutdown(self) {
        self.stop.cancel();
        self.tasks.close();
        if tokio::time::timeout(SHUTDOWN, self.tasks.wait()).await.is_err() {
            tracing::warn!("some connections did not end in time");
        }
    }
}

impl Drop for Broker {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

#[async_trait]
impl Downlink for Broker {
    async fn publish(
        &self,
        project: &ProjectId,
        device: &DeviceId,
        channel: Down,
        payload: Bytes,
    ) -> Result<(), Error> {
        let (bytes, limit) = (payload.len(), limits::MQTT_PAYLOAD);
        if bytes > limit {
            return Err(Error::TooLarge { bytes, limit });
        }
        let not_connected = || Error::NotConnected { project: project.clone(), device: device.clone() };
        let link = self.registry.current(project, device).ok_or_else(not_connected)?;
        if !link.is_subscribed(channel) {
            return Err(Error::NotSubscribed { project: project.clone(), device: device.clone(), channel });
        }
        let waited = self.publish_timeout;
        match link.budget.take(bytes, waited).await {
            Ok(()) if link.deliver(channel, payload) => Ok(()),
            Ok(()) => {
                link.budget.give_back(bytes);
                Err(not_connected())
            }
            Err(NoRoom::Closed) => Err(not_connected()),
            Err(NoRoom::All) => Err(Error::Busy { waited }),
            Err(NoRoom::Device) => {
                Err(Error::DeviceBusy { project: project.clone(), device: device.clone(), waited })
            }
        }
    }

    fn disconnect(&self, project: &ProjectId, device: &DeviceId) {
        self.registry.cut(project, device);
    }

    fn is_connected(&self, project: &ProjectId, device: &DeviceId) -> bool {
        self.registry.current(project, device).is_some()
    }
}
