//! A model of another tool is looked at before anything is done with it.

use flotilla_onnx::{DataType, Dim, GraphBuilder, Node, Value};
use flotilla_tests::{binary, run, run_ok};
use serde_json::{Value as Json, json};
use std::path::{Path, PathBuf};
use std::process::Command;

/// A small network for coloured pictures with open batch, in a file.
fn model(folder: &Path) -> PathBuf {
    let weights = (0..4 * 3 * 3 * 3).map(|n| (n % 7) as f32 / 7.0 - 0.5).collect();
    let onnx = GraphBuilder::new("small")
        .input(Value::f32("image", [Dim::Symbol("N".into()), 3.into(), 32.into(), 32.into()]))
        .output(Value::f32("scores", [Dim::Symbol("N".into()), Dim::from(4)]))
        .initializer_f32("w", &[4, 3, 3, 3], weights)
        .node(Node::new("Conv", ["image", "w"], ["maps"]).ints("pads", vec![1, 1, 1, 1]))
        .node(Node::new("GlobalAveragePool", ["maps"], ["means"]))
        .node(Node::new("Flatten", ["means"], ["flat"]).int("axis", 1))
        .node(Node::new("Softmax", ["flat"], ["scores"]).int("axis", 1))
        .build()
        .unwrap()
        .write();
    let file = folder.join("small.onnx");
    std::fs::write(&file, onnx).unwrap();
    file
}

fn inspect(file: &Path, options: &[&str]) -> Command {
    let mut command = Command::new(binary("flotilla"));
    command.args(["model", "inspect"]).arg(file).args(options);
    command
}

/// What it says where it refuses.
fn refusal(file: &Path, options: &[&str]) -> String {
    let output = run(&mut inspect(file, options));
    assert!(!output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
    String::from_utf8(output.stderr).unwrap()
}

#[test]
fn a_model_is_told_with_what_it_costs_and_a_pipeline_to_confirm() {
    let folder = tempfile::tempdir().unwrap();
    let (file, cleaned) = (model(folder.path()), folder.path().join("cleaned.onnx"));
    let report: Json = serde_json::from_str(&run_ok(&mut inspect(&file, &["-o", "json"]))).unwrap();
    // 32 x 32 places of 4 channels, 27 products each.
    assert_eq!((&report["macs"], &report["runs"]), (&json!(110_592), &json!(true)));
    assert_eq!(report["guess"]["input"]["kind"], "image");
    assert_eq!(report["guess"]["output"]["classes"], 4);
    let text = run_ok(inspect(&file, &["--cleaned"]).arg(&cleaned));
    for words in
        ["110592 multiply-accumulates", "a picture of 32 x 32", "one of 4 classes", "the engine runs it"]
    {
        assert!(text.contains(words), "{words}: {text}");
    }
    // What was written is a model, with a batch of one now, and is not overwritten.
    let again = run_ok(&mut inspect(&cleaned, &[]));
    assert!(again.contains("1 x 3 x 32 x 32") && again.contains("the engine runs it"), "{again}");
    assert!(refusal(&file, &["--cleaned", cleaned.to_str().unwrap()]).contains("[already_exists]"));
}

#[test]
fn what_cannot_be_used_is_refused_with_what_to_do() {
    let folder = tempfile::tempdir().unwrap();
    let file = model(folder.path());
    let write = |name: &str, content: &[u8]| {
        let path = folder.path().join(name);
        std::fs::write(&path, content).unwrap();
        path
    };
    let two = write("two.txt", b"cat\ndog\n");
    let gap = write("gap.txt", b"cat\n\ndog\nbird\n");
    let labels = |path: &PathBuf| refusal(&file, &["--labels", path.to_str().unwrap()]);
    assert!(labels(&two).contains("2 labels, but the model gives 4 scores"), "{}", labels(&two));
    assert!(labels(&gap).contains("has nothing in line 2"), "{}", labels(&gap));
    let lite = refusal(&write("model.tflite", b"\x1c\0\0\0TFL3 and more"), &[]);
    assert!(lite.contains("tf2onnx.convert --tflite") && lite.contains("[model_unsupported]"), "{lite}");
    let whole = std::fs::read(&file).unwrap();
    let cut = refusal(&write("cut.onnx", &whole[..whole.len() / 2]), &[]);
    assert!(cut.contains("ends inside a field") && cut.contains("[model_invalid]"), "{cut}");
    assert!(refusal(&file, &["--dim", "N"]).contains("is not NAME=NUMBER"));
    assert!(refusal(&folder.path().join("nowhere"), &[]).contains("[not_found]"));
    let nan = GraphBuilder::new("nan")
        .input(Value { data_type: Some(DataType::Float), ..Value::f32("x", [1_usize, 2]) })
        .output(Value::f32("y", [1_usize, 2]))
        .initializer_f32("w", &[2], vec![1.0, f32::NAN])
        .node(Node::new("Mul", ["x", "w"], ["y"]))
        .build()
        .unwrap();
    let nan = refusal(&write("nan.onnx", &nan.write()), &[]);
    assert!(nan.contains('w') && nan.contains("[model_invalid]"), "{nan}");
}
