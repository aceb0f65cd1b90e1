//! What a graph takes and gives: names, element types and shapes.

use std::fmt;

use tract_onnx::pb::{
    TensorShapeProto, TypeProto, ValueInfoProto, tensor_shape_proto::Dimension,
    tensor_shape_proto::dimension, type_proto,
};

use crate::DataType;

/// One dimension of an input or output.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Dim {
    /// Known in the file.
    Fixed(usize),
    /// A name whose value the caller decides, as `N` for the batch.
    Symbol(String),
    /// Not said.
    Unknown,
}

impl From<usize> for Dim {
    fn from(value: usize) -> Self {
        Self::Fixed(value)
    }
}

impl From<&str> for Dim {
    fn from(symbol: &str) -> Self {
        Self::Symbol(symbol.into())
    }
}

impl fmt::Display for Dim {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Fixed(value) => value.fmt(f),
            Self::Symbol(name) => f.write_str(name),
            Self::Unknown => f.write_str("?"),
        }
    }
}

/// An input or output of a graph.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Value {
    /// Its name.
    pub name: String,
    /// The type of its elements; none where the file does not say or it is no tensor.
    pub data_type: Option<DataType>,
    /// Its dimensions; none where the file does not say.
    pub dims: Option<Vec<Dim>>,
}

impl Value {
    /// A tensor of 32-bit floats.
    pub fn f32(name: impl Into<String>, dims: impl IntoIterator<Item = impl Into<Dim>>) -> Self {
        Self {
            name: name.into(),
            data_type: Some(DataType::Float),
            dims: Some(dims.into_iter().map(Into::into).collect()),
        }
    }
}

impl fmt::Display for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.name)?;
        if let Some(data_type) = self.data_type {
            write!(f, ": {}", data_type.as_str_name())?;
        }
        if let Some(dims) = &self.dims {
            let dims: Vec<String> = dims.iter().map(ToString::to_string).collect();
            write!(f, "[{}]", dims.join(","))?;
        }
        Ok(())
    }
}

impl From<&ValueInfoProto> for Value {
    fn from(info: &ValueInfoProto) -> Self {
        let tensor = info.r#type.as_ref().and_then(|t| t.value.as_ref());
        let Some(type_proto::Value::TensorType(tensor)) = tensor else {
            return Self { name: info.name.clone(), data_type: None, dims: None };
        };
        let dim = |dim: &Dimension| match &dim.value {
            Some(dimension::Value::DimValue(value)) => {
                usize::try_from(*value).map_or(Dim::Unknown, Dim::Fixed)
            }
            Some(dimension::Value::DimParam(name)) if !name.is_empty() => Dim::Symbol(name.clone()),
            _ => Dim::Unknown,
        };
        Self {
            name: info.name.clone(),
            data_type: DataType::try_from(tensor.elem_type).ok().filter(|&t| t != DataType::Undefined),
            dims: tensor.shape.as_ref().map(|shape| shape.dim.iter().map(dim).collect()),
        }
    }
}

impl From<Value> for ValueInfoProto {
    fn from(value: Value) -> Self {
        let dim = |dim| Dimension {
            value: match dim {
                Dim::Fixed(value) => i64::try_from(value).ok().map(dimension::Value::DimValue),
                Dim::Symbol(name) => Some(dimension::Value::DimParam(name)),
                Dim::Unknown => None,
            },
            ..Dimension::default()
        };
        let tensor = type_proto::Tensor {
            elem_type: value.data_type.unwrap_or(DataType::Undefined) as i32,
            shape: value.dims.map(|dims| TensorShapeProto { dim: dims.into_iter().map(dim).collect() }),
        };
        let value_type =
            TypeProto { value: Some(type_proto::Value::TensorType(tensor)), ..TypeProto::default() };
        Self { name: value.name, r#type: Some(value_type), ..Self::default() }
    }
}
