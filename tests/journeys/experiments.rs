//! An operator tries two releases on two halves of a fleet, looks at them, and ends it, on the command line and over HTTP.

use crate::console::{PAGE, everything_fits};
use flotilla_tests::{Browser, Plane, Simulation, eventually};
use serde_json::{Value, json};
use std::time::Duration;

const LIMIT: Duration = Duration::from_secs(300);
const DEVICES: u32 = 6;

fn release(plane: &Plane, seed: u32) -> String {
    let release = plane.release(json!({ "epochs": 1, "patience": 0, "seed": seed }));
    release["digest"].as_str().unwrap().to_owned()
}

#[test]
fn an_operator_compares_two_releases_and_ends_it() {
    let plane = Plane::start();
    let (a, b) = (release(&plane, 1), release(&plane, 2));
    // Nobody is there to try them.
    let nobody = plane.cli_output(&["experiment", "create", "--a", &a, "--b", &b]);
    assert_eq!(nobody.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&nobody.stderr).contains("invalid_input"), "{nobody:?}");

    let _simulation = Simulation::start(&plane, DEVICES, &[]);
    eventually("all devices were connected", LIMIT, || {
        let (_, devices) = plane.get("/api/v1/devices");
        let online = |device: &&Value| device["records"].as_u64() > Some(0);
        (devices.as_array()?.iter().filter(online).count() == DEVICES as usize).then_some(())
    });
    let made: Value = plane.cli(&[
        "experiment",
        "create",
        "--a",
        &a,
        "--b",
        &b,
        "--share",
        "50%",
        "--soak",
        "1h",
        "--max-soak",
        "8h",
        "--metric",
        "errors=0.01/0.05",
        "--name",
        "small or large",
    ]);
    let id = made["id"].as_str().unwrap();
    assert_eq!((&made["a"]["devices"], &made["b"]["devices"]), (&json!(3), &json!(3)), "{made}");
    assert_eq!((&made["state"], &made["name"]), (&json!("running"), &json!("small or large")));

    // One at a time of a model; what makes no sense is refused before anything happens.
    let second = plane.cli_output(&["experiment", "create", "--a", &a, "--b", &b]);
    assert!(String::from_utf8_lossy(&second.stderr).contains("already_exists"), "{second:?}");
    let share = plane.cli_output(&["experiment", "create", "--a", &a, "--b", &b, "--share", "100%"]);
    assert_eq!(share.status.code(), Some(2));
    let unknown = plane.cli_output(&["experiment", "show", "experiment-1"]);
    assert_eq!(unknown.status.code(), Some(5));
    let early = plane.cli_output(&["experiment", "promote", id, "a"]);
    assert!(String::from_utf8_lossy(&early.stderr).contains("wrong_state"), "{early:?}");

    // Both halves get theirs by rollouts that name the experiment, and are compared from then on.
    let path = format!("/api/v1/experiments/{id}");
    let comparing = eventually("both halves run what they should", LIMIT, || {
        Some(plane.get(&path).1).filter(|view| view["state"] == "comparing")
    });
    for (half, release) in [("a", &a), ("b", &b)] {
        let rollout = comparing[half]["rollout"].as_str().unwrap();
        let (_, rollout) = plane.get(&format!("/api/v1/rollouts/{rollout}"));
        assert_eq!((&rollout["release"], &rollout["created_by"]), (&json!(release), &json!(id)));
    }
    let listed: Value = plane.cli(&["experiment", "list"]);
    assert_eq!(listed.as_array().unwrap().len(), 1);

    // On the page they stand side by side; ended with two clicks, since it touches devices.
    let login: Value = plane.cli(&["login"]);
    if let Some(mut page) = Browser::open(login["url"].as_str().unwrap()) {
        page.wait_for("document.querySelector('[data-experiment]')?.dataset.state === 'comparing'", PAGE);
        assert_eq!(page.eval("document.querySelectorAll('[data-experiment] [data-half]').length"), 2);
        everything_fits(&mut page, "experiment");
        page.eval("document.querySelector('[data-experiment] [data-order=back]').click()");
        page.wait_for(
            "document.querySelector('[data-experiment] [data-order=back]').textContent.includes('Send 6 devices back')",
            PAGE,
        );
        page.eval("document.querySelector('[data-experiment] [data-order=back]').click()");
        page.wait_for("document.querySelector('[data-experiment]').dataset.state === 'stopped'", PAGE);
    }
    let stopped: Value = plane.cli(&["experiment", "stop", id, "--back"]);
    assert_eq!(stopped["state"], "stopped");
    eventually("both halves have gone back", LIMIT, || {
        Some(plane.get(&path).1).filter(|view| view["finished_at_ms"].is_u64())
    });
    let watched: Value = plane.cli(&["experiment", "watch", id]);
    assert_eq!(watched["reason"], "administrator stopped it, and both halves go back");
}
