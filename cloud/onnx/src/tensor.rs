//! Constant tensors: their data in either of the two forms that the format has, checked against their dimensions.

use tract_onnx::pb::{TensorProto, tensor_proto::DataLocation};

use crate::{DataType, Error, Result};

/// A constant tensor, decoded.
#[derive(Clone, Debug, PartialEq)]
pub struct Tensor<T> {
    /// Dimensions; empty for a scalar.
    pub dims: Vec<usize>,
    /// Elements in row-major order.
    pub data: Vec<T>,
}

impl<T> Tensor<T> {
    /// A tensor, if there are as many elements as the dimensions need.
    pub fn new(name: &str, dims: impl Into<Vec<usize>>, data: Vec<T>) -> Result<Self> {
        let dims = dims.into();
        let expected = count(&dims).ok_or_else(|| Error::Dims {
            tensor: name.into(),
            dims: dims.iter().map(|&d| i64::try_from(d).unwrap_or(i64::MAX)).collect(),
        })?;
        if data.len() != expected {
            let (tensor, found) = (name.to_owned(), data.len());
            return Err(Error::DataLength { tensor, unit: "elements", found, expected });
        }
        Ok(Self { dims, data })
    }
}

/// A constant of 32-bit floats.
pub fn tensor_f32(name: &str, tensor: &Tensor<f32>) -> TensorProto {
    raw(name, DataType::Float, &tensor.dims, tensor.data.iter().flat_map(|v| v.to_le_bytes()).collect())
}

/// A constant of 8-bit integers.
pub fn tensor_i8(name: &str, tensor: &Tensor<i8>) -> TensorProto {
    raw(name, DataType::Int8, &tensor.dims, tensor.data.iter().flat_map(|v| v.to_le_bytes()).collect())
}

/// A constant of 64-bit integers.
pub fn tensor_i64(name: &str, tensor: &Tensor<i64>) -> TensorProto {
    raw(name, DataType::Int64, &tensor.dims, tensor.data.iter().flat_map(|v| v.to_le_bytes()).collect())
}

pub(crate) fn raw(name: &str, data_type: DataType, dims: &[usize], raw_data: Vec<u8>) -> TensorProto {
    TensorProto {
        name: name.into(),
        // Dimensions of data that are in memory fit 63 bits; those of an empty tensor are checked by `Model`.
        dims: dims.iter().map(|&d| i64::try_from(d).unwrap_or(-1)).collect(),
        data_type: data_type as i32,
        raw_data,
        ..TensorProto::default()
    }
}

pub(crate) fn read_f32(tensor: &TensorProto) -> Result<Tensor<f32>> {
    let dims = checked_as(tensor, DataType::Float, "FLOAT")?;
    let data = if tensor.raw_data.is_empty() {
        tensor.float_data.clone()
    } else {
        words(&tensor.raw_data).map(f32::from_le_bytes).collect()
    };
    Ok(Tensor { dims, data })
}

pub(crate) fn read_i64(tensor: &TensorProto) -> Result<Tensor<i64>> {
    let dims = checked_as(tensor, DataType::Int64, "INT64")?;
    let data = if tensor.raw_data.is_empty() {
        tensor.int64_data.clone()
    } else {
        words(&tensor.raw_data).map(i64::from_le_bytes).collect()
    };
    Ok(Tensor { dims, data })
}

pub(crate) fn read_i8(tensor: &TensorProto) -> Result<Tensor<i8>> {
    let dims = checked_as(tensor, DataType::Int8, "INT8")?;
    let data = if tensor.raw_data.is_empty() {
        let narrow =
            |&v: &i32| i8::try_from(v).map_err(|_| wrong_type(tensor, "INT8 values from -128 to 127"));
        tensor.int32_data.iter().map(narrow).collect::<Result<_>>()?
    } else {
        words(&tensor.raw_data).map(i8::from_le_bytes).collect()
    };
    Ok(Tensor { dims, data })
}

fn words<const N: usize>(bytes: &[u8]) -> impl Iterator<Item = [u8; N]> + '_ {
    bytes.as_chunks::<N>().0.iter().copied()
}

fn checked_as(tensor: &TensorProto, data_type: DataType, expected: &'static str) -> Result<Vec<usize>> {
    if tensor.data_type != data_type as i32 {
        return Err(wrong_type(tensor, expected));
    }
    check(tensor)
}

fn wrong_type(tensor: &TensorProto, expected: &'static str) -> Error {
    let found = DataType::try_from(tensor.data_type)
        .map_or_else(|_| format!("number {}", tensor.data_type), |t| t.as_str_name().to_owned());
    Error::ElementType { tensor: tensor.name.clone(), found, expected }
}

