//! Nodes whose values are known beforehand: small constants computed here, and the shapes that are fixed.
//!
//! What exporters write for "flatten" or "twice as large" are chains of Shape, Gather, Slice, Concat and the like. Constants that
//! are large stay computed: a model whose weights are 8-bit integers with a scale is meant to stay small.

mod operators;
mod value;

use std::collections::{HashMap, HashSet};

use tract_onnx::pb::NodeProto;

use super::Changes;
use super::graph::{constants, is_standard};
use super::shapes::{self, Known};
use crate::{Attributes, Model, Result};
use value::Constant;

/// Elements of a constant that is computed here, and of those it is computed from.
pub(super) const MAX_ELEMENTS: usize = 4096;

/// Puts constants in the place of nodes that always give the same.
pub(super) fn fold(model: &mut Model) -> Result<Changes> {
    let shaped = model.nodes().iter().any(|node| is_standard(node) && is_shape(node));
    let known = if shaped { shapes::infer(model).values } else { HashMap::new() };
    fold_with(model, &known)
}

/// The same without asking the engine for shapes.
pub(super) fn constants_only(model: &mut Model) -> Result<Changes> {
    fold_with(model, &HashMap::new())
}

fn fold_with(model: &mut Model, known: &HashMap<String, Known>) -> Result<Changes> {
    let mut values: HashMap<String, Constant> = HashMap::new();
    for (name, tensor) in constants(model) {
        if let Some(value) = Constant::read(tensor) {
            values.insert(name.to_owned(), value);
        }
    }
    let outputs: HashSet<String> = model.graph().output.iter().map(|output| output.name.clone()).collect();
    let graph = model.graph_mut();
    let mut made = Vec::new();
    graph.node.retain(|node| {
        let [output] = node.output.as_slice() else {
            return true;
        };
        if !is_standard(node) || outputs.contains(output) {
            return true;
        }
        let value = if is_shape(node) {
            node.input
                .first()
                .and_then(|input| known.get(input)?.fixed())
                .and_then(|dims| of_shape(node, &dims))
        } else {
            let inputs: Option<Vec<Option<&Constant>>> = node
                .input
                .iter()
                .map(|name| if name.is_empty() { Some(None) } else { values.get(name).map(Some) })
                .collect();
            inputs.and_then(|inputs| operators::evaluate(node, &inputs))
        };
        match value.filter(|value| value.len() <= MAX_ELEMENTS) {
            Some(value) => {
                made.push(value.write(output));
                values.insert(output.clone(), value);
                false
            }
            None => true,
        }
    });
    let count = made.len() as u64;
    graph.initializer.extend(made);
    Ok(Changes::counted(count))
}

fn is_shape(node: &NodeProto) -> bool {
    matches!(node.op_type.as_str(), "Shape" | "Size")
}

fn of_shape(node: &NodeProto, dims: &[usize]) -> Option<Constant> {
    let dims: Vec<i64> = dims.iter().map(|&dim| i64::try_from(dim).ok()).collect::<Option<_>>()?;
    if node.op_type == "Size" {
        let size = dims.iter().try_fold(1_i64, |all, &dim| all.checked_mul(dim))?;
        return Some(Constant::ints(Vec::new(), vec![size]));
    }
    let rank = i64::try_from(dims.len()).ok()?;
    let bound = |value: i64| if value < 0 { value.saturating_add(rank) } else { value }.clamp(0, rank);
    let start = usize::try_from(bound(node.int("start").unwrap_or(0))).ok()?;
    let end = usize::try_from(bound(node.int("end").unwrap_or(rank))).ok()?;
    let part = dims.get(start..end.max(start))?.to_vec();
    Some(Constant::ints(vec![part.len()], part))
}
