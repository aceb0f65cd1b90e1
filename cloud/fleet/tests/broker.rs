//! The broker as devices meet it: real MQTT clients over real TLS.
#![expect(clippy::unwrap_used, reason = "tests fail by panicking")]

#[path = "broker/sessions.rs"]
mod sessions;
#[path = "broker/support.rs"]
mod support;

use bytes::Bytes;
use flotilla_fleet::broker::{Bounds, Broker, Downlink, Error, Inbound, Refusal};
use flotilla_fleet::ca::CertificateAuthority;
use flotilla_protocol::topic::{Down, Topic, Up};
use flotilla_protocol::{ErrorCode, limits};
use rumqttc::{ConnectReturnCode, ConnectionError, QoS, SubscribeReasonCode, TlsConfiguration, Transport};
use rustls::pki_types::ServerName;
use std::time::Duration;
use support::{Credentials, Desk, Device, Installation, config, device, down, project, soon, up, with_will};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::mpsc;

fn refusal(error: &ConnectionError) -> Option<ConnectReturnCode> {
    match error {
        ConnectionError::ConnectionRefused(code) => Some(*code),
        _ => None,
    }
}

async fn refused(options: rumqttc::MqttOptions) -> ConnectionError {
    Device::connect(options).await.err().expect("the connection is refused")
}

