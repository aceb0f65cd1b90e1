//! The small files beside identity and models: what was accepted, how many hellos were said, which commands were
//! done.

use crate::clock::Clock;
use crate::disk::DiskError;
use crate::folder::{ACCEPTED, COMMANDS, COUNTER, DESIRED, Folder};
use flotilla_device::frame::{self, Kind};
use flotilla_protocol::message::CommandReport;
use flotilla_protocol::{codec, limits};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

const ACCEPTED_KIND: Kind = Kind { name: *b"FAC", version: 1 };
const COUNTER_KIND: Kind = Kind { name: *b"FHC", version: 1 };
const COMMANDS_KIND: Kind = Kind { name: *b"FCM", version: 1 };
const BOUND: usize = 256 * limits::KIB;

/// Stored files that could not be used, for the cloud to hear of.
pub(crate) type Damage = Vec<String>;

/// What the device will never go back behind.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Accepted {
    /// Version of the accepted desired document.
    pub(crate) desired_version: u64,
    /// The latest moment that a signature proved.
    pub(crate) proof_ms: u64,
}

impl Accepted {
    pub(crate) fn read(folder: &Folder, damage: &mut Damage) -> Self {
        read(folder, ACCEPTED, ACCEPTED_KIND, damage).unwrap_or_default()
    }

    pub(crate) fn store(self, folder: &Folder) -> Result<(), DiskError> {
        store(folder, ACCEPTED, ACCEPTED_KIND, &self)
    }

    /// Stores an accepted desired document, and then that it was.
    pub(crate) fn store_with(self, document: &[u8], folder: &Folder) -> Result<(), DiskError> {
        folder.disk().replace(DESIRED.as_ref(), document)?;
        self.store(folder)
    }
}

/// The last hello's counter. If its file is damaged the count goes on from the time, which is far above any count
/// of hellos: the cloud must never see a value again.
pub(crate) fn counter(folder: &Folder, clock: &Clock, damage: &mut Damage) -> u64 {
    let before = damage.len();
    let stored = read(folder, COUNTER, COUNTER_KIND, damage);
    stored.unwrap_or(if damage.len() == before { 0 } else { clock.trusted_ms() / 1_000 })
}

pub(crate) fn store_counter(folder: &Folder, counter: u64) -> Result<(), DiskError> {
    store(folder, COUNTER, COUNTER_KIND, &counter)
}

pub(crate) fn commands(folder: &Folder, damage: &mut Damage) -> Vec<CommandReport> {
    read(folder, COMMANDS, COMMANDS_KIND, damage).unwrap_or_default()
}

pub(crate) fn store_commands(folder: &Folder, commands: &[CommandReport]) -> Result<(), DiskError> {
    store(folder, COMMANDS, COMMANDS_KIND, &commands)
}

/// `None` if there is no such file, or if it is damaged, which is said.
fn read<T: DeserializeOwned>(folder: &Folder, name: &str, kind: Kind, damage: &mut Damage) -> Option<T> {
    let mut damaged = |error: &dyn std::fmt::Display| {
        tracing::warn!(file = name, %error, "a stored file is damaged and not used");
        damage.push(format!("{name}: {error}"));
        None
    };
    let bytes = match folder.disk().read(name.as_ref(), BOUND) {
        Ok(bytes) => bytes?,
        Err(error) => return damaged(&error),
    };
    let content = match frame::open(kind, &bytes) {
        Ok((_, content)) => content,
        Err(error) => return damaged(&error),
    };
    codec::decode(content, BOUND).map_or_else(|error| damaged(&error), Some)
}

