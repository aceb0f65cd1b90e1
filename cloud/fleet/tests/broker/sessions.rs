//! Sessions to the byte: what a client library would not let a device do.

use crate::support::{Credentials, Installation, device, down, project, soon, up};
use bytes::Bytes;
use flotilla_fleet::broker::{Bounds, Downlink};
use flotilla_protocol::topic::{Down, Up};
use rustls::pki_types::ServerName;
use std::num::NonZeroU16;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::client::TlsStream;

/// A device that speaks bytes.
struct Raw(TlsStream<TcpStream>);

impl Raw {
    /// Connects with a keep-alive of so many seconds.
    async fn connect(here: &mut Installation, credentials: &Credentials, keep_alive: u8) -> Self {
        let connector = tokio_rustls::TlsConnector::from(credentials.tls());
        let socket = TcpStream::connect(here.broker.local_addr()).await.unwrap();
        let name = ServerName::try_from("localhost").unwrap();
        let mut this = Self(soon(connector.connect(name, socket)).await.unwrap());
        this.say(&[b"\x10\x12\0\x04MQTT\x04\x02\0".as_slice(), &[keep_alive], b"\0\x06gate-7"].concat())
            .await;
        assert_eq!(this.hear(4).await, [0x20, 2, 0, 0]);
        assert_eq!(here.connected().await, "gate-7");
        this
    }

    async fn say(&mut self, bytes: &[u8]) {
        self.0.write_all(bytes).await.unwrap();
    }

    async fn hear(&mut self, bytes: usize) -> Vec<u8> {
        let mut heard = vec![0; bytes];
        soon(self.0.read_exact(&mut heard)).await.unwrap();
        heard
    }

    /// Subscribes to its chunks.
    async fn subscribe(&mut self) {
        let topic = down("gate-7", Down::Chunk);
        let length = 2 + 2 + topic.len() + 1;
        let head = [0x82, length as u8, 0, 1, 0, topic.len() as u8];
        self.say(&[&head, topic.as_bytes(), &[1]].concat()).await;
        assert_eq!(self.hear(5).await, [0x90, 3, 0, 1, 1]);
    }

    /// The next message with QoS 1: its id and payload.
    async fn message(&mut self) -> ([u8; 2], Vec<u8>) {
        let head = self.hear(2).await;
        assert_eq!(head[0], 0x32);
        let rest = self.hear(head[1].into()).await;
        let topic = usize::from(rest[1]);
        ([rest[2 + topic], rest[3 + topic]], rest[4 + topic..].to_vec())
    }

    /// Waits until the broker has closed the connection.
    async fn closed(mut self) {
        let mut rest = vec![];
        // With or without good-bye of TLS.
        let _ = soon(self.0.read_to_end(&mut rest)).await;
    }
}

fn message(first: u8, topic: &str, id: &[u8], payload: &[u8]) -> Vec<u8> {
    let length = 2 + topic.len() + id.len() + payload.len();
    [&[first, length as u8, 0, topic.len() as u8], topic.as_bytes(), id, payload].concat()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_device_that_falls_silent_is_reported_gone() {
    let mut here = Installation::start().await;
    let credentials = here.enrol("gate-7");
    let mut gate = Raw::connect(&mut here, &credentials, 1).await;
    gate.say(b"\xc0\0").await;
    assert_eq!(gate.hear(2).await, [0xd0, 0]);
    gate.closed().await;
    assert_eq!(here.disconnected().await, "gate-7");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_no_mqtt_of_a_device_ends_the_connection() {
    let mut here = Installation::start().await;
    let credentials = here.enrol("gate-7");
    for bytes in [
        message(0x34, &up("gate-7", Up::Event), &[0, 1], b"QoS 2"),
        message(0x32, &up("gate-7", Up::Event), &[0, 0], b"no id"),
        b"\x50\x02\0\x01".to_vec(),
        b"\x20\x02\0\0".to_vec(),
        b"\x10\x12\0\x04MQTT\x04\x02\0\x3c\0\x06gate-7".to_vec(),
        b"\0\0".to_vec(),
        b"\x32\xff\xff\xff\x7f".to_vec(),
    ] {
        let mut gate = Raw::connect(&mut here, &credentials, 60).await;
        gate.say(&bytes).await;
        gate.closed().await;
        assert_eq!(here.disconnected().await, "gate-7", "{bytes:x?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn no_more_is_on_its_way_than_the_window_allows() {
    let bounds = Bounds { in_flight: NonZeroU16::MIN.saturating_add(1), ..Bounds::default() };
    let mut here = Installation::with(bounds, 64).await;
    let credentials = here.enrol("gate-7");
    let mut gate = Raw::connect(&mut here, &credentials, 60).await;
    gate.subscribe().await;
    for at in 0..5_u8 {
        here.broker.publish(&project("shop"), &device("gate-7"), Down::Chunk, vec![at].into()).await.unwrap();
    }
    let (first, second) = (gate.message().await, gate.message().await);
    assert_eq!((first.1, second.1), (vec![0], vec![1]));
    assert_ne!(first.0, second.0);
    gate.say(b"\xc0\0").await;
    assert_eq!(gate.hear(2).await, [0xd0, 0], "an answer, and no third message before it");
    gate.say(b"\x40\x02\x12\x34").await;
    gate.say(&[&[0x40, 2], &second.0[..]].concat()).await;
    let third = gate.message().await;
    assert_eq!(third.1, [2], "one for one; an id that nobody knows counts for nothing");
    gate.say(b"\xc0\0").await;
    assert_eq!(gate.hear(2).await, [0xd0, 0]);
    gate.say(&[&[0x40, 2], &first.0[..], &[0x40, 2], &third.0[..]].concat()).await;
    assert_eq!((gate.message().await.1, gate.message().await.1), (vec![3], vec![4]));
    gate.say(b"\xe0\0").await;
    gate.closed().await;
    assert_eq!(here.disconnected().await, "gate-7");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_device_whose_message_waits_for_room_gets_what_is_for_it() {
    let mut here = Installation::with(Bounds::default(), 1).await;
    let mut gate = here.connect("gate-7").await;
    gate.subscribe(&down("gate-7", Down::Reply)).await.unwrap();
    let topic = up("gate-7", Up::Event);
    gate.publish(&topic, "taken").await.unwrap();
    gate.send(&topic, "waiting", false);
    gate.flush().await;
    here.broker.publish(&project("shop"), &device("gate-7"), Down::Reply, "down".into()).await.unwrap();
    assert_eq!(gate.receive().await.payload, "down");
    assert_eq!(here.message().await.2, "taken");
    assert_eq!(here.message().await.2, "waiting");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_device_sent_before_it_went_arrives() {
    let mut here = Installation::with(Bounds::default(), 1).await;
    let credentials = here.enrol("gate-7");
    let mut gate = Raw::connect(&mut here, &credentials, 60).await;
    let last_words: Vec<u8> =
        (0..20).flat_map(|at| message(0x30, &up("gate-7", Up::Event), &[], &[at])).collect();
    gate.say(&last_words).await;
    gate.0.shutdown().await.unwrap();
    for at in 0..20 {
        assert_eq!(here.message().await.2, Bytes::from(vec![at]));
    }
    assert_eq!(here.disconnected().await, "gate-7");
}
