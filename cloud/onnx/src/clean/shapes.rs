//! Shapes and types of all values, as the engine infers them.

use std::collections::HashMap;

use tract_onnx::prelude::{DatumType, Framework, InferenceModel, OutletId};
use tract_onnx::tract_hir::infer::Factoid;
use tract_onnx::tract_hir::internal::InferenceModelExt as _;

use crate::{Dim, Model, Value};

/// What is known of a value.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Known {
    /// Its dimensions, each if it is fixed; none where even their number is open.
    pub(super) dims: Option<Vec<Option<usize>>>,
    pub(super) float: bool,
}

impl Known {
    /// The dimensions, if all are fixed.
    pub(super) fn fixed(&self) -> Option<Vec<usize>> {
        self.dims.as_ref()?.iter().copied().collect()
    }

    pub(super) fn rank(&self) -> Option<usize> {
        self.dims.as_ref().map(Vec::len)
    }
}

/// What the engine infers of every value, as far as it understands the model.
pub(super) fn infer(model: &Model) -> HashMap<String, Known> {
    let proto = model.clone().into_proto();
    // The engine has a few checks that panic; what it cannot tell is then not known.
    let analysed = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        let mut model = tract_onnx::onnx()
            .with_ignore_output_shapes(true)
            .with_ignore_value_info(true)
            .model_for_proto_model(&proto)
            .ok()?;
        // Errors of single nodes leave the others their facts.
        let _ = model.analyse(true);
        Some(known(&model))
    }));
    analysed.ok().flatten().unwrap_or_default()
}

fn known(model: &InferenceModel) -> HashMap<String, Known> {
    let mut all = HashMap::new();
    for node in model.nodes() {
        for (slot, output) in node.outputs.iter().enumerate() {
            let label = model.outlet_label(OutletId::new(node.id, slot)).unwrap_or(&node.name);
            let shape = &output.fact.shape;
            let dim = |dim: tract_onnx::tract_hir::infer::DimFact| {
                dim.concretize().and_then(|dim| dim.to_i64().ok()).and_then(|dim| usize::try_from(dim).ok())
            };
            let dims = (!shape.is_open()).then(|| shape.dims().cloned().map(dim).collect());
            let float = output.fact.datum_type.concretize() == Some(DatumType::F32);
            all.insert(label.to_owned(), Known { dims, float });
        }
    }
    all
}

/// Outputs carry the shapes that the engine infers: what files claim is often wrong, or open where nothing is.
pub(super) fn of_outputs(model: &mut Model) {
    let known = infer(model);
    for info in &mut model.graph_mut().output {
        let value = Value::from(&*info);
        if let (Some(known), Some(data_type)) = (known.get(&value.name), value.data_type)
            && let Some(inferred) = &known.dims
        {
            let claimed = value.dims.filter(|claimed| claimed.len() == inferred.len()).unwrap_or_default();
            let dim = |(axis, dim): (usize, &Option<usize>)| match (dim, claimed.get(axis)) {
                (Some(size), _) => Dim::Fixed(*size),
                (None, Some(claimed)) => claimed.clone(),
                (None, None) => Dim::Unknown,
            };
            let dims = inferred.iter().enumerate().map(dim).collect();
            *info = Value { name: value.name, data_type: Some(data_type), dims: Some(dims) }.into();
        }
    }
}
