//! Looking into a model: every output of a graph, whatever their number, and what running it takes.
//!
//! For calibration and for reports, not for devices: [`Engine`](super::Engine) is what serves.

use super::memory::{self, Memory};
use super::{Given, flatten, input_names, invalid, match_inputs, parse, typed, unsupported, values};
use crate::error::no_panic;
use crate::{Error, Result};
use flotilla_protocol::limits::TENSOR_VALUES;
use flotilla_protocol::pipeline::TensorKind;
use serde::{Deserialize, Serialize};
use std::sync::Arc;
use tract_onnx::prelude::{
    IntoRunnable, Tensor, TractResult, TypedModel, TypedRunnableModel, TypedSimpleState, tvec,
};
use tract_onnx::tract_core::internal::{Cost as OperatorCost, DatumType};

/// A loaded model with one f32 input and any number of outputs.
pub struct Probe {
    plan: Arc<TypedRunnableModel>,
    state: Option<TypedSimpleState>,
    input_shape: Vec<usize>,
}

/// What an output of a graph holds.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Array {
    /// Its shape, batch included.
    pub shape: Vec<usize>,
    /// Its values in row-major order.
    pub values: Vec<f32>,
}

impl Probe {
    /// Loads a model from untrusted bytes for inputs of exactly `input_shape`, batch included.
    pub fn load(onnx: &[u8], input_shape: &[usize]) -> Result<Self> {
        let model = load(onnx, input_shape)?;
        let plan = unsupported("optimise", no_panic(|| model.into_optimized()?.into_runnable()))?;
        Ok(Self { plan, state: None, input_shape: input_shape.to_vec() })
    }

    /// Every output of the graph for one input, as floats.
    pub fn run(&mut self, input: &[f32]) -> Result<Vec<Array>> {
        let need = self.input_shape.iter().product();
        if input.len() != need {
            return Err(Error::TensorLength { got: input.len(), need });
        }
        let state = self.state.take();
        let (plan, shape) = (&self.plan, &self.input_shape);
        let run = no_panic(|| {
            let mut state = state.map_or_else(|| plan.spawn(), Ok)?;
            let outputs = state.run(tvec!(Tensor::from_shape(shape, input)?.into()))?;
            let array = |output: &Tensor| {
                let output = output.cast_to::<f32>()?;
                let values = output.to_plain_array_view::<f32>()?.iter().copied().collect();
                TractResult::Ok(Array { shape: output.shape().to_vec(), values })
            };
            let arrays = outputs.iter().map(|output| array(output)).collect::<TractResult<Vec<_>>>()?;
            TractResult::Ok((state, arrays))
        });
        let (state, arrays) = flatten(run).map_err(Error::Run)?;
        self.state = Some(state);
        Ok(arrays)
    }
}

impl std::fmt::Debug for Probe {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Probe({:?})", self.input_shape)
    }
}

/// What one run of a model takes, by the engine's own account of its graph.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cost {
    /// Multiplications with an addition.
    pub macs: u64,
    /// Bytes of memory at the worst moment: constants as the engine keeps them, and the values that are alive.
    pub peak_bytes: u64,
}

/// What one run of a model takes, without running it.
pub fn cost(onnx: &[u8], input_shape: &[usize]) -> Result<Cost> {
    let model = load(onnx, input_shape)?;
    let macs = unsupported("count", no_panic(|| multiplications(&model)))?;
    let Some(Memory { weights, activations, .. }) = memory::of_typed(model)? else {
        return Err(Error::Interface("the sizes of its inner values are not fixed by its input".to_owned()));
    };
    Ok(Cost { macs, peak_bytes: weights.saturating_add(activations) })
}

fn multiplications(model: &TypedModel) -> TractResult<u64> {
    let mut macs = 0_u64;
    for node in model.nodes() {
        // What is constant is computed when the model is loaded.
        if node.outputs.iter().all(|output| output.fact.konst.is_some()) {
            continue;
        }
        for (kind, times) in node.op.cost(&model.node_input_facts(node.id)?)? {
            if matches!(
                kind,
                OperatorCost::FMA(DatumType::F32 | DatumType::F16 | DatumType::I32 | DatumType::I8)
            ) {
                let times = times.to_i64().ok().and_then(|times| u64::try_from(times).ok());
                macs = macs.saturating_add(times.unwrap_or_default());
            }
        }
    }
    Ok(macs)
}

fn load(onnx: &[u8], input_shape: &[usize]) -> Result<TypedModel> {
    values(input_shape).ok_or_else(|| {
        Error::Interface(format!("an input of {input_shape:?} is over {TENSOR_VALUES} values"))
    })?;
    let parsed = invalid("read", no_panic(|| parse(onnx)))?;
    let inputs = match_inputs(&parsed, &input_names(&parsed), &[Given::of(input_shape)])?;
    if let Some(input) = inputs.iter().find(|input| input.port.kind != TensorKind::Fp32) {
        return Err(Error::Interface(format!("its input holds {}; FP32 is needed", input.port.kind)));
    }
    unsupported("infer shapes", no_panic(|| typed(parsed, &inputs)))
}
