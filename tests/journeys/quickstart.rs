//! The main job: the quickstart, its report, the console it shows, and further runs in the same folder.

use crate::console;
use flotilla_tests::{binary, descendants, listeners, run, run_ok};
use serde_json::Value;
use std::io::{BufRead, BufReader};
use std::net::TcpListener;
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};

const DEVICES: usize = 3;
const STAGES: [&str; 8] =
    ["import", "train", "compress", "release", "devices", "rollout", "predict", "telemetry"];
/// Exit code of a folder or port that cannot be used.
const ENVIRONMENT: i32 = 6;

fn quickstart(dir: &Path) -> Command {
    let mut command = Command::new(binary("flotilla"));
    let devices = DEVICES.to_string();
    command.args(["quickstart", "--devices", &devices, "--dir"]).arg(dir).stdin(Stdio::null());
    command
}

/// Runs one to its end; gives the report, which is all of stdout, and what it said meanwhile.
fn once(dir: &Path) -> (Value, String) {
    let output = run(quickstart(dir).arg("--once"));
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(0), "{said}");
    let report = serde_json::from_slice(&output.stdout);
    let report = report.unwrap_or_else(|e| panic!("{e}: {}", String::from_utf8_lossy(&output.stdout)));
    for stage in STAGES {
        let of = |line: &str| line.trim_start().starts_with(stage);
        assert!(said.lines().any(of), "no line of stage {stage} in\n{said}");
    }
    (report, said)
}

/// A quickstart that stays up. Killed when dropped; its agents end with it.
struct Running {
    process: Child,
    /// What it said until the console's address.
    said: String,
    /// The console's address.
    url: String,
}

impl Running {
    fn start(dir: &Path) -> Self {
        let mut process = quickstart(dir).stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
        let mut lines = BufReader::new(process.stderr.take().unwrap()).lines();
        let mut said = String::new();
        for line in &mut lines {
            let line = line.unwrap();
            said += &format!("{line}\n");
            if line.contains("/login?code=") {
                std::thread::spawn(move || lines.for_each(drop));
                return Self { process, said, url: line.trim().to_owned() };
            }
        }
        panic!("the quickstart ended early: {:?}\n{said}", process.wait());
    }

