//! The agent on 64-bit Arm: the program that `deploy/build-agent aarch64` builds, emulated by qemu.

use flotilla_tests::{Device, Plane, eventually};
use serde_json::{Value, json};
use std::time::Duration;

/// An emulated agent takes its time.
const LIMIT: Duration = Duration::from_secs(180);
/// Pictures that both answer.
const PICTURES: usize = 60;
/// f32 sums in another order differ in the last bits.
const TOLERANCE: f64 = 1e-4;

/// Waits until a device has confirmed this release.
fn confirmed(plane: &Plane, device: &Device, release: &Value) {
    eventually(&format!("{} confirms", device.id), LIMIT, || {
        let view = plane.device(&device.id)?;
        let model = &view["models"][0];
        (view["state"] == "confirmed" && model["release"] == release["digest"]).then_some(())
    });
}

#[test]
fn an_arm_device_enrols_takes_updates_and_answers_as_x86_does() {
    let Some(program) = std::env::var_os("FLOTILLA_ARM_AGENT") else {
        eprintln!("skipped: FLOTILLA_ARM_AGENT names no agent for aarch64; tests/run says how to get one");
        return;
    };
    let plane = Plane::start();
    let mut arm = Device::enrol_with(&plane, "arm", program.into());
    let mut x86 = Device::enrol(&plane, "x86");
    [&mut arm, &mut x86].into_iter().for_each(Device::start);
    for device in [&arm, &x86] {
        eventually("connected", LIMIT, || plane.device(&device.id).filter(|v| v["connected"] == true));
    }
    let architecture = |id: &str| plane.device(id).unwrap()["arch"].clone();
    assert_eq!((architecture("arm"), architecture("x86")), ("aarch64".into(), std::env::consts::ARCH.into()));

    let first = plane.release(json!({ "epochs": 3, "patience": 0, "seed": 1 }));
    let second = |seed: u32| -> Value {
        let config = json!({ "epochs": 3, "patience": 0, "seed": seed }).to_string();
        let _trained: Value = plane.cli(&["train", "digits", "--config", &config]);
        let _compressed: Value = plane.cli(&["compress", "digits", "--max-drop", "0.05"]);
        plane.cli(&["release", "create", "digits"])
    };
    let (_, samples) = plane.get("/api/v1/datasets/digits/versions/1/samples?split=test");
    let pictures: Vec<Vec<u8>> = samples.as_array().unwrap()[..PICTURES]
        .iter()
        .map(|sample| {
            let digest = sample["digest"].as_str().unwrap();
            plane.get_bytes(&format!("/api/v1/datasets/digits/versions/1/samples/{digest}"))
        })
        .collect();

    for release in [first, second(2)] {
        let _: Value = plane.cli(&["rollout", "create", release["digest"].as_str().unwrap(), "--detach"]);
        [&arm, &x86].into_iter().for_each(|device| confirmed(&plane, device, &release));
        let mut worst: f64 = 0.0;
        for picture in &pictures {
            let ((arm_status, arm), (x86_status, x86)) =
                (arm.predict("digits", picture), x86.predict("digits", picture));
            assert_eq!((arm_status, x86_status), (200, 200), "{arm} {x86}");
            assert_eq!((&arm["release"], &x86["release"]), (&release["digest"], &release["digest"]));
            assert_eq!(arm["label"], x86["label"], "{arm} {x86}");
            let scores = |answer: &Value| -> Vec<f64> {
                answer["scores"].as_array().unwrap().iter().map(|score| score.as_f64().unwrap()).collect()
            };
            for (arm, x86) in scores(&arm).into_iter().zip(scores(&x86)) {
                worst = worst.max((arm - x86).abs());
            }
        }
        assert!(worst <= TOLERANCE, "scores differ by {worst}");
        println!("{PICTURES} pictures on arm64 and x86-64: the same labels, scores within {worst:.1e}");
    }
}
