//! Nodes that matter in training only, and nodes that do nothing.

use std::collections::{HashMap, HashSet};

use tract_onnx::pb::{NodeProto, TensorProto};

use super::Changes;
use super::constants::take;
use super::graph::{constants, is, label, redirect};
use crate::{Attributes, DataType, Error, Model, Result};

/// Batch normalisation and dropout in the form for inference. A model exported while training is refused: its answers
/// depend on chance or on the batch.
pub(super) fn for_inference(model: &mut Model) -> Result<Changes> {
    let training: HashSet<String> = constants(model)
        .into_iter()
        .filter(|(_, tensor)| is_true(tensor))
        .map(|(name, _)| name.to_owned())
        .chain(model.nodes().iter().filter_map(true_constant))
        .collect();
    let mut changes = Changes::default();
    let graph = model.graph_mut();
    for node in &mut graph.node {
        if is(node, "BatchNormalization") {
            if node.int("training_mode") == Some(1) {
                return Err(Error::Training { node: label(node) });
            }
            if node.int("spatial") == Some(0) {
                return Err(Error::Retired {
                    node: label(node),
                    what: "statistics for every place (`spatial` = 0)",
                });
            }
            changes.count += u64::from(take(node, "spatial").is_some());
            take(node, "momentum");
            if node.output.len() > 1 {
                node.output.truncate(1);
                changes.count += 1;
            }
        } else if is(node, "Dropout") {
            if node.input.get(2).is_some_and(|mode| training.contains(mode)) {
                return Err(Error::Training { node: label(node) });
            }
            let mode_unknown = node.input.get(2).is_some_and(|mode| !mode.is_empty());
            let (inputs, attributes) = (node.input.len(), node.attribute.len());
            node.input.truncate(1);
            node.attribute.clear();
            changes.count += u64::from(inputs > 1 || attributes > 0);
            if mode_unknown {
                changes.notes.push(format!("{} is taken as in inference", label(node)));
            }
        }
    }
    Ok(changes)
}

fn is_true(tensor: &TensorProto) -> bool {
    tensor.data_type == DataType::Bool as i32
        && (tensor.raw_data.first().is_some_and(|&b| b != 0)
            || tensor.int32_data.first().is_some_and(|&v| v != 0))
}

fn true_constant(node: &NodeProto) -> Option<String> {
    let value = node.tensor("value").filter(|_| is(node, "Constant"))?;
    is_true(value).then(|| node.output.first().cloned()).flatten()
}

/// Takes out nodes that give what they get: Identity, Dropout in inference, and casts, transposes, sums and pads that
/// change nothing.
pub(super) fn identities(model: &mut Model) -> Result<Changes> {
    let nothing = Nothing::of(model);
    let graph = model.graph_mut();
    let mut outputs: HashSet<String> = graph.output.iter().map(|output| output.name.clone()).collect();
    let inputs: HashSet<String> = graph.input.iter().map(|input| input.name.clone()).collect();
    let mut makers: HashMap<String, usize> = HashMap::new();
    for (place, node) in graph.node.iter().enumerate() {
        makers.extend(node.output.iter().map(|output| (output.clone(), place)));
    }
    // What to read in the place of a value, followed to the end of a chain.
    let mut instead: HashMap<String, String> = HashMap::new();
    let mut gone = vec![false; graph.node.len()];
    for place in 0..graph.node.len() {
        let node = &graph.node[place];
        if !nothing.does_nothing(node) {
            continue;
        }
        let (Some(input), Some(output)) = (node.input.first().cloned(), node.output.first().cloned()) else {
            continue;
        };
        let input = instead.get(&input).cloned().unwrap_or(input);
        if !outputs.contains(&output) {
            instead.insert(output, input);
            gone[place] = true;
        } else if let Some(&maker) = makers.get(&input)
            && !inputs.contains(&input)
            && !outputs.contains(&input)
            && !gone[maker]
        {
            // The node before gives the output under its name.
            for made in graph.node[maker].output.iter_mut().filter(|made| **made == input) {
                made.clone_from(&output);
            }
            makers.insert(output.clone(), maker);
            outputs.insert(output.clone());
            for target in instead.values_mut().filter(|target| **target == input) {
                target.clone_from(&output);
            }
            instead.insert(input, output);
            gone[place] = true;
        }
    }
    redirect(graph, &instead);
    let count = gone.iter().filter(|&&gone| gone).count() as u64;
    let mut gone = gone.into_iter();
    graph.node.retain(|_| !gone.next().unwrap_or(false));
    Ok(Changes::counted(count))
}

/// What tells that a node does nothing.
struct Nothing {
    /// Constants whose elements are all zero, small ones only.
    zeros: HashSet<String>,
}

impl Nothing {
    fn of(model: &Model) -> Self {
        let zero = |tensor: &TensorProto| {
            let held = !tensor.raw_data.is_empty() || !tensor.int64_data.is_empty();
            held && tensor.data_type == DataType::Int64 as i32
                && tensor.raw_data.iter().all(|&b| b == 0)
                && tensor.int64_data.iter().all(|&v| v == 0)
        };
        let zeros = constants(model).into_iter().filter(|(_, t)| zero(t)).map(|(name, _)| name.to_owned());
        Self { zeros: zeros.collect() }
    }

    fn does_nothing(&self, node: &NodeProto) -> bool {
        if !super::graph::is_standard(node) {
            return false;
        }
        match node.op_type.as_str() {
            "Identity" => true,
            "Dropout" => node.output.get(1).is_none_or(String::is_empty),
            "Transpose" => {
                node.ints("perm").is_some_and(|perm| perm.iter().zip(0..).all(|(&axis, place)| axis == place))
            }
            "Pad" => node.input.get(1).is_some_and(|pads| self.zeros.contains(pads)),
            "Concat" | "Sum" | "Max" | "Min" | "Mean" => node.input.len() == 1,
            _ => false,
        }
    }
}
