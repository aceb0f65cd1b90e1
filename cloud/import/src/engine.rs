//! The model tried in the engine: whether it loads, and what memory a run takes.

use flotilla_onnx::Model;
use flotilla_onnx::clean::MAX_ELEMENTS;
use tract_onnx::prelude::{
    Framework, InferenceModel, InferenceModelExt, IntoRunnable, TractResult, TypedModel,
};
use tract_onnx::tract_core::model::memory::eval_tmp_memory_usage;
use tract_onnx::tract_hir::infer::Factoid;

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
        bounded(&parsed)?;
        let typed = parsed.into_optimized()?;
        let memory = memory(&typed)?;
        typed.into_runnable()?;
        TractResult::Ok(memory)
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

/// Refuses inner values that no model here needs, before any of them is computed.
fn bounded(model: &InferenceModel) -> TractResult<()> {
    let mut model = model.clone();
    // What cannot be inferred is told when the model is loaded.
    let _ = model.analyse(true);
    for node in model.nodes() {
        for output in &node.outputs {
            let dims = output.fact.shape.dims();
            let sizes = dims
                .filter_map(|dim| dim.concretize()?.to_i64().ok())
                .filter_map(|dim| usize::try_from(dim).ok());
            if sizes.fold(1, usize::saturating_mul) > MAX_ELEMENTS {
                return Err(std::io::Error::other(format!(
                    "`{}` has more than {MAX_ELEMENTS} elements",
                    node.name
                ))
                .into());
            }
        }
    }
    Ok(())
}

/// Weights and activations in memory; none where sizes stay open.
fn memory(model: &TypedModel) -> TractResult<Option<Memory>> {
    let mut weights = 0_u64;
    for node in model.nodes().iter().filter(|node| node.op.name() == "Const") {
        for output in &node.outputs {
            let bytes =
                output.fact.konst.as_ref().map_or(0, |tensor| tensor.len() * tensor.datum_type().size_of());
            weights += bytes as u64;
        }
    }
    let order = model.eval_order()?;
    let steps = eval_tmp_memory_usage(model, &order, |node| node.op.name() != "Const")?;
    let mut peak = None;
    for (node, bytes) in steps {
        let Some(bytes) = bytes.to_i64().ok().and_then(|bytes| u64::try_from(bytes).ok()) else {
            return Ok(None);
        };
        if peak.as_ref().is_none_or(|(most, _)| bytes > *most) {
            peak = Some((bytes, model.node(node).name.clone()));
        }
    }
    let (activations, at) = peak.unwrap_or_default();
    Ok(Some(Memory { weights, activations, at }))
}
