//! Bad input: a clear typed error that says what to do, and nothing lost.

use flotilla_tests::{Device, Plane, SmallDisk, binary, eventually, run, run_ok};
use serde_json::{Value, json};
use std::io::Write;
use std::process::{Command, Output};
use std::time::Duration;

/// The code of an agent's error, which is one line for people with the code in brackets.
fn agent_error(output: &Output) -> String {
    assert!(!output.status.success(), "the command succeeded");
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    let line = text.lines().last().unwrap_or_default();
    let code = line.rsplit_once('[').and_then(|(_, rest)| rest.strip_suffix(']'));
    code.unwrap_or_else(|| panic!("no code in {text}")).to_owned()
}

/// The code and text of a command's error.
fn error(output: &Output) -> (String, String) {
    assert!(!output.status.success(), "the command succeeded");
    let text = String::from_utf8_lossy(&output.stderr);
    let line =
        text.lines().rev().find(|l| l.starts_with('{')).unwrap_or_else(|| panic!("no JSON error in {text}"));
    let value: Value = serde_json::from_str(line).unwrap();
    let error = &value["error"];
    (error["code"].as_str().unwrap().to_owned(), error["detail"].as_str().unwrap().to_owned())
}

#[test]
fn a_release_for_other_boards_is_refused_by_the_device_with_what_to_do() {
    let plane = Plane::start();
    let mut device = Device::enrol(&plane, "box-1");
    device.start();
    let _for_all = plane.release(json!({ "epochs": 1, "patience": 0, "seed": 1 }));
    let other: Value = plane.cli(&["release", "create", "digits", "--board", "raspberry-pi-5"]);
    // It is known beforehand, without touching anybody.
    let _silent = Device::enrol(&plane, "box-2");
    eventually("connected", Duration::from_secs(30), || {
        plane.device("box-1").filter(|v| v["connected"] == true)
    });
    let other = other["digest"].as_str().unwrap();
    let plan: Value = plane.cli(&["rollout", "plan", other, "--wave", "50%", "--soak", "30m"]);
    assert_eq!(plan["policy"], json!(["each wave is watched for 30m at least, and asks after 4h"]), "{plan}");
    let shadow = ["--shadow", "50%", "--shadow-for", "20m", "--differing", "3"];
    let staged: Value = plane.cli(&[&["rollout", "plan", other][..], &shadow].concat());
    let words = "before the first wave the release runs as a shadow on 1 device for 20m at least, and asks after 2h 40m";
    assert_eq!(staged["policy"], json!([words]), "{staged}");
    let codes: Vec<_> = plan["obstacles"]
        .as_array()
        .unwrap()
        .iter()
        .map(|o| (o["device"].clone(), o["code"].clone()))
        .collect();
    assert_eq!(plan["waves"], json!([1, 1]));
    let expected = [("box-1", "board_mismatch"), ("box-2", "network")];
    assert_eq!(codes, expected.map(|(device, code)| (json!(device), json!(code))), "{plan}");
    assert_eq!(plane.get("/api/v1/rollouts").1, json!([]));

    let _rollout: Value = plane.cli(&["rollout", "create", other, "--device", "box-1", "--detach"]);
    let failure = eventually("a refusal", Duration::from_secs(30), || {
        let failure = plane.device("box-1")?["models"][0]["failure"].clone();
        failure.is_object().then_some(failure)
    });
    assert_eq!(failure["code"], "board_mismatch", "{failure}");
    assert!(failure["detail"].as_str().unwrap().contains("board"), "{failure}");
}

#[test]
fn every_route_asks_for_its_permission() {
    let plane = Plane::start();
    let (status, document) = plane.request("GET", "/api/v1/openapi.json", None, None);
    assert_eq!(status, 200);
    let mut guarded = 0;
    for (path, operations) in document["paths"].as_object().unwrap() {
        for (method, operation) in operations.as_object().unwrap() {
            if operation.get("x-permission").is_none() {
                continue;
            }
            guarded += 1;
            let path = path.replace(['{', '}'], "");
            for token in [None, Some("wrong")] {
                let (status, problem) = plane.request(&method.to_uppercase(), &path, token, None);
                assert_eq!(status, 401, "{method} {path}");
                assert_eq!(problem["code"], "unauthenticated", "{method} {path}");
                assert!(problem["detail"].as_str().unwrap().contains("admin-token"), "{problem}");
            }
        }
    }
    assert!(guarded > 25, "{guarded} guarded routes");
    let (status, problem) = plane.get("/api/v1/nothing");
    assert_eq!((status, problem["code"].as_str()), (404, Some("not_found")));
    let (status, _) = plane.request("DELETE", "/api/v1/devices", Some(&plane.token()), None);
    assert_eq!(status, 405);
    let (status, problem) = plane.post("/api/v1/jobs/train", json!({ "dataset": 5 }));
    assert_eq!((status, problem["code"].as_str()), (400, Some("invalid_input")));
    let (status, problem) = plane.request("POST", "/api/v1/enrol", None, Some(json!({})));
    assert_eq!(problem["code"], "tls", "{status}: claim secrets travel over HTTPS only");
}

