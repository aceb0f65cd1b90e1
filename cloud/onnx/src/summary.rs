//! What a model is, in a few numbers.

use std::collections::BTreeMap;

use serde::Serialize;
use tract_onnx::pb::{NodeProto, TensorProto};

use crate::{Attributes, DataType, Model, model::is_constant, tensor};

/// What a model is, in a few numbers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Summary {
    /// Program that made the file, and its version.
    pub producer: String,
    /// Version of the standard operator set.
    pub opset: i64,
    /// Operators and how often each is used; those of other domains with the domain before them.
    pub operators: BTreeMap<String, u64>,
    /// Elements of all constants that are numbers to compute with, not shapes or indices.
    pub parameters: u64,
    /// Bytes of all constants in memory, as they are stored.
    pub constant_bytes: u64,
    /// What the caller has to give.
    pub inputs: Vec<String>,
    /// What the model gives.
    pub outputs: Vec<String>,
}

impl Model {
    /// What the model is, in a few numbers.
    #[must_use]
    pub fn summary(&self) -> Summary {
        let mut operators = BTreeMap::new();
        for node in self.nodes() {
            *operators.entry(operator(node)).or_insert(0) += 1;
        }
        let constants =
            self.nodes().iter().filter(|node| is_constant(node)).filter_map(|n| n.tensor("value"));
        let (mut parameters, mut constant_bytes) = (0, 0);
        for tensor in self.initializers().iter().chain(constants) {
            let elements = tensor::elements(tensor).unwrap_or_default() as u64;
            constant_bytes += stored_bytes(tensor);
            if is_parameter(tensor) {
                parameters += elements;
            }
        }
        let (name, version) = self.producer();
        Summary {
            producer: format!("{name} {version}").trim().to_owned(),
            opset: self.opset(),
            operators,
            parameters,
            constant_bytes,
            inputs: self.inputs().iter().map(ToString::to_string).collect(),
            outputs: self.outputs().iter().map(ToString::to_string).collect(),
        }
    }
}

fn operator(node: &NodeProto) -> String {
    if node.domain.is_empty() { node.op_type.clone() } else { format!("{}.{}", node.domain, node.op_type) }
}

fn is_parameter(tensor: &TensorProto) -> bool {
    use DataType as T;
    !matches!(
        DataType::try_from(tensor.data_type).unwrap_or(T::Undefined),
        T::Undefined | T::String | T::Bool | T::Int64 | T::Int32 | T::Uint32 | T::Uint64
    )
}

fn stored_bytes(tensor: &TensorProto) -> u64 {
    let texts: usize = tensor.string_data.iter().map(Vec::len).sum();
    let bytes = tensor.raw_data.len()
        + texts
        + 4 * (tensor.float_data.len() + tensor.int32_data.len())
        + 8 * (tensor.double_data.len() + tensor.int64_data.len() + tensor.uint64_data.len());
    bytes as u64
}
