//! What a download keeps to: what is here is not fetched, what is not to be had is said, and the operator's limits.

use crate::cloud::{Cloud, State};
use crate::device::Device;
use crate::releases::{Plan, largest_object, letters};
use crate::updates::{confirmed, report, settled, want};
use flotilla_protocol::message::{Command, CommandKind, EventKind, Phase, QuietHours, Settings};
use flotilla_protocol::{Digest, ErrorCode, limits};
use std::collections::BTreeSet;
use std::time::{SystemTime, UNIX_EPOCH};

const CHUNK: u64 = limits::CHUNK as u64;

/// The device has taken in everything that was sent to it until now.
async fn in_step(cloud: &mut Cloud) {
    let id = cloud.commands.last().map_or(1, |last| last.id + 1);
    cloud.commands.push(Command { id, kind: CommandKind::Ping, deadline_ms: None });
    cloud.want();
    let done = |s: &State| s.reported.as_ref()?.commands.iter().any(|c| c.id == id).then_some(());
    cloud.until("an answer to a ping", done).await;
}

fn asked(cloud: &Cloud, file: Digest) -> usize {
    cloud.state().asked.get(&file).map_or(0, Vec::len)
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_confirmed_release_has_is_copied_and_not_fetched() {
    let mut cloud = Cloud::start().await;
    let first = Plan { ballast_chunks: 9, ..Plan::good(0) }.publish(&cloud);
    want(&mut cloud, &first);
    let device = Device::started(&cloud).await;
    confirmed(&cloud, first.release).await;
    cloud.state().asked.clear();
    // The same files in a newer release, one of them under another name.
    let newer = |m: &mut flotilla_protocol::ReleaseManifest| {
        m.version += 1;
        m.files[2].name = "renamed.bin".into();
    };
    let second = Plan { ballast_chunks: 9, ..Plan::changed(0, newer) }.publish(&cloud);
    want(&mut cloud, &second);
    let report = confirmed(&cloud, second.release).await;
    let fetched: Vec<Digest> = cloud.state().asked.keys().copied().collect();
    assert_eq!(fetched, [second.release], "only its envelope was fetched");
    assert_eq!(report.bytes_reused, report.bytes_total);
    assert!(report.bytes_reused > 9 * CHUNK);
    assert_eq!(device.label().await, "a");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_release_that_the_cloud_does_not_have_is_said_and_comes_as_soon_as_it_has() {
    let (mut cloud, device, first) = settled().await;
    let second = Plan { ballast_chunks: 2, ..Plan::good(1) }.publish(&cloud);
    let envelope = cloud.state().objects.remove(&second.release).unwrap();
    want(&mut cloud, &second);
    let waits = cloud.until("a reason", |s| report(s).filter(|r| r.failure.is_some())).await;
    let failure = waits.failure.unwrap();
    assert_eq!((failure.release, failure.code), (second.release, ErrorCode::NotFound), "{}", failure.detail);
    assert_eq!((waits.phase, waits.confirmed), (Phase::Downloading, Some(first.release)));
    assert_eq!(device.label().await, "a");
    let failed = cloud.state().events().filter(|event| event.kind == EventKind::Failed).count();
    assert_eq!(failed, 0, "that is no failure of the release");
    cloud.put(envelope);
    let report = confirmed(&cloud, second.release).await;
    assert_eq!((report.failure, device.label().await.as_str()), (None, "b"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_newer_desired_state_ends_a_download_that_is_under_way() {
    let (mut cloud, device, _) = settled().await;
    let second = Plan { ballast_chunks: 24, ..Plan::good(1) }.publish(&cloud);
    let ballast = largest_object(&cloud);
    cloud.state().budget = Some(6);
    want(&mut cloud, &second);
    cloud.until("a part of it", |s| report(s).filter(|r| r.bytes_done >= CHUNK)).await;
    let third = Plan::good(2).publish(&cloud);
    cloud.state().budget = None;
    want(&mut cloud, &third);
    confirmed(&cloud, third.release).await;
    assert_eq!(device.label().await, "c");
    in_step(&mut cloud).await;
    let of_it: BTreeSet<u64> = cloud.state().asked[&ballast].iter().copied().collect();
    assert!(of_it.len() < 24, "the rest of the other was not asked for");
}

#[tokio::test(flavor = "multi_thread")]
async fn in_quiet_hours_nothing_is_downloaded_until_they_end() {
    let (mut cloud, device, first) = settled().await;
    let minute = (SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs() / 60 % 1_440) as u16;
    let span = QuietHours { from_min: (minute + 1_380) % 1_440, to_min: (minute + 60) % 1_440 };
    cloud.settings.quiet_hours = vec![span];
    let second = Plan::good(1).publish(&cloud);
    cloud.state().asked.clear();
    want(&mut cloud, &second);
    cloud.until("a candidate", |s| report(s).filter(|r| r.candidate == Some(second.release))).await;
    in_step(&mut cloud).await;
    in_step(&mut cloud).await;
    assert!(cloud.state().asked.is_empty(), "{:?}", cloud.state().asked);
    assert_eq!(report(&cloud.state()).and_then(|r| r.confirmed), Some(first.release));
    cloud.settings.quiet_hours.clear();
    cloud.want();
    confirmed(&cloud, second.release).await;
    assert_eq!(device.label().await, "b");
}

#[tokio::test(flavor = "multi_thread")]
async fn all_downloads_together_keep_to_the_limit_and_go_on_at_once_when_it_is_lifted() {
    let (mut cloud, device, _) = settled().await;
    cloud.settings = Settings {
        // A chunk takes over two minutes.
        download_bytes_per_s: Some(limits::DOWNLOAD_RATE_MIN),
        ..cloud.settings.clone()
    };
    let second = Plan { ballast_chunks: 8, ..Plan::good(1) }.publish(&cloud);
    let ballast = largest_object(&cloud);
    want(&mut cloud, &second);
    cloud.until("the first chunk", |s| report(s).filter(|r| r.bytes_done >= CHUNK)).await;
    in_step(&mut cloud).await;
    assert_eq!(asked(&cloud, ballast), 1);
    cloud.settings.download_bytes_per_s = None;
    cloud.want();
    confirmed(&cloud, second.release).await;
    assert_eq!((asked(&cloud, ballast), device.label().await.as_str()), (8, "b"));
}

#[tokio::test(flavor = "multi_thread")]
async fn without_room_on_the_disk_no_file_is_asked_for_and_with_room_it_goes_on_by_itself() {
    let (mut cloud, mut device, first) = settled().await;
    device.kill().await;
    std::fs::write(device.path("agent.toml"), format!("disk_reserve_bytes = {}", i64::MAX)).unwrap();
    device.start().await;
    let second = Plan { ballast_chunks: 2, ..Plan::good(1) }.publish(&cloud);
    cloud.state().asked.clear();
    want(&mut cloud, &second);
    let waits = cloud.until("a reason", |s| report(s).filter(|r| r.failure.is_some())).await;
    assert_eq!(waits.failure.map(|f| (f.release, f.code)), Some((second.release, ErrorCode::NoRoom)));
    assert_eq!(waits.confirmed, Some(first.release));
    assert!(
        cloud.state().asked.keys().all(|file| *file == second.release),
        "room is checked before any file"
    );
    std::fs::remove_file(device.path("agent.toml")).unwrap();
    device.kill().await;
    device.start().await;
    confirmed(&cloud, second.release).await;
    assert_eq!(device.label().await, "b");
}

#[tokio::test(flavor = "multi_thread")]
async fn several_models_are_downloaded_side_by_side() {
    let mut cloud = Cloud::start().await;
    let faces: flotilla_protocol::ModelName = "faces".parse().unwrap();
    let one = Plan { ballast_chunks: 20, ..Plan::good(0) }.publish(&cloud);
    let name = faces.clone();
    let other = Plan { ballast_chunks: 20, ..Plan::changed(1, move |m| m.model = name.clone()) };
    let other = other.publish(&cloud);
    cloud.models.insert(letters(), one.clone());
    cloud.models.insert(faces.clone(), other.clone());
    cloud.want();
    let device = Device::started(&cloud).await;
    confirmed(&cloud, one.release).await;
    let both = |s: &State| {
        let report = s.reported.as_ref()?.models.get(&faces)?;
        (report.confirmed == Some(other.release)).then_some(())
    };
    cloud.until("the other model", both).await;
    assert_eq!(device.label().await, "a");
}
