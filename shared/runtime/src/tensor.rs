//! Values of tensors, in row-major order.

use flotilla_protocol::pipeline::{TensorKind, TensorSpec};
use serde::{Deserialize, Serialize};
use std::borrow::Cow;

/// The values of one tensor.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[expect(missing_docs, reason = "the variants are those of TensorKind")]
pub enum Values {
    Fp32(Vec<f32>),
    Fp64(Vec<f64>),
    Int8(Vec<i8>),
    Int16(Vec<i16>),
    Int32(Vec<i32>),
    Int64(Vec<i64>),
    Uint8(Vec<u8>),
    Uint16(Vec<u16>),
    Uint32(Vec<u32>),
    Uint64(Vec<u64>),
    Bool(Vec<bool>),
}

/// A tensor of a network: its name, what it holds, its shape with a batch of one.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Port {
    /// Its name in the graph.
    pub name: String,
    /// What it holds.
    pub kind: TensorKind,
    /// Its shape; empty for a scalar.
    pub shape: Vec<usize>,
}

impl Port {
    /// Number of values.
    pub fn values(&self) -> usize {
        self.shape.iter().product()
    }

    /// Bytes of its values.
    pub fn bytes(&self) -> usize {
        self.values() * self.kind.bytes()
    }
}

impl From<&TensorSpec> for Port {
    fn from(spec: &TensorSpec) -> Self {
        Self { name: spec.name.clone(), kind: spec.kind, shape: spec.dims() }
    }
}

/// One arm a kind: the same expression over values of any type.
macro_rules! each {
    ($values:expr, $list:ident => $do:expr) => {
        match $values {
            Values::Fp32($list) => $do,
            Values::Fp64($list) => $do,
            Values::Int8($list) => $do,
            Values::Int16($list) => $do,
            Values::Int32($list) => $do,
            Values::Int64($list) => $do,
            Values::Uint8($list) => $do,
            Values::Uint16($list) => $do,
            Values::Uint32($list) => $do,
            Values::Uint64($list) => $do,
            Values::Bool($list) => $do,
        }
    };
}

