//! The network in the training engine: weights, forward pass, and reading the weights back.

use burn::module::{Module, Param, RunningState};
use burn::nn::{BatchNorm, BatchNormConfig};
use burn::tensor::{Device, Tensor, TensorData, activation::relu, module::conv2d, ops::ConvOptions};
use rand::{Rng, rngs::StdRng};

use crate::{
    Error, Result,
    augment::normal,
    operation,
    plan::Plan,
    weights::{UnitWeights, Weights},
};

/// A convolution without bias, its normalisation and a rectifier.
#[derive(Module, Debug)]
pub(crate) struct Unit {
    weight: Param<Tensor<4>>,
    norm: BatchNorm,
    kernel: usize,
    stride: usize,
    groups: usize,
}

/// The linear layer that gives a number for each class.
#[derive(Module, Debug)]
pub(crate) struct Head {
    weight: Param<Tensor<2>>,
    bias: Param<Tensor<1>>,
}

/// The network in the training engine.
#[derive(Module, Debug)]
pub(crate) struct Network {
    units: Vec<Unit>,
    head: Head,
}

impl Unit {
    fn new([outputs, inputs, kernel]: [usize; 3], stride: usize, groups: usize, make: &mut Maker) -> Self {
        let inputs = inputs / groups;
        let spread = (2.0 / (inputs * kernel * kernel) as f32).sqrt();
        let weight = make.normal([outputs, inputs, kernel, kernel], spread);
        Self { weight, norm: BatchNormConfig::new(outputs).init(make.device), kernel, stride, groups }
    }

    fn with(&self, numbers: &UnitWeights, device: &Device) -> Self {
        let channels = [numbers.gamma.len()];
        let running = |values: &[f32]| RunningState::new(load(values, channels, device).val());
        let mut norm = self.norm.valid();
        norm.gamma = load(&numbers.gamma, channels, device);
        norm.beta = load(&numbers.beta, channels, device);
        norm.running_mean = running(&numbers.mean);
        norm.running_var = running(&numbers.variance);
        Self { weight: load(&numbers.weight, numbers.dims, device), norm, ..*self }
    }

    fn forward(&self, x: Tensor<4>) -> Result<Tensor<4>> {
        let learning = x.device().is_autodiff();
        let convolved = match self.kernel {
            1 => self.pointwise(x),
            _ if learning && self.groups > 1 => operation::depthwise(x, self.weight.val(), self.stride)?,
            _ => self.convolve(x),
        };
        if learning { self.normalise(convolved) } else { Ok(relu(self.norm.forward(convolved))) }
    }

    /// Normalises by the batch, and lets the running statistics follow.
    fn normalise(&self, x: Tensor<4>) -> Result<Tensor<4>> {
        let (norm, device) = (&self.norm, x.device());
        let (out, batch) = operation::normalise(x, norm.gamma.val(), norm.beta.val(), norm.epsilon)?;
        for (state, new) in [(&norm.running_mean, batch.mean), (&norm.running_var, batch.variance)] {
            let share = norm.momentum as f32;
            let old = numbers(state.value_sync())?;
            let followed: Vec<f32> = old.iter().zip(&new).map(|(o, n)| o + share * (n - o)).collect();
            let dims = [followed.len()];
            state.update(Tensor::from_data(TensorData::new(followed, dims), &device));
        }
        Ok(out)
    }

    fn convolve(&self, x: Tensor<4>) -> Tensor<4> {
        let (stride, padding) = ([self.stride; 2], [self.kernel / 2; 2]);
        conv2d(x, self.weight.val(), None, ConvOptions::new(stride, padding, [1, 1], self.groups))
    }

    /// A 1x1 convolution as the matrix product that it is, which the engine computes faster.
    fn pointwise(&self, x: Tensor<4>) -> Tensor<4> {
        let [images, inputs, height, width] = x.dims();
        let outputs = self.weight.dims()[0];
        let weight = self.weight.val().reshape([1, outputs, inputs]);
        weight.matmul(x.reshape([images, inputs, height * width])).reshape([images, outputs, height, width])
    }

