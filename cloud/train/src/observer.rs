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
    /// Share of the changed training samples that were right, where classes are learnt.
    pub train_accuracy: Option<f64>,
    /// Mean cross-entropy on the validation samples, or mean squared error in deviations of the target.
    pub validation_loss: f64,
    /// Share of the validation samples that were right, where classes are learnt.
    pub validation_accuracy: Option<f64>,
    /// Share of the validation samples' variance that is explained, where numbers are learnt.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub validation_r2: Option<f64>,
    /// The learning rate at the end of the epoch.
    pub learning_rate: f64,
    /// Time the epoch took.
    pub seconds: f64,
}

/// Watches a training and may end it.
pub trait Observer: Send {
    /// Called after each epoch.
    fn epoch(&mut self, metrics: EpochMetrics);

    /// Called when a shrinking begins with something else, with what that is.
    fn begins(&mut self, _what: &str) {}

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

/// Hands on what one of several trainings tells, with epochs that are counted through all of them.
pub(crate) struct Counted<'a> {
    inner: &'a mut dyn Observer,
    before: u32,
    seen: u32,
}

impl<'a> Counted<'a> {
    pub(crate) fn new(inner: &'a mut dyn Observer) -> Self {
        Self { inner, before: 0, seen: 0 }
    }

    /// The next epochs are those of another training.
    pub(crate) fn ended(&mut self) {
        self.before += self.seen;
        self.seen = 0;
    }
}

impl Observer for Counted<'_> {
    fn epoch(&mut self, metrics: EpochMetrics) {
        self.seen = metrics.epoch;
        let (epoch, of) = (self.before + metrics.epoch, self.before + metrics.of);
        self.inner.epoch(EpochMetrics { epoch, of, ..metrics });
    }

    fn begins(&mut self, what: &str) {
        self.inner.begins(what);
    }

    fn cancelled(&self) -> bool {
        self.inner.cancelled()
    }
}
