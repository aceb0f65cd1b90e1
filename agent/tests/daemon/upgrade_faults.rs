//! The agent's own upgrade when something is in its way: full disks, damage, a candidate that hangs, an operator who
//! changes his mind.

use crate::cloud::{Cloud, PATIENCE};
use crate::upgrade::{
    AGENT, AgentPlan, Device, agent_confirmed, agent_failed, agent_report, settled, want_agent,
};
use flotilla_device::launch::LaunchJournal;
use flotilla_protocol::ErrorCode;
use flotilla_protocol::manifest::agent_name;
use flotilla_protocol::message::{EventKind, Phase, SlotName};
use std::process::Stdio;
use tokio::process::Command;

/// A body whose self-test waits for a file.
fn gated(device: &Device) -> String {
    format!("[ $1 = self-test ] && while [ ! -e {} ]; do sleep 0.02; done", device.path("gate").display())
}

fn open_gate(device: &Device) {
    std::fs::write(device.path("gate"), "").unwrap();
}

async fn until_phase(cloud: &Cloud, phase: Phase) {
    cloud.until(phase.as_str(), |s| agent_report(s).filter(|r| r.upgrade.phase == phase)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_confirmed_agent_that_crashes_gives_way_for_good_and_the_cloud_hears_why() {
    let (mut cloud, device) = settled().await;
    let good = AgentPlan::script("", 1).publish(&cloud);
    want_agent(&mut cloud, &good);
    agent_confirmed(&cloud, good.release).await;
    // It stands its trial, and crashes at every start after it.
    let body = format!("[ $1 = run ] && [ -e {} ] && exit 101", device.path("sick").display());
    let bad = AgentPlan::script(&body, 2).publish(&cloud);
    want_agent(&mut cloud, &bad);
    agent_confirmed(&cloud, bad.release).await;
    std::fs::write(device.path("sick"), "").unwrap();
    assert!(device.kill_agent().await);
    let (code, report) = agent_failed(&cloud, bad.release).await;
    assert_eq!(code, ErrorCode::AgentCrashed);
    assert_eq!((report.upgrade.confirmed, report.slot), (Some(good.release), Some(SlotName::A)));
    cloud
        .until("the event", |s| {
            let told = |e: &&flotilla_protocol::message::EventRecord| {
                e.kind == EventKind::Reverted && e.model == Some(agent_name())
            };
            s.events().find(told).filter(|e| e.code == Some(ErrorCode::AgentCrashed)).map(drop)
        })
        .await;
    assert_eq!(device.label().await, "a");
    // It is not begun again, and the next one is.
    let launch = device.launch_file().read().0;
    assert_eq!(launch.confirmed.map(|binary| binary.release), Some(good.release));
    let next = AgentPlan::script("", 3).publish(&cloud);
    want_agent(&mut cloud, &next);
    assert_eq!(agent_confirmed(&cloud, next.release).await.slot, Some(SlotName::B));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_journal_that_cannot_be_written_at_the_switch_is_waited_for() {
    let (mut cloud, device) = settled().await;
    // A folder in its place fails for every user, root included.
    let way = device.path("agent/launch");
    std::fs::create_dir_all(way.join("folder")).unwrap();
    let next = AgentPlan::script("", 1).publish(&cloud);
    want_agent(&mut cloud, &next);
    let report = cloud
        .until("what holds it up", |s| {
            agent_report(s).filter(|r| r.upgrade.failure.as_ref().is_some_and(|f| f.release == next.release))
        })
        .await;
    let failure = report.upgrade.failure.unwrap();
    assert_eq!((report.upgrade.phase, failure.code), (Phase::Switching, ErrorCode::StorageIo));
    std::fs::remove_dir_all(&way).unwrap();
    agent_confirmed(&cloud, next.release).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upgrade_that_is_taken_back_does_not_happen_and_what_is_confirmed_stays() {
    let (mut cloud, device) = settled().await;
    let first = AgentPlan::script(&gated(&device), 1).publish(&cloud);
    want_agent(&mut cloud, &first);
    until_phase(&cloud, Phase::Probing).await;
    cloud.agent = None;
    cloud.want();
    until_phase(&cloud, Phase::Idle).await;
    open_gate(&device);
    assert_eq!(device.launch_file().read().0, LaunchJournal::default(), "the launcher was never asked");
    want_agent(&mut cloud, &first);
    agent_confirmed(&cloud, first.release).await;
    cloud.state().reported = None;
    cloud.agent = None;
    cloud.want();
    let report = agent_confirmed(&cloud, first.release).await;
    assert_eq!(report.slot, Some(SlotName::A));
    assert_eq!(device.label().await, "a");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_binary_that_changed_after_it_was_verified_is_never_started_and_fetched_anew() {
    let (mut cloud, mut device) = settled().await;
    let next = AgentPlan::script(&gated(&device), 1).publish(&cloud);
    want_agent(&mut cloud, &next);
    until_phase(&cloud, Phase::Probing).await;
    device.kill_launcher().await;
    let started = device.path("started");
    let stranger = format!("#!/bin/sh\necho x >>{}\nexec {AGENT} \"$@\"\n", started.display());
    std::fs::write(device.path("agent/slot-a/files/flotilla-agent"), stranger).unwrap();
    open_gate(&device);
    device.launch();
    agent_confirmed(&cloud, next.release).await;
    assert!(!started.exists(), "what nobody signed was started");
    cloud
        .until("an event about it", |s| {
            let told = |e: &flotilla_protocol::message::EventRecord| {
                e.kind == EventKind::Repaired && e.model == Some(agent_name())
            };
            s.events().any(told).then_some(())
        })
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn damage_that_every_agent_copes_with_keeps_no_new_agent_out() {
    let (mut cloud, mut device) = settled().await;
    let first = AgentPlan::script("", 1).publish(&cloud);
    want_agent(&mut cloud, &first);
    agent_confirmed(&cloud, first.release).await;
    device.kill_launcher().await;
    let files = ["agent/launch.copy", "commands", "counter", "accepted"];
    for name in files {
        std::fs::write(device.path(name), b"rubbish").unwrap();
    }
    cloud.state().reported = None;
    device.launch();
    agent_confirmed(&cloud, first.release).await;
    for name in files {
        assert_ne!(
            std::fs::read(device.path(name)).unwrap_or_default(),
            b"rubbish",
            "{name} is written anew"
        );
    }
    // What is damaged while the agent runs it does not notice, and copes with as well.
    std::fs::write(device.path("commands"), b"rubbish").unwrap();
    std::fs::write(device.path("agent/launch.copy"), b"rubbish").unwrap();
    let second = AgentPlan::script("", 2).publish(&cloud);
    want_agent(&mut cloud, &second);
    agent_confirmed(&cloud, second.release).await;
    assert_eq!(device.label().await, "a");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_probation_that_is_made_longer_during_a_trial_does_not_cost_the_trial() {
    let (mut cloud, _device) = settled().await;
    cloud.settings.probation_s = 3;
    cloud.want();
    let next = AgentPlan::script("", 1).publish(&cloud);
    want_agent(&mut cloud, &next);
    until_phase(&cloud, Phase::Probation).await;
    cloud.settings.probation_s = 3_600;
    cloud.want();
    agent_confirmed(&cloud, next.release).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_candidate_that_hangs_in_its_self_test_ends_with_the_agent_that_tries_it() {
    let (mut cloud, device) = settled().await;
    let pid = device.path("candidate");
    let body = format!("[ $1 = self-test ] && echo $$ >{} && exec sleep 1000 </dev/null", pid.display());
    let next = AgentPlan::script(&body, 1).publish(&cloud);
    want_agent(&mut cloud, &next);
    let tried = device.until("the self-test", async |_| {
        std::fs::read_to_string(&pid).ok().filter(|pid| pid.ends_with('\n'))
    });
    let tried = format!("/proc/{}/exe", tried.await.trim());
    assert!(std::fs::read_link(&tried).is_ok());
    device.kill_agent().await;
    device.until("its end", async |_| std::fs::read_link(&tried).is_err().then_some(())).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_that_hangs_ends_by_force_when_its_launcher_is_gone() {
    let cloud = Cloud::start().await;
    let device = Device::new(&cloud);
    // Nobody ever writes into this pipe, and the agent waits for what is in it while it starts.
    assert!(Command::new("mkfifo").arg(device.path("desired.cbor")).status().await.unwrap().success());
    let mut agent = Command::new(AGENT)
        .args(["run", "--until-stdin-closes", "--dir"])
        .arg(device.path(""))
        .stdin(Stdio::piped())
        .stderr(Stdio::null())
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    device.until("a start", async |d| d.path("run/endpoint").exists().then_some(())).await;
    drop(agent.stdin.take());
    let ended = tokio::time::timeout(PATIENCE, agent.wait()).await.expect("it ends").unwrap();
    assert!(!ended.success(), "{ended}");
}