    fn weights(&self) -> Result<UnitWeights> {
        Ok(UnitWeights {
            dims: self.weight.dims(),
            weight: numbers(self.weight.val())?,
            gamma: numbers(self.norm.gamma.val())?,
            beta: numbers(self.norm.beta.val())?,
            mean: numbers(self.norm.running_mean.value_sync())?,
            variance: numbers(self.norm.running_var.value_sync())?,
            epsilon: self.norm.epsilon,
            stride: self.stride,
            groups: self.groups,
        })
    }
}

impl Network {
    /// A network with random weights.
    pub(crate) fn new(plan: &Plan, rng: &mut StdRng, device: &Device) -> Self {
        let mut make = Maker { rng, device };
        let mut units = vec![Unit::new([plan.stem, plan.channels, 3], plan.stem_stride, 1, &mut make)];
        for block in &plan.blocks {
            units.push(Unit::new([block.inputs, block.inputs, 3], block.stride, block.inputs, &mut make));
            units.push(Unit::new([block.outputs, block.inputs, 1], 1, 1, &mut make));
        }
        let weight = make.uniform([plan.features(), plan.classes], (1.0 / plan.features() as f32).sqrt());
        let bias = Param::from_tensor(Tensor::zeros([plan.classes], device));
        Self { units, head: Head { weight, bias } }
    }

    /// The same network with other numbers, on a device that does not learn.
    pub(crate) fn with(&self, weights: &Weights) -> Self {
        let device = &Device::flex();
        let units = self.units.iter().zip(&weights.units).map(|(unit, numbers)| unit.with(numbers, device));
        let head = Head {
            weight: load(&weights.head, self.head.weight.dims(), device),
            bias: load(&weights.bias, self.head.bias.dims(), device),
        };
        Self { units: units.collect(), head }
    }

    /// One number for each image and class; the larger, the likelier.
    pub(crate) fn forward(&self, images: Tensor<4>) -> Result<Tensor<2>> {
        let planes = self.units.iter().try_fold(images, |x, unit| unit.forward(x))?;
        let [images, features, height, width] = planes.dims();
        let means =
            planes.reshape([images, features, height * width]).mean_dim(2).reshape([images, features]);
        Ok(means.matmul(self.head.weight.val()) + self.head.bias.val().unsqueeze())
    }

    /// The numbers of the network.
    pub(crate) fn weights(&self) -> Result<Weights> {
        Ok(Weights {
            units: self.units.iter().map(Unit::weights).collect::<Result<_>>()?,
            head: numbers(self.head.weight.val())?,
            bias: numbers(self.head.bias.val())?,
        })
    }
}

fn load<const D: usize>(values: &[f32], dims: [usize; D], device: &Device) -> Param<Tensor<D>> {
    Param::from_tensor(Tensor::from_data(TensorData::new(values.to_vec(), dims), device))
}

/// Takes the numbers of a tensor out of the engine.
pub(crate) fn numbers<const D: usize>(tensor: Tensor<D>) -> Result<Vec<f32>> {
    tensor.into_data().try_to_vec().map_err(|_| Error::Engine { what: "a tensor" })
}

/// Makes random weights. The engine's own generator is shared by the whole process, so it is not repeatable.
struct Maker<'a> {
    rng: &'a mut StdRng,
    device: &'a Device,
}

impl Maker<'_> {
    fn normal<const D: usize>(&mut self, dims: [usize; D], spread: f32) -> Param<Tensor<D>> {
        self.make(dims, |rng| spread * normal(rng))
    }

    fn uniform<const D: usize>(&mut self, dims: [usize; D], limit: f32) -> Param<Tensor<D>> {
        self.make(dims, |rng| rng.random_range(-limit..=limit))
    }

    fn make<const D: usize>(
        &mut self,
        dims: [usize; D],
        mut value: impl FnMut(&mut StdRng) -> f32,
    ) -> Param<Tensor<D>> {
        let values: Vec<f32> = (0..dims.iter().product()).map(|_| value(self.rng)).collect();
        Param::from_tensor(Tensor::from_data(TensorData::new(values, dims), self.device))
    }
}
