//! The NPU through a library and a program that speak what the real ones are documented to speak.
#![expect(clippy::unwrap_used, reason = "tests fail by panicking")]

use flotilla_agent::npu::{Npus, Sources};
use flotilla_protocol::message::{NpuHealth, NpuSample};
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

#[test]
fn no_library_at_all_or_something_else_in_its_place_is_no_trouble() {
    let mut machine = Machine::new();
    machine.sources.libraries.push(machine.root.path().join("missing.so"));
    let other = machine.root.path().join("other.so");
    fs::write(&other, "no library").unwrap();
    machine.sources.libraries.push(other);
    assert!(machine.sample().is_empty());
}
