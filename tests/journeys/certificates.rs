//! Certificates over their whole life, with the real binaries: rotation under kills, renewal after the end, revocation,
//! and a folder that was copied.

use flotilla_tests::{Device, Plane, eventually};
use serde_json::Value;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

const LIMIT: Duration = Duration::from_secs(120);

fn view(plane: &Plane, id: &str) -> Value {
    plane.device(id).unwrap()
}

fn now_ms() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_millis() as u64
}

fn connected(plane: &Plane, id: &str) -> Value {
    eventually("connected", LIMIT, || plane.device(id).filter(|v| v["connected"] == true))
}

fn audited(plane: &Plane, action: &str) -> usize {
    let trail: Value = plane.cli(&["audit"]);
    trail.as_array().unwrap().iter().filter(|record| record["action"] == action).count()
}

fn serial(device: &Device) -> Option<String> {
    device.status()["certificate"]["serial"].as_str().map(str::to_owned)
}

#[test]
fn a_device_renews_its_certificate_by_itself_also_when_it_is_killed_in_the_middle() {
    let mut plane = Plane::start_with(&["--certificate-s", "24"]);
    let mut device = Device::enrol(&plane, "box-1");
    let mut before = device.copy();
    device.start();
    connected(&plane, "box-1");
    let first = eventually("a certificate", LIMIT, || serial(&device));
    let identity = device.dir.join("identity");
    let pair = || std::fs::read(identity.join("key.pem")).unwrap();

    // Killed at the first sight of each step on the disk; then the control plane too.
    for step in ["asked.pem", "next.pem"] {
        let old = pair();
        eventually(step, LIMIT, || (identity.join(step).exists() || pair() != old).then_some(()));
        device.kill();
        device.start();
        eventually("another pair", LIMIT, || (pair() != old).then_some(()));
        connected(&plane, "box-1");
    }
    plane.kill();
    plane.restart();
    connected(&plane, "box-1");
    let old = pair();
    eventually("another pair", LIMIT, || (pair() != old).then_some(()));
    connected(&plane, "box-1");
    assert_ne!(eventually("a certificate", LIMIT, || serial(&device)), first);
    assert!(audited(&plane, "device:rotated") >= 3);
    assert_eq!(audited(&plane, "device:ask-renewal"), 0, "it was never too late");

    // Whoever has the folder of before the rotation is out.
    before.start();
    let problem = eventually("refused", LIMIT, || {
        before.status()["connection_problem"]["code"].as_str().map(str::to_owned)
    });
    assert!(["permission_denied", "network", "tls"].contains(&problem.as_str()), "{problem}");
    assert_eq!(before.status()["connected"], false);
}

#[test]
fn a_device_that_was_off_past_the_end_of_its_certificate_comes_back_with_an_approval() {
    let plane = Plane::start_with(&["--certificate-s", "20"]);
    let (mut device, mut stolen) = (Device::enrol(&plane, "box-1"), Device::enrol(&plane, "box-2"));
    eventually("the end", LIMIT, || {
        let ends = |id| view(&plane, id)["certificate_ends_ms"].as_u64().unwrap();
        (now_ms() > ends("box-1").max(ends("box-2")) + 1_000).then_some(())
    });
    let _view: Value = plane.cli(&["device", "revoke", "box-2"]);
    device.start();
    stolen.start();
    let renewal = |state: &str| {
        eventually(state, LIMIT, || plane.device("box-1").filter(|view| view["renewal"] == state))
    };
    let pending = renewal("pending");
    assert_eq!(pending["connected"], false);
    let key = pending["renewal_key"].as_str().unwrap();
    assert!(device.log().contains(key), "whoever approves can compare the key with the device's log");
    assert_eq!(device.predict("digits", b"").0, 404, "the local endpoint answers, whatever the certificate");

    let rejected: Value = plane.cli(&["device", "reject", "box-1", "--reason", "not expected"]);
    assert_eq!(rejected["renewal"], "rejected");
    eventually("the device says why", LIMIT, || {
        let status = device.status();
        let problem = &status["certificate"]["problem"];
        problem["detail"].as_str().filter(|detail| detail.contains("not expected")).map(drop)
    });
    let other = plane.cli_output(&["device", "approve", "box-1", "--key", &"0".repeat(64)]);
    assert!(String::from_utf8_lossy(&other.stderr).contains(key), "approved is what was looked at");
    let approved: Value = plane.cli(&["device", "approve", "box-1"]);
    assert_eq!(approved["renewal"], "approved");
    connected(&plane, "box-1");
    eventually("its hello is heard", LIMIT, || view(&plane, "box-1")["renewal"].is_null().then_some(()));
    eventually("settled", LIMIT, || (device.status()["certificate"]["renewal"] == "settled").then_some(()));
    for action in ["device:ask-renewal", "device:reject", "device:approve"] {
        assert_eq!(audited(&plane, action), 1, "{action}");
    }

    eventually("the revoked one is told so", LIMIT, || {
        (stolen.status()["certificate"]["problem"]["code"] == "revoked").then_some(())
    });
    assert_eq!(view(&plane, "box-2")["renewal"], Value::Null);
    let refused = plane.cli_output(&["device", "approve", "box-2"]);
    assert!(String::from_utf8_lossy(&refused.stderr).contains("revoked"));
}

#[test]
fn a_copied_folder_is_noticed_and_the_device_goes_on() {
    let plane = Plane::start();
    let mut device = Device::enrol(&plane, "box-1");
    device.start();
    connected(&plane, "box-1");
    device.kill();
    eventually("gone", LIMIT, || plane.device("box-1").filter(|view| view["connected"] == false));
    let mut copy = device.copy();
    device.start();
    copy.start();
    let view = eventually("noticed", LIMIT, || {
        plane.device("box-1").filter(|view| view["repeated_hellos"].as_u64() > Some(0))
    });
    assert_eq!(view["problem"]["code"], "replayed");
    assert_eq!(audited(&plane, "device:cloned"), 1);
    let table = plane.cli_output(&["device", "list"]);
    assert!(table.status.success());
    copy.kill();
    eventually("the device itself is connected", LIMIT, || {
        (device.status()["connected"] == true && plane.device("box-1")?["connected"] == true).then_some(())
    });
}
