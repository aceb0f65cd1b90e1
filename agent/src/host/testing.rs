//! A host with a tiny model, for the tests of those who work with one.

use super::ModelHost;
use crate::hard::HardExamples;
use flotilla_onnx::{Dim, GraphBuilder, Node, Value};
use flotilla_protocol::message::SlotName;
use flotilla_protocol::pipeline::{
    Activation, Classification, Colour, ImageInput, Input, Layout, Output, Resize,
};
use flotilla_protocol::{Digest, Pipeline};
use flotilla_runtime::Model;
use std::sync::atomic::Ordering;

/// A host on which `letters` serves: pictures of 2 x 2 grey pixels, always the label `a`.
pub(crate) fn host(release: Digest, hard: HardExamples) -> ModelHost {
    let host = ModelHost::new().with_hard_examples(hard).with_threads(2);
    install(&host, release);
    host
}

/// Lets the same model serve as this release.
#[expect(clippy::unwrap_used, reason = "tests fail by panicking")]
pub(crate) fn install(host: &ModelHost, release: Digest) {
    host.install("letters".parse().unwrap(), release, SlotName::A, model()).unwrap();
}

/// Predictions of `letters` that run or wait.
pub(crate) fn admitted(host: &ModelHost) -> usize {
    host.read().values().map(|serving| serving.lifetime.admitted.load(Ordering::Acquire)).sum()
}

#[expect(clippy::unwrap_used, reason = "tests fail by panicking")]
fn model() -> Model {
    let onnx = GraphBuilder::new("always")
        .input(Value::f32("x", [Dim::from("N"), 1.into(), 2.into(), 2.into()]))
        .output(Value::f32("y", [Dim::from("N"), Dim::from(2)]))
        .initializer_f32("w", &[4, 2], vec![0.01; 8])
        .initializer_f32("b", &[2], vec![10.0, 0.0])
        .node(Node::new("Flatten", ["x"], ["flat"]).int("axis", 1))
        .node(Node::new("Gemm", ["flat", "w", "b"], ["y"]))
        .build()
        .unwrap()
        .write();
    let pipeline = Pipeline::new(
        Input::Image(ImageInput {
            width: 2,
            height: 2,
            colour: Colour::Grey,
            resize: Resize::Stretch,
            layout: Layout::Nchw,
            mean: vec![0.0],
            std: vec![1.0],
            ..ImageInput::none()
        }),
        Output::Classification(Classification::new(
            ["a", "b"].map(ToOwned::to_owned).to_vec(),
            Activation::Softmax,
        )),
    );
    Model::load(&pipeline, &onnx).unwrap()
}
