//! How long models take on boards: predicted, measured on a device, corrected by what devices report.

use flotilla_tests::{Device, Plane, eventually};
use serde_json::{Value, json};
use std::time::Duration;

const LIMIT: Duration = Duration::from_secs(120);

fn code(plane: &Plane, arguments: &[&str]) -> String {
    let output = plane.cli_output(arguments);
    assert!(!output.status.success(), "{arguments:?}");
    let text = String::from_utf8_lossy(&output.stderr);
    let line = text.lines().find(|line| line.starts_with("{\"error\"")).unwrap_or_else(|| panic!("{text}"));
    let error: Value = serde_json::from_str(line).unwrap();
    error["error"]["code"].as_str().unwrap().to_owned()
}

#[test]
fn a_board_is_measured_predicts_a_model_and_is_corrected_by_the_devices_that_run_it() {
    let plane = Plane::start();
    let _dataset: Value = plane.cli(&["dataset", "import", "digits"]);
    let _job: Value = plane.cli(&["train", "digits", "--config", &json!({ "epochs": 1 }).to_string()]);

    // What documents say of a board is a guess that says so; of some they say nothing.
    let boards: Value = plane.cli(&["board", "list"]);
    let board =
        |name: &str| boards.as_array().unwrap().iter().find(|board| board["name"] == name).cloned().unwrap();
    assert_eq!(board("raspberry-pi-4")["costs"], "derived");
    assert_eq!(board("generic")["costs"], Value::Null);
    let predict =
        |board: &str| -> Value { plane.cli(&["board", "predict", "digits", "1", "--board", board]) };
    let (slow, fast) = (predict("raspberry-pi-4"), predict("raspberry-pi-5"));
    assert!(slow["ms"].as_f64() > fast["ms"].as_f64() && fast["ms"].as_f64() > Some(0.0), "{slow} {fast}");
    assert!(slow["high_ms"].as_f64().unwrap() > 2.0 * slow["ms"].as_f64().unwrap(), "{slow}");
    assert_eq!(code(&plane, &["board", "predict", "digits", "--board", "generic"]), "not_found");
    assert_eq!(code(&plane, &["board", "show", "toaster"]), "not_found");

    // This machine is measured, and from then on predicts.
    let kept: Value = plane.cli(&["board", "measure", "generic", "--seconds", "5"]);
    assert_eq!(kept["costs"], "measured");
    let shown: Value = plane.cli(&["board", "show", "generic"]);
    assert!(shown["table"]["kinds"].as_object().unwrap().len() > 20, "{shown}");
    assert_eq!(shown["profile"]["name"], "generic");
    let predicted = predict("generic");
    assert_eq!((&predicted["costs"], &predicted["reports"]), (&json!("measured"), &json!(0)));

    // A device measures the same model, and runs nothing afterwards that it did not run before.
    assert_eq!(code(&plane, &["device", "measure", "box-1", "digits"]), "not_found");
    let mut device = Device::enrol(&plane, "box-1");
    device.start();
    let command: Value = plane.cli(&["device", "measure", "box-1", "digits", "1", "--wait", "120"]);
    assert_eq!((&command["kind"], &command["state"]), (&json!("measure"), &json!("done")), "{command}");
    let measured = &command["measured"];
    assert!(measured["p50_ms"].as_f64() > Some(0.0) && measured["peak_bytes"].as_u64() > Some(1 << 20));
    assert!(measured["max_error"].as_f64().unwrap() < 0.01, "{measured}");
    let models = plane.device("box-1").unwrap()["models"].clone();
    assert_eq!(models, json!([]));
    // Other work on this machine may slow one of the two down; a thousandfold would be another unit.
    let ratio = measured["p50_ms"].as_f64().unwrap() / predicted["ms"].as_f64().unwrap();
    assert!((0.02..200.0).contains(&ratio), "{measured} {predicted}");

    // A compression for a device takes that device's word, before and after.
    let made: Value = plane.cli(&[
        "compress",
        "digits",
        "--max-drop",
        "0.2",
        "--measure-on",
        "box-1",
        "--max-latency",
        "10s",
    ]);
    let path = format!("/api/v1/models/digits/versions/{}/report", made["version"]);
    let (_, report) = plane.get(&path);
    let on = &report["measured_on"];
    assert_eq!(on["device"], "box-1", "{report}");
    assert!(on["before"]["p50_ms"].as_f64() > Some(0.0) && on["after"]["p50_ms"].as_f64() > Some(0.0));
    assert_eq!(made["report"]["latency_on"], "device box-1");
    assert_eq!(code(&plane, &["compress", "digits", "--measure-on", "box-9"]), "not_found");

    // What it measures when it takes a release up corrects its board.
    let release: Value = plane.cli(&["release", "create", "digits", "--version", "1"]);
    let _rollout: Value = plane.cli(&["rollout", "create", release["digest"].as_str().unwrap()]);
    let corrected = eventually("a report", LIMIT, || {
        let (_, shown) = plane.get("/api/v1/boards/generic");
        (shown["correction"]["reports"] == 1).then(|| shown["correction"].clone())
    });
    assert!(corrected["median_error"].as_f64() >= Some(1.0) && corrected["scale"] != 1.0, "{corrected}");
    assert_eq!(predict("generic")["reports"], 1);

    let (_, trail) = plane.get("/api/v1/audit");
    let said = |subject: &str| trail.as_array().unwrap().iter().any(|record| record["subject"] == subject);
    assert!(said("board/generic"), "{trail}");
    let asked = |record: &Value| record["detail"]["kind"]["measure"]["manifest"].is_string();
    assert!(trail.as_array().unwrap().iter().filter(|record| asked(record)).count() >= 3, "{trail}");
}
