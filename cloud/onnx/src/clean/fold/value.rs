//! Small constants in memory.

use tract_onnx::pb::TensorProto;

use super::MAX_ELEMENTS;
use crate::{DataType, tensor};

/// Elements of a constant: integers and truth values in one form, floats in another.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Data {
    /// Integers of any width, and truth values as 0 and 1.
    Ints(Vec<i64>),
    /// 32-bit floats.
    Floats(Vec<f32>),
}

/// A small constant.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Constant {
    pub(super) dims: Vec<usize>,
    pub(super) data: Data,
    pub(super) data_type: DataType,
}

impl Constant {
    /// A tensor of a type that is computed with here, if it is small.
    pub(super) fn read(proto: &TensorProto) -> Option<Self> {
        let elements = tensor::elements(proto).ok().filter(|&n| n <= MAX_ELEMENTS)?;
        let data_type = DataType::try_from(proto.data_type).ok()?;
        let raw = &proto.raw_data;
        let data = match data_type {
            DataType::Float => Data::Floats(tensor::read_f32(proto).ok()?.data),
            DataType::Int64 => Data::Ints(tensor::read_i64(proto).ok()?.data),
            DataType::Int32 if raw.is_empty() => {
                Data::Ints(proto.int32_data.iter().map(|&v| v.into()).collect())
            }
            DataType::Int32 => {
                Data::Ints(raw.as_chunks::<4>().0.iter().map(|&b| i32::from_le_bytes(b).into()).collect())
            }
            DataType::Bool if raw.is_empty() => {
                Data::Ints(proto.int32_data.iter().map(|&v| i64::from(v != 0)).collect())
            }
            DataType::Bool => Data::Ints(raw.iter().map(|&b| i64::from(b != 0)).collect()),
            _ => return None,
        };
        let dims = proto.dims.iter().map(|&dim| usize::try_from(dim).ok()).collect::<Option<_>>()?;
        let constant = Self { dims, data, data_type };
        (constant.len() == elements).then_some(constant)
    }

    pub(super) fn write(&self, name: &str) -> TensorProto {
        let raw_data = match &self.data {
            Data::Floats(values) => values.iter().flat_map(|v| v.to_le_bytes()).collect(),
            Data::Ints(values) => match self.data_type {
                DataType::Bool => values.iter().map(|&v| u8::from(v != 0)).collect(),
                // Casting wraps as the operators do.
                DataType::Int32 => values.iter().flat_map(|&v| (v as i32).to_le_bytes()).collect(),
                _ => values.iter().flat_map(|v| v.to_le_bytes()).collect(),
            },
        };
        TensorProto {
            name: name.into(),
            dims: self.dims.iter().map(|&dim| i64::try_from(dim).unwrap_or(-1)).collect(),
            data_type: self.data_type as i32,
            raw_data,
            ..TensorProto::default()
        }
    }

    pub(super) fn ints(dims: Vec<usize>, values: Vec<i64>) -> Self {
        Self { dims, data: Data::Ints(values), data_type: DataType::Int64 }
    }

    pub(super) fn truths(dims: Vec<usize>, values: Vec<bool>) -> Self {
        let values = values.into_iter().map(i64::from).collect();
        Self { dims, data: Data::Ints(values), data_type: DataType::Bool }
    }

    pub(super) fn len(&self) -> usize {
        match &self.data {
            Data::Ints(values) => values.len(),
            Data::Floats(values) => values.len(),
        }
    }

    pub(super) fn as_ints(&self) -> Option<&[i64]> {
        match &self.data {
            Data::Ints(values) => Some(values),
            Data::Floats(_) => None,
        }
    }

    /// The same elements at other places: `places` says for each new element which old one it is.
    pub(super) fn pick(&self, dims: Vec<usize>, places: impl IntoIterator<Item = usize>) -> Option<Self> {
        let data = match &self.data {
            Data::Ints(values) => {
                Data::Ints(places.into_iter().map(|p| values.get(p).copied()).collect::<Option<_>>()?)
            }
            Data::Floats(values) => {
                Data::Floats(places.into_iter().map(|p| values.get(p).copied()).collect::<Option<_>>()?)
            }
        };
        Some(Self { dims, data, data_type: self.data_type })
    }

    /// The same elements with other dimensions.
    pub(super) fn shaped(&self, dims: Vec<usize>) -> Option<Self> {
        (count(&dims)? == self.len()).then(|| Self { dims, ..self.clone() })
    }
}

/// Elements of these dimensions, if they are few enough.
pub(super) fn count(dims: &[usize]) -> Option<usize> {
    dims.iter().try_fold(1_usize, |all, &dim| all.checked_mul(dim)).filter(|&n| n <= MAX_ELEMENTS)
}

/// What two shapes give by broadcasting.
pub(super) fn broadcast(a: &[usize], b: &[usize]) -> Option<Vec<usize>> {
    let rank = a.len().max(b.len());
    let at = |dims: &[usize], axis: usize| (axis + dims.len()).checked_sub(rank).map_or(1, |axis| dims[axis]);
    let dims: Option<Vec<usize>> = (0..rank)
        .map(|axis| match (at(a, axis), at(b, axis)) {
            (x, y) if x == y => Some(x),
            (1, y) => Some(y),
            (x, 1) => Some(x),
            _ => None,
        })
        .collect();
    dims.filter(|dims| count(dims).is_some())
}

/// For each element of `to`, the place of the element of `from` that broadcasting puts there.
pub(super) fn places(from: &[usize], to: &[usize]) -> Vec<usize> {
    let total = to.iter().product();
    let skipped = to.len() - from.len();
    let mut places = Vec::with_capacity(total);
    for index in 0..total {
        let (mut rest, mut place, mut step) = (index, 0, 1);
        for axis in (0..to.len()).rev() {
            let here = rest % to[axis];
            rest /= to[axis];
            if let Some(axis) = axis.checked_sub(skipped) {
                place += if from[axis] == 1 { 0 } else { here * step };
                step *= from[axis];
            }
        }
        places.push(place);
    }
    places
}
