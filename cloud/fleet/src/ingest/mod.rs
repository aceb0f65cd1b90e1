//! Records from devices, durable end to end.
//!
//! - `marks`: which records of a device are durable already; a pure machine that drops repetitions.
//! - `frame`: what is appended to the segments for one batch.
//! - `service`: marks, append, fsync (many devices share one), and only then the `ack`.
//! - `rollup` and `fold`: what is kept of the records for people, computed behind the acknowledgement.
//!
//! The marks have one source of truth: those of a rollup, brought forward by the frames behind the fold's position.
//! Rollups and position change in one commit, so after a kill at any point a record is neither lost nor counted twice.

mod fold;
mod frame;
mod marks;
#[cfg(test)]
mod model_tests;
mod rollup;
mod service;
#[cfg(test)]
mod tests;

pub(crate) use fold::FoldPosition;
pub(crate) use marks::Head;
pub(crate) use rollup::merge;
pub use rollup::{DeviceEvent, DeviceEvents, HistoryPoint, LatestSample, Rollup};
pub(crate) use service::Ingest;
