//! Names and the order of nodes: who makes a value, who reads it, and whether everything is made before it is read.
//!
//! A node may hold graphs of its own (the branches of `If`, the body of `Loop`); what these read from outside counts
//! as read by the node.

use std::collections::HashSet;

use tract_onnx::pb::{AttributeProto, GraphProto, NodeProto};

use crate::{Error, Result};

/// The graphs that a node holds.
pub(crate) fn subgraphs(node: &NodeProto) -> impl Iterator<Item = &GraphProto> {
    node.attribute.iter().flat_map(|a: &AttributeProto| a.g.iter().chain(&a.graphs))
}

/// All values that a node reads, those read by its inner graphs from outside included. Names may repeat.
pub(crate) fn reads(node: &NodeProto) -> Vec<&str> {
    let mut names: Vec<&str> =
        node.input.iter().map(String::as_str).filter(|name| !name.is_empty()).collect();
    for graph in subgraphs(node) {
        let made = makes(graph);
        let inner = graph.node.iter().flat_map(reads).chain(graph.output.iter().map(|o| o.name.as_str()));
        names.extend(inner.filter(|name| !made.contains(name)));
    }
    names
}

/// Names of all constants of a graph.
pub(crate) fn constants(graph: &GraphProto) -> impl Iterator<Item = &str> {
    let sparse = graph.sparse_initializer.iter().filter_map(|s| s.values.as_ref());
    graph.initializer.iter().chain(sparse).map(|t| t.name.as_str())
}

/// All values that a graph makes itself: inputs, constants and outputs of its nodes.
pub(crate) fn makes(graph: &GraphProto) -> HashSet<&str> {
    let inputs = graph.input.iter().map(|i| i.name.as_str());
    let outputs = graph.node.iter().flat_map(|n| n.output.iter().map(String::as_str));
    inputs.chain(constants(graph)).chain(outputs).filter(|name| !name.is_empty()).collect()
}

/// Checks that every value has one maker and is made before it is read, and that names are there and unique.
pub(crate) fn check(graph: &GraphProto) -> Result<()> {
    check_within(graph, &HashSet::new())
}

fn check_within(graph: &GraphProto, outer: &HashSet<&str>) -> Result<()> {
    let mut known = outer.clone();
    let mut constant = HashSet::new();
    for name in constants(graph) {
        named("an initialiser", name)?;
        once(&mut constant, name)?;
    }
    let mut inputs = HashSet::new();
    for input in &graph.input {
        named("an input", &input.name)?;
        once(&mut inputs, &input.name)?;
    }
    // An initialiser may also be listed as an input: it is then that input's default.
    known.extend(constant.union(&inputs));
    let mut nodes = HashSet::new();
    for node in &graph.node {
        if !node.name.is_empty() {
            once(&mut nodes, &node.name)?;
        }
        let label = || if node.name.is_empty() { node.op_type.clone() } else { node.name.clone() };
        let direct = node.input.iter().map(String::as_str).filter(|name| !name.is_empty());
        if let Some(value) = direct.into_iter().find(|name| !known.contains(name)) {
            return Err(Error::Undefined { node: label(), value: value.into() });
        }
        for inner in subgraphs(node) {
            check_within(inner, &known)?;
        }
        for output in node.output.iter().filter(|name| !name.is_empty()) {
            once(&mut known, output)?;
        }
    }
    match graph.output.iter().find(|output| !known.contains(output.name.as_str())) {
        Some(output) => Err(Error::Undefined { node: "graph outputs".into(), value: output.name.clone() }),
        None => Ok(()),
    }
}

fn named(what: &'static str, name: &str) -> Result<()> {
    if name.is_empty() { Err(Error::NoName { what }) } else { Ok(()) }
}

fn once<'a>(seen: &mut HashSet<&'a str>, name: &'a str) -> Result<()> {
    if seen.insert(name) { Ok(()) } else { Err(Error::Duplicate { name: name.into() }) }
}
