//! The learning rate over a training: a linear rise, then half a cosine down.

use std::f64::consts::PI;

/// What is left of the highest rate at the end.
const END: f64 = 0.01;

/// The learning rate over a training.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Schedule {
    highest: f64,
    rise: u64,
    steps: u64,
}

impl Schedule {
    /// A schedule over `steps` steps, the first `rise` of which rise.
    pub(crate) fn new(highest: f64, rise: u64, steps: u64) -> Self {
        // At least one step is left to fall in.
        Self { highest, rise: rise.min(steps.saturating_sub(1)), steps }
    }

    /// The rate of a step, from 0.
    pub(crate) fn rate(&self, step: u64) -> f64 {
        if step < self.rise {
            return self.highest * (step + 1) as f64 / (self.rise + 1) as f64;
        }
        let fall = (self.steps - self.rise).max(1);
        let done = ((step - self.rise) as f64 / fall as f64).min(1.0);
        self.highest * (END + (1.0 - END) * 0.5 * (1.0 + (PI * done).cos()))
    }
}
