//! A model is made smaller within a budget that was measured, or it is said how near to it one gets.

use crate::console::{PAGE, everything_fits};
use flotilla_tests::{Browser, Plane, binary, eventually, run, run_ok};
use serde_json::{Value, json};
use std::path::Path;
use std::process::{Command, Output};
use std::time::Duration;

/// A control plane with digits and a model that has learnt a little.
fn trained(epochs: u32) -> Plane {
    let plane = Plane::start();
    let _dataset: Value = plane.cli(&["dataset", "import", "digits"]);
    let _job: Value = plane.cli(&["train", "digits", "--config", &json!({ "epochs": epochs }).to_string()]);
    plane
}

fn compress(plane: &Plane, options: &[&str]) -> Value {
    plane.cli(&[&["compress", "digits"], options].concat())
}

/// The error of a compression that is refused.
fn refused(plane: &Plane, options: &[&str]) -> Value {
    let output = plane.cli_output(&[&["compress", "digits"], options].concat());
    error(options, &output)
}

fn error(what: &[&str], output: &Output) -> Value {
    let text = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success(), "{what:?}: {}", String::from_utf8_lossy(&output.stdout));
    let line = text
        .lines()
        .find(|line| line.starts_with("{\"error\""))
        .unwrap_or_else(|| panic!("{what:?}: {text}"));
    serde_json::from_str::<Value>(line).unwrap()["error"].take()
}

/// What people read.
fn told(plane: &Plane, arguments: &[&str]) -> Command {
    let mut command = Command::new(binary("flotilla"));
    command.args(arguments).arg("--dir").arg(&plane.dir);
    command
}

fn chosen(report: &Value) -> &Value {
    &report["measured"][report["chosen"].as_u64().unwrap() as usize]
}

#[test]
fn each_limit_holds_or_the_nearest_candidates_are_shown() {
    let plane = trained(3);
    let made = compress(&plane, &["--max-drop", "0.05"]);
    let report = &made["report"];
    assert_eq!((&report["metric"], &made["version"]), (&json!("accuracy"), &json!(2)));
    assert!(report["drop"].as_f64().unwrap() <= 0.05 && report["drop_interval"].is_array(), "{report}");
    assert_eq!(chosen(report)["bytes"], report["bytes_after"]);
    let measured = report["measured"].as_array().unwrap();
    assert!(measured.len() >= 4 && report["layers"].as_array().unwrap().len() >= 3, "{report}");
    // The file that was published is the one that was measured.
    let (_, versions) = plane.get("/api/v1/models");
    assert_eq!(versions[1]["bytes"], report["bytes_after"]);
    assert_eq!(versions[1]["onnx"], report["output"]);
    assert_eq!(versions[1]["accuracy"], report["value_after"]);

    // A size is kept; none that is too small is pretended.
    let size = report["bytes_after"].as_u64().unwrap() + 64;
    let again = compress(&plane, &["--max-drop", "0.05", "--max-size", &size.to_string()]);
    assert!(again["report"]["bytes_after"].as_u64().unwrap() <= size);
    assert_eq!(again["report"]["budget"]["max_bytes"], size);
    for (limit, value) in [("--max-size", "2KB"), ("--max-latency", "0.01us"), ("--max-memory", "1KiB")] {
        let error = refused(&plane, &["--max-drop", "0.05", limit, value]);
        assert_eq!(error["code"], "over_budget", "{limit}: {error}");
        let nearest = error["facts"]["nearest"].as_array().unwrap();
        assert!(nearest.len() >= 2 && nearest[0]["bytes"].as_u64().unwrap() > 0, "{limit}: {error}");
    }
    let output = run(&mut told(&plane, &["compress", "digits", "--max-size", "2KB"]));
    let text = String::from_utf8_lossy(&output.stderr);
    for words in ["NEAREST", "ACCURACY", "LOST (95 %)", "[over_budget]"] {
        assert!(text.contains(words), "{words}: {text}");
    }
    let peak = measured.iter().map(|point| point["peak_bytes"].as_u64().unwrap()).max().unwrap();
    let within = ["--max-drop", "0.05", "--max-latency", "10s", "--max-memory", &peak.to_string()];
    assert!(compress(&plane, &within)["report"]["latency_after"]["p50_ms"].as_f64().unwrap() < 10_000.0);

    // A board bounds by its profile; one that nobody knows is no board.
    let board = compress(&plane, &["--max-drop", "0.05", "--board", "atlas-200dk"]);
    assert!(board["report"]["budget"]["max_bytes"].as_u64().unwrap() >= 1 << 20, "{board}");
    assert_eq!(board["report"]["latency_on"], "board atlas-200-dk", "by its name, however it is written");
    let error = refused(&plane, &["--board", "toaster"]);
    assert!(error["code"] == "not_found" && error["detail"].as_str().unwrap().contains("raspberry-pi-5"));

    // The picture has a dot a candidate.
    let svg = plane.get_bytes("/api/v1/models/digits/versions/2/pareto.svg");
    let svg = String::from_utf8(svg).unwrap();
    assert!(svg.starts_with("<svg") && svg.matches("<circle").count() == measured.len(), "{svg}");
    assert_eq!(plane.get("/api/v1/models/digits/versions/1/pareto.svg").0, 404);
    let text = run_ok(&mut told(&plane, &["model", "report", "digits", "2"]));
    for words in ["accuracy: ", "CANDIDATE", "\n*  ", "LAYER", "ERROR AT 8 BITS", "recipe: "] {
        assert!(text.contains(words), "{words}: {text}");
    }
}

