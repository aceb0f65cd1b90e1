//! Writing a trained network as ONNX.

use flotilla_onnx::{Dim, GraphBuilder, Node, Value};

use crate::{Error, Result, fold::Folded, plan::Plan};

/// Name of the exported model's input: images, channels, rows, columns.
pub const INPUT: &str = "image";
/// Name of the exported model's output: a probability for each image and class.
pub const OUTPUT: &str = "probabilities";

/// The batch is symbolic: the runtime sets it to what it runs with.
const BATCH: &str = "N";

/// The file. `algorithm` and the class names stand in its metadata.
pub(crate) fn onnx(folded: Folded, plan: &Plan, algorithm: &str, classes: &[String]) -> Result<Vec<u8>> {
    let names = serde_json::to_string(classes).map_err(|_| Error::Engine { what: "the class names" })?;
    let image = [Dim::from(BATCH), plan.channels.into(), plan.height.into(), plan.width.into()];
    let mut graph = GraphBuilder::new(algorithm)
        .input(Value::f32(INPUT, image))
        .output(Value::f32(OUTPUT, [Dim::from(BATCH), plan.classes.into()]))
        .metadata("algorithm", algorithm)
        .metadata("classes", names);
    let mut last = INPUT.to_owned();
    for (place, convolution) in folded.convolutions.into_iter().enumerate() {
        let name = layer_name(place);
        let (weight, bias) = (format!("{name}.weight"), format!("{name}.bias"));
        let (convolved, rectified) = (format!("{name}.sum"), format!("{name}.out"));
        let kernel = convolution.dims[2] as i64;
        let conv = Node::new("Conv", [last.as_str(), &weight, &bias], [convolved.as_str()])
            .named(&name)
            .ints("kernel_shape", [kernel; 2])
            .ints("strides", [convolution.stride as i64; 2])
            .ints("pads", [kernel / 2; 4])
            .int("group", convolution.groups as i64);
        let outputs = convolution.bias.len();
        graph = graph
            .initializer_f32(&weight, &convolution.dims, convolution.weight)
            .initializer_f32(&bias, &[outputs], convolution.bias)
            .node(conv)
            .node(Node::new("Relu", [convolved.as_str()], [rectified.as_str()]));
        last = rectified;
    }
    let model = graph
        .initializer_f32("head.weight", &[plan.classes, plan.features()], folded.head)
        .initializer_f32("head.bias", &[plan.classes], folded.bias)
        .node(Node::new("GlobalAveragePool", [last.as_str()], ["means"]))
        .node(Node::new("Flatten", ["means"], ["features"]).int("axis", 1))
        .node(
            Node::new("Gemm", ["features", "head.weight", "head.bias"], ["logits"])
                .named("head")
                .int("transB", 1),
        )
        .node(Node::new("Softmax", ["logits"], [OUTPUT]).int("axis", 1))
        .build();
    Ok(model.map_err(Error::Export)?.write())
}

/// `stem`, then `block1.depthwise`, `block1.pointwise`, `block2.depthwise` and so on.
fn layer_name(place: usize) -> String {
    match place {
        0 => "stem".into(),
        odd if odd % 2 == 1 => format!("block{}.depthwise", odd / 2 + 1),
        even => format!("block{}.pointwise", even / 2),
    }
}
