//! An operator looks at the whole fleet, at what ran on a device, and takes one out of service.

use flotilla_tests::{Plane, Simulation, binary, eventually, run_ok};
use serde_json::{Value, json};
use std::process::Command;
use std::time::Duration;

const LIMIT: Duration = Duration::from_secs(120);
const DEVICES: u32 = 4;

/// What `flotilla fleet top` prints where nobody sits at a terminal.
fn top(plane: &Plane, arguments: &[&str]) -> String {
    let mut command = Command::new(binary("flotilla"));
    let text = run_ok(command.args(["fleet", "top"]).args(arguments).arg("--dir").arg(&plane.dir));
    assert!(!text.contains('\u{1b}'), "{text:?}");
    text
}

#[test]
fn an_operator_watches_a_fleet_and_takes_a_device_out_of_service() {
    let plane = Plane::start();
    let release = plane.release(json!({ "epochs": 3, "patience": 0, "seed": 1 }));
    let digest = release["digest"].as_str().unwrap();
    assert!(top(&plane, &["--once"]).contains("0 devices, 0 online"));
    let simulation = Simulation::start(&plane, DEVICES, &[]);
    let online = json!(DEVICES);
    eventually("all devices are online", LIMIT, || {
        (plane.get("/api/v1/fleet").1["online"] == online).then_some(())
    });
    let rollout: Value = plane.cli(&["rollout", "create", digest]);
    assert_eq!(rollout["state"], "succeeded");
    let draft: Value = plane.cli(&["rollout", "create", digest, "--draft"]);

    // One frame as text, and the same as JSON.
    let text = top(&plane, &[]);
    let lines: Vec<&str> = text.lines().collect();
    assert!(lines[0].ends_with("4 devices, 4 online, 0 offline"), "{text}");
    let short = digest.get(..12).unwrap();
    let all = format!("{short}       4 100 % {}", "#".repeat(30));
    let id = draft["id"].as_str().unwrap();
    for said in [
        "STATES  4 confirmed".to_owned(),
        "MODEL digits  4 devices".to_owned(),
        all,
        format!("ROLLOUT {id} digits {short}  0/4 draft"),
        format!("  wave 1   waiting  [{}] 0/1", ".".repeat(30)),
    ] {
        assert!(text.contains(&said), "{said:?} in {text}");
    }
    let view: Value = plane.cli(&["fleet", "top"]);
    assert_eq!((&view["states"], &view["online"]), (&json!({ "confirmed": 4 }), &json!(4)));
    assert_eq!(
        view["models"][0]["releases"][0],
        json!({ "release": digest, "version": release["version"], "devices": 4 })
    );
    assert!(view["messages"].as_u64() > Some(0) && view["sent_bytes"].as_u64() > Some(0), "{view}");

    // What ran when.
    let (_, devices) = plane.get("/api/v1/devices");
    let id = devices[0]["id"].as_str().unwrap();
    let history: Value = plane.cli(&["device", "history", id]);
    let [ran] = history.as_array().unwrap().as_slice() else { panic!("{history}") };
    assert_eq!((&ran["outcome"], &ran["release"]), (&json!("confirmed"), &json!(digest)));
    assert_eq!(ran["rollout"], rollout["id"]);

    // Out of service: not without a word, and then for good.
    let asked = plane.cli_output(&["device", "decommission", id]);
    let said = String::from_utf8_lossy(&asked.stderr).into_owned();
    assert!(!asked.status.success() && said.contains("--yes"), "{said}");
    let done: Value = plane.cli(&["device", "decommission", id, "--yes", "--reason", "worn out"]);
    assert_eq!(done, json!({ "devices": 1, "changed": 1, "failed": [] }));
    assert_eq!(plane.device(id).unwrap()["state"], "decommissioned");
    let three = eventually("it is sent away", LIMIT, || {
        let text = top(&plane, &["--once"]);
        text.contains("3 devices, 3 online, 0 offline, 1 decommissioned").then_some(text)
    });
    assert!(three.contains("STATES  3 confirmed"), "{three}");
    let listed: Value = plane.cli(&["device", "list"]);
    let listed_all: Value = plane.cli(&["device", "list", "--all-states"]);
    let asked_for: Value = plane.cli(&["device", "list", "--filter", "state == 'decommissioned'"]);
    let count = |devices: &Value| devices.as_array().unwrap().len();
    assert_eq!((count(&listed), count(&listed_all), count(&asked_for)), (3, 4, 1));
    let still: Value = plane.cli(&["device", "history", id]);
    assert_eq!(still, history, "its history stays");
    let long = json!({ "devices": [id], "reason": "x".repeat(2_000) });
    let (status, problem) = plane.post("/api/v1/device-decommission", long);
    assert_eq!((status, problem["code"].as_str()), (400, Some("invalid_input")));
    simulation.stop();
}
