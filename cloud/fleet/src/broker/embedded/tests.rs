//! The loopback port between the gate and the engine is worth nothing without a connection's one-time password.
#![expect(clippy::unwrap_used, reason = "tests fail by panicking")]

use super::*;
use crate::broker::{Bounds, Decision, PeerIdentity};
use crate::ca::{CertificateAuthority, Serial};
use rmqtt::codec::types::{MQTT_LEVEL_311, Protocol};
use rmqtt::codec::v3::{Codec, Connect};
use std::time::SystemTime;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_util::codec::Encoder;

struct Everybody;

#[async_trait]
impl Authority for Everybody {
    async fn connect(&self, _peer: &PeerIdentity) -> Decision {
        Decision::Allow
    }
}

async fn start(folder: &std::path::Path) -> (Broker, mpsc::Receiver<Inbound>) {
    let authority = CertificateAuthority::open_or_create(folder, &ProjectId::new("shop").unwrap()).unwrap();
    let (sender, inbound) = mpsc::channel(8);
    let config = BrokerConfig {
        listen: ([127, 0, 0, 1], 0).into(),
        server: authority.issue_server(&[], SystemTime::now()).unwrap(),
        client_roots: vec![authority.root().clone()],
        bounds: Bounds::default(),
    };
    (Broker::start(config, Arc::new(Everybody), sender).await.unwrap(), inbound)
}

/// Speaks to the engine as another user of the machine could; answers the CONNACK's return code.
async fn knock(
    broker: &Broker,
    client_id: &str,
    username: Option<&str>,
    password: Option<&str>,
) -> (TcpStream, u8) {
    let connect = Connect {
        protocol: Protocol(MQTT_LEVEL_311),
        clean_session: true,
        keep_alive: 60,
        last_will: None,
        client_id: client_id.into(),
        username: username.map(Into::into),
        password: password.map(|text| Bytes::copy_from_slice(text.as_bytes())),
        cert: None,
    };
    let mut bytes = bytes::BytesMut::new();
    Codec::new(0).encode(connect.into(), &mut bytes).unwrap();
    let mut engine = TcpStream::connect(broker.engine.address()).await.unwrap();
    engine.write_all(&bytes).await.unwrap();
    let mut answer = [0; 4];
    engine.read_exact(&mut answer).await.unwrap();
    (engine, answer[3])
}

const ACCEPTED: u8 = 0;
const NOT_AUTHORIZED: u8 = 5;

#[tokio::test(flavor = "multi_thread")]
async fn the_loopback_port_opens_once_for_an_admitted_connection_and_else_never() {
    let folder = tempfile::tempdir().unwrap();
    let (broker, mut inbound) = start(folder.path()).await;
    let peer = PeerIdentity {
        project: ProjectId::new("shop").unwrap(),
        device: DeviceId::new("gate-7").unwrap(),
        serial: Serial::random().unwrap(),
    };
    let link = broker.shared.registry.enter(peer, ([192, 0, 2, 1], 7).into()).unwrap();
    let (session, number) = (link.session().to_string(), link.number().to_string());
    let password = Some(link.password());

    assert_eq!(knock(&broker, &session, Some(&number), password).await.1, NOT_AUTHORIZED, "not admitted yet");
    assert!(broker.shared.registry.admit(&link));
    for (client_id, username, password) in [
        (session.as_str(), None, None),
        (&session, Some(number.as_str()), None),
        (&session, Some(&number), Some("")),
        (&session, Some(&number), Some("guess")),
        (&session, Some("999"), password),
        (&session, Some("cloud"), password),
        ("gate-7", Some(&number), password),
    ] {
        assert_eq!(knock(&broker, client_id, username, password).await.1, NOT_AUTHORIZED);
    }
    let (_open, answer) = knock(&broker, &session, Some(&number), password).await;
    assert_eq!(answer, ACCEPTED);
    assert!(matches!(inbound.recv().await, Some(Inbound::Connected { .. })));
    assert_eq!(knock(&broker, &session, Some(&number), password).await.1, NOT_AUTHORIZED, "used up");
}