impl Values {
    /// What they are.
    pub fn kind(&self) -> TensorKind {
        match self {
            Values::Fp32(_) => TensorKind::Fp32,
            Values::Fp64(_) => TensorKind::Fp64,
            Values::Int8(_) => TensorKind::Int8,
            Values::Int16(_) => TensorKind::Int16,
            Values::Int32(_) => TensorKind::Int32,
            Values::Int64(_) => TensorKind::Int64,
            Values::Uint8(_) => TensorKind::Uint8,
            Values::Uint16(_) => TensorKind::Uint16,
            Values::Uint32(_) => TensorKind::Uint32,
            Values::Uint64(_) => TensorKind::Uint64,
            Values::Bool(_) => TensorKind::Bool,
        }
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        each!(self, list => list.len())
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// So many zeros.
    pub fn zeros(kind: TensorKind, count: usize) -> Self {
        match kind {
            TensorKind::Fp32 => Values::Fp32(vec![0.0; count]),
            TensorKind::Fp64 => Values::Fp64(vec![0.0; count]),
            TensorKind::Int8 => Values::Int8(vec![0; count]),
            TensorKind::Int16 => Values::Int16(vec![0; count]),
            TensorKind::Int32 => Values::Int32(vec![0; count]),
            TensorKind::Int64 => Values::Int64(vec![0; count]),
            TensorKind::Uint8 => Values::Uint8(vec![0; count]),
            TensorKind::Uint16 => Values::Uint16(vec![0; count]),
            TensorKind::Uint32 => Values::Uint32(vec![0; count]),
            TensorKind::Uint64 => Values::Uint64(vec![0; count]),
            TensorKind::Bool => Values::Bool(vec![false; count]),
        }
    }

    /// These numbers as values of a kind; none where one of them is not exactly such a value. 32-bit floats are rounded
    /// to, as a number in decimals always is.
    pub fn from_f64(kind: TensorKind, numbers: &[f64]) -> Option<Self> {
        /// The bounds are exact as f64, the upper one of 64-bit integers is the first that does not fit.
        macro_rules! whole {
            ($type:ty, $variant:ident) => {{
                let fits =
                    |n: &f64| n.fract() == 0.0 && *n >= <$type>::MIN as f64 && *n < <$type>::MAX as f64 + 1.0;
                let narrow = <$type>::BITS < 64;
                let top = |n: &f64| narrow || *n < <$type>::MAX as f64;
                let all = numbers.iter().all(|n| fits(n) && top(n));
                all.then(|| Values::$variant(numbers.iter().map(|n| *n as $type).collect()))
            }};
        }
        match kind {
            TensorKind::Fp32 => Some(Values::Fp32(numbers.iter().map(|n| *n as f32).collect())),
            TensorKind::Fp64 => Some(Values::Fp64(numbers.to_vec())),
            TensorKind::Int8 => whole!(i8, Int8),
            TensorKind::Int16 => whole!(i16, Int16),
            TensorKind::Int32 => whole!(i32, Int32),
            TensorKind::Int64 => whole!(i64, Int64),
            TensorKind::Uint8 => whole!(u8, Uint8),
            TensorKind::Uint16 => whole!(u16, Uint16),
            TensorKind::Uint32 => whole!(u32, Uint32),
            TensorKind::Uint64 => whole!(u64, Uint64),
            TensorKind::Bool => {
                let all = numbers.iter().all(|n| *n == 0.0 || *n == 1.0);
                all.then(|| Values::Bool(numbers.iter().map(|n| *n == 1.0).collect()))
            }
        }
    }

    /// 32-bit floats rounded to a kind, half to even and within its range.
    pub fn rounded(kind: TensorKind, values: &[f32]) -> Self {
        macro_rules! whole {
            ($type:ty, $variant:ident) => {
                // The conversion saturates.
                Values::$variant(values.iter().map(|value| value.round_ties_even() as $type).collect())
            };
        }
        match kind {
            TensorKind::Fp32 => Values::Fp32(values.to_vec()),
            TensorKind::Fp64 => Values::Fp64(values.iter().map(|value| f64::from(*value)).collect()),
            TensorKind::Int8 => whole!(i8, Int8),
            TensorKind::Int16 => whole!(i16, Int16),
            TensorKind::Int32 => whole!(i32, Int32),
            TensorKind::Int64 => whole!(i64, Int64),
            TensorKind::Uint8 => whole!(u8, Uint8),
            TensorKind::Uint16 => whole!(u16, Uint16),
            TensorKind::Uint32 => whole!(u32, Uint32),
            TensorKind::Uint64 => whole!(u64, Uint64),
            TensorKind::Bool => Values::Bool(values.iter().map(|value| *value != 0.0).collect()),
        }
    }

    /// As 32-bit floats; large integers are rounded.
    pub fn to_f32(&self) -> Cow<'_, [f32]> {
        match self {
            Values::Fp32(list) => Cow::Borrowed(list),
            Values::Fp64(list) => list.iter().map(|v| *v as f32).collect(),
            Values::Int8(list) => list.iter().map(|v| f32::from(*v)).collect(),
            Values::Int16(list) => list.iter().map(|v| f32::from(*v)).collect(),
            Values::Int32(list) => list.iter().map(|v| *v as f32).collect(),
            Values::Int64(list) => list.iter().map(|v| *v as f32).collect(),
            Values::Uint8(list) => list.iter().map(|v| f32::from(*v)).collect(),
            Values::Uint16(list) => list.iter().map(|v| f32::from(*v)).collect(),
            Values::Uint32(list) => list.iter().map(|v| *v as f32).collect(),
            Values::Uint64(list) => list.iter().map(|v| *v as f32).collect(),
            Values::Bool(list) => list.iter().map(|v| f32::from(u8::from(*v))).collect(),
        }
    }

