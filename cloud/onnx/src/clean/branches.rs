//! Branches whose condition is known: the one that is taken stands in the graph, the other is gone.
//!
//! PyTorch writes such an `If` for every `squeeze` of a dimension that it did not know; the engine runs none.

use std::collections::{HashMap, HashSet};

use tract_onnx::pb::{GraphProto, NodeProto, TensorProto};

use super::Changes;
use super::graph::{Names, constants, is, redirect};
use crate::{Attributes, DataType, Model, Node, Result, order};

/// Puts the branch that is taken in the place of each `If` on a constant.
pub(super) fn take(model: &mut Model) -> Result<Changes> {
    if !model.nodes().iter().any(|node| is(node, "If")) {
        return Ok(Changes::default());
    }
    let truths: HashMap<String, bool> = constants(model)
        .into_iter()
        .filter_map(|(name, tensor)| Some((name.to_owned(), truth(tensor)?)))
        .collect();
    let mut names = Names::of(model.graph());
    let graph = model.graph_mut();
    let (mut nodes, mut made, mut count) = (Vec::with_capacity(graph.node.len()), Vec::new(), 0);
    for node in std::mem::take(&mut graph.node) {
        match node.input.first().and_then(|condition| truths.get(condition)) {
            Some(&truth) if is(&node, "If") => {
                let name = if truth { "then_branch" } else { "else_branch" };
                match node.attribute(name).and_then(|a| a.g.clone()) {
                    Some(branch) if branch.output.len() >= node.output.len() => {
                        inline(branch, &node, &mut names, &mut nodes, &mut made);
                        count += 1;
                    }
                    _ => nodes.push(node),
                }
            }
            _ => nodes.push(node),
        }
    }
    graph.node = nodes;
    graph.initializer.extend(made);
    Ok(Changes::counted(count))
}

fn truth(tensor: &TensorProto) -> Option<bool> {
    if tensor.data_type != DataType::Bool as i32 {
        return None;
    }
    let byte = tensor.raw_data.first().map(|&byte| byte != 0);
    byte.or_else(|| tensor.int32_data.first().map(|&value| value != 0))
}

/// The nodes of a branch, with names that nothing else has, and the values that the `If` gave.
fn inline(
    mut branch: GraphProto,
    node: &NodeProto,
    names: &mut Names,
    nodes: &mut Vec<NodeProto>,
    made: &mut Vec<TensorProto>,
) {
    let own: HashSet<String> = order::makes(&branch).into_iter().map(str::to_owned).collect();
    let fresh: HashMap<String, String> =
        own.into_iter().map(|name| (name.clone(), names.fresh(&name))).collect();
    let renamed = |name: &mut String| {
        if let Some(other) = fresh.get(name) {
            name.clone_from(other);
        }
    };
    redirect(&mut branch, &fresh);
    for inner in &mut branch.node {
        inner.output.iter_mut().for_each(renamed);
        inner.name = names.fresh(&inner.name);
    }
    branch.initializer.iter_mut().for_each(|tensor| renamed(&mut tensor.name));
    for (output, from) in node.output.iter().zip(&mut branch.output) {
        renamed(&mut from.name);
        if !output.is_empty() {
            let copy = Node::new("Identity", [from.name.clone()], [output.clone()]);
            branch.node.push(copy.named(names.fresh(output)).into());
        }
    }
    nodes.append(&mut branch.node);
    made.append(&mut branch.initializer);
}
