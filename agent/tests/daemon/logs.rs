//! The log goes up when it is asked for, whatever happens on the way, and stays within its bounds on the disk.

use crate::cloud::{Cloud, State};
use crate::device::Device;
use crate::releases::Plan;
use crate::updates::{confirmed, report, settled, settled_with, want};
use flotilla_device::upload::PIECE;
use flotilla_protocol::message::{Command, CommandKind, CommandState, LogLevel, LogQuery};
use flotilla_protocol::{Digest, ErrorCode, limits};
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

/// Before any agent of these tests ran.
const LONG_AGO_MS: u64 = 1_000_000_000_000;
const ALL: LogQuery =
    LogQuery { from_ms: 0, to_ms: u64::MAX, max_bytes: limits::LOG_PULL as u32, level: LogLevel::Trace };

fn pull(id: u64, query: LogQuery, deadline_ms: Option<u64>) -> Command {
    Command { id, kind: CommandKind::LogPull(query), deadline_ms }
}

/// How a command ended, once it has; `None` for done.
async fn end(cloud: &Cloud, id: u64) -> Option<ErrorCode> {
    let find = |state: &State| {
        let ended = state.reported.as_ref()?.commands.iter().find(|report| report.id == id)?;
        Some(match &ended.state {
            CommandState::Done => None,
            CommandState::Failed { code, .. } => Some(*code),
        })
    };
    cloud.until("the end of the command", find).await
}

/// What came for a command last, and how many lines were left out.
fn came(cloud: &Cloud, id: u64) -> Option<(String, u64)> {
    let state = cloud.state();
    let (log, digest) = state.logs.iter().rev().find(|(log, _)| log.command == id)?;
    let bytes = &state.uploads[digest];
    assert_eq!(Digest::of(bytes), *digest);
    Some((String::from_utf8(bytes.clone()).unwrap(), log.left_out))
}

/// Lines of 2001, of several pieces together.
fn old_lines() -> String {
    let line = |n: usize| {
        let (minute, second) = (n / 60 % 60, n % 60);
        format!("2001-09-08T01:{minute:02}:{second:02}.000000Z  INFO old: {n} {}\n", "x".repeat(80))
    };
    (0..4 * PIECE / 120).map(line).collect()
}

/// A device whose log begins with old lines.
async fn talkative() -> (Cloud, Device) {
    let cloud = Cloud::start().await;
    let mut device = Device::new(&cloud);
    std::fs::create_dir(device.path("logs")).unwrap();
    std::fs::write(device.path("logs/agent.log"), old_lines()).unwrap();
    device.start().await;
    (cloud, device)
}

