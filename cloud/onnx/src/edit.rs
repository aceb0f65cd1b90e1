//! Changing a model: constants, nodes and names.
//!
//! A change may leave the graph unfinished for a moment (a constant taken out before the nodes that make the value
//! anew are put in); [`Model::check_order`] tells whether it is whole again.

pub(crate) mod half;
mod surgery;

use std::collections::HashSet;

use tract_onnx::pb::{GraphProto, NodeProto, TensorProto};

use crate::{Error, Model, Node, Result, order, tensor};

impl Model {
    /// Adds an initialiser under a name that the graph does not use yet.
    pub fn add_initializer(&mut self, tensor: TensorProto) -> Result<()> {
        tensor::check(&tensor)?;
        if tensor.name.is_empty() {
            return Err(Error::NoName { what: "an initialiser" });
        }
        if order::makes(self.graph()).contains(tensor.name.as_str()) {
            return Err(Error::Duplicate { name: tensor.name });
        }
        self.graph_mut().initializer.push(tensor);
        Ok(())
    }

    /// Puts another tensor in the place of the initialiser of the same name; gives the old one.
    pub fn replace_initializer(&mut self, tensor: TensorProto) -> Result<TensorProto> {
        tensor::check(&tensor)?;
        match self.graph_mut().initializer.iter_mut().find(|t| t.name == tensor.name) {
            Some(place) => Ok(std::mem::replace(place, tensor)),
            None => Err(Error::NoTensor { name: tensor.name }),
        }
    }

    /// Takes an initialiser out, and the input of which it is the default.
    pub fn remove_initializer(&mut self, name: &str) -> Result<TensorProto> {
        let graph = self.graph_mut();
        let place = graph.initializer.iter().position(|t| t.name == name);
        let place = place.ok_or_else(|| Error::NoTensor { name: name.into() })?;
        graph.input.retain(|input| input.name != name);
        Ok(graph.initializer.remove(place))
    }

    /// Takes out every initialiser that nothing reads; gives how many.
    pub fn remove_unused_initializers(&mut self) -> usize {
        let graph = self.graph();
        let outputs = graph.output.iter().map(|output| output.name.as_str());
        let read: HashSet<String> =
            graph.node.iter().flat_map(order::reads).chain(outputs).map(str::to_owned).collect();
        let graph = self.graph_mut();
        let unused: HashSet<String> =
            graph.initializer.iter().map(|t| t.name.clone()).filter(|name| !read.contains(name)).collect();
        graph.initializer.retain(|t| !unused.contains(&t.name));
        graph.input.retain(|input| !unused.contains(&input.name));
        unused.len()
    }

    /// Puts nodes before the node that stands at `place`; the number of nodes is the end.
    pub fn insert_nodes(&mut self, place: usize, nodes: impl IntoIterator<Item = Node>) -> Result<()> {
        let count = self.nodes().len();
        if place > count {
            return Err(Error::Place { index: place, nodes: count });
        }
        let nodes: Vec<NodeProto> = nodes.into_iter().map(NodeProto::from).collect();
        let mut made: HashSet<&str> = order::makes(self.graph());
        let taken = nodes.iter().flat_map(|n| &n.output).find(|output| !made.insert(output));
        if let Some(name) = taken {
            return Err(Error::Duplicate { name: name.clone() });
        }
        self.graph_mut().node.splice(place..place, nodes);
        Ok(())
    }

    /// Takes out the node that stands at `place`.
    pub fn remove_node(&mut self, place: usize) -> Result<NodeProto> {
        let nodes = self.nodes().len();
        if place >= nodes {
            return Err(Error::Place { index: place, nodes });
        }
        Ok(self.graph_mut().node.remove(place))
    }

    /// Gives a value another name wherever it is made or read; gives whether there was one.
    pub fn rename(&mut self, from: &str, to: &str) -> Result<bool> {
        if to.is_empty() {
            return Err(Error::NoName { what: "a value" });
        }
        if from == to {
            return Ok(order::makes(self.graph()).contains(from));
        }
        if all_names(self.graph()).contains(to) {
            return Err(Error::Duplicate { name: to.into() });
        }
        Ok(rename_in(self.graph_mut(), from, to))
    }

    /// A name, starting with `base`, that nothing in the graph has.
    #[must_use]
    pub fn fresh_name(&self, base: &str) -> String {
        let taken = all_names(self.graph());
        let numbered = (2_u64..).map(|n| format!("{base}_{n}"));
        std::iter::once(base.to_owned())
            .chain(numbered)
            .find(|name| !name.is_empty() && !taken.contains(name.as_str()))
            .unwrap_or_default()
    }
}

/// Every name of a value or node, inner graphs included.
fn all_names(graph: &GraphProto) -> HashSet<&str> {
    let mut names = order::makes(graph);
    names.extend(graph.output.iter().map(|output| output.name.as_str()));
    for node in &graph.node {
        names.insert(&node.name);
        names.extend(node.input.iter().map(String::as_str));
        for inner in order::subgraphs(node) {
            names.extend(all_names(inner));
        }
    }
    names
}

fn rename_in(graph: &mut GraphProto, from: &str, to: &str) -> bool {
    let mut found = false;
    {
        let mut change = |name: &mut String| {
            if name == from {
                to.clone_into(name);
                found = true;
            }
        };
        let values = graph.input.iter_mut().chain(&mut graph.output).chain(&mut graph.value_info);
        values.for_each(|value| change(&mut value.name));
        graph.initializer.iter_mut().for_each(|t| change(&mut t.name));
        let sparse = graph.sparse_initializer.iter_mut().filter_map(|s| s.values.as_mut());
        sparse.for_each(|t| change(&mut t.name));
        for node in &mut graph.node {
            node.input.iter_mut().chain(&mut node.output).for_each(&mut change);
        }
        for annotation in &mut graph.quantization_annotation {
            annotation.tensor_name.iter_mut().for_each(&mut change);
        }
    }
    for attribute in graph.node.iter_mut().flat_map(|node| &mut node.attribute) {
        for inner in attribute.g.iter_mut().chain(&mut attribute.graphs) {
            // A value of the same name inside hides the outer one.
            if !order::makes(inner).contains(from) {
                found |= rename_in(inner, from, to);
            }
        }
    }
    found
}
