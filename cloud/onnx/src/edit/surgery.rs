//! Changes to the graph as a whole: other readers, other outputs, and what only people read taken out.

use std::collections::{HashMap, HashSet};

use tract_onnx::pb::{NodeProto, OperatorSetIdProto, TensorProto, ValueInfoProto};

use super::{all_names, rename_in};
use crate::{DataType, Error, Model, Node, Result, Value, order};

impl Model {
    /// Puts another node in the place of the one that stands at `place`; gives the old one.
    pub fn replace_node(&mut self, place: usize, node: Node) -> Result<NodeProto> {
        let nodes = self.nodes().len();
        match self.graph_mut().node.get_mut(place) {
            Some(old) => Ok(std::mem::replace(old, node.into())),
            None => Err(Error::Place { index: place, nodes }),
        }
    }

    /// Says that the file uses at least this version of an operator set.
    pub fn require_opset(&mut self, domain: &str, version: i64) {
        let sets = &mut self.proto_mut().opset_import;
        match sets.iter_mut().find(|set| set.domain == domain) {
            Some(set) => set.version = set.version.max(version),
            None => sets.push(OperatorSetIdProto { domain: domain.into(), version }),
        }
    }

    /// Lifts the version of the file format to at least this.
    pub fn require_ir_version(&mut self, version: i64) {
        let ir_version = &mut self.proto_mut().ir_version;
        *ir_version = (*ir_version).max(version);
    }

    /// Makes these values the graph's only outputs, and takes out the nodes and constants that they do not need: a model
    /// to look into another with. They hold 32-bit floats of any shape.
    pub fn expose(&mut self, values: &[&str]) -> Result<()> {
        let made = order::makes(self.graph());
        if let Some(value) = values.iter().find(|value| !made.contains(*value)) {
            return Err(Error::Undefined { node: "graph outputs".into(), value: (*value).into() });
        }
        let output = |name: &&str| {
            let value = Value { name: (*name).into(), data_type: Some(DataType::Float), dims: None };
            ValueInfoProto::from(value)
        };
        self.graph_mut().output = values.iter().map(output).collect();
        self.remove_unread_nodes();
        self.remove_unused_initializers();
        Ok(())
    }

    /// Takes out every node whose outputs nothing reads; gives how many.
    pub fn remove_unread_nodes(&mut self) -> usize {
        let graph = self.graph();
        let mut read: HashSet<String> = graph.output.iter().map(|output| output.name.clone()).collect();
        let mut keep = vec![false; graph.node.len()];
        for (place, node) in graph.node.iter().enumerate().rev() {
            if node.output.iter().any(|output| read.contains(output)) {
                keep[place] = true;
                read.extend(order::reads(node).into_iter().map(str::to_owned));
            }
        }
        let mut kept = keep.iter();
        self.graph_mut().node.retain(|_| kept.next().copied().unwrap_or(true));
        keep.iter().filter(|keep| !**keep).count()
    }

    /// Takes out notes on nodes and tensors and the declared shapes of inner values, which engines infer; `everywhere`
    /// also those on the model, the graph, its inputs and outputs.
    pub fn strip_notes(&mut self, everywhere: bool) {
        if everywhere {
            self.proto_mut().doc_string.clear();
        }
        let graph = self.graph_mut();
        graph.value_info.clear();
        graph.initializer.iter_mut().for_each(|tensor| tensor.doc_string.clear());
        graph.node.iter_mut().for_each(|node| node.doc_string.clear());
        if everywhere {
            graph.doc_string.clear();
            graph.quantization_annotation.clear();
            graph.input.iter_mut().chain(&mut graph.output).for_each(|value| value.doc_string.clear());
        }
    }

    /// Keeps one of each set of equal initialisers; gives how many went.
    pub fn share_initializers(&mut self) -> usize {
        let outputs: HashSet<String> = self.graph().output.iter().map(|o| o.name.clone()).collect();
        let inputs: HashSet<String> = self.graph().input.iter().map(|i| i.name.clone()).collect();
        let mut first: HashMap<Content, String> = HashMap::new();
        let mut twins: Vec<(String, String)> = Vec::new();
        for tensor in self.initializers() {
            if outputs.contains(&tensor.name) || inputs.contains(&tensor.name) {
                continue;
            }
            match first.get(&Content::of(tensor)) {
                Some(name) => twins.push((tensor.name.clone(), name.clone())),
                None => drop(first.insert(Content::of(tensor), tensor.name.clone())),
            }
        }
        let gone: HashSet<&str> = twins.iter().map(|(twin, _)| twin.as_str()).collect();
        self.graph_mut().initializer.retain(|tensor| !gone.contains(tensor.name.as_str()));
        for (twin, name) in &twins {
            rename_in(self.graph_mut(), twin, name);
        }
        twins.len()
    }

    /// Gives every inner value and constant a short name, and nodes none: in small models names take more room than
    /// nodes do. Inputs and outputs keep theirs. A graph with inner graphs stays as it is.
    pub fn shorten_names(&mut self) {
        if self.nodes().iter().any(|node| order::subgraphs(node).next().is_some()) {
            return;
        }
        let graph = self.graph();
        let kept = graph.input.iter().chain(&graph.output).map(|value| value.name.clone());
        let kept: HashSet<String> = kept.collect();
        let taken: HashSet<&str> = all_names(graph);
        let taken: HashSet<String> =
            taken.into_iter().filter(|n| kept.contains(*n)).map(str::to_owned).collect();
        let made = graph.node.iter().flat_map(|node| &node.output);
        let named = graph.initializer.iter().map(|t| &t.name).chain(made);
        let mut names: HashMap<String, String> = HashMap::new();
        let mut fresh = (0_usize..).map(short).filter(|name| !taken.contains(name));
        for name in named.filter(|name| !name.is_empty() && !kept.contains(*name)) {
            if !names.contains_key(name) {
                names.extend(fresh.next().map(|short| (name.clone(), short)));
            }
        }
        let graph = self.graph_mut();
        let change = |name: &mut String| {
            if let Some(short) = names.get(name) {
                name.clone_from(short);
            }
        };
        graph.initializer.iter_mut().for_each(|tensor| change(&mut tensor.name));
        graph.value_info.iter_mut().for_each(|value| change(&mut value.name));
        for node in &mut graph.node {
            node.input.iter_mut().chain(&mut node.output).for_each(change);
            node.name.clear();
            // The tensor of a `Constant` needs no name.
            node.attribute.iter_mut().filter_map(|a| a.t.as_mut()).for_each(|tensor| tensor.name.clear());
        }
    }
}

/// What makes two tensors the same.
#[derive(PartialEq, Eq, Hash)]
struct Content(Vec<u8>);

impl Content {
    fn of(tensor: &TensorProto) -> Self {
        use prost::Message;
        let bare = TensorProto { name: String::new(), doc_string: String::new(), ..tensor.clone() };
        Self(bare.encode_to_vec())
    }
}

/// Names of one letter, then of two, and so on.
fn short(mut number: usize) -> String {
    let mut name = Vec::new();
    loop {
        name.push(b"abcdefghijklmnopqrstuvwxyz"[number % 26]);
        if number < 26 {
            break;
        }
        number = number / 26 - 1;
    }
    name.reverse();
    name.into_iter().map(char::from).collect()
}

#[cfg(test)]
mod tests;
