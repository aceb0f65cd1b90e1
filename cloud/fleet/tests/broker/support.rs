//! A broker with its authority on a free port, and MQTT clients of the kind devices use.

use bytes::Bytes;
use flotilla_fleet::broker::{
    Authority, Bounds, Broker, BrokerConfig, Decision, Inbound, PeerIdentity, Refusal,
};
use flotilla_fleet::ca::{CertificateAuthority, Serial};
use flotilla_protocol::topic::{Down, Topic, Up};
use flotilla_protocol::{DeviceId, ProjectId};
use rcgen::{CertificateParams, KeyPair};
use rumqttc::{
    AsyncClient, ConnectionError, Event, EventLoop, LastWill, MqttOptions, Outgoing, Packet, Publish, QoS,
    SubscribeReasonCode, TlsConfiguration, Transport,
};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ClientConfig, RootCertStore};
use std::collections::HashMap;
use std::future::Future;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};
use tempfile::TempDir;
use tokio::sync::mpsc;

/// Ends a test that hangs; nothing is measured by it.
const HANG: Duration = Duration::from_secs(30);

pub(crate) async fn soon<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(HANG, future).await.expect("this does not hang")
}

/// Allows everybody but those it was told about.
#[derive(Default)]
pub(crate) struct Desk(Mutex<HashMap<Serial, Refusal>>);

impl Desk {
    pub(crate) fn refuse(&self, serial: Serial, refusal: Refusal) {
        self.0.lock().unwrap().insert(serial, refusal);
    }
}

#[async_trait::async_trait]
impl Authority for Desk {
    async fn connect(&self, peer: &PeerIdentity) -> Decision {
        self.0.lock().unwrap().get(&peer.serial).map_or(Decision::Allow, |refusal| Decision::Refuse(*refusal))
    }
}

pub(crate) fn project(name: &str) -> ProjectId {
    ProjectId::new(name).unwrap()
}

pub(crate) fn device(name: &str) -> DeviceId {
    DeviceId::new(name).unwrap()
}

pub(crate) fn up(name: &str, channel: Up) -> String {
    Topic::up(&project("shop"), &device(name), channel).to_string()
}

pub(crate) fn down(name: &str, channel: Down) -> String {
    Topic::down(&project("shop"), &device(name), channel).to_string()
}

/// An installation: certificate authority, broker, and the receiver of its events.
pub(crate) struct Installation {
    pub(crate) folder: TempDir,
    pub(crate) authority: CertificateAuthority,
    pub(crate) desk: Arc<Desk>,
    pub(crate) broker: Broker,
    pub(crate) inbound: mpsc::Receiver<Inbound>,
}

impl Installation {
    pub(crate) async fn start() -> Self {
        Self::with(Bounds::default(), 64).await
    }

    pub(crate) async fn with(bounds: Bounds, channel: usize) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let authority = CertificateAuthority::open_or_create(folder.path(), &project("shop")).unwrap();
        let desk = Arc::new(Desk::default());
        let (sender, inbound) = mpsc::channel(channel);
        let config = config(&authority, ([127, 0, 0, 1], 0).into(), bounds);
        let broker = Broker::start(config, desk.clone(), sender).await.unwrap();
        Self { folder, authority, desk, broker, inbound }
    }

    /// A device's credentials, freshly signed.
    pub(crate) fn enrol(&self, name: &str) -> Credentials {
        Credentials::of(&self.authority, name, &self.authority)
    }

    /// Connects a device under its own name.
    pub(crate) async fn connect(&mut self, name: &str) -> Device {
        let credentials = self.enrol(name);
        let connected = Device::connect(self.options(&credentials, name)).await.unwrap();
        assert_eq!(self.connected().await, name);
        connected
    }

    pub(crate) fn options(&self, credentials: &Credentials, client_id: &str) -> MqttOptions {
        credentials.options(self.broker.local_addr(), client_id)
    }

    pub(crate) async fn event(&mut self) -> Inbound {
        soon(self.inbound.recv()).await.expect("the broker is up")
    }

    /// The device of the next event, which must be `Connected`.
    pub(crate) async fn connected(&mut self) -> String {
        match self.event().await {
            Inbound::Connected { peer, .. } => peer.device.to_string(),
            other => panic!("not connected but {other:?}"),
        }
    }

    /// The device of the next event, which must be `Disconnected`.
    pub(crate) async fn disconnected(&mut self) -> String {
        match self.event().await {
            Inbound::Disconnected { peer, .. } => peer.device.to_string(),
            other => panic!("not disconnected but {other:?}"),
        }
    }

    /// The next event, which must be a message.
    pub(crate) async fn message(&mut self) -> (String, Up, Bytes) {
        match self.event().await {
            Inbound::Message { peer, channel, payload, .. } => (peer.device.to_string(), channel, payload),
            other => panic!("not a message but {other:?}"),
        }
    }
}

pub(crate) fn config(authority: &CertificateAuthority, listen: SocketAddr, bounds: Bounds) -> BrokerConfig {
    let server = authority.issue_server(&[], SystemTime::now()).unwrap();
    BrokerConfig { listen, server, client_roots: vec![authority.root().clone()], bounds }
}

/// What a device holds after enrolment, and whom it trusts.
pub(crate) struct Credentials {
    pub(crate) chain: Vec<CertificateDer<'static>>,
    pub(crate) key: PrivateKeyDer<'static>,
    pub(crate) serial: Serial,
    trusts: CertificateDer<'static>,
}

