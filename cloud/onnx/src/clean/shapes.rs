//! Shapes and types of all values, as the engine infers them.

use std::collections::HashMap;

use tract_onnx::prelude::{DatumType, Framework, InferenceFact, InferenceModel, OutletId, TDim};
use tract_onnx::tract_hir::infer::Factoid;

use super::MAX_ELEMENTS;
use crate::{DataType, Dim, Model, Value};

/// Terms that an open size may have.
const MAX_TERMS: usize = 64;

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

/// What the engine infers of a model.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Inferred {
    /// What is known of each value.
    pub values: HashMap<String, Known>,
    /// Why inference was given up: sizes that do not fit each other, or that no model here needs. Such a model must not be
    /// loaded: the engine reckons with sizes that do not fit as with unknowns, and its terms grow without end.
    pub problem: Option<String>,
}

/// What the engine infers of every value, as far as it understands the model.
#[must_use]
pub fn infer(model: &Model) -> Inferred {
    let proto = model.clone().into_proto();
    // The engine has a few checks that panic; what it cannot tell is then not known.
    let analysed = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        let mut model = tract_onnx::onnx()
            .with_ignore_output_shapes(true)
            .with_ignore_value_info(true)
            .model_for_proto_model(&proto)
            .ok()?;
        let problem = forward(&mut model);
        Some(Inferred { values: known(&model), problem })
    }));
    analysed.ok().flatten().unwrap_or_default()
}

/// Infers each node once, in the order in which they run, and stops where sizes make no sense. A node that the engine
/// cannot infer leaves its values unknown.
fn forward(model: &mut InferenceModel) -> Option<String> {
    for id in model.eval_order().ok()? {
        let node = model.node(id);
        if node.inputs.is_empty() {
            continue;
        }
        let facts = |outlets: &[OutletId]| {
            let facts = outlets.iter().map(|&outlet| model.outlet_fact(outlet).ok().cloned());
            facts.collect::<Option<Vec<InferenceFact>>>()
        };
        let inputs = facts(&node.inputs)?;
        let outputs: Vec<InferenceFact> = node.outputs.iter().map(|output| output.fact.clone()).collect();
        let observed = facts(&node.op.observe_outlets(model, node).ok()?)?;
        let mut op = node.op.clone();
        let name = node.name.clone();
        if inputs.iter().all(|input| input.value.concretize().is_some()) {
            // The engine computes what such a node gives before it looks at the size of it.
            let sizes = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
                let (inputs, outputs) = (inputs.iter().collect(), outputs.iter().collect());
                op.clone().infer_facts(inputs, outputs, observed.iter().collect()).ok()
            }));
            let sizes = sizes.ok().flatten().map(|(_, outputs, _)| outputs).unwrap_or_default();
            if let Some(problem) = sizes.iter().find_map(senseless) {
                return Some(format!("the sizes of `{name}` {problem}"));
            }
        }
        let inferred = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            op.infer(inputs.iter().collect(), outputs.iter().collect(), observed.iter().collect()).ok()
        }));
        let Some((_, inferred, _)) = inferred.ok().flatten() else { continue };
        for (slot, (fact, before)) in inferred.into_iter().zip(&outputs).enumerate() {
            let Ok(fact) = before.unify(&fact) else { continue };
            if let Some(problem) = senseless(&fact) {
                return Some(format!("the sizes of `{name}` {problem}"));
            }
            model.set_outlet_fact(OutletId::new(id, slot), fact).ok()?;
        }
    }
    None
}

/// What is wrong with the sizes of a value.
fn senseless(fact: &InferenceFact) -> Option<&'static str> {
    let mut elements = 1_usize;
    for dim in fact.shape.dims().filter_map(|dim| dim.concretize()) {
        match dim.to_i64() {
            Ok(size) => match usize::try_from(size) {
                Ok(size) => elements = elements.saturating_mul(size),
                Err(_) => return Some("are negative"),
            },
            Err(_) if dim.symbols().is_empty() => return Some("do not fit each other"),
            Err(_) if terms(&dim) > MAX_TERMS => return Some("are too complicated"),
            Err(_) => {}
        }
    }
    (elements > MAX_ELEMENTS).then_some("are beyond all bounds")
}

/// Terms of an open size, counted up to the bound.
fn terms(dim: &TDim) -> usize {
    match dim {
        TDim::Val(_) | TDim::Sym(_) => 1,
        TDim::Add(parts)
        | TDim::Mul(parts)
        | TDim::Broadcast(parts)
        | TDim::Min(parts)
        | TDim::Max(parts) => {
            parts.iter().fold(1, |all, part| if all > MAX_TERMS { all } else { all + terms(part) })
        }
        TDim::MulInt(_, inner) | TDim::Div(inner, _) => 1 + terms(inner),
        TDim::Ge(a, b) | TDim::Eq(a, b) => 1 + terms(a) + terms(b),
    }
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
    let known = infer(model).values;
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