#[test]
fn bad_data_is_refused_whole_or_listed_line_by_line() {
    let plane = Plane::start();
    let folder = tempfile::tempdir().unwrap();

    let missing = plane.cli_output(&["dataset", "import", "x", "/no/such/folder"]);
    let (code, detail) = error(&missing);
    assert_eq!(code, "dataset_path_missing");
    assert!(detail.contains("/no/such/folder"), "{detail}");

    let zip = folder.path().join("evil.zip");
    let mut writer = zip::ZipWriter::new(std::fs::File::create(&zip).unwrap());
    writer.start_file("../x", zip::write::SimpleFileOptions::default()).unwrap();
    writer.write_all(b"owned").unwrap();
    writer.finish().unwrap();
    let (code, _) = error(&plane.cli_output(&["dataset", "import", "evil", zip.to_str().unwrap()]));
    assert_eq!(code, "archive_path");

    let csv = folder.path().join("small.csv");
    let mut text = String::from("height,width,kind\n");
    for i in 0..40 {
        text += &format!("{}.5,{i},{}\n", i % 7, if i % 2 == 0 { "even" } else { "odd" });
    }
    text += "1,2\n";
    std::fs::write(&csv, text).unwrap();
    let import: Value = plane.cli(&["dataset", "import", "table", csv.to_str().unwrap(), "--label", "kind"]);
    assert_eq!(import["imported"], 40);
    assert_eq!(import["skipped_total"], 1);
    assert_eq!(import["skipped"][0]["line"], 42, "{import}");

    let datasets: Value = plane.cli(&["dataset", "list"]);
    assert_eq!(datasets.as_array().unwrap().len(), 1, "{datasets}");
    let spool = plane.dir.join("spool");
    assert!(!spool.exists() || std::fs::read_dir(spool).unwrap().next().is_none(), "an upload stayed behind");
}

#[test]
fn a_port_or_folder_in_use_is_named() {
    let plane = Plane::start();
    let up = |arguments: &[&str]| {
        let mut command = Command::new(binary("flotilla"));
        run(command.args(["up", "-o", "json"]).args(arguments))
    };
    let dir = plane.dir.to_str().unwrap();
    let (code, detail) = error(&up(&["--dir", dir, "--http", "127.0.0.1:0", "--mqtt", "127.0.0.1:0"]));
    assert_eq!(code, "storage_in_use");
    assert!(detail.contains(dir), "{detail}");

    let folder = tempfile::tempdir().unwrap();
    let other = folder.path().join("other");
    let other = other.to_str().unwrap();
    let http = plane.http.trim_start_matches("http://");
    let (code, detail) = error(&up(&["--dir", other, "--http", http, "--mqtt", "127.0.0.1:0"]));
    assert_eq!(code, "port_in_use");
    assert!(detail.contains(http) && detail.contains("--http"), "{detail}");
    let (code, detail) = error(&up(&["--dir", other, "--http", "127.0.0.1:0", "--mqtt", &plane.mqtt]));
    assert_eq!(code, "port_in_use");
    assert!(detail.contains(&plane.mqtt), "{detail}");
    assert_eq!(plane.get("/api/v1/health").0, 200, "the first one goes on");
}

