//! The agent's own upgrade, with the real launcher and real agents: what works stays, what does not goes back by
//! itself, and a kill at any moment leaves an agent that works.

use crate::cloud::{Cloud, PATIENCE, State, release_key};
use crate::releases::{Plan, letters};
use crate::updates::{confirmed, want};
use flotilla_agent::folder::Folder;
use flotilla_launcher::journal::LaunchFile;
use flotilla_protocol::manifest::{
    AgentFacts, Constraints, FileEntry, Lineage, Metrics, ReleaseKind, Variant, agent_engine, agent_name,
};
use flotilla_protocol::message::{AgentReport, DesiredModel, EventKind, Phase, RecordBody, SlotName};
use flotilla_protocol::{Digest, Envelope, EnvelopeKind, ErrorCode, Pipeline, ReleaseManifest, limits};
use serde_json::Value;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};
use tokio::process::{Child, Command};

pub(crate) const AGENT: &str = env!("CARGO_BIN_EXE_flotilla-agent");

/// The launcher beside it: a package of its own, which `cargo build -p flotilla-launcher` builds.
fn launcher() -> PathBuf {
    Path::new(AGENT).with_file_name("flotilla-launcher")
}

/// An enrolled device whose agent runs under the launcher.
pub(crate) struct Device {
    root: tempfile::TempDir,
    /// The agent that was installed with it.
    installed: PathBuf,
    environment: Vec<(&'static str, PathBuf)>,
    launcher: Option<Child>,
}

impl Device {
    pub(crate) fn new(cloud: &Cloud) -> Self {
        Self::with_installed(cloud, PathBuf::from(AGENT))
    }

    /// A device with another agent installed.
    pub(crate) fn with_installed(cloud: &Cloud, installed: PathBuf) -> Self {
        let root = tempfile::tempdir().unwrap();
        cloud.admit(root.path());
        Self { root, installed, environment: Vec::new(), launcher: None }
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.root.path().join(name)
    }

    pub(crate) fn launch(&mut self) {
        let log = std::fs::OpenOptions::new().append(true).create(true).open(self.path("log")).unwrap();
        let launcher = Command::new(launcher())
            .arg("--dir")
            .arg(self.root.path())
            .arg("--agent")
            .arg(&self.installed)
            .env("RUST_LOG", "info")
            .envs(self.environment.iter().cloned())
            .stdin(Stdio::null())
            .stderr(log)
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        self.launcher = Some(launcher);
    }

    pub(crate) async fn kill_launcher(&mut self) {
        self.launcher.take().unwrap().kill().await.unwrap();
    }

    /// SIGKILL to the agent, if one runs just now.
    pub(crate) async fn kill_agent(&self) -> bool {
        let Some(pid) = self.status().await["pid"].as_u64() else { return false };
        Command::new("kill").args(["-KILL", &pid.to_string()]).status().await.unwrap().success()
    }

    async fn command(&self, args: &[&str]) -> std::process::Output {
        let dir = self.root.path();
        Command::new(AGENT).args(args).arg("--dir").arg(dir).stdin(Stdio::null()).output().await.unwrap()
    }

    pub(crate) async fn status(&self) -> Value {
        let output = self.command(&["status", "-o", "json"]).await;
        serde_json::from_slice(&output.stdout).unwrap_or_default()
    }

    /// The label that the device answers, once an agent is there.
    pub(crate) async fn label(&self) -> String {
        std::fs::write(self.path("input"), [1, 2, 3, 4]).unwrap();
        let input = self.path("input");
        let answer = self.until("an answer", async |d| {
            let output = d.command(&["predict", "letters", input.to_str().unwrap()]).await;
            output.status.success().then(|| serde_json::from_slice::<Value>(&output.stdout).unwrap())
        });
        answer.await["label"].as_str().unwrap().to_owned()
    }

