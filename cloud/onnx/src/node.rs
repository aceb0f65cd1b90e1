//! Nodes: making them with their attributes, and reading those attributes back.

use tract_onnx::pb::{AttributeProto, NodeProto, TensorProto, attribute_proto::AttributeType};

/// Whether the operators of a domain are those of the standard.
#[must_use]
pub fn is_standard_domain(domain: &str) -> bool {
    domain.is_empty() || domain == "ai.onnx"
}

/// A node to be put into a graph.
#[derive(Clone, Debug, PartialEq)]
pub struct Node(NodeProto);

impl Node {
    /// A node of a standard operator. It is named after its first output.
    pub fn new<I, O>(op_type: &str, inputs: I, outputs: O) -> Self
    where
        I: IntoIterator<Item: Into<String>>,
        O: IntoIterator<Item: Into<String>>,
    {
        let output: Vec<String> = outputs.into_iter().map(Into::into).collect();
        Self(NodeProto {
            op_type: op_type.into(),
            name: output.first().cloned().unwrap_or_default(),
            input: inputs.into_iter().map(Into::into).collect(),
            output,
            ..NodeProto::default()
        })
    }

    /// Gives the node another name than that of its first output.
    #[must_use]
    pub fn named(mut self, name: impl Into<String>) -> Self {
        self.0.name = name.into();
        self
    }

    /// Takes the operator from another domain than the standard one.
    #[must_use]
    pub fn domain(mut self, domain: impl Into<String>) -> Self {
        self.0.domain = domain.into();
        self
    }

    /// Adds an attribute that is an integer.
    #[must_use]
    pub fn int(self, name: &str, value: i64) -> Self {
        self.attribute(name, AttributeType::Int, |a| a.i = value)
    }

    /// Adds an attribute that is a list of integers.
    #[must_use]
    pub fn ints(self, name: &str, values: impl IntoIterator<Item = i64>) -> Self {
        self.attribute(name, AttributeType::Ints, |a| a.ints = values.into_iter().collect())
    }

    /// Adds an attribute that is a number.
    #[must_use]
    pub fn float(self, name: &str, value: f32) -> Self {
        self.attribute(name, AttributeType::Float, |a| a.f = value)
    }

    /// Adds an attribute that is a list of numbers.
    #[must_use]
    pub fn floats(self, name: &str, values: impl IntoIterator<Item = f32>) -> Self {
        self.attribute(name, AttributeType::Floats, |a| a.floats = values.into_iter().collect())
    }

    /// Adds an attribute that is text.
    #[must_use]
    pub fn string(self, name: &str, value: &str) -> Self {
        self.attribute(name, AttributeType::String, |a| a.s = value.into())
    }

    /// Adds an attribute that is a tensor.
    #[must_use]
    pub fn tensor(self, name: &str, value: TensorProto) -> Self {
        self.attribute(name, AttributeType::Tensor, |a| a.t = Some(value))
    }

    /// A later attribute replaces an earlier one of the same name.
    fn attribute(mut self, name: &str, r#type: AttributeType, set: impl FnOnce(&mut AttributeProto)) -> Self {
        let mut attribute =
            AttributeProto { name: name.into(), r#type: r#type as i32, ..AttributeProto::default() };
        set(&mut attribute);
        self.0.attribute.retain(|a| a.name != name);
        self.0.attribute.push(attribute);
        self
    }
}

/// An integer attribute.
pub(crate) fn raw_attribute(name: &str, value: i64) -> AttributeProto {
    let r#type = AttributeType::Int as i32;
    AttributeProto { name: name.into(), r#type, i: value, ..AttributeProto::default() }
}

impl From<Node> for NodeProto {
    fn from(node: Node) -> Self {
        node.0
    }
}

impl From<NodeProto> for Node {
    fn from(node: NodeProto) -> Self {
        Self(node)
    }
}

/// Reading a node's attributes.
pub trait Attributes {
    /// The attribute of this name.
    fn attribute(&self, name: &str) -> Option<&AttributeProto>;

    /// The integer of this name.
    fn int(&self, name: &str) -> Option<i64> {
        self.attribute(name).filter(|a| a.r#type == AttributeType::Int as i32).map(|a| a.i)
    }

    /// The list of integers of this name.
    fn ints(&self, name: &str) -> Option<&[i64]> {
        self.attribute(name).filter(|a| a.r#type == AttributeType::Ints as i32).map(|a| a.ints.as_slice())
    }

    /// The number of this name.
    fn float(&self, name: &str) -> Option<f32> {
        self.attribute(name).filter(|a| a.r#type == AttributeType::Float as i32).map(|a| a.f)
    }

    /// The list of numbers of this name.
    fn floats(&self, name: &str) -> Option<&[f32]> {
        self.attribute(name).filter(|a| a.r#type == AttributeType::Floats as i32).map(|a| a.floats.as_slice())
    }

    /// The text of this name.
    fn string(&self, name: &str) -> Option<&str> {
        self.attribute(name)
            .filter(|a| a.r#type == AttributeType::String as i32)
            .and_then(|a| std::str::from_utf8(&a.s).ok())
    }

    /// The tensor of this name.
    fn tensor(&self, name: &str) -> Option<&TensorProto> {
        self.attribute(name).filter(|a| a.r#type == AttributeType::Tensor as i32).and_then(|a| a.t.as_ref())
    }
}

impl Attributes for NodeProto {
    fn attribute(&self, name: &str) -> Option<&AttributeProto> {
        self.attribute.iter().find(|a| a.name == name)
    }
}