    /// SIGTERM: it stops in order, and its agents with it.
    fn stop(mut self) {
        let agents = descendants(self.process.id());
        run_ok(Command::new("kill").args(["-TERM", &self.process.id().to_string()]));
        let status = self.process.wait().unwrap();
        assert_eq!(status.code(), Some(0), "after SIGTERM: {status}");
        for agent in agents {
            assert!(!Path::new(&format!("/proc/{agent}")).exists(), "agent {agent} has outlived it");
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        drop(self.process.kill());
        drop(self.process.wait());
    }
}

#[test]
fn the_loop_closes_reports_is_seen_in_the_console_and_continues() {
    let folder = tempfile::tempdir().unwrap();
    let dir = folder.path().join("quickstart");

    let (first, said) = once(&dir);
    assert!(said.contains("new folder"), "{said}");
    assert!(!said.contains("already"), "{said}");
    check(&first);
    let model = first["release"]["bytes"].as_u64().unwrap();
    let sent = first["bytes_over_mqtt"].as_u64().unwrap();
    assert!(sent >= DEVICES as u64 * model, "{sent} bytes over MQTT, {model} a device");
    assert!(first["devices"].as_array().unwrap().iter().all(|d| d["slot"] == "a"), "{}", first["devices"]);

    let running = Running::start(&dir);
    assert!(running.said.contains("continuing in"), "{}", running.said);
    assert_eq!(
        running.said.matches("already").count(),
        6,
        "every stage finds its work done:\n{}",
        running.said
    );
    everything_listens_on_loopback_only(running.process.id());
    console::shows_the_loop(&running.url, &first);
    running.stop();

    // A stage whose folder is not one: the run ends there, says so, and loses nothing.
    let (devices, aside) = (dir.join("devices"), dir.join("devices-aside"));
    std::fs::rename(&devices, &aside).unwrap();
    std::fs::write(&devices, "in the way").unwrap();
    let output = run(quickstart(&dir).args(["--once", "-o", "json"]));
    let failure = failure(&output);
    assert_eq!((&failure["stage"], &failure["code"]), (&"devices".into(), &"storage_io".into()), "{failure}");
    assert!(!failure["detail"].as_str().unwrap().is_empty(), "{failure}");
    std::fs::remove_file(&devices).unwrap();
    std::fs::rename(&aside, &devices).unwrap();

    let (again, said) = once(&dir);
    assert!(said.contains("continuing in"), "{said}");
    assert_eq!(said.matches("already").count(), 6, "every stage finds its work done:\n{said}");
    check(&again);
    for part in ["dataset", "training", "compression", "release", "rollout"] {
        assert_eq!(again[part], first[part]);
    }
}

#[test]
fn a_run_that_fails_says_at_which_stage_and_why() {
    let folder = tempfile::tempdir().unwrap();
    let dir = folder.path().join("quickstart");
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    for option in ["--http", "--mqtt"] {
        let output = run(quickstart(&dir).args(["--once", option, &address]));
        assert_eq!((output.status.code(), output.stdout.len()), (Some(ENVIRONMENT), 0));
        let said = String::from_utf8(output.stderr).unwrap();
        let last = said.lines().last().unwrap();
        assert!(last.starts_with("error: stage start: ") && last.ends_with("[port_in_use]"), "{said}");
        assert!(last.contains(&address), "{said}");

        let failure = failure(&run(quickstart(&dir).args(["--once", "-o", "json", option, &address])));
        assert_eq!((&failure["stage"], &failure["code"]), (&"start".into(), &"port_in_use".into()));
        assert!(failure["detail"].as_str().unwrap().contains(&address), "{failure}");
    }

    let file = folder.path().join("file");
    std::fs::write(&file, "").unwrap();
    let failure = failure(&run(quickstart(&file.join("inside")).args(["--once", "-o", "json"])));
    assert_eq!(failure["stage"], "start");
    assert!(failure["detail"].as_str().unwrap().contains("file/inside"), "{failure}");
}

/// What a failed run says: the last line of stderr, and nothing on stdout.
fn failure(output: &Output) -> Value {
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(ENVIRONMENT), "{said}");
    assert!(output.stdout.is_empty(), "a report of a run that failed");
    let mut last: Value = serde_json::from_str(said.lines().last().unwrap()).unwrap();
    last["error"].take()
}

fn everything_listens_on_loopback_only(pid: u32) {
    let agents = descendants(pid);
    let (of_the_plane, of_agents) =
        (listeners(pid), agents.iter().map(|agent| listeners(*agent)).collect::<Vec<_>>());
    assert!(of_the_plane.len() >= 2, "API and broker listen: {of_the_plane:?}");
    assert!(of_agents.len() >= DEVICES && of_agents.iter().all(|l| !l.is_empty()), "{of_agents:?}");
    for address in of_the_plane.iter().chain(of_agents.iter().flatten()) {
        assert!(address.ip().is_loopback(), "{address} is reachable from elsewhere");
    }
}

