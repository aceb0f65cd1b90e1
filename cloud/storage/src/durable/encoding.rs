//! The bytes of a commit in the journal, of a page in a snapshot, and of a value in the index.
//!
//! A frame is a sequence of operations. Operation: kind (1: put, 2: delete), version (8), key length (2),
//! key, and for a put value length (4), value. All numbers little-endian, except that a value in the index
//! is led by its version in big-endian.

use crate::records::Record;
use bytes::Bytes;

const PUT: u8 = 1;
const DELETE: u8 = 2;

/// The new state of one record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Operation {
    /// The encoded key.
    pub(super) key: Vec<u8>,
    /// The commit.
    pub(super) version: u64,
    /// None: the record is removed.
    pub(super) value: Option<Bytes>,
}

/// Appends an operation to a frame.
pub(super) fn encode(out: &mut Vec<u8>, operation: &Operation) {
    out.push(if operation.value.is_some() { PUT } else { DELETE });
    out.extend_from_slice(&operation.version.to_le_bytes());
    out.extend_from_slice(&(operation.key.len() as u16).to_le_bytes());
    out.extend_from_slice(&operation.key);
    if let Some(value) = &operation.value {
        out.extend_from_slice(&(value.len() as u32).to_le_bytes());
        out.extend_from_slice(value);
    }
}

/// The operations of a frame; none if it is not made of operations.
pub(super) fn decode(mut frame: &[u8]) -> Option<Vec<Operation>> {
    let mut operations = Vec::new();
    while !frame.is_empty() {
        let [kind] = take_array(&mut frame)?;
        let version = u64::from_le_bytes(take_array(&mut frame)?);
        let key_len = u16::from_le_bytes(take_array(&mut frame)?);
        let key = take(&mut frame, key_len.into())?.to_vec();
        let value = match kind {
            PUT => {
                let len = u32::from_le_bytes(take_array(&mut frame)?);
                Some(Bytes::copy_from_slice(take(&mut frame, len as usize)?))
            }
            DELETE => None,
            _ => return None,
        };
        operations.push(Operation { key, version, value });
    }
    Some(operations)
}

/// A record as the index holds it.
pub(super) fn indexed(version: u64, value: &[u8]) -> Vec<u8> {
    [&version.to_be_bytes()[..], value].concat()
}

/// The record that the index holds in this form.
pub(super) fn record(indexed: &[u8]) -> Option<Record> {
    let (version, value) = indexed.split_first_chunk()?;
    Some(Record { value: Bytes::copy_from_slice(value), version: u64::from_be_bytes(*version) })
}

fn take<'a>(frame: &mut &'a [u8], len: usize) -> Option<&'a [u8]> {
    let (taken, rest) = frame.split_at_checked(len)?;
    *frame = rest;
    Some(taken)
}

fn take_array<const N: usize>(frame: &mut &[u8]) -> Option<[u8; N]> {
    let (taken, rest) = frame.split_first_chunk()?;
    *frame = rest;
    Some(*taken)
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests fail by panicking")]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn operation() -> impl Strategy<Value = Operation> {
        let bytes = || proptest::collection::vec(any::<u8>(), 0..40);
        (bytes(), any::<u64>(), proptest::option::of(bytes())).prop_map(|(key, version, value)| Operation {
            key,
            version,
            value: value.map(Bytes::from),
        })
    }

    proptest! {
        #[test]
        fn frames_read_back_and_cut_ones_are_refused(
            operations in proptest::collection::vec(operation(), 1..5),
            cut in 1_usize..11,
        ) {
            let mut frame = Vec::new();
            for operation in &operations {
                encode(&mut frame, operation);
            }
            prop_assert_eq!(decode(&frame).unwrap(), operations);
            // Every operation has at least 11 bytes, so this cuts into the last one.
            prop_assert_eq!(decode(&frame[..frame.len() - cut]), None);
        }

        #[test]
        fn arbitrary_bytes_never_panic(frame in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = decode(&frame);
        }
    }
}
