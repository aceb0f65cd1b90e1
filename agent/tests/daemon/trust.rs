//! Whom a running device believes: servers of its own CA only, trust files step by step, releases by enough keys.

use crate::cloud::{Cloud, control_key, release_key};
use crate::device::Device;
use crate::releases::{Plan, letters};
use crate::updates::{confirmed, report, settled, want};
use flotilla_protocol::signature::SigningKey;
use flotilla_protocol::trust::KeySet;
use flotilla_protocol::{Envelope, EnvelopeKind, ErrorCode, TrustFile};
use std::collections::BTreeMap;

fn key(seed: u8) -> SigningKey {
    SigningKey::from_seed(&[seed; 32])
}

async fn trust_version(device: &Device, wanted: u64) {
    let what = format!("trust version {wanted}");
    let there = async |device: &Device| (device.status().await["trust_version"] == wanted).then_some(());
    device.until(&what, there).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_of_another_ca_gets_nothing_while_the_model_serves_and_the_right_one_is_found_again() {
    let (mut cloud, device, first) = settled().await;
    cloud.stop().await;
    let mut impostor = Cloud::start().await;
    impostor.take_the_place_of(&cloud).await;
    let status = device
        .until("the problem is said", async |device| {
            let status = device.status().await;
            (status["connection_problem"]["code"] == "tls").then_some(status)
        })
        .await;
    assert_eq!(status["connected"], false);
    let text = status["connection_problem"]["detail"].as_str().unwrap().to_owned();
    assert!(text.contains("certificate"), "{text}");
    assert_eq!(device.label().await, "a");
    assert!(impostor.state().hellos.is_empty(), "nothing was said to it");

    impostor.stop().await;
    cloud.state().reported = None;
    cloud.resume().await;
    confirmed(&cloud, first.release).await;
    device
        .until("connected again", async |device| {
            let status = device.status().await;
            (status["connected"] == true && status["connection_problem"].is_null()).then_some(())
        })
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn trust_is_walked_version_by_version_and_releases_take_as_many_keys_as_it_says() {
    let (mut cloud, mut device, _) = settled().await;
    let first: TrustFile = Envelope::from_bytes(&cloud.trust(1, BTreeMap::new()).to_bytes())
        .unwrap()
        .open(EnvelopeKind::Trust, &KeySet::single(release_key().public()))
        .unwrap();
    let (b, c) = (key(31), key(32));
    let second = TrustFile {
        version: 2,
        release_keys: KeySet { threshold: 2, keys: vec![release_key().public(), b.public()] },
        ..first.clone()
    };
    let third = TrustFile {
        version: 3,
        release_keys: KeySet { threshold: 2, keys: vec![b.public(), c.public()] },
        ..second.clone()
    };
    let seal =
        |file: &TrustFile, keys: &[&SigningKey]| Envelope::seal(EnvelopeKind::Trust, file, keys).to_bytes();
    {
        let mut state = cloud.state();
        state.trust = Some(seal(&second, &[&release_key()]));
        state.later_trust.push_back(seal(&third, &[&release_key(), &b]));
    }
    // A new connection asks for newer trust, and again until there is none.
    cloud.stop().await;
    cloud.resume().await;
    trust_version(&device, 3).await;

    let refused = [
        ("one of two", Plan { key: key(31), ..Plan::good(1) }),
        ("twice the same", Plan { key: key(31), more_keys: vec![key(31)], ..Plan::good(1) }),
        ("an old key beside", Plan { key: key(31), more_keys: vec![release_key()], ..Plan::good(1) }),
        ("the online key", Plan { key: control_key(), more_keys: vec![key(32)], ..Plan::good(1) }),
    ];
    for (what, plan) in refused {
        // Each has its own digest, so that each is looked at.
        let bad = plan.publish(&cloud);
        want(&mut cloud, &bad);
        let failure = cloud.until(what, |s| report(s)?.failure.filter(|f| f.release == bad.release)).await;
        assert_eq!(failure.code, ErrorCode::SignatureInvalid, "{what}: {}", failure.detail);
        assert_eq!(device.label().await, "a", "{what}");
    }
    let good = Plan { key: key(31), more_keys: vec![key(32)], ..Plan::good(1) }.publish(&cloud);
    want(&mut cloud, &good);
    confirmed(&cloud, good.release).await;
    assert_eq!(device.label().await, "b");

    // Rolled back, signed by keys that are gone, or with a lower floor: nothing changes, also over a restart.
    let floor = TrustFile { version: 4, min_release: [(letters(), 11)].into(), ..third.clone() };
    {
        let mut state = cloud.state();
        state.trust = Some(seal(&second, &[&release_key(), &b, &c]));
        state.later_trust.push_back(seal(&floor, &[&b, &c]));
    }
    cloud.stop().await;
    cloud.resume().await;
    let said = |code| move |s: &crate::cloud::State| s.events().any(|e| e.code == Some(code)).then_some(());
    cloud.until("the rollback is said", said(ErrorCode::Replayed)).await;
    cloud.stop().await;
    cloud.resume().await;
    trust_version(&device, 4).await;
    let lowered = TrustFile { version: 5, min_release: [(letters(), 10)].into(), ..floor.clone() };
    let gone = TrustFile { version: 6, ..floor };
    {
        let mut state = cloud.state();
        state.records.clear();
        state.trust = Some(seal(&lowered, &[&b, &c]));
    }
    cloud.stop().await;
    cloud.resume().await;
    cloud.until("the lowered floor is said", said(ErrorCode::BelowFloor)).await;
    cloud.state().records.clear();
    cloud.state().trust = Some(seal(&gone, &[&release_key(), &c]));
    cloud.stop().await;
    cloud.resume().await;
    cloud.until("the keys that are gone are said", said(ErrorCode::SignatureInvalid)).await;
    device.kill().await;
    device.start().await;
    trust_version(&device, 4).await;
}
