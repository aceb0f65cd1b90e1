//! What stands for a value while scales travel: `value = name * factor + zero`.

use std::rc::Rc;

use tract_onnx::pb::TensorProto;

use crate::{DataType, tensor};

/// What stands for a value of the model.
#[derive(Clone, Debug)]
pub(super) struct Held {
    pub(super) source: Source,
    pub(super) factor: Factor,
    pub(super) zero: i64,
    /// The type that the model gives the value.
    pub(super) kind: DataType,
    /// Whether the elements of the source, times the factor, are whole numbers.
    pub(super) whole: bool,
    /// Whether the negative elements of the source stand for zero.
    pub(super) relu: bool,
    /// The scale of a value that was clamped and not rounded: the source has the real numbers.
    pub(super) scale: Option<f32>,
}

/// Where the elements are.
#[derive(Clone, Debug)]
pub(super) enum Source {
    /// In a value of the graph, as floats.
    Value(String),
    /// In a constant that is not written yet.
    Ints(Rc<Ints>),
}

/// What elements are multiplied by.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Factor {
    Scalar(f32),
    /// One for each place of an axis, and the shape that lets them broadcast.
    Channels {
        values: Vec<f32>,
        dims: Vec<usize>,
        axis: usize,
    },
}

impl Factor {
    /// Each number changed.
    pub(super) fn map(&self, change: impl Fn(f32) -> f32) -> Self {
        match self {
            Self::Scalar(value) => Self::Scalar(change(*value)),
            Self::Channels { values, dims, axis } => Self::Channels {
                values: values.iter().map(|&value| change(value)).collect(),
                dims: dims.clone(),
                axis: *axis,
            },
        }
    }

    pub(super) fn is_one(&self) -> bool {
        matches!(self, Self::Scalar(value) if *value == 1.0)
    }

    /// The number for one place of the axis.
    pub(super) fn at(&self, place: usize) -> Option<f32> {
        match self {
            Self::Scalar(value) => Some(*value),
            Self::Channels { values, .. } => values.get(place).copied(),
        }
    }
}

impl Held {
    /// A float value as it stands.
    pub(super) fn plain(name: &str) -> Self {
        Self {
            source: Source::Value(name.into()),
            factor: Factor::Scalar(1.0),
            zero: 0,
            kind: DataType::Float,
            whole: false,
            relu: false,
            scale: None,
        }
    }

    /// A value that holds integers as floats.
    pub(super) fn whole(name: String, kind: DataType) -> Self {
        Self { kind, whole: true, ..Self::plain(&name) }
    }
}

/// A constant of integers.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Ints {
    pub(super) name: String,
    pub(super) dims: Vec<usize>,
    pub(super) data: Vec<i32>,
}

impl Ints {
    pub(super) fn read(tensor: &TensorProto) -> Option<Self> {
        let dims = tensor::check(tensor).ok()?;
        let raw = &tensor.raw_data;
        let typed = || tensor.int32_data.clone();
        let data: Vec<i32> = match DataType::try_from(tensor.data_type).ok()? {
            DataType::Int8 if raw.is_empty() => typed(),
            DataType::Int8 => raw.iter().map(|&b| i32::from(b as i8)).collect(),
            DataType::Uint8 if raw.is_empty() => typed(),
            DataType::Uint8 => raw.iter().map(|&b| i32::from(b)).collect(),
            DataType::Int16 if raw.is_empty() => typed(),
            DataType::Int16 => {
                raw.as_chunks::<2>().0.iter().map(|&b| i32::from(i16::from_le_bytes(b))).collect()
            }
            DataType::Uint16 if raw.is_empty() => typed(),
            DataType::Uint16 => {
                raw.as_chunks::<2>().0.iter().map(|&b| i32::from(u16::from_le_bytes(b))).collect()
            }
            DataType::Int32 if raw.is_empty() => typed(),
            DataType::Int32 => raw.as_chunks::<4>().0.iter().map(|&b| i32::from_le_bytes(b)).collect(),
            kind @ (DataType::Int4 | DataType::Uint4) => {
                let halves = |byte: u8| [byte & 15, byte >> 4];
                let bytes: Vec<u8> =
                    if raw.is_empty() { typed().iter().map(|&v| v as u8).collect() } else { raw.clone() };
                let extend = |v: u8| {
                    if kind == DataType::Int4 { i32::from((v << 4) as i8 >> 4) } else { i32::from(v) }
                };
                bytes.into_iter().flat_map(halves).map(extend).take(dims.iter().product()).collect()
            }
            _ => return None,
        };
        (data.len() == dims.iter().product::<usize>()).then(|| Self { name: tensor.name.clone(), dims, data })
    }

    /// Elements less a zero point for each place of the axis, or one for all.
    pub(super) fn less(&self, zeros: &[i32], axis: usize) -> Option<Self> {
        let inner: usize = self.dims.get(axis + 1..).unwrap_or_default().iter().product::<usize>().max(1);
        let along = self.dims.get(axis).copied().unwrap_or(1).max(1);
        let zero = |place: usize| match zeros {
            [one] => Some(*one),
            many if many.len() == along => many.get(place / inner % along).copied(),
            _ => None,
        };
        let less = |(place, &value): (usize, &i32)| value.checked_sub(zero(place)?);
        let data = self.data.iter().enumerate().map(less).collect::<Option<_>>()?;
        Some(Self { data, ..self.clone() })
    }
}

/// The range of an integer type.
pub(super) fn range(kind: DataType) -> Option<(i64, i64)> {
    Some(match kind {
        DataType::Int8 => (-128, 127),
        DataType::Uint8 => (0, 255),
        DataType::Int16 => (-32768, 32767),
        DataType::Uint16 => (0, 65535),
        DataType::Int4 => (-8, 7),
        DataType::Uint4 => (0, 15),
        _ => return None,
    })
}
