//! Weights that are no numbers.

use flotilla_onnx::pb::{GraphProto, TensorProto};
use flotilla_onnx::{DataType, Model};

use crate::{Error, Result};

/// Refuses a model with a weight that is not a finite number. Masks of zeros and infinities are none.
pub(crate) fn check(model: &Model) -> Result<()> {
    graph(model.graph())
}

fn graph(graph: &GraphProto) -> Result<()> {
    graph.initializer.iter().try_for_each(tensor)?;
    for attribute in graph.node.iter().flat_map(|node| &node.attribute) {
        attribute.t.iter().chain(&attribute.tensors).try_for_each(tensor)?;
        // Nested as deep as files are decoded, which is bounded.
        attribute.g.iter().chain(&attribute.graphs).try_for_each(self::graph)?;
    }
    Ok(())
}

fn tensor(tensor: &TensorProto) -> Result<()> {
    let raw = &tensor.raw_data;
    let bad = match DataType::try_from(tensor.data_type) {
        Ok(DataType::Float) if raw.is_empty() => first_bad(tensor.float_data.iter().copied()),
        Ok(DataType::Float) => first_bad(raw.as_chunks::<4>().0.iter().map(|&b| f32::from_le_bytes(b))),
        Ok(DataType::Double) if raw.is_empty() => first_bad(tensor.double_data.iter().map(|&v| v as f32)),
        Ok(DataType::Double) => {
            first_bad(raw.as_chunks::<8>().0.iter().map(|&b| f64::from_le_bytes(b) as f32))
        }
        // The upper half of a 32-bit float.
        Ok(DataType::Bfloat16) if raw.is_empty() => {
            first_bad(tensor.int32_data.iter().map(|&v| f32::from_bits((v as u32) << 16)))
        }
        Ok(DataType::Bfloat16) => first_bad(
            raw.as_chunks::<2>().0.iter().map(|&b| f32::from_bits(u32::from(u16::from_le_bytes(b)) << 16)),
        ),
        Ok(DataType::Float16) if raw.is_empty() => {
            first_bad(tensor.int32_data.iter().map(|&v| half(v as u16)))
        }
        Ok(DataType::Float16) => {
            first_bad(raw.as_chunks::<2>().0.iter().map(|&b| half(u16::from_le_bytes(b))))
        }
        _ => None,
    };
    match bad {
        Some((element, value)) => Err(Error::NotFinite { tensor: tensor.name.clone(), element, value }),
        None => Ok(()),
    }
}

/// As far as being finite goes: the exponent of a half says that.
fn half(bits: u16) -> f32 {
    match (bits >> 10 & 31, bits & 1023) {
        (31, 0) if bits >> 15 == 1 => f32::NEG_INFINITY,
        (31, 0) => f32::INFINITY,
        (31, _) => f32::NAN,
        (0, 0) => 0.0,
        _ => 1.0,
    }
}

/// The first element that is not finite, if the tensor is no mask.
fn first_bad(values: impl Iterator<Item = f32> + Clone) -> Option<(usize, f32)> {
    let bad = values.clone().enumerate().find(|(_, value)| !value.is_finite())?;
    let mask = values.clone().all(|value| value == 0.0 || value.is_infinite());
    let nan = values.enumerate().find(|(_, value)| value.is_nan());
    (!mask).then(|| nan.unwrap_or(bad))
}

#[cfg(test)]
mod tests {
    use super::*;
    use flotilla_onnx::pb::{AttributeProto, ModelProto, NodeProto, OperatorSetIdProto};
    use flotilla_onnx::{Tensor, tensor_f32};

    /// A model with this tensor in a branch.
    fn branched(tensor: TensorProto) -> Result<()> {
        let branch = GraphProto { initializer: vec![tensor], ..GraphProto::default() };
        let attribute =
            AttributeProto { name: "then_branch".into(), g: Some(branch), ..AttributeProto::default() };
        let node = NodeProto { op_type: "If".into(), attribute: vec![attribute], ..NodeProto::default() };
        let graph = GraphProto { node: vec![node], ..GraphProto::default() };
        let opset_import = vec![OperatorSetIdProto { domain: String::new(), version: 13 }];
        check(&Model::from_proto(ModelProto { graph: Some(graph), opset_import, ..ModelProto::default() })?)
    }

    #[test]
    fn weights_of_branches_and_of_all_kinds_of_floats_are_looked_at() {
        let floats =
            |values: &[f32]| Tensor::new("w", [values.len()], values.to_vec()).map(|t| tensor_f32("w", &t));
        assert!(branched(floats(&[0.5, 1.0]).unwrap_or_default()).is_ok());
        let refused = branched(floats(&[0.5, f32::NAN]).unwrap_or_default());
        assert!(matches!(refused, Err(Error::NotFinite { element: 1, .. })), "{refused:?}");
        // 1 and NaN: in the raw form, and each half in an integer.
        for (kind, one, nan) in
            [(DataType::Float16, 0x3c00_u16, 0x7e00_u16), (DataType::Bfloat16, 0x3f80, 0x7fc0)]
        {
            let tensor = TensorProto {
                name: "w".into(),
                dims: vec![2],
                data_type: kind as i32,
                ..TensorProto::default()
            };
            let raw_data = [one, nan].iter().flat_map(|bits| bits.to_le_bytes()).collect();
            let int32_data = vec![i32::from(one), i32::from(nan)];
            for tensor in [TensorProto { raw_data, ..tensor.clone() }, TensorProto { int32_data, ..tensor }] {
                assert!(matches!(branched(tensor), Err(Error::NotFinite { element: 1, .. })), "{kind:?}");
            }
        }
    }
}
