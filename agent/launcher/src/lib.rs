//! The launcher: a small program that starts the agent, and starts another binary of it when it is told to or has to.
//!
//! It knows nothing of models, brokers or signatures, so that it never needs an upgrade itself: it reads one small
//! journal, counts, starts, waits and stops. What it decides is [`flotilla_device::launch`]. It never looks inside a
//! binary, but starts one from a slot only while its size and checksum are those in the journal.
//!
//! The agent's standard input is a pipe from the launcher: when it ends, because the launcher asks for that or dies,
//! the agent stops by itself. No signal has to reach the right process; one that hangs is killed by the system when the
//! launcher dies, where the system knows how.
//!
//! ```text
//! DIR/agent/launch, launch.copy   the launch journal, twice: a damaged first one is not the end
//! DIR/agent/journal               the update journal of the agent's own release
//! DIR/agent/slot-{a,b}/           as a model's slots; the binary is in files/
//! DIR/agent/lock                  held while the launcher runs
//! ```
//!
//! The crate is also the ground that launcher and agent both stand on, so that neither has its own: [`disk`], [`lock`]
//! and [`child`].

pub mod child;
pub mod disk;
pub mod journal;
pub mod lock;
mod process;
mod shell;

pub use process::{checksum, is_unusable};
pub use shell::{Error, Options, run};

use flotilla_protocol::message::SlotName;
use std::path::{Path, PathBuf};

/// The environment variable that tells an agent from where it runs: `installed`, `a` or `b`.
pub const LAUNCHED: &str = "FLOTILLA_LAUNCHED";
/// Folder with what the launcher and the agent's own upgrade need.
pub const AGENT: &str = "agent";
/// A slot's folder with complete files.
pub const FILES_FOLDER: &str = "files";

/// A slot's folder within the one of its model, or of the agent.
pub fn slot_folder(of: &Path, slot: SlotName) -> PathBuf {
    of.join(format!("slot-{}", slot.as_str()))
}
