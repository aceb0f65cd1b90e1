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
    let url = format!("{}/api/v1/datasets/digits/versions/1/samples/{digest}", plane.http);
    let bearer = format!("Bearer {}", plane.token());
    ureq::get(&url).header("authorization", bearer).call().unwrap().body_mut().read_to_vec().unwrap()
}

#[test]
fn an_update_survives_kills_of_the_agent_and_of_the_control_plane() {
    let mut plane = Plane::start();
    let first = plane.release(quick());
    let mut devices: Vec<_> = (1..=2).map(|n| Device::enrol(&plane, &format!("box-{n}"))).collect();
    devices.iter_mut().for_each(Device::start);
    for device in &devices {
        eventually("connected", LIMIT, || plane.device(&device.id).filter(|v| v["connected"] == true));
    }
    let rollout: Value = plane.cli(&["rollout", "create", first["digest"].as_str().unwrap(), "--detach"]);

    // The control plane dies in the middle of the rollout, and the agents right after.
    plane.kill();
    devices.iter_mut().for_each(Device::kill);
    plane.restart();
    devices.iter_mut().for_each(Device::start);
    let path = format!("/api/v1/rollouts/{}", rollout["id"].as_str().unwrap());
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
fn a_revoked_device_is_shut_out_at_once() {
    let plane = Plane::start();
    let mut device = Device::enrol(&plane, "box-1");
    device.start();
    eventually("connected", LIMIT, || plane.device("box-1").filter(|v| v["connected"] == true));
    let _view: Value = plane.cli(&["device", "revoke", "box-1"]);
    eventually("shut out", LIMIT, || plane.device("box-1").filter(|v| v["connected"] == false));
    assert_eq!(plane.device("box-1").unwrap()["state"], "revoked");
}