/// Every field of the report, and its figures.
fn check(report: &Value) {
    let dataset = &report["dataset"];
    assert_eq!((&dataset["name"], &dataset["version"]), (&"digits".into(), &1.into()));
    assert_eq!((&dataset["samples"], &dataset["classes"]), (&1797.into(), &10.into()));
    let splits = ["train", "validation", "test"].map(|split| whole(&dataset[split]));
    assert_eq!(splits.iter().sum::<u64>(), 1797);
    assert!(splits[0] > splits[1] && splits.iter().all(|samples| *samples > 100), "{dataset}");

    let training = &report["training"];
    said(&training["job"]);
    said(&training["algorithm"]);
    assert!(whole(&training["parameters"]) > 1000 && whole(&training["epochs"]) > 0, "{training}");
    assert!(number(&training["seconds"]) > 0.0, "{training}");
    assert!(number(&training["test_accuracy"]) >= 0.98, "{training}");

    let compression = &report["compression"];
    assert!(said(&compression["recipe"]).contains("int8"), "{compression}");
    let bytes = ["bytes_before", "bytes_after"].map(|name| whole(&compression[name]));
    assert!(bytes[1] < bytes[0] / 2 && bytes[1] <= 60_000, "{compression}");
    let accuracy = number(&compression["test_accuracy"]);
    let drop = number(&compression["accuracy_drop"]);
    assert!(accuracy >= 0.98 && drop <= 0.005, "{compression}");
    assert!((number(&training["test_accuracy"]) - accuracy - drop).abs() < 1e-9, "{report}");

    let release = &report["release"];
    assert_eq!((&release["model"], &release["version"]), (&"digits".into(), &2.into()));
    assert!(whole(&release["bytes"]) >= bytes[1], "{release}");
    let digest = said(&release["digest"]);
    assert!(digest.len() == 64 && digest.bytes().all(|c| c.is_ascii_hexdigit()), "{release}");
    assert!(said(&release["key_id"]).bytes().all(|c| c.is_ascii_hexdigit()), "{release}");

    let rollout = &report["rollout"];
    said(&rollout["id"]);
    assert_eq!(rollout["state"], "succeeded");
    assert!(number(&rollout["seconds"]) > 0.0, "{rollout}");
    let waves = rollout["waves"].as_array().unwrap();
    assert!(waves.iter().all(|wave| wave["state"] == "done"), "{rollout}");
    let sizes: Vec<_> = waves.iter().map(|wave| wave["devices"].as_array().unwrap().len()).collect();
    assert_eq!(sizes, [1, DEVICES - 1]);
    let mut told: Vec<&str> =
        waves.iter().flat_map(|wave| wave["devices"].as_array().unwrap()).map(said).collect();
    told.sort_unstable();

    let devices = report["devices"].as_array().unwrap();
    assert_eq!(devices.iter().map(|device| said(&device["id"])).collect::<Vec<_>>(), told);
    for device in devices {
        assert_eq!(device["state"], "confirmed");
        assert_eq!(device["release"], release["digest"]);
        assert!(["a", "b"].contains(&said(&device["slot"])), "{device}");
        let probe = &device["probe"];
        assert!((0.0..=1e-3).contains(&number(&probe["max_abs_error"])), "{device}");
        assert!(number(&probe["p50_ms"]) > 0.0, "{device}");
        let (predictions, correct) = (whole(&device["predictions"]), whole(&device["correct"]));
        assert_eq!(predictions, splits[2]);
        assert!((number(&device["accuracy"]) - correct as f64 / predictions as f64).abs() < 1e-9, "{device}");
        assert!((number(&device["accuracy"]) - accuracy).abs() < 1e-9, "{device}");
        assert_eq!(device["identical_to_cloud"], true);
        assert!(whole(&device["rss_bytes"]) > 1 << 20, "{device}");
        let drift = &device["drift"];
        assert_eq!(
            (&drift["shift"], whole(&drift["predictions"])),
            (&"stable".into(), predictions),
            "{device}"
        );
        assert!((0.0..0.1).contains(&number(&drift["score"])), "{device}");
    }

    whole(&report["bytes_over_mqtt"]);
    let seconds = report["seconds"].as_object().unwrap();
    let stages = STAGES.into_iter().chain(["start"]).map(|stage| number(&seconds[stage]));
    let sum: f64 = stages.inspect(|seconds| assert!(*seconds >= 0.0)).sum();
    let total = number(&seconds["total"]);
    assert!(sum > 0.0 && sum <= total + 0.1, "{sum} s of {total} s");
}

fn whole(value: &Value) -> u64 {
    value.as_u64().unwrap_or_else(|| panic!("{value} is not a whole number"))
}

fn number(value: &Value) -> f64 {
    value.as_f64().unwrap_or_else(|| panic!("{value} is not a number"))
}

fn said(value: &Value) -> &str {
    value.as_str().filter(|text| !text.is_empty()).unwrap_or_else(|| panic!("{value} is not a text"))
}
