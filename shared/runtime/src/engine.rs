//! The inference engine, tract: the only module that knows it.
//!
//! What makes it fast and right: shapes that the file claims for outputs and inner values are ignored and
//! inferred anew (exporters write wrong ones), the input shapes are made concrete (a symbolic batch is twice as
//! slow), and the run state is kept between runs.

mod memory;
mod operators;
mod probe;

pub use memory::{Memory, memory};
pub use operators::{Operator, Profile, operators, profile};
pub use probe::{Array, Cost, Probe, cost};

use crate::error::{Panicked, Source, no_panic};
use crate::tensor::{Port, Values};
use crate::{Error, Result};
use flotilla_protocol::limits::{MODEL_PORTS, TENSOR_VALUES};
use flotilla_protocol::pipeline::TensorKind;
use std::sync::Arc;
use tract_onnx::prelude::{
    DatumType, Framework, InferenceFact, InferenceModel, InferenceModelExt, IntoRunnable, IntoTValue,
    OutletId, TValue, TVec, Tensor, TractResult, TypedModel, TypedRunnableModel, TypedSimpleState,
};
use tract_onnx::tract_hir::infer::Factoid;

/// The name by which release manifests ask for this engine.
pub const NAME: &str = flotilla_protocol::manifest::ENGINE_TRACT;

/// A tensor that whoever loads a model will give it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Given {
    /// Its name in the graph; none for the one input that nothing else names.
    pub name: Option<String>,
    /// What it holds; none for whatever the network takes, to which it is rounded.
    pub kind: Option<TensorKind>,
    /// Its shape, batch included.
    pub shape: Vec<usize>,
}

impl Given {
    /// The one input of a model, with this shape.
    pub fn of(shape: &[usize]) -> Self {
        Self { name: None, kind: None, shape: shape.to_vec() }
    }
}

/// A loaded model: tensors of fixed shapes in, tensors of fixed shapes out.
pub struct Engine {
    plan: Arc<TypedRunnableModel>,
    /// None after a failed run: what such a run left behind is not used again.
    state: Option<TypedSimpleState>,
    inputs: Vec<Input>,
    outputs: Vec<Port>,
}

struct Input {
    port: Port,
    /// What the network computes with, where that is none of the kinds of ports (16-bit floats).
    datum: DatumType,
    /// Its place among the network's inputs.
    place: usize,
}

impl Engine {
    /// Loads a model from untrusted bytes for these inputs, which must be all that it has.
    ///
    /// The file may leave dimensions open; those that it fixes must be the same, except the first: a model
    /// that was exported for another batch is loaded for this one.
    pub fn load(onnx: &[u8], given: &[Given]) -> Result<Self> {
        for Given { shape, .. } in given {
            values(shape).ok_or_else(|| {
                Error::Interface(format!("an input of {shape:?} is over {TENSOR_VALUES} values"))
            })?;
        }
        let parsed = invalid("read", no_panic(|| parse(onnx)))?;
        let names = input_names(&parsed);
        let inputs = match_inputs(&parsed, &names, given)?;
        let output_names = output_names(&parsed);
        let typed = unsupported("infer shapes", no_panic(|| typed(parsed, &inputs)))?;
        let outputs = check_outputs(&typed, output_names)?;
        let plan = unsupported("optimise", no_panic(|| typed.into_optimized()?.into_runnable()))?;
        let state = unsupported("allocate", no_panic(|| plan.spawn()))?;
        Ok(Self { plan, state: Some(state), inputs, outputs })
    }

    /// Loads a model with one input, of exactly `shape`.
    pub fn load_plain(onnx: &[u8], shape: &[usize]) -> Result<Self> {
        Self::load(onnx, &[Given::of(shape)])
    }

