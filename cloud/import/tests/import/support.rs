//! Models and archives.

use std::io::{Cursor, Write};
use std::path::PathBuf;

use flotilla_import::{Import, Options, Report, inspect};
use flotilla_onnx::{Dim, GraphBuilder, Model, Node, Value};

/// The folder of models in the test data; none where tests may go without.
pub(crate) fn models() -> Option<PathBuf> {
    let Some(folder) = std::env::var_os("FLOTILLA_TEST_DATA") else {
        assert!(std::env::var("CI").as_deref() != Ok("true"), "FLOTILLA_TEST_DATA is not set");
        println!("skipped: FLOTILLA_TEST_DATA is not set");
        return None;
    };
    Some(PathBuf::from(folder).join("models"))
}

/// A file of the test data.
pub(crate) fn file(path: &str) -> Option<Vec<u8>> {
    Some(std::fs::read(models()?.join(path)).unwrap())
}

/// The report on a file of the test data.
pub(crate) fn report(path: &str) -> Option<Report> {
    let bytes = file(path)?;
    Some(inspect(&bytes, &Options::default()).unwrap_or_else(|error| panic!("{path}: {error}")).report)
}

/// The report on a model.
pub(crate) fn import(model: &Model) -> Import {
    inspect(&model.write(), &Options::default()).unwrap()
}

/// Numbers that look random and are the same everywhere, between -1 and 1.
pub(crate) fn noise(seed: u64, count: usize) -> Vec<f32> {
    let mut random = Random(seed);
    (0..count).map(|_| (random.next() >> 40) as f32 / (1 << 23) as f32 - 1.0).collect()
}

/// splitmix64
pub(crate) struct Random(pub(crate) u64);

impl Random {
    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    pub(crate) fn below(&mut self, bound: usize) -> usize {
        (self.next() % bound as u64) as usize
    }
}

/// A small classifier of pictures, written as an exporter would: open batch, Identity and Dropout in between.
pub(crate) fn classifier() -> GraphBuilder {
    GraphBuilder::new("classifier")
        .opset(11)
        .input(Value::f32("image", [Dim::from("N"), Dim::from(3), Dim::from(8), Dim::from(8)]))
        .output(Value::f32("scores", [Dim::from("N"), Dim::from(3)]))
        .initializer_f32("w", &[4, 3, 3, 3], noise(1, 108))
        .initializer_f32("b", &[4], noise(2, 4))
        .initializer_f32("d", &[144, 3], noise(3, 432))
        .initializer_f32("e", &[3], noise(4, 3))
        .node(Node::new("Conv", ["image", "w", "b"], ["c"]))
        .node(Node::new("Relu", ["c"], ["r"]))
        .node(Node::new("Dropout", ["r"], ["o"]).float("ratio", 0.2))
        .node(Node::new("Identity", ["o"], ["i"]))
        .node(Node::new("Flatten", ["i"], ["f"]).int("axis", 1))
        .node(Node::new("MatMul", ["f", "d"], ["m"]))
        .node(Node::new("Add", ["m", "e"], ["l"]))
        .node(Node::new("Softmax", ["l"], ["scores"]).int("axis", 1))
}

/// A zip of these files.
pub(crate) fn zip(files: &[(&str, &[u8])]) -> Vec<u8> {
    let mut writer = zip::ZipWriter::new(Cursor::new(Vec::new()));
    for (name, content) in files {
        writer.start_file(*name, zip::write::SimpleFileOptions::default()).unwrap();
        writer.write_all(content).unwrap();
    }
    writer.finish().unwrap().into_inner()
}

/// A tar of these files.
pub(crate) fn tar(files: &[(&str, &[u8])]) -> Vec<u8> {
    let mut out = Vec::new();
    for (name, content) in files {
        let mut header = [0_u8; 512];
        header[..name.len()].copy_from_slice(name.as_bytes());
        header[124..135].copy_from_slice(format!("{:011o}", content.len()).as_bytes());
        header[156] = b'0';
        header[257..263].copy_from_slice(b"ustar\0");
        out.extend(header);
        out.extend(*content);
        out.resize(out.len().div_ceil(512) * 512, 0);
    }
    out.extend([0; 1024]);
    out
}
