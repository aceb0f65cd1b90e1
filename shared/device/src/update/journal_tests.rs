//! Journals of older versions, and damaged ones.
#![expect(clippy::unwrap_used, reason = "tests fail by panicking")]

use super::journal::KIND;
use super::*;
use crate::frame;
use flotilla_protocol::codec;
use flotilla_protocol::message::{ProbeReport, SlotName};
use flotilla_protocol::{Digest, ErrorCode};
use serde::Serialize;

fn release(name: &str) -> Digest {
    Digest::of(name.as_bytes())
}

fn probe_report() -> ProbeReport {
    ProbeReport { vectors: 8, max_abs_error: 0.0, p50_ms: 1.0, p95_ms: 2.0, peak_rss_bytes: 3 }
}

fn golden_journal() -> UpdateJournal {
    UpdateJournal {
        confirmed: Some(Confirmed {
            slot: SlotName::B,
            release: release("confirmed"),
            counter: 41,
            probe: Some(probe_report()),
            attempt: 0,
            crashes: 0,
        }),
        previous: None,
        candidate: Some(Candidate {
            attempt: 2,
            starts: 1,
            ..Candidate::new(SlotName::A, release("candidate"), 42, Step::Trial)
        }),
        failed: Some(FailedRelease {
            release: release("failed"),
            attempt: 1,
            code: ErrorCode::ProbeMismatch,
            detail: "largest difference 0.5".into(),
            again: None,
        }),
    }
}

/// The bytes that version 1 writes must be read for ever. After a deliberate new version, add a file; never change
/// this one.
#[test]
fn a_journal_of_version_1_still_reads() {
    let golden = include_bytes!("../../golden/journal-v1.bin");
    assert_eq!(UpdateJournal::from_bytes(golden).unwrap(), golden_journal());
    assert_eq!(golden_journal().to_bytes(), golden);
}

/// What later agents of version 1 also write. Earlier ones pass over it.
#[test]
fn a_journal_with_a_way_back_and_counts_still_reads() {
    let golden = include_bytes!("../../golden/journal-way-back-v1.bin");
    let confirmed = golden_journal().confirmed.unwrap();
    let journal = UpdateJournal {
        previous: Some(Confirmed { slot: SlotName::A, release: release("previous"), ..confirmed.clone() }),
        confirmed: Some(Confirmed { attempt: 3, crashes: 2, ..confirmed }),
        ..UpdateJournal::default()
    };
    assert_eq!(UpdateJournal::from_bytes(golden).unwrap(), journal);
    assert_eq!(journal.to_bytes(), golden);
    let golden = include_bytes!("../../golden/journal-refilled-v1.bin");
    let candidate = Candidate {
        refills: 1,
        promise: Promise { latency_us: 5_000, memory_bytes: 1 << 20 },
        ..Candidate::new(SlotName::A, release("candidate"), 42, Step::Filling)
    };
    let journal = UpdateJournal { candidate: Some(candidate), ..UpdateJournal::default() };
    assert_eq!(UpdateJournal::from_bytes(golden).unwrap(), journal);
    assert_eq!(journal.to_bytes(), golden);
}

/// What later agents of version 1 write of their own release. Earlier ones pass over it.
#[test]
fn a_journal_of_an_agent_that_waits_for_a_session_still_reads() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/golden/journal-session-v1.bin");
    let mut journal = golden_journal();
    journal.candidate.as_mut().unwrap().again = 2;
    journal.failed.as_mut().unwrap().again = Some(1);
    if !std::path::Path::new(path).exists() && std::env::var_os("FLOTILLA_BLESS").is_some() {
        std::fs::write(path, journal.to_bytes()).unwrap();
    }
    let golden = std::fs::read(path).unwrap();
    assert_eq!(UpdateJournal::from_bytes(&golden).unwrap(), journal);
    assert_eq!(journal.to_bytes(), golden);
}

/// An agent that is taken back to reads what the newer one wrote.
#[test]
fn what_a_later_agent_adds_to_a_journal_is_passed_over() {
    #[derive(Serialize)]
    struct Later<T> {
        #[serde(flatten)]
        now: T,
        later: Vec<u32>,
    }
    let journal = golden_journal();
    let later = Later { now: journal.clone(), later: vec![1] };
    assert_eq!(UpdateJournal::from_bytes(&frame::seal(KIND, &codec::encode(&later))).unwrap(), journal);
    #[derive(Serialize)]
    struct Inner {
        confirmed: Later<Confirmed>,
        candidate: Later<Candidate>,
        failed: Later<FailedRelease>,
    }
    let inner = Inner {
        confirmed: Later { now: journal.confirmed.clone().unwrap(), later: vec![1] },
        candidate: Later { now: journal.candidate.clone().unwrap(), later: vec![1] },
        failed: Later { now: journal.failed.clone().unwrap(), later: vec![1] },
    };
    assert_eq!(UpdateJournal::from_bytes(&frame::seal(KIND, &codec::encode(&inner))).unwrap(), journal);
}

#[test]
fn a_damaged_journal_is_recognised() {
    let bytes = golden_journal().to_bytes();
    for at in [0, 3, 5, 9, 40, bytes.len() - 1] {
        let mut damaged = bytes.clone();
        damaged[at] ^= 0x10;
        let code = UpdateJournal::from_bytes(&damaged).unwrap_err().code();
        assert!(matches!(code, ErrorCode::StorageCorrupt | ErrorCode::StorageVersion), "byte {at}: {code}");
    }
    let mut shared = golden_journal();
    shared.candidate.as_mut().unwrap().slot = SlotName::B;
    assert_eq!(UpdateJournal::from_bytes(&shared.to_bytes()).unwrap_err().code(), ErrorCode::StorageCorrupt);
}
