//! How much memory a file would take, found out on its bytes before anything is decoded.
//!
//! Two bytes on the wire can stand for an empty attribute of several hundred bytes in memory. The walk follows the
//! message types of the schema and adds up what the decoder will allocate.

use std::mem::size_of;

use tract_onnx::pb;

use crate::{Error, Result};

/// Nesting of messages that is followed; the decoder has the same limit.
const MAX_DEPTH: usize = 100;

/// The message types of the schema that hold others.
#[derive(Clone, Copy)]
enum Kind {
    Model,
    Graph,
    Node,
    Attribute,
    Tensor,
    Sparse,
    ValueInfo,
    Type,
    TensorType,
    Shape,
    Annotation,
    Training,
    Function,
    Pair,
    Dimension,
}

/// What the payload of a length-delimited field is.
enum Payload {
    /// Another message.
    Message(Kind),
    /// Variable-length integers of up to eight bytes each.
    Integers,
    /// Bytes, text or fixed-size numbers.
    Plain,
}

impl Kind {
    fn field(self, number: u64) -> Payload {
        use Payload::{Integers, Message, Plain};
        match (self, number) {
            (Self::Model, 7) | (Self::Attribute, 6 | 11) | (Self::Training, 1 | 2) => Message(Self::Graph),
            (Self::Model, 20) => Message(Self::Training),
            (Self::Model, 25) => Message(Self::Function),
            (Self::Model, 8 | 14)
            | (Self::Tensor, 3 | 13)
            | (Self::Annotation, 2)
            | (Self::Training, 3 | 4)
            | (Self::Function, 9) => Message(Self::Pair),
            (Self::Graph, 1) | (Self::Function, 7) => Message(Self::Node),
            (Self::Graph, 5) | (Self::Attribute, 5 | 10) | (Self::Sparse, 1 | 2) => Message(Self::Tensor),
            (Self::Graph, 15) | (Self::Attribute, 22 | 23) => Message(Self::Sparse),
            (Self::Graph, 11..=13) => Message(Self::ValueInfo),
            (Self::Graph, 14) => Message(Self::Annotation),
            (Self::Node, 5) => Message(Self::Attribute),
            (Self::Attribute, 15) | (Self::ValueInfo, 2) => Message(Self::Type),
            (Self::Type, 1) => Message(Self::TensorType),
            (Self::TensorType, 2) => Message(Self::Shape),
            (Self::Shape, 1) => Message(Self::Dimension),
            (Self::Tensor, 1 | 5 | 7 | 11) | (Self::Attribute, 8) | (Self::Sparse, 3) => Integers,
            _ => Plain,
        }
    }

    /// Memory of one message without what it points to.
    fn size(self) -> usize {
        match self {
            Self::Model => size_of::<pb::ModelProto>(),
            Self::Graph => size_of::<pb::GraphProto>(),
            Self::Node => size_of::<pb::NodeProto>(),
            Self::Attribute => size_of::<pb::AttributeProto>(),
            Self::Tensor => size_of::<pb::TensorProto>(),
            Self::Sparse => size_of::<pb::SparseTensorProto>(),
            Self::ValueInfo => size_of::<pb::ValueInfoProto>(),
            Self::Type => size_of::<pb::TypeProto>(),
            Self::TensorType => size_of::<pb::type_proto::Tensor>(),
            Self::Shape => size_of::<pb::TensorShapeProto>(),
            Self::Annotation => size_of::<pb::TensorAnnotation>(),
            Self::Training => size_of::<pb::TrainingInfoProto>(),
            Self::Function => size_of::<pb::FunctionProto>(),
            Self::Pair => size_of::<pb::StringStringEntryProto>(),
            Self::Dimension => size_of::<pb::tensor_shape_proto::Dimension>(),
        }
    }
}

/// Refuses bytes that are not a protocol buffer message or that would take more than `limit` bytes in memory.
pub(crate) fn check_memory(bytes: &[u8], limit: usize) -> Result<()> {
    let mut walk = Walk { bytes, left: limit, limit };
    walk.message(Kind::Model, 0, bytes.len(), 0)
}

struct Walk<'a> {
    bytes: &'a [u8],
    left: usize,
    limit: usize,
}

impl Walk<'_> {
    fn take(&mut self, amount: usize) -> Result<()> {
        self.left = self.left.checked_sub(amount).ok_or(Error::TooMuchMemory { limit: self.limit })?;
        Ok(())
    }

    fn message(&mut self, kind: Kind, start: usize, end: usize, depth: usize) -> Result<()> {
        if depth > MAX_DEPTH {
            return Err(Error::Wire { offset: start, what: "messages are nested too deep" });
        }
        self.take(kind.size())?;
        let mut at = start;
        while at < end {
            let offset = at;
            let key = self.varint(&mut at, end)?;
            match key & 7 {
                0 => {
                    self.varint(&mut at, end)?;
                    self.take(size_of::<u64>())?;
                }
                1 => at = self.skip(at, 8, end)?,
                5 => at = self.skip(at, 4, end)?,
                2 => {
                    let length = self.varint(&mut at, end)?;
                    let length = usize::try_from(length)
                        .map_err(|_| Error::Wire { offset, what: "a length is out of range" })?;
                    let stop = self.skip(at, length, end)?;
                    match kind.field(key >> 3) {
                        Payload::Message(inner) => self.message(inner, at, stop, depth + 1)?,
                        Payload::Integers => self.take(length.saturating_mul(size_of::<u64>()))?,
                        Payload::Plain => self.take(length.saturating_add(size_of::<Vec<u8>>()))?,
                    }
                    at = stop;
                }
                _ => return Err(Error::Wire { offset, what: "a field has an unknown wire type" }),
            }
        }
        Ok(())
    }

    fn skip(&self, at: usize, length: usize, end: usize) -> Result<usize> {
        at.checked_add(length)
            .filter(|&stop| stop <= end)
            .ok_or(Error::Wire { offset: at, what: "the file ends inside a field" })
    }

    fn varint(&self, at: &mut usize, end: usize) -> Result<u64> {
        let start = *at;
        let mut value = 0_u64;
        for shift in (0..64).step_by(7) {
            let byte = *self
                .bytes
                .get(..end)
                .and_then(|bytes| bytes.get(*at))
                .ok_or(Error::Wire { offset: start, what: "the file ends inside a number" })?;
            *at += 1;
            value |= u64::from(byte & 0x7f) << shift;
            if byte < 0x80 {
                return Ok(value);
            }
        }
        Err(Error::Wire { offset: start, what: "a number is too long" })
    }
}
