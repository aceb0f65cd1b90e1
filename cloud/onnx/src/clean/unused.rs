//! What no output needs: nodes, constants, and notes of exporters on inner values.

use std::collections::HashSet;

use super::Changes;
use crate::{Model, Result, order};

/// Takes out nodes whose values no output needs, then constants that nothing reads. Inputs stay: the caller gives them.
pub(super) fn remove(model: &mut Model) -> Result<Changes> {
    let graph = model.graph_mut();
    // Shapes of inner values are inferred anew by every reader, and what exporters write is often wrong.
    graph.value_info.clear();
    let mut needed: HashSet<String> = graph.output.iter().map(|output| output.name.clone()).collect();
    let mut keep = vec![false; graph.node.len()];
    for (place, node) in graph.node.iter().enumerate().rev() {
        if node.output.iter().any(|output| needed.contains(output)) {
            keep[place] = true;
            needed.extend(order::reads(node).into_iter().map(str::to_owned));
        }
    }
    let before = graph.node.len() + graph.initializer.len() + graph.sparse_initializer.len();
    let mut place = keep.into_iter();
    graph.node.retain(|_| place.next().unwrap_or(true));
    graph.initializer.retain(|t| needed.contains(&t.name));
    graph.sparse_initializer.retain(|s| s.values.as_ref().is_some_and(|t| needed.contains(&t.name)));
    // Outputs that a node could give and nobody reads, as the mask of a Dropout, are not asked for.
    for node in &mut graph.node {
        while node.output.len() > 1 && node.output.last().is_some_and(|o| o.is_empty() || !needed.contains(o))
        {
            node.output.pop();
        }
    }
    let after = graph.node.len() + graph.initializer.len() + graph.sparse_initializer.len();
    Ok(Changes::counted((before - after) as u64))
}
