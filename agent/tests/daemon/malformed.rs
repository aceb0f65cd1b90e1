//! Messages that are not what they should be, on every topic that a device listens to.

use crate::cloud::{Cloud, State, control_key};
use crate::releases::Plan;
use crate::updates::{confirmed, settled, want};
use flotilla_protocol::message::{Ack, Chunk, Epoch, EventKind, Reply, ReplyBody, Stream};
use flotilla_protocol::topic::Down;
use flotilla_protocol::{Digest, ErrorCode, codec, limits};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

/// Good messages of each kind, to be damaged.
fn good(cloud: &Cloud) -> Vec<Vec<u8>> {
    vec![
        cloud.document(900, &control_key()),
        codec::encode(&Chunk { digest: Digest::of(b"x"), offset: 0, total: 9, data: vec![7; 9] }),
        codec::encode(&Reply { id: 1, body: ReplyBody::Trust(vec![1; 40]) }),
        codec::encode(&Reply { id: 2, body: ReplyBody::Error { code: ErrorCode::Busy, detail: "x".into() } }),
        codec::encode(&Ack { epoch: Epoch(1), stream: Stream::Event, up_to: u64::MAX, reported: None }),
    ]
}

fn malformed(cloud: &Cloud, rng: &mut StdRng) -> Vec<Vec<u8>> {
    let mut all = vec![
        Vec::new(),
        vec![0xff],
        b"{\"json\": true}".to_vec(),
        vec![0x81; 100_000],
        // A list and a text of which the head promises four thousand million entries.
        vec![0x9a, 0xff, 0xff, 0xff, 0xff],
        vec![0x7a, 0xff, 0xff, 0xff, 0xff],
        vec![0; limits::MQTT_PAYLOAD + 1],
        vec![0xa0],
        vec![0xf6],
    ];
    for message in good(cloud) {
        all.push(message[..message.len() / 2].to_vec());
        all.push([message.as_slice(), &[0]].concat());
        for _ in 0..20 {
            let mut damaged = message.clone();
            let from = rng.random_range(0..damaged.len());
            for byte in damaged.iter_mut().skip(from).take(rng.random_range(1..4)) {
                *byte ^= rng.random_range(1..=u8::MAX);
            }
            all.push(damaged);
        }
    }
    all
}

#[tokio::test(flavor = "multi_thread")]
async fn malformed_messages_have_no_effect_but_one_typed_event_a_kind() {
    let (mut cloud, device, first) = settled().await;
    let seed: u64 = rand::random();
    println!("seed {seed}");
    let mut rng = StdRng::seed_from_u64(seed);
    let hellos = cloud.state().hellos.len();
    let payloads = malformed(&cloud, &mut rng);
    for _ in 0..3 {
        for payload in &payloads {
            for down in Down::ALL {
                cloud.send(*down, payload.clone());
            }
        }
    }
    // Messages come in order: when this one has had its effect, all of them have had theirs.
    cloud.want();
    let seen = |s: &State| s.reported.as_ref().filter(|r| r.desired_version >= 2).map(drop);
    cloud.until("the document after them", seen).await;
    assert_eq!(device.label().await, "a");
    confirmed(&cloud, first.release).await;
    assert_eq!(cloud.state().hellos.len(), hellos, "the connection was kept");

    for down in Down::ALL {
        let said = |s: &State| {
            let of = |e: &&flotilla_protocol::message::EventRecord| {
                e.kind == EventKind::Failed && e.detail.starts_with(down.as_str())
            };
            let codes: Vec<_> = s.events().filter(of).filter_map(|e| e.code).collect();
            [ErrorCode::Malformed, ErrorCode::TooLarge].iter().all(|c| codes.contains(c)).then_some(codes)
        };
        let mut codes = cloud.until(&format!("events of {}", down.as_str()), said).await;
        let all = codes.len();
        codes.sort_unstable();
        codes.dedup();
        assert_eq!(codes.len(), all, "each kind is said once: {codes:?}");
    }

    // Nothing of it is in the way of what comes after.
    let second = Plan { ballast_chunks: 3, ..Plan::good(1) }.publish(&cloud);
    want(&mut cloud, &second);
    confirmed(&cloud, second.release).await;
    assert_eq!(device.label().await, "b");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_packet_over_every_bound_costs_the_connection_and_nothing_else() {
    let (mut cloud, device, _) = settled().await;
    let hellos = cloud.state().hellos.len();
    cloud.send(Down::Chunk, vec![0; limits::MQTT_PAYLOAD + limits::MIB]);
    cloud.until("a new connection", |s| (s.hellos.len() > hellos).then_some(())).await;
    assert_eq!(device.label().await, "a");
    let second = Plan::good(1).publish(&cloud);
    want(&mut cloud, &second);
    confirmed(&cloud, second.release).await;
    assert_eq!(device.label().await, "b");
}
