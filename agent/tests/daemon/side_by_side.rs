//! Several models on one device, and releases that do harm only once they serve.

use crate::cloud::Cloud;
use crate::device::{Device, answer_of};
use crate::releases::{Plan, SLOW, letters};
use crate::updates::{confirmed, report, settled, settled_with, want};
use flotilla_agent::host::QUEUE;
use flotilla_protocol::message::{DesiredModel, EventKind, Phase};
use flotilla_protocol::{Digest, ErrorCode, ModelName};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

pub(crate) fn faces() -> ModelName {
    "faces".parse().unwrap()
}

/// A release of another model.
pub(crate) fn other(label: usize) -> Plan {
    Plan { salt: 9, ballast_chunks: 1, ..Plan::changed(label, |manifest| manifest.model = faces()) }
}

pub(crate) fn want_other(cloud: &mut Cloud, model: &DesiredModel) {
    cloud.models.insert(faces(), model.clone());
    cloud.want();
}

pub(crate) async fn both(cloud: &Cloud, one: Digest, two: Digest) {
    let settled = |state: &crate::cloud::State| {
        let models = &state.reported.as_ref()?.models;
        let of = |name: &ModelName, release| {
            models.get(name).is_some_and(|r| r.phase == Phase::Confirmed && r.confirmed == Some(release))
        };
        (of(&letters(), one) && of(&faces(), two)).then_some(())
    };
    cloud.until("both models confirmed", settled).await;
}

/// Labels of both models.
pub(crate) async fn labels(device: &Device) -> (String, String) {
    let endpoint = std::fs::read_to_string(device.path("run/endpoint")).unwrap();
    let label = async |model| answer_of(endpoint.trim(), model).await.unwrap().1;
    (label("letters").await, label("faces").await)
}

