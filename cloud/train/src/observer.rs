//! Who watches a training, and what there is to see.

use serde::{Deserialize, Serialize};

/// What one epoch gave.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct EpochMetrics {
    /// The epoch, from 1.
    pub epoch: u32,
    /// Epochs there will be at most.
    pub of: u32,
    /// Mean loss over the changed training images, smoothed labels included.
    pub train_loss: f64,
    /// Share of the changed training images that were right.
    pub train_accuracy: f64,
    /// Mean cross-entropy on the validation images.
    pub validation_loss: f64,
    /// Share of the validation images that were right.
    pub validation_accuracy: f64,
    /// The learning rate at the end of the epoch.
    pub learning_rate: f64,
    /// Time the epoch took.
    pub seconds: f64,
}

/// Watches a training and may end it.
pub trait Observer: Send {
    /// Called after each epoch.
    fn epoch(&mut self, metrics: EpochMetrics);

    /// Asked before each step; `true` ends the training with [`crate::Error::Cancelled`].
    fn cancelled(&self) -> bool {
        false
    }
}

/// Watches nothing and ends nothing.
#[derive(Clone, Copy, Debug, Default)]
pub struct Silent;

impl Observer for Silent {
    fn epoch(&mut self, _metrics: EpochMetrics) {}
}
