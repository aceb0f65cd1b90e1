//! Updates that go well, whatever the link and disk do in between.

use crate::cloud::{Cloud, State};
use crate::device::Device;
use crate::releases::{Plan, largest_object, letters};
use flotilla_protocol::message::{
    Command, CommandKind, CommandState, DesiredModel, EventKind, LogLevel, ModelReport, Phase, RecordBody,
    SlotName,
};
use flotilla_protocol::{Digest, ErrorCode};
use std::collections::BTreeMap;

pub(crate) fn report(state: &State) -> Option<ModelReport> {
    state.reported.as_ref()?.models.get(&letters()).cloned()
}

/// Waits until the device reports this release as confirmed.
pub(crate) async fn confirmed(cloud: &Cloud, release: Digest) -> ModelReport {
    cloud
        .until("confirmation", |state| {
            report(state).filter(|r| r.phase == Phase::Confirmed && r.confirmed == Some(release))
        })
        .await
}

/// Waits until the device reports this phase.
pub(crate) async fn phase(cloud: &Cloud, phase: Phase) -> ModelReport {
    cloud.until(phase.as_str(), |state| report(state).filter(|r| r.phase == phase)).await
}

pub(crate) fn want(cloud: &mut Cloud, model: &DesiredModel) {
    cloud.models.insert(letters(), model.clone());
    cloud.want();
}

/// A device that has confirmed a release which answers `a`.
pub(crate) async fn settled() -> (Cloud, Device, DesiredModel) {
    settled_with("").await
}

