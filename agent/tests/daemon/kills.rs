//! Kills at the worst moments, and damage to what is on the disk.

use crate::cloud::Cloud;
use crate::device::Device;
use crate::releases::{Plan, largest_object};
use crate::updates::{confirmed, phase, report, settled, want};
use flotilla_device::update::Step;
use flotilla_protocol::message::{EventKind, Phase};
use flotilla_protocol::{ErrorCode, limits};

const CHUNK: u64 = limits::CHUNK as u64;

#[tokio::test(flavor = "multi_thread")]
async fn a_kill_in_the_middle_of_a_download_resumes_where_it_was() {
    let (mut cloud, mut device, _) = settled().await;
    let second = Plan { ballast_chunks: 24, ..Plan::good(1) }.publish(&cloud);
    let ballast = largest_object(&cloud);
    cloud.state().budget = Some(14);
    want(&mut cloud, &second);
    cloud.until("a half download", |s| report(s).filter(|r| r.bytes_done >= 10 * CHUNK)).await;
    device.kill().await;
    assert_eq!(
        device.journal().candidate.map(|c| (c.release, c.step)),
        Some((second.release, Step::Filling))
    );
    {
        let mut state = cloud.state();
        state.budget = None;
        state.asked.clear();
    }
    device.start().await;
    device.until("an answer", async |device| device.predict(&[1, 2, 3, 4]).await.ok()).await;
    confirmed(&cloud, second.release).await;
    let again = cloud.state().asked[&ballast].len();
    assert!(again <= 15, "{again} of 24 chunks were asked for a second time");
    assert_eq!(device.label().await, "b");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_kill_on_probation_goes_on_with_it_and_too_many_revert_without_a_network() {
    let (mut cloud, mut device, first) = settled().await;
    cloud.settings.probation_s = 3_600;
    let second = Plan::good(1).publish(&cloud);
    want(&mut cloud, &second);
    phase(&cloud, Phase::Probation).await;
    cloud.stop().await;
    for (starts, expected) in [(1, "b"), (2, "b"), (3, "a")] {
        device.kill().await;
        let at_the_kill = device.journal();
        assert_eq!(at_the_kill.candidate.map(|c| (c.step, c.starts)), Some((Step::Trial, starts)));
        assert_eq!(at_the_kill.confirmed.map(|c| c.release), Some(first.release));
        device.start().await;
        device.until("an answer", async |device| device.predict(&[1, 2, 3, 4]).await.ok()).await;
        assert_eq!(device.label().await, expected);
    }
    cloud.resume().await;
    let failed = phase(&cloud, Phase::Failed).await;
    assert_eq!(failed.confirmed, Some(first.release));
    assert_eq!(failed.failure.map(|f| f.code), Some(ErrorCode::ProbationFailed));
    cloud.until_event(EventKind::Reverted).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_model_file_is_found_and_fetched_anew() {
    let (cloud, mut device, first) = settled().await;
    device.kill().await;
    let file = device.path("models/letters/slot-a/files/model.onnx");
    let mut bytes = std::fs::read(&file).unwrap();
    bytes[20] ^= 1;
    std::fs::write(&file, bytes).unwrap();
    cloud.state().reported = None;
    device.start().await;
    let damaged =
        |s: &crate::cloud::State| s.events().any(|e| e.code == Some(ErrorCode::DigestMismatch)).then_some(());
    cloud.until("an event about it", damaged).await;
    confirmed(&cloud, first.release).await;
    let answered = async |device: &Device| device.answer().await.filter(|(_, label)| label == "a");
    device.until("an answer", answered).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_journal_is_rebuilt_from_the_slots_without_a_network() {
    let (mut cloud, mut device, first) = settled().await;
    device.kill().await;
    std::fs::write(device.path("models/letters/journal"), b"FUJ\x01 rubbish").unwrap();
    cloud.stop().await;
    device.start().await;
    device.until("an answer", async |device| device.predict(&[1, 2, 3, 4]).await.ok()).await;
    assert_eq!(device.label().await, "a");
    cloud.state().reported = None;
    cloud.resume().await;
    confirmed(&cloud, first.release).await;
    cloud.until_event(EventKind::Repaired).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn damaged_small_files_do_not_stop_the_agent() {
    let (cloud, mut device, first) = settled().await;
    device.kill().await;
    for name in ["counter", "accepted", "commands", "desired.cbor", "outbox/db"] {
        std::fs::write(device.path(name), b"rubbish").unwrap();
    }
    {
        let mut state = cloud.state();
        state.reported = None;
        state.records.clear();
    }
    device.start().await;
    confirmed(&cloud, first.release).await;
    cloud.until_event(EventKind::Repaired).await;
    assert_eq!(device.label().await, "a");
    let counters: Vec<u64> = cloud.state().hellos.iter().map(|hello| hello.counter).collect();
    assert!(counters.windows(2).all(|pair| pair[0] < pair[1]), "{counters:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_device_that_was_switched_off_before_anything_was_confirmed_still_gets_there() {
    let mut cloud = Cloud::start().await;
    let release = Plan { ballast_chunks: 6, ..Plan::good(2) }.publish(&cloud);
    cloud.state().budget = Some(6);
    want(&mut cloud, &release);
    let mut device = Device::started(&cloud).await;
    cloud.until("a few chunks", |s| report(s).filter(|r| r.bytes_done >= CHUNK)).await;
    device.kill().await;
    cloud.state().budget = None;
    device.start().await;
    confirmed(&cloud, release.release).await;
    assert_eq!(device.label().await, "c");
}
