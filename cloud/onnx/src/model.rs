//! A model in memory: reading it from untrusted bytes, asking about it, writing it back.

use std::collections::HashSet;

use prost::Message;
use tract_onnx::pb::{
    GraphProto, ModelProto, NodeProto, StringStringEntryProto, TensorProto, tensor_proto::DataType,
};

use crate::{
    Attributes, Error, MAX_DECODED_BYTES, MAX_MODEL_BYTES, Result, Tensor, Value, is_standard_domain, order,
    tensor, wire,
};

/// A model in memory. It always has a graph, and the data of all its constants fit their dimensions.
#[derive(Clone, PartialEq)]
pub struct Model {
    proto: ModelProto,
    graph: GraphProto,
}

impl Model {
    /// Reads a file of at most [`MAX_MODEL_BYTES`].
    pub fn read(bytes: &[u8]) -> Result<Self> {
        Self::read_within(bytes, MAX_MODEL_BYTES)
    }

    /// Reads a file of at most `limit` bytes.
    pub fn read_within(bytes: &[u8], limit: usize) -> Result<Self> {
        if bytes.len() > limit {
            return Err(Error::TooLarge { bytes: bytes.len(), limit });
        }
        wire::check_memory(bytes, MAX_DECODED_BYTES)?;
        Self::from_proto(ModelProto::decode(bytes).map_err(Error::Decode)?)
    }

    /// Takes a decoded message, if it has a graph with complete constants.
    pub fn from_proto(mut proto: ModelProto) -> Result<Self> {
        let graph = proto.graph.take().ok_or(Error::NoGraph)?;
        if graph.node.is_empty() && graph.output.is_empty() {
            return Err(Error::NoGraph);
        }
        if proto.opset_import.is_empty() {
            return Err(Error::NoOpset);
        }
        check_tensors(&graph)?;
        for function in &proto.functions {
            function.node.iter().try_for_each(check_node_tensors)?;
        }
        Ok(Self { proto, graph })
    }

    /// The message, as the format describes it.
    #[must_use]
    pub fn into_proto(self) -> ModelProto {
        ModelProto { graph: Some(self.graph), ..self.proto }
    }

    /// The file. The same model always gives the same bytes.
    #[must_use]
    pub fn write(&self) -> Vec<u8> {
        self.clone().into_proto().encode_to_vec()
    }

    /// Checks that every value has one maker and is made before it is read, and that names are unique.
    pub fn check_order(&self) -> Result<()> {
        order::check(&self.graph)
    }

    /// The graph as it stands.
    #[must_use]
    pub fn graph(&self) -> &GraphProto {
        &self.graph
    }

    pub(crate) fn graph_mut(&mut self) -> &mut GraphProto {
        &mut self.graph
    }

    /// Everything but the graph.
    pub(crate) fn proto_mut(&mut self) -> &mut ModelProto {
        &mut self.proto
    }

    /// The version of the standard operator set; 0 where the model uses operators of other sets only.
    #[must_use]
    pub fn opset(&self) -> i64 {
        self.opsets().find(|(domain, _)| is_standard_domain(domain)).map_or(0, |(_, version)| version)
    }

    /// Every operator set used: domain and version.
    pub fn opsets(&self) -> impl Iterator<Item = (&str, i64)> {
        self.proto.opset_import.iter().map(|set| (set.domain.as_str(), set.version))
    }

    /// Says that the standard operators are those of this version.
    pub(crate) fn set_opset(&mut self, opset: i64) {
        let sets = self.proto.opset_import.iter_mut().filter(|set| is_standard_domain(&set.domain));
        sets.for_each(|set| set.version = opset);
    }

    /// Says that the file format is at least of this version.
    pub(crate) fn raise_ir_version(&mut self, version: i64) {
        self.proto.ir_version = self.proto.ir_version.max(version);
    }

    /// The version of the file format.
    #[must_use]
    pub fn ir_version(&self) -> i64 {
        self.proto.ir_version
    }

    /// Name and version of the program that made the file.
    #[must_use]
    pub fn producer(&self) -> (&str, &str) {
        (&self.proto.producer_name, &self.proto.producer_version)
    }

    /// Says which program made the file.
    pub fn set_producer(&mut self, name: impl Into<String>, version: impl Into<String>) {
        self.proto.producer_name = name.into();
        self.proto.producer_version = version.into();
    }

    /// All metadata of the file: key and value.
    pub fn metadata(&self) -> impl Iterator<Item = (&str, &str)> {
        self.proto.metadata_props.iter().map(|entry| (entry.key.as_str(), entry.value.as_str()))
    }

