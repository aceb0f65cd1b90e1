//! The real launcher with small scripts in place of agents: what is started, how often, and what ends it.
#![expect(clippy::unwrap_used, reason = "tests fail by panicking")]

use flotilla_device::launch::{Binary, CRASHES, LaunchJournal, TRIAL_STARTS, Terms, Trial, Why};
use flotilla_launcher::disk::FolderDisk;
use flotilla_launcher::journal::LaunchFile;
use flotilla_launcher::{AGENT, lock, slot_folder};
use flotilla_protocol::Digest;
use flotilla_protocol::message::SlotName;
use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// How long a test waits for what must happen. It bounds a broken run and measures nothing.
const PATIENCE: Duration = Duration::from_secs(60);

/// Runs until its standard input ends.
const STAYS: &str = "cat >/dev/null; echo \"$0 stopped\" >>\"$4/starts\"; exit 0";
const FAILS: &str = "exit 101";
/// Holds the folder as an agent does, and neither hears nor does anything.
const HANGS: &str = "exec 9>>\"$4/lock\"; flock -n 9 || exit 6; exec sleep 1000 </dev/null";

/// A device with scripts for agents. Each notes its start in `starts`: its own path and what it was told.
struct Device {
    root: tempfile::TempDir,
    launcher: Option<Child>,
}

impl Device {
    fn new(installed: &str) -> Self {
        let device = Self { root: tempfile::tempdir().unwrap(), launcher: None };
        script(&device.path("installed"), installed);
        device
    }

    fn path(&self, name: &str) -> PathBuf {
        self.root.path().join(name)
    }

    fn file(&self) -> LaunchFile {
        LaunchFile::new(Arc::new(FolderDisk::new(self.root.path()).unwrap()))
    }

    /// Where a slot's binary lies.
    fn binary(&self, slot: SlotName) -> PathBuf {
        slot_folder(&self.path(AGENT), slot).join("files/agent")
    }

    fn journal(&self) -> LaunchJournal {
        self.file().read().0
    }

    /// Puts a script into a slot, as the agent does with a binary.
    fn slot(&self, slot: SlotName, body: &str) -> Binary {
        let path = self.binary(slot);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        script(&path, body);
        let content = fs::read(&path).unwrap();
        Binary {
            slot,
            release: Digest::of(&content),
            counter: 1,
            version: "1".into(),
            file: "agent".into(),
            bytes: content.len() as u64,
            crc: crc32fast::hash(&content),
        }
    }

    fn start(&mut self) {
        let log = fs::File::options().create(true).append(true).open(self.path("log")).unwrap();
        let launcher = Command::new(env!("CARGO_BIN_EXE_flotilla-launcher"))
            .arg("--dir")
            .arg(self.root.path())
            .arg("--agent")
            .arg(self.path("installed"))
            .args(["--", "--listen", "127.0.0.1:0"])
            .stdin(Stdio::null())
            .stderr(log)
            .spawn()
            .unwrap();
        self.launcher = Some(launcher);
    }

    /// Every start so far: script and place.
    fn starts(&self) -> Vec<String> {
        let text = fs::read_to_string(self.path("starts")).unwrap_or_default();
        text.lines().map(ToOwned::to_owned).collect()
    }

    fn count(&self, what: &str) -> usize {
        self.starts().iter().filter(|start| start.ends_with(what)).count()
    }

