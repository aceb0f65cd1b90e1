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
/// How long a claim of an enrolment that is cut off is of use to the next run.
const CLAIM_S: u64 = 24 * 60 * 60;
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

    fn exited(&mut self) -> Option<StageError> {
        let status = self.process.try_wait().ok()??;
        let log = fs::read_to_string(self.dir.join("agent.log")).unwrap_or_default();
        let last = log.lines().last().unwrap_or_default();
        let detail = format!("agent {} ended with {status}: {last}", self.id);
        Some(StageError::new(STAGE, code_of(last), detail))
    }
}

impl Stages {
    /// Enrols and starts the agents; `mqtt` is where the broker listens now.
    pub(super) fn devices(&mut self, mqtt: &str, running: &mut Vec<LocalDevice>) -> Result<(), StageError> {
        let wanted = self.options.devices;
        self.progress.stage(STAGE, "enrolling");
        let mut enrolled = 0;
        for number in 1..=wanted {
            let id = format!("device-{number}");
            let dir = self.options.dir.join("devices").join(&id);
            on(&dir, fs::create_dir_all(&dir))?;
            if !dir.join("identity").join("device.json").exists() {
                self.enrol(&id, &dir)?;
                enrolled += 1;
            } else {
                tell_address(&dir, mqtt)?;
            }
            running.push(start(&id, &dir)?);
            self.report.devices.push(DeviceReport { id, ..DeviceReport::default() });
            self.progress.update(STAGE, number as u64, Some(wanted as u64), "agents started");
        }
        self.wait_connected(running)?;
        let known = wanted - enrolled;
        let note = if known > 0 { format!(" ({known} known already)") } else { String::new() };
        self.progress
            .done(STAGE, &format!("{wanted} agents connected over TLS with their own certificates{note}"));
        Ok(())
    }

    fn enrol(&self, id: &str, dir: &Path) -> Result<(), StageError> {
        let path = dir.join("claim");
        // The claim of an enrolment that was cut off comes first: it may have made the device already.
        if path.exists() && enrol_with(&path, id, dir).is_ok() {
            return on(&path, fs::remove_file(&path));
        }
        let claim: ClaimView =
            self.client.post("/api/v1/claims", &ClaimRequest::plain(1, CLAIM_S)).at(STAGE)?;
        on(&path, write_private(&path, claim.code.as_bytes()))?;
        enrol_with(&path, id, dir).map_err(|mut error| {
            if error.code == ErrorCode::AlreadyExists {
                let folder = self.options.dir.display();
                error.detail += &format!("; remove the folder {folder} to begin again from nothing");
            }
            error
        })?;
        on(&path, fs::remove_file(&path))
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
            let all = Some(running.len() as u64);
            self.progress.update(STAGE, connected as u64, all, "agents connected");
            if let Some(reason) = running.iter_mut().find_map(LocalDevice::exited) {
                return Err(reason);
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

/// Enrols a device with the claim code in this file.
fn enrol_with(claim: &Path, id: &str, dir: &Path) -> Result<(), StageError> {
    let mut command = agent_command()?;
    command.args(["enrol", "--name", id, "--claim"]).arg(claim).arg("--dir").arg(dir).stdin(Stdio::null());
    let output = command.output();
    let output = on(command.get_program().as_ref(), output)?;
    if output.status.success() {
        return Ok(());
    }
    let text = String::from_utf8_lossy(&output.stderr).trim().to_owned();
    Err(StageError::new(STAGE, code_of(&text), format!("enrolling {id}: {text}")))
}

/// The result of an operation on `path`.
fn on<T>(path: &Path, result: std::io::Result<T>) -> Result<T, StageError> {
    result.map_err(|e| {
        let path = path.display();
        let detail =
            format!("{path}: {e}; the folder must be writable and have room, or name another with --dir");
        StageError::new(STAGE, super::io_code(&e), detail)
    })
}

/// The code at the end of what an agent said.
fn code_of(text: &str) -> ErrorCode {
    let code = text.trim_end().strip_suffix(']').and_then(|text| text.rsplit_once('[')).map(|(_, code)| code);
    code.map(ErrorCode::from_text).filter(|code| *code != ErrorCode::Unknown).unwrap_or(ErrorCode::Internal)
}

/// Writes a file that only its owner reads, whole or not at all.
fn write_private(path: &Path, bytes: &[u8]) -> std::io::Result<()> {
    let beside = path.with_extension("tmp");
    let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&beside)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    fs::rename(beside, path)
}

/// Tells an enrolled device where the broker is now, if it knows another address.
fn tell_address(dir: &Path, mqtt: &str) -> Result<(), StageError> {
    let path = dir.join("identity").join("device.json");
    let text = on(&path, fs::read(&path))?;
    // One that cannot be read is the agent's to complain about.
    let Ok(mut names) = serde_json::from_slice::<serde_json::Value>(&text) else { return Ok(()) };
    if names["mqtt"] != mqtt {
        names["mqtt"] = mqtt.into();
        let text = serde_json::to_vec_pretty(&names).unwrap_or(text);
        on(&path, write_private(&path, &text))?;
    }
    Ok(())
}

/// `flotilla agent …` of this very binary.
fn agent_command() -> Result<Command, StageError> {
    let program = on(Path::new("this program"), std::env::current_exe())?;
    let mut command = Command::new(program);
    command.arg("agent");
    Ok(command)
}

fn start(id: &str, dir: &Path) -> Result<LocalDevice, StageError> {
    let path = dir.join("agent.log");
    let log = on(&path, File::create(&path))?;
    // A stale address must not be taken for the new process's.
    drop(fs::remove_file(dir.join("run").join("endpoint")));
    let mut command = agent_command()?;
    command.args(["run", "--until-stdin-closes", "--dir"]).arg(dir).stdin(Stdio::piped());
    command.stdout(on(&path, log.try_clone())?).stderr(log);
    let spawned = command.spawn();
    let mut process = on(command.get_program().as_ref(), spawned)?;
    let stdin = process.stdin.take();
    Ok(LocalDevice { id: id.to_owned(), dir: dir.to_owned(), process, stdin })
}