impl Credentials {
    pub(crate) fn of(authority: &CertificateAuthority, name: &str, trusts: &CertificateAuthority) -> Self {
        let key = KeyPair::generate().unwrap();
        let request = CertificateParams::default().serialize_request(&key).unwrap();
        let signed = authority.sign_device_csr(request.der(), &device(name), SystemTime::now()).unwrap();
        let chain = CertificateDer::pem_slice_iter(signed.chain_pem.as_bytes()).map(Result::unwrap).collect();
        Self { chain, key: key.into(), serial: signed.serial, trusts: trusts.root().clone() }
    }

    fn trusting(&self) -> rustls::ConfigBuilder<ClientConfig, rustls::client::WantsClientCert> {
        let mut roots = RootCertStore::empty();
        roots.add(self.trusts.clone()).unwrap();
        ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots)
    }

    pub(crate) fn tls(&self) -> Arc<ClientConfig> {
        Arc::new(self.trusting().with_client_auth_cert(self.chain.clone(), self.key.clone_key()).unwrap())
    }

    /// As somebody who knows the server but has no certificate.
    pub(crate) fn anonymous_tls(&self) -> Arc<ClientConfig> {
        Arc::new(self.trusting().with_no_client_auth())
    }

    pub(crate) fn options(&self, address: SocketAddr, client_id: &str) -> MqttOptions {
        let mut options = MqttOptions::new(client_id, address.ip().to_string(), address.port());
        options.set_transport(Transport::Tls(TlsConfiguration::Rustls(self.tls())));
        options.set_keep_alive(Duration::from_secs(60));
        options.set_max_packet_size(512 * 1024, 512 * 1024);
        options.set_clean_session(false);
        options
    }
}

pub(crate) fn with_will(mut options: MqttOptions, topic: &str, retain: bool) -> MqttOptions {
    options.set_last_will(LastWill::new(topic, "gone", QoS::AtLeastOnce, retain));
    options
}

/// A connected MQTT client. It is driven by its own calls; it never reconnects.
pub(crate) struct Device {
    client: AsyncClient,
    events: EventLoop,
    /// Messages that came while the device waited for something else.
    received: Vec<Publish>,
}

impl Device {
    pub(crate) async fn connect(options: MqttOptions) -> Result<Self, ConnectionError> {
        let (client, events) = AsyncClient::new(options, 64);
        let mut this = Self { client, events, received: vec![] };
        match soon(this.next()).await? {
            Packet::ConnAck(_) => Ok(this),
            other => panic!("not a CONNACK but {other:?}"),
        }
    }

    async fn next(&mut self) -> Result<Packet, ConnectionError> {
        loop {
            if let Event::Incoming(packet) = self.events.poll().await? {
                return Ok(packet);
            }
        }
    }

    /// The first packet that `pick` wants. Bounded as a whole: keep-alive alone would keep it waiting for ever.
    async fn until<T>(&mut self, pick: impl Fn(&Packet) -> Option<T>) -> Result<T, ConnectionError> {
        let found = async {
            loop {
                let packet = self.next().await?;
                if let Some(found) = pick(&packet) {
                    return Ok(found);
                }
                if let Packet::Publish(publish) = packet {
                    self.received.push(publish);
                }
            }
        };
        soon(found).await
    }

    /// Subscribes, and answers what the broker granted.
    pub(crate) async fn subscribe(&mut self, topic: &str) -> Result<SubscribeReasonCode, ConnectionError> {
        self.subscribe_with(topic, QoS::AtLeastOnce).await
    }

    pub(crate) async fn subscribe_with(
        &mut self,
        topic: &str,
        qos: QoS,
    ) -> Result<SubscribeReasonCode, ConnectionError> {
        self.client.try_subscribe(topic, qos).unwrap();
        self.until(|packet| match packet {
            Packet::SubAck(ack) => ack.return_codes.first().copied(),
            _ => None,
        })
        .await
    }

    /// Publishes with QoS 1 and waits for the acknowledgement.
    pub(crate) async fn publish(
        &mut self,
        topic: &str,
        payload: impl Into<Vec<u8>>,
    ) -> Result<(), ConnectionError> {
        self.send(topic, payload, false);
        self.until(|packet| matches!(packet, Packet::PubAck(_)).then_some(())).await
    }

    /// Publishes with QoS 1 and waits for nothing.
    pub(crate) fn send(&mut self, topic: &str, payload: impl Into<Vec<u8>>, retain: bool) {
        self.client.try_publish(topic, QoS::AtLeastOnce, retain, payload).unwrap();
    }

    /// Waits until what was sent last is on the wire.
    pub(crate) async fn flush(&mut self) {
        let sent =
            async { while !matches!(self.events.poll().await, Ok(Event::Outgoing(Outgoing::Publish(_)))) {} };
        soon(sent).await;
    }

    /// The next message for this device.
    pub(crate) async fn receive(&mut self) -> Publish {
        if !self.received.is_empty() {
            return self.received.remove(0);
        }
        let message = self.until(|packet| match packet {
            Packet::Publish(publish) => Some(publish.clone()),
            _ => None,
        });
        message.await.expect("still connected")
    }

    /// Waits until the broker ends the connection; fails if a message arrives before.
    pub(crate) async fn closed(&mut self) -> ConnectionError {
        let ended = self.until(|packet| matches!(packet, Packet::Publish(_)).then_some(())).await;
        ended.expect_err("nothing is delivered and the connection ends")
    }
}
