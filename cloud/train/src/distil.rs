//! Learning from another network beside the labels (Hinton et al., "Distilling the Knowledge in a Neural Network",
//! arXiv:1503.02531).

use burn::tensor::{Device, Tensor, TensorData, activation::log_softmax};
use serde::{Deserialize, Serialize};

use crate::network::{Network, numbers};
use crate::plan::NetworkPlan;
use crate::weights::Weights;
use crate::{Error, Result};

/// Who tells a student how likely each class is.
pub trait Teacher: Send {
    /// A number for each image and class, image by image: the larger, the likelier. Logarithms of probabilities will do.
    fn logits(&mut self, pixels: &[f32], images: usize) -> Result<Vec<f32>>;
}

/// How much a student learns from its teacher.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Distil {
    /// What logits are divided by: the higher, the more the small probabilities of wrong classes say.
    pub temperature: f64,
    /// Share of the teacher in the loss; labels have the rest.
    pub alpha: f64,
}

impl Default for Distil {
    fn default() -> Self {
        Self { temperature: 2.0, alpha: 0.5 }
    }
}

impl Distil {
    /// The cross-entropy to what the teacher says. Its gradients fall with the square of the temperature, so they are
    /// raised by that.
    pub(crate) fn loss(&self, logits: Tensor<2>, teacher: Vec<f32>) -> Result<Tensor<1>> {
        let (dims, device) = (logits.dims(), logits.device());
        if teacher.len() != dims[0] * dims[1] {
            let (found, expected) = (teacher.len().to_string(), (dims[0] * dims[1]).to_string());
            return Err(Error::Mismatch { part: "teacher's", what: "the number of logits", found, expected });
        }
        let temperature = self.temperature as f32;
        let mut soft = teacher;
        for row in soft.chunks_exact_mut(dims[1]) {
            let most = row.iter().copied().fold(f32::NEG_INFINITY, f32::max);
            row.iter_mut().for_each(|v| *v = ((*v - most) / temperature).exp());
            let sum: f32 = row.iter().sum();
            row.iter_mut().for_each(|v| *v /= sum);
        }
        let soft = Tensor::from_data(TensorData::new(soft, dims), &device);
        let scale = temperature * temperature / dims[0] as f32;
        Ok(-(log_softmax(logits / temperature, 1) * soft).sum() * scale)
    }
}

/// A network that teaches and does not learn.
pub(crate) struct Frozen {
    network: Network,
    dims: [usize; 3],
}

impl Frozen {
    pub(crate) fn new(plan: &NetworkPlan, weights: &Weights) -> Self {
        let network = Network::load(plan, weights, &Device::flex());
        Self { network, dims: [plan.channels, plan.height, plan.width] }
    }
}

impl Teacher for Frozen {
    fn logits(&mut self, pixels: &[f32], images: usize) -> Result<Vec<f32>> {
        let [channels, height, width] = self.dims;
        let data = TensorData::new(pixels.to_vec(), [images, channels, height, width]);
        numbers(self.network.forward(Tensor::from_data(data, &Device::flex()))?)
    }
}