#[test]
fn a_full_or_read_only_disk_is_named_and_loses_nothing() {
    let Some(disk) = SmallDisk::mount("64m") else { return };
    let dir = disk.path().join("plane");
    let mut plane = Plane::start_in(&dir);
    let before: Value = plane.cli(&["dataset", "import", "digits"]);
    let filler = disk.fill();
    let (code, _) = error(&plane.cli_output(&["dataset", "import", "more"]));
    assert_eq!(code, "storage_full");
    std::fs::remove_file(filler).unwrap();
    plane.kill();
    plane.restart();
    let datasets: Value = plane.cli(&["dataset", "list"]);
    assert_eq!(datasets[0]["samples"], before["dataset"]["samples"]);
    let more: Value = plane.cli(&["dataset", "import", "more"]);
    assert_eq!(more["imported"], before["imported"], "with room again it goes on");

    plane.kill();
    disk.write_protect();
    let mut command = Command::new(binary("flotilla"));
    command.args(["up", "-o", "json", "--http", "127.0.0.1:0", "--mqtt", "127.0.0.1:0", "--dir"]).arg(&dir);
    let (code, detail) = error(&run(&mut command));
    assert_eq!(code, "storage_read_only");
    assert!(detail.contains(disk.path().to_str().unwrap()), "{detail}");
}

#[test]
fn a_bundle_signed_by_another_installation_is_refused() {
    let (ours, theirs) = (Plane::start(), Plane::start());
    let release = theirs.release(json!({ "epochs": 1, "patience": 0 }));
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("bundle.zip");
    let path = file.to_str().unwrap();
    let output = theirs.cli_output(&["release", "export", release["digest"].as_str().unwrap(), path]);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let (code, _) = error(&ours.cli_output(&["release", "import", path]));
    assert_eq!(code, "signature_invalid");
    let models: Value = ours.cli(&["model", "list"]);
    assert_eq!(models, json!([]), "nothing of it stays");
}

#[test]
fn a_claim_code_serves_once_and_for_its_own_ca_only() {
    let (plane, stranger) = (Plane::start(), Plane::start());
    let folder = tempfile::tempdir().unwrap();
    let claim = folder.path().join("claim");
    plane.claim(&claim);
    let claims = |plane: &Plane| plane.cli::<Value>(&["audit"]).to_string().matches("device:claim").count();
    let made = claims(&plane);
    let (code, _) = error(&plane.cli_output(&["device", "claim", claim.to_str().unwrap()]));
    assert_eq!(code, "already_exists");
    assert_eq!(claims(&plane), made, "a claim that cannot be written is not made");
    let enrol = |claim: &std::path::Path, name: &str| {
        let mut command = Command::new(binary("flotilla-agent"));
        command
            .args(["enrol", "--name", name, "--claim"])
            .arg(claim)
            .arg("--dir")
            .arg(folder.path().join(name));
        command
    };
    run_ok(&mut enrol(&claim, "first"));
    assert_eq!(agent_error(&run(&mut enrol(&claim, "second"))), "claim_used");
    assert!(!folder.path().join("second/identity").exists(), "a refused device keeps no identity");

    // The same secret, but the server's CA is another one than the code names.
    let foreign = folder.path().join("foreign");
    stranger.claim(&foreign);
    let mut code_: flotilla_protocol::enrol::ClaimCode =
        std::fs::read_to_string(&foreign).unwrap().parse().unwrap();
    code_.server = plane.http.trim_start_matches("http://").to_owned();
    std::fs::write(&foreign, code_.to_text()).unwrap();
    assert_eq!(agent_error(&run(&mut enrol(&foreign, "third"))), "ca_mismatch");
    assert!(!folder.path().join("third/identity").exists());

    let device = Device::enrol(&plane, "fourth");
    let again = agent_error(&device.run(&["enrol", "--claim", claim.to_str().unwrap()]));
    assert_eq!(again, "already_exists", "an identity is never overwritten");
}

#[test]
fn a_large_upload_is_refused_with_the_reason_and_not_as_a_broken_connection() {
    let Some(disk) = SmallDisk::mount("96m") else { return };
    let plane = Plane::start_in(&disk.path().join("plane"));
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("large.csv");
    std::fs::File::create(&file).unwrap().set_len(200 << 20).unwrap();
    let path = file.to_str().unwrap();
    let (code, detail) = error(&plane.cli_output(&["dataset", "import", "large", path]));
    assert_eq!(code, "storage_full", "{detail}");

    let token = folder.path().join("token");
    std::fs::write(&token, "wrong").unwrap();
    let mut command = Command::new(binary("flotilla"));
    command.args(["dataset", "import", "large", path, "-o", "json", "--server", &plane.http, "--token-file"]);
    let (code, _) = error(&run(command.arg(&token)));
    assert_eq!(code, "unauthenticated");

    // What was in the way has gone, so the next one finds room: the full disk has broken nothing.
    let import: Value = plane.cli(&["dataset", "import", "digits"]);
    assert_eq!(import["imported"], 1797);
}
