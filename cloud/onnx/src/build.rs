//! Building a model from nothing.

use tract_onnx::pb::{GraphProto, ModelProto, OperatorSetIdProto, TensorProto};

use crate::{
    IR_VERSION, Model, Node, OPSET, Result, Tensor, Value, tensor, tensor_f32, tensor_i8, tensor_i64,
};

/// Builds a model. What is wrong with any part is told by [`GraphBuilder::build`].
#[derive(Debug)]
#[must_use]
pub struct GraphBuilder {
    graph: GraphProto,
    opset: i64,
    metadata: Vec<(String, String)>,
    first_fault: Result<()>,
}

impl GraphBuilder {
    /// A graph of this name, in the standard operator set [`OPSET`].
    pub fn new(name: impl Into<String>) -> Self {
        let graph = GraphProto { name: name.into(), ..GraphProto::default() };
        Self { graph, opset: OPSET, metadata: Vec::new(), first_fault: Ok(()) }
    }

    /// Uses another version of the standard operator set.
    pub fn opset(mut self, version: i64) -> Self {
        self.opset = version;
        self
    }

    /// Adds an input.
    pub fn input(mut self, value: Value) -> Self {
        self.graph.input.push(value.into());
        self
    }

    /// Adds an output.
    pub fn output(mut self, value: Value) -> Self {
        self.graph.output.push(value.into());
        self
    }

    /// Adds a constant of 32-bit floats.
    pub fn initializer_f32(self, name: &str, dims: &[usize], data: Vec<f32>) -> Self {
        let tensor = Tensor::new(name, dims, data).map(|t| tensor_f32(name, &t));
        self.initializer(tensor)
    }

    /// Adds a constant of 8-bit integers.
    pub fn initializer_i8(self, name: &str, dims: &[usize], data: Vec<i8>) -> Self {
        let tensor = Tensor::new(name, dims, data).map(|t| tensor_i8(name, &t));
        self.initializer(tensor)
    }

    /// Adds a constant of 64-bit integers.
    pub fn initializer_i64(self, name: &str, dims: &[usize], data: Vec<i64>) -> Self {
        let tensor = Tensor::new(name, dims, data).map(|t| tensor_i64(name, &t));
        self.initializer(tensor)
    }

    fn initializer(mut self, tensor: Result<TensorProto>) -> Self {
        match tensor.and_then(|tensor| tensor::check(&tensor).map(|_| tensor)) {
            Ok(tensor) => self.graph.initializer.push(tensor),
            Err(error) if self.first_fault.is_ok() => self.first_fault = Err(error),
            Err(_) => {}
        }
        self
    }

    /// Adds a node. Nodes run in the order in which they are added.
    pub fn node(mut self, node: Node) -> Self {
        self.graph.node.push(node.into());
        self
    }

    /// Adds metadata to the file.
    pub fn metadata(mut self, key: impl Into<String>, value: impl Into<String>) -> Self {
        self.metadata.push((key.into(), value.into()));
        self
    }

    /// The model, if all names are unique and every value is made before it is read.
    pub fn build(self) -> Result<Model> {
        self.first_fault?;
        let mut model = Model::from_proto(ModelProto {
            ir_version: IR_VERSION,
            opset_import: vec![OperatorSetIdProto { domain: String::new(), version: self.opset }],
            producer_name: "flotilla".into(),
            producer_version: env!("CARGO_PKG_VERSION").into(),
            graph: Some(self.graph),
            ..ModelProto::default()
        })?;
        for (key, value) in self.metadata {
            model.set_metadata(key, value);
        }
        model.check_order()?;
        Ok(model)
    }
}
