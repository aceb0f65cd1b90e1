//! Drift: a model whose pictures change is noticed on the device, and somebody is told.

use flotilla_protocol::manifest::ENGINE_TRACT;
use flotilla_protocol::{Envelope, ReleaseManifest, codec, limits};
use flotilla_runtime::drift::{HALF_WINDOW, Monitor};
use flotilla_runtime::{Bundle, Input, Model, Preprocessor, Stream};
use flotilla_tests::{Device, Plane, eventually};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::io::{Cursor, Read};
use std::time::Duration;

const TOLD: Duration = Duration::from_secs(60);

/// The files of a release, as its bundle carries them.
fn bundle(plane: &Plane, release: &Value) -> Bundle {
    let digest = release["digest"].as_str().unwrap();
    let zip = plane.get_bytes(&format!("/api/v1/releases/{digest}/bundle"));
    let mut zip = zip::ZipArchive::new(Cursor::new(zip)).unwrap();
    let names: Vec<String> = zip.file_names().map(|name| name.unwrap().into_owned()).collect();
    let mut files = BTreeMap::new();
    for name in names {
        let mut content = Vec::new();
        zip.by_name(&name).unwrap().read_to_end(&mut content).unwrap();
        files.insert(name.trim_start_matches("files/").to_owned(), content);
    }
    let envelope = Envelope::from_bytes(&files.remove("release.cbor").unwrap()).unwrap();
    let manifest: ReleaseManifest = codec::decode(&envelope.payload, limits::ENVELOPE).unwrap();
    Bundle::from_files(manifest, files).unwrap()
}

/// The pixels of the test split, 0 to 255.
fn test_split(plane: &Plane, manifest: &ReleaseManifest) -> Vec<Vec<u8>> {
    let samples = "/api/v1/datasets/digits/versions/1/samples";
    let (status, listed) = plane.get(&format!("{samples}?split=test"));
    assert_eq!(status, 200);
    let preprocessor = Preprocessor::new(&manifest.pipeline).unwrap();
    let pixels = |sample: &Value| {
        let png = plane.get_bytes(&format!("{samples}/{}", sample["digest"].as_str().unwrap()));
        let tensor = preprocessor.tensor(Input::Encoded(&png)).unwrap();
        tensor.iter().map(|value| ((value * 0.5 + 0.5) * 255.0).round() as u8).collect()
    };
    listed.as_array().unwrap().iter().map(pixels).collect()
}

/// What a monitor says of pictures.
fn drift(monitor: &Monitor, model: &mut Model, pictures: &[Vec<u8>]) -> flotilla_protocol::message::Drift {
    let mut monitor = monitor.clone();
    for picture in pictures {
        let prepared = model.prepare(Input::Raw(picture)).unwrap();
        let prediction = model.predict_prepared(Stream::default(), &prepared).unwrap();
        let tensor = prepared.values();
        monitor.count(&tensor, &prediction);
    }
    monitor.drift().unwrap()
}

fn each_pixel(pictures: &[Vec<u8>], change: impl Fn(usize, u8) -> u8) -> Vec<Vec<u8>> {
    let of = |picture: &Vec<u8>| picture.iter().enumerate().map(|(at, pixel)| change(at, *pixel)).collect();
    pictures.iter().map(of).collect()
}

fn inverted(pictures: &[Vec<u8>]) -> Vec<Vec<u8>> {
    each_pixel(pictures, |_, pixel| 255 - pixel)
}

/// Posts raw pictures to the device, one after the other.
fn ask(device: &Device, pictures: &[Vec<u8>]) {
    let agent = ureq::agent();
    let url = format!("http://{}/predict/digits", device.endpoint());
    for picture in pictures {
        let sent = agent.post(&url).header("content-type", "application/octet-stream").send(&picture[..]);
        assert_eq!(sent.unwrap().status(), 200);
    }
}

/// Sends the same as tensors, in batches, as a client of the Open Inference Protocol does.
fn infer(device: &Device, pictures: &[Vec<u8>]) {
    let agent = ureq::agent();
    let url = format!("http://{}/v2/models/digits", device.endpoint());
    let facts: Value = agent.get(&url).call().unwrap().body_mut().read_json().unwrap();
    for batch in pictures.chunks(50) {
        let data: Vec<f32> = batch.iter().flatten().map(|pixel| f32::from(*pixel) / 127.5 - 1.0).collect();
        let input = json!({
            "name": facts["inputs"][0]["name"], "datatype": "FP32", "shape": [batch.len(), 1, 8, 8], "data": data,
        });
        let body = json!({ "inputs": [input] });
        assert_eq!(agent.post(&format!("{url}/infer")).send_json(&body).unwrap().status(), 200);
    }
}

