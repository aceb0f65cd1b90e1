//! The inference engine, tract: the only module that knows it.
//!
//! What makes it fast and right: shapes that the file claims for outputs and inner values are ignored and
//! inferred anew (exporters write wrong ones), the input shape is made concrete (a symbolic batch is twice as
//! slow), and the run state is kept between runs.

mod probe;

pub use probe::{Array, Cost, Probe, cost};

use crate::error::{Panicked, Source, no_panic};
use crate::{Error, Result, TENSOR_VALUES};
use std::sync::Arc;
use tract_onnx::prelude::{
    DatumType, Framework, InferenceFact, InferenceModel, InferenceModelExt, IntoRunnable, OutletId, Tensor,
    TractResult, TypedModel, TypedRunnableModel, TypedSimpleState, tvec,
};
use tract_onnx::tract_hir::infer::Factoid;

/// The name by which release manifests ask for this engine.
pub const NAME: &str = flotilla_protocol::manifest::ENGINE_TRACT;

/// A loaded model: one f32 tensor in, one out, both of fixed shape.
pub struct Engine {
    plan: Arc<TypedRunnableModel>,
    /// None after a failed run: what such a run left behind is not used again.
    state: Option<TypedSimpleState>,
    names: [String; 2],
    input_shape: Vec<usize>,
    output_shape: Vec<usize>,
}

impl Engine {
    /// Loads a model from untrusted bytes for inputs of exactly `input_shape`, batch included.
    ///
    /// The file may leave dimensions open; those that it fixes must be the same, except the first: a model
    /// that was exported for another batch is loaded for this one.
    pub fn load(onnx: &[u8], input_shape: &[usize]) -> Result<Self> {
        values(input_shape).ok_or_else(|| {
            Error::Interface(format!("an input of {input_shape:?} is over {TENSOR_VALUES} values"))
        })?;
        let parsed = invalid("read", no_panic(|| parse(onnx)))?;
        check_input(&parsed, input_shape)?;
        let names = names(&parsed);
        let typed = unsupported("infer shapes", no_panic(|| typed(parsed, input_shape)))?;
        let output_shape = check_output(&typed)?;
        let plan = unsupported("optimise", no_panic(|| typed.into_optimized()?.into_runnable()))?;
        let state = unsupported("allocate", no_panic(|| plan.spawn()))?;
        Ok(Self { plan, state: Some(state), names, input_shape: input_shape.to_vec(), output_shape })
    }

    /// What the file calls its input.
    pub fn input_name(&self) -> &str {
        &self.names[0]
    }

    /// What the file calls its output.
    pub fn output_name(&self) -> &str {
        &self.names[1]
    }

    /// Shape of the input, batch included.
    pub fn input_shape(&self) -> &[usize] {
        &self.input_shape
    }

    /// Shape of the output, batch included.
    pub fn output_shape(&self) -> &[usize] {
        &self.output_shape
    }

    /// Runs the model once. The input is in row-major order, and so is the answer.
    pub fn run(&mut self, input: &[f32]) -> Result<Vec<f32>> {
        let need = self.input_shape.iter().product();
        if input.len() != need {
            return Err(Error::TensorLength { got: input.len(), need });
        }
        let state = self.state.take();
        let (plan, shape) = (&self.plan, &self.input_shape);
        let run = no_panic(|| {
            let mut state = state.map_or_else(|| plan.spawn(), Ok)?;
            let outputs = state.run(tvec!(Tensor::from_shape(shape, input)?.into()))?;
            let output = outputs[0].cast_to::<f32>()?;
            let values: Vec<f32> = output.to_plain_array_view::<f32>()?.iter().copied().collect();
            TractResult::Ok((state, values))
        });
        let (state, values) = flatten(run).map_err(Error::Run)?;
        self.state = Some(state);
        Ok(values)
    }
}

impl std::fmt::Debug for Engine {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Engine({:?} -> {:?})", self.input_shape, self.output_shape)
    }
}

fn parse(onnx: &[u8]) -> TractResult<InferenceModel> {
    tract_onnx::onnx()
        .with_ignore_output_shapes(true)
        .with_ignore_value_info(true)
        .model_for_read(&mut &*onnx)
}

fn typed(model: InferenceModel, input_shape: &[usize]) -> TractResult<TypedModel> {
    let fact = InferenceFact::dt_shape(DatumType::F32, input_shape);
    model.with_input_fact(0, fact)?.into_typed()?.into_decluttered()
}

/// Names of input and output, as the graph has them. tract names an input's node after it, and keeps the names of
/// outputs as labels.
fn names(model: &InferenceModel) -> [String; 2] {
    let name = |outlet: Option<&OutletId>, default: &str| {
        outlet.map_or_else(
            || default.to_owned(),
            |outlet| model.outlet_label(*outlet).unwrap_or(&model.node(outlet.node).name).to_owned(),
        )
    };
    [name(model.inputs.first(), "input"), name(model.outputs.first(), "output")]
}

/// One input of f32, whose rank and fixed dimensions are those that are wanted.
fn check_input(model: &InferenceModel, shape: &[usize]) -> Result<()> {
    let inputs = model.inputs.len();
    if inputs != 1 {
        return Err(Error::Interface(format!("it has {inputs} inputs; 1 is needed")));
    }
    let fact =
        model.input_fact(0).map_err(|e| Error::ModelInvalid { step: "read inputs", source: e.into() })?;
    if let Some(kind) = fact.datum_type.concretize()
        && kind != DatumType::F32
    {
        return Err(Error::Interface(format!("its input holds {kind:?}; F32 is needed")));
    }
    let mismatch = || Error::InputShape { model: fact.format_dt_shape(), pipeline: shape.to_vec() };
    let dims: Vec<_> = fact.shape.dims().collect();
    let rank_fits = if fact.shape.is_open() { dims.len() <= shape.len() } else { dims.len() == shape.len() };
    if !rank_fits {
        return Err(mismatch());
    }
    let fixed = |axis: usize| dims[axis].concretize().and_then(|dim| dim.to_i64().ok());
    let differs = |axis: usize| fixed(axis).is_some_and(|dim| usize::try_from(dim) != Ok(shape[axis]));
    if (1..dims.len()).any(differs) { Err(mismatch()) } else { Ok(()) }
}

/// One output of floats, whose shape is known now that the input's is.
fn check_output(model: &TypedModel) -> Result<Vec<usize>> {
    let outputs = model.outputs.len();
    if outputs != 1 {
        return Err(Error::Interface(format!("it has {outputs} outputs; 1 is needed")));
    }
    let fact =
        model.output_fact(0).map_err(|e| Error::ModelInvalid { step: "read outputs", source: e.into() })?;
    if !fact.datum_type.is_float() {
        return Err(Error::Interface(format!("its output holds {:?}; floats are needed", fact.datum_type)));
    }
    let shape = fact.shape.as_concrete().map(<[usize]>::to_vec);
    let bounded = shape.filter(|shape| values(shape).is_some());
    bounded.ok_or_else(|| {
        Error::Interface(format!("its output shape {:?} is not fixed, empty or too large", fact.shape))
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
