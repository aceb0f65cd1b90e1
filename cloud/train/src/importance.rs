//! How much a network would lose without one of its channels.

use burn::tensor::{Device, Tensor, TensorData, activation::log_softmax};
use serde::{Deserialize, Serialize};

use crate::fit::{parts, tensor};
use crate::network::{Network, numbers};
use crate::plan::NetworkPlan;
use crate::weights::Weights;
use crate::wiring::Wiring;
use crate::{Error, Images, Result};

/// Images whose gradients are looked at.
const IMAGES: usize = 1024;

/// What tells how important a channel is, as a share of the mean in its space, so that layers can be compared.
///
/// On digits cut to 0.115 of their bytes, three seeds, the mean accuracy on unseen images was 0.963 by `Taylor`, 0.942 by
/// `Norm` and 0.950 by `Scale`; by `Taylor` without the division by the mean it was 0.951.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Importance {
    /// How the loss changes to first order if the channel's output were zero, squared and summed over batches of training
    /// images: Molchanov et al., "Importance Estimation for Neural Network Pruning" (arXiv:1906.10771), with gates behind
    /// the normalisations.
    #[default]
    Taylor,
    /// The norm of the weights that make the channel: Li et al., "Pruning Filters for Efficient ConvNets"
    /// (arXiv:1608.08710).
    Norm,
    /// The scale of the normalisation: Liu et al., "Learning Efficient Convolutional Networks through Network Slimming"
    /// (arXiv:1708.06519).
    Scale,
}

/// The importance of each channel of each space.
pub(crate) fn scores(
    importance: Importance,
    plan: &NetworkPlan,
    weights: &Weights,
    images: &Images,
) -> Result<Vec<Vec<f64>>> {
    let wiring = Wiring::new(plan);
    let mut scores: Vec<Vec<f64>> = wiring.widths.iter().map(|&width| vec![0.0; width]).collect();
    // A depthwise convolution makes no channel: it only goes on with one.
    let makers = || wiring.units.iter().enumerate().filter(|(_, unit)| !unit.depthwise);
    if importance == Importance::Taylor {
        let device = Device::flex().autodiff();
        for (range, pixels) in parts(images, IMAGES) {
            // Anew for each batch: running statistics that followed another one are not wanted.
            let network = Network::load(plan, weights, &device);
            let labels = &images.labels[range.clone()];
            let logits = network.forward(tensor(pixels, range.len(), images, &device))?;
            let loss = cross_entropy(logits, labels, &device);
            let gradients = loss.backward();
            let mut gates: Vec<Vec<f64>> = wiring.widths.iter().map(|&width| vec![0.0; width]).collect();
            for (place, unit) in makers() {
                let norm = &network.units[place].norm;
                for parameter in [norm.gamma.val(), norm.beta.val()] {
                    let gradient = parameter.grad(&gradients).ok_or(Error::Engine { what: "a gradient" })?;
                    let values = numbers(parameter)?.into_iter().zip(numbers(gradient)?);
                    for (gate, (value, gradient)) in gates[unit.to].iter_mut().zip(values) {
                        *gate += f64::from(value) * f64::from(gradient);
                    }
                }
            }
            for (scores, gates) in scores.iter_mut().zip(gates) {
                scores.iter_mut().zip(gates).for_each(|(score, gate)| *score += gate * gate);
            }
        }
        share(&mut scores);
        return Ok(scores);
    }
    for (place, unit) in makers() {
        let numbers = &weights.units[place];
        let each = numbers.weight.len() / numbers.dims[0].max(1);
        for (channel, score) in scores[unit.to].iter_mut().enumerate() {
            let scale = f64::from(numbers.gamma[channel]);
            let deviation = (f64::from(numbers.variance[channel]) + numbers.epsilon).sqrt();
            let square = numbers.weight[channel * each..(channel + 1) * each].iter();
            let square: f64 = square.map(|&v| f64::from(v).powi(2)).sum();
            *score += match importance {
                Importance::Norm => square * (scale / deviation).powi(2),
                _ => scale * scale,
            };
        }
    }
    share(&mut scores);
    Ok(scores)
}

/// Divides each importance by the mean in its space.
fn share(scores: &mut [Vec<f64>]) {
    for space in scores {
        let mean = space.iter().sum::<f64>() / space.len().max(1) as f64;
        if mean > 0.0 {
            space.iter_mut().for_each(|score| *score /= mean);
        }
    }
}

fn cross_entropy(logits: Tensor<2>, labels: &[u32], device: &Device) -> Tensor<1> {
    let dims @ [images, classes] = logits.dims();
    let mut targets = vec![0.0_f32; images * classes];
    for (row, &label) in targets.chunks_exact_mut(classes).zip(labels) {
        row[label as usize] = 1.0;
    }
    let targets = Tensor::from_data(TensorData::new(targets, dims), device);
    -(log_softmax(logits, 1) * targets).sum() / images as f32
}