fn count(dims: &[usize]) -> Option<usize> {
    // A zero anywhere makes the tensor empty, but must not hide an overflow in the others.
    dims.iter()
        .filter(|&&d| d != 0)
        .try_fold(1_usize, |all, &d| all.checked_mul(d))
        .map(|all| if dims.contains(&0) { 0 } else { all })
}

/// Number of elements by the dimensions alone.
pub(crate) fn elements(tensor: &TensorProto) -> Result<usize> {
    count(&dims(tensor)?)
        .ok_or_else(|| Error::Dims { tensor: tensor.name.clone(), dims: tensor.dims.clone() })
}

fn dims(tensor: &TensorProto) -> Result<Vec<usize>> {
    let convert = |&d: &i64| usize::try_from(d).ok();
    let dims: Option<Vec<usize>> = tensor.dims.iter().map(convert).collect();
    dims.ok_or_else(|| Error::Dims { tensor: tensor.name.clone(), dims: tensor.dims.clone() })
}

/// Bits of one element in raw data; none for text.
fn bits(data_type: DataType) -> Option<usize> {
    use DataType as T;
    match data_type {
        T::Undefined | T::String => None,
        T::Uint4 | T::Int4 | T::Float4e2m1 => Some(4),
        T::Uint8 | T::Int8 | T::Bool => Some(8),
        T::Float8e4m3fn | T::Float8e4m3fnuz | T::Float8e5m2 | T::Float8e5m2fnuz => Some(8),
        T::Uint16 | T::Int16 | T::Float16 | T::Bfloat16 => Some(16),
        T::Float | T::Int32 | T::Uint32 => Some(32),
        T::Int64 | T::Double | T::Uint64 | T::Complex64 => Some(64),
        T::Complex128 => Some(128),
    }
}

/// Checks that a tensor is complete, inside this file and of the size that its dimensions say; gives the dimensions.
pub(crate) fn check(tensor: &TensorProto) -> Result<Vec<usize>> {
    if tensor.data_location == Some(DataLocation::External as i32) || !tensor.external_data.is_empty() {
        return Err(Error::ExternalData { tensor: tensor.name.clone() });
    }
    let data_type = DataType::try_from(tensor.data_type).map_err(|_| wrong_type(tensor, "a known type"))?;
    if data_type == DataType::Undefined {
        return Err(wrong_type(tensor, "a known type"));
    }
    let elements = elements(tensor)?;
    let too_many = || Error::Dims { tensor: tensor.name.clone(), dims: tensor.dims.clone() };
    let length = |unit, found, expected| {
        if found == expected {
            Ok(())
        } else {
            Err(Error::DataLength { tensor: tensor.name.clone(), unit, found, expected })
        }
    };
    let typed = typed_values(tensor);
    if tensor.raw_data.is_empty() {
        length("values", held(tensor, data_type), values(data_type, elements).ok_or_else(too_many)?)?;
    } else if typed > 0 {
        return Err(Error::AmbiguousData { tensor: tensor.name.clone() });
    } else {
        let bits = bits(data_type).ok_or_else(|| wrong_type(tensor, "a type with raw data"))?;
        let bytes = elements.checked_mul(bits).ok_or_else(too_many)?.div_ceil(8);
        length("bytes", tensor.raw_data.len(), bytes)?;
    }
    dims(tensor)
}

/// Entries of the typed field that belongs to a type.
fn held(tensor: &TensorProto, data_type: DataType) -> usize {
    use DataType as T;
    match data_type {
        T::Float | T::Complex64 => tensor.float_data.len(),
        T::Double | T::Complex128 => tensor.double_data.len(),
        T::Int64 => tensor.int64_data.len(),
        T::Uint32 | T::Uint64 => tensor.uint64_data.len(),
        T::String => tensor.string_data.len(),
        _ => tensor.int32_data.len(),
    }
}

/// Entries that the typed field needs for so many elements.
fn values(data_type: DataType, elements: usize) -> Option<usize> {
    use DataType as T;
    match data_type {
        T::Complex64 | T::Complex128 => elements.checked_mul(2),
        T::Uint4 | T::Int4 | T::Float4e2m1 => Some(elements.div_ceil(2)),
        _ => Some(elements),
    }
}

fn typed_values(tensor: &TensorProto) -> usize {
    tensor.float_data.len()
        + tensor.int32_data.len()
        + tensor.string_data.len()
        + tensor.int64_data.len()
        + tensor.double_data.len()
        + tensor.uint64_data.len()
}
