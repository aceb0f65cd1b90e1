//! A fleet of simulated devices as a child process.

use crate::{Plane, binary, run_ok};
use serde_json::Value;
use std::fs::File;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use tempfile::TempDir;

/// A running `flotilla simulate`. Killed when dropped.
pub struct Simulation {
    process: Option<Child>,
    log: PathBuf,
    _folder: TempDir,
}

impl Simulation {
    /// Starts so many devices, which enrol first, with further arguments of `flotilla simulate`.
    pub fn start(plane: &Plane, devices: u32, arguments: &[&str]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let claim = folder.path().join("claim");
        plane.claim_for(&claim, devices);
        let log = folder.path().join("log");
        let process = Command::new(binary("flotilla"))
            .args(["simulate", "--devices", &devices.to_string(), "-o", "json", "--claim"])
            .arg(&claim)
            .args(arguments)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(File::create(&log).unwrap())
            .spawn()
            .unwrap();
        Self { process: Some(process), log, _folder: folder }
    }

    /// What it has said of its way so far.
    pub fn said(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// Its process.
    pub fn pid(&self) -> u32 {
        self.process.as_ref().unwrap().id()
    }

    /// Waits until it ends by itself, and gives its report.
    pub fn report(mut self) -> Value {
        let output = self.process.take().unwrap().wait_with_output().unwrap();
        assert!(output.status.success(), "the simulation ended with {}", output.status);
        serde_json::from_slice(&output.stdout).unwrap()
    }

    /// SIGINT, as Ctrl-C sends it; gives the report.
    pub fn stop(self) -> Value {
        run_ok(Command::new("kill").args(["-INT", &self.pid().to_string()]));
        self.report()
    }
}

impl Drop for Simulation {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("--- the simulation said\n{}", self.said());
        }
        if let Some(process) = &mut self.process {
            drop(process.kill());
            drop(process.wait());
        }
    }
}
