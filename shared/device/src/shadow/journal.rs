//! What of a shadow survives a kill.

use crate::frame::{self, Kind};
use crate::update::{FailedRelease, JournalError, Promise};
use flotilla_protocol::codec;
use flotilla_protocol::{Digest, limits};
use serde::{Deserialize, Serialize};

const KIND: Kind = Kind { name: *b"FSJ", version: 1 };
const BOUND: usize = 16 * limits::KIB;

/// The persistent part of the machine.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct ShadowJournal {
    /// The release in the shadow's place, or on its way there.
    pub held: Option<Held>,
    /// The release that is not tried again until another one is wanted or the attempt rises.
    pub failed: Option<FailedRelease>,
}

/// A release in the shadow's place.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Held {
    /// Digest of its envelope.
    pub release: Digest,
    /// The desired document's attempt.
    pub attempt: u32,
    /// Its release counter; 0 until its envelope is verified.
    pub counter: u64,
    /// How far it has come.
    pub step: ShadowStep,
    /// How often the present step was started, and the device went down before it ended.
    pub starts: u32,
    /// How often it crashed or hung.
    pub crashes: u32,
    /// How often its files were found damaged after they had been verified.
    pub refills: u32,
    /// What it promises of itself.
    pub promise: Promise,
    /// Memory that its probe took here; 0 before it passed.
    pub peak_bytes: u64,
    /// The 95th percentile of a prediction there, in microseconds.
    pub p95_us: u64,
}

impl Held {
    /// A release of which no more is known.
    pub fn new(release: Digest, attempt: u32) -> Self {
        Self {
            release,
            attempt,
            counter: 0,
            step: ShadowStep::Filling,
            starts: 0,
            crashes: 0,
            refills: 0,
            promise: Promise::default(),
            peak_bytes: 0,
            p95_us: 0,
        }
    }

    /// Memory that it takes: what it says, or what its probe took; 0 for unknown.
    pub fn memory_bytes(&self) -> u64 {
        if self.promise.memory_bytes > 0 { self.promise.memory_bytes } else { self.peak_bytes }
    }
}

/// The steps of a shadow that make a difference after a restart.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ShadowStep {
    /// Its place is being filled.
    Filling,
    /// Complete, verified and on stable storage; the probe comes next.
    Staged,
    /// The probe passed.
    Passed,
}

impl ShadowJournal {
    /// The bytes to store.
    pub fn to_bytes(&self) -> Vec<u8> {
        frame::seal(KIND, &codec::encode(self))
    }

    /// Reads stored bytes.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, JournalError> {
        let (_, payload) = frame::open(KIND, bytes)?;
        Ok(codec::decode(payload, BOUND)?)
    }

    /// Whether there is nothing to remember.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests fail by panicking")]
mod tests {
    use super::*;
    use flotilla_protocol::ErrorCode;
    use std::path::Path;

    /// The bytes that version 1 writes must be read for ever. After a deliberate new version, add files; never change these.
    #[test]
    fn journals_of_version_1_still_read_and_are_still_written_so() {
        let held = Held {
            counter: 7,
            step: ShadowStep::Passed,
            starts: 1,
            crashes: 1,
            refills: 2,
            promise: Promise { latency_us: 5_000, memory_bytes: 1 << 20 },
            peak_bytes: 1 << 24,
            p95_us: 1_500,
            ..Held::new(Digest::of(b"one"), 3)
        };
        let failed = FailedRelease {
            release: Digest::of(b"two"),
            attempt: 2,
            code: ErrorCode::NoRoom,
            detail: "too large".into(),
            again: None,
        };
        let full = ShadowJournal { held: Some(held), failed: Some(failed) };
        for (name, journal) in [("empty", ShadowJournal::default()), ("full", full)] {
            let file =
                Path::new(env!("CARGO_MANIFEST_DIR")).join("golden").join(format!("shadow-{name}-v1.bin"));
            if !file.exists() && std::env::var_os("FLOTILLA_BLESS").is_some() {
                std::fs::write(&file, journal.to_bytes()).unwrap();
            }
            let old = std::fs::read(&file).unwrap();
            assert_eq!(ShadowJournal::from_bytes(&old).unwrap(), journal, "{name}");
            assert_eq!(old, journal.to_bytes(), "{name}");
        }
    }

    #[test]
    fn a_damaged_journal_is_not_read() {
        let mut bytes = ShadowJournal::default().to_bytes();
        bytes[12] ^= 1;
        assert_eq!(ShadowJournal::from_bytes(&bytes).unwrap_err().code(), ErrorCode::StorageCorrupt);
        let other = crate::update::UpdateJournal::default().to_bytes();
        assert!(ShadowJournal::from_bytes(&other).is_err());
    }
}