    pub(crate) async fn until<T>(&self, what: &str, check: impl AsyncFn(&Self) -> Option<T>) -> T {
        let started = Instant::now();
        loop {
            if let Some(found) = check(self).await {
                return found;
            }
            assert!(started.elapsed() < PATIENCE, "{what} did not happen\n{}", self.log());
            // Another process is observed, which tells nobody when it gets there.
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    fn log(&self) -> String {
        std::fs::read_to_string(self.path("log")).unwrap_or_default()
    }

    /// What is left in a slot of a download that was cut off.
    fn half_downloaded(&self, cloud: &Cloud, slot: SlotName, release: &DesiredModel, content: &[u8]) {
        let slot = self.path("agent").join(format!("slot-{}", slot.as_str()));
        let _ = std::fs::remove_dir_all(&slot);
        std::fs::create_dir_all(slot.join("partial")).unwrap();
        std::fs::write(slot.join("release.cbor"), &cloud.state().objects[&release.release]).unwrap();
        std::fs::write(slot.join("partial/flotilla-agent"), content).unwrap();
    }

    pub(crate) fn launch_file(&self) -> LaunchFile {
        Folder::open(self.root.path()).unwrap().launch_file()
    }
}

/// A device with the first agent as it was installed and a model that answers `a`.
pub(crate) async fn settled() -> (Cloud, Device) {
    settled_in(Vec::new()).await
}

/// The same in this environment.
async fn settled_in(environment: Vec<(&'static str, PathBuf)>) -> (Cloud, Device) {
    let mut cloud = Cloud::start().await;
    let first = Plan::good(0).publish(&cloud);
    want(&mut cloud, &first);
    let mut device = Device { environment, ..Device::new(&cloud) };
    device.launch();
    confirmed(&cloud, first.release).await;
    (cloud, device)
}

/// An agent to be released.
pub(crate) struct AgentPlan {
    content: Vec<u8>,
    counter: u64,
    change: fn(&mut ReleaseManifest),
}

impl AgentPlan {
    fn new(content: impl Into<Vec<u8>>, counter: u64) -> Self {
        Self { content: content.into(), counter, change: |_| () }
    }

    /// A script that is this agent, except for what `body` does before.
    pub(crate) fn script(body: &str, counter: u64) -> Self {
        Self::new(format!("#!/bin/sh\n# {counter}\n{body}\nexec {AGENT} \"$@\"\n"), counter)
    }

    pub(crate) fn publish(self, cloud: &Cloud) -> DesiredModel {
        let file = "flotilla-agent";
        let engine = agent_engine(std::env::consts::OS, std::env::consts::ARCH);
        let mut manifest = ReleaseManifest {
            format: 1,
            kind: ReleaseKind::Agent,
            project: "default".parse().unwrap(),
            model: agent_name(),
            version: 1,
            counter: self.counter,
            created_at_ms: 0,
            expires_at_ms: None,
            variants: vec![Variant { engine, boards: vec![], model: file.into() }],
            files: vec![FileEntry::of(file, &self.content)],
            pipeline: Pipeline::none(),
            golden: String::new(),
            metrics: Metrics::default(),
            lineage: Lineage::default(),
            constraints: Constraints::default(),
            agent: Some(AgentFacts { version: env!("CARGO_PKG_VERSION").into() }),
            baseline: None,
        };
        (self.change)(&mut manifest);
        cloud.put(self.content);
        let envelope = Envelope::seal(EnvelopeKind::Release, &manifest, &[&release_key()]).to_bytes();
        let envelope_bytes = envelope.len() as u32;
        DesiredModel { release: cloud.put(envelope), envelope_bytes, attempt: 0 }
    }
}

pub(crate) fn want_agent(cloud: &mut Cloud, agent: &DesiredModel) {
    cloud.agent = Some(agent.clone());
    cloud.want();
}

pub(crate) fn agent_report(state: &State) -> Option<AgentReport> {
    state.reported.as_ref()?.agent.clone()
}

/// Waits until the device reports this agent release as confirmed.
pub(crate) async fn agent_confirmed(cloud: &Cloud, release: Digest) -> AgentReport {
    cloud
        .until("an upgraded agent", |state| {
            agent_report(state)
                .filter(|r| r.upgrade.phase == Phase::Confirmed && r.upgrade.confirmed == Some(release))
        })
        .await
}

/// Waits until the device reports that this agent release failed.
pub(crate) async fn agent_failed(cloud: &Cloud, release: Digest) -> (ErrorCode, AgentReport) {
    cloud
        .until("a refused agent", |state| {
            let report = agent_report(state).filter(|r| r.upgrade.phase == Phase::Failed)?;
            let failure = report.upgrade.failure.clone().filter(|f| f.release == release)?;
            Some((failure.code, report))
        })
        .await
}

/// Each event once: what was not acknowledged before the agent changed comes again.
fn events_of_agent(state: &State) -> Vec<EventKind> {
    let events = state.kept.values().filter_map(|record| match &record.body {
        RecordBody::Event(event) if event.model == Some(agent_name()) => Some(event.kind),
        _ => None,
    });
    events.collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_agent_is_fetched_tried_started_and_confirmed_and_reads_what_the_old_one_wrote() {
    let place = tempfile::tempdir().unwrap();
    let socket = place.path().join("notify");
    let manager = std::os::unix::net::UnixDatagram::bind(&socket).unwrap();
    let (mut cloud, device) = settled_in(vec![("NOTIFY_SOCKET", socket)]).await;
    let before = device.status().await;
    assert_eq!((&before["agent_slot"], &before["agent_upgrade"]["phase"]), (&Value::Null, &"idle".into()));
    // The same program with another byte behind its end: two agents that differ in their releases only.
    let program = std::fs::read(AGENT).unwrap();
    let megabytes = program.len() >> 20;
    for (counter, slot) in [(1, SlotName::A), (2, SlotName::B), (3, SlotName::A)] {
        let mut content = program.clone();
        content.push(counter as u8);
        let next = AgentPlan::new(content.clone(), counter).publish(&cloud);
        // Most of it is there from a download that was cut off: unoptimised programs are large.
        content.truncate(content.len() - 3 * limits::MIB);
        device.half_downloaded(&cloud, slot, &next, &content);
        let began = Instant::now();
        want_agent(&mut cloud, &next);
        let report = agent_confirmed(&cloud, next.release).await;
        println!(
            "agent upgrade {counter}: {megabytes} MiB, 3 of them fetched, confirmed in {:.1} s",
            began.elapsed().as_secs_f64()
        );
        assert_eq!((report.slot, report.upgrade.slot), (Some(slot), Some(slot)));
        assert_eq!(device.label().await, "a");
        let status = device.status().await;
        assert_eq!(status["agent_slot"], slot.as_str());
        let exe = std::fs::read_link(format!("/proc/{}/exe", status["pid"])).unwrap();
        assert!(exe.starts_with(device.path("agent").canonicalize().unwrap()), "{}", exe.display());
    }
    // The outbox went from hand to hand: one life, no number twice, every step is told.
    {
        let state = cloud.state();
        let epochs: std::collections::BTreeSet<_> = state.hellos.iter().map(|hello| hello.epoch).collect();
        assert_eq!(epochs.len(), 1, "the outbox is still the first one");
        let counters: Vec<u64> = state.hellos.iter().map(|hello| hello.counter).collect();
        assert!(counters.windows(2).all(|pair| pair[0] < pair[1]), "{counters:?}");
        let kinds = events_of_agent(&state);
        for kind in [EventKind::Probed, EventKind::Switched, EventKind::Confirmed] {
            assert_eq!(kinds.iter().filter(|k| **k == kind).count(), 3, "{kinds:?}");
        }
    }
    let text = String::from_utf8(device.command(&["status"]).await.stdout).unwrap();
    assert!(text.contains("slot a, upgrade confirmed"), "{text}");

    // systemd would end the whole service soon after one of them had said that it stops.
    manager.set_nonblocking(true).unwrap();
    let mut buffer = [0; 256];
    let heard =
        || manager.recv(&mut buffer).ok().map(|n| String::from_utf8_lossy(&buffer[..n]).trim().to_owned());
    let said: Vec<String> = std::iter::from_fn(heard).collect();
    assert_eq!(said, ["READY=1"; 4]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_agent_that_crashes_goes_back_by_itself_without_a_network_and_can_be_tried_again() {
    let (mut cloud, device) = settled().await;
    let good = AgentPlan::script("", 1).publish(&cloud);
    want_agent(&mut cloud, &good);
    agent_confirmed(&cloud, good.release).await;

    // It passes its self-test once the network is gone, and then does not stay up.
    let (gate, starts) = (device.path("gate"), device.path("starts"));
    let body = format!(
        "case $1 in run) echo x >>{}; exit 101;; self-test) while [ ! -e {} ]; do sleep 0.02; done;; esac",
        starts.display(),
        gate.display()
    );
    let bad = AgentPlan::script(&body, 2).publish(&cloud);
    want_agent(&mut cloud, &bad);
    cloud.until("the self-test", |s| agent_report(s).filter(|r| r.upgrade.phase == Phase::Probing)).await;
    cloud.stop().await;
    std::fs::write(&gate, "").unwrap();
    let back = device.until("the old agent", async |d| {
        let status = d.status().await;
        (status["agent_upgrade"]["phase"] == "failed").then_some(status)
    });
    let back = back.await;
    assert_eq!(std::fs::read_to_string(&starts).unwrap().lines().count(), 3, "its starts are counted");
    assert_eq!(back["agent_slot"], "a");
    assert_eq!(back["agent_upgrade"]["failure"]["code"], "agent_crashed");
    assert_eq!(device.label().await, "a");

    // The cloud hears of it when it is back.
    cloud.resume().await;
    let (code, report) = agent_failed(&cloud, bad.release).await;
    assert_eq!((code, report.upgrade.confirmed), (ErrorCode::AgentCrashed, Some(good.release)));
    cloud
        .until("the event", |s| {
            let reverted = |e: &&flotilla_protocol::message::EventRecord| {
                e.kind == EventKind::Reverted && e.model == Some(agent_name())
            };
            s.events().find(reverted).filter(|e| e.code == Some(ErrorCode::AgentCrashed)).map(drop)
        })
        .await;
    // The operator wants it tried again: it gets its starts again, and the next one is let in.
    want_agent(&mut cloud, &DesiredModel { attempt: 1, ..bad.clone() });
    device
        .until("three more starts", async |_| {
            (std::fs::read_to_string(&starts).unwrap().lines().count() == 6).then_some(())
        })
        .await;
    cloud
        .until("the second failure", |s| {
            agent_report(s).filter(|r| r.upgrade.phase == Phase::Failed && r.upgrade.attempt == 1)
        })
        .await;
    let next = AgentPlan::script("", 3).publish(&cloud);
    want_agent(&mut cloud, &next);
    assert_eq!(agent_confirmed(&cloud, next.release).await.slot, Some(SlotName::B));
}

#[tokio::test(flavor = "multi_thread")]
async fn agents_that_must_not_run_here_never_do() {
    let (mut cloud, device) = settled().await;
    let whole = std::fs::read(AGENT).unwrap();
    let foreign = |m: &mut ReleaseManifest| m.variants[0].engine = agent_engine("linux", "pdp-11");
    let other = |m: &mut ReleaseManifest| m.agent = Some(AgentFacts { version: "9.9.9".into() });
    let expired = |m: &mut ReleaseManifest| m.expires_at_ms = Some(1);
    let plans = [
        (AgentPlan::script("[ $1 = self-test ] && exit 1", 1), ErrorCode::ProbeCrashed),
        (AgentPlan::new(whole[..whole.len() / 3].to_vec(), 2), ErrorCode::ProbeCrashed),
        (AgentPlan::new(b"no program at all".to_vec(), 3), ErrorCode::ProbeCrashed),
        (AgentPlan { change: other, ..AgentPlan::script("", 4) }, ErrorCode::ProbeMismatch),
        (AgentPlan { change: foreign, ..AgentPlan::script("", 5) }, ErrorCode::BoardMismatch),
        (AgentPlan { change: expired, ..AgentPlan::script("", 6) }, ErrorCode::Expired),
    ];
    let mut refused = 0;
    for (plan, expected) in plans {
        let counter = plan.counter;
        let bad = plan.publish(&cloud);
        want_agent(&mut cloud, &bad);
        let (code, report) = agent_failed(&cloud, bad.release).await;
        assert_eq!(code, expected, "release {counter}: {:?}", report.upgrade.failure);
        refused += 1;
    }
    // A model is no agent, and an agent no model.
    let model = Plan::good(1).publish(&cloud);
    want_agent(&mut cloud, &model);
    assert_eq!(agent_failed(&cloud, model.release).await.0, ErrorCode::Unsupported);
    let agent = AgentPlan::script("", 7).publish(&cloud);
    want(&mut cloud, &agent);
    cloud
        .until("a refused model", |s| {
            let failure = s.reported.as_ref()?.models.get(&letters())?.failure.clone()?;
            (failure.release == agent.release).then_some(failure.code)
        })
        .await;
    assert_eq!(device.label().await, "a");
    assert_eq!(device.launch_file().read().0, Default::default(), "the launcher was never asked");
    println!("agents refused before they run: {}", refused + 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_floor_of_agents_is_kept() {
    let (mut cloud, device) = settled().await;
    let floors = BTreeMap::from([(agent_name(), 5)]);
    cloud.state().trust = Some(cloud.trust(2, floors).to_bytes());
    let old = AgentPlan::script("", 4).publish(&cloud);
    // Devices ask for the trust file when they connect.
    cloud.stop().await;
    cloud.resume().await;
    device.until("the trust file", async |d| (d.status().await["trust_version"] == 2).then_some(())).await;
    want_agent(&mut cloud, &old);
    assert_eq!(agent_failed(&cloud, old.release).await.0, ErrorCode::BelowFloor);
    let new = AgentPlan::script("", 5).publish(&cloud);
    want_agent(&mut cloud, &new);
    agent_confirmed(&cloud, new.release).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn damage_to_the_agents_slot_or_journals_is_survived_and_healed() {
    let (mut cloud, mut device) = settled().await;
    let next = AgentPlan::script("", 1).publish(&cloud);
    want_agent(&mut cloud, &next);
    agent_confirmed(&cloud, next.release).await;

    // One byte of the binary: the installed agent runs, says so, and fetches the wanted one anew.
    device.kill_launcher().await;
    let binary = device.path("agent/slot-a/files/flotilla-agent");
    let mut bytes = std::fs::read(&binary).unwrap();
    bytes[3] ^= 1;
    std::fs::write(&binary, bytes).unwrap();
    cloud.state().reported = None;
    device.launch();
    agent_confirmed(&cloud, next.release).await;
    cloud
        .until("an event about it", |s| {
            s.events()
                .any(|e| e.code == Some(ErrorCode::StorageCorrupt) && e.model == Some(agent_name()))
                .then_some(())
        })
        .await;
    assert_eq!(device.label().await, "a");

    // All journals, and no network: the confirmed agent is found again from what is left.
    for damaged in [&["launch", "launch.copy"][..], &["journal"], &["launch", "journal"]] {
        device.kill_launcher().await;
        cloud.stop().await;
        for name in damaged {
            std::fs::write(device.path("agent").join(name), b"rubbish").unwrap();
        }
        device.launch();
        let slot = device.until("the confirmed agent", async |d| {
            let status = d.status().await;
            let confirmed = &status["agent_upgrade"]["confirmed"];
            let slot = status["agent_slot"].as_str().map(ToOwned::to_owned);
            slot.filter(|_| confirmed == &next.release.to_string())
        });
        println!("damaged {damaged:?}: the confirmed agent runs from slot {}", slot.await);
        assert_eq!(device.label().await, "a");
        cloud.state().reported = None;
        cloud.resume().await;
        agent_confirmed(&cloud, next.release).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_without_the_launcher_says_that_it_cannot_be_replaced() {
    let mut cloud = Cloud::start().await;
    let next = AgentPlan::script("", 1).publish(&cloud);
    want_agent(&mut cloud, &next);
    let device = crate::device::Device::started(&cloud).await;
    let (code, report) = agent_failed(&cloud, next.release).await;
    assert_eq!((code, report.slot), (ErrorCode::Unsupported, None));
    assert!(!device.path("agent/slot-a").exists());
}

/// Rounds of kills; `FLOTILLA_UPGRADE_KILLS` takes more.
fn rounds() -> u64 {
    std::env::var("FLOTILLA_UPGRADE_KILLS").ok().and_then(|text| text.parse().ok()).unwrap_or(12)
}

#[tokio::test(flavor = "multi_thread")]
async fn kills_of_launcher_and_agent_all_over_an_upgrade_leave_an_agent_that_works() {
    let (mut cloud, mut device) = settled().await;
    let (mut kills, mut bad, mut wrong) = (0, 0, 0);
    for round in 1..=rounds() {
        let next = AgentPlan::script("", round).publish(&cloud);
        // The steps are passed quickly, so the kills are put all over them by the journals' own writes.
        let journals = [device.path("agent/journal"), device.path("agent/launch")];
        let read = || journals.each_ref().map(|path| std::fs::read(path).unwrap_or_default());
        let mut seen = read();
        want_agent(&mut cloud, &next);
        for _ in 0..=round % 6 {
            device
                .until("a journal write", async |_| {
                    let done = agent_report(&cloud.state())
                        .is_some_and(|r| r.upgrade.confirmed == Some(next.release));
                    (read() != seen || done).then_some(())
                })
                .await;
            seen = read();
        }
        match round % 3 {
            0 => kills += usize::from(device.kill_agent().await),
            1 => {
                device.kill_launcher().await;
                kills += 1;
                device.launch();
            }
            _ => {
                kills += usize::from(device.kill_agent().await);
                device.kill_launcher().await;
                kills += 1;
                device.launch();
            }
        }
        bad += usize::from(device.label().await != "a");
        let report = agent_confirmed(&cloud, next.release).await;
        let launched = device.launch_file().read().0.confirmed.map(|binary| (binary.slot, binary.release));
        wrong += usize::from(launched != report.slot.map(|slot| (slot, next.release)));
    }
    println!("agent upgrades: {} rounds, {kills} kills, {bad} bricked, {wrong} wrong version", rounds());
    assert_eq!((bad, wrong), (0, 0));
    let state = cloud.state();
    let epochs: std::collections::BTreeSet<_> = state.hellos.iter().map(|hello| hello.epoch).collect();
    assert_eq!(epochs.len(), 1, "no outbox was lost");
}
