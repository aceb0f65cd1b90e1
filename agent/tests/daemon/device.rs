//! The agent process on its own folder.

use crate::cloud::{Cloud, PATIENCE};
use flotilla_device::update::UpdateJournal;
use serde_json::Value;
use std::path::PathBuf;
use std::process::{Output, Stdio};
use std::time::{Duration, Instant};
use tokio::process::{Child, Command};

const AGENT: &str = env!("CARGO_BIN_EXE_flotilla-agent");

pub(crate) struct Device {
    root: tempfile::TempDir,
    child: Option<Child>,
}

impl Device {
    /// An enrolled device whose agent does not run yet.
    pub(crate) fn new(cloud: &Cloud) -> Self {
        let root = tempfile::tempdir().unwrap();
        cloud.admit(root.path());
        Self { root, child: None }
    }

    pub(crate) async fn started(cloud: &Cloud) -> Self {
        let mut device = Self::new(cloud);
        device.start().await;
        device
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.root.path().join(name)
    }

    pub(crate) async fn start(&mut self) {
        let _ = std::fs::remove_file(self.path("run/endpoint"));
        let log = std::fs::OpenOptions::new().append(true).create(true).open(self.path("log")).unwrap();
        let child = Command::new(AGENT)
            .args(["run", "--dir"])
            .arg(self.root.path())
            .env("RUST_LOG", "info")
            .stdin(Stdio::null())
            .stderr(log)
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        self.child = Some(child);
        self.until("the agent listens", async |device| device.path("run/endpoint").exists().then_some(()))
            .await;
    }

    /// As a power cut does.
    pub(crate) async fn kill(&mut self) {
        self.child.take().unwrap().kill().await.unwrap();
    }

    /// As a service manager does; the agent must end by itself.
    pub(crate) async fn terminate(&mut self) -> std::process::ExitStatus {
        let mut child = self.child.take().unwrap();
        let pid = child.id().unwrap().to_string();
        let sent = Command::new("kill").args(["-TERM", &pid]).status().await.unwrap();
        assert!(sent.success());
        tokio::time::timeout(PATIENCE, child.wait()).await.expect("the agent ends").unwrap()
    }

    pub(crate) async fn command(&self, args: &[&str]) -> Output {
        let dir = self.root.path();
        Command::new(AGENT).args(args).arg("--dir").arg(dir).stdin(Stdio::null()).output().await.unwrap()
    }

    /// Asks the local endpoint through the command line.
    pub(crate) async fn predict(&self, pixels: &[u8]) -> Result<Value, String> {
        let input = self.path("input");
        std::fs::write(&input, pixels).unwrap();
        let output = self.command(&["predict", "letters", input.to_str().unwrap()]).await;
        if output.status.success() {
            Ok(serde_json::from_slice(&output.stdout).unwrap())
        } else {
            Err(String::from_utf8(output.stderr).unwrap())
        }
    }

    /// The label that the device answers.
    pub(crate) async fn label(&self) -> String {
        let answer = self.predict(&[1, 2, 3, 4]).await;
        answer.unwrap_or_else(|error| panic!("no answer: {error}\n{}", self.log()))["label"]
            .as_str()
            .unwrap()
            .to_owned()
    }

    pub(crate) async fn status(&self) -> Value {
        let output = self.command(&["status", "-o", "json"]).await;
        serde_json::from_slice(&output.stdout).unwrap()
    }

    /// What the update's journal on the disk says.
    pub(crate) fn journal(&self) -> UpdateJournal {
        UpdateJournal::from_bytes(&std::fs::read(self.path("models/letters/journal")).unwrap()).unwrap()
    }

    pub(crate) fn log(&self) -> String {
        std::fs::read_to_string(self.path("log")).unwrap_or_default()
    }

    /// Waits until the check gives something.
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
}
