//! What is no picture goes round the same loop: imported, trained, judged, shrunk, shipped, asked on a device, and back as a
//! hard example.

use flotilla_onnx::{Dim, GraphBuilder, Node, Value as Port};
use flotilla_protocol::Pipeline;
use flotilla_protocol::pipeline::detection::{BoxForm, Boxes, Decoder, Detection};
use flotilla_protocol::pipeline::{Colour, ImageInput, Input, Output};
use flotilla_tests::{Browser, Device, Plane, eventually};
use serde_json::{Value, json};
use std::path::Path;
use std::time::Duration;

const LIMIT: Duration = Duration::from_secs(90);

/// Numbers from 0 to 1 that look like chance and are the same everywhere.
fn chance() -> impl FnMut() -> f64 {
    let mut state = 7_u64;
    move || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 40) as f64 / (1_u64 << 24) as f64
    }
}

/// Machines that overheat: those of one make at lower temperatures. Some temperatures are not known, and each row has a name.
fn machines(path: &Path) {
    let (mut next, mut csv) = (chance(), String::from("serial,temperature,make,state\n"));
    for row in 0..600 {
        let (temperature, old) = (20.0 + 80.0 * next(), next() < 0.5);
        let hot = temperature > if old { 50.0 } else { 70.0 };
        let shown = if row % 50 == 7 { "?".to_owned() } else { format!("{temperature:.1}") };
        let (make, state) = (if old { "old" } else { "new" }, if hot { "hot" } else { "fine" });
        csv += &format!("SN-{row},{shown},{make},{state}\n");
    }
    std::fs::write(path, csv).unwrap();
}

fn evaluate(plane: &Plane, name: &str, split: &str) -> Value {
    let request = json!({ "dataset": name, "version": 1, "split": split });
    let (status, answer) = plane.post(&format!("/api/v1/models/{name}/versions/1/evaluate"), request);
    assert_eq!(status, 200, "{answer}");
    answer
}

/// Ships the newest version of a model to a device.
fn ship(plane: &Plane, name: &str) -> Device {
    let release: Value = plane.cli(&["release", "create", name]);
    let mut device = Device::enrol(plane, "box-1");
    device.start();
    let rollout: Value = plane.cli(&["rollout", "create", release["digest"].as_str().unwrap()]);
    assert_eq!(rollout["state"], "succeeded", "{rollout}");
    device
}

fn ask(device: &Device, model: &str, kind: &str, body: &[u8]) -> Value {
    let (status, answer) = device.predict_as(model, kind, body);
    assert_eq!(status, 200, "{answer}");
    answer
}

/// The device sends what it is asked next, and somebody finds it in quarantine.
fn hard_example(plane: &Plane, device: &Device, model: &str, kind: &str, body: &[u8]) -> Value {
    let consent =
        ["hard", "consent", model, "--all", "--audit-per-million", "1000000", "--daily-bytes", "1000000"];
    let _consent: Value = plane.cli(&[&consent[..], &["--dataset", model]].concat());
    // Whoever asks is answered after what was said before.
    let _diagnosis = plane.cli_output(&["device", "diagnose", &device.id]);
    ask(device, model, kind, body);
    let waiting = || plane.cli::<Vec<Value>>(&["hard", "list", "--state", "quarantined"]).pop();
    eventually("the hard example", LIMIT, waiting)
}

/// What is shown of it, if there is a browser.
fn shown(plane: &Plane, selector: &str) {
    let login: Value = plane.cli(&["login"]);
    if let Some(mut browser) = Browser::open(login["url"].as_str().unwrap()) {
        browser.wait_for(&format!("document.querySelector('#hard-examples {selector}')"), LIMIT);
        if let Some(folder) = std::env::var_os("FLOTILLA_SCREENSHOTS") {
            let name = selector.split(['[', ' ', '.']).next().unwrap_or_default();
            for (width, dark) in [(1440, false), (390, true)] {
                browser.look(width, dark);
                browser.eval("document.querySelector('#hard-examples').scrollIntoView()");
                browser.screenshot(&Path::new(&folder).join(format!("hard-{name}-{width}.png")));
            }
        }
    }
}