    /// Runs a model of one input of floats; gives its first output.
    pub fn run_plain(&mut self, input: &[f32]) -> Result<Vec<f32>> {
        let outputs = self.run(&[&Values::Fp32(input.to_vec())])?;
        Ok(outputs.first().map(|values| values.to_f32().into_owned()).unwrap_or_default())
    }

    /// What it takes, in the order in which the inputs were given.
    pub fn inputs(&self) -> impl ExactSizeIterator<Item = &Port> {
        self.inputs.iter().map(|input| &input.port)
    }

    /// What it gives, in the order of the file.
    pub fn outputs(&self) -> &[Port] {
        &self.outputs
    }

    /// Runs the model once on a tensor an input, in the order in which they were given.
    pub fn run(&mut self, inputs: &[&Values]) -> Result<Vec<Values>> {
        if inputs.len() != self.inputs.len() {
            return Err(Error::Interface(format!(
                "it was given {} inputs; it has {}",
                inputs.len(),
                self.inputs.len()
            )));
        }
        for (values, input) in inputs.iter().zip(&self.inputs) {
            if values.len() != input.port.values() {
                return Err(Error::TensorLength { got: values.len(), need: input.port.values() });
            }
            if values.kind() != input.port.kind {
                return Err(Error::Interface(format!(
                    "its input {} holds {}, not {}",
                    input.port.name,
                    input.port.kind,
                    values.kind()
                )));
            }
        }
        let state = self.state.take();
        let (plan, ports, outputs) = (&self.plan, &self.inputs, &self.outputs);
        let run = no_panic(|| {
            let mut state = state.map_or_else(|| plan.spawn(), Ok)?;
            let mut tensors: TVec<Option<TValue>> = ports.iter().map(|_| None).collect();
            for (values, input) in inputs.iter().zip(ports) {
                tensors[input.place] = Some(tensor(values, input)?.into_tvalue());
            }
            let results = state.run(tensors.into_iter().flatten().collect())?;
            let read = results.iter().zip(outputs).map(|(tensor, port)| read(tensor, port.kind));
            let values = read.collect::<TractResult<Vec<Values>>>()?;
            TractResult::Ok((state, values))
        });
        let (state, values) = flatten(run).map_err(Error::Run)?;
        self.state = Some(state);
        Ok(values)
    }
}

impl std::fmt::Debug for Engine {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let inputs: Vec<_> = self.inputs().map(|port| &port.shape).collect();
        let outputs: Vec<_> = self.outputs.iter().map(|port| &port.shape).collect();
        write!(f, "Engine({inputs:?} -> {outputs:?})")
    }
}

fn parse(onnx: &[u8]) -> TractResult<InferenceModel> {
    tract_onnx::onnx()
        .with_ignore_output_shapes(true)
        .with_ignore_value_info(true)
        .model_for_read(&mut &*onnx)
}

fn typed(mut model: InferenceModel, inputs: &[Input]) -> TractResult<TypedModel> {
    for input in inputs {
        let fact = InferenceFact::dt_shape(input.datum, &input.port.shape);
        model.set_input_fact(input.place, fact)?;
    }
    model.into_typed()?.into_decluttered()
}

/// Names of outlets, as the graph has them. tract names an input's node after it, and keeps the names of outputs as labels.
fn name(model: &InferenceModel, outlet: OutletId) -> String {
    model.outlet_label(outlet).unwrap_or(&model.node(outlet.node).name).to_owned()
}

fn input_names(model: &InferenceModel) -> Vec<String> {
    model.inputs.iter().map(|outlet| name(model, *outlet)).collect()
}

fn output_names(model: &InferenceModel) -> Vec<String> {
    model.outputs.iter().map(|outlet| name(model, *outlet)).collect()
}

