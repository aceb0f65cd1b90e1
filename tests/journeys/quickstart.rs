//! The main job: the quickstart, the console it shows, and a second run in the same folder.

use flotilla_tests::{Browser, binary, run};
use serde_json::Value;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

const PAGE: Duration = Duration::from_secs(60);

fn quickstart(dir: &Path) -> Command {
    let mut command = Command::new(binary("flotilla"));
    command.args(["quickstart", "--devices", "3", "--dir"]).arg(dir).stdin(Stdio::null());
    command
}

/// Starts a quickstart that stays up; gives what it wrote until the console's address, and that address.
fn stay_up(dir: &Path) -> (Child, String, String) {
    let mut process = quickstart(dir).stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(process.stderr.take().unwrap()).lines();
    let mut text = String::new();
    for line in &mut lines {
        let line = line.unwrap();
        text += &format!("{line}\n");
        if line.contains("/login?code=") {
            std::thread::spawn(move || lines.for_each(drop));
            return (process, text, line.trim().to_owned());
        }
    }
    panic!("the quickstart ended early: {:?}\n{text}", process.wait());
}

fn terminate(mut process: Child) {
    let pid = process.id().to_string();
    assert!(Command::new("kill").args(["-TERM", &pid]).status().unwrap().success());
    let status = process.wait().unwrap();
    assert!(status.success(), "after SIGTERM: {status}");
}

#[test]
fn the_loop_closes_is_seen_in_the_console_and_continues() {
    let folder = tempfile::tempdir().unwrap();
    let dir = folder.path().join("quickstart");

    let (process, text, url) = stay_up(&dir);
    for stage in ["import", "train", "compress", "release", "devices", "rollout", "predict", "telemetry"] {
        assert!(
            text.lines().any(|l| l.trim_start().starts_with(stage)),
            "no line of stage {stage} in\n{text}"
        );
    }
    console(&url);
    terminate(process);

    let output = run(quickstart(&dir).arg("--once"));
    let errors = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{errors}");
    assert!(errors.contains("continuing in"), "{errors}");
    assert_eq!(errors.matches("already").count(), 6, "every stage finds its work done:\n{errors}");
    let report: Value =
        serde_json::from_str(String::from_utf8(output.stdout).unwrap().lines().last().unwrap()).unwrap();
    check(&report);
}

fn console(url: &str) {
    let Some(mut browser) = Browser::open(url) else { return };
    browser.wait_for("document.querySelectorAll('[data-device][data-state=confirmed]').length === 3", PAGE);
    browser.wait_for("document.querySelector('[data-link]').dataset.link === 'live'", PAGE);
    browser.wait_for("Number(document.querySelector('[data-epochs]').dataset.epochs) >= 5", PAGE);
    browser.wait_for("document.querySelector('#training canvas') !== null", PAGE);
    browser.wait_for("document.querySelector('[data-rollout]').dataset.state === 'succeeded'", PAGE);
    let accuracy = "Number(document.querySelector('[data-validation-accuracy]').dataset.validationAccuracy)";
    assert!(browser.eval(accuracy).as_f64().unwrap() > 0.95);
    assert!(
        !browser.eval("location.href").as_str().unwrap().contains("code="),
        "the code stays in the address"
    );
    for width in [1440, 390] {
        for dark in [false, true] {
            browser.look(width, dark);
            let wide = format!("document.documentElement.scrollWidth <= {width}");
            browser.wait_for(&wide, PAGE);
            if let Some(folder) = std::env::var_os("FLOTILLA_SCREENSHOTS") {
                let name = format!("console-{width}-{}.png", if dark { "dark" } else { "light" });
                browser.screenshot(&Path::new(&folder).join(name));
            }
        }
    }
}

/// The report's figures.
fn check(report: &Value) {
    assert_eq!(report["dataset"]["samples"], 1797);
    assert_eq!(report["dataset"]["classes"], 10);
    let splits = ["train", "validation", "test"].map(|s| report["dataset"][s].as_u64().unwrap());
    assert_eq!(splits.iter().sum::<u64>(), 1797);
    assert!(report["training"]["parameters"].as_u64().unwrap() > 1000);
    let compression = &report["compression"];
    assert!(compression["test_accuracy"].as_f64().unwrap() >= 0.98, "{compression}");
    assert!(compression["accuracy_drop"].as_f64().unwrap() <= 0.005, "{compression}");
    assert!(compression["bytes_after"].as_u64().unwrap() <= 60_000, "{compression}");
    assert_eq!(report["rollout"]["state"], "succeeded");
    let waves = report["rollout"]["waves"].as_array().unwrap();
    let sizes: Vec<_> = waves.iter().map(|w| w["devices"].as_array().unwrap().len()).collect();
    assert_eq!(sizes, [1, 2]);
    let devices = report["devices"].as_array().unwrap();
    assert_eq!(devices.len(), 3);
    for device in devices {
        assert_eq!(device["state"], "confirmed");
        assert_eq!(device["release"], report["release"]["digest"]);
        assert_eq!(device["predictions"].as_u64().unwrap(), splits[2]);
        assert_eq!(device["identical_to_cloud"], true);
        assert!(
            (device["accuracy"].as_f64().unwrap() - compression["test_accuracy"].as_f64().unwrap()).abs()
                < 1e-9
        );
        assert!(device["probe"]["max_abs_error"].as_f64().unwrap() <= 1e-3);
        assert!(device["rss_bytes"].as_u64().unwrap() > 0);
    }
}
