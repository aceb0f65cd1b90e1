//! What a person reads before a model is registered.

use flotilla_onnx::clean::{Cleaned, Missing};
use flotilla_onnx::{Dim, Value};
use flotilla_runtime::engine::Memory;
use serde::Serialize;

use crate::{Format, Guess, Package, Proposal};

/// What a model is, what it costs, and what was done with it.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Report {
    /// What was brought.
    pub format: Format,
    /// What a package says, if it was one.
    pub package: Option<Package>,
    /// Bytes of the model file as it was brought.
    pub file_bytes: u64,
    /// Bytes of the cleaned model.
    pub model_bytes: u64,
    /// Program that made the file, and its version.
    pub producer: String,
    /// Operator set of the file.
    pub opset: i64,
    /// Inputs as the file declares them.
    pub inputs: Vec<Tensor>,
    /// Outputs as the cleaned model has them.
    pub outputs: Vec<Tensor>,
    /// Operators of the file and how often each is used.
    pub operators: Vec<Operator>,
    /// Operators of the cleaned model that the engine does not have.
    pub missing: Vec<Missing>,
    /// Whether the engine loads the cleaned model.
    pub runs: bool,
    /// Why it does not, in the engine's words.
    pub engine_error: Option<String>,
    /// Elements of all weights.
    pub parameters: u64,
    /// Multiply-accumulates of one run; none where shapes are open.
    pub macs: Option<u64>,
    /// Memory of one run; none where shapes are open or the model does not run.
    pub memory: Option<Memory>,
    /// What the clean-up did.
    pub cleaned: Cleaned,
    /// What one should know before going on.
    pub warnings: Vec<String>,
    /// Names of classes; empty where nobody names them.
    pub labels: Vec<String>,
    /// The pipeline around the model, as far as its shapes and names tell.
    pub guess: Guess,
    /// What is made of the guess, to confirm.
    pub proposal: Proposal,
}

/// An input or output.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Tensor {
    /// Its name.
    pub name: String,
    /// The type of its elements, as `FLOAT`; none where the file does not say.
    pub data_type: Option<String>,
    /// Dimensions: numbers, symbols, and `?` where the file says nothing; none where even their number is open.
    pub shape: Option<Vec<String>>,
}

impl From<&Value> for Tensor {
    fn from(value: &Value) -> Self {
        Self {
            name: value.name.clone(),
            data_type: value.data_type.map(|kind| kind.as_str_name().to_owned()),
            shape: value.dims.as_ref().map(|dims| dims.iter().map(Dim::to_string).collect()),
        }
    }
}

/// An operator that a model uses.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Operator {
    /// Its name, with its domain where that is not the standard one.
    pub name: String,
    /// How often it is used.
    pub count: u64,
}
