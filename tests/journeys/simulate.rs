//! Simulated devices against a real control plane: rollouts end where they should, whatever happens on the way.

use flotilla_tests::{Plane, Simulation, eventually};
use serde_json::{Value, json};
use std::process::Command;
use std::time::Duration;

const LIMIT: Duration = Duration::from_secs(300);
const DEVICES: u32 = 50;

fn release(plane: &Plane) -> String {
    let release = plane.release(json!({ "epochs": 3, "patience": 0, "seed": 1 }));
    release["digest"].as_str().unwrap().to_owned()
}

fn devices(plane: &Plane) -> Vec<Value> {
    let (_, devices) = plane.get("/api/v1/devices");
    devices.as_array().unwrap().clone()
}

fn wait_until_connected(plane: &Plane) {
    eventually("all devices were connected", LIMIT, || {
        let heard = devices(plane).iter().filter(|device| device["records"].as_u64() > Some(0)).count();
        (heard == DEVICES as usize).then_some(())
    });
}

/// Starts a rollout in waves of one and of the rest, and waits until it is over.
fn roll_out(plane: &Plane, release: &str) -> Value {
    let rollout: Value = plane.cli(&["rollout", "create", release, "--detach"]);
    let path = format!("/api/v1/rollouts/{}", rollout["id"].as_str().unwrap());
    eventually("the rollout is over", LIMIT, || {
        let (_, view) = plane.get(&path);
        matches!(view["state"].as_str(), Some("succeeded" | "rolled_back" | "aborted")).then_some(view)
    })
}

fn runs(device: &Value, release: &str) -> bool {
    let models = device["models"].as_array();
    models.is_some_and(|models| models.iter().any(|model| model["release"] == release))
}

#[test]
fn a_release_that_fails_on_a_share_of_the_fleet_is_taken_back_everywhere() {
    let plane = Plane::start();
    let release = release(&plane);
    let faults = ["--failing-probes", "30%", "--duplicated", "5%", "--reordered", "5%", "--slow", "10%"];
    let simulation =
        Simulation::start(&plane, DEVICES, &[&faults[..], &["--slow-bytes-per-s", "200000"]].concat());
    wait_until_connected(&plane);
    let rollout = roll_out(&plane, &release);
    assert_eq!(rollout["state"], "rolled_back", "{rollout}");
    assert_eq!(rollout["reason"], "the simulated probe gives other golden outputs", "{rollout}");
    eventually("nobody runs the release", LIMIT, || {
        (!devices(&plane).iter().any(|device| runs(device, &release))).then_some(())
    });
    let report = simulation.stop();
    assert_eq!(report["ended"], "stopped");
    assert_eq!(report["connected"], DEVICES);
    assert_eq!(report["releases"][0]["running"], 0, "{report}");
    let failures = report["failures"]["probe_mismatch"].as_u64().unwrap();
    assert!((1..=15).contains(&failures), "the probe fails on 15 devices at most: {report}");
}

#[test]
fn devices_that_drop_crash_and_lie_do_not_keep_a_rollout_from_its_end() {
    let plane = Plane::start();
    let release = release(&plane);
    let simulation = Simulation::start(
        &plane,
        DEVICES,
        &[
            &["--offline", "40%", "--offline-for", "3s", "--online-for", "4s"][..],
            &["--crashing", "20%", "--crash-every", "8s", "--lying", "4%"],
            &["--duplicated", "10%", "--reordered", "5%", "--until-release", &release],
        ]
        .concat(),
    );
    wait_until_connected(&plane);
    let rollout = roll_out(&plane, &release);
    assert_eq!(rollout["state"], "succeeded", "{rollout}");
    let report = simulation.report();
    assert_eq!(report["ended"], "released");
    let spread = &report["releases"][0];
    // Two of them only said so.
    assert_eq!((&spread["running"], &spread["wanted"]), (&json!(DEVICES - 2), &json!(DEVICES)), "{report}");
    for device in devices(&plane) {
        assert_eq!(
            device["records_missing"], 0,
            "what a device recorded has arrived or is on its way: {device}"
        );
    }
}

/// A flood costs the device its connection, and nobody else anything. Whether the device itself comes through is its own
/// affair: what it floods with takes the place of what it has to say.
#[test]
fn a_flooding_device_is_cut_off_and_the_others_go_on() {
    let plane = Plane::start();
    let release = release(&plane);
    let simulation = Simulation::start(&plane, DEVICES, &["--flooding", "2%"]);
    wait_until_connected(&plane);
    let rollout: Value =
        plane.cli(&["rollout", "create", &release, "--wave", "100%", "--soak", "0s", "--detach"]);
    eventually("all others run the release", LIMIT, || {
        let running = devices(&plane).iter().filter(|device| runs(device, &release)).count();
        (running >= DEVICES as usize - 1).then_some(())
    });
    let (_, view) = plane.get(&format!("/api/v1/rollouts/{}", rollout["id"].as_str().unwrap()));
    assert!(matches!(view["state"].as_str(), Some("running" | "succeeded")), "{view}");
    let report = simulation.stop();
    assert!(
        report["connected"].as_u64() >= Some(u64::from(DEVICES) - 1),
        "nobody else was cut off: {report}"
    );
    assert_eq!(report["failures"], json!({}), "{report}");
}

#[test]
fn a_second_simulation_is_of_the_same_devices_and_enrols_nobody() {
    let plane = Plane::start();
    let folder = tempfile::tempdir().unwrap();
    let claim = folder.path().join("claim");
    plane.claim_for(&claim, 5);
    let state = folder.path().join("state");
    let run = |claim: bool| -> Value {
        let mut command = Command::new(flotilla_tests::binary("flotilla"));
        command.args(["simulate", "--devices", "5", "--for", "2s", "-o", "json", "--state"]).arg(&state);
        if claim {
            command.arg("--claim").arg(folder.path().join("claim"));
        }
        serde_json::from_str(&flotilla_tests::run_ok(&mut command)).unwrap()
    };
    let (first, second) = (run(true), run(false));
    assert_eq!((&first["enrolled"], &second["enrolled"]), (&json!(5), &json!(0)));
    assert_eq!((&first["connected"], &second["connected"]), (&json!(5), &json!(5)));
    let devices = devices(&plane);
    assert_eq!(devices.len(), 5);
    let repeated = devices.iter().filter(|device| device["repeated_hellos"] != 0).count();
    assert_eq!(repeated, 0, "the counters of their hellos go on: {devices:?}");
}
