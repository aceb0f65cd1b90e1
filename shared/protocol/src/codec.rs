//! The one place that reads and writes CBOR (RFC 8949).
//!
//! `serde_cbor` is unmaintained; what makes it safe here: a size cap before decoding, typed structs only,
//! never the packed form, and trailing bytes refused. A test holds that `ciborium` writes the same bytes,
//! so that it can take over by a change of this module alone.

use serde::Serialize;
use serde::de::DeserializeOwned;

/// Why bytes did not decode.
#[derive(Debug, thiserror::Error)]
pub enum DecodeError {
    /// More bytes than the bound of this kind of message.
    #[error("{got} bytes are over the bound of {max} bytes")]
    TooLarge {
        /// Bytes received.
        got: usize,
        /// The bound.
        max: usize,
    },
    /// Not the CBOR of the expected type.
    #[error("not a valid {what}: {source}")]
    Malformed {
        /// The type that was expected.
        what: &'static str,
        /// What the decoder says.
        source: serde_cbor::Error,
    },
}

impl DecodeError {
    /// The stable code.
    pub fn code(&self) -> crate::ErrorCode {
        match self {
            DecodeError::TooLarge { .. } => crate::ErrorCode::TooLarge,
            DecodeError::Malformed { .. } => crate::ErrorCode::Malformed,
        }
    }
}

/// Encodes `value`.
///
/// # Panics
/// Never for the types of this crate: their serialisers cannot fail and memory is the only sink.
pub fn encode<T: Serialize>(value: &T) -> Vec<u8> {
    serde_cbor::to_vec(value).expect("encoding into memory cannot fail")
}

/// Decodes `bytes`, refusing more than `max` bytes before looking at them.
pub fn decode<T: DeserializeOwned>(bytes: &[u8], max: usize) -> Result<T, DecodeError> {
    if bytes.len() > max {
        return Err(DecodeError::TooLarge { got: bytes.len(), max });
    }
    serde_cbor::from_slice(bytes).map_err(|source| {
        let what = std::any::type_name::<T>().rsplit("::").next().unwrap_or("message");
        DecodeError::Malformed { what, source }
    })
}
