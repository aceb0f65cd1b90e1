//! Merging each normalisation into the convolution before it, as a device runs it.

use crate::rounding::{Bits, Channels};
use crate::weights::{UnitWeights, Weights};

/// A convolution with bias.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Convolution {
    pub(crate) dims: [usize; 4],
    pub(crate) weight: Vec<f32>,
    pub(crate) bias: Vec<f32>,
    pub(crate) stride: usize,
    pub(crate) groups: usize,
}

/// A network as it is exported.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Folded {
    pub(crate) convolutions: Vec<Convolution>,
    /// Classes times features, row by row.
    pub(crate) head: Vec<f32>,
    pub(crate) bias: Vec<f32>,
}

impl Folded {
    pub(crate) fn new(weights: Weights) -> Self {
        let (classes, features) = (weights.bias.len(), weights.head.len() / weights.bias.len().max(1));
        let transposed = (0..classes).flat_map(|class| (0..features).map(move |row| row * classes + class));
        Self {
            convolutions: weights.units.into_iter().map(fold).collect(),
            head: transposed.map(|place| weights.head[place]).collect(),
            bias: weights.bias,
        }
    }

    /// Whether all numbers are finite. A rectifier hides values that are not from the loss.
    pub(crate) fn is_finite(&self) -> bool {
        let convolutions = self.convolutions.iter().flat_map(|c| c.weight.iter().chain(&c.bias));
        convolutions.chain(&self.head).chain(&self.bias).all(|v| v.is_finite())
    }

    /// The same network with each weight rounded to so many bits, so that rounding again loses nothing.
    pub(crate) fn rounded(mut self, bits: Bits) -> Self {
        for convolution in &mut self.convolutions {
            bits.round(&mut convolution.weight, Channels::rows(convolution.bias.len()));
        }
        bits.round(&mut self.head, Channels::rows(self.bias.len()));
        self
    }
}

fn fold(unit: UnitWeights) -> Convolution {
    let outputs = unit.dims[0];
    let each = unit.weight.len() / outputs.max(1);
    let (mut weight, mut bias) = (unit.weight, Vec::with_capacity(outputs));
    for (channel, values) in weight.chunks_exact_mut(each).enumerate() {
        let deviation = (f64::from(unit.variance[channel]) + unit.epsilon).sqrt();
        let factor = f64::from(unit.gamma[channel]) / deviation;
        values.iter_mut().for_each(|v| *v = (f64::from(*v) * factor) as f32);
        bias.push((f64::from(unit.beta[channel]) - f64::from(unit.mean[channel]) * factor) as f32);
    }
    Convolution { dims: unit.dims, weight, bias, stride: unit.stride, groups: unit.groups }
}
