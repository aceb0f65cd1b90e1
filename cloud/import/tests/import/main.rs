//! What somebody who brings a model of another tool gets: a cleaned file, a report, or a refusal that helps.
#![expect(clippy::unwrap_used, reason = "tests fail by panicking")]

mod formats;
mod guesses;
mod hostile;
mod packages;
mod proposals;
mod reports;
mod support;
