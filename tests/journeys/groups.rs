//! A fleet operator finds devices, writes on them and groups them, on the command line and over HTTP.

use flotilla_tests::{Plane, binary, run_ok};
use serde_json::{Value, json};
use std::process::Command;

fn enrol(plane: &Plane, folder: &std::path::Path, claim: &std::path::Path, name: &str) {
    let mut command = Command::new(binary("flotilla-agent"));
    command.args(["enrol", "--name", name, "--claim"]).arg(claim).arg("--dir").arg(folder.join(name));
    run_ok(&mut command);
    assert!(plane.device(name).is_some());
}

fn ids(devices: &Value) -> Vec<&str> {
    devices.as_array().unwrap().iter().map(|device| device["id"].as_str().unwrap()).collect()
}

#[test]
fn an_operator_finds_labels_and_groups_devices() {
    let plane = Plane::start();
    let folder = tempfile::tempdir().unwrap();
    let _shops: Value = plane.cli(&["group", "create", "spares", "--filter", "'spare' in labels"]);
    let claim = folder.path().join("claim");
    let file = claim.to_str().unwrap();
    let arguments = ["device", "claim", file, "--uses", "3", "--label", "shop", "--attribute", "site=berlin"];
    assert!(plane.cli_output(&arguments).status.success());
    for name in ["till-1", "till-2", "till-3"] {
        enrol(&plane, folder.path(), &claim, name);
    }

    // What the claim gave, what is written by hand, and what is found by it.
    let labelled: Value = plane.cli(&["device", "label", "till-1", "till-2", "--add", "canary"]);
    assert_eq!(labelled, json!({ "devices": 2, "changed": 2, "failed": [] }));
    let written: Value =
        plane.cli(&["device", "attribute", "--filter", "!('canary' in labels)", "--set", "site=paris"]);
    assert_eq!(written["changed"], 1);
    let _named: Value = plane.cli(&["device", "name", "till-3", "Till at the door"]);
    let found: Value =
        plane.cli(&["device", "list", "--filter", "attributes.site == 'berlin'", "--sort=-id"]);
    assert_eq!(ids(&found), ["till-2", "till-1"]);
    assert_eq!((&found[0]["labels"], &found[0]["online"]), (&json!(["canary", "shop"]), &json!(false)));
    let found: Value = plane.cli(&["device", "list", "--search", "DOOR"]);
    assert_eq!(ids(&found), ["till-3"]);

    // Pages: the body is the list as ever, the headers say how many there are and where it goes on.
    let output = plane.cli_output(&["device", "list", "--limit", "2"]);
    assert!(String::from_utf8_lossy(&output.stderr).contains("and 1 more"));
    let all: Value = plane.cli(&["device", "list", "--all"]);
    assert_eq!(ids(&all), ["till-1", "till-2", "till-3"]);
    let bearer = format!("Bearer {}", plane.token());
    let page = ureq::get(format!("{}/api/v1/devices?limit=2&sort=-id", plane.http));
    let page = page.header("authorization", bearer).call().unwrap();
    assert_eq!(page.headers()["x-total-count"], "3");
    let link = page.headers()["link"].to_str().unwrap().to_owned();
    let next = link.strip_prefix('<').unwrap().split_once('>').unwrap().0;
    assert_eq!(ids(&plane.get(next).1), ["till-1"]);

    // Groups: looked at before they are made, static and dynamic.
    let preview: Value = plane.cli(&["group", "preview", "--filter", "'canary' in labels"]);
    assert_eq!(preview, json!({ "total": 2, "devices": ["till-1", "till-2"], "next": null }));
    let made: Value = plane.cli(&["group", "create", "canaries", "--filter", "'canary' in labels"]);
    assert_eq!((&made["total"], &made["page"]["devices"]), (&json!(2), &json!(["till-1", "till-2"])));
    let _late: Value = plane.cli(&["device", "label", "till-3", "--add", "canary"]);
    let shown: Value = plane.cli(&["group", "show", "canaries"]);
    assert_eq!(shown["total"], 3, "late comers join by themselves");
    let _door: Value = plane.cli(&["group", "create", "door", "--device", "till-3"]);
    let _more: Value = plane.cli(&["group", "add", "door", "till-1", "till-2"]);
    let less: Value = plane.cli(&["group", "remove", "door", "till-2"]);
    assert_eq!(less["page"]["devices"], json!(["till-1", "till-3"]));
    let found: Value = plane.cli(&["device", "list", "--filter", "'door' in groups && id != 'till-1'"]);
    assert_eq!(ids(&found), ["till-3"]);
    let groups: Value = plane.cli(&["group", "list"]);
    let names: Vec<_> = groups.as_array().unwrap().iter().map(|group| group["name"].clone()).collect();
    assert_eq!(names, ["canaries", "door", "spares"]);

    // A group that a claim code names cannot be deleted; one that nothing uses can.
    let second = folder.path().join("second");
    let arguments = ["device", "claim", second.to_str().unwrap(), "--group", "door"];
    assert!(plane.cli_output(&arguments).status.success());
    let refused = plane.cli_output(&["group", "delete", "door"]);
    let said = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(!refused.status.success() && said.contains("wrong_state"), "{said}");
    let _gone: Value = plane.cli(&["group", "delete", "canaries"]);
    assert_eq!(plane.get("/api/v1/groups/canaries").0, 404);
    enrol(&plane, folder.path(), &second, "till-4");
    let shown: Value = plane.cli(&["group", "show", "door"]);
    assert_eq!(shown["page"]["devices"], json!(["till-1", "till-3", "till-4"]));

    // Rollouts stay away from what an operator sets aside.
    let all = json!({ "search": " ", "reason": "a script lost its variable" });
    let (status, problem) = plane.post("/api/v1/device-quarantine", all);
    assert_eq!(
        (status, &problem["code"]),
        (400, &json!("invalid_input")),
        "no words are not all devices: {problem}"
    );
    let aside: Value = plane.cli(&["device", "quarantine", "till-4", "--reason", "its fan is broken"]);
    assert_eq!(aside["changed"], 1);
    let view = plane.device("till-4").unwrap();
    let told = (view["state"].as_str(), view["quarantine"].as_str());
    assert_eq!(told, (Some("quarantined"), Some("its fan is broken")));
    let _back: Value = plane.cli(&["device", "release", "--filter", "state == 'quarantined'"]);
    assert_eq!(plane.device("till-4").unwrap()["state"], "idle");

    // Mistakes are named.
    let (status, problem) = plane.get("/api/v1/devices?filter=lables%20%3D%3D%201");
    assert_eq!((status, problem["code"].as_str()), (400, Some("invalid_input")));
    assert!(problem["detail"].as_str().unwrap().contains("there is no variable lables"), "{problem}");
    let output = plane.cli_output(&["device", "label", "till-1", "nobody", "--add", "x"]);
    assert!(!output.status.success(), "a device on which it is not possible is the command's failure");
    let answer: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!((&answer["changed"], &answer["failed"][0]["device"]), (&json!(1), &json!("nobody")));
}
