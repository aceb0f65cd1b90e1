//! Control planes that other machines may reach, and enrolments that are cut off.

use flotilla_tests::{Device, Plane, binary, eventually, run, run_ok};
use serde_json::Value;
use std::process::Command;
use std::time::Duration;

const LIMIT: Duration = Duration::from_secs(60);

#[test]
fn devices_are_told_the_name_of_a_control_plane_that_listens_on_every_address() {
    let folder = tempfile::tempdir().unwrap();
    let up = ["up", "--http", "0.0.0.0:0", "--mqtt", "0.0.0.0:0", "-o", "json", "--dir"];
    let output = run(Command::new(binary("flotilla")).args(up).arg(folder.path().join("nameless")));
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(!output.status.success() && text.contains("--name HOST"), "{text}");

    let dir = folder.path().join("plane");
    let plane = Plane::start_at(&dir, "0.0.0.0:0", "0.0.0.0:0", &["--name", "localhost"]);
    assert!(plane.http.starts_with("http://127.0.0.1:"), "commands here use loopback: {}", plane.http);
    let mut device = Device::enrol(&plane, "box-1");
    let names: Value =
        serde_json::from_slice(&std::fs::read(device.dir.join("identity/device.json")).unwrap()).unwrap();
    let port = plane.mqtt.rsplit_once(':').unwrap().1;
    assert_eq!(names["mqtt"], format!("localhost:{port}"));
    device.start();
    eventually("connected", LIMIT, || plane.device("box-1").filter(|view| view["connected"] == true));
}

#[test]
fn an_enrolment_whose_answer_was_lost_is_made_up_for_by_the_same_claim() {
    let plane = Plane::start();
    let folder = tempfile::tempdir().unwrap();
    let (claim, dir) = (folder.path().join("claim"), folder.path().join("device"));
    plane.claim(&claim);
    let enrol = || {
        let mut command = Command::new(binary("flotilla-agent"));
        command.args(["enrol", "--name", "box-1", "--claim"]).arg(&claim).arg("--dir").arg(&dir);
        command
    };
    run_ok(&mut enrol());
    // As the folder is when the agent dies between the cloud's commit and the last rename.
    std::fs::rename(dir.join("identity"), dir.join("identity.new")).unwrap();
    for name in ["cert.pem", "ca.pem", "device.json"] {
        std::fs::remove_file(dir.join("identity.new").join(name)).unwrap();
    }
    std::fs::remove_file(dir.join("trust.cbor")).unwrap();
    run_ok(&mut enrol());
    assert!(dir.join("identity/device.json").exists() && !dir.join("identity.new").exists());
    let (_, devices) = plane.get("/api/v1/devices");
    assert_eq!(devices.as_array().unwrap().len(), 1, "{devices}");

    // A folder that lost its names is told what to do before the claim is spent.
    std::fs::remove_file(dir.join("identity/device.json")).unwrap();
    let output = run(&mut enrol());
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(text.contains("remove the folder identity") && text.contains("[storage_corrupt]"), "{text}");
}

#[test]
fn an_import_says_how_far_it_is() {
    let Some(mnist) = flotilla_tests::test_data("images/mnist-t10k") else { return };
    let plane = Plane::start();
    let output = plane.cli_output(&["dataset", "import", "mnist", mnist.to_str().unwrap()]);
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{text}");
    assert!(text.contains("bytes sent"), "the upload:\n{text}");
    let (status, problem) = plane.get("/api/v1/datasets/mnist/import");
    assert_eq!((status, problem["code"].as_str()), (404, Some("not_found")), "none runs any more");
}
