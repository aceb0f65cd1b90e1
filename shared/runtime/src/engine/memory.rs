//! What memory a run takes, by the engine's own account of its graph.

use super::{invalid, parse, unsupported};
use crate::Result;
use crate::error::no_panic;
use serde::{Deserialize, Serialize};
use tract_onnx::prelude::{InferenceModelExt, IntoRunnable, TractResult, TypedModel};
use tract_onnx::tract_core::model::TypedNode;

/// Memory of one run, in bytes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Memory {
    /// Weights as the engine holds them: 8-bit ones as floats.
    pub weights: u64,
    /// The most that inputs, outputs and values between take at once.
    pub activations: u64,
    /// The layer at which that is.
    pub at: String,
}

/// Loads a model as [`Engine::load`](super::Engine::load) does, with inputs of the sizes that the file says, without
/// running it: what memory a run takes; none where sizes stay open.
pub fn memory(onnx: &[u8]) -> Result<Option<Memory>> {
    let parsed = invalid("read", no_panic(|| parse(onnx)))?;
    let typed = unsupported("infer shapes", no_panic(|| parsed.into_typed()?.into_decluttered()))?;
    of_typed(typed)
}

/// The same of a model whose shapes are inferred.
pub(super) fn of_typed(typed: TypedModel) -> Result<Option<Memory>> {
    let counted = no_panic(|| {
        let weights = weights(&typed);
        let optimised = typed.into_optimized()?;
        let activations = activations(&optimised)?;
        optimised.into_runnable()?;
        TractResult::Ok(activations.map(|(activations, at)| Memory { weights, activations, at }))
    });
    unsupported("optimise", counted)
}

/// Bytes of all constants, 8-bit weights as the floats that they are computed with.
fn weights(model: &TypedModel) -> u64 {
    let facts = model.nodes().iter().filter(|node| is_constant(node)).flat_map(|node| &node.outputs);
    let tensors = facts.filter_map(|output| output.fact.konst.as_ref());
    tensors.map(|tensor| (tensor.len() * tensor.datum_type().size_of()) as u64).sum()
}

fn is_constant(node: &TypedNode) -> bool {
    node.op.name() == "Const"
}

/// Nodes that make no tensor of their own, but look at another's.
fn is_view(node: &TypedNode) -> bool {
    matches!(&*node.op.name(), "LazyIm2col" | "IntoShape")
}

/// The most that values between weights take at once, in the order in which the engine runs, and where that is; none
/// where sizes stay open.
fn activations(model: &TypedModel) -> TractResult<Option<(u64, String)>> {
    let order = model.eval_order()?;
    let mut bytes = vec![0_u64; model.nodes().len()];
    for node in model.nodes().iter().filter(|node| !is_constant(node) && !is_view(node)) {
        for output in &node.outputs {
            let Some(size) = output.fact.mem_size().to_i64().ok().and_then(|size| u64::try_from(size).ok())
            else {
                return Ok(None);
            };
            bytes[node.id] += size;
        }
    }
    // The step after which a value is not needed any more. What a view looks at is needed as long as the view.
    let mut last = vec![0_usize; model.nodes().len()];
    for outlet in model.output_outlets()? {
        last[outlet.node] = order.len();
    }
    for (step, &id) in order.iter().enumerate().rev() {
        let node = model.node(id);
        let until = if is_view(node) { last[id].max(step) } else { step };
        for input in &node.inputs {
            last[input.node] = last[input.node].max(until);
        }
    }
    let mut ends: Vec<Vec<usize>> = vec![Vec::new(); order.len() + 1];
    let (mut live, mut peak) = (0_u64, (0_u64, String::new()));
    for (step, &id) in order.iter().enumerate() {
        live += bytes[id];
        ends[last[id].max(step)].push(id);
        if live > peak.0 {
            peak = (live, model.node(id).name.clone());
        }
        live -= ends[step].iter().map(|&id| bytes[id]).sum::<u64>();
    }
    Ok(Some(peak))
}
