//! Writing a trained network as ONNX.

use std::collections::BTreeMap;

use flotilla_onnx::{Dim, GraphBuilder, Model, Node, Value};
use serde::{Deserialize, Serialize};

use crate::fold::{Convolution, Folded};
use crate::plan::{NetworkPlan, Stage};
use crate::rounding::Range;
use crate::wiring::{UnitPlan, Wiring};
use crate::{Error, Result};

/// Name of the exported model's input: images, channels, rows, columns.
pub const INPUT: &str = "image";
/// Name of the exported model's output: a probability for each image and class.
pub const OUTPUT: &str = "probabilities";
/// Metadata: the network's plan, from which it can be read back.
pub const NETWORK_KEY: &str = "flotilla.network";
/// Metadata: the smallest and the largest number of each value that the network was trained to hold in 8 bits.
pub const ACTIVATIONS_KEY: &str = "flotilla.activations";
/// Metadata: what the network was trained with.
pub(crate) const ALGORITHM_KEY: &str = "algorithm";
/// Metadata: names of the classes.
pub(crate) const CLASSES_KEY: &str = "classes";
/// Version of [`Note`].
pub(crate) const NOTE_FORMAT: u16 = 1;

/// The batch is symbolic: the runtime sets it to what it runs with.
const BATCH: &str = "N";

/// What stands under [`NETWORK_KEY`].
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Note {
    pub(crate) format: u16,
    pub(crate) network: NetworkPlan,
}

/// What a file says beside its graph.
#[derive(Clone, Copy)]
pub(crate) struct Notes<'a> {
    pub(crate) algorithm: &'a str,
    pub(crate) classes: &'a [String],
    /// Ranges of all values, where they are to be kept.
    pub(crate) ranges: Option<&'a [Range]>,
}

/// The file.
pub(crate) fn onnx(folded: &Folded, plan: &NetworkPlan, notes: Notes) -> Result<Vec<u8>> {
    Ok(model(folded, plan, notes)?.write())
}

/// The file before it is written.
pub(crate) fn model(folded: &Folded, plan: &NetworkPlan, notes: Notes) -> Result<Model> {
    let wiring = Wiring::new(plan);
    let image = [Dim::from(BATCH), plan.channels.into(), plan.height.into(), plan.width.into()];
    let mut graph = GraphBuilder::new(notes.algorithm)
        .input(Value::f32(INPUT, image))
        .output(Value::f32(OUTPUT, [Dim::from(BATCH), plan.classes.into()]))
        .metadata(ALGORITHM_KEY, notes.algorithm)
        .metadata(CLASSES_KEY, json(&notes.classes)?)
        .metadata(NETWORK_KEY, json(&Note { format: NOTE_FORMAT, network: plan.clone() })?);
    if let Some(ranges) = notes.ranges {
        let ranges = wiring.values.iter().zip(ranges).map(|(name, range)| (name, [range.low, range.high]));
        graph = graph.metadata(ACTIVATIONS_KEY, json(&ranges.collect::<BTreeMap<_, _>>())?);
    }
    let mut units = wiring.units.iter().zip(&folded.convolutions);
    let mut last = INPUT.to_owned();
    for (place, stage) in plan.stages.iter().enumerate() {
        let mut next = |graph: GraphBuilder, from: &str| {
            let (unit, convolution) = units.next().ok_or(Error::Engine { what: "a network" })?;
            Ok::<_, Error>((layer(graph, unit, convolution, from), unit.value()))
        };
        (graph, last) = match stage {
            Stage::Conv { .. } => next(graph, &last)?,
            Stage::Separable { .. } => {
                let (graph, spread) = next(graph, &last)?;
                next(graph, &spread)?
            }
            Stage::Residual { projection, .. } => {
                let (graph, inner) = next(graph, &last)?;
                let (graph, inner) = next(graph, &inner)?;
                let (graph, around) = if *projection { next(graph, &last)? } else { (graph, last) };
                let (sum, out) = (format!("block{place}.sum"), format!("block{place}.out"));
                let add = Node::new("Add", [inner, around], [sum.as_str()]);
                (graph.node(add).node(Node::new("Relu", [sum], [out.as_str()])), out)
            }
        };
    }
    let model = graph
        .initializer_f32("head.weight", &[plan.classes, plan.features()], folded.head.clone())
        .initializer_f32("head.bias", &[plan.classes], folded.bias.clone())
        .node(Node::new("GlobalAveragePool", [last.as_str()], ["means"]))
        .node(Node::new("Flatten", ["means"], ["features"]).int("axis", 1))
        .node(
            Node::new("Gemm", ["features", "head.weight", "head.bias"], ["logits"])
                .named("head")
                .int("transB", 1),
        )
        .node(Node::new("Softmax", ["logits"], [OUTPUT]).int("axis", 1))
        .build();
    model.map_err(Error::Export)
}

fn layer(graph: GraphBuilder, unit: &UnitPlan, convolution: &Convolution, from: &str) -> GraphBuilder {
    let name = &unit.name;
    let (weight, bias, sum) = (format!("{name}.weight"), format!("{name}.bias"), format!("{name}.sum"));
    let kernel = convolution.dims[2] as i64;
    let conv = Node::new("Conv", [from, &weight, &bias], [sum.as_str()])
        .named(name)
        .ints("kernel_shape", [kernel; 2])
        .ints("strides", [convolution.stride as i64; 2])
        .ints("pads", [kernel / 2; 4])
        .int("group", convolution.groups as i64);
    let outputs = convolution.bias.len();
    let graph = graph
        .initializer_f32(&weight, &convolution.dims, convolution.weight.clone())
        .initializer_f32(&bias, &[outputs], convolution.bias.clone())
        .node(conv);
    if unit.rectified { graph.node(Node::new("Relu", [sum], [unit.value()])) } else { graph }
}

pub(crate) fn json(value: &impl Serialize) -> Result<String> {
    serde_json::to_string(value).map_err(|_| Error::Engine { what: "the metadata" })
}