/// The same with this configuration.
pub(crate) async fn settled_with(config: &str) -> (Cloud, Device, DesiredModel) {
    let mut cloud = Cloud::start().await;
    let first = Plan::good(0).publish(&cloud);
    want(&mut cloud, &first);
    let mut device = Device::new(&cloud);
    std::fs::write(device.path("agent.toml"), config).unwrap();
    device.start().await;
    confirmed(&cloud, first.release).await;
    (cloud, device, first)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_release_is_fetched_probed_confirmed_and_serves_and_the_next_one_takes_the_other_slot() {
    let (mut cloud, device, first) = settled().await;
    assert_eq!(device.label().await, "a");
    let report = confirmed(&cloud, first.release).await;
    assert_eq!(report.slot, Some(SlotName::A));
    assert_eq!(report.probe.map(|probe| probe.vectors), Some(2));
    let second = Plan::good(1).publish(&cloud);
    want(&mut cloud, &second);
    let report = confirmed(&cloud, second.release).await;
    assert_eq!((report.slot, device.label().await.as_str()), (Some(SlotName::B), "b"));
    let answer = device.predict(&[9, 9, 9, 9]).await.unwrap();
    assert_eq!(answer["release"], second.release.to_string());

    // Going back needs nothing of the network: the files are still in the other slot.
    cloud.state().asked.clear();
    want(&mut cloud, &first);
    let report = confirmed(&cloud, first.release).await;
    assert_eq!((report.slot, device.label().await.as_str()), (Some(SlotName::A), "a"));
    assert!(cloud.state().asked.is_empty());
    let kinds: Vec<EventKind> = cloud.state().events().map(|event| event.kind).collect();
    assert_eq!(kinds.iter().filter(|kind| **kind == EventKind::Confirmed).count(), 3, "{kinds:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn changed_chunks_are_thrown_away_and_asked_for_again() {
    let mut cloud = Cloud::start().await;
    let plan = Plan { ballast_chunks: 5, ..Plan::good(0) };
    let release = plan.publish(&cloud);
    let ballast = largest_object(&cloud);
    cloud.state().spoil.insert(ballast, 4);
    want(&mut cloud, &release);
    let device = Device::started(&cloud).await;
    confirmed(&cloud, release.release).await;
    assert_eq!(device.label().await, "a");
    let state = cloud.state();
    assert_eq!(state.spoiled.len(), 4, "chunks of the file went out changed");
    for (digest, offset) in &state.spoiled {
        let asked = state.asked[digest].iter().filter(|asked| *asked == offset).count();
        assert!(asked >= 2, "the changed chunk at {offset} was asked for {asked} times");
    }
    assert_eq!(device.log().matches("a wrong chunk was thrown away").count(), 4, "{}", device.log());
    let stored = std::fs::read(device.path("models/letters/slot-a/files/ballast.bin")).unwrap();
    assert_eq!(stored, state.objects[&ballast]);
    assert_eq!(state.events().filter(|event| event.kind == EventKind::Failed).count(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn telemetry_and_events_reach_the_cloud_and_are_kept_until_it_has_them() {
    let mut cloud = Cloud::start().await;
    cloud.state().deaf = true;
    let release = Plan::good(0).publish(&cloud);
    want(&mut cloud, &release);
    let mut device = Device::started(&cloud).await;
    confirmed(&cloud, release.release).await;
    assert!(device.status().await["records_waiting"].as_u64().unwrap() > 0);
    assert!(device.terminate().await.success());
    assert!(!device.path("run/endpoint").exists(), "a stopped agent leaves no endpoint file");
    {
        let mut state = cloud.state();
        state.deaf = false;
        state.records.clear();
    }
    device.start().await;
    cloud.until_event(EventKind::Confirmed).await;
    let sample = cloud
        .until("a sample with the model", |state| {
            state.records.iter().find_map(|record| match &record.body {
                RecordBody::Sample(sample) if sample.models.contains_key(&letters()) => Some(sample.clone()),
                _ => None,
            })
        })
        .await;
    assert!(sample.rss_bytes > 0 && sample.disk_free_bytes > 0);
    device.until("an empty outbox", async |d| (d.status().await["records_waiting"] == 0).then_some(())).await;
    println!("resident memory of the agent with a tiny model: {} bytes", sample.rss_bytes);
    let counters: Vec<u64> = cloud.state().hellos.iter().map(|hello| hello.counter).collect();
    assert!(counters.windows(2).all(|pair| pair[0] < pair[1]), "{counters:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_device_without_a_network_serves_its_confirmed_release_at_once() {
    let (mut cloud, mut device, _) = settled().await;
    device.kill().await;
    cloud.stop().await;
    device.start().await;
    device.until("an answer", async |device| device.predict(&[1, 2, 3, 4]).await.ok()).await;
    assert_eq!(device.label().await, "a");
    let status = device.status().await;
    assert_eq!(
        (&status["connected"], &status["models"]["letters"]["phase"]),
        (&false.into(), &"confirmed".into())
    );
    // The cloud comes back with something new.
    cloud.resume().await;
    let second = Plan::good(1).publish(&cloud);
    want(&mut cloud, &second);
    confirmed(&cloud, second.release).await;
    assert_eq!(device.label().await, "b");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lost_connection_in_the_middle_of_a_download_costs_nothing_that_was_received() {
    let (mut cloud, device, _) = settled().await;
    let second = Plan { ballast_chunks: 24, ..Plan::good(1) }.publish(&cloud);
    let ballast = largest_object(&cloud);
    cloud.state().budget = Some(12);
    want(&mut cloud, &second);
    cloud.until("half of the download", |state| (state.budget == Some(0)).then_some(())).await;
    let chunk = flotilla_protocol::limits::CHUNK as u64;
    cloud.until("progress", |s| report(s).filter(|r| r.bytes_done >= 9 * chunk)).await;
    cloud.stop().await;
    {
        let mut state = cloud.state();
        state.budget = None;
        state.asked.clear();
    }
    cloud.resume().await;
    confirmed(&cloud, second.release).await;
    let again = cloud.state().asked[&ballast].len();
    assert!(again <= 16, "{again} of 24 chunks were asked for a second time");
    assert_eq!(device.label().await, "b");
}

#[tokio::test(flavor = "multi_thread")]
async fn commands_whose_end_cannot_be_noted_down_wait_and_are_done_when_it_can() {
    let (mut cloud, device, _) = settled().await;
    // In place of the file: nothing can be written there.
    let notes = device.path("commands");
    drop(std::fs::remove_file(&notes));
    std::fs::create_dir(&notes).unwrap();
    std::fs::write(notes.join("in-the-way"), "").unwrap();
    cloud.commands = vec![
        Command { id: 1, kind: CommandKind::Ping, deadline_ms: None },
        Command { id: 2, kind: CommandKind::RestartModel { model: letters() }, deadline_ms: None },
    ];
    cloud.want();
    in_order(&mut cloud).await;
    assert!(cloud.state().reported.as_ref().unwrap().commands.is_empty(), "nothing is said that is not kept");
    std::fs::remove_dir_all(&notes).unwrap();
    let done = |state: &State| {
        let commands = &state.reported.as_ref()?.commands;
        (commands.len() == 2 && commands.iter().all(|c| c.state == CommandState::Done)).then_some(())
    };
    cloud.until("both commands", done).await;
    assert_eq!(device.label().await, "a");
}

/// What the device has to do with the present document is done: it has answered a newer one.
async fn in_order(cloud: &mut Cloud) {
    cloud.settings.telemetry_interval_s = 77;
    cloud.want();
    let version = cloud.version();
    let answered = |state: &State| state.reported.as_ref().filter(|r| r.desired_version >= version).map(drop);
    cloud.until("an answer to a newer document", answered).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn commands_are_done_once_and_reported() {
    let (mut cloud, mut device, _) = settled().await;
    cloud.commands = vec![
        Command { id: 1, kind: CommandKind::Ping, deadline_ms: None },
        Command { id: 2, kind: CommandKind::RestartModel { model: letters() }, deadline_ms: None },
        Command {
            id: 3,
            kind: CommandKind::RestartModel { model: "faces".parse().unwrap() },
            deadline_ms: None,
        },
        Command { id: 4, kind: CommandKind::Unknown, deadline_ms: None },
        Command { id: 5, kind: CommandKind::Ping, deadline_ms: Some(1) },
        Command {
            id: 6,
            kind: CommandKind::LogLevel { level: LogLevel::Debug },
            deadline_ms: Some(u64::MAX),
        },
        Command { id: 7, kind: CommandKind::RotateCertificate { serial: "00".into() }, deadline_ms: None },
        // Half a century ago by the device's clock, in an hour by the cloud's.
        Command { id: 8, kind: CommandKind::Ping, deadline_ms: Some(3_600_000) },
    ];
    cloud.want();
    let done = cloud
        .until("command reports", |state| {
            state.reported.as_ref().filter(|r| r.commands.len() == 8).map(|r| r.commands.clone())
        })
        .await;
    let codes: Vec<Option<ErrorCode>> = done
        .iter()
        .map(|report| match &report.state {
            CommandState::Done => None,
            CommandState::Failed { code, .. } => Some(*code),
        })
        .collect();
    let by_id: BTreeMap<u64, Option<ErrorCode>> = done.iter().map(|report| report.id).zip(codes).collect();
    let expected = [
        (1, None),
        (2, None),
        (3, Some(ErrorCode::NotFound)),
        (4, Some(ErrorCode::Unsupported)),
        (5, Some(ErrorCode::Expired)),
        (6, None),
        (7, None), // Another certificate than that one is in use.
        (8, None),
    ];
    assert_eq!(by_id, BTreeMap::from(expected));
    let logs = |status: &serde_json::Value| status["log"].as_str().unwrap().to_owned();
    assert!(logs(&device.status().await).contains("flotilla_agent=debug"));
    assert_eq!(device.label().await, "a");

    // Killed, it says the same again and does nothing anew: the level is that of a fresh start.
    device.kill().await;
    cloud.state().reported = None;
    device.start().await;
    let again = cloud
        .until("the reports again", |s| s.reported.as_ref().filter(|r| !r.commands.is_empty()).cloned())
        .await;
    assert_eq!(again.commands, done);
    assert!(!logs(&device.status().await).contains("flotilla_agent=debug"));
    cloud.commands.clear();
    cloud.want();
    cloud
        .until("forgotten commands", |s| s.reported.as_ref().filter(|r| r.commands.is_empty()).map(drop))
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_model_that_is_not_wanted_any_more_leaves_nothing_behind() {
    let (mut cloud, device, _) = settled().await;
    cloud.models.clear();
    cloud.want();
    cloud.until("an empty report", |s| s.reported.as_ref().filter(|r| r.models.is_empty()).map(drop)).await;
    assert!(!device.path("models/letters").exists());
    let error = device.predict(&[1, 2, 3, 4]).await.unwrap_err();
    assert!(error.contains("[not_found]"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn applications_may_ask_over_a_socket_whose_mode_says_who_may() {
    use std::os::unix::fs::PermissionsExt;
    let mut cloud = Cloud::start().await;
    let first = Plan::good(0).publish(&cloud);
    want(&mut cloud, &first);
    let mut device = Device::new(&cloud);
    let socket = device.path("run/agent.sock");
    std::fs::create_dir_all(device.path("run")).unwrap();
    let config = format!("listen = \"unix:{}\"\nsocket_mode = 0o600\n", socket.display());
    std::fs::write(device.path("agent.toml"), config).unwrap();
    for _ in 0..2 {
        device.start().await;
        confirmed(&cloud, first.release).await;
        assert_eq!(std::fs::metadata(&socket).unwrap().permissions().mode() & 0o777, 0o600);
        // Through the command line, and as an application does.
        device.until("an answer", async |device| device.predict(&[1, 2, 3, 4]).await.ok()).await;
        assert_eq!(device.label().await, "a");
        let stream = tokio::net::UnixStream::connect(&socket).await.unwrap();
        let ask = flotilla_agent::http_client::Ask {
            host: "localhost",
            method: http::Method::GET,
            path: "/v2/health/ready",
            content_type: "application/json",
            body: Vec::new(),
            max_answer: 1 << 20,
            timeout: crate::cloud::PATIENCE,
        };
        assert!(flotilla_agent::http_client::ask(stream, ask).await.unwrap().0.is_success());
        // What a kill leaves behind is in nobody's way.
        device.kill().await;
        assert!(socket.exists());
    }
    device.start().await;
    assert!(device.terminate().await.success());
    assert!(!socket.exists());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_service_manager_hears_when_the_agent_is_ready_that_it_lives_and_that_it_stops() {
    let cloud = Cloud::start().await;
    let mut device = Device::new(&cloud);
    let path = device.path("notify");
    let manager = tokio::net::UnixDatagram::bind(&path).unwrap();
    device.environment =
        vec![("NOTIFY_SOCKET", path.display().to_string()), ("WATCHDOG_USEC", "300000".to_owned())];
    let heard = async || {
        let mut buffer = [0; 256];
        let received = tokio::time::timeout(crate::cloud::PATIENCE, manager.recv(&mut buffer)).await;
        String::from_utf8(buffer[..received.expect("a word").unwrap()].to_vec()).unwrap()
    };
    device.start().await;
    assert_eq!(heard().await.trim(), "READY=1");
    for _ in 0..5 {
        assert_eq!(heard().await.trim(), "WATCHDOG=1");
    }
    assert!(device.terminate().await.success());
    while heard().await.trim() != "STOPPING=1" {}
}