#[tokio::test(flavor = "multi_thread")]
async fn models_side_by_side_have_slots_and_fates_of_their_own() {
    let (mut cloud, mut device, letters_one) = settled().await;
    let faces_one = other(1).publish(&cloud);
    want_other(&mut cloud, &faces_one);
    both(&cloud, letters_one.release, faces_one.release).await;
    assert_eq!(labels(&device).await, ("a".into(), "b".into()));

    // Both change at once; one of the new ones is bad.
    let letters_two = Plan { golden_label: 0, ..Plan::good(2) }.publish(&cloud);
    let faces_two = other(0).publish(&cloud);
    cloud.models.insert(letters(), letters_two.clone());
    want_other(&mut cloud, &faces_two);
    let fates = |state: &crate::cloud::State| {
        let models = &state.reported.as_ref()?.models;
        let (letters, faces) = (models.get(&letters())?, models.get(&faces())?);
        (letters.phase == Phase::Failed && faces.confirmed == Some(faces_two.release))
            .then(|| letters.clone())
    };
    let failed = cloud.until("two fates", fates).await;
    assert_eq!(failed.failure.map(|f| f.code), Some(ErrorCode::ProbeMismatch));
    assert_eq!(labels(&device).await, ("a".into(), "a".into()));
    for file in ["models/letters/slot-a/release.cbor", "models/faces/slot-b/release.cbor"] {
        assert!(device.path(file).exists(), "{file}");
    }

    // One is removed; the other serves on, also from a cold start without the cloud.
    cloud.models.remove(&letters());
    cloud.want();
    let gone = |s: &crate::cloud::State| s.reported.as_ref().filter(|r| r.models.len() == 1).map(drop);
    cloud.until("one model", gone).await;
    device.kill().await;
    cloud.stop().await;
    device.start().await;
    let endpoint = std::fs::read_to_string(device.path("run/endpoint")).unwrap();
    let answer = device.until("an answer", async |_| answer_of(endpoint.trim(), "faces").await).await;
    assert_eq!(answer.1, "a");
    assert!(!device.path("models/letters").exists());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_busy_model_holds_up_neither_the_other_one_nor_its_own_successor() {
    let (mut cloud, device, _) = settled_with("threads = 2").await;
    let slow = Plan { toil: SLOW, ..Plan::good(2) }.publish(&cloud);
    want(&mut cloud, &slow);
    confirmed(&cloud, slow.release).await;
    let faces_one = other(1).publish(&cloud);
    want_other(&mut cloud, &faces_one);
    both(&cloud, slow.release, faces_one.release).await;

    // As many as find a place, and each that is answered asks again.
    let endpoint = std::fs::read_to_string(device.path("run/endpoint")).unwrap();
    let answered = Arc::new(AtomicUsize::new(0));
    let asking: Vec<_> = (1..QUEUE)
        .map(|_| {
            let (endpoint, answered) = (endpoint.clone(), Arc::clone(&answered));
            tokio::spawn(async move {
                while answer_of(endpoint.trim(), "letters").await.is_some() {
                    answered.fetch_add(1, Ordering::Relaxed);
                }
            })
        })
        .collect();
    let begun = async |_: &Device| (answered.load(Ordering::Relaxed) > 0).then_some(());
    device.until("an answer", begun).await;
    for _ in 0..5 {
        let before = answered.load(Ordering::Relaxed);
        let (_, label) = answer_of(endpoint.trim(), "faces").await.unwrap();
        let meanwhile = answered.load(Ordering::Relaxed) - before;
        assert_eq!(label, "b");
        assert!(meanwhile < QUEUE / 4, "{meanwhile} of {QUEUE} that came before were answered first");
    }
    // Fetching, trying out, loading and the journals of both happen beside it.
    let next = Plan::good(1).publish(&cloud);
    let faces_two = other(0).publish(&cloud);
    cloud.models.insert(letters(), next.clone());
    want_other(&mut cloud, &faces_two);
    both(&cloud, next.release, faces_two.release).await;
    assert!(asking.iter().all(|asking| !asking.is_finished()), "none was turned away");
    asking.iter().for_each(tokio::task::JoinHandle::abort);
    assert_eq!(labels(&device).await, ("b".into(), "a".into()));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_release_that_takes_more_memory_than_it_promised_is_reverted() {
    let (mut cloud, device, first) = settled().await;
    cloud.settings.probation_s = 600;
    let greedy = Plan::changed(1, |manifest| manifest.constraints.memory_bytes = 1).publish(&cloud);
    want(&mut cloud, &greedy);
    cloud.until("probation", |s| report(s).filter(|r| r.phase == Phase::Probation)).await;
    // Every prediction needs some.
    let reverted = async |device: &Device| device.answer().await.filter(|(_, label)| label == "a");
    device.until("the confirmed release", reverted).await;
    let failed = cloud.until("failure", |s| report(s).filter(|r| r.phase == Phase::Failed)).await;
    let failure = failed.failure.unwrap();
    assert_eq!((failure.code, failure.release), (ErrorCode::ProbationFailed, greedy.release));
    assert!(failure.detail.contains("memory grew"), "{}", failure.detail);
    assert_eq!(failed.confirmed, Some(first.release));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_confirmed_release_under_which_the_agent_goes_down_again_and_again_gives_way_without_the_cloud() {
    let (mut cloud, mut device, first) = settled().await;
    let second = Plan { toil: SLOW, ..Plan::good(1) }.publish(&cloud);
    want(&mut cloud, &second);
    confirmed(&cloud, second.release).await;
    device.kill().await;
    cloud.stop().await;
    let at_work = async |device: &Device| {
        std::fs::read(device.path("run/work-letters"))
            .is_ok_and(|note| note.first() == Some(&b'1'))
            .then_some(())
    };
    for crash in 1..=flotilla_device::update::CRASHES {
        device.start().await;
        device.until("an answer", async |device| device.answer().await).await;
        assert_eq!(device.journal().confirmed.unwrap().release, second.release, "crash {crash}");
        let endpoint = std::fs::read_to_string(device.path("run/endpoint")).unwrap();
        // Two at a time, so that one always runs: the kill is what an engine that brings the process down would do.
        let ask =
            |endpoint: String| async move { while answer_of(endpoint.trim(), "letters").await.is_some() {} };
        let asking = [tokio::spawn(ask(endpoint.clone())), tokio::spawn(ask(endpoint))];
        device.until("a prediction that runs", at_work).await;
        device.kill().await;
        asking.iter().for_each(tokio::task::JoinHandle::abort);
    }
    device.start().await;
    let answer = device.until("an answer", async |device| device.answer().await).await;
    assert_eq!(answer, (first.release.to_string(), "a".to_owned()));
    cloud.resume().await;
    let told = cloud.until_event(EventKind::Reverted).await;
    assert_eq!((told.code, told.release), (Some(ErrorCode::ModelCrashed), Some(second.release)));
    let failed = cloud.until("failure", |s| report(s).filter(|r| r.phase == Phase::Failed)).await;
    assert_eq!(failed.failure.map(|f| f.code), Some(ErrorCode::ModelCrashed));

    // The operator who wants it all the same says so.
    let again = DesiredModel { attempt: 1, ..second.clone() };
    want(&mut cloud, &again);
    confirmed(&cloud, second.release).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn models_fit_together_into_the_memory_that_the_board_has_for_them() {
    let (mut cloud, mut device, _) = settled().await;
    let taken = device.journal().confirmed.unwrap().probe.unwrap().peak_rss_bytes;
    assert!(taken > 0);
    device.kill().await;
    let least = 64 << 20;
    let bound = taken + least - 1;
    std::fs::write(device.path("agent.toml"), format!("models_memory_bytes = {bound}")).unwrap();
    device.start().await;

    // One that says what it needs is refused before its files come; one that does not is not even tried out.
    let says = move |needed: u64| {
        move |m: &mut flotilla_protocol::ReleaseManifest| {
            m.model = faces();
            m.constraints.memory_bytes = needed;
        }
    };
    for needed in [least, 0] {
        let plan = Plan { salt: 9, ballast_chunks: 1, ..Plan::changed(1, says(needed)) };
        let faces_one = plan.publish(&cloud);
        want_other(&mut cloud, &faces_one);
        let refused = |state: &crate::cloud::State| {
            let failure = state.reported.as_ref()?.models.get(&faces())?.failure.clone();
            failure.filter(|failure| failure.release == faces_one.release)
        };
        let failure = cloud.until("a refusal", refused).await;
        assert_eq!(failure.code, ErrorCode::NoRoom);
        assert!(failure.detail.contains(&format!("of the {bound} ")), "{}", failure.detail);
        assert_eq!(device.label().await, "a");
    }

    // It comes by itself when there is room: the other one goes.
    cloud.models.remove(&letters());
    cloud.want();
    let serves = |state: &crate::cloud::State| {
        let models = &state.reported.as_ref()?.models;
        (models.len() == 1 && models.get(&faces())?.phase == Phase::Confirmed).then_some(())
    };
    cloud.until("the other model", serves).await;
}
