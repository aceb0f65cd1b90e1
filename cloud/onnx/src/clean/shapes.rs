//! Shapes and types of all values, as the engine infers them.

use std::collections::HashMap;

use tract_onnx::prelude::{DatumType, Framework, InferenceModel, OutletId};
use tract_onnx::tract_hir::infer::Factoid;
use tract_onnx::tract_hir::internal::InferenceModelExt as _;

use crate::{DataType, Dim, Model, Value};

/// What the engine infers of a value.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Known {
    /// The type of its elements, if it is known and one that files have.
    pub data_type: Option<DataType>,
    /// Its dimensions, each if it is fixed; none where even their number is open.
    pub dims: Option<Vec<Option<usize>>>,
}

impl Known {
    /// The dimensions, if all are fixed.
    #[must_use]
    pub fn fixed(&self) -> Option<Vec<usize>> {
        self.dims.as_ref()?.iter().copied().collect()
    }

    /// The number of dimensions.
    #[must_use]
    pub fn rank(&self) -> Option<usize> {
        self.dims.as_ref().map(Vec::len)
    }

    /// Elements, if all dimensions are fixed.
    #[must_use]
    pub fn elements(&self) -> Option<usize> {
        self.fixed()?.into_iter().try_fold(1_usize, usize::checked_mul)
    }
}

/// What the engine infers of every value, as far as it understands the model.
#[must_use]
pub fn infer(model: &Model) -> HashMap<String, Known> {
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
            let data_type = output.fact.datum_type.concretize().and_then(data_type);
            all.insert(label.to_owned(), Known { data_type, dims });
        }
    }
    all
}

fn data_type(kind: DatumType) -> Option<DataType> {
    Some(match kind {
        DatumType::Bool => DataType::Bool,
        DatumType::U8 => DataType::Uint8,
        DatumType::U16 => DataType::Uint16,
        DatumType::U32 => DataType::Uint32,
        DatumType::U64 => DataType::Uint64,
        DatumType::I8 => DataType::Int8,
        DatumType::I16 => DataType::Int16,
        DatumType::I32 => DataType::Int32,
        // The engine has a type of its own for sizes.
        DatumType::I64 | DatumType::TDim => DataType::Int64,
        DatumType::F16 => DataType::Float16,
        DatumType::F32 => DataType::Float,
        DatumType::F64 => DataType::Double,
        _ => return None,
    })
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
