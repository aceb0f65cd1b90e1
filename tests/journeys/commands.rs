//! Commands of an operator: done once, told with their end, and given up at their deadline.

use flotilla_tests::{Device, Plane, eventually};
use serde_json::{Value, json};
use std::time::Duration;

const LIMIT: Duration = Duration::from_secs(90);

#[test]
fn an_operator_gives_a_device_commands_and_hears_what_became_of_each() {
    let plane = Plane::start();
    let mut device = Device::enrol(&plane, "box-1");

    // It is off. One command is given up at its deadline although nobody answers, another waits.
    let path = "/api/v1/devices/box-1/commands";
    let (status, short) = plane.post(path, json!({ "kind": "log_level", "level": "trace", "deadline_s": 1 }));
    assert_eq!((status, short["state"].as_str()), (202, Some("pending")), "{short}");
    let patient: Value = plane.cli(&["device", "ping", "box-1", "--detach", "--deadline", "3600"]);
    assert_eq!(patient["state"], "pending");
    let all = eventually("the deadline", LIMIT, || {
        let (_, all) = plane.get(path);
        (all[1]["state"] == "expired").then_some(all)
    });
    assert_eq!((&all[0], &all[1]["failure"]["code"]), (&patient, &json!("expired")));
    for wrong in [json!({ "kind": "shell" }), json!({ "kind": "ping", "deadline_s": 0 })] {
        assert_eq!(plane.post(path, wrong).0, 400);
    }

    device.start();
    let stage = |number: &Value| {
        let (_, all) = plane.get(path);
        all.as_array().unwrap().iter().find(|one| one["number"] == *number).unwrap()["state"].clone()
    };
    eventually("the ping", LIMIT, || (stage(&patient["number"]) == "done").then_some(()));
    let level = |device: &Device| device.status()["log"].as_str().unwrap_or_default().to_owned();
    assert!(!level(&device).contains("trace"), "what came too late is not done");

    let set: Value = plane.cli(&["device", "log-level", "box-1", "debug"]);
    assert_eq!((&set["state"], &set["subject"]), (&json!("done"), &json!("debug")));
    eventually("its level", LIMIT, || level(&device).contains("flotilla_agent=debug").then_some(()));

    let serial = |device: &Device| device.status()["certificate"]["serial"].clone();
    let before = serial(&device);
    let rotated: Value = plane.cli(&["device", "rotate-certificate", "box-1"]);
    assert_eq!((&rotated["state"], &rotated["subject"]), (&json!("done"), &before));
    eventually("another certificate", LIMIT, || (serial(&device) != before).then_some(()));

    let output = plane.cli_output(&["device", "restart-model", "box-1", "digits"]);
    assert_eq!(output.status.code(), Some(5), "there is no such model");
    let failed: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!((&failed["state"], &failed["failure"]["code"]), (&json!("failed"), &json!("not_found")));

    // What its log says, from the whole agent through the whole control plane.
    let log: Value = plane.cli(&["device", "logs", "box-1", "--since", "1h", "--level", "info"]);
    assert_eq!(log["command"]["state"], "done", "{log}");
    let text = log["text"].as_str().unwrap();
    assert!(text.contains("the agent runs") && text.lines().all(|line| !line.contains("DEBUG")), "{text}");
    let path = format!("/api/v1/devices/box-1/commands/{}/log", log["command"]["number"]);
    assert_eq!(plane.get_bytes(&path), text.as_bytes());
    let none: Value = plane.cli(&["device", "logs", "box-1", "--until", "1d"]);
    assert_eq!((&none["command"]["state"], &none["text"]), (&json!("done"), &json!("")));
    assert_eq!(
        plane.post("/api/v1/devices/box-1/commands", json!({ "kind": "log_pull", "max_bytes": 1 })).0,
        400
    );

    // Killed, it does nothing twice: the certificate stays, and the level is that of a fresh start.
    let now = serial(&device);
    device.kill();
    device.start();
    let ping: Value = plane.cli(&["device", "ping", "box-1"]);
    assert_eq!(ping["state"], "done");
    assert_eq!(serial(&device), now);
    assert!(!level(&device).contains("debug"));

    // Who asked is on record, with every command.
    let all: Value = plane.cli(&["device", "commands", "box-1"]);
    assert_eq!(all.as_array().unwrap().len(), 8);
    let (_, trail) = plane.get("/api/v1/audit");
    let asked = |a: &&Value| a["action"] == "device:control" && a["detail"]["command"].is_u64();
    assert_eq!(trail.as_array().unwrap().iter().filter(asked).count(), 8, "{trail}");
    assert!(all.as_array().unwrap().iter().all(|one| one["by"] == all[0]["by"] && one["by"] != ""));
}
