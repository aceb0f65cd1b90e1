//! What launcher and agent tell each other over the death of either.

use super::CRASHES;
use crate::frame::{self, FrameError, Kind};
use flotilla_protocol::codec::{self, DecodeError};
use flotilla_protocol::message::SlotName;
use flotilla_protocol::{Digest, ErrorCode, limits};
use serde::{Deserialize, Serialize};
use std::fmt;

pub(super) const KIND: Kind = Kind { name: *b"FLJ", version: 1 };
/// Largest stored journal.
const BOUND: usize = 16 * limits::KIB;

/// Where a binary lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// Where the device was installed.
    Installed,
    /// In a slot.
    Slot(SlotName),
}

impl Place {
    /// The stable text: what the launcher tells the agent of where it runs from.
    pub fn as_str(self) -> &'static str {
        match self {
            Place::Installed => "installed",
            Place::Slot(slot) => slot.as_str(),
        }
    }

    /// The place with this text.
    pub fn from_text(text: &str) -> Option<Self> {
        [Place::Installed, Place::Slot(SlotName::A), Place::Slot(SlotName::B)]
            .into_iter()
            .find(|place| place.as_str() == text)
    }

    /// Its slot, if it is one.
    pub fn slot(self) -> Option<SlotName> {
        match self {
            Place::Installed => None,
            Place::Slot(slot) => Some(slot),
        }
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Place::Installed => f.write_str("the installed binary"),
            Place::Slot(slot) => write!(f, "slot {}", slot.as_str()),
        }
    }
}

/// A binary in a slot.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Binary {
    /// The slot.
    pub slot: SlotName,
    /// Digest of its release's envelope.
    pub release: Digest,
    /// Its release counter.
    pub counter: u64,
    /// Version of the agent.
    pub version: String,
    /// Name of its file within the slot.
    pub file: String,
    /// Size of the file.
    pub bytes: u64,
    /// CRC-32 of the file: shows damage at every start at little cost. Its digest was checked when it came.
    pub crc: u32,
}

/// A binary that has to show that it works.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Trial {
    /// The binary.
    pub binary: Binary,
    /// How often it was started, counted before each start.
    pub starts: u32,
    /// How long after a start it may take to confirm itself, in milliseconds.
    pub patience_ms: u64,
    /// How long it must stay healthy, in milliseconds, whatever is wished by then; 0 for what is wished then.
    #[serde(default, skip_serializing_if = "is_default")]
    pub probation_ms: u64,
    /// Whether the agent that handed over had a session, so that this one must get one, too.
    #[serde(default, skip_serializing_if = "is_default")]
    pub online: bool,
    /// How many models did not serve under the agent that handed over, so that they need not under this one.
    #[serde(default, skip_serializing_if = "is_default")]
    pub silent: u32,
    /// How often it was handed over again because the launcher did not start it.
    #[serde(default, skip_serializing_if = "is_default")]
    pub again: u32,
}

impl Trial {
    /// A trial that begins.
    pub fn new(binary: Binary, terms: Terms) -> Self {
        let Terms { patience_ms, probation_ms, online, silent } = terms;
        Self { binary, starts: 0, patience_ms, probation_ms, online, silent, again: 0 }
    }
}

/// What a candidate is held to, from its handover on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Terms {
    /// See [`Trial::patience_ms`].
    pub patience_ms: u64,
    /// See [`Trial::probation_ms`].
    pub probation_ms: u64,
    /// See [`Trial::online`].
    pub online: bool,
    /// See [`Trial::silent`].
    pub silent: u32,
}

fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

/// A binary that the launcher gave up, on trial or confirmed, for the agent to report.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct GivenUp {
    /// Digest of its release's envelope.
    pub release: Digest,
    /// Why.
    pub why: Why,
    /// How often it was started.
    pub starts: u32,
    /// For people.
    pub detail: String,
}

/// Why a binary was given up.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Why {
    /// It ended by itself too often.
    Crashed,
    /// It ran, but did not confirm itself in time.
    Late,
    /// Its file is missing, damaged or not a program for this machine.
    Unusable,
}

