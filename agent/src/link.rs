//! The one connection of a device: MQTT 3.1.1 over TLS with its certificate.
//!
//! Each connection is a new client, so nothing of an old one is sent again behind the back of the machines that
//! decide what is due.

use crate::identity::{Names, split_address};
use bytes::Bytes;
use flotilla_device::heartbeat::{Beat, Heartbeat};
use flotilla_device::renewal::Loss;
use flotilla_protocol::topic::{Channel, Down, Topic, Up};
use flotilla_protocol::{ErrorCode, limits};
use rumqttc::{
    AsyncClient, ConnectReturnCode, ConnectionError, Event, EventLoop, MqttOptions, NetworkOptions, Outgoing,
    Packet, PingReq, QoS, Request, StateError, SubscribeFilter, SubscribeReasonCode, TlsConfiguration,
    TlsError, Transport,
};
use rustls::{AlertDescription, ClientConfig};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::Instant;

/// Messages in, that may wait to be looked at; beyond it the connection is not read.
pub const QUEUE: usize = 16;
/// Publishes that may wait to be sent.
const REQUESTS: usize = 64;
/// Publishes without an answer of the broker.
const IN_FLIGHT: u16 = 64;
/// Room for topic and header beside the largest payload.
const PACKET: usize = limits::MQTT_PAYLOAD + 4 * limits::KIB;
const CONNECT_SECONDS: u64 = 15;

/// What a connection says.
#[derive(Debug)]
pub enum LinkEvent {
    /// The broker accepted it.
    Connected,
    /// The broker accepted the subscriptions.
    Subscribed,
    /// A message on one of the device's own topics.
    Message {
        /// The channel.
        down: Down,
        /// The payload.
        payload: Bytes,
    },
    /// It failed or is lost; the last event.
    Lost {
        /// The stable code.
        code: ErrorCode,
        /// For people.
        detail: String,
        /// What that says of the device's certificate.
        loss: Loss,
    },
}

/// Sends on a connection.
#[derive(Clone)]
pub struct Sender {
    client: AsyncClient,
    names: Names,
}

impl Sender {
    /// Hands a message over to the connection. False if it has no room: it is then as lost as one on the way.
    pub fn publish(&self, up: Up, payload: Vec<u8>) -> bool {
        if payload.len() > limits::MQTT_PAYLOAD {
            tracing::error!(
                channel = up.as_str(),
                bytes = payload.len(),
                "a message is over its bound and not sent"
            );
            return false;
        }
        let topic = Topic::up(&self.names.project, &self.names.device, up).to_string();
        self.client.try_publish(topic, QoS::AtLeastOnce, false, payload).is_ok()
    }
}

/// A connection, open or being opened; closed when dropped.
pub struct Link {
    sender: Sender,
    task: JoinHandle<()>,
}

impl Link {
    /// Opens a connection. Its events come on `events`, tagged with `number`.
    pub fn open(
        names: &Names,
        tls: Arc<ClientConfig>,
        keepalive_s: u16,
        number: u64,
        events: mpsc::Sender<(u64, LinkEvent)>,
    ) -> Self {
        let names = names.clone();
        // The address was checked when the identity was read.
        let (host, port) = split_address(&names.mqtt).unwrap_or((&names.mqtt, 8883));
        let mut options = MqttOptions::new(names.device.as_str(), host, port);
        options
            .set_transport(Transport::tls_with_config(TlsConfiguration::Rustls(tls)))
            .set_clean_session(true)
            .set_keep_alive(Duration::from_secs(u64::from(keepalive_s.max(5))))
            .set_max_packet_size(PACKET, PACKET)
            .set_inflight(IN_FLIGHT);
        let (client, mut events_of) = AsyncClient::new(options, REQUESTS);
        let mut network = NetworkOptions::new();
        network.set_tcp_nodelay(true);
        network.set_connection_timeout(CONNECT_SECONDS);
        events_of.set_network_options(network);
        let keepalive = events_of.mqtt_options.keep_alive();
        let task = tokio::spawn(listen(events_of, names.clone(), keepalive, number, events));
        Self { sender: Sender { client, names }, task }
    }

    /// Sends on this connection.
    pub fn sender(&self) -> &Sender {
        &self.sender
    }

