//! A candidate release beside the confirmed one, on the same inputs, for nobody but the fleet's eyes.
//!
//! ```text
//!            wanted                   verified            probe passed        a confirmed one rests
//!   nothing ────────▶ Filling ─────────────▶ Staged ────────────▶ Passed ────────▶ starting ─▶ running
//!                        ▲                      │                    ▲                  │          │
//!                        └── damage on the disk ┴────────────────────┴── crash, once ───┴──────────┘
//! ```
//!
//! It comes the same road as any release: signed, above the floor, within the board's bounds, probed in a child. What must
//! hold, whatever is killed whenever:
//! - It has a place of its own; no effect of this machine touches a slot, or what serves.
//! - The journal is written before the effect that it announces; a step writes it at most once, as its first effect. If
//!   that write fails, the step did not happen.
//! - It runs only beside a confirmed release that rests: while an update is being tried it is stopped. Both must fit into
//!   the memory that the board has for models.
//! - Every start is counted first. A shadow that crashes or hangs [`CRASHES`] times, or with which the device goes down
//!   [`STARTS`] times, is given up until another one, or another attempt, is wanted.
//! - Bytes that change on the disk are the disk's fault, and are fetched anew.
//! - What is to be promoted keeps its files until the update has them.

mod event;
mod journal;
mod machine;
mod report;

#[cfg(test)]
mod simulation;
#[cfg(test)]
mod tests;

pub use event::{Beside, Context, Effect, End, Event};
pub use journal::{Held, ShadowJournal, ShadowStep};
pub use machine::{CRASHES, SETTLED_MS, STARTS, Shadow};