    /// As JSON has them.
    pub fn to_f64(&self) -> Vec<f64> {
        match self {
            Values::Fp64(list) => list.clone(),
            Values::Int32(list) => list.iter().map(|v| f64::from(*v)).collect(),
            Values::Int64(list) => list.iter().map(|v| *v as f64).collect(),
            Values::Uint32(list) => list.iter().map(|v| f64::from(*v)).collect(),
            Values::Uint64(list) => list.iter().map(|v| *v as f64).collect(),
            other => other.to_f32().iter().map(|v| f64::from(*v)).collect(),
        }
    }

    /// Little-endian bytes, as the Open Inference Protocol's binary extension has them.
    pub fn to_bytes(&self) -> Vec<u8> {
        match self {
            Values::Bool(list) => list.iter().map(|v| u8::from(*v)).collect(),
            Values::Uint8(list) => list.clone(),
            Values::Fp32(list) => list.iter().flat_map(|v| v.to_le_bytes()).collect(),
            Values::Fp64(list) => list.iter().flat_map(|v| v.to_le_bytes()).collect(),
            Values::Int8(list) => list.iter().flat_map(|v| v.to_le_bytes()).collect(),
            Values::Int16(list) => list.iter().flat_map(|v| v.to_le_bytes()).collect(),
            Values::Int32(list) => list.iter().flat_map(|v| v.to_le_bytes()).collect(),
            Values::Int64(list) => list.iter().flat_map(|v| v.to_le_bytes()).collect(),
            Values::Uint16(list) => list.iter().flat_map(|v| v.to_le_bytes()).collect(),
            Values::Uint32(list) => list.iter().flat_map(|v| v.to_le_bytes()).collect(),
            Values::Uint64(list) => list.iter().flat_map(|v| v.to_le_bytes()).collect(),
        }
    }

    /// Values of little-endian bytes; what is left over at the end is dropped. Any byte but 0 is true.
    pub fn from_bytes(kind: TensorKind, bytes: &[u8]) -> Self {
        macro_rules! read {
            ($type:ty) => {
                bytes
                    .as_chunks::<{ size_of::<$type>() }>()
                    .0
                    .iter()
                    .map(|b| <$type>::from_le_bytes(*b))
                    .collect()
            };
        }
        match kind {
            TensorKind::Fp32 => Values::Fp32(read!(f32)),
            TensorKind::Fp64 => Values::Fp64(read!(f64)),
            TensorKind::Int8 => Values::Int8(read!(i8)),
            TensorKind::Int16 => Values::Int16(read!(i16)),
            TensorKind::Int32 => Values::Int32(read!(i32)),
            TensorKind::Int64 => Values::Int64(read!(i64)),
            TensorKind::Uint8 => Values::Uint8(bytes.to_vec()),
            TensorKind::Uint16 => Values::Uint16(read!(u16)),
            TensorKind::Uint32 => Values::Uint32(read!(u32)),
            TensorKind::Uint64 => Values::Uint64(read!(u64)),
            TensorKind::Bool => Values::Bool(bytes.iter().map(|byte| *byte != 0).collect()),
        }
    }

    /// So many of them from a place on; fewer where there are no more.
    pub fn part(&self, from: usize, count: usize) -> Self {
        macro_rules! cut {
            ($($variant:ident),*) => {
                match self {
                    $(Values::$variant(list) => {
                        Values::$variant(list.iter().skip(from).take(count).copied().collect())
                    })*
                }
            };
        }
        cut!(Fp32, Fp64, Int8, Int16, Int32, Int64, Uint8, Uint16, Uint32, Uint64, Bool)
    }

