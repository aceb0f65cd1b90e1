//! One model from release to release, so that an update cannot brick a device.
//!
//! ```text
//!            desired                 verified             probe passed            healthy
//!   Idle ───────────▶ Downloading ─▶ Verifying ─▶ Staged ─▶ Probing ─▶ Switching ─▶ Probation ─▶ Confirmed
//!                          │             │           │         │            │           │
//!                          └─ newer ─────┴───────────┴─ fault ─┴──▶ Failed  └─ fault ───┴──▶ Reverting
//! ```
//!
//! What must hold, whatever is killed whenever:
//! - The journal is written before the effect that it announces; a step writes it at most once, as its first
//!   effect. If that write fails, the step did not happen.
//! - The slot of the confirmed release is never written to while the journal names it.
//! - Switching is that one journal write; the loaded model follows it, not the other way round.
//! - Every start of a candidate, as a probe or for real, is counted in the journal first. A candidate that takes
//!   the device down with it is given up after [`PROBE_STARTS`] or [`TRIAL_STARTS`] times, without any network.
//! - The release confirmed before stays named as long as its slot is untouched. A confirmed release that turns out
//!   damaged, cannot be loaded any more, or takes the agent down [`CRASHES`] times in a row, gives way to it.
//! - Bytes that change on the disk are the disk's fault, not the release's: they are fetched anew.
//! - Faults of the link or the moment are tried again; faults of the release are final until the wanted release
//!   or its attempt changes.

mod agent;
mod candidate;
mod event;
mod journal;
mod machine;
mod report;
mod serving;
mod watch;

#[cfg(test)]
mod agent_tests;
#[cfg(test)]
mod journal_tests;
#[cfg(test)]
mod tests;

pub use event::{Context, Effect, Event, Health, ReleaseFacts, Unready, Vitals};
pub use journal::{Candidate, Confirmed, FailedRelease, JournalError, Promise, Step, UpdateJournal};
pub use machine::{
    CRASHES, MIN_PREDICTIONS, PROBE_STARTS, REFILLS, SESSION_TRIES, STABLE_MS, TRIAL_STARTS, Update,
};
pub(crate) use machine::{is_damage, is_lost};