#[tokio::test(flavor = "multi_thread")]
async fn own_topics_carry_full_chunks_both_ways() {
    let mut here = Installation::start().await;
    let mut gate = here.connect("gate-7").await;
    for channel in Down::ALL {
        let granted = gate.subscribe(&down("gate-7", *channel)).await.unwrap();
        assert_eq!(granted, SubscribeReasonCode::Success(QoS::AtLeastOnce));
    }
    let large: Vec<u8> = (0..256 * 1024).map(|at: u32| (at % 251) as u8).collect();
    for channel in Up::ALL {
        gate.publish(&up("gate-7", *channel), large.clone()).await.unwrap();
        let (from, got, payload) = here.message().await;
        assert_eq!((from.as_str(), got), ("gate-7", *channel));
        assert!(payload == large, "every byte arrives");
    }
    for channel in Down::ALL {
        let payload = Bytes::from(large.clone());
        here.broker.publish(&project("shop"), &device("gate-7"), *channel, payload).await.unwrap();
        let message = gate.receive().await;
        assert_eq!(message.topic, down("gate-7", *channel));
        assert_eq!((message.qos, message.retain), (QoS::AtLeastOnce, false));
        assert!(message.payload == large);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_cloud_may_not_send_is_an_error_that_says_so() {
    let mut here = Installation::start().await;
    let (shop, seven) = (project("shop"), device("gate-7"));
    let send = async |broker: &Broker, bytes: usize| {
        broker.publish(&shop, &seven, Down::Desired, vec![0; bytes].into()).await.unwrap_err()
    };
    assert!(matches!(send(&here.broker, 1).await, Error::NotConnected { .. }));
    assert!(!here.broker.is_connected(&shop, &seven));
    let mut gate = here.connect("gate-7").await;
    assert!(here.broker.is_connected(&shop, &seven));
    assert!(matches!(send(&here.broker, 1).await, Error::NotSubscribed { channel: Down::Desired, .. }));
    gate.subscribe(&down("gate-7", Down::Desired)).await.unwrap();
    let error = send(&here.broker, limits::MQTT_PAYLOAD + 1).await;
    assert_eq!(error.code(), ErrorCode::TooLarge);
    here.broker.publish(&shop, &seven, Down::Desired, vec![1; limits::MQTT_PAYLOAD].into()).await.unwrap();
    assert_eq!(gate.receive().await.payload.len(), limits::MQTT_PAYLOAD);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_foreign_publish_ends_the_connection_and_reaches_nobody() {
    let mut here = Installation::start().await;
    let mut victim = here.connect("victim").await;
    victim.subscribe(&down("victim", Down::Desired)).await.unwrap();
    let other_project = Topic::up(&project("other"), &device("gate-7"), Up::Event).to_string();
    for topic in [
        up("victim", Up::Event),
        down("victim", Down::Desired),
        down("gate-7", Down::Desired),
        other_project,
        "flotilla/v1/shop/gate-7/unknown".to_owned(),
        "$SYS/uptime".to_owned(),
    ] {
        let mut gate = here.connect("gate-7").await;
        gate.send(&topic, "forged", false);
        gate.closed().await;
        assert_eq!(here.disconnected().await, "gate-7", "{topic}: no message before the end");
    }
    here.broker.publish(&project("shop"), &device("victim"), Down::Desired, "real".into()).await.unwrap();
    assert_eq!(victim.receive().await.payload, "real", "the first message the victim ever sees");
}

#[tokio::test(flavor = "multi_thread")]
async fn foreign_wild_and_shared_subscriptions_are_refused() {
    let mut here = Installation::start().await;
    let mut gate = here.connect("gate-7").await;
    for filter in [
        down("victim", Down::Desired).as_str(),
        &up("gate-7", Up::Hello),
        "flotilla/v1/shop/gate-7/+",
        "flotilla/v1/shop/+/desired",
        "flotilla/#",
        "#",
        "$SYS/#",
        "$share/all/flotilla/v1/shop/gate-7/desired",
        "$exclusive/flotilla/v1/shop/gate-7/desired",
    ] {
        assert_eq!(gate.subscribe(filter).await.unwrap(), SubscribeReasonCode::Failure, "{filter}");
    }
    let mut prober = here.connect("prober").await;
    let ended = async {
        loop {
            if prober.subscribe("#").await.is_err() {
                return;
            }
        }
    };
    soon(ended).await;
    assert_eq!(here.disconnected().await, "prober", "asking on and on ends the connection");

    let granted = gate.subscribe_with(&down("gate-7", Down::Ack), QoS::AtMostOnce).await.unwrap();
    assert_eq!(granted, SubscribeReasonCode::Failure, "what is never acknowledged cannot be bounded");

    let mut victim = here.connect("victim").await;
    victim.subscribe(&down("victim", Down::Desired)).await.unwrap();
    here.broker.publish(&project("shop"), &device("victim"), Down::Desired, "secret".into()).await.unwrap();
    assert_eq!(victim.receive().await.payload, "secret");
    gate.subscribe(&down("gate-7", Down::Reply)).await.unwrap();
    here.broker.publish(&project("shop"), &device("gate-7"), Down::Reply, "own".into()).await.unwrap();
    assert_eq!(gate.receive().await.payload, "own", "nothing of the victim's came before");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_client_id_must_be_the_certificates_device() {
    let mut here = Installation::start().await;
    let credentials = here.enrol("gate-7");
    for name in ["gate-8", "GATE-7", "shop/gate-7"] {
        let error = refused(here.options(&credentials, name)).await;
        assert_eq!(refusal(&error), Some(ConnectReturnCode::BadClientId), "{name}: {error}");
    }
    here.connect("gate-7").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn certificates_of_strangers_and_no_certificate_are_refused() {
    let mut here = Installation::start().await;
    let elsewhere = tempfile::tempdir().unwrap();
    let stranger = CertificateAuthority::open_or_create(elsewhere.path(), &project("shop")).unwrap();
    let forged = Credentials::of(&stranger, "gate-7", &here.authority);
    let error = refused(here.options(&forged, "gate-7")).await;
    assert_eq!(refusal(&error), None, "it does not get as far as MQTT");

    let mut options = here.options(&forged, "gate-7");
    options.set_transport(Transport::Tls(TlsConfiguration::Rustls(forged.anonymous_tls())));
    refused(options).await;

    let mut options = here.options(&forged, "gate-7");
    options.set_transport(Transport::Tcp);
    refused(options).await;

    here.connect("gate-7").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_device_refuses_a_broker_of_another_authority() {
    let here = Installation::start().await;
    let elsewhere = tempfile::tempdir().unwrap();
    let stranger = CertificateAuthority::open_or_create(elsewhere.path(), &project("shop")).unwrap();
    let credentials = Credentials::of(&here.authority, "gate-7", &stranger);
    assert!(matches!(
        refused(here.options(&credentials, "gate-7")).await,
        ConnectionError::Tls(_) | ConnectionError::Io(_)
    ));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_authority_decides_who_connects() {
    let mut here = Installation::start().await;
    let credentials = here.enrol("gate-7");
    for (reason, code) in [
        (Refusal::Revoked, ConnectReturnCode::NotAuthorized),
        (Refusal::Unknown, ConnectReturnCode::NotAuthorized),
        (Refusal::Disabled, ConnectReturnCode::NotAuthorized),
        (Refusal::Unavailable, ConnectReturnCode::ServiceUnavailable),
    ] {
        here.desk.refuse(credentials.serial, reason);
        let error = refused(here.options(&credentials, "gate-7")).await;
        assert_eq!(refusal(&error), Some(code), "{reason:?}");
    }
    here.connect("gate-7").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn disconnecting_a_revoked_device_keeps_it_out() {
    let mut here = Installation::start().await;
    let credentials = here.enrol("gate-7");
    let mut gate = Device::connect(here.options(&credentials, "gate-7")).await.unwrap();
    here.connected().await;
    let mut other = here.connect("gate-8").await;
    here.desk.refuse(credentials.serial, Refusal::Revoked);
    here.broker.disconnect(&project("shop"), &device("gate-7"));
    assert!(!here.broker.is_connected(&project("shop"), &device("gate-7")), "at once");
    gate.closed().await;
    assert_eq!(here.disconnected().await, "gate-7");
    let error = refused(here.options(&credentials, "gate-7")).await;
    assert_eq!(refusal(&error), Some(ConnectReturnCode::NotAuthorized));
    other.publish(&up("gate-8", Up::Hello), "still here").await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn wills_stand_on_the_own_event_topic_only() {
    let mut here = Installation::start().await;
    let credentials = here.enrol("gate-7");
    let options = || here.options(&credentials, "gate-7");
    for bad in [
        with_will(options(), &up("victim", Up::Event), false),
        with_will(options(), &down("gate-7", Down::Desired), false),
        with_will(options(), &up("gate-7", Up::Hello), false),
        with_will(options(), &up("gate-7", Up::Event), true),
    ] {
        assert_eq!(refusal(&refused(bad).await), Some(ConnectReturnCode::NotAuthorized));
    }
    let gate = Device::connect(with_will(options(), &up("gate-7", Up::Event), false)).await.unwrap();
    assert_eq!(here.connected().await, "gate-7");
    drop(gate);
    let (from, channel, payload) = here.message().await;
    assert_eq!((from.as_str(), channel, &payload[..]), ("gate-7", Up::Event, &b"gone"[..]));
    assert_eq!(here.disconnected().await, "gate-7");
}

#[tokio::test(flavor = "multi_thread")]
async fn retained_and_oversized_messages_end_the_connection() {
    let mut here = Installation::start().await;
    let mut gate = here.connect("gate-7").await;
    gate.send(&up("gate-7", Up::Event), "kept", true);
    gate.closed().await;
    assert_eq!(here.disconnected().await, "gate-7");
    let mut gate = here.connect("gate-7").await;
    gate.send(&up("gate-7", Up::Event), vec![0; limits::MQTT_PAYLOAD + 64 * 1024], false);
    gate.closed().await;
    assert_eq!(here.disconnected().await, "gate-7");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_second_connection_of_a_device_wins() {
    let mut here = Installation::start().await;
    let credentials = here.enrol("gate-7");
    let mut first = Device::connect(here.options(&credentials, "gate-7")).await.unwrap();
    let Inbound::Connected { connection: earlier, .. } = here.event().await else { panic!("connected") };
    let mut second = Device::connect(here.options(&credentials, "gate-7")).await.unwrap();
    first.closed().await;
    let mut seen = [here.event().await, here.event().await];
    seen.sort_by_key(|event| matches!(event, Inbound::Disconnected { .. }));
    let [Inbound::Connected { connection: later, .. }, Inbound::Disconnected { connection: ended, .. }] =
        seen
    else {
        panic!("{seen:?}")
    };
    assert_eq!(ended, earlier);
    assert!(later > earlier);
    second.subscribe(&down("gate-7", Down::Desired)).await.unwrap();
    here.broker.publish(&project("shop"), &device("gate-7"), Down::Desired, "new".into()).await.unwrap();
    assert_eq!(second.receive().await.payload, "new");
    second.publish(&up("gate-7", Up::Hello), "hello").await.unwrap();
    assert_eq!(here.message().await.2, "hello");
}

#[tokio::test(flavor = "multi_thread")]
async fn namesakes_in_two_projects_do_not_meet() {
    let mut here = Installation::start().await;
    let other = CertificateAuthority::open_or_create(here.folder.path(), &project("other")).unwrap();
    let namesake = Credentials::of(&other, "gate-7", &here.authority);
    let mut gate = here.connect("gate-7").await;
    let mut twin = Device::connect(here.options(&namesake, "gate-7")).await.unwrap();
    here.connected().await;
    let twins = Topic::down(&project("other"), &device("gate-7"), Down::Desired).to_string();
    assert_eq!(gate.subscribe(&twins).await.unwrap(), SubscribeReasonCode::Failure);
    twin.subscribe(&twins).await.unwrap();
    gate.subscribe(&down("gate-7", Down::Desired)).await.unwrap();
    here.broker.publish(&project("other"), &device("gate-7"), Down::Desired, "other".into()).await.unwrap();
    here.broker.publish(&project("shop"), &device("gate-7"), Down::Desired, "shop".into()).await.unwrap();
    assert_eq!(twin.receive().await.payload, "other");
    assert_eq!(gate.receive().await.payload, "shop");
}

#[tokio::test(flavor = "multi_thread")]
async fn silent_clients_hinder_nobody_and_are_sent_away() {
    let bounds = Bounds { handshake_timeout: Duration::from_secs(2), ..Bounds::default() };
    let mut here = Installation::with(bounds, 64).await;
    let address = here.broker.local_addr();
    let mut silent = vec![];
    for _ in 0..50 {
        silent.push(TcpStream::connect(address).await.unwrap());
    }
    let credentials = here.enrol("quiet");
    let connector = tokio_rustls::TlsConnector::from(credentials.tls());
    let name = ServerName::try_from("localhost").unwrap();
    let socket = TcpStream::connect(address).await.unwrap();
    let mut quiet = soon(connector.connect(name, socket)).await.unwrap();
    let mut gate = here.connect("gate-7").await;
    gate.publish(&up("gate-7", Up::Hello), "not hindered").await.unwrap();
    for mut socket in silent {
        let ended = soon(socket.read(&mut [0; 64])).await;
        assert!(matches!(ended, Ok(0) | Err(_)), "a silent connection is closed: {ended:?}");
    }
    let ended = soon(quiet.read(&mut [0; 64])).await;
    assert!(
        matches!(ended, Ok(0) | Err(_)),
        "so is one that shows a certificate and says nothing: {ended:?}"
    );
    assert_eq!(here.message().await.2, "not hindered");
}

#[tokio::test(flavor = "multi_thread")]
async fn other_protocols_are_turned_away_and_pipelined_packets_are_kept() {
    let mut here = Installation::start().await;
    let credentials = here.enrol("gate-7");
    let talk = async |bytes: &[u8]| {
        let connector = tokio_rustls::TlsConnector::from(credentials.tls());
        let socket = TcpStream::connect(here.broker.local_addr()).await.unwrap();
        let name = ServerName::try_from("localhost").unwrap();
        let mut stream = soon(connector.connect(name, socket)).await.unwrap();
        stream.write_all(bytes).await.unwrap();
        let mut answer = vec![0; 4];
        let read = soon(stream.read(&mut answer)).await.unwrap_or(0);
        answer.truncate(read);
        (stream, answer)
    };
    let (_, http) = talk(b"GET / HTTP/1.1\r\n\r\n").await;
    assert_eq!(http, b"");
    let (_, version_5) = talk(b"\x10\x13\0\x04MQTT\x05\x02\0\x3c\0\0\x06gate-7").await;
    assert_eq!(version_5, [0x20, 2, 0, 1]);
    let (_, enormous) = talk(b"\x10\xff\xff\xff\x7f\0\x04MQTT\x04\x02\0\x3c").await;
    assert_eq!(enormous, b"");

    let mut eager = b"\x10\x12\0\x04MQTT\x04\x02\0\x3c\0\x06gate-7".to_vec();
    let topic = up("gate-7", Up::Hello);
    eager.extend([0x30, (2 + topic.len() + 2) as u8, 0, topic.len() as u8]);
    eager.extend(topic.as_bytes());
    eager.extend(b"hi");
    let (stream, accepted) = talk(&eager).await;
    assert_eq!(accepted, [0x20, 2, 0, 0]);
    assert_eq!(here.connected().await, "gate-7");
    assert_eq!(here.message().await, ("gate-7".to_owned(), Up::Hello, "hi".into()));
    drop(stream);
    assert_eq!(here.disconnected().await, "gate-7");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_taken_port_is_an_error_that_names_it() {
    let here = Installation::start().await;
    let address = here.broker.local_addr();
    let (sender, _receiver) = mpsc::channel(1);
    let again = config(&here.authority, address, Bounds::default());
    let desk = std::sync::Arc::new(Desk::default());
    let error = Broker::start(again, desk, sender).await.err().expect("the port is taken");
    assert_eq!(error.code(), ErrorCode::PortInUse);
    assert!(error.to_string().contains(&address.to_string()), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_flood_ends_the_floods_connection_and_no_other() {
    let bounds = Bounds { messages_per_second: 1, messages_burst: 20, ..Bounds::default() };
    let mut here = Installation::with(bounds, 64).await;
    let mut calm = here.connect("calm").await;
    let mut flood = here.connect("flood").await;
    for _ in 0..60 {
        flood.send(&up("flood", Up::Telemetry), "more", false);
    }
    flood.closed().await;
    let mut passed = 0;
    let end = loop {
        match here.event().await {
            Inbound::Message { .. } => passed += 1,
            end => break end,
        }
    };
    assert!(matches!(end, Inbound::Disconnected { .. }), "{end:?}");
    assert!((20..60).contains(&passed), "the burst and little more: {passed}");
    calm.publish(&up("calm", Up::Telemetry), "measured").await.unwrap();
    assert_eq!(here.message().await.0, "calm");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_event_channel_slows_devices_down_and_loses_nothing() {
    let mut here = Installation::with(Bounds::default(), 1).await;
    let mut gate = here.connect("gate-7").await;
    let topic = up("gate-7", Up::Telemetry);
    let sender = tokio::spawn(async move {
        for at in 0..40_u32 {
            gate.publish(&topic, at.to_be_bytes()).await.unwrap();
        }
        gate
    });
    for at in 0..40_u32 {
        assert_eq!(here.message().await.2, at.to_be_bytes()[..]);
    }
    soon(sender).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_device_is_cut_off_even_while_its_message_waits_for_room() {
    let mut here = Installation::with(Bounds::default(), 1).await;
    let mut witness = here.connect("witness").await;
    let mut gate = here.connect("gate-7").await;
    let topic = up("gate-7", Up::Event);
    gate.publish(&topic, "taken").await.unwrap();
    gate.send(&topic, "waiting", false);
    gate.flush().await;
    // Round trips of another device: by their end the waiting message has long reached the full channel.
    for _ in 0..50 {
        witness.subscribe(&down("witness", Down::Ack)).await.unwrap();
    }
    here.broker.disconnect(&project("shop"), &device("gate-7"));
    gate.closed().await;
    assert_eq!(here.message().await.2, "taken");
    assert_eq!(here.disconnected().await, "gate-7", "what was not acknowledged is not delivered late");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_device_that_takes_nothing_is_cut_off_and_others_get_theirs() {
    let bounds = Bounds {
        queued_bytes_per_device: 1024 * 1024,
        publish_timeout: Duration::from_millis(300),
        ack_timeout: Duration::from_secs(3),
        ..Bounds::default()
    };
    let mut here = Installation::with(bounds, 64).await;
    let credentials = here.enrol("stuck");
    let mut options = here.options(&credentials, "stuck");
    options.set_manual_acks(true);
    let mut stuck = Device::connect(options).await.unwrap();
    here.connected().await;
    stuck.subscribe(&down("stuck", Down::Chunk)).await.unwrap();
    let mut fine = here.connect("fine").await;
    fine.subscribe(&down("fine", Down::Chunk)).await.unwrap();
    let chunk = Bytes::from(vec![7; 128 * 1024]);
    let mut taken = 0;
    let error = loop {
        match here.broker.publish(&project("shop"), &device("stuck"), Down::Chunk, chunk.clone()).await {
            Ok(()) => taken += 1,
            Err(error) => break error,
        }
    };
    assert!(matches!(error, Error::DeviceBusy { .. }), "{error}");
    assert_eq!(taken, 7, "no more than its share is ever queued");
    for _ in 0..20 {
        here.broker.publish(&project("shop"), &device("fine"), Down::Chunk, chunk.clone()).await.unwrap();
        assert_eq!(fine.receive().await.payload, chunk);
    }
    assert_eq!(here.disconnected().await, "stuck");
    assert!(here.broker.is_connected(&project("shop"), &device("fine")));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_device_that_stops_acknowledging_gives_its_room_back() {
    let bounds = Bounds { ack_timeout: Duration::from_millis(200), ..Bounds::default() };
    let mut here = Installation::with(bounds, 64).await;
    let credentials = here.enrol("stuck");
    let mut options = here.options(&credentials, "stuck");
    options.set_manual_acks(true);
    let mut stuck = Device::connect(options).await.unwrap();
    here.connected().await;
    stuck.subscribe(&down("stuck", Down::Chunk)).await.unwrap();
    here.broker.publish(&project("shop"), &device("stuck"), Down::Chunk, "unread".into()).await.unwrap();
    assert_eq!(here.disconnected().await, "stuck");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_shutdown_reports_every_end_and_a_restart_is_harmless() {
    let mut here = Installation::start().await;
    let address = here.broker.local_addr();
    let mut gate = here.connect("gate-7").await;
    soon(here.broker.shutdown()).await;
    gate.closed().await;
    assert!(matches!(soon(here.inbound.recv()).await, Some(Inbound::Disconnected { .. })));
    assert!(soon(here.inbound.recv()).await.is_none(), "the channel closes after the last event");

    let (sender, inbound) = mpsc::channel(64);
    let again = config(&here.authority, address, Bounds::default());
    here.broker = Broker::start(again, here.desk.clone(), sender).await.unwrap();
    here.inbound = inbound;
    let mut gate = here.connect("gate-7").await;
    gate.subscribe(&down("gate-7", Down::Desired)).await.unwrap();
    here.broker.publish(&project("shop"), &device("gate-7"), Down::Desired, "again".into()).await.unwrap();
    assert_eq!(gate.receive().await.payload, "again");
}
