//! The local devices: real agent processes, each with its own folder, key and certificate.

use super::report::DeviceReport;
use super::{At, StageError, Stages};
use crate::http::api::{ClaimRequest, ClaimView, DeviceView};
use flotilla_protocol::ErrorCode;
use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::time::{Duration, Instant};

const STAGE: &str = "devices";
/// An agent on this machine connects within a second.
const CONNECT_LIMIT: Duration = Duration::from_secs(60);
const POLL: Duration = Duration::from_millis(100);
/// Time an agent gets to stop by itself.
const STOP_LIMIT: Duration = Duration::from_secs(8);

/// A running agent.
pub(crate) struct LocalDevice {
    /// Its id.
    pub id: String,
    /// Its folder.
    pub dir: PathBuf,
    process: Child,
    /// The agent stops when this closes, so that none outlives a killed quickstart.
    stdin: Option<ChildStdin>,
}

impl LocalDevice {
    /// Stops the agent.
    pub(crate) fn stop(mut self) {
        drop(self.stdin.take());
        let deadline = Instant::now() + STOP_LIMIT;
        while Instant::now() < deadline {
            if matches!(self.process.try_wait(), Ok(Some(_))) {
                return;
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        drop(self.process.kill());
        drop(self.process.wait());
    }

    /// The address of its local API, once it listens.
    pub(crate) fn endpoint(&self) -> Option<String> {
        let text = fs::read_to_string(self.dir.join("run").join("endpoint")).ok()?;
        let text = text.trim();
        (!text.is_empty()).then(|| text.to_owned())
    }

    fn exited(&mut self) -> Option<String> {
        let status = self.process.try_wait().ok()??;
        let log = fs::read_to_string(self.dir.join("agent.log")).unwrap_or_default();
        let last = log.lines().last().unwrap_or_default();
        Some(format!("agent {} ended with {status}: {last}", self.id))
    }
}

impl Stages {
    pub(super) fn devices(&mut self, running: &mut Vec<LocalDevice>) -> Result<(), StageError> {
        let wanted = self.options.devices;
        self.progress.stage(STAGE, "enrolling");
        let mut enrolled = 0;
        for number in 1..=wanted {
            let id = format!("device-{number}");
            let dir = self.options.dir.join("devices").join(&id);
            fs::create_dir_all(&dir).at(STAGE)?;
            if !dir.join("identity").join("device.json").exists() {
                self.enrol(&id, &dir)?;
                enrolled += 1;
            }
            running.push(start(&id, &dir)?);
            self.report.devices.push(DeviceReport { id, ..DeviceReport::default() });
            self.progress.update(STAGE, number as u64, wanted as u64, "agents started");
        }
        self.wait_connected(running)?;
        let known = wanted - enrolled;
        let note = if known > 0 { format!(" ({known} known already)") } else { String::new() };
        self.progress
            .done(STAGE, &format!("{wanted} agents connected over TLS with their own certificates{note}"));
        Ok(())
    }

    fn enrol(&self, id: &str, dir: &Path) -> Result<(), StageError> {
        let claim: ClaimView =
            self.client.post("/api/v1/claims", &ClaimRequest { uses: 1, valid_s: 600 }).at(STAGE)?;
        let path = dir.join("claim");
        let mut file =
            OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&path).at(STAGE)?;
        file.write_all(claim.code.as_bytes()).at(STAGE)?;
        drop(file);
        let output = agent_command()
            .at(STAGE)?
            .args(["enrol", "--name", id, "--claim"])
            .arg(&path)
            .arg("--dir")
            .arg(dir)
            .stdin(Stdio::null())
            .output()
            .at(STAGE)?;
        drop(fs::remove_file(&path));
        if output.status.success() {
            return Ok(());
        }
        let text = String::from_utf8_lossy(&output.stderr).trim().to_owned();
        Err(StageError::new(STAGE, ErrorCode::Internal, format!("enrolling {id}: {text}")))
    }

    fn wait_connected(&self, running: &mut [LocalDevice]) -> Result<(), StageError> {
        let deadline = Instant::now() + CONNECT_LIMIT;
        loop {
            let devices: Vec<DeviceView> = self.client.get("/api/v1/devices").at(STAGE)?;
            let connected =
                running.iter().filter(|r| devices.iter().any(|d| d.id == r.id && d.connected)).count();
            if connected == running.len() {
                return Ok(());
            }
            self.progress.update(STAGE, connected as u64, running.len() as u64, "agents connected");
            if let Some(reason) = running.iter_mut().find_map(LocalDevice::exited) {
                return Err(StageError::new(STAGE, ErrorCode::Internal, reason));
            }
            if Instant::now() > deadline {
                let detail = format!(
                    "{connected} of {} agents connected within {CONNECT_LIMIT:?}; their logs are devices/*/agent.log",
                    running.len()
                );
                return Err(StageError::new(STAGE, ErrorCode::Timeout, detail));
            }
            std::thread::sleep(POLL);
        }
    }
}

/// `flotilla agent …` of this very binary.
fn agent_command() -> std::io::Result<Command> {
    let mut command = Command::new(std::env::current_exe()?);
    command.arg("agent");
    Ok(command)
}

fn start(id: &str, dir: &Path) -> Result<LocalDevice, StageError> {
    let log = File::create(dir.join("agent.log")).at(STAGE)?;
    // A stale address must not be taken for the new process's.
    drop(fs::remove_file(dir.join("run").join("endpoint")));
    let mut process = agent_command()
        .at(STAGE)?
        .args(["run", "--until-stdin-closes", "--dir"])
        .arg(dir)
        .stdin(Stdio::piped())
        .stdout(log.try_clone().at(STAGE)?)
        .stderr(log)
        .spawn()
        .at(STAGE)?;
    let stdin = process.stdin.take();
    Ok(LocalDevice { id: id.to_owned(), dir: dir.to_owned(), process, stdin })
}
