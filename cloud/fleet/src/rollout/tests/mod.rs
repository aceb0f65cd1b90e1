//! What an operator may rely on: no second wave before the canary, a way back for every touched device, and the same
//! end whatever is killed in between.
#![expect(clippy::unwrap_used, reason = "tests fail by panicking")]

mod ends;
mod waves;
mod world;
