//! A device away from its control plane, and what its operator may say about downloads.

use flotilla_tests::{Device, Plane, eventually};
use serde_json::{Value, json};
use std::time::Duration;

const LIMIT: Duration = Duration::from_secs(90);

fn status(device: &Device) -> Option<Value> {
    let output = device.run(&["status", "-o", "json"]);
    serde_json::from_slice(&output.stdout).ok()
}

fn number(value: &Value, name: &str) -> u64 {
    value[name].as_u64().unwrap_or_else(|| panic!("{name} is missing in {value}"))
}

#[test]
fn what_a_device_records_without_the_control_plane_arrives_exactly_once() {
    let mut plane = Plane::start();
    let mut device = Device::enrol(&plane, "box-1");
    let settings: Value = plane.cli(&["device", "settings", "box-1", "--telemetry-s", "1"]);
    assert_eq!(settings["telemetry_interval_s"], 1);
    device.start();
    eventually("connected", LIMIT, || plane.device("box-1").filter(|v| v["connected"] == true));
    // It samples every second only once it has heard of it.
    eventually("samples", LIMIT, || plane.device("box-1").filter(|v| number(v, "records") >= 3));

    plane.kill();
    device.kill();
    device.start();
    let away = eventually("records kept", LIMIT, || {
        status(&device).filter(|s| s["connected"] == false && number(s, "records_waiting") >= 5)
    });
    assert_eq!(number(&away, "records_lost"), 0);
    plane.restart();
    // Samples go on meanwhile, so the two counts meet only if nothing is lost and nothing counted twice.
    eventually("every record once", LIMIT, || {
        let (made, view) = (number(&status(&device)?, "records_made"), plane.device("box-1")?);
        let came = number(&view, "records");
        assert!(number(&view, "records_missing") == 0 && number(&view, "records_dropped") == 0, "{view}");
        (came == made && made > number(&away, "records_made")).then_some(())
    });
}

#[test]
fn an_operator_sets_the_limits_of_downloads_and_every_change_is_in_the_audit_trail() {
    let plane = Plane::start();
    let _device = Device::enrol(&plane, "box-1");
    let shown: Value = plane.cli(&["device", "settings", "box-1"]);
    assert!(shown.get("quiet_hours").is_none() && shown.get("download_bytes_per_s").is_none(), "{shown}");
    let changed: Value = plane.cli(&[
        "device",
        "settings",
        "box-1",
        "--download-bytes-per-s",
        "65536",
        "--quiet",
        "22:00-06:00",
        "--quiet",
        "12:15-12:45",
    ]);
    assert_eq!(changed["download_bytes_per_s"], 65_536);
    assert_eq!(
        changed["quiet_hours"],
        json!([{ "from_min": 1_320, "to_min": 360 }, { "from_min": 735, "to_min": 765 }])
    );
    let again: Value = plane.cli(&["device", "settings", "box-1", "--no-quiet", "--probation-s", "9"]);
    assert_eq!((&again["download_bytes_per_s"], &again["probation_s"]), (&json!(65_536), &json!(9)));
    assert!(again.get("quiet_hours").is_none(), "{again}");
    let trail: Value = plane.cli(&["audit"]);
    let entries = trail.as_array().unwrap().iter();
    let about = entries.filter(|e| e["action"] == "device:control" && e["subject"] == "device/box-1");
    assert_eq!(about.count(), 2, "{trail}");

    let path = "/api/v1/devices/box-1/settings";
    let token = plane.token();
    for (patch, word) in [
        (json!({ "download_bytes_per_s": 3 }), "slowest"),
        (
            json!({ "quiet_hours": [{ "from_min": 0, "to_min": 1_439 }, { "from_min": 1_439, "to_min": 0 }] }),
            "no minute",
        ),
        (json!({ "quiet_hours": [{ "from_min": 7, "to_min": 7 }] }), "no span"),
        (json!({ "quite_hours": [] }), "quite_hours"),
    ] {
        let (status, problem) = plane.request("PATCH", path, Some(&token), Some(patch.clone()));
        assert_eq!((status, problem["code"].as_str()), (400, Some("invalid_input")), "{patch}");
        assert!(problem["detail"].as_str().unwrap().contains(word), "{problem}");
    }
    let (status, _) = plane.request("PATCH", "/api/v1/devices/none/settings", Some(&token), Some(json!({})));
    assert_eq!(status, 404);
}
