//! Models that other tools wrote are read whole: the written copy says the same, and tract loads both alike.
//!
//! Needs the folder of test data in `FLOTILLA_TEST_DATA`.
#![expect(clippy::unwrap_used, reason = "tests fail by panicking")]

use std::path::{Path, PathBuf};

use flotilla_onnx::Model;

fn onnx_files(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            onnx_files(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "onnx") {
            found.push(path);
        }
    }
}

#[test]
fn models_of_other_tools_survive_reading_and_writing() {
    let Some(folder) = std::env::var_os("FLOTILLA_TEST_DATA") else {
        assert!(std::env::var("CI").as_deref() != Ok("true"), "FLOTILLA_TEST_DATA is not set");
        println!("skipped: FLOTILLA_TEST_DATA is not set");
        return;
    };
    let mut files = Vec::new();
    onnx_files(&PathBuf::from(folder).join("models"), &mut files);
    assert!(files.len() >= 3, "{files:?}");
    for file in files {
        let bytes = std::fs::read(&file).unwrap();
        let model = Model::read(&bytes).unwrap_or_else(|error| panic!("{}: {error}", file.display()));
        model.check_order().unwrap_or_else(|error| panic!("{}: {error}", file.display()));
        let written = model.write();
        let again = Model::read(&written).unwrap();
        assert!(again == model && again.write() == written, "{}", file.display());
        let summary = model.summary();
        println!("{}: {summary:?}", file.display());
        assert!(!summary.operators.is_empty() && !summary.inputs.is_empty() && !summary.outputs.is_empty());
        let nodes = |bytes: &[u8]| {
            let loader = tract_onnx::onnx().with_ignore_output_shapes(true).with_ignore_value_info(true);
            tract_onnx::prelude::Framework::model_for_read(&loader, &mut &*bytes).map(|m| m.nodes.len()).ok()
        };
        assert_eq!(nodes(&written), nodes(&bytes), "{}", file.display());
    }
}
