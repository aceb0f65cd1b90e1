//! From a guess to a pipeline: as complete as a file allows, with the points that a person has to confirm.

mod input;
mod output;

use std::collections::HashMap;

use flotilla_onnx::clean::Known;
use flotilla_onnx::{DataType, Dim, Model, Value};
use flotilla_protocol::Pipeline;
use flotilla_protocol::pipeline::{ConstantTensor, StateTensor, TensorKind, TensorSpec};
use serde::Serialize;

use crate::Guess;
use crate::guess::is_rate;
use crate::labels::Labels;

/// The sample rate that most models of speech are made for.
const RATE: u32 = 16_000;

/// A pipeline that may be right.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Proposal {
    /// The pipeline. It is usable where [`Self::problem`] is none.
    pub pipeline: Pipeline,
    /// What nothing in the file tells, so that a person has to confirm it; empty where the file tells everything.
    pub points: Vec<Point>,
    /// Why the pipeline cannot be used as it is.
    pub problem: Option<String>,
}

/// A point that a person has to confirm.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Point {
    /// Where it stands in the pipeline, as `input.image.mean`.
    pub field: String,
    /// What was taken, why, and what else it may be.
    pub text: String,
}

/// A proposal in the making.
struct Draft<'a> {
    guess: &'a Guess,
    model: &'a Model,
    known: &'a HashMap<String, Known>,
    labels: &'a Labels,
    points: Vec<Point>,
}

/// Makes a pipeline of a guess at a cleaned model.
pub(crate) fn propose(
    guess: &Guess,
    model: &Model,
    known: &HashMap<String, Known>,
    labels: &Labels,
) -> Proposal {
    let mut draft = Draft { guess, model, known, labels, points: Vec::new() };
    let (input, constants) = draft.input();
    let output = draft.output();
    let states = draft.states();
    let pipeline = Pipeline { states, constants, ..Pipeline::new(input, output) };
    let problem = pipeline.check().err().map(|problem| problem.to_string());
    Proposal { pipeline, points: draft.points, problem }
}

impl Draft<'_> {
    fn confirm(&mut self, field: &str, text: impl Into<String>) {
        self.points.push(Point { field: field.into(), text: text.into() });
    }

    /// Inputs that are no states.
    fn free_inputs(&self) -> Vec<Value> {
        let free = |input: &Value| self.guess.states.iter().all(|state| state.input != input.name);
        self.model.inputs().into_iter().filter(free).collect()
    }

    /// A tensor as the file describes it; what that leaves open is one.
    fn spec(&mut self, field: &str, value: &Value) -> TensorSpec {
        let name = value.name.clone();
        let mut shape = Vec::new();
        for (place, dim) in value.dims.iter().flatten().enumerate() {
            let known = self.known.get(&name).and_then(|known| *known.dims.as_ref()?.get(place)?);
            match (known, dim) {
                (Some(size), _) | (None, &Dim::Fixed(size)) => {
                    shape.push(u32::try_from(size).unwrap_or(u32::MAX));
                }
                (None, open) => {
                    self.confirm(
                        field,
                        format!("dimension {place} ({open}) of `{name}` is open and taken as 1; say --dim"),
                    );
                    shape.push(1);
                }
            }
        }
        let kind = match value.data_type {
            Some(DataType::Double) => TensorKind::Fp64,
            Some(DataType::Int8) => TensorKind::Int8,
            Some(DataType::Int16) => TensorKind::Int16,
            Some(DataType::Int32) => TensorKind::Int32,
            Some(DataType::Int64) => TensorKind::Int64,
            Some(DataType::Uint8) => TensorKind::Uint8,
            Some(DataType::Uint16) => TensorKind::Uint16,
            Some(DataType::Uint32) => TensorKind::Uint32,
            Some(DataType::Uint64) => TensorKind::Uint64,
            Some(DataType::Bool) => TensorKind::Bool,
            _ => TensorKind::Fp32,
        };
        TensorSpec { name, kind, shape }
    }

    fn states(&mut self) -> Vec<StateTensor> {
        let inputs = self.model.inputs();
        let mut states = Vec::new();
        for state in &self.guess.states {
            let Some(input) = inputs.iter().find(|input| input.name == state.input) else { continue };
            let input = self.spec("states", input);
            self.confirm(
                "states",
                format!(
                    "`{}` of a call goes on as `{}` of the next one and begins with zeros: shapes and names say so",
                    state.output, state.input
                ),
            );
            states.push(StateTensor { input, output: state.output.clone() });
        }
        states
    }

    /// Rates beside the input that they belong to.
    fn rates(&mut self) -> Vec<ConstantTensor> {
        let mut constants = Vec::new();
        for rate in self.free_inputs().iter().filter(|input| is_rate(input)) {
            let input = self.spec("constants", rate);
            self.confirm(
                "constants",
                format!("`{}` is always {RATE}: the model may be made for another rate", rate.name),
            );
            let values = vec![f64::from(RATE); input.values().unwrap_or(1)];
            constants.push(ConstantTensor { input, values });
        }
        constants
    }
}
