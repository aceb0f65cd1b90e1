//! Small files that say what they are and whether they are whole:
//! `name (3 bytes) | version (1) | length (4, little-endian) | CRC-32 (4, little-endian) | payload`.

use flotilla_protocol::ErrorCode;

const HEAD: usize = 12;

/// What a framed file is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Kind {
    /// Three letters.
    pub name: [u8; 3],
    /// The version that is written, and the highest that is read.
    pub version: u8,
}

/// Why a framed file was not read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    /// Another kind of file, cut short, or changed.
    #[error("the file is damaged: {problem}")]
    Damaged {
        /// What is wrong.
        problem: &'static str,
    },
    /// Written by a newer version.
    #[error("the file has version {got}, this build reads up to {known}; use a newer build")]
    Newer {
        /// The file's version.
        got: u8,
        /// The highest known.
        known: u8,
    },
}

impl FrameError {
    /// The stable code.
    pub fn code(&self) -> ErrorCode {
        match self {
            FrameError::Damaged { .. } => ErrorCode::StorageCorrupt,
            FrameError::Newer { .. } => ErrorCode::StorageVersion,
        }
    }
}

/// The file's bytes around `payload`.
pub fn seal(kind: Kind, payload: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(HEAD + payload.len());
    out.extend_from_slice(&kind.name);
    out.push(kind.version);
    out.extend_from_slice(&(payload.len() as u32).to_le_bytes());
    out.extend_from_slice(&crc32fast::hash(payload).to_le_bytes());
    out.extend_from_slice(payload);
    out
}

/// The version and payload of a file.
pub fn open(kind: Kind, bytes: &[u8]) -> Result<(u8, &[u8]), FrameError> {
    let damaged = |problem| Err(FrameError::Damaged { problem });
    let Some((head, payload)) = bytes.split_at_checked(HEAD) else {
        return damaged("it is shorter than its head");
    };
    if head[..3] != kind.name {
        return damaged("it is of another kind");
    }
    if head[3] == 0 || head[3] > kind.version {
        return Err(FrameError::Newer { got: head[3], known: kind.version });
    }
    if payload.len() as u64 != u64::from(u32::from_le_bytes([head[4], head[5], head[6], head[7]])) {
        return damaged("its length is not the stated one");
    }
    if crc32fast::hash(payload) != u32::from_le_bytes([head[8], head[9], head[10], head[11]]) {
        return damaged("its checksum does not match");
    }
    Ok((head[3], payload))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const KIND: Kind = Kind { name: *b"TST", version: 2 };

    #[test]
    fn a_newer_file_is_told_from_a_damaged_one() {
        let mut bytes = seal(KIND, b"payload");
        bytes[3] = 3;
        assert_eq!(open(KIND, &bytes), Err(FrameError::Newer { got: 3, known: 2 }));
        bytes[0] = b'X';
        assert_eq!(open(KIND, &bytes).map_err(|e| e.code()), Err(ErrorCode::StorageCorrupt));
    }

    proptest! {
        #[test]
        fn what_is_sealed_opens(payload: Vec<u8>) {
            let sealed = seal(KIND, &payload);
            prop_assert_eq!(open(KIND, &sealed), Ok((2, payload.as_slice())));
        }

        #[test]
        fn every_flipped_bit_and_every_cut_shows(payload in proptest::collection::vec(any::<u8>(), 1..64), bit: usize, cut: usize) {
            let whole = seal(KIND, &payload);
            let mut flipped = whole.clone();
            let bit = bit % (whole.len() * 8);
            flipped[bit / 8] ^= 1 << (bit % 8);
            // A flip within the version byte may give version 1, which is a valid older version.
            prop_assume!(flipped[3] != 1);
            prop_assert!(open(KIND, &flipped).is_err());
            prop_assert!(open(KIND, &whole[..cut % whole.len()]).is_err());
        }
    }
}
