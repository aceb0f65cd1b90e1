//! The numbers of a network outside of the training engine, and their average over many steps.

use crate::rounding::{Bits, Channels};

/// The numbers of one convolution and its normalisation.
#[derive(Clone)]
pub(crate) struct UnitWeights {
    pub(crate) dims: [usize; 4],
    pub(crate) weight: Vec<f32>,
    pub(crate) gamma: Vec<f32>,
    pub(crate) beta: Vec<f32>,
    pub(crate) mean: Vec<f32>,
    pub(crate) variance: Vec<f32>,
    pub(crate) epsilon: f64,
    pub(crate) stride: usize,
    pub(crate) groups: usize,
}

/// The numbers of a network.
#[derive(Clone)]
pub(crate) struct Weights {
    pub(crate) units: Vec<UnitWeights>,
    /// Features times classes, row by row.
    pub(crate) head: Vec<f32>,
    pub(crate) bias: Vec<f32>,
}

impl Weights {
    /// The same numbers with each weight rounded to so many bits.
    pub(crate) fn rounded(mut self, bits: Bits) -> Self {
        for unit in &mut self.units {
            bits.round(&mut unit.weight, Channels::rows(unit.dims[0]));
        }
        bits.round(&mut self.head, Channels::columns(self.bias.len()));
        self
    }

    /// Takes a share of what other weights differ.
    fn approach(&mut self, other: &Self, share: f32) {
        for (unit, other) in self.units.iter_mut().zip(&other.units) {
            approach(&mut unit.weight, &other.weight, share);
            approach(&mut unit.gamma, &other.gamma, share);
            approach(&mut unit.beta, &other.beta, share);
            approach(&mut unit.mean, &other.mean, share);
            approach(&mut unit.variance, &other.variance, share);
        }
        approach(&mut self.head, &other.head, share);
        approach(&mut self.bias, &other.bias, share);
    }
}

pub(crate) fn approach(values: &mut [f32], others: &[f32], share: f32) {
    values.iter_mut().zip(others).for_each(|(value, other)| *value += share * (other - *value));
}

/// The average of the weights of the last steps, with older ones counting less and less.
///
/// Single steps of a high learning rate jump about; their average is a better network, and one whose validation loss
/// falls smoothly enough to choose an epoch by.
pub(crate) struct Average {
    steps: u64,
    horizon: u64,
    weights: Option<Weights>,
}

impl Average {
    /// An average over about `horizon` steps.
    pub(crate) fn over(horizon: u64) -> Self {
        Self { steps: 0, horizon: horizon.max(1), weights: None }
    }

    /// Adds the weights after one step.
    pub(crate) fn add(&mut self, weights: Weights) {
        self.steps += 1;
        let share = 1.0 / self.steps.min(self.horizon) as f32;
        match &mut self.weights {
            Some(average) => average.approach(&weights, share),
            None => self.weights = Some(weights),
        }
    }

    /// The average, once there is one.
    pub(crate) fn weights(&self) -> Option<&Weights> {
        self.weights.as_ref()
    }
}
