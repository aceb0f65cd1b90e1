//! Models leave as plain ONNX: the checker of the standard takes every file, and ONNX Runtime answers as the engine does.

use flotilla_compress::{Error, Form, Recipe, Step, Weights};
use flotilla_runtime::engine::Probe;
use flotilla_tests::{Plane, test_data};
use flotilla_train::{Algorithm, Augment, Config, Images, Silent};
use serde_json::{Value, json};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// Inputs that each file answers.
const INPUTS: usize = 8;

/// A Python with `onnx` and `onnxruntime`. `tests/run` installs it.
fn python() -> Option<PathBuf> {
    let found = std::env::var_os("FLOTILLA_ONNX_PYTHON").map(PathBuf::from);
    if found.is_none() {
        assert_ne!(std::env::var("CI").as_deref(), Ok("true"), "CI must have onnx and onnxruntime");
        eprintln!("skipped: FLOTILLA_ONNX_PYTHON names no Python with onnx and onnxruntime");
    }
    found
}

/// Values between -1 and 1, the same each time.
fn noise(seed: u64, count: usize) -> Vec<f32> {
    let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 40) as f32 / (1 << 23) as f32 - 1.0
    };
    (0..count).map(|_| next()).collect()
}

/// A file, and the shape of its input.
type Case = (PathBuf, Vec<usize>);

/// Has all files checked and run, and compares: numbers within `off` of the largest, and the same place of the largest.
fn all_answer_alike(python: &Path, cases: &[Case], off: f32) {
    let inputs = |shape: &[usize]| -> Vec<Vec<f32>> {
        (0..INPUTS).map(|seed| noise(seed as u64 + 1, shape.iter().product())).collect()
    };
    let asked: Vec<Value> = cases.iter().map(|(file, shape)| json!([file, shape, inputs(shape)])).collect();
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("journeys/onnx_runtime.py");
    let mut child = Command::new(python)
        .arg(script)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let question = serde_json::to_vec(&asked).unwrap();
    let mut stdin = child.stdin.take().unwrap();
    let writer = std::thread::spawn(move || stdin.write_all(&question));
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    writer.join().unwrap().unwrap();
    let answers: Vec<Vec<Vec<f32>>> = serde_json::from_slice(&output.stdout).unwrap();
    for ((file, shape), theirs) in cases.iter().zip(answers) {
        let mut engine = Probe::load(&std::fs::read(file).unwrap(), shape).unwrap();
        for (input, theirs) in inputs(shape).iter().zip(theirs) {
            let ours = engine.run(input).unwrap().swap_remove(0).values;
            assert_eq!(ours.len(), theirs.len(), "{}", file.display());
            let largest = theirs.iter().fold(1e-3_f32, |a, b| a.max(b.abs()));
            let apart = ours.iter().zip(&theirs).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
            assert!(apart <= off * largest, "{}: {apart} of {largest}", file.display());
        }
    }
}

#[test]
fn what_was_trained_and_compressed_here_is_exported_and_runs_in_onnx_runtime() {
    let Some(python) = python() else { return };
    let plane = Plane::start();
    plane.release(json!({ "epochs": 2, "patience": 0 }));
    let folder = tempfile::tempdir().unwrap();
    let mut cases = Vec::new();
    for version in ["1", "2"] {
        let file = folder.path().join(format!("digits-{version}.onnx"));
        let _said: Value = plane.cli(&["model", "export", "digits", version, file.to_str().unwrap()]);
        cases.push((file, vec![1, 1, 8, 8]));
    }
    all_answer_alike(&python, &cases, 1e-4);
}

/// What compression can make of weights.
fn recipes() -> Vec<(&'static str, Recipe)> {
    let weights = |form| Step::Weights(Weights { min_elements: 64, ..Weights::new(form) });
    let whole = Weights { half_scales: true, min_elements: 64, ..Weights::new(Form::Int8) };
    let prepared = vec![Step::Fold {}, Step::Equalise { rounds: 8 }, Step::Weights(whole), Step::Tidy {}];
    vec![
        ("f16", Recipe::new(vec![weights(Form::F16)])),
        ("int8", Recipe::default()),
        ("int4", Recipe::new(vec![weights(Form::Int4)])),
        ("matmul-nbits", Recipe::new(vec![weights(Form::MatMulNBits)])),
        ("folded-int8", Recipe::new(prepared)),
    ]
}

/// The file itself and what every recipe makes of it.
fn with_every_form(folder: &Path, name: &str, onnx: &[u8], shape: &[usize]) -> Vec<Case> {
    let made = recipes().into_iter().filter_map(|(form, recipe)| match recipe.apply(onnx) {
        // Few inputs make no blocks.
        Err(Error::NothingToCompress { .. }) if matches!(form, "int4" | "matmul-nbits") => None,
        made => Some((form, made.unwrap())),
    });
    let all = std::iter::once(("float", onnx.to_vec())).chain(made);
    let written = all.map(|(form, bytes)| {
        let file = folder.join(format!("{name}-{form}.onnx"));
        std::fs::write(&file, bytes).unwrap();
        (file, shape.to_vec())
    });
    written.collect()
}

#[test]
fn every_network_that_is_trained_here_is_plain_onnx_in_every_form() {
    let Some(python) = python() else { return };
    let folder = tempfile::tempdir().unwrap();
    let images = Images {
        channels: 1,
        height: 16,
        width: 16,
        classes: ["left", "right", "both"].map(str::to_owned).to_vec(),
        pixels: noise(7, 24 * 256),
        labels: (0..24).map(|n| n % 3).collect(),
    };
    let mut cases = Vec::new();
    for algorithm in [Algorithm::DscnnS, Algorithm::DscnnM, Algorithm::CnnS, Algorithm::Resnet8] {
        let config =
            Config { algorithm, epochs: 1, batch_size: 12, augment: Augment::none(), ..Config::default() };
        let trained = flotilla_train::train(&config, &images, &images, &mut Silent).unwrap();
        cases.extend(with_every_form(folder.path(), algorithm.name(), &trained.onnx, &[1, 1, 16, 16]));
    }
    let in_four_bits = cases.iter().filter(|(file, _)| file.to_str().unwrap().contains("-int4"));
    assert!(in_four_bits.count() >= 3);
    all_answer_alike(&python, &cases, 1e-3);
}

#[test]
fn models_of_others_leave_as_plain_onnx_in_every_form() {
    let Some(python) = python() else { return };
    let folder = tempfile::tempdir().unwrap();
    let mut cases = Vec::new();
    for (name, shape) in [
        ("mlperf-tiny/ic_resnet8_float", vec![1, 32, 32, 3]),
        ("mlperf-tiny/kws_dscnn_float", vec![1, 49, 10, 1]),
        ("mlperf-tiny/vww_mobilenetv1_float", vec![1, 96, 96, 3]),
        ("mlperf-tiny/ad_autoencoder_float", vec![1, 640]),
        ("mnist", vec![1, 1, 28, 28]),
    ] {
        let Some(file) = test_data(&format!("models/{name}.onnx")) else { return };
        let name = name.rsplit('/').next().unwrap();
        cases.extend(with_every_form(folder.path(), name, &std::fs::read(file).unwrap(), &shape));
    }
    let in_four_bits = cases.iter().filter(|(file, _)| file.to_str().unwrap().contains("-int4"));
    assert!(in_four_bits.count() >= 3);
    all_answer_alike(&python, &cases, 1e-3);
}
