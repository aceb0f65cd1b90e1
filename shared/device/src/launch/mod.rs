//! The agent's own upgrade: which binary the launcher starts, so that an upgrade of the agent cannot brick a device.
//!
//! A tiny launcher, which never changes itself, starts the agent from one of three places: the binary that was
//! installed with the device, slot A or slot B. An agent release comes into a slot by the same update machine as a
//! model's ([`crate::update`]); only its switch is different, because the process itself has to end:
//!
//! ```text
//!   agent: fetched, verified, self-test passed ──▶ writes the launch journal: candidate ──▶ exits with EXIT_SWITCH
//!   launcher: counts the start in the journal ──▶ starts the candidate ──▶ has it confirmed in time?
//!        yes: it is the confirmed one, the one before it is the spare
//!        no, after TRIAL_STARTS starts or when its time is over: noted as given up; the confirmed one is started
//!   agent: reads that it was given up, or that it is the candidate and healthy ──▶ event, report
//! ```
//!
//! What must hold, whatever is killed whenever:
//! - Every start of a candidate is counted on the disk before it happens; so is every start of a confirmed binary, until
//!   it has stayed up. One that does not is given up for the spare, and that for the installed one.
//! - Only the agent that runs from the candidate's slot confirms it, after its probation.
//! - The confirmed binary's slot is not written to while the journal names it, nor is the slot that the agent runs from.
//! - Without a usable journal, or a usable binary where it points, something older that works is started: the spare
//!   slot, and at last the installed binary.
//!
//! [`Launcher`] decides for the launcher; [`handover`] for the agent. The journal is the only thing they share, and
//! it is written by the one that runs: the agent while it runs, the launcher while it does not.

pub mod handover;
mod journal;
mod machine;

#[cfg(test)]
mod journal_tests;
#[cfg(test)]
mod simulation;
#[cfg(test)]
mod tests;

pub use journal::{Binary, GivenUp, LaunchJournal, LaunchJournalError, Place, Terms, Trial, Why};
pub use machine::{CRASHES, Effect, Event, Exit, KILL_MS, Launcher, SETTLED_MS, TRIAL_STARTS};

/// The exit code with which an agent asks the launcher to start what the journal says now.
pub const EXIT_SWITCH: u8 = 10;