    fn until(&self, what: &str, check: impl Fn(&Self) -> bool) {
        let started = Instant::now();
        while !check(self) {
            let log = fs::read_to_string(self.path("log")).unwrap_or_default();
            assert!(started.elapsed() < PATIENCE, "{what} did not happen\n{:?}\n{log}", self.starts());
            // Another process is observed, which tells nobody when it gets there.
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// Whether the agent that was started last is still there.
    fn agent_lives(&self) -> bool {
        let pid = fs::read_to_string(self.path("pid")).unwrap();
        let stat = fs::read_to_string(format!("/proc/{}/stat", pid.trim())).unwrap_or_default();
        stat.rsplit(") ").next().is_some_and(|rest| !rest.is_empty() && !rest.starts_with(['Z', 'X']))
    }

    fn signal(&mut self, signal: &str) -> ExitStatus {
        let mut launcher = self.launcher.take().unwrap();
        let sent = Command::new("kill").args([signal, &launcher.id().to_string()]).status().unwrap();
        assert!(sent.success());
        launcher.wait().unwrap()
    }
}

impl Drop for Device {
    fn drop(&mut self) {
        if let Some(launcher) = &mut self.launcher {
            let _ = launcher.kill();
            let _ = launcher.wait();
        }
    }
}

/// `$4` is the folder: the launcher's arguments are `run --until-stdin-closes --dir DIR …`.
fn script(path: &Path, body: &str) {
    let text =
        format!("#!/bin/sh\necho $$ >\"$4/pid\"\necho \"$0 $FLOTILLA_LAUNCHED\" >>\"$4/starts\"\n{body}\n");
    fs::write(path, text).unwrap();
    fs::set_permissions(path, Permissions::from_mode(0o700)).unwrap();
}

fn on_trial(binary: Binary, confirmed: Option<Binary>, patience_ms: u64) -> LaunchJournal {
    let terms = Terms { patience_ms, probation_ms: 0, online: false, silent: 0 };
    let candidate = Some(Trial::new(binary, terms));
    LaunchJournal { confirmed, candidate, ..LaunchJournal::default() }
}

#[test]
fn the_installed_agent_is_started_and_stopped_with_the_launcher() {
    let mut device = Device::new(STAYS);
    device.start();
    device.until("a start", |d| d.count(" installed") == 1);
    assert!(device.signal("-TERM").success());
    assert_eq!(device.count(" stopped"), 1, "the agent has ended before the launcher does");
}

#[test]
fn an_agent_does_not_outlive_a_killed_launcher_and_the_next_launcher_starts_one_again() {
    let mut device = Device::new(STAYS);
    device.start();
    device.until("a start", |d| d.count(" installed") == 1);
    assert!(!device.signal("-KILL").success());
    device.until("the end of the agent", |d| !d.agent_lives());
    device.start();
    device.until("another start", |d| d.count(" installed") == 2);
}

#[test]
fn an_agent_that_ends_is_started_again() {
    let mut device =
        Device::new("if [ -e \"$4/once\" ]; then cat >/dev/null; fi; touch \"$4/once\"; kill -9 $$");
    device.start();
    device.until("a second start", |d| d.count(" installed") == 2);
    assert!(device.signal("-INT").success());
}

#[test]
fn a_second_launcher_on_the_folder_is_told_so() {
    let mut device = Device::new(STAYS);
    device.start();
    device.until("a start", |d| d.count(" installed") == 1);
    let second = Command::new(env!("CARGO_BIN_EXE_flotilla-launcher"))
        .arg("--dir")
        .arg(device.root.path())
        .output()
        .unwrap();
    assert_eq!(second.status.code(), Some(6), "{}", String::from_utf8_lossy(&second.stderr));
    assert_eq!(device.starts().len(), 1);
}

#[test]
fn a_candidate_that_crashes_gets_its_starts_and_then_the_one_before_runs_again() {
    let mut device = Device::new("exit 3");
    let (old, new) = (device.slot(SlotName::A, STAYS), device.slot(SlotName::B, FAILS));
    device.file().store(&on_trial(new.clone(), Some(old.clone()), 600_000)).unwrap();
    device.start();
    device.until("the confirmed agent", |d| d.count(" a") == 1);
    assert_eq!(device.count(" b"), TRIAL_STARTS as usize);
    let journal = device.journal();
    assert_eq!((journal.confirmed, journal.candidate), (Some(old), None));
    let given_up = journal.given_up.unwrap();
    assert_eq!((given_up.release, given_up.why, given_up.starts), (new.release, Why::Crashed, TRIAL_STARTS));
    assert!(given_up.detail.contains("101"), "{}", given_up.detail);
}

#[test]
fn a_candidate_that_runs_but_confirms_nothing_is_stopped_when_its_time_is_over() {
    let mut device = Device::new(STAYS);
    let silent = device.slot(SlotName::A, STAYS);
    device.file().store(&on_trial(silent, None, 300)).unwrap();
    device.start();
    device.until("the installed agent", |d| d.count(" installed") == 1);
    assert_eq!((device.count(" a"), device.count(" stopped")), (1, 1));
    assert_eq!(device.journal().given_up.unwrap().why, Why::Late);
}

#[test]
fn kills_of_the_launcher_during_a_trial_do_not_give_a_candidate_more_starts() {
    let mut device = Device::new(STAYS);
    let candidate = device.slot(SlotName::A, STAYS);
    device.file().store(&on_trial(candidate, None, 600_000)).unwrap();
    let mut kills = 0;
    while device.count(" installed") == 0 {
        let before = device.starts().iter().filter(|s| !s.ends_with(" stopped")).count();
        device.start();
        device.until("a start", |d| {
            d.starts().iter().filter(|s| !s.ends_with(" stopped")).count() == before + 1
        });
        device.signal("-KILL");
        kills += 1;
    }
    assert_eq!(device.count(" a"), TRIAL_STARTS as usize);
    println!(
        "launcher: {kills} kills, {} starts of the candidate, the installed agent runs",
        device.count(" a")
    );
}

#[test]
fn a_confirmed_agent_that_does_not_stay_up_gives_way_to_the_one_before_for_good() {
    let mut device = Device::new(STAYS);
    let (spare, confirmed) = (device.slot(SlotName::A, STAYS), device.slot(SlotName::B, FAILS));
    let (spare_of, confirmed_of) = (Some(spare.clone()), Some(confirmed.clone()));
    let journal = LaunchJournal { confirmed: confirmed_of, spare: spare_of, ..LaunchJournal::default() };
    device.file().store(&journal).unwrap();
    // Also when the whole device goes down with it: the launcher does not see its end.
    for starts in 1..=2 {
        device.start();
        device.until("a start", |d| d.count(" b") == starts);
        device.signal("-KILL");
    }
    device.start();
    device.until("the agent before", |d| d.count(" a") == 1);
    assert_eq!(device.count(" b"), CRASHES as usize);
    let journal = device.journal();
    assert_eq!((journal.confirmed, journal.spare), (Some(spare), None));
    let given_up = journal.given_up.unwrap();
    assert_eq!((given_up.release, given_up.why), (confirmed.release, Why::Crashed));
}

#[test]
fn restarts_of_the_device_that_are_in_order_are_not_held_against_the_agent() {
    let mut device = Device::new(STAYS);
    let confirmed = Some(device.slot(SlotName::B, STAYS));
    let journal = LaunchJournal { confirmed, ..LaunchJournal::default() };
    device.file().store(&journal).unwrap();
    for starts in 1..=2 * CRASHES as usize {
        device.start();
        device.until("a start", |d| d.count(" b") == starts);
        assert!(device.signal("-TERM").success());
    }
    assert_eq!((device.journal(), device.count(" installed")), (journal, 0));
}

#[test]
fn an_agent_that_hangs_does_not_keep_the_next_launcher_from_starting_one() {
    let mut device = Device::new(STAYS);
    let hangs = device.slot(SlotName::A, HANGS);
    device.file().store(&on_trial(hangs, None, 600_000)).unwrap();
    for starts in 1..=TRIAL_STARTS as usize {
        device.start();
        device.until("a start", |d| d.count(" a") == starts && lock::agent(d.root.path()).is_err());
        device.signal("-KILL");
    }
    device.start();
    device.until("the installed agent", |d| d.count(" installed") == 1);
    assert_eq!(device.count(" a"), TRIAL_STARTS as usize);
}

#[test]
fn while_somebody_holds_the_folder_nothing_is_started_and_no_start_counted() {
    let mut device = Device::new(STAYS);
    let candidate = device.slot(SlotName::A, STAYS);
    device.file().store(&on_trial(candidate, None, 600_000)).unwrap();
    let lock = lock::agent(device.root.path()).unwrap();
    for waits in 1..=2 * TRIAL_STARTS as usize {
        device.start();
        device.until("a launcher that waits", |d| {
            let log = fs::read_to_string(d.path("log")).unwrap_or_default();
            log.matches("waits for an agent").count() == waits
        });
        device.signal("-KILL");
    }
    assert_eq!((device.starts().len(), device.journal().candidate.unwrap().starts), (0, 0));
    device.start();
    drop(lock);
    device.until("the candidate", |d| d.count(" a") == 1);
    assert_eq!(device.journal().candidate.unwrap().starts, 1);
}

#[test]
fn a_launcher_that_is_stopped_while_it_waits_for_the_folder_starts_nothing() {
    let mut device = Device::new(STAYS);
    let candidate = device.slot(SlotName::A, STAYS);
    device.file().store(&on_trial(candidate, None, 600_000)).unwrap();
    let lock = lock::agent(device.root.path()).unwrap();
    device.start();
    device.until("the launcher", |d| d.path("agent/lock").exists());
    device.until("a launcher that waits", |d| {
        fs::read_to_string(d.path("log")).unwrap_or_default().contains("waits for an agent")
    });
    assert!(device.signal("-TERM").success());
    drop(lock);
    assert_eq!((device.starts().len(), device.journal().candidate.unwrap().starts), (0, 0));
}

#[test]
fn a_damaged_binary_or_journal_falls_back_to_what_works() {
    let mut device = Device::new(STAYS);
    let (spare, confirmed) = (device.slot(SlotName::A, STAYS), device.slot(SlotName::B, STAYS));
    let journal = LaunchJournal {
        confirmed: Some(confirmed.clone()),
        spare: Some(spare.clone()),
        ..LaunchJournal::default()
    };
    device.file().store(&journal).unwrap();
    let path = |binary: &Binary| device.binary(binary.slot);
    let (spare, confirmed) = (path(&spare), path(&confirmed));
    let run = |device: &mut Device| {
        let before = device.starts().len();
        device.start();
        device.until("a start", |d| d.starts().len() > before);
        device.signal("-TERM");
        device.starts()[before].clone()
    };
    assert!(run(&mut device).ends_with(" b"));
    // One bit of the confirmed binary.
    let mut bytes = fs::read(&confirmed).unwrap();
    let last = bytes.len() - 2;
    bytes[last] ^= 1;
    fs::write(&confirmed, &bytes).unwrap();
    assert!(run(&mut device).ends_with(" a"));
    // The spare is gone altogether.
    fs::remove_file(&spare).unwrap();
    assert!(run(&mut device).ends_with(" installed"));
    // The confirmed one is whole again, and one copy of the journal is damaged.
    bytes[last] ^= 1;
    fs::write(&confirmed, &bytes).unwrap();
    fs::write(device.path("agent/launch"), b"rubbish").unwrap();
    assert!(run(&mut device).ends_with(" b"));
    // Both are.
    fs::write(device.path("agent/launch"), b"").unwrap();
    fs::write(device.path("agent/launch.copy"), b"FLJ\x01").unwrap();
    assert!(run(&mut device).ends_with(" installed"));
}

#[test]
fn an_agent_hands_over_by_its_exit_code() {
    let switch = "cp \"$4/next\" \"$4/agent/launch\"; exit 10";
    let mut device = Device::new(switch);
    let next = device.slot(SlotName::A, STAYS);
    fs::write(device.path("next"), on_trial(next, None, 600_000).to_bytes()).unwrap();
    device.start();
    device.until("the next agent", |d| d.count(" a") == 1);
    assert_eq!(device.starts().len(), 2);
    assert_eq!(device.journal().candidate.unwrap().starts, 1);
}

#[test]
fn the_command_line_says_what_is_wrong() {
    let run = |arguments: &[&str]| {
        let output = Command::new(env!("CARGO_BIN_EXE_flotilla-launcher")).args(arguments).output().unwrap();
        (output.status.code(), String::from_utf8(output.stderr).unwrap())
    };
    for (arguments, word) in
        [(&["--dirr", "x"][..], "--dirr"), (&["--agent", "x"], "--dir"), (&["--dir"], "--dir")]
    {
        let (code, text) = run(arguments);
        assert_eq!(code, Some(2));
        assert!(text.lines().next().unwrap().contains(word), "{text}");
    }
    assert_eq!(run(&["--help"]).0, Some(0));
    assert_eq!(run(&["--version"]).0, Some(0));
}
