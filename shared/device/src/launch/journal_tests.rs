//! Launch journals of older versions, and damaged ones.
#![expect(clippy::unwrap_used, reason = "tests fail by panicking")]

use super::journal::KIND;
use super::*;
use crate::frame;
use flotilla_protocol::codec;
use flotilla_protocol::message::SlotName;
use flotilla_protocol::{Digest, ErrorCode};
use serde::Serialize;

fn binary(slot: SlotName, name: &str) -> Binary {
    Binary {
        slot,
        release: Digest::of(name.as_bytes()),
        counter: 7,
        version: "0.2.0".into(),
        file: "flotilla-agent-linux-x86_64".into(),
        bytes: 20_000_000,
        crc: 0x1234_5678,
    }
}

fn on_trial() -> LaunchJournal {
    LaunchJournal {
        confirmed: Some(binary(SlotName::A, "confirmed")),
        spare: None,
        candidate: Some(Trial {
            starts: 2,
            ..Trial::new(
                binary(SlotName::B, "candidate"),
                Terms { patience_ms: 240_000, probation_ms: 0, online: false, silent: 0 },
            )
        }),
        ..LaunchJournal::default()
    }
}

fn after_one_was_given_up() -> LaunchJournal {
    LaunchJournal {
        confirmed: Some(binary(SlotName::A, "confirmed")),
        spare: Some(binary(SlotName::B, "before")),
        candidate: None,
        given_up: Some(GivenUp {
            release: Digest::of(b"bad"),
            why: Why::Crashed,
            starts: 3,
            detail: "it ended with code 1, after 3 starts".into(),
        }),
        ..LaunchJournal::default()
    }
}

/// What later launchers and agents of version 1 also write. Earlier ones pass over it.
fn on_terms() -> LaunchJournal {
    let terms = Terms { patience_ms: 240_000, probation_ms: 60_000, online: true, silent: 1 };
    let trial = Trial::new(binary(SlotName::B, "candidate"), terms);
    LaunchJournal { candidate: Some(Trial { starts: 2, again: 1, ..trial }), starts: 3, ..on_trial() }
}

/// A launcher is older than the agents that it starts, and an agent that is taken back to older than what wrote last.
#[test]
fn what_a_later_agent_adds_to_a_launch_journal_is_passed_over() {
    #[derive(Serialize)]
    struct Later<T> {
        #[serde(flatten)]
        now: T,
        later: Vec<u32>,
    }
    for journal in [on_trial(), after_one_was_given_up(), on_terms()] {
        let later = Later { now: journal.clone(), later: vec![1] };
        assert_eq!(LaunchJournal::from_bytes(&frame::seal(KIND, &codec::encode(&later))).unwrap(), journal);
    }
    #[derive(Serialize)]
    struct Inner {
        confirmed: Later<Binary>,
        candidate: Later<Trial>,
        starts: u32,
    }
    let journal = on_terms();
    let inner = Inner {
        confirmed: Later { now: journal.confirmed.clone().unwrap(), later: vec![1] },
        candidate: Later { now: journal.candidate.clone().unwrap(), later: vec![1] },
        starts: journal.starts,
    };
    assert_eq!(LaunchJournal::from_bytes(&frame::seal(KIND, &codec::encode(&inner))).unwrap(), journal);
}

/// The bytes that version 1 writes must be read for ever, by every launcher and every agent. After a deliberate new
/// version, add files; never change these.
#[test]
fn launch_journals_of_version_1_still_read() {
    let all = [("trial", on_trial()), ("given-up", after_one_was_given_up()), ("terms", on_terms())];
    for (name, journal) in all {
        let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR"))
            .join(format!("golden/launch-journal-{name}-v1.bin"));
        if !path.exists() && std::env::var_os("FLOTILLA_BLESS").is_some() {
            std::fs::write(&path, journal.to_bytes()).unwrap();
        }
        let golden = std::fs::read(&path).unwrap();
        assert_eq!(LaunchJournal::from_bytes(&golden).unwrap(), journal, "{name}");
        assert_eq!(journal.to_bytes(), golden, "{name}");
    }
}

#[test]
fn a_damaged_or_contradictory_launch_journal_is_recognised() {
    let bytes = on_trial().to_bytes();
    for at in 0..bytes.len() {
        let mut damaged = bytes.clone();
        damaged[at] ^= 0x10;
        let code = LaunchJournal::from_bytes(&damaged).unwrap_err().code();
        assert!(matches!(code, ErrorCode::StorageCorrupt | ErrorCode::StorageVersion), "byte {at}: {code}");
        LaunchJournal::from_bytes(&bytes[..at]).unwrap_err();
    }
    let mut shared = on_trial();
    shared.confirmed = Some(binary(SlotName::B, "confirmed"));
    LaunchJournal::from_bytes(&shared.to_bytes()).unwrap_err();
    for file in ["", "../flotilla-agent", "/bin/sh", ".hidden"] {
        let mut outside = on_trial();
        outside.confirmed = Some(Binary { file: file.into(), ..binary(SlotName::A, "confirmed") });
        LaunchJournal::from_bytes(&outside.to_bytes()).unwrap_err();
    }
}

#[test]
fn places_are_read_back_from_their_text() {
    for place in [Place::Installed, Place::Slot(SlotName::A), Place::Slot(SlotName::B)] {
        assert_eq!(Place::from_text(place.as_str()), Some(place));
    }
    assert_eq!(Place::from_text("c"), None);
}
