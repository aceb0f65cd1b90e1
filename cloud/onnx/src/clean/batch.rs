//! Open dimensions of inputs: the batch becomes one, others what the caller says.

use std::collections::HashMap;

use tract_onnx::pb::{ValueInfoProto, tensor_shape_proto::dimension, type_proto};

use super::{Changes, Options};
use crate::{Dim, Model, Result, Value};

/// Names that exporters give a batch, for inputs of one dimension, which could as well be a length.
const BATCH_NAMES: [&str; 4] = ["n", "batch", "batch_size", "batchsize"];

/// Fixes open dimensions of inputs, and of outputs of the same symbol.
pub(super) fn fix(model: &mut Model, options: &Options) -> Result<Changes> {
    let mut sizes: HashMap<String, usize> = options.dimensions.iter().map(|(k, &v)| (k.clone(), v)).collect();
    let mut changes = Changes::default();
    let inputs = model.inputs();
    for input in &inputs {
        let dims = input.dims.as_deref().unwrap_or_default();
        match dims.first() {
            Some(Dim::Symbol(symbol))
                if dims.len() > 1 || BATCH_NAMES.contains(&symbol.to_lowercase().as_str()) =>
            {
                sizes.entry(symbol.clone()).or_insert(options.batch);
            }
            Some(Dim::Unknown) if dims.len() > 1 => {
                sizes.entry(place(input, 0)).or_insert(options.batch);
            }
            _ => {}
        }
    }
    let graph = model.graph_mut();
    for info in graph.input.iter_mut().chain(&mut graph.output) {
        changes.count += fix_value(info, &sizes);
    }
    for input in model.inputs() {
        let open = |(axis, dim): (usize, &Dim)| match dim {
            Dim::Fixed(_) => None,
            Dim::Symbol(symbol) => Some(symbol.clone()),
            Dim::Unknown => Some(place(&input, axis)),
        };
        let dims = input.dims.as_deref().unwrap_or_default();
        for name in dims.iter().enumerate().filter_map(open) {
            changes
                .notes
                .push(format!("dimension `{name}` of input `{}` is open: say what it is", input.name));
        }
    }
    Ok(changes)
}

/// What a dimension without a name is called.
fn place(value: &Value, axis: usize) -> String {
    format!("{}[{axis}]", value.name)
}

fn fix_value(info: &mut ValueInfoProto, sizes: &HashMap<String, usize>) -> u64 {
    let value = Value::from(&*info);
    let tensor = info.r#type.as_mut().and_then(|t| t.value.as_mut());
    let Some(type_proto::Value::TensorType(type_proto::Tensor { shape: Some(shape), .. })) = tensor else {
        return 0;
    };
    let mut count = 0;
    for (axis, (proto, dim)) in shape.dim.iter_mut().zip(value.dims.iter().flatten()).enumerate() {
        let size = match dim {
            Dim::Fixed(_) => None,
            Dim::Symbol(symbol) => sizes.get(symbol),
            Dim::Unknown => sizes.get(&place(&value, axis)),
        };
        if let Some(size) = size.and_then(|&size| i64::try_from(size).ok()) {
            proto.value = Some(dimension::Value::DimValue(size));
            count += 1;
        }
    }
    count
}
