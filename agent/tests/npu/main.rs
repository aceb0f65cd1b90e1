//! The NPU through a library and a program that speak what the real ones are documented to speak.
#![expect(clippy::unwrap_used, reason = "tests fail by panicking")]

use flotilla_agent::folder::Folder;
use flotilla_agent::npu::{Npus, Sources};
use flotilla_agent::outbox::Store;
use flotilla_protocol::limits;
use flotilla_protocol::message::{NpuHealth, NpuSample, RecordBody, TelemetrySample};
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

/// A machine with one NPU.
struct Machine {
    root: tempfile::TempDir,
    sources: Sources,
}

impl Machine {
    fn new() -> Self {
        let root = tempfile::tempdir().unwrap();
        let devices = root.path().join("dev");
        fs::create_dir(&devices).unwrap();
        for node in ["davinci0", "davinci_manager", "null"] {
            fs::write(devices.join(node), "").unwrap();
        }
        let sources = Sources { devices, libraries: Vec::new(), programs: Vec::new() };
        Self { root, sources }
    }

    fn library(mut self) -> Self {
        let library = self.root.path().join("libdcmi.so");
        let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/npu/dcmi.c");
        let built =
            Command::new("cc").args(["-shared", "-fPIC", "-o"]).arg(&library).arg(source).output().unwrap();
        assert!(built.status.success(), "{}", String::from_utf8_lossy(&built.stderr));
        self.sources.libraries.push(library);
        self
    }

    fn program(mut self, script: &str) -> Self {
        let path = self.root.path().join("npu-smi");
        fs::write(&path, format!("#!/bin/sh\n{script}\n")).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
        self.sources.programs.push(path);
        self
    }

    fn sample(&self) -> Vec<NpuSample> {
        Npus::new(self.sources.clone()).first(Duration::from_secs(20))
    }
}

const TABLE: &str = "cat <<'T'
| NPU     Name | Health | Power(W) Temp(C) Hugepages-Usage(page) |
| Chip    Device | Bus-Id | AICore(%) Memory-Usage(MB) |
| 0       310B4 | Alarm | 0.0 65 15 / 15 |
| 0       0 | NA | 0 3628 / 15609 |
T";

/// The library's ways go by an environment variable, so each is tried in a process of its own.
fn in_mode(mode: &str, test: &str) -> bool {
    if std::env::var("DCMI_MODE").is_ok() {
        return true;
    }
    let program: PathBuf = std::env::current_exe().unwrap();
    let output =
        Command::new(program).args([test, "--exact", "--nocapture"]).env("DCMI_MODE", mode).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    false
}

#[test]
fn without_a_device_node_nothing_is_loaded_or_run() {
    let machine = Machine::new().library().program("touch \"$0.ran\"");
    fs::remove_file(machine.sources.devices.join("davinci0")).unwrap();
    assert!(machine.sample().is_empty());
    assert!(!machine.root.path().join("npu-smi.ran").exists());
}

#[test]
fn the_library_tells_chip_use_memory_temperature_and_health() {
    let machine = Machine::new().library().program("exit 1");
    let unit = NpuSample {
        chip: "310B4".to_owned(),
        utilisation_percent: Some(42),
        memory_total_mb: Some(15_609),
        memory_used_mb: Some(3_628),
        temperature_c: Some(65),
        power_w: None,
        health: Some(NpuHealth::Alarm),
    };
    assert_eq!(machine.sample(), [unit]);
}

#[test]
fn without_the_library_the_program_tells_them() {
    let machine = Machine::new().program(TABLE);
    let units = machine.sample();
    assert_eq!(
        (units.len(), units[0].memory_used_mb, units[0].health),
        (1, Some(3_628), Some(NpuHealth::Alarm))
    );
    let machine = Machine::new().program("exit 3");
    assert!(machine.sample().is_empty());
}

