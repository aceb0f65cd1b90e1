//! The agent process on its own folder.

use crate::cloud::{Cloud, PATIENCE};
use flotilla_agent::http_client::Ask;
use flotilla_device::update::UpdateJournal;
use serde_json::Value;
use std::path::{Path, PathBuf};
use std::process::{Output, Stdio};
use std::time::{Duration, Instant};
use tokio::process::{Child, Command};

/// The agent's program: this build's, or the one that `FLOTILLA_AGENT` names.
pub(crate) fn agent() -> PathBuf {
    std::env::var_os("FLOTILLA_AGENT")
        .map_or_else(|| env!("CARGO_BIN_EXE_flotilla-agent").into(), PathBuf::from)
}

pub(crate) struct Device {
    root: PathBuf,
    /// What is set in the agent's environment.
    pub(crate) environment: Vec<(&'static str, String)>,
    child: Option<Child>,
    /// Removes the folder with the device.
    _folder: Option<tempfile::TempDir>,
}

impl Device {
    /// An enrolled device whose agent does not run yet.
    pub(crate) fn new(cloud: &Cloud) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let device = Self::at(cloud, folder.path());
        Self { _folder: Some(folder), ..device }
    }

    /// The same in this folder.
    pub(crate) fn at(cloud: &Cloud, root: &Path) -> Self {
        cloud.admit(root);
        Self { root: root.to_owned(), environment: Vec::new(), child: None, _folder: None }
    }

    pub(crate) async fn started(cloud: &Cloud) -> Self {
        let mut device = Self::new(cloud);
        device.start().await;
        device
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.root.join(name)
    }

    pub(crate) async fn start(&mut self) {
        self.spawn();
        self.until("the agent listens", async |device| device.path("run/endpoint").exists().then_some(()))
            .await;
    }

    /// Starts the agent without waiting for anything.
    pub(crate) fn spawn(&mut self) {
        let _ = std::fs::remove_file(self.path("run/endpoint"));
        let log = std::fs::OpenOptions::new().append(true).create(true).open(self.path("log")).unwrap();
        let child = Command::new(agent())
            .args(["run", "--dir"])
            .arg(&self.root)
            .env("RUST_LOG", "info")
            .envs(self.environment.iter().map(|(name, value)| (name, value)))
            .stdin(Stdio::null())
            .stderr(log)
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        self.child = Some(child);
    }

    /// Processes that probe a candidate of this device.
    pub(crate) fn probes(&self) -> Vec<u32> {
        self.children("probe")
    }

    /// Processes that the agent of this device has started for this.
    pub(crate) fn children(&self, command: &str) -> Vec<u32> {
        let root = self.root.to_str().unwrap();
        let of = |entry: std::fs::DirEntry| {
            let pid: u32 = entry.file_name().to_str()?.parse().ok()?;
            let line = std::fs::read(entry.path().join("cmdline")).ok()?;
            let mut words = line.split(|byte| *byte == 0).map(String::from_utf8_lossy);
            (words.nth(1)? == command && words.any(|word| word.starts_with(root))).then_some(pid)
        };
        std::fs::read_dir("/proc").unwrap().flatten().filter_map(of).collect()
    }

    /// The release and label of an answer, asked for without another process; none if there is no answer.
    pub(crate) async fn answer(&self) -> Option<(String, String)> {
        let text = std::fs::read_to_string(self.path("run/endpoint")).ok()?;
        answer_of(text.trim(), "letters").await
    }

    /// What `letters` answers to such a body: the status and the document; none if the agent does not answer.
    pub(crate) async fn ask(&self, content_type: &str, body: &[u8]) -> Option<(u16, Value)> {
        let host = std::fs::read_to_string(self.path("run/endpoint")).ok()?;
        let stream = tokio::net::TcpStream::connect(host.trim()).await.ok()?;
        let ask = Ask {
            host: host.trim(),
            method: http::Method::POST,
            path: "/predict/letters",
            content_type,
            body: body.to_vec(),
            max_answer: 1 << 20,
            timeout: PATIENCE,
        };
        let (status, answer) = flotilla_agent::http_client::ask(stream, ask).await.ok()?;
        Some((status.as_u16(), serde_json::from_slice(&answer).ok()?))
    }

    /// The process of its agent.
    pub(crate) fn pid(&self) -> u32 {
        self.child.as_ref().and_then(Child::id).expect("the agent runs")
    }

    /// As a power cut does.
    pub(crate) async fn kill(&mut self) {
        self.child.take().unwrap().kill().await.unwrap();
    }

    /// As a service manager does; the agent must end by itself.
    pub(crate) async fn terminate(&mut self) -> std::process::ExitStatus {
        let pid = self.pid().to_string();
        let mut child = self.child.take().unwrap();
        let sent = Command::new("kill").args(["-TERM", &pid]).status().await.unwrap();
        assert!(sent.success());
        tokio::time::timeout(PATIENCE, child.wait()).await.expect("the agent ends").unwrap()
    }

    pub(crate) async fn command(&self, args: &[&str]) -> Output {
        let dir = &self.root;
        Command::new(agent()).args(args).arg("--dir").arg(dir).stdin(Stdio::null()).output().await.unwrap()
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

/// The release and label that a model on this endpoint answers; none if there is no answer.
pub(crate) async fn answer_of(host: &str, model: &str) -> Option<(String, String)> {
    let stream = tokio::net::TcpStream::connect(host).await.ok()?;
    let ask = Ask {
        host,
        method: http::Method::POST,
        path: &format!("/predict/{model}"),
        content_type: "application/octet-stream",
        body: vec![1, 2, 3, 4],
        max_answer: 1 << 20,
        timeout: PATIENCE,
    };
    let (status, body) = flotilla_agent::http_client::ask(stream, ask).await.ok()?;
    let answer: Value = serde_json::from_slice(&body).ok()?;
    let text = |name: &str| answer[name].as_str().map(ToOwned::to_owned);
    status.is_success().then(|| text("release").zip(text("label")))?
}
