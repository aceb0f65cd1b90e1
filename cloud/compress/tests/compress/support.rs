//! Models, samples and ways to run them.

use std::ops::ControlFlow;
use std::path::PathBuf;

use flotilla_compress::{Budget, Compressed, Error, Evaluate, Options, Progress, RuntimeEvaluator, compress};
use flotilla_onnx::{Dim, GraphBuilder, Model, Node, Value};
use flotilla_protocol::Pipeline;
use flotilla_protocol::pipeline::{
    Activation, Classification, Colour, ImageInput, Input, Layout, Output, Resize,
};
use flotilla_runtime::engine::Engine;

/// Rows and columns of the small pictures.
pub(crate) const SIDE: usize = 16;

/// Numbers that look random and are the same everywhere.
pub(crate) struct Noise(pub(crate) u64);

impl Noise {
    pub(crate) fn bits(&mut self) -> u64 {
        // splitmix64
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// Between -1 and 1.
    pub(crate) fn value(&mut self) -> f32 {
        (self.bits() >> 40) as f32 / (1 << 23) as f32 - 1.0
    }

    pub(crate) fn values(&mut self, count: usize) -> Vec<f32> {
        (0..count).map(|_| self.value()).collect()
    }
}

/// A grey picture of this many pixels a side, 0 to 1, to so many labels.
pub(crate) fn pipeline(labels: usize) -> Pipeline {
    Pipeline::new(
        Input::Image(ImageInput {
            width: SIDE as u32,
            height: SIDE as u32,
            colour: Colour::Grey,
            resize: Resize::Exact,
            layout: Layout::Nchw,
            mean: vec![0.0],
            std: vec![1.0],
            ..ImageInput::none()
        }),
        Output::Classification(Classification::new(
            (0..labels).map(|label| label.to_string()).collect(),
            Activation::Softmax,
        )),
    )
}

/// Pictures that are bright on the left (label 0) or on the right (label 1).
pub(crate) fn pictures(count: usize) -> (Vec<Vec<u8>>, Vec<usize>) {
    let mut noise = Noise(7);
    let labels: Vec<usize> = (0..count).map(|i| i % 2).collect();
    let picture = |&label: &usize| {
        let bright = |place: usize| usize::from(place % SIDE >= SIDE / 2) == label;
        (0..SIDE * SIDE)
            .map(|place| if bright(place) { 160 } else { 20 } + (noise.bits() % 64) as u8)
            .collect()
    };
    (labels.iter().map(picture).collect(), labels)
}

/// A graph over small pictures, with a batch that the caller decides.
pub(crate) fn graph(name: &str, outputs: usize) -> GraphBuilder {
    let dims = [Dim::from("N"), Dim::from(1), Dim::from(SIDE), Dim::from(SIDE)];
    GraphBuilder::new(name)
        .input(Value::f32("image", dims))
        .output(Value::f32("logits", [Dim::from("N"), Dim::from(outputs)]))
}

/// Tells left from right by three layers. `sums` is harmless in int8. `mix` is not: each of its channels has a huge
/// weight for a feature that is always zero, and the small weights that matter round to nothing beside it.
pub(crate) fn fragile() -> Model {
    let mut noise = Noise(1);
    let mut sums = vec![0.0; 16 * SIDE * SIDE];
    for (place, weight) in sums.iter_mut().enumerate().skip(SIDE * SIDE) {
        let (row, column) = (place / (SIDE * SIDE), place % SIDE);
        let half = usize::from(column >= SIDE / 2);
        *weight = if half == row % 2 { 0.02 + 0.005 * noise.value() } else { 0.001 * noise.value() };
    }
    let mix = (0..256).map(|place| match (place / 16, place % 16) {
        (_, 0) => 1000.0,
        (row, column) if row % 2 == column % 2 => 0.1 + 0.01 * noise.value(),
        _ => 0.01 * noise.value(),
    });
    let mix: Vec<f32> = mix.collect();
    let pick: Vec<f32> = (0..32).map(|place| f32::from(place / 16 == place % 2)).collect();
    graph("fragile", 2)
        .initializer_f32("sums", &[16, SIDE * SIDE], sums)
        .initializer_f32("sums_bias", &[16], vec![0.0; 16])
        .initializer_f32("mix", &[16, 16], mix)
        .initializer_f32("pick", &[2, 16], pick)
        .node(Node::new("Flatten", ["image"], ["pixels"]).int("axis", 1))
        .node(Node::new("Gemm", ["pixels", "sums", "sums_bias"], ["s"]).int("transB", 1).named("sum"))
        .node(Node::new("Relu", ["s"], ["r"]))
        .node(Node::new("Gemm", ["r", "mix"], ["m"]).int("transB", 1))
        .node(Node::new("Gemm", ["m", "pick"], ["logits"]).int("transB", 1))
        .build()
        .unwrap()
}

/// Every form in which a weight is read: convolutions plain and depthwise, matrix products with the weight on either
/// side, transposed and not, one weight read twice, and one that a `Constant` node makes.
pub(crate) fn every_form() -> Model {
    let mut noise = Noise(3);
    let mut small = |count: usize| noise.values(count).into_iter().map(|v| v * 0.4).collect::<Vec<f32>>();
    let constant = flotilla_onnx::Tensor::new("c", [32, 32], small(1024)).unwrap();
    graph("every_form", 10)
        .initializer_f32("conv", &[32, 1, 3, 3], small(288))
        .initializer_f32("conv_bias", &[32], small(32))
        .initializer_f32("depthwise", &[32, 1, 5, 5], small(800))
        .initializer_f32("left", &[16, 16], small(256))
        .initializer_f32("shared", &[32, 32], small(1024))
        .initializer_f32("rows", &[48, 32], small(1536))
        .initializer_f32("columns", &[48, 10], small(480))
        .initializer_f32("tiny", &[10], vec![0.001; 10])
        .node(Node::new("Conv", ["image", "conv", "conv_bias"], ["c1"]).ints("pads", [1, 1, 1, 1]))
        .node(Node::new("Relu", ["c1"], ["r1"]))
        .node(
            Node::new("Conv", ["r1", "depthwise"], ["c2"])
                .int("group", 32)
                .ints("pads", [2, 2, 2, 2])
                .ints("kernel_shape", [5, 5]),
        )
        .node(Node::new("MatMul", ["left", "c2"], ["l"]))
        .node(Node::new("GlobalAveragePool", ["l"], ["p"]))
        .node(Node::new("Flatten", ["p"], ["f"]).int("axis", 1))
        .node(Node::new("MatMul", ["f", "shared"], ["f1"]))
        .node(Node::new("Tanh", ["f1"], ["t1"]))
        .node(Node::new("MatMul", ["t1", "shared"], ["f2"]))
        .node(
            Node::new("Constant", [""; 0], ["made"])
                .tensor("value", flotilla_onnx::tensor_f32("made", &constant)),
        )
        .node(Node::new("MatMul", ["f2", "made"], ["f3"]))
        .node(Node::new("Gemm", ["f3", "rows"], ["g"]).int("transB", 1))
        .node(Node::new("Gemm", ["g", "columns", "tiny"], ["logits"]))
        .build()
        .unwrap()
}

/// What a model makes of one tensor.
pub(crate) fn run(onnx: &[u8], shape: &[usize], input: &[f32]) -> Vec<f32> {
    Engine::load_plain(onnx, shape).unwrap().run_plain(input).unwrap()
}

/// The largest difference, by the largest magnitude.
pub(crate) fn difference(expected: &[f32], found: &[f32]) -> f32 {
    assert_eq!(expected.len(), found.len());
    let largest = expected.iter().fold(f32::MIN_POSITIVE, |all, v| all.max(v.abs()));
    expected.iter().zip(found).fold(0.0_f32, |all, (a, b)| all.max((a - b).abs())) / largest
}

/// Compresses the fragile model, measured on 40 pictures.
pub(crate) fn squeeze(options: &Options, budget: &Budget) -> Result<Compressed, Error> {
    let pipeline = pipeline(2);
    let (samples, labels) = pictures(40);
    let mut evaluator = RuntimeEvaluator::new(&pipeline, samples, labels).unwrap();
    quietly(&fragile().write(), options, budget, &mut evaluator)
}

/// Compresses with nobody watching.
pub(crate) fn quietly(
    onnx: &[u8],
    options: &Options,
    budget: &Budget,
    evaluator: &mut dyn Evaluate,
) -> Result<Compressed, Error> {
    compress(onnx, options, budget, evaluator, &mut |_: Progress| ControlFlow::Continue(()))
}

/// The folder with large test data; none where there is no such folder, which CI does not accept.
pub(crate) fn test_data() -> Option<PathBuf> {
    let folder = std::env::var_os("FLOTILLA_TEST_DATA").map(PathBuf::from);
    if folder.is_none() {
        assert!(std::env::var("CI").as_deref() != Ok("true"), "CI sets FLOTILLA_TEST_DATA");
        println!("skipped: FLOTILLA_TEST_DATA is not set");
    }
    folder
}