/// Finds the input that each of the given tensors is for, and checks kind, rank and fixed dimensions.
fn match_inputs(model: &InferenceModel, names: &[String], given: &[Given]) -> Result<Vec<Input>> {
    let named = |name: &str| given.iter().any(|given| given.name.as_deref() == Some(name));
    let mut free = (0..names.len()).filter(|place| !named(&names[*place]));
    let mut inputs = Vec::with_capacity(given.len());
    for given in given {
        let place = match &given.name {
            Some(name) => names.iter().position(|own| own == name).ok_or_else(|| {
                Error::Interface(format!("it has no input {name}; it has {}", names.join(", ")))
            })?,
            None => free.next().ok_or_else(|| Error::Interface("it has no input".to_owned()))?,
        };
        inputs.push(match_input(model, &names[place], place, given)?);
    }
    let unnamed = given.iter().any(|given| given.name.is_none());
    let left: Vec<&str> = if unnamed {
        free.map(|place| names[place].as_str()).collect()
    } else {
        names.iter().map(String::as_str).filter(|name| !named(name)).collect()
    };
    if !left.is_empty() {
        let left = left.join(", ");
        return Err(Error::Interface(format!(
            "it has {} inputs, and the pipeline does not say what {left} is; name it as a tensor, a state or a constant",
            names.len()
        )));
    }
    Ok(inputs)
}

fn match_input(model: &InferenceModel, name: &str, place: usize, given: &Given) -> Result<Input> {
    let fact =
        model.input_fact(place).map_err(|e| Error::ModelInvalid { step: "read inputs", source: e.into() })?;
    let datum = fact.datum_type.concretize().unwrap_or(DatumType::F32);
    let kind = kind_of(datum).ok_or_else(|| {
        Error::Interface(format!("its input {name} holds {datum:?}, which is not supported"))
    })?;
    if let Some(wanted) = given.kind.filter(|wanted| *wanted != kind) {
        return Err(Error::Interface(format!("its input {name} holds {kind}, not {wanted}")));
    }
    let shape = &given.shape;
    let mismatch = || Error::InputShape {
        name: name.to_owned(),
        model: fact.format_dt_shape(),
        pipeline: shape.clone(),
    };
    let dims: Vec<_> = fact.shape.dims().collect();
    let rank_fits = if fact.shape.is_open() { dims.len() <= shape.len() } else { dims.len() == shape.len() };
    if !rank_fits {
        return Err(mismatch());
    }
    let fixed = |axis: usize| dims[axis].concretize().and_then(|dim| dim.to_i64().ok());
    let differs = |axis: usize| fixed(axis).is_some_and(|dim| usize::try_from(dim) != Ok(shape[axis]));
    if (1..dims.len()).any(differs) {
        return Err(mismatch());
    }
    Ok(Input { port: Port { name: name.to_owned(), kind, shape: shape.clone() }, datum, place })
}

/// Outputs whose shapes are known now that the inputs' are.
fn check_outputs(model: &TypedModel, names: Vec<String>) -> Result<Vec<Port>> {
    if names.is_empty() || names.len() > MODEL_PORTS {
        return Err(Error::Interface(format!(
            "it has {} outputs; 1 to {MODEL_PORTS} are possible",
            names.len()
        )));
    }
    let port = |(place, name): (usize, String)| {
        let fact = model
            .output_fact(place)
            .map_err(|e| Error::ModelInvalid { step: "read outputs", source: e.into() })?;
        let kind = kind_of(fact.datum_type).ok_or_else(|| {
            Error::Interface(format!("its output {name} holds {:?}, which is not supported", fact.datum_type))
        })?;
        let shape = fact.shape.as_concrete().map(<[usize]>::to_vec);
        let shape = shape.filter(|shape| values(shape).is_some()).ok_or_else(|| {
            Error::Interface(format!(
                "the shape {:?} of its output {name} is not fixed, empty or too large",
                fact.shape
            ))
        })?;
        Ok(Port { name, kind, shape })
    };
    names.into_iter().enumerate().map(port).collect()
}

