//! Who comes into the fleet: devices wait until an operator has looked at each, or come from a list of serial numbers.

use crate::console::{PAGE, everything_fits};
use flotilla_tests::{Browser, Plane, binary, run_ok};
use serde_json::{Value, json};
use std::process::Command;

#[test]
fn an_operator_approves_who_comes_into_the_fleet() {
    let plane = Plane::start();
    let folder = tempfile::tempdir().unwrap();
    let claim = folder.path().join("claim");
    let file = claim.to_str().unwrap();
    let arguments = ["device", "claim", file, "--uses", "4", "--approval", "--label", "shop"];
    assert!(plane.cli_output(&arguments).status.success());
    for name in ["till-1", "till-2", "till-3", "till-4"] {
        let mut command = Command::new(binary("flotilla-agent"));
        let dir = folder.path().join(name);
        command.args(["enrol", "--name", name, "--claim"]).arg(&claim).arg("--dir").arg(dir);
        run_ok(&mut command);
        assert_eq!(plane.device(name).unwrap()["state"], "waiting");
    }
    let state = |name: &str| plane.device(name).unwrap()["state"].as_str().unwrap().to_owned();
    let listed: Value = plane.cli(&["device", "list", "--filter", "state == 'waiting'"]);
    assert_eq!(listed.as_array().unwrap().len(), 4);
    let asked = plane.cli_output(&["device", "ping", "till-1"]);
    let said = String::from_utf8_lossy(&asked.stderr).into_owned();
    assert!(!asked.status.success() && said.contains("flotilla device approve till-1"), "{said}");

    let taken: Value = plane.cli(&["device", "approve", "till-1"]);
    assert_eq!(taken, json!({ "devices": 1, "changed": 1, "failed": [] }));
    assert_eq!((state("till-1"), state("till-2")), ("idle".into(), "waiting".into()));
    let refused: Value = plane.cli(&["device", "reject", "till-2", "--reason", "nobody knows it"]);
    assert_eq!(refused["changed"], 1);
    assert_eq!(state("till-2"), "revoked");
    // One that does not wait has no new certificate to be approved either.
    let idle = plane.cli_output(&["device", "approve", "till-1"]);
    assert!(String::from_utf8_lossy(&idle.stderr).contains("has not asked for a new certificate"));
    let long = json!({ "devices": ["till-3"], "reject": "x".repeat(2_000) });
    let (status, problem) = plane.post("/api/v1/device-admission", long);
    assert_eq!((status, &problem["code"]), (400, &json!("invalid_input")), "{problem}");

    let login: Value = plane.cli(&["login"]);
    if let Some(mut page) = Browser::open(login["url"].as_str().unwrap()) {
        page.wait_for("document.querySelector('.queue')?.textContent.includes('2 devices wait')", PAGE);
        everything_fits(&mut page, "approval-queue");
        page.eval("document.querySelector('[data-order=queue]').click()");
        page.wait_for("document.querySelector('[data-total]').dataset.total === '2'", PAGE);
        page.eval("location.hash = '#/devices/till-3'");
        page.wait_for("document.querySelector('#admission') !== null", PAGE);
        everything_fits(&mut page, "approval-device");
        page.eval("document.querySelector('[data-order=admit]').click()");
        page.wait_for("document.querySelector('#admission') === null", PAGE);
        assert_eq!(state("till-3"), "idle");
    } else {
        let _: Value = plane.cli(&["device", "approve", "till-3"]);
    }
    let rest: Value = plane.cli(&["device", "approve", "--waiting"]);
    assert_eq!(rest["changed"], 1);
    assert_eq!(state("till-4"), "idle");
    let nobody: Value = plane.cli(&["device", "approve", "--waiting"]);
    assert_eq!(nobody["devices"], 0);
}

#[test]
fn devices_come_from_a_list_of_serial_numbers() {
    let plane = Plane::start();
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    let list = path("list.csv");
    std::fs::write(&list, "serial,name,labels\nPF-1,Till 1,shop\nPF-1,Till 2,shop\n").unwrap();
    let file = list.to_str().unwrap().to_owned();
    let twice = plane.cli_output(&["device", "register", &file]);
    let said = String::from_utf8_lossy(&twice.stderr).into_owned();
    assert!(!twice.status.success() && said.contains("line 3 of the list: column serial"), "{said}");
    std::fs::write(&list, "serial,name,labels\nPF-1,Till 1,shop\nPF-2,Till 2,shop\n").unwrap();
    let done: Value = plane.cli(&["device", "register", &file]);
    assert_eq!(done, json!({ "new": 2, "replaced": 0, "unchanged": 0, "enrolled": 0 }));

    let claim = path("claim");
    let arguments = ["device", "claim", claim.to_str().unwrap(), "--uses", "3", "--registered"];
    assert!(plane.cli_output(&arguments).status.success());
    let enrol = |name: &str, serial: &str| {
        let mut command = Command::new(binary("flotilla-agent"));
        command.args(["enrol", "--name", name, "--serial", serial, "--claim"]).arg(&claim);
        command.arg("--dir").arg(path(name));
        command.output().unwrap()
    };
    let stranger = enrol("till-9", "PF-9");
    let said = String::from_utf8_lossy(&stranger.stderr).into_owned();
    assert!(!stranger.status.success() && said.contains("registered serial numbers"), "{said}");
    assert!(enrol("till-1", "PF-1").status.success());
    let view = plane.device("till-1").unwrap();
    assert_eq!(
        (&view["name"], &view["serial"], &view["labels"]),
        (&json!("Till 1"), &json!("PF-1"), &json!(["shop"]))
    );
    let copy = enrol("till-2", "PF-1");
    let said = String::from_utf8_lossy(&copy.stderr).into_owned();
    assert!(!copy.status.success() && said.contains("till-1"), "{said}");
    let all: Value = plane.cli(&["device", "registered"]);
    assert_eq!((&all[0]["device"], &all[1]["device"]), (&json!("till-1"), &json!(null)));
    let left: Value = plane.cli(&["device", "unregister", "PF-2"]);
    assert_eq!(left.as_array().unwrap().len(), 1);
}