#[test]
fn a_library_that_cannot_be_set_up_gives_way_to_the_program() {
    if in_mode("fails", "a_library_that_cannot_be_set_up_gives_way_to_the_program") {
        assert_eq!(Machine::new().library().program(TABLE).sample().len(), 1);
    }
}

#[test]
fn a_library_that_answers_rubbish_harms_nothing() {
    if in_mode("rubbish", "a_library_that_answers_rubbish_harms_nothing") {
        assert!(Machine::new().library().sample().is_empty());
    }
}

#[test]
fn a_library_or_program_that_hangs_holds_nobody_up() {
    if in_mode("hangs", "a_library_or_program_that_hangs_holds_nobody_up") {
        for machine in [Machine::new().library(), Machine::new().program("exec sleep 1000")] {
            let started = Instant::now();
            let mut npus = Npus::new(machine.sources.clone());
            for _ in 0..100 {
                assert!(npus.sample().is_empty());
            }
            assert!(started.elapsed() < Duration::from_secs(10), "{:?}", started.elapsed());
            assert!(npus.first(Duration::from_millis(100)).is_empty());
        }
    }
}

/// Threads of this process that read an NPU.
fn readers() -> usize {
    let tasks = fs::read_dir("/proc/self/task").unwrap().flatten();
    let name = |task: fs::DirEntry| fs::read_to_string(task.path().join("comm")).unwrap_or_default();
    tasks.filter(|task| task.path().exists()).map(name).filter(|name| name.trim() == "npu").count()
}

#[test]
fn whoever_asks_again_while_the_library_hangs_makes_no_second_reader_of_it() {
    if in_mode("hangs", "whoever_asks_again_while_the_library_hangs_makes_no_second_reader_of_it") {
        let machine = Machine::new().library();
        for _ in 0..5 {
            assert!(Npus::new(machine.sources.clone()).first(Duration::from_millis(20)).is_empty());
        }
        assert_eq!(readers(), 1);
    }
}

#[test]
fn what_the_program_has_started_ends_with_it() {
    let machine = Machine::new().program("sleep 1000 &\necho $! > \"$0.child\"\nwait");
    assert!(machine.sample().is_empty());
    let child = fs::read_to_string(machine.root.path().join("npu-smi.child")).unwrap();
    let started = Instant::now();
    loop {
        // Whoever inherits it may never take note of its end.
        let stat = fs::read_to_string(format!("/proc/{}/stat", child.trim())).unwrap_or_default();
        if stat.is_empty() || stat.contains(") Z ") {
            break;
        }
        assert!(started.elapsed() < Duration::from_secs(30), "it lives on: {stat}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

#[test]
fn a_name_without_end_is_cut_and_costs_the_outbox_nothing() {
    let name = "x".repeat(10 << 10);
    let machine = Machine::new().program(&TABLE.replace("310B4", &format!("310\u{1b}{name}")));
    let npus = machine.sample();
    assert_eq!(npus.len(), 1);
    assert!(npus[0].chip.starts_with("310xxx") && npus[0].chip.len() == limits::ID, "{}", npus[0].chip);

    let folder = Folder::open(&machine.root.path().join("agent")).unwrap();
    let (mut outbox, _) = Store::open(&folder).unwrap();
    let sample = TelemetrySample { npus, ..TelemetrySample::default() };
    assert!(outbox.append(1, RecordBody::Sample(sample)).unwrap());
    drop(outbox);
    let (mut outbox, damage) = Store::open(&folder).unwrap();
    outbox.connected();
    assert_eq!((damage, outbox.waiting()), (None, 1));
    assert!(outbox.next(0).unwrap().is_some());
}

#[test]
fn no_library_at_all_or_something_else_in_its_place_is_no_trouble() {
    let mut machine = Machine::new();
    machine.sources.libraries.push(machine.root.path().join("missing.so"));
    let other = machine.root.path().join("other.so");
    fs::write(&other, "no library").unwrap();
    machine.sources.libraries.push(other);
    assert!(machine.sample().is_empty());
}
