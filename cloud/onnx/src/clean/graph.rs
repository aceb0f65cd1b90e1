//! What passes need to know of a graph, and changes that several of them make.

use std::collections::{HashMap, HashSet};

use tract_onnx::pb::{GraphProto, NodeProto, TensorProto};

use crate::{Model, is_standard_domain, order};

/// Makes names that nothing in a graph has.
pub(super) struct Names {
    taken: HashSet<String>,
    /// The number that comes next behind a name: graphs can ask for one as often as they have nodes.
    next: HashMap<String, u64>,
}

impl Names {
    pub(super) fn of(graph: &GraphProto) -> Self {
        let mut names = HashSet::new();
        collect(graph, &mut names);
        Self { taken: names, next: HashMap::new() }
    }

    pub(super) fn fresh(&mut self, base: &str) -> String {
        let mut name = base.to_owned();
        if name.is_empty() || self.taken.contains(&name) {
            let number = self.next.entry(name).or_insert(2);
            loop {
                name = format!("{base}_{number}");
                *number += 1;
                if !self.taken.contains(&name) {
                    break;
                }
            }
        }
        self.taken.insert(name.clone());
        name
    }
}

fn collect(graph: &GraphProto, names: &mut HashSet<String>) {
    names.extend(order::makes(graph).into_iter().map(str::to_owned));
    names.extend(graph.output.iter().map(|output| output.name.clone()));
    for node in &graph.node {
        names.insert(node.name.clone());
        names.extend(node.input.iter().cloned());
        order::subgraphs(node).for_each(|inner| collect(inner, names));
    }
}

/// The constants of a graph by name: initialisers that no caller can replace.
pub(super) fn constants(model: &Model) -> HashMap<&str, &TensorProto> {
    let inputs: HashSet<&str> = model.graph().input.iter().map(|input| input.name.as_str()).collect();
    let fixed = model.initializers().iter().filter(|t| !inputs.contains(t.name.as_str()));
    fixed.map(|t| (t.name.as_str(), t)).collect()
}

/// How often each value is read, outputs of the graph included.
pub(super) fn uses(graph: &GraphProto) -> HashMap<&str, usize> {
    let mut uses = HashMap::new();
    for name in graph.node.iter().flat_map(order::reads).chain(graph.output.iter().map(|o| o.name.as_str())) {
        *uses.entry(name).or_insert(0) += 1;
    }
    uses
}

/// Lets every node read other values in the place of some, inner graphs included.
pub(super) fn redirect(graph: &mut GraphProto, to: &HashMap<String, String>) {
    if to.is_empty() {
        return;
    }
    for node in &mut graph.node {
        for input in &mut node.input {
            if let Some(other) = to.get(input.as_str()) {
                input.clone_from(other);
            }
        }
        for inner in node.attribute.iter_mut().flat_map(|a| a.g.iter_mut().chain(&mut a.graphs)) {
            // A value of the same name inside hides the outer one.
            let own: HashSet<String> = order::makes(inner).into_iter().map(str::to_owned).collect();
            let outer: HashMap<String, String> = to
                .iter()
                .filter(|(from, _)| !own.contains(*from))
                .map(|(a, b)| (a.clone(), b.clone()))
                .collect();
            for output in &mut inner.output {
                if let Some(other) = outer.get(&output.name) {
                    output.name.clone_from(other);
                }
            }
            redirect(inner, &outer);
        }
    }
}

/// Whether a node is a standard operator of this name.
pub(super) fn is(node: &NodeProto, op_type: &str) -> bool {
    node.op_type == op_type && is_standard(node)
}

/// Whether a node's operator is one of the standard domain.
pub(super) fn is_standard(node: &NodeProto) -> bool {
    is_standard_domain(&node.domain)
}

/// What messages call a node.
pub(super) fn label(node: &NodeProto) -> String {
    let name = if node.name.is_empty() { node.output.first() } else { Some(&node.name) };
    match name {
        Some(name) => format!("`{name}` ({})", node.op_type),
        None => node.op_type.clone(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_new_however_often_one_is_asked_for() {
        let mut graph = GraphProto::default();
        graph.node.push(NodeProto { name: "axes_3".into(), ..NodeProto::default() });
        let mut names = Names::of(&graph);
        let asked: Vec<String> = (0..4).map(|_| names.fresh("axes")).collect();
        assert_eq!(asked, ["axes", "axes_2", "axes_4", "axes_5"]);
        assert_eq!([names.fresh(""), names.fresh("")], ["_2", "_3"]);
        // Looked for from the beginning each time, this takes minutes.
        let started = std::time::Instant::now();
        (0..200_000).for_each(|_| drop(names.fresh("axes")));
        assert!(started.elapsed() < std::time::Duration::from_secs(30));
    }
}
