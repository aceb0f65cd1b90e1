//! Constants in one form: initialisers that are no inputs.

use std::collections::{BTreeMap, HashMap, HashSet};

use tract_onnx::pb::{AttributeProto, NodeProto, TensorProto};

use super::Changes;
use super::graph::{is, redirect};
use crate::{
    Attributes, DataType, Error, Model, Result, Tensor, node::raw_attribute, tensor, tensor_f32, tensor_i64,
};

/// Initialisers that are also listed as inputs, as files before version 4 had to, are no inputs any more.
pub(super) fn unlist(model: &mut Model) -> Result<Changes> {
    let constants: HashSet<String> = model.initializers().iter().map(|t| t.name.clone()).collect();
    let graph = model.graph_mut();
    let before = graph.input.len();
    graph.input.retain(|input| !constants.contains(&input.name));
    let count = (before - graph.input.len()) as u64;
    // Of files this old, a reader expects the list.
    if count > 0 {
        model.raise_ir_version(4);
    }
    Ok(Changes::counted(count))
}

/// Inputs that the caller says always have the same value become constants.
pub(super) fn fix(model: &mut Model, fixed: &BTreeMap<String, f64>) -> Result<Changes> {
    for (name, &value) in fixed {
        let input = model.inputs().into_iter().find(|input| input.name == *name);
        let input = input.ok_or_else(|| Error::NoInput { name: name.clone() })?;
        // Exporters give such a value no dimensions, or one of one element.
        let dims: Vec<usize> = input.dims.iter().flatten().map(|_| 1).collect();
        let tensor = match input.data_type {
            Some(DataType::Float) => tensor_f32(name, &Tensor::new(name, dims, vec![value as f32])?),
            Some(DataType::Int64) if value.fract() == 0.0 => {
                tensor_i64(name, &Tensor::new(name, dims, vec![value as i64])?)
            }
            _ => {
                let found = input.to_string();
                return Err(Error::ElementType {
                    tensor: name.clone(),
                    found,
                    expected: "FLOAT, or INT64 for an integer",
                });
            }
        };
        model.graph_mut().input.retain(|input| input.name != *name);
        model.add_initializer(tensor)?;
    }
    Ok(Changes::counted(fixed.len() as u64))
}

/// What `Constant` nodes make stands as initialisers.
pub(super) fn from_nodes(model: &mut Model) -> Result<Changes> {
    let graph = model.graph_mut();
    let outputs: HashSet<String> = graph.output.iter().map(|output| output.name.clone()).collect();
    let mut kept = Vec::with_capacity(graph.node.len());
    let (mut made, mut seen, mut same) = (Vec::new(), HashMap::new(), HashMap::new());
    for node in std::mem::take(&mut graph.node) {
        let name = node.output.first().cloned().unwrap_or_default();
        match value(&node, &name) {
            Some(tensor) if is(&node, "Constant") && !outputs.contains(&name) => {
                tensor::check(&tensor)?;
                // Exporters write the same axis or bound again for every use.
                let key = small(&tensor);
                match key.as_ref().and_then(|key| seen.get(key)) {
                    Some(first) => {
                        same.insert(name, String::clone(first));
                    }
                    None => {
                        if let Some(key) = key {
                            seen.insert(key, name);
                        }
                        made.push(tensor);
                    }
                }
            }
            _ => kept.push(node),
        }
    }
    graph.node = kept;
    let count = (made.len() + same.len()) as u64;
    graph.initializer.extend(made);
    redirect(graph, &same);
    Ok(Changes::counted(count))
}

/// The whole of a small tensor but its name.
fn small(tensor: &TensorProto) -> Option<(i32, Vec<i64>, Vec<u8>)> {
    (!tensor.raw_data.is_empty() && tensor.raw_data.len() <= 256)
        .then(|| (tensor.data_type, tensor.dims.clone(), tensor.raw_data.clone()))
}

fn value(node: &NodeProto, name: &str) -> Option<TensorProto> {
    if let Some(tensor) = node.tensor("value") {
        return Some(TensorProto { name: name.into(), ..canonical(tensor) });
    }
    let float =
        |dims: &[usize], data: Vec<f32>| Tensor::new(name, dims, data).map(|t| tensor_f32(name, &t)).ok();
    let int =
        |dims: &[usize], data: Vec<i64>| Tensor::new(name, dims, data).map(|t| tensor_i64(name, &t)).ok();
    if let Some(value) = node.float("value_float") {
        return float(&[], vec![value]);
    }
    if let Some(values) = node.floats("value_floats") {
        return float(&[values.len()], values.to_vec());
    }
    if let Some(value) = node.int("value_int") {
        return int(&[], vec![value]);
    }
    let values = node.ints("value_ints")?;
    int(&[values.len()], values.to_vec())
}

/// Small integers and floats with their data in the raw form, so that equal ones are seen to be equal.
fn canonical(tensor: &TensorProto) -> TensorProto {
    if !tensor.raw_data.is_empty() || tensor.data_type == DataType::String as i32 {
        return tensor.clone();
    }
    let raw = match DataType::try_from(tensor.data_type) {
        Ok(DataType::Float) => tensor::read_f32(tensor).map(|t| tensor_f32("", &t)),
        Ok(DataType::Int64) => tensor::read_i64(tensor).map(|t| tensor_i64("", &t)),
        _ => return tensor.clone(),
    };
    raw.unwrap_or_else(|_| tensor.clone())
}

/// Takes an attribute out of a node; gives it.
pub(super) fn take(node: &mut NodeProto, name: &str) -> Option<AttributeProto> {
    let place = node.attribute.iter().position(|a| a.name == name)?;
    Some(node.attribute.remove(place))
}

/// Sets an integer attribute of a node.
pub(super) fn set_int(node: &mut NodeProto, name: &str, value: i64) {
    take(node, name);
    node.attribute.push(raw_attribute(name, value));
}
