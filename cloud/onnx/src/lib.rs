//! The ONNX graph toolkit: build, read, edit and write models, and clean up those of other tools ([`clean`]).
//!
//! [`GraphBuilder`] makes a model, [`Model`] reads one from untrusted bytes, answers questions about it, changes it and
//! writes it back; the same model always writes the same bytes. The message types are those of `tract-onnx`
//! ([`pb`]), so that what is written here is what the runtime reads.
//!
//! Parts of a file that this schema does not describe (sequence and map types, for one) are dropped on reading:
//! the runtime cannot run them either.

mod build;
pub mod clean;
mod edit;
mod error;
mod model;
mod node;
mod order;
mod summary;
mod tensor;
mod value;
mod wire;

pub use build::GraphBuilder;
pub use edit::half::{F16_MAX, f16_bits, f16_value, tensor_f16, tensor_u8};
pub use error::{Error, Result};
pub use model::Model;
pub use node::{Attributes, Node, is_standard_domain};
pub use summary::Summary;
pub use tensor::{Tensor, tensor_f32, tensor_i8, tensor_i64};
pub use tract_onnx::pb;
pub use tract_onnx::pb::tensor_proto::DataType;
pub use value::{Dim, Value};

/// The largest file that [`Model::read`] accepts, in bytes.
pub const MAX_MODEL_BYTES: usize = 128 << 20;

/// The largest memory that reading one file may take, in bytes: a few bytes on the wire can stand for hundreds in
/// memory, so this is checked before anything is decoded.
pub const MAX_DECODED_BYTES: usize = 384 << 20;

/// The operator set of models built here. tract, onnxruntime and the device runtime all read it.
pub const OPSET: i64 = 13;

/// The file format version that belongs to [`OPSET`].
pub const IR_VERSION: i64 = 7;
