//! End to end through the real binaries: what users do, what goes wrong, and who must not get in.

#![expect(clippy::unwrap_used, reason = "tests fail by panicking")]

mod agent_upgrade;
mod console_api;
mod quickstart;
mod refusals;
mod updates;
