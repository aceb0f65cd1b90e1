//! A model engineer lets a release run beside the confirmed one before anybody depends on it.

use flotilla_tests::{Device, Plane, eventually};
use serde_json::{Value, json};
use std::time::Duration;

const LIMIT: Duration = Duration::from_secs(90);

fn images(plane: &Plane, count: usize) -> Vec<Vec<u8>> {
    let (_, samples) = plane.get("/api/v1/datasets/digits/versions/1/samples?split=test");
    let path = |sample: &Value| {
        format!("/api/v1/datasets/digits/versions/1/samples/{}", sample["digest"].as_str().unwrap())
    };
    samples.as_array().unwrap().iter().take(count).map(|sample| plane.get_bytes(&path(sample))).collect()
}

#[test]
fn a_release_is_tried_on_real_inputs_and_then_rolled_out_without_a_second_download() {
    let plane = Plane::start_with(&["--telemetry-s", "1"]);
    let first = plane.release(json!({ "epochs": 3, "patience": 0, "seed": 1 }));
    let mut device = Device::enrol(&plane, "box-1");
    device.start();
    let _rollout: Value = plane.cli(&["rollout", "create", first["digest"].as_str().unwrap()]);

    // Before it was compressed the same model says the same, nearly always.
    let second: Value = plane.cli(&["release", "create", "digits", "--version", "1"]);
    let digest = second["digest"].as_str().unwrap();
    let nobody = plane.cli_output(&["shadow", "start", "digits", "--release", digest]);
    assert_eq!(nobody.status.code(), Some(2), "somebody must say on which devices");
    let started: Value = plane.cli(&["shadow", "start", "digits", "--release", digest, "--device", "box-1"]);
    assert_eq!(started["devices"][0]["release"], digest, "{started}");
    let show = || -> Value { plane.cli(&["shadow", "show", "digits"]) };
    eventually("the shadow runs", LIMIT, || (show()["devices"][0]["state"] == "running").then_some(()));

    let images = images(&plane, 20);
    let mut asked = 0;
    let view = eventually("figures of the comparison", LIMIT, || {
        for image in &images {
            let (status, answer) = device.predict("digits", image);
            assert_eq!((status, &answer["release"]), (200, &first["digest"]), "{answer}");
            asked += 1;
        }
        Some(show()).filter(|view| view["totals"][0]["compared"].as_u64() >= Some(20))
    });
    let total = &view["totals"][0];
    assert_eq!((&total["release"], &total["against"]), (&second["digest"], &first["digest"]));
    let number = |name: &str| total[name].as_f64().unwrap_or_else(|| panic!("no {name} in {view}"));
    assert!(number("agreement") > 0.9 && number("failures") == 0.0, "{view}");
    assert!(number("compared") + number("skipped") <= f64::from(asked), "{view}");
    for name in ["confirmed_confidence", "shadow_confidence"] {
        assert!((0.3..=1.0).contains(&number(name)), "{view}");
    }
    assert!(number("shadow_p95_us") >= number("shadow_p50_us") && number("confirmed_p50_us") > 0.0, "{view}");
    assert_eq!(view["devices"][0]["figures"]["compared"], total["compared"]);

    // Convinced: what the device has of it is what it runs.
    let _rollout: Value = plane.cli(&["rollout", "create", digest]);
    let model = &plane.device("box-1").unwrap()["models"][0];
    assert_eq!((&model["release"], &model["state"]), (&second["digest"], &json!("confirmed")), "{model}");
    assert_eq!(model["bytes_reused"], model["bytes_total"], "{model}");
    eventually("it is promoted", LIMIT, || (show()["devices"][0]["state"] == "promoted").then_some(()));
    assert_eq!(device.predict("digits", &images[0]).1["release"], second["digest"]);

    let stopped: Value = plane.cli(&["shadow", "stop", "digits", "--all"]);
    assert_eq!(stopped["devices"][0]["state"], "stopped", "{stopped}");
    assert_eq!(stopped["totals"][0]["release"], digest, "what it was like is still known");
    let (_, trail) = plane.get("/api/v1/audit");
    for action in ["shadow:start", "shadow:stop"] {
        let noted = trail.as_array().unwrap().iter().filter(|entry| entry["action"] == action).count();
        assert_eq!(noted, 1, "{action}: {trail}");
    }
    let (status, problem) = plane.post("/api/v1/models/digits/shadow", json!({ "share_per_mille": 0 }));
    assert_eq!((status, &problem["code"]), (400, &json!("invalid_input")), "{problem}");
    let (status, problem) = plane.post("/api/v1/models/digits/shadow", json!({ "release": "x" }));
    assert_eq!((status, &problem["code"]), (400, &json!("invalid_input")), "{problem}");
}

#[test]
fn a_rollout_that_begins_as_a_shadow_reaches_applications_only_after_it_has_agreed() {
    let plane = Plane::start_with(&["--telemetry-s", "1"]);
    let first = plane.release(json!({ "epochs": 3, "patience": 0, "seed": 1 }));
    let mut device = Device::enrol(&plane, "box-1");
    device.start();
    let _rollout: Value = plane.cli(&["rollout", "create", first["digest"].as_str().unwrap()]);
    let second: Value = plane.cli(&["release", "create", "digits", "--version", "1"]);
    let digest = second["digest"].as_str().unwrap();
    let shadow = ["--shadow", "1", "--shadow-for", "2s", "--max-shadow", "10m", "--detach"];
    let rollout: Value = plane.cli(&[&["rollout", "create", digest][..], &shadow].concat());
    let show = || plane.get(&format!("/api/v1/rollouts/{}", rollout["id"].as_str().unwrap())).1;
    let stage = |view: &Value| view["shadow"]["state"].as_str().unwrap().to_owned();
    let images = images(&plane, 20);
    let mut before = 0;
    let view = eventually("the shadow has agreed", LIMIT, || {
        for image in &images {
            let (status, answer) = device.predict("digits", image);
            assert_eq!(status, 200, "{answer}");
            before += u32::from(answer["release"] == first["digest"]);
        }
        Some(show()).filter(|view| stage(view) == "done")
    });
    assert!(before >= 100, "applications had answers of the confirmed release meanwhile");
    assert_eq!(view["shadow"]["devices"], 1);
    let metrics: Vec<_> = view["shadow"]["watch"]["findings"].as_array().unwrap().iter().collect();
    assert!(metrics.iter().any(|finding| finding["metric"] == "disagreement"), "{view}");
    let ended = eventually("the rollout is over", LIMIT, || {
        Some(show()).filter(|view| matches!(view["state"].as_str(), Some("succeeded" | "rolled_back")))
    });
    assert_eq!(ended["state"], "succeeded", "{ended}");
    assert_eq!(device.predict("digits", &images[0]).1["release"], second["digest"]);
    let (_, trail) = plane.get("/api/v1/audit");
    assert!(trail.to_string().contains("\"shadow\":\"told\""), "{trail}");
}
