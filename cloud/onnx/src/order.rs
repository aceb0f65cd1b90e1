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
    check_within(graph, None)
}

/// The values that are known at one place of a graph, and around it. Graphs within graphs look outwards instead of
/// carrying a copy: there can be as many of them as names.
struct Scope<'a, 'b> {
    own: HashSet<&'a str>,
    outer: Option<&'b Scope<'a, 'b>>,
}

impl<'a> Scope<'a, '_> {
    fn knows(&self, name: &str) -> bool {
        self.own.contains(name) || self.outer.is_some_and(|outer| outer.knows(name))
    }

    fn make(&mut self, name: &'a str) -> Result<()> {
        if self.knows(name) {
            return Err(Error::Duplicate { name: name.into() });
        }
        self.own.insert(name);
        Ok(())
    }
}

fn check_within<'a>(graph: &'a GraphProto, outer: Option<&Scope<'a, '_>>) -> Result<()> {
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
    let mut known = Scope { own: constant.union(&inputs).copied().collect(), outer };
    let mut nodes = HashSet::new();
    for node in &graph.node {
        if !node.name.is_empty() {
            once(&mut nodes, &node.name)?;
        }
        let label = || if node.name.is_empty() { node.op_type.clone() } else { node.name.clone() };
        let direct = node.input.iter().map(String::as_str).filter(|name| !name.is_empty());
        if let Some(value) = direct.into_iter().find(|name| !known.knows(name)) {
            return Err(Error::Undefined { node: label(), value: value.into() });
        }
        for inner in subgraphs(node) {
            check_within(inner, Some(&known))?;
        }
        for output in node.output.iter().filter(|name| !name.is_empty()) {
            known.make(output)?;
        }
    }
    match graph.output.iter().find(|output| !known.knows(&output.name)) {
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
