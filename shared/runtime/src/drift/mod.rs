//! Drift: how far what a model sees and answers of late is from its baseline. Pure counting, no clock and no I/O.
//!
//! - [`psi`]: the population stability index of two sets of counts; [`chance`]: how large it hardly ever is without drift.
//! - [`Features`]: the few numbers that an input tensor is summed up by.
//! - [`Collector`]: makes a [`Baseline`] of training samples, through the very model that ships.
//! - [`Monitor`]: counts predictions in two half windows and compares them with the baseline.

mod baseline;
mod features;
mod index;
mod monitor;

pub use baseline::Collector;
pub use features::Features;
pub use index::{chance, psi};
pub use monitor::{HALF_WINDOW, Monitor};

use flotilla_protocol::Baseline;
use flotilla_protocol::baseline::CONFIDENCE_BINS;

/// The bin of a score. Scores beyond 0 to 1, which a model without an activation may give, are in the outer bins.
pub fn confidence_bin(score: f32) -> usize {
    // The conversion takes what is negative, or no number, for 0.
    ((score * CONFIDENCE_BINS as f32) as usize).min(CONFIDENCE_BINS - 1)
}

/// The bin of a value: the number of bounds below it.
fn bin(edges: &[f32], value: f32) -> usize {
    edges.partition_point(|edge| *edge < value)
}

/// The bin of an answered label; the last is for labels that have none of their own.
fn label_bin(baseline: &Baseline, label: usize) -> usize {
    let own = baseline.labels.iter().position(|own| *own as usize == label);
    own.unwrap_or(baseline.labels.len())
}