/// The kind of port for what tract computes with; quantised integers are integers, and floats of 16 bits are given as 32.
fn kind_of(datum: DatumType) -> Option<TensorKind> {
    match datum.unquantized() {
        DatumType::F16 | DatumType::F32 => Some(TensorKind::Fp32),
        DatumType::F64 => Some(TensorKind::Fp64),
        DatumType::I8 => Some(TensorKind::Int8),
        DatumType::I16 => Some(TensorKind::Int16),
        DatumType::I32 => Some(TensorKind::Int32),
        DatumType::I64 | DatumType::TDim => Some(TensorKind::Int64),
        DatumType::U8 => Some(TensorKind::Uint8),
        DatumType::U16 => Some(TensorKind::Uint16),
        DatumType::U32 => Some(TensorKind::Uint32),
        DatumType::U64 => Some(TensorKind::Uint64),
        DatumType::Bool => Some(TensorKind::Bool),
        _ => None,
    }
}

fn tensor(values: &Values, input: &Input) -> TractResult<Tensor> {
    let shape = &input.port.shape;
    let tensor = match values {
        Values::Fp32(list) => Tensor::from_shape(shape, list),
        Values::Fp64(list) => Tensor::from_shape(shape, list),
        Values::Int8(list) => Tensor::from_shape(shape, list),
        Values::Int16(list) => Tensor::from_shape(shape, list),
        Values::Int32(list) => Tensor::from_shape(shape, list),
        Values::Int64(list) => Tensor::from_shape(shape, list),
        Values::Uint8(list) => Tensor::from_shape(shape, list),
        Values::Uint16(list) => Tensor::from_shape(shape, list),
        Values::Uint32(list) => Tensor::from_shape(shape, list),
        Values::Uint64(list) => Tensor::from_shape(shape, list),
        Values::Bool(list) => Tensor::from_shape(shape, list),
    }?;
    if tensor.datum_type() == input.datum {
        return Ok(tensor);
    }
    Ok(tensor.cast_to_dt(input.datum)?.into_owned())
}

fn read(tensor: &Tensor, kind: TensorKind) -> TractResult<Values> {
    macro_rules! list {
        ($type:ty, $variant:ident) => {{
            let tensor = tensor.cast_to::<$type>()?;
            Values::$variant(tensor.to_plain_array_view::<$type>()?.iter().copied().collect())
        }};
    }
    Ok(match kind {
        TensorKind::Fp32 => list!(f32, Fp32),
        TensorKind::Fp64 => list!(f64, Fp64),
        TensorKind::Int8 => list!(i8, Int8),
        TensorKind::Int16 => list!(i16, Int16),
        TensorKind::Int32 => list!(i32, Int32),
        TensorKind::Int64 => list!(i64, Int64),
        TensorKind::Uint8 => list!(u8, Uint8),
        TensorKind::Uint16 => list!(u16, Uint16),
        TensorKind::Uint32 => list!(u32, Uint32),
        TensorKind::Uint64 => list!(u64, Uint64),
        TensorKind::Bool => list!(bool, Bool),
    })
}

/// Number of values of a tensor; none for an empty one or one over the bound.
fn values(shape: &[usize]) -> Option<usize> {
    let count = shape.iter().try_fold(1_usize, |all, &dim| all.checked_mul(dim))?;
    (1..=TENSOR_VALUES).contains(&count).then_some(count)
}

fn flatten<T>(result: Result<TractResult<T>, Panicked>) -> Result<T, Source> {
    match result {
        Ok(Ok(value)) => Ok(value),
        Ok(Err(error)) => Err(error.into()),
        Err(panic) => Err(panic.into()),
    }
}

fn invalid<T>(step: &'static str, result: Result<TractResult<T>, Panicked>) -> Result<T> {
    flatten(result).map_err(|source| Error::ModelInvalid { step, source })
}

fn unsupported<T>(step: &'static str, result: Result<TractResult<T>, Panicked>) -> Result<T> {
    flatten(result).map_err(|source| Error::ModelUnsupported { step, source })
}
