//! Tiny releases whose answers are known.

use flotilla_onnx::{Dim, GraphBuilder, Node, Value};
use flotilla_protocol::manifest::{
    Constraints, ENGINE_TRACT, FileEntry, Golden, Lineage, Metrics, ReleaseKind, Variant,
};
use flotilla_protocol::pipeline::{
    Activation, Classification, Colour, ImageInput, Input, Layout, Output, Resize,
};
use flotilla_protocol::signature::SigningKey;
use flotilla_protocol::{Digest, Envelope, EnvelopeKind, ModelName, Pipeline, ReleaseManifest, codec};
use flotilla_runtime::{Model, make_golden};
use std::path::Path;

/// Labels of every model here.
pub(crate) const LABELS: [&str; 3] = ["a", "b", "c"];

pub(crate) fn name(text: &str) -> ModelName {
    text.parse().unwrap()
}

pub(crate) fn release(text: &str) -> Digest {
    Digest::of(text.as_bytes())
}

pub(crate) fn pipeline() -> Pipeline {
    Pipeline::new(
        Input::Image(ImageInput {
            width: 2,
            height: 2,
            colour: Colour::Grey,
            resize: Resize::Exact,
            layout: Layout::Nchw,
            mean: vec![0.0],
            std: vec![1.0],
            ..ImageInput::none()
        }),
        Output::Classification(Classification::new(
            LABELS.map(ToOwned::to_owned).to_vec(),
            Activation::Softmax,
        )),
    )
}

/// A model that always answers the label of this index.
pub(crate) fn always(label: usize) -> Vec<u8> {
    let mut bias = vec![0.0; LABELS.len()];
    bias[label] = 10.0;
    graph("always")
        .initializer_f32("w", &[4, LABELS.len()], vec![0.01; 4 * LABELS.len()])
        .initializer_f32("b", &[LABELS.len()], bias)
        .node(Node::new("Flatten", ["x"], ["flat"]).int("axis", 1))
        .node(Node::new("Gemm", ["flat", "w", "b"], ["y"]))
        .build()
        .unwrap()
        .write()
}

/// A model that always answers the label of this index, and has no answer to a picture with a white pixel: its scores are
/// no numbers then.
pub(crate) fn fragile(label: usize) -> Model {
    let mut bias = vec![0.0; LABELS.len()];
    bias[label] = 10.0;
    let onnx = graph("fragile")
        .initializer_f32("white", &[1], vec![1.0])
        .initializer_f32("w", &[4, LABELS.len()], vec![0.01; 4 * LABELS.len()])
        .initializer_f32("b", &[LABELS.len()], bias)
        .node(Node::new("Sub", ["white", "x"], ["dark"]))
        .node(Node::new("Log", ["dark"], ["deep"]))
        .node(Node::new("Flatten", ["deep"], ["flat"]).int("axis", 1))
        .node(Node::new("Gemm", ["flat", "w", "b"], ["y"]))
        .build()
        .unwrap()
        .write();
    Model::load(&pipeline(), &onnx).unwrap()
}

/// A model that takes pictures of 1 x 4 pixels, which are as many as the others take, or of 1 x 1.
pub(crate) fn other_size(width: u32) -> Model {
    let onnx = GraphBuilder::new("other")
        .input(Value::f32("x", [Dim::from("N"), 1.into(), 1.into(), Dim::from(width as usize)]))
        .output(Value::f32("y", [Dim::from("N"), Dim::from(LABELS.len())]))
        .initializer_f32("w", &[width as usize, LABELS.len()], vec![0.01; width as usize * LABELS.len()])
        .initializer_f32("b", &[LABELS.len()], vec![0.0; LABELS.len()])
        .node(Node::new("Flatten", ["x"], ["flat"]).int("axis", 1))
        .node(Node::new("Gemm", ["flat", "w", "b"], ["y"]))
        .build()
        .unwrap()
        .write();
    let mut pipeline = pipeline();
    let Input::Image(image) = &mut pipeline.input else { unreachable!("it takes pictures") };
    (image.width, image.height) = (width, 1);
    Model::load(&pipeline, &onnx).unwrap()
}

/// A model whose inner values take 400 MB.
pub(crate) fn greedy() -> Vec<u8> {
    graph("greedy")
        .initializer_i64("wide", &[4], vec![1, 25_000_000, 2, 2])
        .initializer_f32("w", &[1, LABELS.len()], vec![0.01; LABELS.len()])
        .node(Node::new("Expand", ["x", "wide"], ["many"]))
        .node(Node::new("Exp", ["many"], ["more"]))
        .node(Node::new("ReduceMean", ["more"], ["mean"]).ints("axes", [1, 2, 3]).int("keepdims", 0))
        .initializer_i64("one", &[1], vec![1])
        .node(Node::new("Unsqueeze", ["mean", "one"], ["row"]))
        .node(Node::new("MatMul", ["row", "w"], ["y"]))
        .build()
        .unwrap()
        .write()
}

fn graph(name: &str) -> GraphBuilder {
    GraphBuilder::new(name)
        .input(Value::f32("x", [Dim::from("N"), 1.into(), 2.into(), 2.into()]))
        .output(Value::f32("y", [Dim::from("N"), Dim::from(LABELS.len())]))
}

pub(crate) fn model(label: usize) -> Model {
    Model::load(&pipeline(), &always(label)).unwrap()
}

/// A grey picture.
pub(crate) fn png(width: u32, height: u32) -> Vec<u8> {
    let mut out = std::io::Cursor::new(Vec::new());
    image::GrayImage::new(width, height).write_to(&mut out, image::ImageFormat::Png).unwrap();
    out.into_inner()
}

/// Golden vectors of a model that always answers this label.
pub(crate) fn golden(label: usize) -> Golden {
    make_golden(&mut model(label), [[1, 2, 3, 4], [200, 0, 7, 9]], 1e-4).unwrap()
}

/// Writes a slot as the update does: the signed envelope and the files.
pub(crate) fn write_slot(slot: &Path, onnx: &[u8], golden: &Golden) {
    write_slot_with(slot, onnx, golden, None);
}

/// The same with a baseline.
pub(crate) fn write_slot_with(slot: &Path, onnx: &[u8], golden: &Golden, baseline: Option<Vec<u8>>) {
    let mut files = vec![("model.onnx", onnx.to_vec()), ("golden.cbor", codec::encode(golden))];
    let named = baseline.map(|baseline| {
        files.push(("baseline.cbor", baseline));
        "baseline.cbor".to_owned()
    });
    let manifest = ReleaseManifest {
        format: 1,
        kind: ReleaseKind::Model,
        project: "default".parse().unwrap(),
        model: name("letters"),
        version: 1,
        counter: 1,
        created_at_ms: 0,
        expires_at_ms: None,
        variants: vec![Variant {
            engine: ENGINE_TRACT.into(),
            boards: vec!["small".into()],
            model: "model.onnx".into(),
        }],
        files: files.iter().map(|(name, content)| FileEntry::of(*name, content)).collect(),
        pipeline: pipeline(),
        golden: "golden.cbor".into(),
        metrics: Metrics::default(),
        lineage: Lineage::default(),
        constraints: Constraints::default(),
        agent: None,
        baseline: named,
    };
    std::fs::create_dir_all(slot.join("files")).unwrap();
    for (name, content) in files {
        std::fs::write(slot.join("files").join(name), content).unwrap();
    }
    let key = SigningKey::from_seed(&[7; 32]);
    let envelope = Envelope::seal(EnvelopeKind::Release, &manifest, &[&key]);
    std::fs::write(slot.join("release.cbor"), envelope.to_bytes()).unwrap();
}