    /// Values of one kind one after the other; those of another kind are left out.
    pub fn joined<'a>(kind: TensorKind, parts: impl Iterator<Item = &'a Self>) -> Self {
        let mut all = Self::zeros(kind, 0);
        for part in parts {
            macro_rules! append {
                ($($variant:ident),*) => {
                    match (&mut all, part) {
                        $((Values::$variant(all), Values::$variant(part)) => all.extend_from_slice(part),)*
                        _ => {}
                    }
                };
            }
            append!(Fp32, Fp64, Int8, Int16, Int32, Int64, Uint8, Uint16, Uint32, Uint64, Bool);
        }
        all
    }

    /// The place of the first value that is no finite number.
    pub fn not_finite(&self) -> Option<usize> {
        match self {
            Values::Fp32(list) => list.iter().position(|value| !value.is_finite()),
            Values::Fp64(list) => list.iter().position(|value| !value.is_finite()),
            _ => None,
        }
    }
}

/// Tensors one after the other, as little-endian bytes.
pub fn to_bytes(tensors: &[Values]) -> Vec<u8> {
    tensors.iter().flat_map(Values::to_bytes).collect()
}

/// The tensors of these ports, of their bytes one after the other; none where the length is another.
pub fn from_bytes(ports: &[Port], bytes: &[u8]) -> Option<Vec<Values>> {
    let mut rest = bytes;
    let mut tensors = Vec::with_capacity(ports.len());
    for port in ports {
        let (own, left) = rest.split_at_checked(port.bytes())?;
        tensors.push(Values::from_bytes(port.kind, own));
        rest = left;
    }
    rest.is_empty().then_some(tensors)
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests fail by panicking")]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const KINDS: [TensorKind; 11] = [
        TensorKind::Fp32,
        TensorKind::Fp64,
        TensorKind::Int8,
        TensorKind::Int16,
        TensorKind::Int32,
        TensorKind::Int64,
        TensorKind::Uint8,
        TensorKind::Uint16,
        TensorKind::Uint32,
        TensorKind::Uint64,
        TensorKind::Bool,
    ];

    proptest! {
        #[test]
        fn what_is_written_is_read_again(bytes in prop::collection::vec(any::<u8>(), 0..64), kind in 0..KINDS.len()) {
            let kind = KINDS[kind];
            let bytes = &bytes[..bytes.len() / kind.bytes() * kind.bytes()];
            let values = Values::from_bytes(kind, bytes);
            let port = Port { name: "x".into(), kind, shape: vec![values.len()] };
            prop_assert_eq!(port.bytes(), bytes.len());
            if kind != TensorKind::Bool {
                prop_assert_eq!(values.to_bytes(), bytes);
            }
            let again = from_bytes(&[port], &values.to_bytes()).unwrap();
            prop_assert_eq!(to_bytes(&again), values.to_bytes());
        }

        #[test]
        fn numbers_become_values_only_where_they_are_such(number in any::<i32>(), kind in 0..KINDS.len()) {
            let number = f64::from(number);
            match Values::from_f64(KINDS[kind], &[number]) {
                Some(Values::Fp32(list)) => prop_assert_eq!(list[0], number as f32),
                Some(values) => prop_assert_eq!(values.to_f64(), vec![number]),
                None => prop_assert!(KINDS[kind] != TensorKind::Int64),
            }
        }
    }

    #[test]
    fn what_a_kind_cannot_hold_is_no_value_of_it() {
        for (kind, number) in [
            (TensorKind::Int8, 128.0),
            (TensorKind::Uint8, -1.0),
            (TensorKind::Uint8, 0.5),
            (TensorKind::Int64, 9_223_372_036_854_775_808.0),
            (TensorKind::Uint64, 18_446_744_073_709_551_616.0),
            (TensorKind::Bool, 2.0),
            (TensorKind::Int32, f64::NAN),
        ] {
            assert_eq!(Values::from_f64(kind, &[number]), None, "{kind} {number}");
        }
        assert_eq!(Values::from_f64(TensorKind::Int8, &[127.0, -128.0]), Some(Values::Int8(vec![127, -128])));
    }
}
