//! Writing a dense network as ONNX.

use flotilla_onnx::{Dim, GraphBuilder, Node, Value};

use super::network::Layer;
use super::{Aims, Rows};
use crate::export::{ALGORITHM_KEY, CLASSES_KEY, OUTPUT};
use crate::{Error, Result};

/// Name of the input: rows, values.
const INPUT: &str = "row";
/// Name of the output where it is numbers: targets in their own unit, or the row again.
const VALUES: &str = "values";
/// The batch is symbolic: the runtime sets it to what it runs with.
const BATCH: &str = "N";

/// The file of a network for such rows.
pub(crate) fn onnx(layers: &[Layer], rows: &Rows, algorithm: &str) -> Result<Vec<u8>> {
    let (output, classes) = match &rows.aims {
        Aims::Classes { names, .. } => (OUTPUT, Some(names)),
        Aims::Values { .. } | Aims::Themselves => (VALUES, None),
    };
    let mut graph = GraphBuilder::new(algorithm)
        .input(Value::f32(INPUT, [Dim::from(BATCH), rows.width.into()]))
        .output(Value::f32(output, [Dim::from(BATCH), rows.outputs().into()]))
        .metadata(ALGORITHM_KEY, algorithm);
    if let Some(names) = classes {
        graph = graph.metadata(CLASSES_KEY, crate::export::json(names)?);
    }
    let mut last = INPUT.to_owned();
    for (place, layer) in layers.iter().enumerate() {
        let (inputs, outputs) = (layer.inputs(), layer.bias.len());
        let name = format!("dense{place}");
        let (weight, bias) = (format!("{name}.weight"), format!("{name}.bias"));
        // Outputs times inputs, as every other dense layer in the house.
        let turned = (0..inputs * outputs).map(|at| layer.weight[at % inputs * outputs + at / inputs]);
        let sum = match (place + 1 == layers.len(), classes) {
            (true, Some(_)) => "logits".to_owned(),
            (true, None) => output.to_owned(),
            (false, _) => format!("{name}.sum"),
        };
        graph = graph
            .initializer_f32(&weight, &[outputs, inputs], turned.collect())
            .initializer_f32(&bias, &[outputs], layer.bias.clone())
            .node(Node::new("Gemm", [last, weight, bias], [sum.as_str()]).named(&name).int("transB", 1));
        last = sum;
        if place + 1 < layers.len() {
            let out = format!("{name}.out");
            graph = graph.node(Node::new("Relu", [last], [out.as_str()]));
            last = out;
        }
    }
    if classes.is_some() {
        graph = graph.node(Node::new("Softmax", [last], [output]).int("axis", 1));
    }
    Ok(graph.build().map_err(Error::Export)?.write())
}