    /// The metadata of one key.
    #[must_use]
    pub fn metadata_value(&self, key: &str) -> Option<&str> {
        self.metadata().find(|(k, _)| *k == key).map(|(_, value)| value)
    }

    /// Sets the metadata of one key, in place of what stood there.
    pub fn set_metadata(&mut self, key: impl Into<String>, value: impl Into<String>) {
        let entry = StringStringEntryProto { key: key.into(), value: value.into() };
        let entries = &mut self.proto.metadata_props;
        match entries.iter_mut().find(|e| e.key == entry.key) {
            Some(old) => *old = entry,
            None => entries.push(entry),
        }
    }

    /// The nodes, in the order in which they run.
    #[must_use]
    pub fn nodes(&self) -> &[NodeProto] {
        &self.graph.node
    }

    /// The node that makes a value.
    #[must_use]
    pub fn producer_of(&self, value: &str) -> Option<&NodeProto> {
        self.graph.node.iter().find(|node| node.output.iter().any(|output| output == value))
    }

    /// The places, in [`Self::nodes`], of the nodes that read a value, inner graphs included.
    #[must_use]
    pub fn consumers_of(&self, value: &str) -> Vec<usize> {
        let reads = |node: &NodeProto| order::reads(node).contains(&value);
        self.graph.node.iter().enumerate().filter(|(_, node)| reads(node)).map(|(place, _)| place).collect()
    }

    /// What the caller has to give: the graph's inputs that have no default.
    #[must_use]
    pub fn inputs(&self) -> Vec<Value> {
        let defaults: HashSet<&str> = self.graph.initializer.iter().map(|t| t.name.as_str()).collect();
        let inputs = self.graph.input.iter().filter(|input| !defaults.contains(input.name.as_str()));
        inputs.map(Value::from).collect()
    }

    /// What the graph gives.
    #[must_use]
    pub fn outputs(&self) -> Vec<Value> {
        self.graph.output.iter().map(Value::from).collect()
    }

    /// The initialisers, in file order.
    #[must_use]
    pub fn initializers(&self) -> &[TensorProto] {
        &self.graph.initializer
    }

    /// The initialiser of this name.
    #[must_use]
    pub fn initializer(&self, name: &str) -> Option<&TensorProto> {
        self.graph.initializer.iter().find(|t| t.name == name)
    }

    /// The constant of this name: an initialiser, or what a `Constant` node makes of a tensor.
    #[must_use]
    pub fn constant(&self, name: &str) -> Option<&TensorProto> {
        self.initializer(name).or_else(|| {
            self.producer_of(name).filter(|node| is_constant(node)).and_then(|node| node.tensor("value"))
        })
    }

    /// The constant of this name, whose elements must be 32-bit floats.
    pub fn tensor_f32(&self, name: &str) -> Result<Tensor<f32>> {
        tensor::read_f32(self.known(name)?)
    }

    /// The constant of this name, whose elements must be 8-bit integers.
    pub fn tensor_i8(&self, name: &str) -> Result<Tensor<i8>> {
        tensor::read_i8(self.known(name)?)
    }

    /// The constant of this name, whose elements must be 64-bit integers.
    pub fn tensor_i64(&self, name: &str) -> Result<Tensor<i64>> {
        tensor::read_i64(self.known(name)?)
    }

    fn known(&self, name: &str) -> Result<&TensorProto> {
        self.constant(name).ok_or_else(|| Error::NoTensor { name: name.into() })
    }
}

/// Debug output without the weights.
impl std::fmt::Debug for Model {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Model")
            .field("producer", &self.producer())
            .field("opset", &self.opset())
            .field("nodes", &self.graph.node.len())
            .field("initializers", &self.graph.initializer.len())
            .finish()
    }
}

pub(crate) fn is_constant(node: &NodeProto) -> bool {
    node.op_type == "Constant" && node.domain.is_empty()
}

fn check_tensors(graph: &GraphProto) -> Result<()> {
    for tensor in &graph.initializer {
        tensor::check(tensor)?;
    }
    for part in graph.sparse_initializer.iter().flat_map(|s| s.values.iter().chain(&s.indices)) {
        tensor::check(part)?;
    }
    graph.node.iter().try_for_each(check_node_tensors)
}

fn check_node_tensors(node: &NodeProto) -> Result<()> {
    for attribute in &node.attribute {
        for tensor in attribute.t.iter().chain(&attribute.tensors) {
            // An unset tensor is written by some exporters next to an attribute of another type.
            if tensor.data_type != DataType::Undefined as i32 || !tensor.external_data.is_empty() {
                tensor::check(tensor)?;
            }
        }
    }
    order::subgraphs(node).try_for_each(check_tensors)
}
