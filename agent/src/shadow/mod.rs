//! A shadow at work: a candidate release in a process of its own, which gets inputs that the confirmed release has answered
//! already, and whose answers only the comparison sees.
//!
//! The process has the lowest claim on the device: bounded in memory, behind everything else on the CPU, and the first to
//! go when the system runs out of memory. Whatever it does, crash, hang or grow, ends it and nothing else; it ends with the
//! agent, however that ends.
//!
//! Both sides speak in frames over the child's standard input and output. To the child: a byte that says what it is, four of
//! its length (little-endian), the input. From it: four bytes of length, a [`Said`] in CBOR; the first one says that the
//! model is loaded, or why not, each later one answers an input.

mod child;
mod parent;
mod run;

pub(crate) use child::{ShadowArgs, shadow_main};
pub(crate) use run::{Job, run};

use crate::host::Kept;
use flotilla_protocol::{ErrorCode, limits};
use flotilla_runtime::{Port, Prediction};
use serde::{Deserialize, Serialize};

/// Largest input of a frame: what an application may send, where a tensor's value has two bytes of text at least and takes
/// four here.
const INPUT: usize = 2 * limits::PREDICT_INPUT;
/// Largest answer: a score for each label, and a thousand things in a picture with their labels.
const ANSWER: usize = 512 * limits::KIB;
/// Bytes before an input.
const HEAD: usize = 5;

/// What the child says.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Said {
    /// The model is loaded; what its network takes.
    Ready { inputs: Vec<Port> },
    /// The model cannot be loaded.
    Refused { code: ErrorCode, detail: String },
    /// An answer, and its time in microseconds.
    Answer { prediction: Prediction, latency_us: u64 },
    /// There is no answer to this input.
    None { detail: String },
}

/// What precedes an input on its way to the child.
fn head(input: &Kept) -> [u8; HEAD] {
    let (kind, length) = match input {
        Kept::Encoded(bytes) => (b'e', bytes.len()),
        Kept::Raw(bytes) => (b'r', bytes.len()),
        Kept::Tensors(bytes) => (b't', bytes.len()),
    };
    let [a, b, c, d] = u32::try_from(length).unwrap_or(u32::MAX).to_le_bytes();
    [kind, a, b, c, d]
}

/// Kind and length of the input behind a head; none if that cannot be.
fn parse(head: [u8; HEAD]) -> Option<(u8, usize)> {
    let [kind, a, b, c, d] = head;
    let length = u32::from_le_bytes([a, b, c, d]) as usize;
    (matches!(kind, b'e' | b'r' | b't') && length <= INPUT).then_some((kind, length))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn what_is_put_into_a_frame_is_read_again(bytes: Vec<u8>) {
            prop_assert_eq!(parse(head(&Kept::Tensors(bytes.clone()))), Some((b't', bytes.len())));
            prop_assert_eq!(parse(head(&Kept::Raw(bytes.clone()))), Some((b'r', bytes.len())));
        }

        #[test]
        fn no_head_asks_for_more_than_an_input_may_be(head: [u8; HEAD]) {
            prop_assert!(parse(head).is_none_or(|(_, length)| length <= INPUT));
        }
    }
}
