//! Clean-up of models of other tools: the engine reads what it could not read, and answers stay what they were.
#![expect(clippy::unwrap_used, reason = "tests fail by panicking")]

mod forms;
mod passes;
mod quantised;
mod real_models;
mod support;
