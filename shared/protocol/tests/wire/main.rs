//! The wire formats: golden files of version 1, round trips, the exit to another CBOR library, and
//! arbitrary bytes.
#![expect(clippy::unwrap_used, reason = "tests fail by panicking")]

mod golden;
mod hostile;
mod messages;
mod models;
mod rules;
