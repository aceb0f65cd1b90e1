//! Updates under kills and attacks: the device keeps a model that works, and nothing unsigned gets in.

use flotilla_tests::{Device, Plane, eventually};
use serde_json::{Value, json};
use std::time::Duration;

const LIMIT: Duration = Duration::from_secs(90);

/// Enough training for a model that is clearly better than chance, and no more.
fn quick() -> Value {
    json!({ "epochs": 3, "patience": 0, "seed": 1 })
}

fn wait_for_state(plane: &Plane, device: &str, state: &str) -> Value {
    eventually(&format!("{device} is {state}"), LIMIT, || {
        plane.device(device).filter(|view| view["state"] == state)
    })
}

fn a_test_image(plane: &Plane) -> Vec<u8> {
    let (_, samples) = plane.get("/api/v1/datasets/digits/versions/1/samples?split=test");
    let digest = samples[0]["digest"].as_str().unwrap();
    plane.get_bytes(&format!("/api/v1/datasets/digits/versions/1/samples/{digest}"))
}

/// A rollout's waves: the state of each, and of its devices in their order.
fn waves(plane: &Plane, path: &str) -> Vec<(String, Vec<String>)> {
    let text = |value: &Value| value["state"].as_str().unwrap().to_owned();
    let (_, view) = plane.get(path);
    let waves = view["waves"].as_array().unwrap();
    waves.iter().map(|w| (text(w), w["devices"].as_array().unwrap().iter().map(text).collect())).collect()
}

/// What such waves are compared with.
fn expected(waves: [(&str, &[&str]); 2]) -> Vec<(String, Vec<String>)> {
    let texts = |states: &[&str]| states.iter().map(ToString::to_string).collect();
    waves.map(|(state, devices)| (state.to_owned(), texts(devices))).into()
}

/// Frozen agents hold the rollout where it is, so each kill is known to come there.
#[test]
fn an_update_survives_kills_of_the_control_plane_in_each_wave_and_of_agents() {
    let mut plane = Plane::start();
    let first = plane.release(quick());
    let mut devices: Vec<_> = (1..=3).map(|n| Device::enrol(&plane, &format!("box-{n}"))).collect();
    devices.iter_mut().for_each(Device::start);
    for device in &devices {
        eventually("connected", LIMIT, || plane.device(&device.id).filter(|v| v["connected"] == true));
    }
    devices.iter().for_each(Device::freeze);
    let rollout: Value = plane.cli(&["rollout", "create", first["digest"].as_str().unwrap(), "--detach"]);
    let path = format!("/api/v1/rollouts/{}", rollout["id"].as_str().unwrap());
    // Which device is the canary is drawn anew for each rollout.
    let place = |device: &Device| {
        let is = |view: &Value| view["id"] == device.id.as_str();
        rollout["waves"]
            .as_array()
            .unwrap()
            .iter()
            .position(|w| w["devices"].as_array().unwrap().iter().any(is))
    };
    devices.sort_by_key(|device| place(device).unwrap());

    // The first wave: the canary was told, nobody else was.
    let told = expected([("running", &["sent"]), ("waiting", &["pending", "pending"])]);
    eventually("the canary was told", LIMIT, || (waves(&plane, &path) == told).then_some(()));
    plane.kill();
    plane.restart();
    assert_eq!(waves(&plane, &path), told, "the control plane was killed in the first wave");
    devices[0].thaw();
    assert_eq!(wait_for_state(&plane, &devices[0].id, "confirmed")["models"][0]["release"], first["digest"]);

    // The second wave: one device has confirmed, one was told and has not answered.
    devices[1].thaw();
    assert_eq!(wait_for_state(&plane, &devices[1].id, "confirmed")["models"][0]["release"], first["digest"]);
    let ids = rollout["waves"][1]["devices"].as_array().unwrap();
    let states =
        if ids[0]["id"] == devices[1].id.as_str() { ["confirmed", "sent"] } else { ["sent", "confirmed"] };
    let half = expected([("done", &["confirmed"]), ("running", &states)]);
    eventually("half of the second wave", LIMIT, || (waves(&plane, &path) == half).then_some(()));
    plane.kill();
    devices.iter_mut().for_each(Device::kill);
    plane.restart();
    assert_eq!(waves(&plane, &path), half, "the control plane was killed in the second wave");
    devices.iter_mut().for_each(Device::start);
    eventually("the rollout succeeds", LIMIT, || {
        let (_, view) = plane.get(&path);
        assert!(!matches!(view["state"].as_str(), Some("failed" | "rolled_back" | "aborted")), "{view}");
        (view["state"] == "succeeded").then_some(())
    });
    let image = a_test_image(&plane);
    for device in &mut devices {
        let view = wait_for_state(&plane, &device.id, "confirmed");
        assert_eq!(view["models"][0]["release"], first["digest"]);
        let (status, answer) = device.predict("digits", &image);
        assert_eq!((status, answer["release"].as_str()), (200, first["digest"].as_str()), "{answer}");
    }

    // Without the cloud, from a cold start, the confirmed model serves.
    plane.kill();
    devices[0].kill();
    devices[0].start();
    let answer = eventually("a prediction offline", LIMIT, || {
        let (status, answer) = devices[0].predict("digits", &image);
        (status == 200).then_some(answer)
    });
    assert_eq!(answer["release"], first["digest"]);
}

#[test]
fn a_control_plane_that_has_said_its_address_stops_in_order() {
    let mut plane = Plane::start();
    let status = plane.terminate();
    assert_eq!(status.code(), Some(0), "after SIGTERM: {status}");
    assert!(!plane.dir.join("server.json").exists(), "nobody takes it for running");
}

#[test]
fn a_revoked_device_is_shut_out_at_once() {
    let plane = Plane::start();
    let mut device = Device::enrol(&plane, "box-1");
    device.start();
    eventually("connected", LIMIT, || plane.device("box-1").filter(|v| v["connected"] == true));
    let _view: Value = plane.cli(&["device", "revoke", "box-1"]);
    eventually("shut out", LIMIT, || plane.device("box-1").filter(|v| v["connected"] == false));
    assert_eq!(plane.device("box-1").unwrap()["state"], "revoked");
}