impl Why {
    /// The stable code.
    pub fn code(self) -> ErrorCode {
        match self {
            Why::Crashed => ErrorCode::AgentCrashed,
            Why::Late => ErrorCode::AgentUnhealthy,
            Why::Unusable => ErrorCode::StorageCorrupt,
        }
    }
}

/// Which binary to start.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct LaunchJournal {
    /// The binary that stood its trial; none for the installed one.
    pub confirmed: Option<Binary>,
    /// The one confirmed before it, as long as it lies in the other slot: started where the confirmed one cannot be.
    pub spare: Option<Binary>,
    /// The binary on trial.
    pub candidate: Option<Trial>,
    /// The last one that was given up, until the agent has noted it.
    pub given_up: Option<GivenUp>,
    /// Starts in a row after which the confirmed binary did not stay up, each counted before it happens. The agent
    /// that has stayed up takes the count back.
    #[serde(default, skip_serializing_if = "is_default")]
    pub starts: u32,
}

/// Why a launch journal was not read.
#[derive(Debug, thiserror::Error)]
pub enum LaunchJournalError {
    /// The file is damaged or newer.
    #[error("the launch journal cannot be used: {0}")]
    Frame(#[from] FrameError),
    /// The checksum is right, the content is not.
    #[error("the launch journal cannot be used: {0}")]
    Content(#[from] DecodeError),
    /// Two binaries in one slot, or a file name that leaves its slot.
    #[error("the launch journal contradicts itself: {0}")]
    Contradiction(&'static str),
}

impl LaunchJournalError {
    /// The stable code.
    pub fn code(&self) -> ErrorCode {
        match self {
            LaunchJournalError::Frame(e) => e.code(),
            LaunchJournalError::Content(_) | LaunchJournalError::Contradiction(_) => {
                ErrorCode::StorageCorrupt
            }
        }
    }
}

impl LaunchJournal {
    /// The bytes to store.
    pub fn to_bytes(&self) -> Vec<u8> {
        frame::seal(KIND, &codec::encode(self))
    }

    /// Reads stored bytes.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, LaunchJournalError> {
        let (_, payload) = frame::open(KIND, bytes)?;
        let journal: Self = codec::decode(payload, BOUND)?;
        let all: Vec<&Binary> = journal.binaries().collect();
        if all.iter().enumerate().any(|(at, one)| all[..at].iter().any(|other| other.slot == one.slot)) {
            return Err(LaunchJournalError::Contradiction("two binaries lie in one slot"));
        }
        let plain = |binary: &&Binary| {
            !binary.file.is_empty() && !binary.file.starts_with('.') && !binary.file.contains('/')
        };
        if !all.iter().all(plain) {
            return Err(LaunchJournalError::Contradiction("a file name is not a plain one"));
        }
        Ok(journal)
    }

    /// What follows when the confirmed binary was started [`CRASHES`] times in a row without staying up: it is given up
    /// for the spare, or for the installed one. None if it was not.
    pub fn retire(&self) -> Option<Self> {
        let crashed = self.confirmed.as_ref().filter(|_| self.starts >= CRASHES)?;
        let detail = format!("it was started {} times in a row and did not stay up", self.starts);
        let (release, why, starts) = (crashed.release, Why::Crashed, self.starts);
        let given_up = Some(GivenUp { release, why, starts, detail });
        Some(Self { confirmed: self.spare.clone(), spare: None, given_up, starts: 0, ..self.clone() })
    }

    /// Every binary that it names.
    pub fn binaries(&self) -> impl Iterator<Item = &Binary> {
        let candidate = self.candidate.as_ref().map(|trial| &trial.binary);
        [candidate, self.confirmed.as_ref(), self.spare.as_ref()].into_iter().flatten()
    }

    /// The binary in a place; none for the installed one.
    pub fn at(&self, place: Place) -> Option<&Binary> {
        self.binaries().find(|binary| Some(binary.slot) == place.slot())
    }
}
