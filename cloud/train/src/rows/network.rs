//! The dense network in the training engine.

use burn::module::{Module, Param};
use burn::tensor::{Device, Tensor, TensorData, activation::relu};
use rand::{Rng, rngs::StdRng};

use crate::Result;
use crate::network::numbers;

/// The numbers of one layer outside of the engine.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Layer {
    /// Inputs times outputs, row by row.
    pub(crate) weight: Vec<f32>,
    pub(crate) bias: Vec<f32>,
}

impl Layer {
    pub(crate) fn inputs(&self) -> usize {
        self.weight.len() / self.bias.len().max(1)
    }
}

/// Weights of random sizes, as He and others choose them for rectified layers.
pub(crate) fn random(widths: &[usize], rng: &mut StdRng) -> Vec<Layer> {
    let layer = |pair: &[usize]| {
        let limit = (6.0 / pair[0] as f32).sqrt();
        let weight = (0..pair[0] * pair[1]).map(|_| rng.random_range(-limit..=limit)).collect();
        Layer { weight, bias: vec![0.0; pair[1]] }
    };
    widths.windows(2).map(layer).collect()
}

/// Dense layers with a rectifier between each two.
#[derive(Module, Debug)]
pub(crate) struct Dense {
    weights: Vec<Param<Tensor<2>>>,
    biases: Vec<Param<Tensor<1>>>,
}

impl Dense {
    pub(crate) fn load(layers: &[Layer], device: &Device) -> Self {
        let weight = |layer: &Layer| {
            let data = TensorData::new(layer.weight.clone(), [layer.inputs(), layer.bias.len()]);
            Param::from_tensor(Tensor::from_data(data, device))
        };
        let bias = |layer: &Layer| {
            let data = TensorData::new(layer.bias.clone(), [layer.bias.len()]);
            Param::from_tensor(Tensor::from_data(data, device))
        };
        Self { weights: layers.iter().map(weight).collect(), biases: layers.iter().map(bias).collect() }
    }

    pub(crate) fn forward(&self, rows: Tensor<2>) -> Tensor<2> {
        let last = self.weights.len().saturating_sub(1);
        let mut x = rows;
        for (place, (weight, bias)) in self.weights.iter().zip(&self.biases).enumerate() {
            x = x.matmul(weight.val()) + bias.val().unsqueeze();
            if place < last {
                x = relu(x);
            }
        }
        x
    }

    /// The numbers of the network.
    pub(crate) fn layers(&self) -> Result<Vec<Layer>> {
        let layer = |(weight, bias): (&Param<Tensor<2>>, &Param<Tensor<1>>)| {
            Ok(Layer { weight: numbers(weight.val())?, bias: numbers(bias.val())? })
        };
        self.weights.iter().zip(&self.biases).map(layer).collect()
    }
}

/// The average of the weights of the last steps: see [`crate::weights::Average`].
pub(crate) struct Average {
    steps: u64,
    horizon: u64,
    pub(crate) layers: Vec<Layer>,
}

impl Average {
    pub(crate) fn over(horizon: u64) -> Self {
        Self { steps: 0, horizon: horizon.max(1), layers: Vec::new() }
    }

    pub(crate) fn add(&mut self, layers: Vec<Layer>) {
        self.steps += 1;
        let share = 1.0 / self.steps.min(self.horizon) as f32;
        if self.layers.is_empty() {
            self.layers = layers;
            return;
        }
        for (average, layer) in self.layers.iter_mut().zip(layers) {
            crate::weights::approach(&mut average.weight, &layer.weight, share);
            crate::weights::approach(&mut average.bias, &layer.bias, share);
        }
    }
}
