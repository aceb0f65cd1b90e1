//! Weights that are no numbers.

use flotilla_onnx::pb::TensorProto;
use flotilla_onnx::{DataType, Model};

use crate::{Error, Result};

/// Refuses a model with a weight that is not a finite number. Masks of zeros and infinities are none.
pub(crate) fn check(model: &Model) -> Result<()> {
    let constants = model.nodes().iter().flat_map(|node| &node.attribute).filter_map(|a| a.t.as_ref());
    model.initializers().iter().chain(constants).try_for_each(tensor)
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
