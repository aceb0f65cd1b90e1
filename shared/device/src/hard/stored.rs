//! A hard example as a file: `frame | CBOR { example, picture }`.
//!
//! The picture is PNG or JPEG as the application sent it; raw pixels and tensors are turned into a PNG of the model's
//! own size before they are stored, so that whoever looks at the file needs to know nothing of the model.

use super::ledger::Damaged;
use crate::frame::{self, Kind};
use flotilla_protocol::message::HardExample;
use flotilla_protocol::{codec, limits};
use serde::{Deserialize, Serialize};

/// The file's frame.
pub const KIND: Kind = Kind { name: *b"FHX", version: 1 };
/// Largest file.
pub const BOUND: usize = limits::HARD_EXAMPLE + 4 * limits::KIB;

/// The content of the file.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct StoredExample {
    /// What the model said.
    pub example: HardExample,
    /// The picture.
    #[serde(with = "serde_bytes")]
    pub picture: Vec<u8>,
}

impl StoredExample {
    /// The file's bytes.
    pub fn to_bytes(&self) -> Vec<u8> {
        frame::seal(KIND, &codec::encode(self))
    }

    /// Reads the file.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, Damaged> {
        let (_, content) = frame::open(KIND, bytes)?;
        let stored: Self = codec::decode(content, BOUND).map_err(|e| Damaged::Content(e.to_string()))?;
        let size = stored.picture.len();
        if size == 0 || size > limits::HARD_EXAMPLE || stored.example.check().is_err() {
            return Err(Damaged::Content("it is over its bounds".to_owned()));
        }
        Ok(stored)
    }
}