#[test]
fn a_table_is_imported_trained_shrunk_shipped_and_asked_for_a_row() {
    let plane = Plane::start();
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("machines.csv");
    machines(&file);
    let import: Value =
        plane.cli(&["dataset", "import", "machines", file.to_str().unwrap(), "--label", "state"]);
    assert_eq!(import["dataset"]["class_names"], json!(["fine", "hot"]), "{import}");
    let job: Value = plane.cli(&["train", "machines"]);
    let result = &job["result"];
    assert_eq!((&result["algorithm"], &result["metric"]), (&json!("mlp"), &json!("accuracy")), "{job}");
    assert_eq!(result["left_out"], json!(["serial"]), "a name of the row says nothing: {job}");
    assert!(result["test_accuracy"].as_f64().unwrap() > 0.93, "{job}");
    let judged = evaluate(&plane, "machines", "test");
    assert_eq!(judged["quality"]["value"], result["test_accuracy"], "{judged}");
    assert_eq!(
        judged["predictions"].as_array().map(Vec::len),
        import["dataset"]["test"].as_u64().map(|n| n as usize)
    );

    let _compressed: Value = plane.cli(&["compress", "machines", "--max-drop", "0.05"]);
    let device = ship(&plane, "machines");
    let json = "application/json";
    for (row, state) in [
        (r#"{"temperature": 60, "make": "old"}"#, "hot"),
        (r#"{"temperature": "60", "make": "new", "serial": "SN-9999"}"#, "fine"),
        (r#"{"make": "new", "temperature": 95}"#, "hot"),
        (r#"[25.5, "old"]"#, "fine"),
    ] {
        assert_eq!(ask(&device, "machines", json, row.as_bytes())["label"], state, "{row}");
    }
    assert_eq!(ask(&device, "machines", "text/csv", b"make,temperature\nnew,99\n")["label"], "hot");
    let unknown = ask(&device, "machines", json, br#"{"temperature": null, "make": "other"}"#);
    assert!(unknown["label"].is_string(), "what was missing in training may be missing later: {unknown}");
    let (status, problem) = device.predict_as("machines", json, br#"{"temperature": "warm", "make": "new"}"#);
    assert_eq!(status, 400, "{problem}");

    let found = hard_example(&plane, &device, "machines", "text/csv", b"make,temperature,who\nnew,71,Ann\n");
    assert_eq!((&found["medium"], &found["model"]), (&json!("row"), &json!("machines")), "{found}");
    let digest = found["digest"].as_str().unwrap();
    let row = plane.get_bytes(&format!("/api/v1/hard-examples/{digest}/picture"));
    let row: Value = serde_json::from_slice(&row).unwrap();
    assert_eq!(
        row,
        json!({ "temperature": "71", "make": "new" }),
        "what the model does not look at stays where it is"
    );
    shown(&plane, "table.row td");
    let accepted: Value = plane.cli(&["hard", "accept", digest]);
    assert_eq!((&accepted["dataset"]["version"], &accepted["dataset"]["unlabelled"]), (&json!(2), &json!(1)));
}

#[test]
fn a_number_is_predicted_in_its_own_unit() {
    let plane = Plane::start();
    let (mut next, mut csv) = (chance(), String::from("size;district;built;price\n"));
    for _ in 0..600 {
        let (size, centre, year) = (30.0 + 120.0 * next(), next() < 0.3, 1950.0 + (70.0 * next()).floor());
        let price = 2_000.0 * size + if centre { 150_000.0 } else { 0.0 } + 500.0 * (year - 1950.0);
        csv += &format!("{size:.1};{};{year};{price:.0}\n", if centre { "centre" } else { "edge" });
    }
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("homes.csv");
    std::fs::write(&file, csv).unwrap();
    let import: Value =
        plane.cli(&["dataset", "import", "homes", file.to_str().unwrap(), "--target", "price"]);
    assert_eq!((&import["dataset"]["classes"], &import["dataset"]["kind"]), (&json!(0), &json!("table")));
    let job: Value = plane.cli(&["train", "homes", "--leave-out", "built"]);
    let result = &job["result"];
    assert_eq!((&result["metric"], &result["test_accuracy"]), (&json!("r2"), &Value::Null), "{job}");
    let r2 = result["value"].as_f64().unwrap();
    assert!((0.95..1.0).contains(&r2), "{job}");
    assert!(job["metrics"].as_array().unwrap().iter().all(|epoch| epoch["validation_r2"].is_f64()), "{job}");
    let judged = evaluate(&plane, "homes", "test");
    assert_eq!((&judged["quality"]["value"], &judged["predictions"]), (&json!(r2), &json!([])), "{judged}");
    assert!(
        judged["quality"]["figures"]["targets"][0]["mae"]["value"].as_f64().unwrap() < 20_000.0,
        "{judged}"
    );

    let device = ship(&plane, "homes");
    let answer = ask(&device, "homes", "application/json", br#"{"size": 100, "district": "centre"}"#);
    assert_eq!(answer["values"][0]["name"], "price", "{answer}");
    let price = answer["values"][0]["value"].as_f64().unwrap();
    assert!((price - 367_500.0).abs() < 40_000.0, "{answer}");

    // What cannot be learnt is refused before a job is made, or says what was wrong.
    let refused = plane.cli_output(&["train", "homes", "--config", r#"{"algorithm": "dscnn-s"}"#]);
    assert!(!refused.status.success());
    assert!(String::from_utf8_lossy(&refused.stderr).contains("mlp"), "{refused:?}");
    let refused = plane.cli_output(&["train", "homes", "--leave-out", "colour"]);
    assert!(!refused.status.success());
    assert!(String::from_utf8_lossy(&refused.stderr).contains("colour"), "{refused:?}");
}

/// A wav of one channel and 16 bits: a tone with some noise, the hum low and the whistle high.
fn tone(seed: u32, hertz: f64, milliseconds: u32) -> Vec<u8> {
    const RATE: u32 = 8_000;
    let bytes = RATE / 1_000 * milliseconds * 2;
    let mut out = b"RIFF".to_vec();
    out.extend((36 + bytes).to_le_bytes());
    out.extend(b"WAVEfmt \x10\0\0\0\x01\0\x01\0");
    out.extend(RATE.to_le_bytes());
    out.extend((RATE * 2).to_le_bytes());
    out.extend(b"\x02\0\x10\0data");
    out.extend(bytes.to_le_bytes());
    let mut noise = chance();
    for _ in 0..seed {
        let _skipped = noise();
    }
    for n in 0..bytes / 2 {
        let phase = std::f64::consts::TAU * hertz * f64::from(n) / f64::from(RATE);
        let sample = phase.sin() * 6_000.0 + (noise() - 0.5) * 2_000.0;
        out.extend((sample as i16).to_le_bytes());
    }
    out
}

#[test]
fn recordings_are_imported_trained_shipped_and_asked_for() {
    let plane = Plane::start();
    let temporary = tempfile::tempdir().unwrap();
    let folder = temporary.path().join("noises");
    for (class, low, high) in [("hum", 120.0, 240.0), ("whistle", 1_200.0, 2_400.0)] {
        std::fs::create_dir_all(folder.join(class)).unwrap();
        for n in 0..40_u32 {
            let hertz = low + (high - low) * f64::from(n) / 40.0;
            let file = tone(n, hertz, 400 + 5 * n);
            std::fs::write(folder.join(class).join(format!("{n}.wav")), file).unwrap();
        }
    }
    std::fs::write(folder.join("hum/broken.wav"), b"RIFF\xff\xff\xff\xffWAVEfmt ").unwrap();
    let import: Value = plane.cli(&["dataset", "import", "noises", folder.to_str().unwrap()]);
    assert_eq!(import["dataset"]["kind"], "sound_classification", "{import}");
    assert_eq!((&import["imported"], &import["skipped_total"]), (&json!(80), &json!(1)), "{import}");
    let config = json!({ "epochs": 20, "batch_size": 8, "seed": 1 }).to_string();
    let job: Value = plane.cli(&["train", "noises", "--config", &config]);
    assert_eq!(job["result"]["algorithm"], "dscnn-s", "{job}");
    assert!(job["result"]["test_accuracy"].as_f64().unwrap() > 0.9, "{job}");
    assert_eq!(evaluate(&plane, "noises", "test")["quality"]["value"], job["result"]["test_accuracy"]);

    let device = ship(&plane, "noises");
    let wav = "audio/wav";
    assert_eq!(ask(&device, "noises", wav, &tone(99, 180.0, 500))["label"], "hum");
    assert_eq!(ask(&device, "noises", wav, &tone(98, 1_700.0, 900))["label"], "whistle");

    let recording = tone(97, 700.0, 450);
    let found = hard_example(&plane, &device, "noises", wav, &recording);
    assert_eq!((&found["medium"], &found["milliseconds"]), (&json!("recording"), &json!(450)), "{found}");
    let digest = found["digest"].as_str().unwrap();
    assert_eq!(plane.get_bytes(&format!("/api/v1/hard-examples/{digest}/picture")), recording);
    shown(&plane, "audio[controls]");
    let accepted: Value = plane.cli(&["hard", "accept", digest]);
    assert_eq!(accepted["dataset"]["unlabelled"], 1, "{accepted}");
}

/// A network that finds a dog in the same place of every picture.
fn dog_finder() -> Vec<u8> {
    let mut graph = GraphBuilder::new("dogs")
        .input(Port::f32("x", [Dim::from(1), 3.into(), 32.into(), 32.into()]))
        .initializer_f32("zero", &[1], vec![0.0])
        .node(Node::new("ReduceMax", ["x"], ["any"]).int("keepdims", 0))
        .node(Node::new("Mul", ["any", "zero"], ["nothing"]));
    for (name, shape, values) in
        [("boxes", [1, 1, 4], vec![4.0, 4.0, 20.0, 20.0]), ("scores", [1, 1, 2], vec![0.1, 0.9])]
    {
        let fixed = format!("{name}.fixed");
        graph = graph
            .initializer_f32(&fixed, &shape, values)
            .node(Node::new("Add", [fixed.as_str(), "nothing"], [name]))
            .output(Port::f32(name, shape.map(Dim::from)));
    }
    graph.build().unwrap().write()
}

#[test]
fn an_imported_detector_is_judged_by_the_boxes_of_a_dataset() {
    let plane = Plane::start();
    let temporary = tempfile::tempdir().unwrap();
    let folder = temporary.path().join("pets");
    std::fs::create_dir_all(&folder).unwrap();
    let (mut images, mut annotations) = (Vec::new(), Vec::new());
    for n in 0..30_u8 {
        let picture = image::RgbImage::from_pixel(32, 32, image::Rgb([n * 8, 90, 200]));
        picture.save(folder.join(format!("{n}.png"))).unwrap();
        images.push(json!({ "id": n, "file_name": format!("{n}.png") }));
        // The dog is found everywhere, the cat nowhere.
        annotations.push(json!({ "image_id": n, "category_id": 1, "bbox": [4, 4, 16, 16] }));
        annotations.push(json!({ "image_id": n, "category_id": 2, "bbox": [20, 20, 10, 10] }));
    }
    let categories = json!([{ "id": 1, "name": "dog" }, { "id": 2, "name": "cat" }]);
    let coco = json!({ "images": images, "annotations": annotations, "categories": categories });
    std::fs::write(folder.join("boxes.json"), coco.to_string()).unwrap();
    let import: Value = plane.cli(&["dataset", "import", "pets", folder.to_str().unwrap()]);
    assert_eq!(import["dataset"]["kind"], "object_detection", "{import}");
    let refused = plane.cli_output(&["train", "pets"]);
    assert!(String::from_utf8_lossy(&refused.stderr).contains("detectors are not trained"), "{refused:?}");

    let file = temporary.path().join("dogs.onnx");
    std::fs::write(&file, dog_finder()).unwrap();
    let boxes = Boxes {
        boxes: "boxes".into(),
        scores: "scores".into(),
        softmax: false,
        background: false,
        form: BoxForm::Corners,
        relative: false,
        priors: None,
    };
    let labels = vec!["cat".into(), "dog".into()];
    let detection = Detection { labels, decoder: Decoder::Boxes(boxes), score: 0.5, overlap: 0.5, limit: 9 };
    let (mean, std) = (vec![0.0; 3], vec![1.0; 3]);
    let input = ImageInput { width: 32, height: 32, colour: Colour::Rgb, mean, std, ..ImageInput::none() };
    let pipeline = Pipeline::new(Input::Image(input), Output::Detection(detection));
    let described = temporary.path().join("pipeline.json");
    std::fs::write(&described, json!(pipeline).to_string()).unwrap();
    let [file, described] = [&file, &described].map(|path| path.to_str().unwrap());
    let import = ["model", "import", file, "--name", "pets", "--pipeline", described, "--dataset", "pets"];
    let _imported: Value = plane.cli(&import);
    let judged = evaluate(&plane, "pets", "test");
    let quality = &judged["quality"];
    assert_eq!((&quality["metric"], &quality["value"]), (&json!("map"), &json!(0.5)), "{judged}");
    let of = |label: usize| &quality["figures"]["labels"][label];
    assert_eq!((&of(1)["label"], &of(1)["half"], &of(0)["half"]), (&json!("dog"), &json!(1.0), &json!(0.0)));
    assert_eq!(judged["predictions"], json!([]));
}
