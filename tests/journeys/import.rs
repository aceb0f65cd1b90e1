//! A finished model of another tool gets into the registry, and from there to devices; what cannot is refused with what to do.

use flotilla_onnx::{GraphBuilder, Node, Value};
use flotilla_tests::{Browser, Device, Plane, eventually, test_data};
use serde_json::{Value as Json, json};
use std::io::{Cursor, Read, Write};
use std::path::Path;
use std::time::Duration;

/// Sends a file: status and answer.
fn upload(plane: &Plane, name: &str, bytes: &[u8]) -> (u16, Json) {
    let agent: ureq::Agent = ureq::Agent::config_builder().http_status_as_error(false).build().into();
    let url = format!("{}/api/v1/uploads?name={name}", plane.http);
    let bearer = format!("Bearer {}", plane.token());
    let mut response = agent.post(&url).header("authorization", bearer).send(bytes).unwrap();
    (response.status().as_u16(), response.body_mut().read_json().unwrap())
}

/// The id of a file that was sent.
fn sent(plane: &Plane, name: &str, bytes: &[u8]) -> String {
    let (status, view) = upload(plane, name, bytes);
    assert_eq!(status, 201, "{view}");
    view["id"].as_str().unwrap().to_owned()
}

/// The end of a job.
fn end(plane: &Plane, job: &Json) -> Json {
    let path = format!("/api/v1/jobs/{}", job["id"].as_str().unwrap());
    eventually("the job's end", Duration::from_secs(120), || {
        let job = plane.get(&path).1;
        matches!(job["state"].as_str(), Some("succeeded" | "failed" | "cancelled")).then_some(job)
    })
}

/// Imports over REST and waits for the end.
fn import(plane: &Plane, model: &str, request: Json) -> Json {
    let (status, job) = plane.post(&format!("/api/v1/models/{model}/import"), request);
    assert_eq!((status, &job["kind"]), (202, &json!("import")), "{job}");
    end(plane, &job)
}

/// The versions of a model.
fn versions(plane: &Plane, model: &str) -> Vec<Json> {
    let all = plane.get("/api/v1/models").1;
    all.as_array().unwrap().iter().filter(|version| version["model"] == model).cloned().collect()
}

/// A file of the sample inputs.
fn sample(archive: &Path, name: &str) -> Vec<u8> {
    let mut archive = zip::ZipArchive::new(std::fs::File::open(archive).unwrap()).unwrap();
    let mut bytes = Vec::new();
    archive.by_name(&format!("sample-inputs/{name}")).unwrap().read_to_end(&mut bytes).unwrap();
    bytes
}

/// Rolls the newest version out to a device and waits until it serves.
fn roll_out(plane: &Plane, device: &Device, model: &str) -> Json {
    let release: Json = plane.cli(&["release", "create", model]);
    let digest = release["digest"].as_str().unwrap();
    let rollout: Json = plane.cli(&["rollout", "create", digest, "--device", &device.id]);
    assert_eq!(rollout["state"], "succeeded", "{rollout}");
    release
}

