//! A device that is asked from afar how it is.

use flotilla_tests::{Device, Plane, eventually};
use serde_json::{Value, json};
use std::time::Duration;

const LIMIT: Duration = Duration::from_secs(90);

fn finding<'a>(view: &'a Value, subject: &str) -> &'a Value {
    let findings = view["answer"]["findings"].as_array().unwrap_or_else(|| panic!("no findings in {view}"));
    findings
        .iter()
        .find(|f| f["subject"] == subject)
        .unwrap_or_else(|| panic!("nothing of {subject} in {view}"))
}

#[test]
fn an_operator_asks_a_device_how_it_is_and_reads_what_to_do() {
    let plane = Plane::start();
    let mut device = Device::enrol(&plane, "box-1");
    let (status, problem) = plane.get("/api/v1/devices/box-2/diagnosis");
    assert_eq!((status, problem["code"].as_str()), (404, Some("not_found")));

    // It is off: the question stays open, and asking again is the same question.
    let output = plane.cli_output(&["device", "diagnose", "box-1", "--wait", "0"]);
    let error = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(1), "{error}");
    assert!(error.contains("\"timeout\"") && error.contains("box-1 is offline"), "{error}");
    let (status, asked) = plane.post("/api/v1/devices/box-1/diagnose", json!(null));
    assert_eq!(status, 202, "{asked}");
    let number = asked["waiting"].as_u64().unwrap();
    let nothing = plane.cli_output(&["device", "diagnosis", "box-1"]);
    assert_eq!(nothing.status.code(), Some(5));

    device.start();
    let view: Value = eventually("the answer", LIMIT, || {
        let (_, view) = plane.get("/api/v1/devices/box-1/diagnosis");
        (view["answer"]["number"] == number).then_some(view)
    });
    assert!(view["waiting"].is_null(), "{view}");

    let view: Value = plane.cli(&["device", "diagnose", "box-1"]);
    assert!(view["answer"]["number"].as_u64().unwrap() > number, "another question: {view}");
    for subject in ["certificates", "trust", "link", "clock", "disk"] {
        assert_eq!(finding(&view, subject)["verdict"], "ok", "{view}");
    }
    let clock = finding(&view, "clock")["what"].as_str().unwrap();
    assert!(clock.contains("of the control plane's"), "a clock of the same machine: {clock}");

    // What is broken is named with its remedy, and in the exit code.
    std::fs::create_dir_all(device.dir.join("models/digits")).unwrap();
    std::fs::write(device.dir.join("models/digits/journal"), "rubbish").unwrap();
    let output = plane.cli_output(&["device", "diagnose", "box-1"]);
    assert_eq!(output.status.code(), Some(1));
    let view: Value = serde_json::from_slice(&output.stdout).unwrap();
    let journal = finding(&view, "journal");
    assert_eq!((&journal["verdict"], &journal["code"]), (&json!("fail"), &json!("storage_corrupt")));
    assert!(journal["remedy"].as_str().unwrap().contains("restart the agent"), "{journal}");
    let shown = plane.cli_output(&["device", "diagnosis", "box-1"]);
    assert_eq!(serde_json::from_slice::<Value>(&shown.stdout).unwrap()["answer"], view["answer"]);

    // Each question is in the audit trail; the second one, asked while the first was open, gave that its later deadline.
    let (_, trail) = plane.get("/api/v1/audit");
    let asked = |a: &&Value| a["action"] == "device:control" && a["detail"]["kind"] == "diagnostics";
    assert_eq!(trail.as_array().unwrap().iter().filter(asked).count(), 4, "{trail}");

    // A device that was shut out knows why it is not connected.
    device.kill();
    let _revoked: Value = plane.cli(&["device", "revoke", "box-1"]);
    let output = device.run(&["doctor", "-o", "json"]);
    assert_eq!(output.status.code(), Some(7));
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    let link = report["findings"].as_array().unwrap().iter().find(|f| f["subject"] == "link").unwrap();
    assert_eq!(link["code"], "permission_denied", "{link}");
    assert!(link["remedy"].as_str().unwrap().contains("may be revoked"), "{link}");
}

#[test]
fn a_device_that_is_enrolled_anew_as_the_doctor_says_hears_the_control_plane_at_once() {
    let plane = Plane::start();
    let mut device = Device::enrol(&plane, "box-1");
    device.start();
    for seconds in 21..31 {
        let _set: Value = plane.cli(&["device", "settings", "box-1", "--probation-s", &seconds.to_string()]);
    }
    let version = |device: &Device| device.status()["desired_version"].as_u64();
    eventually("everything is heard", LIMIT, || version(&device).filter(|version| *version >= 11));
    device.kill();
    let key = device.dir.join("identity/key.pem");
    std::fs::write(&key, "rubbish").unwrap();
    std::fs::remove_file(device.dir.join("identity.copy")).unwrap();
    let report: Value = serde_json::from_slice(&device.run(&["doctor", "-o", "json"]).stdout).unwrap();
    let remedy = "move the folder `identity` and trust.cbor away and enrol this device anew";
    assert!(report.to_string().contains(remedy), "{report}");

    for name in ["identity", "trust.cbor"] {
        std::fs::rename(device.dir.join(name), device.dir.join(format!("{name}.away"))).unwrap();
    }
    let claim = device.dir.join("claim");
    plane.claim(&claim);
    let enrolled = device.run(&["enrol", "--name", "box-2", "--claim", claim.to_str().unwrap()]);
    assert!(enrolled.status.success(), "{}", String::from_utf8_lossy(&enrolled.stderr));
    device.start();
    eventually("connected", LIMIT, || plane.device("box-2").filter(|view| view["connected"] == true));
    // Far below what the earlier device had accepted.
    let _set: Value = plane.cli(&["device", "settings", "box-2", "--probation-s", "33"]);
    eventually("the first documents are heard", LIMIT, || version(&device).filter(|version| *version == 2));
    let view = eventually("it says who it is", LIMIT, || {
        plane.device("box-2").filter(|view| view["records"].as_u64() > Some(0))
    });
    assert_eq!((&view["records_missing"], &view["repeated_hellos"]), (&json!(0), &json!(0)), "{view}");
}
