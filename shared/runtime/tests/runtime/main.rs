//! The runtime as its users see it: bundles and bytes in, predictions or typed errors out.
#![expect(clippy::unwrap_used, reason = "tests fail by panicking")]

mod answers;
mod bundle;
mod detectors;
mod engine;
mod golden;
mod hostile;
mod model;
mod pictures;
mod probe;
mod quality;
mod real_models;
mod sound;
mod sound_golden;
mod streams;
mod support;
mod table;
mod table_hostile;