fn text(output: &std::process::Output) -> String {
    assert!(!output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[test]
fn an_exported_model_comes_back_is_measured_released_and_answers_on_a_device() {
    let plane = Plane::start();
    let mut device = Device::enrol(&plane, "box-1");
    device.start();
    let _dataset: Json = plane.cli(&["dataset", "import", "digits"]);
    let config = json!({ "epochs": 3, "patience": 0 }).to_string();
    let _trained: Json = plane.cli(&["train", "digits", "--config", &config]);
    let folder = tempfile::tempdir().unwrap();
    let file = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
    let (onnx, pipeline) = (file("digits.onnx"), file("digits.toml"));
    let _said: Json = plane.cli(&["model", "export", "digits", "1", &onnx, "--pipeline", &pipeline]);

    // Nobody has said what stands around it: the command to go on with is printed, and nothing is registered.
    let refused = text(&plane.cli_output(&["model", "import", &onnx, "--name", "numbers"]));
    assert!(refused.contains("pipeline_unconfirmed") && refused.contains("input.image.mean"), "{refused}");
    assert!(refused.contains(&format!("flotilla model import {onnx} --name numbers --yes")), "{refused}");
    assert!(versions(&plane, "numbers").is_empty());

    let from = ["--licence", "Apache-2.0", "--note", "trained in the other house"];
    let arguments =
        ["model", "import", &onnx, "--name", "numbers", "--pipeline", &pipeline, "--dataset", "digits"];
    let imported: Json = plane.cli(&[&arguments[..], &from].concat());
    let version = &imported["version"];
    let trained = &versions(&plane, "digits")[0];
    assert_eq!(
        (&version["source"], &version["licence"]),
        (&json!("imported"), &json!("Apache-2.0")),
        "{imported}"
    );
    assert_eq!(version["accuracy"], trained["accuracy"], "the same network on the same samples");
    assert!(version["from"].as_str().unwrap().contains("trained in the other house"), "{version}");
    let report = plane.get("/api/v1/models/numbers/versions/1/report").1;
    assert_eq!((&report["file"]["name"], &report["import"]["runs"]), (&json!("digits.onnx"), &json!(true)));

    assert_eq!(roll_out(&plane, &device, "numbers")["proved_by"], "dataset");
    let samples = plane.get("/api/v1/datasets/digits/versions/1/samples?split=test").1;
    // The device says what the control plane says of the same file.
    let asked = json!({ "dataset": "digits", "version": 1, "split": "test" });
    let (status, judged) = plane.post("/api/v1/models/numbers/versions/1/evaluate", asked);
    assert_eq!(status, 200, "{judged}");
    for (place, sample) in samples.as_array().unwrap().iter().take(20).enumerate() {
        let digest = sample["digest"].as_str().unwrap();
        let picture = plane.get_bytes(&format!("/api/v1/datasets/digits/versions/1/samples/{digest}"));
        let (status, said) = device.predict("numbers", &picture);
        assert_eq!((status, &said["label_index"]), (200, &judged["predictions"][place]), "{said}");
    }
    // Who imported what stands in the audit trail.
    let trail = plane.get("/api/v1/audit").1.to_string();
    assert!(trail.contains("model/numbers/1") && trail.contains("\"import\""), "{trail}");
}

#[test]
fn models_of_other_tools_are_confirmed_registered_and_run_on_a_device() {
    let (Some(faces), Some(people), Some(samples)) = (
        test_data("models/ultraface-RFB-320.onnx"),
        test_data("models/mlperf-tiny/vww_mobilenetv1_int8.onnx"),
        test_data("models/sample-inputs.zip"),
    ) else {
        return;
    };
    let plane = Plane::start();
    let mut device = Device::enrol(&plane, "box-1");
    device.start();
    let photo = sample(&samples, "face_2.jpg");

    // Over REST: look, make the proposal right, import.
    let id = sent(&plane, "ultraface.onnx", &std::fs::read(faces).unwrap());
    let options = json!({ "labels": ["face"] });
    let (status, report) = plane.post(&format!("/api/v1/uploads/{id}/inspect"), options.clone());
    assert_eq!((status, &report["runs"], &report["missing"]), (200, &json!(true), &json!([])), "{report}");
    let fields: Vec<&str> = report["proposal"]["points"]
        .as_array()
        .unwrap()
        .iter()
        .map(|point| point["field"].as_str().unwrap())
        .collect();
    assert!(
        fields.contains(&"input.image.mean") && fields.contains(&"output.detection.decoder"),
        "{fields:?}"
    );
    assert!(versions(&plane, "faces").is_empty(), "looking registers nothing");
    let mut pipeline = report["proposal"]["pipeline"].clone();
    pipeline["input"]["image"]["mean"] = json!([127.0 / 255.0, 127.0 / 255.0, 127.0 / 255.0]);
    pipeline["input"]["image"]["std"] = json!([128.0 / 255.0, 128.0 / 255.0, 128.0 / 255.0]);
    let request = json!({ "upload": id, "options": options, "pipeline": pipeline, "licence": "MIT" });
    let job = import(&plane, "faces", request);
    assert_eq!(job["state"], "succeeded", "{job}");
    let read = |json: Json| serde_json::from_value::<flotilla_protocol::Pipeline>(json).unwrap();
    assert_eq!(read(plane.get("/api/v1/models/faces/versions/1/pipeline").1), read(pipeline));
    // Nobody gave inputs, and nobody is told that these are real ones.
    assert_eq!(roll_out(&plane, &device, "faces")["proved_by"], "generated");
    let (status, said) = device.predict("faces", &photo);
    let found = &said["objects"][0];
    assert_eq!((status, &found["label"]), (200, &json!("face")), "{said}");

    // On the command line: a quantised one, whose scale tells everything but colours and sizes.
    let folder = tempfile::tempdir().unwrap();
    let file = |name: &str, bytes: &[u8]| {
        let path = folder.path().join(name);
        std::fs::write(&path, bytes).unwrap();
        path.to_str().unwrap().to_owned()
    };
    let (labels, face) = (file("labels.txt", b"nobody\nperson\n"), file("face.jpg", &photo));
    let people = people.to_str().unwrap();
    let arguments =
        ["model", "import", people, "--name", "people", "--labels", &labels, "--sample", &face, "--yes"];
    let imported: Json = plane.cli(&arguments);
    assert_eq!(imported["version"]["accuracy"], Json::Null, "nothing was measured: {imported}");
    assert_eq!(roll_out(&plane, &device, "people")["proved_by"], "given");
    let (status, said) = device.predict("people", &photo);
    assert_eq!((status, &said["label"]), (200, &json!("person")), "{said}");
    let score = said["score"].as_f64().unwrap();
    assert!((0.5..=1.0).contains(&score), "the score of an int8 model is a probability: {said}");
}

/// A classifier of rows with this weight.
fn dense(weights: Vec<f32>) -> Vec<u8> {
    GraphBuilder::new("dense")
        .input(Value::f32("x", [1_usize, 2]))
        .output(Value::f32("y", [1_usize, 3]))
        .initializer_f32("w", &[2, 3], weights)
        .node(Node::new("MatMul", ["x", "w"], ["z"]))
        .node(Node::new("Softmax", ["z"], ["y"]).int("axis", 1))
        .build()
        .unwrap()
        .write()
}

/// A column times a row of 50,000 each: ten gigabytes, of constants, or of an input.
fn greedy(constant: bool) -> Vec<u8> {
    let side = 50_000;
    let graph = GraphBuilder::new("greedy")
        .input(Value::f32("x", [1_usize, 2]))
        .output(Value::f32("y", [1_usize, 2]))
        .initializer_f32("row", &[1, side], vec![1.0; side])
        .initializer_f32("column", &[side, 1], vec![1.0; side])
        .node(Node::new("ReduceMax", ["x"], ["one"]).int("keepdims", 1));
    let graph = if constant {
        graph.node(Node::new("Identity", ["column"], ["tall"]))
    } else {
        graph.node(Node::new("Mul", ["column", "one"], ["tall"]))
    };
    graph
        .node(Node::new("MatMul", ["tall", "row"], ["table"]))
        .node(Node::new("ReduceMax", ["table"], ["most"]).int("keepdims", 1))
        .node(Node::new("Mul", ["x", "most"], ["y"]))
        .build()
        .unwrap()
        .write()
}

fn bomb() -> Vec<u8> {
    let mut writer = zip::ZipWriter::new(Cursor::new(Vec::new()));
    let packed =
        zip::write::SimpleFileOptions::default().compression_method(zip::CompressionMethod::Deflated);
    writer.start_file("model.onnx", packed).unwrap();
    writer.write_all(&vec![0; 20 << 20]).unwrap();
    writer.finish().unwrap().into_inner()
}

#[test]
fn what_is_no_usable_model_is_refused_with_what_to_do_and_the_control_plane_stays() {
    let plane = Plane::start();
    let whole = dense(vec![0.1; 6]);
    let nan = dense(vec![0.1, 0.1, f32::NAN, 0.1, 0.1, 0.1]);
    // What is wrong with the file itself is said by looking and by importing alike.
    let cases = [
        ("cut.onnx", whole[..whole.len() / 2].to_vec(), "model_invalid", 400, "ends inside a field"),
        (
            "model.tflite",
            b"\x1c\0\0\0TFL3 and more".to_vec(),
            "model_unsupported",
            422,
            "tf2onnx.convert --tflite",
        ),
        ("bomb.zip", bomb(), "archive_bomb", 400, "made to exhaust memory"),
        ("nan.onnx", nan, "model_invalid", 400, "train again"),
    ];
    for (name, bytes, code, status, words) in cases {
        let id = sent(&plane, name, &bytes);
        let looked = plane.post(&format!("/api/v1/uploads/{id}/inspect"), json!({}));
        assert_eq!((looked.0, &looked.1["code"]), (status, &json!(code)), "{name}: {}", looked.1);
        let job = import(&plane, "bad", json!({ "upload": id, "accept_guesses": true }));
        let failure = &job["failure"];
        assert_eq!((&job["state"], &failure["code"]), (&json!("failed"), &json!(code)), "{name}: {job}");
        for detail in [&looked.1["detail"], &failure["detail"]] {
            assert!(detail.as_str().unwrap().contains(words), "{name}: {detail}");
        }
    }
    // Constants that would fill the memory are told by looking, and nothing computes them.
    let id = sent(&plane, "greedy.onnx", &greedy(true));
    let (status, report) = plane.post(&format!("/api/v1/uploads/{id}/inspect"), json!({}));
    assert_eq!((status, &report["runs"]), (200, &json!(false)), "{report}");
    assert!(report["engine_error"].as_str().unwrap().contains("beyond all bounds"), "{report}");
    // What needs the memory only when it is loaded or runs is found before it is registered.
    for constant in [true, false] {
        let id = sent(&plane, "greedy.onnx", &greedy(constant));
        let job = import(&plane, "bad", json!({ "upload": id, "accept_guesses": true }));
        assert_eq!(job["failure"]["code"], "job_memory", "{job}");
        assert!(job["failure"]["detail"].as_str().unwrap().contains("needs more than 4096 MiB"), "{job}");
    }

    // Labels, pipelines and datasets that do not go with the model.
    let dataset = plane.cli::<Json>(&["dataset", "import", "digits"]);
    assert_eq!(dataset["dataset"]["classes"], 10);
    let proposed = {
        let id = sent(&plane, "whole.onnx", &whole);
        plane.post(&format!("/api/v1/uploads/{id}/inspect"), json!({})).1["proposal"]["pipeline"].clone()
    };
    let mut two = proposed.clone();
    two["output"]["classification"]["labels"] = json!(["a", "b"]);
    let mut picture = proposed.clone();
    picture["input"] = json!({ "image": { "width": 8, "height": 8, "colour": "grey", "resize": "exact",
        "layout": "nchw", "mean": [0], "std": [1] } });
    let cases = [
        (
            json!({ "options": { "labels": ["a", "b"] } }),
            "invalid_input",
            "2 labels, but the model gives 3 scores",
        ),
        (json!({}), "pipeline_unconfirmed", "input.table.columns"),
        (json!({ "pipeline": two }), "model_invalid", "does not run with this pipeline"),
        (json!({ "pipeline": picture }), "model_invalid", "does not run with this pipeline"),
        (json!({ "pipeline": proposed, "dataset": "digits" }), "invalid_input", "name the model's labels"),
    ];
    for (more, code, words) in cases {
        let mut request = json!({ "upload": sent(&plane, "whole.onnx", &whole) });
        request.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        let job = import(&plane, "bad", request.clone());
        assert_eq!(job["failure"]["code"], code, "{request}: {job}");
        assert!(job["failure"]["detail"].as_str().unwrap().contains(words), "{job}");
    }
    // Requests that are wrong before there is a job.
    let id = sent(&plane, "whole.onnx", &whole);
    let mut nothing = proposed.clone();
    nothing["output"]["classification"]["labels"] = json!([]);
    for (request, status) in [
        (json!({ "upload": "upload-0" }), 404),
        (json!({ "upload": id, "pipeline": { "format": 1 } }), 400),
        (json!({ "upload": id, "pipeline": nothing }), 400),
        (json!({ "upload": id, "dataset": "nowhere" }), 404),
        (json!({ "upload": id, "licence": "x".repeat(5000) }), 400),
        (json!({ "upload": id, "surprise": 1 }), 400),
    ] {
        let answer = plane.post("/api/v1/models/bad/import", request.clone());
        assert_eq!(answer.0, status, "{request}: {}", answer.1);
    }
    assert_eq!(upload(&plane, "empty.onnx", b"").0, 400);
    assert_eq!(plane.request("DELETE", &format!("/api/v1/uploads/{id}"), Some(&plane.token()), None).0, 200);
    assert_eq!(plane.post(&format!("/api/v1/uploads/{id}/inspect"), json!({})).0, 404);

    assert!(versions(&plane, "bad").is_empty(), "nothing bad was registered");
    let good = import(
        &plane,
        "good",
        json!({ "upload": sent(&plane, "whole.onnx", &whole), "accept_guesses": true }),
    );
    assert_eq!(good["state"], "succeeded", "the control plane still imports: {good}");
}

#[test]
fn only_a_few_files_wait_and_they_need_the_permission() {
    let plane = Plane::start();
    for _ in 0..16 {
        sent(&plane, "some.onnx", b"something");
    }
    let (status, problem) = upload(&plane, "more.onnx", b"something");
    assert_eq!((status, &problem["code"]), (429, &json!("busy")), "{problem}");
    assert_eq!(plane.request("POST", "/api/v1/uploads", None, None).0, 401);
    assert_eq!(plane.request("POST", "/api/v1/models/m/import", Some("guess"), Some(json!({}))).0, 401);
}

/// A page shows what it was asked for within this time even on a busy machine.
const PAGE: Duration = Duration::from_secs(60);

#[test]
fn a_model_is_looked_at_made_right_and_imported_in_the_console() {
    let plane = Plane::start();
    let login: Json = plane.cli(&["login"]);
    let Some(mut page) = Browser::open(login["url"].as_str().unwrap()) else { return };
    page.wait_for("document.querySelector('nav')", PAGE);
    page.eval("location.hash = '#/models'");
    page.wait_for("document.querySelector('.import [name=file]')", PAGE);
    let choose = |page: &mut Browser, name: &str, bytes: &[u8]| {
        page.eval(&format!(
            "(() => {{ const chosen = new DataTransfer(); const box = document.querySelector('.import [name=file]'); \
             chosen.items.add(new File([new Uint8Array({bytes:?})], {name:?})); box.files = chosen.files; \
             box.dispatchEvent(new Event('change', {{ bubbles: true }})); }})()"
        ));
    };
    choose(&mut page, "model.tflite", b"\x1c\0\0\0TFL3 and more");
    page.wait_for("document.querySelector('.import .bad').textContent.includes('tf2onnx')", PAGE);
    choose(&mut page, "dense.onnx", &dense(vec![0.1; 6]));
    page.wait_for("document.querySelector('.report[data-runs=true]')", PAGE);
    assert!(page.is_true("document.querySelector('.points').textContent.includes('input.table.columns')"));
    // The pipeline is the user's to make right, and nothing happens before he has confirmed it.
    page.eval(
        "(() => { const box = document.querySelector('.import [name=pipeline]'); const wanted = JSON.parse(box.value); \
         wanted.output.classification.labels = ['low', 'middle', 'high']; box.value = JSON.stringify(wanted); \
         box.dispatchEvent(new Event('input', { bubbles: true })); \
         document.querySelector('.import [name=model]').value = 'levels'; \
         document.querySelector('[data-order=import]').click(); })()",
    );
    assert_eq!(plane.get("/api/v1/jobs").1, json!([]));
    page.eval(
        "(() => { document.querySelector('.import [name=confirmed]').checked = true; \
         document.querySelector('[data-order=import]').click(); })()",
    );
    page.wait_for("document.querySelector('[data-job=succeeded]')", PAGE);
    page.wait_for("document.querySelector('#models [data-model=levels][data-source=imported]')", PAGE);
    let pipeline = plane.get("/api/v1/models/levels/versions/1/pipeline").1;
    assert_eq!(pipeline["output"]["classification"]["labels"], json!(["low", "middle", "high"]));
}
