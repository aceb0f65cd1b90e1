//! Nodes by which a few bytes of file would ask for gigabytes of memory, refused before the engine sees them.

use std::collections::HashMap;

use tract_onnx::pb::{GraphProto, NodeProto, TensorProto};

use super::graph::{is_standard, label};
use crate::{Attributes, Error, Model, Result, Value, order, tensor};

/// The most dimensions of one value. The engine counts up to an axis without asking whether there is one.
const MAX_RANK: i64 = 32;

/// The most elements of one value.
pub const MAX_ELEMENTS: usize = 1 << 27;

/// The most that one size, stride or padding of a window may be.
const MAX_WINDOW: i64 = 1 << 14;

/// Refuses nodes whose constants or attributes ask for values over [`MAX_ELEMENTS`].
pub(super) fn check(model: &Model) -> Result<()> {
    for input in model.inputs() {
        let elements = elements_of(&input);
        if elements > MAX_ELEMENTS {
            return Err(Error::TooManyElements {
                what: format!("input `{}`", input.name),
                limit: MAX_ELEMENTS,
            });
        }
    }
    graph(model.graph())
}

fn elements_of(value: &Value) -> usize {
    let dims = value.dims.iter().flatten();
    dims.map(|dim| if let crate::Dim::Fixed(size) = dim { *size } else { 1 }).fold(1, usize::saturating_mul)
}

fn graph(graph: &GraphProto) -> Result<()> {
    let constants: HashMap<&str, &TensorProto> =
        graph.initializer.iter().map(|t| (t.name.as_str(), t)).collect();
    for node in graph.node.iter().filter(|node| is_standard(node)) {
        if let Some(axis) = axes(node).find(|axis| !(-MAX_RANK..=MAX_RANK).contains(axis)) {
            return Err(Error::Axis { node: label(node), axis });
        }
        if asks_for(node, &constants) > MAX_ELEMENTS || !windows(node) {
            return Err(Error::TooManyElements {
                what: format!("node {}", label(node)),
                limit: MAX_ELEMENTS,
            });
        }
    }
    graph.node.iter().flat_map(order::subgraphs).try_for_each(self::graph)
}

/// Elements that a node's constants say it makes; 1 where they do not say.
fn asks_for(node: &NodeProto, constants: &HashMap<&str, &TensorProto>) -> usize {
    let constant =
        |place: usize| node.input.get(place).and_then(|name| constants.get(name.as_str())).copied();
    let ints = |place: usize| constant(place).and_then(|t| tensor::read_i64(t).ok()).map(|t| t.data);
    let product = |values: Option<Vec<i64>>| {
        let sizes = values.into_iter().flatten().map(|size| usize::try_from(size).unwrap_or(1));
        sizes.fold(1, usize::saturating_mul)
    };
    let size = |place: usize| constant(place).and_then(|t| tensor::elements(t).ok()).unwrap_or(1);
    match node.op_type.as_str() {
        "ConstantOfShape" => product(ints(0)),
        "Expand" => product(ints(1)),
        "Tile" => product(ints(1)).saturating_mul(size(0)),
        "OneHot" => product(ints(1)).saturating_mul(size(0)),
        "Range" => match (ints(0), ints(1), ints(2)) {
            (Some(start), Some(end), Some(step)) => {
                let one = |values: Vec<i64>| i128::from(values.first().copied().unwrap_or(1));
                let (start, end, step) = (one(start), one(end), one(step));
                if step == 0 { usize::MAX } else { usize::try_from((end - start) / step).unwrap_or(0) }
            }
            _ => 1,
        },
        "Pad" => ints(1)
            .into_iter()
            .flatten()
            .map(|pad| usize::try_from(pad).unwrap_or(0))
            .fold(1, usize::saturating_add),
        "Resize" | "Upsample" => {
            let scales = node.input.iter().skip(1).filter_map(|name| constants.get(name.as_str()));
            let scales = scales.filter_map(|t| tensor::read_f32(t).ok()).flat_map(|t| t.data);
            let scale = scales.chain(node.floats("scales").into_iter().flatten().copied()).product::<f32>();
            let sizes = if node.op_type == "Resize" { product(ints(3)) } else { 1 };
            // A float beyond the range becomes its end.
            sizes.max(scale as usize)
        }
        "RandomNormal" | "RandomUniform" => product(node.ints("shape").map(<[i64]>::to_vec)),
        "HannWindow" | "HammingWindow" | "BlackmanWindow" => product(ints(0)),
        "Add" | "Sub" | "Mul" | "Div" | "Pow" | "Equal" | "Less" | "Greater" | "And" | "Or" => {
            match (constant(0), constant(1)) {
                (Some(a), Some(b)) => broadcast(&a.dims, &b.dims),
                _ => 1,
            }
        }
        _ => 1,
    }
}

/// Elements of what two shapes give by broadcasting.
fn broadcast(a: &[i64], b: &[i64]) -> usize {
    let at = |dims: &[i64], from_end: usize| dims.iter().rev().nth(from_end).copied().unwrap_or(1);
    let dims = (0..a.len().max(b.len())).map(|from_end| at(a, from_end).max(at(b, from_end)));
    dims.map(|dim| usize::try_from(dim).unwrap_or(1)).fold(1, usize::saturating_mul)
}

/// Every attribute that names an axis.
fn axes(node: &NodeProto) -> impl Iterator<Item = i64> + '_ {
    let single = ["axis", "batch_dims", "batch_axis", "time_axis"].iter().filter_map(|name| node.int(name));
    single.chain(["axes", "perm"].iter().filter_map(|name| node.ints(name)).flatten().copied())
}

/// Whether sizes, strides and paddings of a window, and numbers of parts, are of this world.
fn windows(node: &NodeProto) -> bool {
    let single = ["num_outputs", "group", "blocksize", "size", "hidden_size", "num_heads", "kv_num_heads"];
    let many = ["kernel_shape", "pads", "strides", "dilations", "output_padding", "output_shape"];
    let many = many.iter().filter_map(|name| node.ints(name)).flatten().copied();
    let mut values = single.iter().filter_map(|name| node.int(name)).chain(many);
    node.op_type == "Pad" || values.all(|value| (-MAX_WINDOW..=MAX_WINDOW).contains(&value))
}