    /// Subscribes to the device's own topics, and nothing else. False if the connection has no room.
    pub fn subscribe(&self) -> bool {
        let names = &self.sender.names;
        let filter = |down: &Down| {
            let topic = Topic::down(&names.project, &names.device, *down).to_string();
            SubscribeFilter::new(topic, QoS::AtLeastOnce)
        };
        self.sender.client.try_subscribe_many(Down::ALL.iter().map(filter)).is_ok()
    }

    /// Says good-bye to the broker and waits a little for what is on its way out.
    pub async fn close(mut self) {
        if self.sender.client.try_disconnect().is_ok() {
            let _ = tokio::time::timeout(Duration::from_secs(2), &mut self.task).await;
        }
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn listen(
    mut events_of: EventLoop,
    names: Names,
    keepalive: Duration,
    number: u64,
    events: mpsc::Sender<(u64, LinkEvent)>,
) {
    let (start, mut heartbeat) = (Instant::now(), None::<Heartbeat>);
    let ms = |time: Duration| u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
    loop {
        let due = heartbeat.map(|heartbeat| start + Duration::from_millis(heartbeat.due_ms()));
        let polled = tokio::select! {
            biased;
            polled = events_of.poll() => Some(polled),
            // The client waits for the network: what it has begun goes on with the next poll.
            () = at(due) => None,
        };
        let now_ms = ms(start.elapsed());
        let event = match polled {
            Some(Ok(Event::Incoming(packet))) => {
                if matches!(packet, Packet::ConnAck(_)) {
                    // The client would ping at every interval, whatever else it sends.
                    events_of.mqtt_options.set_keep_alive(Duration::ZERO);
                    heartbeat = Some(Heartbeat::new(ms(keepalive), now_ms));
                }
                heartbeat.iter_mut().for_each(Heartbeat::heard);
                read(packet, &names)
            }
            Some(Ok(Event::Outgoing(packet))) => {
                if let (Some(heartbeat), Some(wants_answer)) = (&mut heartbeat, sent(&packet)) {
                    heartbeat.sent(wants_answer, now_ms);
                }
                None
            }
            Some(Err(error)) => Some(lost(&error)),
            None => match heartbeat.as_mut().and_then(|heartbeat| heartbeat.beat(now_ms)) {
                Some(Beat::Ping) => {
                    events_of.pending.push_back(Request::PingReq(PingReq));
                    None
                }
                Some(Beat::GiveUp) => {
                    let detail = format!("the broker has not answered for {} s", keepalive.as_secs());
                    Some(LinkEvent::Lost { code: ErrorCode::Timeout, detail, loss: Loss::Network })
                }
                None => None,
            },
        };
        let Some(event) = event else { continue };
        let last = matches!(event, LinkEvent::Lost { .. });
        if events.send((number, event)).await.is_err() || last {
            return;
        }
    }
}

async fn at(due: Option<Instant>) {
    match due {
        Some(due) => tokio::time::sleep_until(due).await,
        None => std::future::pending().await,
    }
}

/// Whether a packet that the client tells of wants an answer; none if it has not been sent.
fn sent(packet: &Outgoing) -> Option<bool> {
    match packet {
        Outgoing::AwaitAck(_) => None,
        Outgoing::Publish(_) | Outgoing::Subscribe(_) | Outgoing::PingReq => Some(true),
        _ => Some(false),
    }
}

fn read(packet: Packet, names: &Names) -> Option<LinkEvent> {
    match packet {
        Packet::ConnAck(_) => Some(LinkEvent::Connected),
        Packet::SubAck(ack) => {
            let refused = ack.return_codes.iter().any(|code| matches!(code, SubscribeReasonCode::Failure));
            Some(if refused {
                let detail = "the broker refused the device's own topics".to_owned();
                LinkEvent::Lost { code: ErrorCode::PermissionDenied, detail, loss: Loss::Network }
            } else {
                LinkEvent::Subscribed
            })
        }
        Packet::Publish(publish) => {
            let topic: Topic = publish.topic.parse().ok()?;
            let own = topic.project == names.project && topic.device == names.device;
            match topic.channel {
                Channel::Down(down) if own => Some(LinkEvent::Message { down, payload: publish.payload }),
                _ => None,
            }
        }
        _ => None,
    }
}

fn lost(error: &ConnectionError) -> LinkEvent {
    LinkEvent::Lost { code: code(error), detail: error.to_string(), loss: loss(error) }
}

/// What a connection ended of. Network and timeout are said of what any client would meet; the rest is between this one
/// and its server.
fn code(error: &ConnectionError) -> ErrorCode {
    if tls_error(error).is_some() {
        return ErrorCode::Tls;
    }
    match error {
        // Without a word of TLS the network may have failed in the middle of a handshake.
        ConnectionError::Tls(TlsError::Io(_)) => ErrorCode::Network,
        ConnectionError::Tls(_) => ErrorCode::Tls,
        // It is overloaded, or starts.
        ConnectionError::ConnectionRefused(ConnectReturnCode::ServiceUnavailable) => ErrorCode::Busy,
        ConnectionError::ConnectionRefused(_) => ErrorCode::PermissionDenied,
        ConnectionError::NetworkTimeout
        | ConnectionError::FlushTimeout
        | ConnectionError::MqttState(StateError::AwaitPingResp | StateError::CollisionTimeout) => {
            ErrorCode::Timeout
        }
        ConnectionError::NotConnAck(_)
        | ConnectionError::MqttState(
            StateError::Deserialization(_)
            | StateError::InvalidState
            | StateError::WrongPacket
            | StateError::Unsolicited(_)
            | StateError::EmptySubscription,
        ) => ErrorCode::Malformed,
        _ => ErrorCode::Network,
    }
}

/// What TLS has to say. With TLS 1.3 the server judges the device's certificate after the device has finished its own
/// handshake, so its alert comes with the first read and lies deep in the error.
fn tls_error(error: &ConnectionError) -> Option<&rustls::Error> {
    let mut cause: Option<&(dyn std::error::Error + 'static)> = Some(error);
    while let Some(error) = cause {
        let inner = error.downcast_ref::<std::io::Error>().and_then(|io| io.get_ref());
        let tls = error.downcast_ref().or_else(|| inner.and_then(|inner| inner.downcast_ref()));
        if tls.is_some() {
            return tls;
        }
        cause = error.source();
    }
    None
}

/// What that says of the device's certificate. A broker that is overloaded or starts says so with other return codes.
fn loss(error: &ConnectionError) -> Loss {
    use ConnectReturnCode::{BadUserNamePassword, NotAuthorized};
    if let ConnectionError::ConnectionRefused(NotAuthorized | BadUserNamePassword) = error {
        return Loss::Refused;
    }
    match tls_error(error) {
        Some(rustls::Error::AlertReceived(alert)) => of_alert(*alert),
        _ => Loss::Network,
    }
}

fn of_alert(alert: AlertDescription) -> Loss {
    match alert {
        AlertDescription::CertificateExpired => Loss::Ended,
        AlertDescription::BadCertificate
        | AlertDescription::UnsupportedCertificate
        | AlertDescription::CertificateRevoked
        | AlertDescription::CertificateUnknown
        | AlertDescription::UnknownCA
        | AlertDescription::AccessDenied
        | AlertDescription::CertificateRequired
        | AlertDescription::DecryptError => Loss::Refused,
        _ => Loss::Network,
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests fail by panicking")]
mod tests {
    use super::*;
    use bytes::BytesMut;
    use std::io;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::{TcpListener, TcpStream};

    async fn next(stream: &mut TcpStream, incoming: &mut BytesMut) -> Packet {
        loop {
            if let Ok(packet) = Packet::read(incoming, PACKET) {
                return packet;
            }
            assert_ne!(stream.read_buf(incoming).await.unwrap(), 0, "the device has gone");
        }
    }

    async fn answer(stream: &mut TcpStream, packet: Packet) {
        let mut bytes = BytesMut::new();
        packet.write(&mut bytes, PACKET).unwrap();
        stream.write_all(&bytes).await.unwrap();
    }

    #[tokio::test]
    async fn a_device_with_nothing_to_say_pings_and_gives_up_a_broker_that_does_not_answer() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let mut options = MqttOptions::new("gate-7", "127.0.0.1", listener.local_addr().unwrap().port());
        options.set_keep_alive(Duration::from_secs(240));
        let (_client, events_of) = AsyncClient::new(options, REQUESTS);
        let (project, device) = ("default".parse().unwrap(), "gate-7".parse().unwrap());
        let names = Names { project, device, mqtt: String::new(), server: None };
        let (events, mut seen) = mpsc::channel(QUEUE);
        let listening = tokio::spawn(listen(events_of, names, Duration::from_secs(1), 1, events));

        let (mut stream, _) = listener.accept().await.unwrap();
        let mut incoming = BytesMut::new();
        let Packet::Connect(connect) = next(&mut stream, &mut incoming).await else { panic!("no greeting") };
        assert_eq!(connect.keep_alive, 240, "the broker is told");
        answer(&mut stream, Packet::ConnAck(rumqttc::ConnAck::new(ConnectReturnCode::Success, false))).await;
        assert!(matches!(seen.recv().await, Some((1, LinkEvent::Connected))));
        assert_eq!(next(&mut stream, &mut incoming).await, Packet::PingReq);
        answer(&mut stream, Packet::PingResp).await;
        assert_eq!(next(&mut stream, &mut incoming).await, Packet::PingReq);
        let Some((1, LinkEvent::Lost { code, loss, .. })) = seen.recv().await else { panic!("not given up") };
        assert_eq!((code, loss), (ErrorCode::Timeout, Loss::Network));
        listening.await.unwrap();
    }

    #[test]
    fn what_a_server_refuses_is_told_from_what_the_network_does() {
        let alert = || rustls::Error::AlertReceived(AlertDescription::ProtocolVersion);
        let deep = || io::Error::new(io::ErrorKind::InvalidData, alert());
        let reset = || io::Error::from(io::ErrorKind::ConnectionReset);
        let ping = || rumqttc::PubAck::new(1);
        let cases = [
            (ConnectionError::Io(reset()), ErrorCode::Network),
            (ConnectionError::Tls(TlsError::Io(reset())), ErrorCode::Network),
            (ConnectionError::MqttState(StateError::Io(reset())), ErrorCode::Network),
            (ConnectionError::MqttState(StateError::ConnectionAborted), ErrorCode::Network),
            (ConnectionError::MqttState(StateError::AwaitPingResp), ErrorCode::Timeout),
            (ConnectionError::Io(deep()), ErrorCode::Tls),
            (ConnectionError::Tls(TlsError::Io(deep())), ErrorCode::Tls),
            (ConnectionError::Tls(TlsError::TLS(alert())), ErrorCode::Tls),
            (ConnectionError::MqttState(StateError::Io(deep())), ErrorCode::Tls),
            (ConnectionError::MqttState(StateError::WrongPacket), ErrorCode::Malformed),
            (ConnectionError::NotConnAck(Packet::PubAck(ping())), ErrorCode::Malformed),
            (ConnectionError::ConnectionRefused(ConnectReturnCode::ServiceUnavailable), ErrorCode::Busy),
            (
                ConnectionError::ConnectionRefused(ConnectReturnCode::NotAuthorized),
                ErrorCode::PermissionDenied,
            ),
        ];
        for (error, expected) in cases {
            assert_eq!(code(&error), expected, "{error:?}");
        }
    }

    #[test]
    fn only_the_word_of_the_server_counts_against_a_certificate() {
        let alert = |alert| {
            let tls = rustls::Error::AlertReceived(alert);
            loss(&ConnectionError::Io(io::Error::new(io::ErrorKind::InvalidData, tls)))
        };
        assert_eq!(alert(AlertDescription::CertificateExpired), Loss::Ended);
        assert_eq!(alert(AlertDescription::UnknownCA), Loss::Refused);
        assert_eq!(alert(AlertDescription::InternalError), Loss::Network);
        let refused = |code| loss(&ConnectionError::ConnectionRefused(code));
        assert_eq!(refused(ConnectReturnCode::NotAuthorized), Loss::Refused);
        assert_eq!(refused(ConnectReturnCode::ServiceUnavailable), Loss::Network, "the broker is busy");
        assert_eq!(loss(&ConnectionError::NetworkTimeout), Loss::Network);
        assert_eq!(loss(&ConnectionError::Io(io::ErrorKind::ConnectionRefused.into())), Loss::Network);
    }
}
