//! What of an update survives a kill.

use crate::frame::{self, FrameError, Kind};
use flotilla_protocol::codec::{self, DecodeError};
use flotilla_protocol::message::{ProbeReport, SlotName};
use flotilla_protocol::{Digest, ErrorCode, limits};
use serde::{Deserialize, Serialize};

pub(super) const KIND: Kind = Kind { name: *b"FUJ", version: 1 };
const BOUND: usize = 16 * limits::KIB;

/// The persistent part of a model's update machine.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct UpdateJournal {
    /// The release that works.
    pub confirmed: Option<Confirmed>,
    /// The release that was confirmed before it, still whole in the other slot: the way back should the confirmed one
    /// turn out damaged, or take the agent down again and again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub previous: Option<Confirmed>,
    /// The release on its way in, in the other slot.
    pub candidate: Option<Candidate>,
    /// The release that is not tried again until another one is wanted or the attempt rises.
    pub failed: Option<FailedRelease>,
}

/// A release that stood its probation.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Confirmed {
    /// Where it lies.
    pub slot: SlotName,
    /// Digest of its envelope.
    pub release: Digest,
    /// Its release counter.
    pub counter: u64,
    /// Its probe on this device.
    #[serde(default)]
    pub probe: Option<ProbeReport>,
    /// The desired document's attempt that brought it in.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub attempt: u32,
    /// How often in a row the agent went down while this release was at work.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub crashes: u32,
}

/// A release on its way in.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Candidate {
    /// Where it lies, or is being put.
    pub slot: SlotName,
    /// Digest of its envelope.
    pub release: Digest,
    /// The desired document's attempt.
    pub attempt: u32,
    /// Its release counter; 0 until its envelope is verified.
    pub counter: u64,
    /// How far it has come.
    pub step: Step,
    /// How often the present step was started.
    pub starts: u32,
    /// Its probe on this device, once passed.
    #[serde(default)]
    pub probe: Option<ProbeReport>,
    /// How often its files were found damaged after they had been verified.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub refills: u32,
    /// What it promises of itself.
    #[serde(default, skip_serializing_if = "Promise::is_empty")]
    pub promise: Promise,
    /// How often it was taken up again after it had failed for want of a session.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub again: u32,
}

/// What a release says that it takes; 0 for nothing said.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Promise {
    /// Longest time of a prediction, in microseconds.
    pub latency_us: u64,
    /// Memory, in bytes.
    pub memory_bytes: u64,
}

impl Promise {
    fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

fn is_zero(n: &u32) -> bool {
    *n == 0
}

impl Candidate {
    /// A candidate of which no more is known.
    pub fn new(slot: SlotName, release: Digest, counter: u64, step: Step) -> Self {
        let (promise, again) = (Promise::default(), 0);
        Self { slot, release, attempt: 0, counter, step, starts: 0, probe: None, refills: 0, promise, again }
    }
}

/// The steps of a candidate that make a difference after a restart.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Step {
    /// The slot is being filled.
    Filling,
    /// The slot is complete, verified and on stable storage; the probe comes next.
    Staged,
    /// The probe passed and the slot was switched to: it serves, on probation.
    Trial,
}

/// A release that did not make it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FailedRelease {
    /// Digest of its envelope.
    pub release: Digest,
    /// The attempt that failed.
    pub attempt: u32,
    /// The stable code.
    pub code: ErrorCode,
    /// For people.
    pub detail: String,
    /// It failed only for want of a session, so it is taken up again once there is one; how often it was already.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub again: Option<u32>,
}

/// Why a journal was not read.
#[derive(Debug, thiserror::Error)]
pub enum JournalError {
    /// The file is damaged or newer.
    #[error("the journal cannot be used: {0}")]
    Frame(#[from] FrameError),
    /// The checksum is right, the content is not.
    #[error("the journal cannot be used: {0}")]
    Content(#[from] DecodeError),
    /// Two releases share a slot.
    #[error("the journal contradicts itself: two releases lie in one slot")]
    SharedSlot,
}

impl JournalError {
    /// The stable code.
    pub fn code(&self) -> ErrorCode {
        match self {
            JournalError::Frame(e) => e.code(),
            JournalError::Content(_) | JournalError::SharedSlot => ErrorCode::StorageCorrupt,
        }
    }
}

impl UpdateJournal {
    /// Memory that the model takes on this device: what its probe took, the larger one of the candidate and the confirmed
    /// release; 0 for unknown.
    pub fn memory_bytes(&self) -> u64 {
        let confirmed = self.confirmed.iter().filter_map(|confirmed| confirmed.probe.as_ref());
        let candidate = self.candidate.iter().filter_map(|candidate| candidate.probe.as_ref());
        confirmed.chain(candidate).map(|probe| probe.peak_rss_bytes).max().unwrap_or(0)
    }

    /// A journal with nothing confirmed, for a slot whose content was found complete and signed after its
    /// journal was lost: it goes through probe and probation like any other.
    pub fn recovered(slot: SlotName, release: Digest, counter: u64) -> Self {
        Self { candidate: Some(Candidate::new(slot, release, counter, Step::Staged)), ..Self::default() }
    }

    /// The bytes to store.
    pub fn to_bytes(&self) -> Vec<u8> {
        frame::seal(KIND, &codec::encode(self))
    }

    /// Reads stored bytes.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, JournalError> {
        let (_, payload) = frame::open(KIND, bytes)?;
        let journal: Self = codec::decode(payload, BOUND)?;
        let confirmed = journal.confirmed.as_ref().map(|confirmed| confirmed.slot);
        let previous = journal.previous.as_ref().map(|previous| previous.slot);
        let candidate = journal.candidate.as_ref().map(|candidate| candidate.slot);
        let shared = |one: Option<SlotName>, other: Option<SlotName>| one.is_some() && one == other;
        if shared(confirmed, candidate) || shared(confirmed, previous) || shared(previous, candidate) {
            return Err(JournalError::SharedSlot);
        }
        Ok(journal)
    }

    /// Whether there is nothing to remember.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// The slot that may be written to.
    pub fn idle_slot(&self) -> SlotName {
        match (&self.confirmed, &self.candidate) {
            (Some(confirmed), _) => confirmed.slot.other(),
            (None, Some(candidate)) => candidate.slot.other(),
            (None, None) => SlotName::A,
        }
    }
}
