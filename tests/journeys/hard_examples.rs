//! From an input that a model was not sure of to an unlabelled sample of its dataset: by consent, and by consent alone.

use flotilla_tests::{Browser, Device, Plane, eventually};
use serde_json::{Value, json};
use std::time::Duration;

const LIMIT: Duration = Duration::from_secs(90);

/// A picture that says nothing to a model of digits; each shade another one.
fn grey(shade: u8) -> Vec<u8> {
    grey_of(shade, 8, 8)
}

fn grey_of(shade: u8, width: u32, height: u32) -> Vec<u8> {
    let mut out = Vec::new();
    let encoder = image::codecs::png::PngEncoder::new(&mut out);
    let pixels = vec![shade; (width * height) as usize];
    image::ImageEncoder::write_image(encoder, &pixels, width, height, image::ExtendedColorType::L8).unwrap();
    out
}

fn quarantined(plane: &Plane) -> Vec<Value> {
    plane.cli(&["hard", "list", "--state", "quarantined"])
}

/// The small one that is left is shown with its picture, the large one when somebody asks; a click rejects the small one.
fn reject_in_the_console(plane: &Plane, small: &str) {
    let login: Value = plane.cli(&["login"]);
    let Some(mut browser) = Browser::open(login["url"].as_str().unwrap()) else {
        let _rejected: Value = plane.cli(&["hard", "reject", small]);
        return;
    };
    let shown = |widths: &str| {
        format!(
            "[...document.querySelectorAll('#hard-examples img')].map((i) => i.naturalWidth).sort().join() === '{widths}'"
        )
    };
    let large = "document.querySelector('#hard-examples button.large')";
    browser.wait_for(large, LIMIT);
    // Pictures come when they are about to be seen.
    browser.eval(&format!("{large}.scrollIntoView()"));
    browser.wait_for(&shown("8"), LIMIT);
    browser.eval(&format!("{large}.click()"));
    browser.wait_for(&shown("2500,8"), LIMIT);
    let buttons = format!("document.querySelectorAll('[data-example=\"{small}\"] button')");
    browser.eval(&format!("[...{buttons}].find((b) => b.textContent === 'Reject').click()"));
    browser.wait_for(&shown("2500"), LIMIT);
}

fn heard(plane: &Plane, device: &Device) {
    // Whoever asks is answered after what was said before.
    let _diagnosis = plane.cli_output(&["device", "diagnose", &device.id]);
}

/// What cannot work is refused, and takes no consent away.
fn mistakes(plane: &Plane, policy: &[&str]) {
    let vague = [
        json!({ "model": "digits" }),
        json!({ "model": "digits", "all": true }),
        json!({ "model": "digits", "off": true }),
        json!({ "model": "digits", "all": true, "policy": null }),
        json!({ "model": "digits", "all": true, "devices": ["box-1"], "off": true }),
        json!({ "model": "digits", "all": true, "off": true, "policy": { "daily_bytes": 1 } }),
    ];
    for request in vague {
        let (status, problem) = plane.post("/api/v1/hard-consents", request.clone());
        assert_eq!((status, &problem["code"]), (400, &json!("invalid_input")), "{request}: {problem}");
    }
    for (model, dataset) in [("digits", "no-such"), ("no-such", "digits")] {
        let policy = json!({ "daily_bytes": 1, "audit_per_million": 1, "dataset": dataset });
        let request = json!({ "model": model, "all": true, "policy": policy });
        assert_eq!(plane.post("/api/v1/hard-consents", request).0, 404, "{model} {dataset}");
    }
    // The devices on which it is possible have it; the command fails all the same, and says where.
    let two = plane.cli_output(
        &[
            &["hard", "consent", "digits", "--device", "no-such", "--device", "box-1"],
            &policy[4..],
            &["--daily-bytes", "999999"],
        ]
        .concat(),
    );
    assert_eq!(two.status.code(), Some(5), "{}", String::from_utf8_lossy(&two.stderr));
    let answer: Value = serde_json::from_slice(&two.stdout).unwrap();
    assert_eq!(answer["consents"][0]["policy"]["daily_bytes"], 999_999, "{answer}");
    assert_eq!(answer["failed"][0]["device"], "no-such", "{answer}");
    assert_eq!(answer["failed"][0]["failure"]["code"], "not_found", "{answer}");
}

