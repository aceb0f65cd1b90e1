//! Tensors by name: for models whose inputs are none of the usual kinds, and for what a network needs beside its input.

use super::InvalidPipeline;
use crate::limits;
use serde::{Deserialize, Serialize};

/// Dimensions of a tensor at most.
const RANK: usize = 8;

/// Tensors as they are, in this order.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TensorsInput {
    /// The inputs.
    pub tensors: Vec<TensorSpec>,
}

/// One tensor of a network.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TensorSpec {
    /// Its name in the graph.
    pub name: String,
    /// What it holds.
    pub kind: TensorKind,
    /// Its shape, with a batch of one where it has one; empty for a scalar.
    pub shape: Vec<u32>,
}

/// What a network keeps from one call to the next: an output that is the next call's input. It begins with zeros.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StateTensor {
    /// The input.
    pub input: TensorSpec,
    /// Name of the output that takes its place.
    pub output: String,
}

/// An input that is always the same, such as a sample rate.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ConstantTensor {
    /// The input.
    pub input: TensorSpec,
    /// Its values, in row-major order.
    pub values: Vec<f64>,
}

/// What a tensor holds; the names are those of the Open Inference Protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum TensorKind {
    /// 32-bit floats.
    Fp32,
    /// 64-bit floats.
    Fp64,
    /// Signed bytes.
    Int8,
    /// Signed 16-bit integers.
    Int16,
    /// Signed 32-bit integers.
    Int32,
    /// Signed 64-bit integers.
    Int64,
    /// Bytes.
    Uint8,
    /// 16-bit integers without sign.
    Uint16,
    /// 32-bit integers without sign.
    Uint32,
    /// 64-bit integers without sign.
    Uint64,
    /// A byte each, 0 or 1.
    Bool,
}

impl TensorKind {
    /// The name in the Open Inference Protocol.
    pub fn as_str(self) -> &'static str {
        match self {
            TensorKind::Fp32 => "FP32",
            TensorKind::Fp64 => "FP64",
            TensorKind::Int8 => "INT8",
            TensorKind::Int16 => "INT16",
            TensorKind::Int32 => "INT32",
            TensorKind::Int64 => "INT64",
            TensorKind::Uint8 => "UINT8",
            TensorKind::Uint16 => "UINT16",
            TensorKind::Uint32 => "UINT32",
            TensorKind::Uint64 => "UINT64",
            TensorKind::Bool => "BOOL",
        }
    }

    /// Bytes of one value.
    pub fn bytes(self) -> usize {
        match self {
            TensorKind::Int8 | TensorKind::Uint8 | TensorKind::Bool => 1,
            TensorKind::Int16 | TensorKind::Uint16 => 2,
            TensorKind::Fp32 | TensorKind::Int32 | TensorKind::Uint32 => 4,
            TensorKind::Fp64 | TensorKind::Int64 | TensorKind::Uint64 => 8,
        }
    }
}

impl std::fmt::Display for TensorKind {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.as_str())
    }
}

impl TensorSpec {
    /// Number of values; none where that is no number to work with.
    pub fn values(&self) -> Option<usize> {
        let count = self.shape.iter().try_fold(1_usize, |all, dim| all.checked_mul(*dim as usize))?;
        (1..=limits::TENSOR_VALUES).contains(&count).then_some(count)
    }

    /// The shape, as indices need it.
    pub fn dims(&self) -> Vec<usize> {
        self.shape.iter().map(|dim| *dim as usize).collect()
    }

    pub(super) fn check(&self, field: &'static str) -> Result<(), InvalidPipeline> {
        let fail = |problem| Err(InvalidPipeline { field, problem });
        if self.name.is_empty() || self.name.len() > limits::LABEL {
            return fail(format!(
                "a name has {} bytes; 1 to {} are possible",
                self.name.len(),
                limits::LABEL
            ));
        }
        if self.shape.len() > RANK || self.values().is_none() {
            return fail(format!(
                "{} has the shape {:?}; {RANK} dimensions and {} values are possible, and none is zero",
                self.name,
                self.shape,
                limits::TENSOR_VALUES
            ));
        }
        Ok(())
    }
}

/// Checks tensors that stand beside each other: bounds, and that each name stands for one of them.
pub(super) fn check_all<'a>(
    field: &'static str,
    tensors: impl IntoIterator<Item = &'a TensorSpec>,
    names: &mut Vec<&'a str>,
) -> Result<(), InvalidPipeline> {
    for tensor in tensors {
        tensor.check(field)?;
        if names.contains(&tensor.name.as_str()) {
            return Err(InvalidPipeline { field, problem: format!("{} is named twice", tensor.name) });
        }
        names.push(&tensor.name);
        if names.len() > limits::MODEL_PORTS {
            let problem = format!("more than {} inputs", limits::MODEL_PORTS);
            return Err(InvalidPipeline { field, problem });
        }
    }
    Ok(())
}
