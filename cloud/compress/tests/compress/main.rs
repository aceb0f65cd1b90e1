//! Compression as its callers see it: files in, files and reports out, measured by the real runtime.
#![expect(clippy::unwrap_used, reason = "tests fail by panicking")]

mod budget;
mod evaluators;
mod form;
mod hostile;
mod real_models;
mod replay;
mod support;
mod transforms;