#[test]
fn an_input_that_a_model_was_not_sure_of_becomes_an_unlabelled_sample() {
    let mut plane = Plane::start();
    let release = plane.release(json!({ "epochs": 3, "patience": 0, "seed": 1 }));
    let mut device = Device::enrol(&plane, "box-1");
    device.start();
    let _rollout: Value = plane.cli(&["rollout", "create", release["digest"].as_str().unwrap()]);
    let predict = |device: &Device, picture: &[u8]| {
        let (status, answer) = device.predict("digits", picture);
        assert_eq!(status, 200, "{answer}");
    };
    predict(&device, &grey(1));

    // Nobody has consented yet, and a budget of zero is none.
    let consents: Vec<Value> = plane.cli(&["hard", "consents"]);
    assert!(consents.is_empty());
    let policy = ["hard", "consent", "digits", "--all", "--confidence-below", "1", "--dataset", "digits"];
    let with_budget = |bytes: &'static str| [&policy[..], &["--daily-bytes", bytes]].concat();
    let waiting = |count: usize| {
        eventually("hard examples wait", LIMIT, || Some(quarantined(&plane)).filter(|all| all.len() == count))
    };
    let none: Value = plane.cli(&with_budget("0"));
    assert_eq!(none["consents"][0]["policy"]["daily_bytes"], 0);
    heard(&plane, &device);
    predict(&device, &grey(2));

    let given: Value = plane.cli(&with_budget("1000000"));
    let consents = &given["consents"];
    assert_eq!((&consents[0]["device"], &consents[0]["model"]), (&json!("box-1"), &json!("digits")));
    assert_eq!(given["failed"], json!([]));
    mistakes(&plane, &policy);
    heard(&plane, &device);
    let pictures = [grey(100), grey(101)];
    pictures.iter().for_each(|picture| predict(&device, picture));
    predict(&device, &pictures[0]);
    let all = waiting(2);
    for example in &all {
        assert_eq!((&example["device"], &example["model"]), (&json!("box-1"), &json!("digits")));
        assert_eq!((&example["reason"], &example["release"]), (&json!("confidence"), &release["digest"]));
        assert_eq!((&example["width"], &example["dataset"]), (&json!(8), &json!("digits")));
    }
    let digests: Vec<&str> = all.iter().map(|example| example["digest"].as_str().unwrap()).collect();
    let bytes = plane.get_bytes(&format!("/api/v1/hard-examples/{}/picture", digests[0]));
    assert!(pictures.contains(&bytes), "what the application sent");

    // One is accepted, one is rejected; the control plane remembers both over a kill.
    let accepted: Value = plane.cli(&["hard", "accept", digests[0]]);
    assert_eq!((&accepted["dataset"]["version"], &accepted["dataset"]["unlabelled"]), (&json!(2), &json!(1)));
    let no_dataset = ["hard", "consent", "digits", "--all", "--confidence-below", "1", "--daily-bytes"];
    let _consents: Value = plane.cli(&[&no_dataset[..], &["1000000"]].concat());
    heard(&plane, &device);
    predict(&device, &grey_of(7, 2_500, 2_000));
    waiting(2);
    reject_in_the_console(&plane, digests[1]);
    plane.kill();
    plane.restart();
    assert_eq!(quarantined(&plane).len(), 1);
    let datasets: Vec<Value> = plane.cli(&["dataset", "list"]);
    assert_eq!((&datasets[0]["version"], &datasets[0]["unlabelled"]), (&json!(2), &json!(1)));
    assert_eq!(datasets[0]["samples"], json!(1797), "it is in no split");
    let (_, unlabelled) = plane.get("/api/v1/datasets/digits/versions/2/unlabelled");
    assert_eq!(unlabelled, json!([{ "digest": digests[0] }]));
    let sample = plane.get_bytes(&format!("/api/v1/datasets/digits/versions/2/samples/{}", digests[0]));
    assert_eq!(sample, bytes);
    let audited: Vec<Value> = plane.cli(&["audit"]);
    let of = |action: &str| audited.iter().filter(|record| record["action"] == action).count();
    assert_eq!(of("example:review"), 2);

    // All that wait, dataset by dataset: what is accepted is said although nobody knows where the large one belongs.
    eventually("connected", LIMIT, || plane.device("box-1").filter(|view| view["connected"] == true));
    let _consents: Value = plane.cli(&with_budget("1000000"));
    heard(&plane, &device);
    predict(&device, &grey(102));
    eventually("two wait", LIMIT, || (quarantined(&plane).len() == 2).then_some(()));
    let partly = plane.cli_output(&["hard", "accept", "--all"]);
    assert!(!partly.status.success());
    let accepted: Value = serde_json::from_slice(&partly.stdout).unwrap();
    assert_eq!(
        (accepted["examples"].as_array().unwrap().len(), &accepted["datasets"][0]["version"]),
        (1, &json!(3))
    );
    let failure: Value = serde_json::from_slice(&partly.stderr).unwrap();
    assert!(
        failure["error"]["detail"].as_str().unwrap().contains("1 of these 1 examples name none"),
        "{failure}"
    );
    let rejected: Value = plane.cli(&["hard", "reject", "--all"]);
    assert_eq!(rejected["examples"][0]["width"], 2_500);

    // Taken back: the device deletes what it keeps, and nothing comes any more.
    eventually("connected", LIMIT, || plane.device("box-1").filter(|view| view["connected"] == true));
    let off: Value = plane.cli(&["hard", "consent", "digits", "--device", "box-1", "--off"]);
    assert_eq!(off, json!({ "consents": [], "failed": [] }));
    eventually("nothing is kept", LIMIT, || (!device.dir.join("hard/digits").exists()).then_some(()));
    heard(&plane, &device);
    predict(&device, &grey(150));
    heard(&plane, &device);
    assert!(quarantined(&plane).is_empty() && !device.dir.join("hard/digits").exists());
}