#[test]
fn pictures_that_change_are_noticed_on_the_device_and_told_once() {
    let plane = Plane::start_with(&["--telemetry-s", "1"]);
    let release = plane.release(json!({ "epochs": 8, "patience": 0, "seed": 3 }));

    // The release that ships carries the baseline, and the same digits are close to it; others are not.
    let bundle = bundle(&plane, &release);
    let file = bundle.manifest().file("baseline.cbor").expect("the release has a baseline");
    assert!(file.bytes < 2 * limits::KIB as u64, "{} bytes", file.bytes);
    let mut model = Model::from_bundle(&bundle, "any", ENGINE_TRACT).unwrap();
    let monitor = model.take_monitor().unwrap();
    let pictures = test_split(&plane, bundle.manifest());
    assert!(pictures.len() >= HALF_WINDOW as usize);
    let same = drift(&monitor, &mut model, &pictures);
    println!("the test split: {same:?}");
    assert!(same.score() < 100, "{same:?}");
    let mut noise = 7_u64;
    let mut random = || {
        noise = noise.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (noise >> 56) as u8 / 2
    };
    let noised: Vec<Vec<u8>> =
        pictures.iter().map(|p| p.iter().map(|pixel| pixel.saturating_add(random())).collect()).collect();
    for (name, changed) in [
        ("inverted", inverted(&pictures)),
        ("darkened", each_pixel(&pictures, |_, pixel| pixel / 2)),
        ("noised", noised),
        ("one column dead", each_pixel(&pictures, |at, pixel| if at % 8 == 4 { 255 } else { pixel })),
    ] {
        let drift = drift(&monitor, &mut model, &changed);
        println!("{name}: {drift:?}");
        assert!(drift.score() > 250, "{name}: {drift:?}");
    }

    // A real device, asked for the test split first.
    let mut device = Device::enrol(&plane, "gate-7");
    let settings: Value = plane.cli(&["device", "settings", "gate-7", "--drift-above", "0.3"]);
    assert_eq!(settings["drift_threshold_milli"], 300);
    let refused = plane.cli_output(&["device", "settings", "gate-7", "--drift-above", "0.05"]);
    assert!(String::from_utf8(refused.stderr).unwrap().contains("below is chance"));
    device.start();
    let rollout: Value = plane.cli(&["rollout", "create", release["digest"].as_str().unwrap()]);
    assert_eq!(rollout["state"], "succeeded", "{rollout}");
    let model = || plane.device("gate-7").unwrap()["models"][0].clone();
    assert_eq!(model()["drift"], Value::Null, "nothing is known before a half window: never a zero");
    ask(&device, &pictures);
    let told = |wanted: u64| {
        eventually("the predictions are told", TOLD, || {
            Some(model()).filter(|model| model["predictions"].as_u64() == Some(wanted))
        })
    };
    let stable = told(pictures.len() as u64);
    assert_eq!(stable["drift"]["shift"], "stable", "{stable}");
    assert!((stable["drift"]["score"].as_f64().unwrap() * 1_000.0 - f64::from(same.score())).abs() < 0.5);
    assert_eq!(stable["drift"]["predictions"], pictures.len());
    let sums = |key: &str, count: fn(&Value) -> u64| -> u64 {
        stable[key].as_array().unwrap().iter().map(count).sum()
    };
    assert_eq!(sums("classes", |class| class["count"].as_u64().unwrap()), pictures.len() as u64);
    assert_eq!(sums("confidence", |count| count.as_u64().unwrap()), pictures.len() as u64);
    assert!(stable["p99_us"].as_u64().unwrap() >= stable["p50_us"].as_u64().unwrap(), "{stable}");

    // The camera is turned to negative, through either interface: one event, however long it lasts.
    let negative = inverted(&pictures);
    ask(&device, &negative);
    infer(&device, &negative);
    infer(&device, &negative);
    let events = || -> Vec<Value> {
        let telemetry: Value = plane.cli(&["device", "telemetry", "gate-7"]);
        let events = telemetry["events"].as_array().unwrap().iter();
        events.filter(|event| event["kind"] == "drift").cloned().collect()
    };
    let event = eventually("the drift event", TOLD, || events().first().cloned());
    assert_eq!((&event["model"], &event["release"]), (&"digits".into(), &release["digest"]), "{event}");
    assert!(event["detail"].as_str().unwrap().starts_with("major shift: "), "{event}");
    assert!(event["detail"].as_str().unwrap().contains("above 0.30"), "{event}");
    infer(&device, &negative);
    infer(&device, &negative);
    let asked = 6 * pictures.len() as u64;
    let drifted = told(asked);
    assert_eq!(drifted["drift"]["shift"], "major shift", "{drifted}");
    assert_eq!(events().len(), 1);

    // What people read, of the device, of the model in the fleet, and of the rollout.
    let shown = plane.cli_output(&["device", "show", "gate-7"]);
    let shown = String::from_utf8(shown.stdout).unwrap();
    assert!(shown.contains("major shift"), "{shown}");
    let fleet: Value = plane.cli(&["model", "telemetry", "digits"]);
    assert_eq!((&fleet[0]["release"], &fleet[0]["major"]), (&release["digest"], &1.into()), "{fleet}");
    assert_eq!((&fleet[0]["worst_device"], &fleet[0]["predictions"]), (&"gate-7".into(), &asked.into()));
    let rollout: Value = plane.cli(&["rollout", "show", rollout["id"].as_str().unwrap()]);
    assert_eq!(rollout["telemetry"]["major"], 1, "{rollout}");

    // When all is well again for a while, the next change is news.
    for _ in 0..4 {
        ask(&device, &pictures);
    }
    assert_eq!(told(asked + 4 * pictures.len() as u64)["drift"]["shift"], "stable");
    for _ in 0..3 {
        infer(&device, &negative);
    }
    eventually("the second event", TOLD, || (events().len() == 2).then_some(()));
}
