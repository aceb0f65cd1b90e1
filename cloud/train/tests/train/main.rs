//! Whole trainings on real images.
#![expect(clippy::unwrap_used, reason = "tests fail by panicking")]

mod digits;
mod images;
mod rows;
mod shrink;
mod support;