#[test]
fn a_recipe_is_replayed_to_the_byte_and_what_it_may_do_is_said() {
    let plane = trained(2);
    let folder = tempfile::tempdir().unwrap();
    let made = compress(&plane, &["--max-drop", "0.1"]);
    let file = folder.path().join("made.json");
    std::fs::write(&file, made.to_string()).unwrap();
    let recipe = file.to_str().unwrap();
    let replayed = compress(&plane, &["--version", "1", "--max-drop", "0.1", "--recipe", recipe]);
    assert_eq!(replayed["report"]["output"], made["report"]["output"]);
    assert_eq!(replayed["report"]["recipe"], made["report"]["recipe"]);
    assert_eq!(replayed["report"]["measured"].as_array().unwrap().len(), 1, "nothing else was tried");

    let layer = made["report"]["layers"][0]["name"].as_str().unwrap();
    let kept = compress(&plane, &["--version", "1", "--max-drop", "0.1", "--keep-float", layer]);
    let layers = kept["report"]["layers"].as_array().unwrap();
    assert!(layers.iter().all(|other| other["name"] != layer || other["precision"] == "f32"), "{layers:?}");
    let small = compress(&plane, &["--version", "1", "--max-drop", "1", "--four-bit", "standard"]);
    assert!(small["report"]["recipe"].to_string().contains("int4"), "{}", small["report"]["recipe"]);
    assert!(small["report"]["bytes_after"].as_u64() < made["report"]["bytes_after"].as_u64());

    // Wrong recipes.
    let write = |text: &str| std::fs::write(&file, text).unwrap();
    write("{ nothing");
    assert_eq!(refused(&plane, &["--recipe", recipe])["code"], "invalid_input");
    write(r#"{ "format": 99, "steps": [] }"#);
    assert_eq!(refused(&plane, &["--recipe", recipe])["code"], "invalid_input");
    write(r#"{ "format": 2, "steps": [{ "do": "weights", "form": "int8", "only": ["no such layer"] }] }"#);
    let error = refused(&plane, &["--version", "1", "--recipe", recipe]);
    assert!(error["code"] == "invalid_input" && error["detail"].as_str().unwrap().contains("no such layer"));
    assert_eq!(refused(&plane, &["--recipe", "/nowhere/recipe.json"])["code"], "not_found");
    assert_eq!(refused(&plane, &["--recipe", recipe, "--method", "prune"])["code"], "invalid_input");
}

#[test]
fn a_smaller_network_is_made_of_what_was_trained_here() {
    let plane = trained(2);
    let weights = compress(&plane, &["--max-drop", "1"]);
    let quick = json!({ "shares": [0.15], "epochs": 1, "cut_epochs": 0, "rounded_epochs": 1, "seed": 7 });
    let quick = quick.to_string();
    let made = compress(&plane, &["--method", "prune", "--max-drop", "1", "--shrink", &quick]);
    let report = &made["report"];
    assert!(report["bytes_after"].as_u64() < weights["report"]["bytes_after"].as_u64(), "{report}");
    assert_eq!((&report["made"]["seed"], &report["metric"]), (&json!(7), &json!("accuracy")));
    let how = report["made"]["how"].as_str().unwrap();
    assert!(how.starts_with("pruned to ") && chosen(report)["name"].as_str().unwrap().starts_with(how));
    assert!(chosen(report)["macs"].as_u64() < report["macs_before"].as_u64(), "{report}");
    let (_, versions) = plane.get("/api/v1/models");
    let version = versions.as_array().unwrap().last().unwrap();
    assert_eq!((&version["source"], &version["dataset"]), (&json!("compressed"), &json!("digits")));
    assert!(version["recipe"].as_str().unwrap().starts_with(how), "{version}");
    // It can be shipped like any other.
    let release: Value = plane.cli(&["release", "create", "digits"]);
    assert_eq!(release["version"], version["version"]);

    // What is needed: a size that the weights alone have is met without any training.
    let size = weights["report"]["bytes_after"].as_u64().unwrap().to_string();
    let auto = ["--method", "auto", "--max-drop", "1", "--max-size", &size, "--shrink", &quick];
    assert!(compress(&plane, &auto)["report"]["made"].is_null());
    // Training has its bounds, and what it cannot reach it says.
    let error = refused(&plane, &["--method", "prune", "--shrink", r#"{ "epochs": 0 }"#]);
    assert!(error["code"] == "invalid_input" && error["detail"].as_str().unwrap().contains("epochs"));
    assert_eq!(refused(&plane, &["--shrink", &quick])["code"], "invalid_input");
    assert_eq!(
        refused(&plane, &["--method", "prune", "--max-drop", "0", "--max-size", "1KB"])["code"],
        "over_budget"
    );
    // What is compressed already was not trained in this form.
    let error = refused(&plane, &["--version", "2", "--method", "qat"]);
    assert_eq!(error["code"], "model_unsupported", "{error}");

    // It stops when it is told to.
    let long = json!({ "epochs": 1000 }).to_string();
    let job: Value = plane.cli(&["compress", "digits", "--method", "distil", "--shrink", &long, "--detach"]);
    let id = job["id"].as_str().unwrap();
    eventually("it learns", Duration::from_secs(60), || {
        let (_, job) = plane.get(&format!("/api/v1/jobs/{id}"));
        (!job["metrics"].as_array()?.is_empty()).then_some(())
    });
    let _cancelled: Value = plane.cli(&["job", "cancel", id]);
    eventually("it has stopped", Duration::from_secs(60), || {
        (plane.get(&format!("/api/v1/jobs/{id}")).1["state"] == "cancelled").then_some(())
    });
}

/// The digits of the test split.
fn digits(plane: &Plane) -> Vec<Vec<u8>> {
    let (_, samples) = plane.get("/api/v1/datasets/digits/versions/1/samples?split=test");
    let bytes = |sample: &Value| {
        let digest = sample["digest"].as_str().unwrap();
        plane.get_bytes(&format!("/api/v1/datasets/digits/versions/1/samples/{digest}"))
    };
    samples.as_array().unwrap().iter().take(120).map(bytes).collect()
}

/// Writes pictures into a new folder.
fn write(folder: &Path, pictures: &[Vec<u8>]) {
    std::fs::create_dir_all(folder).unwrap();
    for (index, bytes) in pictures.iter().enumerate() {
        std::fs::write(folder.join(format!("{index:03}.png")), bytes).unwrap();
    }
}

#[test]
fn samples_that_say_too_little_are_told_and_those_that_are_none_refused() {
    let plane = trained(2);
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| {
        let path = folder.path().join(name);
        std::fs::create_dir_all(&path).unwrap();
        path
    };
    // Files to calibrate on: the dataset still judges.
    let one = path("one class");
    let request = json!({ "dataset": "digits", "version": 1, "split": "test" });
    let (_, said) = plane.post("/api/v1/models/digits/versions/1/evaluate", request);
    let predictions = said["predictions"].as_array().unwrap();
    let all = digits(&plane);
    let alike = all.iter().zip(predictions).filter(|(_, said)| *said == &predictions[0]);
    write(&one, &alike.map(|(bytes, _)| bytes.clone()).collect::<Vec<_>>());
    let made = compress(&plane, &["--max-drop", "1", "--samples", one.to_str().unwrap()]);
    assert_eq!(made["report"]["metric"], "accuracy");
    let warnings = made["report"]["warnings"].to_string();
    assert!(warnings.contains("one_class"), "{warnings}");
    let text = run_ok(&mut told(&plane, &["model", "report", "digits", &made["version"].to_string()]));
    assert!(text.contains("warning: all calibration samples are of class"), "{text}");
    let (_, overview) = plane.get("/api/v1/overview");
    assert!(overview["compression"][0]["warnings"].to_string().contains("all calibration samples"));

    let empty = path("empty");
    assert_eq!(refused(&plane, &["--samples", empty.to_str().unwrap()])["code"], "dataset_too_small");
    let words = path("words");
    std::fs::write(words.join("note.txt"), "no picture").unwrap();
    let error = refused(&plane, &["--samples", words.to_str().unwrap()]);
    let said = error["detail"].as_str().unwrap();
    assert!(
        error["code"] == "invalid_input" && said.contains("sample 0") && said.contains("10 bytes"),
        "{error}"
    );
    std::fs::write(words.join("note.txt"), b"\x89PNG\r\n\x1a\n and nothing more").unwrap();
    assert_eq!(refused(&plane, &["--samples", words.to_str().unwrap()])["code"], "sample_invalid");
    let zip = folder.path().join("broken.zip");
    std::fs::write(&zip, b"PK\x03\x04 and nothing more").unwrap();
    assert_eq!(refused(&plane, &["--samples", zip.to_str().unwrap()])["code"], "dataset_format");
    assert_eq!(refused(&plane, &["--samples", "/nowhere"])["code"], "dataset_path_missing");
    assert_eq!(refused(&plane, &["--dataset", "nothing"])["code"], "not_found");
    let animals = path("animals");
    write(&animals.join("cats"), &all[..30]);
    write(&animals.join("dogs"), &all[30..60]);
    let _dataset: Value = plane.cli(&["dataset", "import", "animals", animals.to_str().unwrap()]);
    let error = refused(&plane, &["--dataset", "animals"]);
    assert!(
        error["code"] == "invalid_input" && error["detail"].as_str().unwrap().contains("cats, dogs"),
        "{error}"
    );
    assert_eq!(refused(&plane, &["--dataset", "digits@x"])["code"], "invalid_input");
    let gone = json!({ "model": "digits", "samples": format!("sha256:{}", "0".repeat(64)) });
    let (status, problem) = plane.post("/api/v1/jobs/compress", gone);
    assert!(status == 404 || status == 400, "{problem}");
    // Bad numbers never become a job.
    for body in [json!({ "max_drop": 2.0 }), json!({ "max_drop": -1.0 }), json!({ "max_latency_ms": 0.0 })] {
        let mut request = body.clone();
        request["model"] = json!("digits");
        let (status, problem) = plane.post("/api/v1/jobs/compress", request);
        let refused = status == 400 || plane_refuses(&plane, &problem);
        assert!(refused, "{body}: {problem}");
    }
}

/// Whether a job that was queued fails for its input: what a loss may be depends on what is measured.
fn plane_refuses(plane: &Plane, job: &Value) -> bool {
    let id = job["id"].as_str().unwrap().to_owned();
    eventually("the job has ended", Duration::from_secs(60), || {
        let (_, job) = plane.get(&format!("/api/v1/jobs/{id}"));
        (job["state"] == "failed").then(|| job["failure"]["code"] == "invalid_input")
    })
}

/// The trained digits as a model of another tool: nothing says what it was trained on.
fn alien(plane: &Plane, folder: &Path) {
    let (onnx, pipeline) = (folder.join("alien.onnx"), folder.join("alien.json"));
    let [onnx, pipeline] = [&onnx, &pipeline].map(|path| path.to_str().unwrap());
    let _said: Value = plane.cli(&["model", "export", "digits", "1", onnx, "--pipeline", pipeline]);
    let _said: Value = plane.cli(&["model", "import", onnx, "--name", "alien", "--pipeline", pipeline]);
}

#[test]
fn a_model_without_labels_is_judged_by_what_it_said_before_and_the_result_says_so() {
    let plane = trained(2);
    let folder = tempfile::tempdir().unwrap();
    alien(&plane, folder.path());
    let files = folder.path().join("digits");
    write(&files, &digits(&plane)[..60]);
    let alien = |options: &[&str]| -> Value {
        plane.cli(&[&["compress", "alien", "--version", "1", "--max-drop", "0.5"], options].concat())
    };
    let files = files.to_str().unwrap();
    let made = alien(&["--samples", files]);
    let report = &made["report"];
    assert_eq!((&report["metric"], &report["samples"]), (&json!("fidelity"), &json!(30)), "half calibrates");
    assert_eq!(report["value_before"], 1.0);
    let warnings = report["warnings"].to_string();
    assert!(warnings.contains("no_labels") && !warnings.contains("no_calibration"), "{warnings}");
    assert!(
        report["recipe"]["calibration"].is_string() || !report["recipe"].to_string().contains("reconstruct")
    );
    let text = run_ok(&mut told(&plane, &["model", "report", "alien", "2"]));
    assert!(text.contains("fidelity to the model before, for want of labels"), "{text}");
    assert!(text.contains("warning: no labels"), "{text}");
    // Accuracy is not claimed for what nobody has labels of.
    let (_, versions) = plane.get("/api/v1/models");
    let version = versions.as_array().unwrap().iter().find(|version| version["version"] == 2).unwrap();
    assert_eq!((&version["model"], &version["accuracy"]), (&json!("alien"), &Value::Null));

    let report = alien(&[])["report"].take();
    let warnings = report["warnings"].to_string();
    for warning in ["no_samples", "no_calibration", "no_labels"] {
        assert!(warnings.contains(warning), "{warning}: {warnings}");
    }
    // Labels of a dataset that has the model's classes.
    let report = alien(&["--dataset", "digits@1"])["report"].take();
    assert_eq!(report["metric"], "accuracy");
    // It was not trained here: there is no network to make smaller.
    let output = plane.cli_output(&["compress", "alien", "--version", "1", "--method", "prune"]);
    let code = error(&["prune"], &output)["code"].clone();
    assert!(code == "model_unsupported" || code == "invalid_input", "{code}");
}

#[test]
fn the_console_starts_compressions_and_shows_what_they_found() {
    let plane = trained(2);
    let login: Value = plane.cli(&["login"]);
    let Some(mut page) = Browser::open(login["url"].as_str().unwrap()) else { return };
    let open = "document.querySelector('[data-order=compress]').click()";
    let start = |page: &mut Browser, fields: &[(&str, &str)]| {
        page.wait_for("document.querySelector('[data-order=compress]') !== null", PAGE);
        page.eval(open);
        page.wait_for("document.querySelector('[data-form=compress] option') !== null", PAGE);
        for (name, value) in fields {
            page.eval(&format!(
                "document.querySelector('[data-form=compress] [name={name}]').value = '{value}'"
            ));
        }
    };
    start(&mut page, &[("max-drop", "5"), ("max-size", "2")]);
    everything_fits(&mut page, "compression-form");
    page.eval("document.querySelector('[data-order=start-compression]').click()");
    page.wait_for("document.querySelector('#compression .bad')?.textContent.startsWith('over_budget')", PAGE);
    page.wait_for("document.querySelectorAll('#compression [data-candidate]').length >= 2", PAGE);
    everything_fits(&mut page, "compression-refused");
    start(&mut page, &[("max-drop", "5"), ("max-size", "100")]);
    page.eval("document.querySelector('[data-order=start-compression]').click()");
    page.wait_for("document.querySelector('#compression .plot svg') !== null", PAGE);
    let (_, report) = plane.get("/api/v1/models/digits/versions/2/report");
    let candidates = report["measured"].as_array().unwrap().len();
    page.wait_for(
        &format!("document.querySelectorAll('#compression .plot circle').length === {candidates}"),
        PAGE,
    );
    // Both bounds of the budget, as far as they lie within the picture.
    assert_eq!(
        page.eval("document.querySelectorAll('#compression .plot [stroke-dasharray]').length >= 1"),
        true
    );
    // Text of the picture has the colour of the page, light or dark.
    for dark in [false, true] {
        page.look(1440, dark);
        let colours = "getComputedStyle(document.querySelector('#compression .plot text')).fill === getComputedStyle(document.body).color";
        page.wait_for(colours, PAGE);
    }
    everything_fits(&mut page, "compression");
}
