//! The model tried in the engine: whether it loads, and what memory a run takes.

use flotilla_onnx::Model;
use tract_onnx::prelude::{Framework, InferenceModelExt, IntoRunnable, TractResult, TypedModel};
use tract_onnx::tract_core::model::TypedNode;

use crate::Memory;

/// What the engine says of a model.
#[derive(Debug, Default)]
pub(crate) struct Tried {
    /// Why it does not run; none if it does.
    pub(crate) error: Option<String>,
    pub(crate) memory: Option<Memory>,
}

/// Loads a model as the runtime does, without running it.
pub(crate) fn try_model(model: &Model) -> Tried {
    let proto = model.clone().into_proto();
    // A few checks of the engine panic.
    let tried = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        let loader = tract_onnx::onnx().with_ignore_output_shapes(true).with_ignore_value_info(true);
        let parsed = loader.model_for_proto_model(&proto)?;
        let typed = parsed.into_typed()?.into_decluttered()?;
        let weights = weights(&typed);
        let optimised = typed.into_optimized()?;
        let activations = activations(&optimised)?;
        optimised.into_runnable()?;
        TractResult::Ok(activations.map(|(activations, at)| Memory { weights, activations, at }))
    }));
    match tried {
        Ok(Ok(memory)) => Tried { error: None, memory },
        Ok(Err(error)) => Tried { error: Some(chain(&error)), memory: None },
        Err(_) => Tried { error: Some("the engine panicked while it loaded the model".into()), memory: None },
    }
}

/// The causes on one line, each once: the engine repeats itself.
fn chain(error: &(impl std::ops::Deref<Target = dyn std::error::Error + Send + Sync> + ?Sized)) -> String {
    let mut parts: Vec<String> = Vec::new();
    let mut next: Option<&dyn std::error::Error> = Some(&**error);
    while let Some(cause) = next {
        let text = cause.to_string();
        if !parts.contains(&text) {
            parts.push(text);
        }
        next = cause.source();
    }
    let text = parts.join(": ").replace(['\n', '\r'], " ");
    text.chars().take(1000).collect()
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