#[tokio::test(flavor = "multi_thread")]
async fn lines_are_chosen_by_time_level_and_room_and_come_whole() {
    let (mut cloud, _device) = talkative().await;
    let past = LogQuery { to_ms: LONG_AGO_MS, ..ALL };
    let few = LogQuery { max_bytes: 1_024, ..past };
    let serious = LogQuery { level: LogLevel::Error, ..past };
    cloud.commands =
        vec![pull(1, past, None), pull(2, few, None), pull(3, serious, None), pull(4, ALL, None)];
    cloud.want();
    for id in 1..=4 {
        assert_eq!(end(&cloud, id).await, None, "{id}");
    }
    let old = old_lines();
    assert_eq!(came(&cloud, 1), Some((old.clone(), 0)));
    let (newest, left_out) = came(&cloud, 2).unwrap();
    assert!(newest.len() <= 1_024 && old.ends_with(&newest));
    assert_eq!(left_out as usize + newest.lines().count(), old.lines().count());
    assert_eq!(came(&cloud, 3), None, "nothing to send is done at once");
    let (all, _) = came(&cloud, 4).unwrap();
    assert!(all.starts_with(&old) && all.contains("the agent runs"), "{}", &all[old.len()..]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_kill_in_the_middle_goes_on_where_the_cloud_stands() {
    let (mut cloud, mut device) = talkative().await;
    cloud.state().uploads_left = Some(3);
    cloud.commands = vec![pull(1, LogQuery { to_ms: LONG_AGO_MS, ..ALL }, None)];
    cloud.want();
    cloud.until("a piece that is not answered", |s| (s.upload_pieces.len() == 4).then_some(())).await;
    device.kill().await;
    {
        let mut state = cloud.state();
        state.uploads_left = None;
        state.upload_pieces.clear();
    }
    device.start().await;
    assert_eq!(end(&cloud, 1).await, None);
    assert_eq!(came(&cloud, 1), Some((old_lines(), 0)));
    let again = |(_, offset, bytes): &(Digest, u64, usize)| *bytes > 0 && *offset < 2 * PIECE as u64;
    assert!(!cloud.state().upload_pieces.iter().any(again), "what the cloud has is not sent again");

    // Done is done: another start says so and sends nothing.
    cloud.state().upload_pieces.clear();
    device.kill().await;
    cloud.state().reported = None;
    device.start().await;
    assert_eq!(end(&cloud, 1).await, None);
    assert!(cloud.state().upload_pieces.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pull_that_is_not_done_by_its_deadline_is_given_up_and_the_next_one_goes_on() {
    let (mut cloud, _device) = talkative().await;
    cloud.state().uploads_left = Some(2);
    let now_ms = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_millis() as u64;
    // Lateness goes by the cloud's time.
    cloud.issued_at_ms = now_ms;
    let past = LogQuery { to_ms: LONG_AGO_MS, ..ALL };
    cloud.commands = vec![pull(1, past, Some(now_ms + 2_000)), pull(2, past, None)];
    cloud.want();
    assert_eq!(end(&cloud, 1).await, Some(ErrorCode::Expired));
    cloud.state().uploads_left = None;
    // The question that was lost is asked again over a new connection at once.
    cloud.stop().await;
    cloud.resume().await;
    assert_eq!(end(&cloud, 2).await, None);
    assert_eq!(came(&cloud, 2), Some((old_lines(), 0)));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_that_keeps_no_log_says_so() {
    let (mut cloud, device, _) = settled_with("log_bytes = 0").await;
    cloud.commands = vec![pull(1, ALL, None), pull(2, ALL, None)];
    cloud.want();
    assert_eq!(end(&cloud, 1).await, Some(ErrorCode::Unsupported));
    assert_eq!(end(&cloud, 2).await, Some(ErrorCode::Unsupported));
    assert!(!device.path("logs").exists());
}

/// Bytes that a folder's files have, or take on the disk.
fn bytes(path: &Path, of: fn(&std::fs::Metadata) -> u64) -> u64 {
    let entries = std::fs::read_dir(path).into_iter().flatten().flatten();
    let one = |entry: std::fs::DirEntry| match entry.metadata() {
        Ok(meta) if meta.is_dir() => bytes(&entry.path(), of),
        Ok(meta) => of(&meta),
        Err(_) => 0,
    };
    entries.map(one).sum()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_log_that_has_much_to_say_stays_within_its_bound() {
    let cloud = Cloud::start().await;
    let mut device = Device::new(&cloud);
    std::fs::write(device.path("agent.toml"), "log_bytes = 65536").unwrap();
    // An earlier run has filled every file; the oldest one has to give way.
    std::fs::create_dir(device.path("logs")).unwrap();
    for (name, word) in
        [("agent.log.3", "aa"), ("agent.log.2", "bb"), ("agent.log.1", "cc"), ("agent.log", "dd")]
    {
        std::fs::write(device.path("logs").join(name), format!("{word}\n").repeat(16_384 / 3)).unwrap();
    }
    device.start().await;
    let read = |device: &Device, name: &str| {
        let size = bytes(&device.path("logs"), std::fs::Metadata::len);
        assert!(size <= 65_536, "{size}");
        // The newest one is not there for a moment while it is begun anew.
        std::fs::read_to_string(device.path("logs").join(name)).unwrap_or_default()
    };
    let new = async |device: &Device| read(device, "agent.log").contains("the agent runs").then_some(());
    device.until("a new file", new).await;
    let words = ["agent.log.3", "agent.log.2", "agent.log.1"].map(|name| read(&device, name)[..2].to_owned());
    assert_eq!(words, ["bb", "cc", "dd"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn slots_records_and_the_log_share_one_bound_and_the_log_has_its_part_set_aside() {
    let (mut cloud, mut device, _) = settled().await;
    device.kill().await;
    let chunks = 256;
    let second = Plan { ballast_chunks: chunks, ..Plan::good(1) }.publish(&cloud);
    let used: u64 =
        ["models", "outbox"].iter().map(|part| bytes(&device.path(part), |meta| meta.blocks() * 512)).sum();
    // Room for the release and a little more, but not for the part of the log too, a sixteenth of all.
    let release = (chunks * limits::CHUNK) as u64;
    let storage = used + release + limits::MIB as u64;
    assert!(storage / 16 > 2 * limits::MIB as u64);
    let config = format!("storage_bytes = {storage}\n");
    std::fs::write(device.path("agent.toml"), &config).unwrap();
    want(&mut cloud, &second);
    device.start().await;
    let refused = cloud
        .until("a refusal", |state| {
            report(state)?.failure.filter(|failure| failure.code == ErrorCode::NoRoom)
        })
        .await;
    assert_eq!(refused.release, second.release);

    device.kill().await;
    std::fs::write(device.path("agent.toml"), format!("{config}log_bytes = 0\n")).unwrap();
    device.start().await;
    confirmed(&cloud, second.release).await;
}
