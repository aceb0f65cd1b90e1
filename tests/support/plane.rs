//! A control plane as a child process.

use crate::{binary, run_ok};
use serde::de::DeserializeOwned;
use serde_json::Value;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use tempfile::TempDir;

/// A running `flotilla up`. Killed when dropped.
pub struct Plane {
    /// Its folder.
    pub dir: PathBuf,
    /// `http://host:port`.
    pub http: String,
    /// `host:port` of the broker.
    pub mqtt: String,
    process: Child,
    /// Further arguments of `flotilla up`.
    arguments: Vec<String>,
    /// Kept so that the folder lives as long as the plane, across restarts.
    _folder: Option<TempDir>,
}

impl Plane {
    /// Starts one in a fresh folder.
    pub fn start() -> Self {
        Self::start_with(&[])
    }

    /// Starts one in a fresh folder with further arguments of `flotilla up`.
    pub fn start_with(arguments: &[&str]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let dir = folder.path().join("plane");
        let arguments: Vec<String> = arguments.iter().map(|&argument| argument.to_owned()).collect();
        let (process, http, mqtt) = spawn(&dir, "127.0.0.1:0", "127.0.0.1:0", &arguments);
        Self { dir, http, mqtt, process, arguments, _folder: Some(folder) }
    }

    /// Starts one in this folder.
    pub fn start_in(dir: &Path) -> Self {
        let (process, http, mqtt) = spawn(dir, "127.0.0.1:0", "127.0.0.1:0", &[]);
        Self { dir: dir.to_owned(), http, mqtt, process, arguments: Vec::new(), _folder: None }
    }

    /// Starts one in this folder at these addresses, with further arguments of `flotilla up`.
    pub fn start_at(dir: &Path, http: &str, mqtt: &str, arguments: &[&str]) -> Self {
        let arguments: Vec<String> = arguments.iter().map(|&argument| argument.to_owned()).collect();
        let (process, http, mqtt) = spawn(dir, http, mqtt, &arguments);
        Self { dir: dir.to_owned(), http, mqtt, process, arguments, _folder: None }
    }

    /// The process.
    pub fn pid(&self) -> u32 {
        self.process.id()
    }

    /// SIGKILL.
    pub fn kill(&mut self) {
        self.process.kill().unwrap();
        self.process.wait().unwrap();
    }

    /// SIGTERM; gives how it ended.
    pub fn terminate(&mut self) -> ExitStatus {
        run_ok(Command::new("kill").args(["-TERM", &self.process.id().to_string()]));
        self.process.wait().unwrap()
    }

    /// Starts it again in its folder, at its addresses, because devices know them.
    pub fn restart(&mut self) {
        let address = |url: &str| url.trim_start_matches("http://").to_owned();
        let (process, http, mqtt) = spawn(&self.dir, &address(&self.http), &self.mqtt, &self.arguments);
        self.process = process;
        self.http = http;
        self.mqtt = mqtt;
    }

    /// Runs `flotilla ARGUMENTS --dir DIR -o json` and reads what it prints.
    pub fn cli<T: DeserializeOwned>(&self, arguments: &[&str]) -> T {
        let mut command = Command::new(binary("flotilla"));
        command.args(arguments).arg("--dir").arg(&self.dir).args(["-o", "json"]);
        let text = run_ok(&mut command);
        serde_json::from_str(&text).unwrap_or_else(|e| panic!("{arguments:?}: {e}: {text}"))
    }

    /// The same without reading.
    pub fn cli_output(&self, arguments: &[&str]) -> std::process::Output {
        let mut command = Command::new(binary("flotilla"));
        crate::run(command.args(arguments).arg("--dir").arg(&self.dir).args(["-o", "json"]))
    }

    /// GET as the administrator: status and JSON body.
    pub fn get(&self, path: &str) -> (u16, Value) {
        self.request("GET", path, Some(&self.token()), None)
    }

    /// GET of a file as the administrator, which must be there.
    pub fn get_bytes(&self, path: &str) -> Vec<u8> {
        let bearer = format!("Bearer {}", self.token());
        let answer = ureq::get(format!("{}{path}", self.http)).header("authorization", bearer).call();
        answer.unwrap().body_mut().read_to_vec().unwrap()
    }

    /// POST as the administrator.
    pub fn post(&self, path: &str, body: Value) -> (u16, Value) {
        self.request("POST", path, Some(&self.token()), Some(body))
    }

    /// Any request.
    pub fn request(
        &self,
        method: &str,
        path: &str,
        token: Option<&str>,
        body: Option<Value>,
    ) -> (u16, Value) {
        let agent: ureq::Agent =
            ureq::Agent::config_builder().http_status_as_error(false).max_redirects(0).build().into();
        let mut request = ureq::http::Request::builder().method(method).uri(format!("{}{path}", self.http));
        if let Some(token) = token {
            request = request.header("authorization", format!("Bearer {token}"));
        }
        let body = body.map(|b| b.to_string()).unwrap_or_default();
        let mut response = agent.run(request.body(body).unwrap()).unwrap();
        let text = response.body_mut().with_config().limit(64 << 20).read_to_string().unwrap();
        (response.status().as_u16(), serde_json::from_str(&text).unwrap_or(Value::String(text)))
    }

    /// The administrator's token.
    pub fn token(&self) -> String {
        std::fs::read_to_string(self.dir.join("admin-token")).unwrap().trim().to_owned()
    }

    /// Writes a claim code into a new file of this folder.
    pub fn claim(&self, file: &Path) {
        self.claim_for(file, 1);
    }

    /// The same of one for so many devices.
    pub fn claim_for(&self, file: &Path, devices: u32) {
        let uses = devices.to_string();
        let arguments = ["device", "claim", file.to_str().unwrap(), "--uses", &uses];
        let output = self.cli_output(&arguments);
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    }

    /// Digits imported, trained for a few epochs, compressed and signed; gives the release.
    pub fn release(&self, config: Value) -> Value {
        let _dataset: Value = self.cli(&["dataset", "import", "digits"]);
        let _trained: Value = self.cli(&["train", "digits", "--config", &config.to_string()]);
        let _compressed: Value = self.cli(&["compress", "digits", "--max-drop", "0.05"]);
        self.cli(&["release", "create", "digits"])
    }

    /// One device's view.
    pub fn device(&self, id: &str) -> Option<Value> {
        let (status, view) = self.get(&format!("/api/v1/devices/{id}"));
        (status == 200).then_some(view)
    }
}

impl Drop for Plane {
    fn drop(&mut self) {
        drop(self.process.kill());
        drop(self.process.wait());
    }
}

fn spawn(dir: &Path, http: &str, mqtt: &str, arguments: &[String]) -> (Child, String, String) {
    let mut process = Command::new(binary("flotilla"))
        .args(["up", "--probation-s", "2", "--http", http, "--mqtt", mqtt, "--dir"])
        .arg(dir)
        .args(arguments)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::inherit())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(process.stdout.take().unwrap()).lines();
    let mut found = (None, None);
    for line in &mut lines {
        let line = line.unwrap();
        let last = line.split_whitespace().last().unwrap_or_default().to_owned();
        if line.starts_with("HTTP") {
            found.0 = Some(last);
        } else if line.starts_with("MQTT") {
            found.1 = Some(last);
        } else if line.starts_with("open the console") {
            break;
        }
    }
    // Whoever writes to a closed pipe fails: keep reading.
    std::thread::spawn(move || lines.for_each(drop));
    let (Some(http), Some(mqtt)) = found else {
        panic!("the control plane did not start: {:?}", process.wait())
    };
    (process, http, mqtt)
}
