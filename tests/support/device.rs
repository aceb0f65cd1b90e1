//! A device: a folder and an agent process.

use crate::{Plane, binary, eventually, run, run_ok};
use serde_json::Value;
use std::fs::File;
use std::path::PathBuf;
use std::process::{Child, Command, Output, Stdio};
use std::time::Duration;
use tempfile::TempDir;

/// An agent starts within this time even on a busy machine.
const START: Duration = Duration::from_secs(60);

/// An enrolled device. Its agent is killed when it is dropped.
pub struct Device {
    /// Its id.
    pub id: String,
    /// Its folder.
    pub dir: PathBuf,
    /// Its agent's program.
    program: PathBuf,
    agent: Option<Child>,
    _folder: TempDir,
}

impl Device {
    /// Enrols a device with a fresh claim code.
    pub fn enrol(plane: &Plane, id: &str) -> Self {
        Self::enrol_with(plane, id, binary("flotilla-agent"))
    }

    /// The same with another build of the agent.
    pub fn enrol_with(plane: &Plane, id: &str, program: PathBuf) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let dir = folder.path().join("device");
        let claim = folder.path().join("claim");
        plane.claim(&claim);
        let device = Self { id: id.to_owned(), dir, program, agent: None, _folder: folder };
        let mut command = device.command(&["enrol", "--name", id, "--claim", claim.to_str().unwrap()]);
        run_ok(&mut command);
        device
    }

    /// A device that enrolled earlier, in a folder below `folder`.
    pub fn of_folder(id: &str, dir: PathBuf, folder: TempDir) -> Self {
        Self { id: id.to_owned(), dir, program: binary("flotilla-agent"), agent: None, _folder: folder }
    }

    /// A copy of its folder on another machine. The agent must not run meanwhile.
    pub fn copy(&self) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let dir = folder.path().join("device");
        run_ok(Command::new("cp").arg("-a").arg(&self.dir).arg(&dir));
        let program = self.program.clone();
        Self { id: self.id.clone(), dir, program, agent: None, _folder: folder }
    }

    /// What `flotilla-agent status` says.
    pub fn status(&self) -> Value {
        serde_json::from_slice(&self.run(&["status", "-o", "json"]).stdout).unwrap_or_default()
    }

    /// `flotilla-agent ARGUMENTS --dir DIR`.
    pub fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(&self.program);
        command.args(arguments).arg("--dir").arg(&self.dir).stdin(Stdio::null());
        command
    }

    /// Runs such a command to its end.
    pub fn run(&self, arguments: &[&str]) -> Output {
        run(&mut self.command(arguments))
    }

    /// Starts the agent.
    pub fn start(&mut self) {
        let log = File::options().create(true).append(true).open(self.dir.join("agent.log")).unwrap();
        drop(std::fs::remove_file(self.dir.join("run/endpoint")));
        let mut command = self.command(&["run"]);
        command.stdout(log.try_clone().unwrap()).stderr(log);
        self.agent = Some(command.spawn().unwrap());
    }

    /// SIGKILL.
    pub fn kill(&mut self) {
        if let Some(mut agent) = self.agent.take() {
            agent.kill().unwrap();
            agent.wait().unwrap();
        }
    }

    /// SIGSTOP: the agent does nothing until it is thawed. Its connection stays.
    pub fn freeze(&self) {
        self.signal("-STOP");
    }

    /// SIGCONT.
    pub fn thaw(&self) {
        self.signal("-CONT");
    }

    fn signal(&self, signal: &str) {
        let pid = self.agent.as_ref().unwrap().id().to_string();
        run_ok(Command::new("kill").args([signal, &pid]));
    }

    /// The address of its local API.
    pub fn endpoint(&self) -> String {
        eventually("the agent's endpoint", START, || {
            let text = std::fs::read_to_string(self.dir.join("run/endpoint")).ok()?;
            Some(text.trim().to_owned()).filter(|t| !t.is_empty())
        })
    }

    /// Asks the agent for a prediction: status and body.
    pub fn predict(&self, model: &str, image: &[u8]) -> (u16, Value) {
        self.predict_as(model, "image/png", image)
    }

    /// The same with an input of any media type.
    pub fn predict_as(&self, model: &str, kind: &str, input: &[u8]) -> (u16, Value) {
        let agent: ureq::Agent = ureq::Agent::config_builder().http_status_as_error(false).build().into();
        let url = format!("http://{}/predict/{model}", self.endpoint());
        let mut response = agent.post(&url).header("content-type", kind).send(input).unwrap();
        (response.status().as_u16(), response.body_mut().read_json().unwrap())
    }

    /// What the agent wrote.
    pub fn log(&self) -> String {
        std::fs::read_to_string(self.dir.join("agent.log")).unwrap_or_default()
    }
}

impl Drop for Device {
    fn drop(&mut self) {
        self.kill();
        if std::thread::panicking() {
            eprintln!("--- log of {}\n{}", self.id, self.log());
        }
    }
}
