//! Bytes by digest, and questions with answers.

use super::HardExample;
use crate::{Digest, ErrorCode, limits};
use serde::{Deserialize, Serialize};

/// Asks for a range of content-addressed bytes. The cloud answers with [`Chunk`]s, or with a [`Reply`] that
/// says why not.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fetch {
    /// Correlates refusals; unique a connection.
    pub id: u64,
    /// The file.
    pub digest: Digest,
    /// First byte; a multiple of [`limits::CHUNK`].
    pub offset: u64,
    /// Chunks wanted from there: the window, 1 to [`limits::FETCH_WINDOW`].
    pub chunks: u32,
}

impl Fetch {
    /// Checks the bounds.
    pub fn check(&self) -> Result<(), ErrorCode> {
        let aligned = self.offset.is_multiple_of(limits::CHUNK as u64) && self.offset <= limits::RELEASE_FILE;
        let window = (1..=limits::FETCH_WINDOW as u32).contains(&self.chunks);
        if aligned && window { Ok(()) } else { Err(ErrorCode::InvalidInput) }
    }
}

/// One piece of a file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Chunk {
    /// The file.
    pub digest: Digest,
    /// Where the piece begins.
    pub offset: u64,
    /// Size of the whole file.
    pub total: u64,
    /// At most [`limits::CHUNK`] bytes.
    #[serde(with = "serde_bytes")]
    pub data: Vec<u8>,
}

/// A question to the cloud.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Request {
    /// Correlates the reply; unique a connection.
    pub id: u64,
    /// What is asked.
    #[serde(deserialize_with = "super::lenient::enumeration")]
    pub body: RequestBody,
}

/// What a device can ask for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RequestBody {
    /// The desired document again.
    Desired,
    /// The trust file, if newer than this version.
    Trust {
        /// The accepted version.
        have: u64,
    },
    /// A certificate over a new key, to take over from the one that this connection was opened with.
    Certificate {
        /// Certificate signing request (PKCS#10, PEM). Only its public key is used.
        csr_pem: String,
    },
    /// A request of a newer device, answered as unsupported.
    #[serde(other)]
    Unknown,
}

/// The cloud's answer to a [`Request`], or its refusal of a [`Fetch`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reply {
    /// The id of the question.
    pub id: u64,
    /// The answer.
    pub body: ReplyBody,
}

/// What the cloud answers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ReplyBody {
    /// Done; anything to say travels on its own topic.
    Ok,
    /// An encoded trust envelope.
    Trust(#[serde(with = "serde_bytes")] Vec<u8>),
    /// A new certificate. The one before stays good until the device has said hello with this one.
    Certificate {
        /// The device's certificate and the intermediates, PEM.
        chain_pem: String,
    },
    /// So many bytes of an [`Upload`] are durable in the cloud, from its beginning; all of them if the cloud needs no more.
    Stored {
        /// How many.
        bytes: u64,
    },
    /// Refused.
    Error {
        /// The stable code.
        code: ErrorCode,
        /// For people.
        detail: String,
    },
}

/// A piece of bytes for the cloud; the first is an offer without bytes. The cloud answers each with
/// [`ReplyBody::Stored`], from which the next piece goes on, or refuses it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Upload {
    /// Correlates the reply; unique a connection.
    pub id: u64,
    /// Digest of the whole.
    pub digest: Digest,
    /// Where the piece begins.
    pub offset: u64,
    /// Size of the whole.
    pub total: u64,
    /// At most [`limits::CHUNK`] bytes.
    #[serde(with = "serde_bytes")]
    pub data: Vec<u8>,
    /// What it is, if it is a hard example: in an offer only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub example: Option<HardExample>,
    /// What it is, if it is of the device's log: in an offer only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub log: Option<LogOffer>,
}

/// Lines of a device's log that a command asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogOffer {
    /// The command.
    pub command: u64,
    /// Older lines that it asked for, too, and that found no room.
    pub left_out: u64,
}

impl Upload {
    /// Checks the bounds.
    pub fn check(&self) -> Result<(), ErrorCode> {
        let most = if self.log.is_some() { limits::LOG_PULL } else { limits::HARD_EXAMPLE };
        if self.total > most as u64 || self.data.len() > limits::CHUNK {
            return Err(ErrorCode::TooLarge);
        }
        let within = self.offset.checked_add(self.data.len() as u64).is_some_and(|end| end <= self.total);
        let offer = self.offset == 0 && self.data.is_empty();
        let things = usize::from(self.example.is_some()) + usize::from(self.log.is_some());
        if self.total == 0 || !within || things != usize::from(offer) {
            return Err(ErrorCode::InvalidInput);
        }
        self.example.as_ref().map_or(Ok(()), HardExample::check)
    }
}
