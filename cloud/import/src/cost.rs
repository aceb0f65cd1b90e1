//! Multiplications of one run: those of convolutions, matrix products and recurrent layers, as papers count them.

use std::collections::HashMap;

use flotilla_onnx::clean::Known;
use flotilla_onnx::pb::NodeProto;
use flotilla_onnx::{Attributes, Model};

/// Multiply-accumulates of one run; none where the shape of a layer is open.
pub(crate) fn multiplications(model: &Model, known: &HashMap<String, Known>) -> Option<u64> {
    let mut total = 0_u64;
    for node in model.nodes() {
        total = total.checked_add(of_node(node, known)?)?;
    }
    Some(total)
}

fn of_node(node: &NodeProto, known: &HashMap<String, Known>) -> Option<u64> {
    let fixed = |name: Option<&String>| known.get(name?)?.fixed();
    let input = |place: usize| fixed(node.input.get(place));
    let elements = |dims: &[usize]| dims.iter().try_fold(1_u64, |all, &dim| all.checked_mul(dim as u64));
    let output = || elements(&fixed(node.output.iter().find(|name| !name.is_empty()))?);
    match node.op_type.as_str() {
        "Conv" => output()?.checked_mul(elements(input(1)?.get(1..)?)?),
        "ConvTranspose" => elements(&input(0)?)?.checked_mul(elements(input(1)?.get(1..)?)?),
        "Gemm" => {
            let dims = input(0)?;
            let depth = if node.int("transA").unwrap_or(0) == 0 { dims.last() } else { dims.first() };
            output()?.checked_mul(*depth? as u64)
        }
        "MatMul" => output()?.checked_mul(*input(0)?.last()? as u64),
        "MatMulNBits" => output()?.checked_mul(u64::try_from(node.int("K")?).ok()?),
        "LSTM" | "GRU" | "RNN" => {
            let x = input(0)?;
            let rows = elements(x.get(..2)?)?;
            rows.checked_mul(elements(&input(1)?)?.checked_add(elements(&input(2)?)?)?)
        }
        _ => Some(0),
    }
}