fn store<T: Serialize>(folder: &Folder, name: &str, kind: Kind, value: &T) -> Result<(), DiskError> {
    folder.disk().replace(name.as_ref(), &frame::seal(kind, &codec::encode(value)))
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests fail by panicking")]
mod tests {
    use super::*;
    use flotilla_protocol::ErrorCode;
    use flotilla_protocol::message::CommandState;
    use std::path::Path;

    #[test]
    fn a_hello_counter_never_comes_back_even_if_its_file_is_damaged() {
        let root = tempfile::tempdir().unwrap();
        let folder = Folder::open(root.path()).unwrap();
        let clock = Clock::new(0);
        let mut damage = Damage::new();
        assert_eq!(counter(&folder, &clock, &mut damage), 0);
        store_counter(&folder, 41).unwrap();
        assert_eq!(counter(&folder, &clock, &mut damage), 41);
        assert!(damage.is_empty());
        std::fs::write(root.path().join(COUNTER), b"rubbish").unwrap();
        assert!(counter(&folder, &clock, &mut damage) > 1_700_000_000);
        assert_eq!(damage.len(), 1);
    }

    /// The bytes that version 1 writes must be read for ever. After a deliberate new version, add files; never change these.
    #[test]
    fn files_of_version_1_still_read_and_are_still_written_so() {
        let root = tempfile::tempdir().unwrap();
        let folder = Folder::open(root.path()).unwrap();
        let accepted = Accepted { desired_version: 7, proof_ms: 1_790_000_000_000 };
        let failed = CommandState::Failed { code: ErrorCode::NotFound, detail: "no such model".into() };
        let done = vec![
            CommandReport { id: 3, state: CommandState::Done, diagnosis: None, measured: None },
            CommandReport { id: 4, state: failed, diagnosis: None, measured: None },
        ];
        accepted.store(&folder).unwrap();
        store_counter(&folder, 41).unwrap();
        store_commands(&folder, &done).unwrap();
        let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("golden");
        for name in [ACCEPTED, COUNTER, COMMANDS] {
            let (stored, file) = (root.path().join(name), golden.join(format!("{name}-v1.bin")));
            if !file.exists() && std::env::var_os("FLOTILLA_BLESS").is_some() {
                std::fs::copy(&stored, &file).unwrap();
            }
            let old = std::fs::read(&file).unwrap();
            assert_eq!(std::fs::read(&stored).unwrap(), old, "{name}");
            std::fs::write(&stored, old).unwrap();
        }
        let mut damage = Damage::new();
        assert_eq!(Accepted::read(&folder, &mut damage), accepted);
        assert_eq!(counter(&folder, &Clock::new(0), &mut damage), 41);
        assert_eq!(commands(&folder, &mut damage), done);
        assert!(damage.is_empty(), "{damage:?}");
    }

    /// An agent that is taken back to reads what the newer one wrote.
    #[test]
    fn what_a_later_agent_adds_is_passed_over() {
        #[derive(Serialize)]
        struct Later<T> {
            #[serde(flatten)]
            now: T,
            later: Vec<u32>,
        }
        let root = tempfile::tempdir().unwrap();
        let folder = Folder::open(root.path()).unwrap();
        let accepted = Accepted { desired_version: 7, proof_ms: 9 };
        let report = CommandReport { id: 3, state: CommandState::Done, diagnosis: None, measured: None };
        store(&folder, ACCEPTED, ACCEPTED_KIND, &Later { now: accepted, later: vec![1] }).unwrap();
        store(&folder, COMMANDS, COMMANDS_KIND, &vec![Later { now: report.clone(), later: vec![1] }])
            .unwrap();
        let mut damage = Damage::new();
        assert_eq!(Accepted::read(&folder, &mut damage), accepted);
        assert_eq!(commands(&folder, &mut damage), [report]);
        assert!(damage.is_empty(), "{damage:?}");
    }

    #[test]
    fn what_was_accepted_is_read_back() {
        let root = tempfile::tempdir().unwrap();
        let folder = Folder::open(root.path()).unwrap();
        let mut damage = Damage::new();
        assert_eq!(Accepted::read(&folder, &mut damage), Accepted::default());
        let accepted = Accepted { desired_version: 7, proof_ms: 9 };
        accepted.store(&folder).unwrap();
        assert_eq!(Accepted::read(&folder, &mut damage), accepted);
        assert!(damage.is_empty());
    }
}
