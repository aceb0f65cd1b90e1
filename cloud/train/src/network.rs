//! The network in the training engine: weights, forward pass, and reading the weights back.

use burn::module::{Module, Param, RunningState};
use burn::nn::{BatchNorm, BatchNormConfig};
use burn::tensor::{Device, Tensor, TensorData, activation::relu};
use rand::{Rng, rngs::StdRng};

use crate::kernel::Statistics;
use crate::operation::{self, Norm};
use crate::plan::{NetworkPlan, Stage};
use crate::weights::{UnitWeights, Weights};
use crate::wiring::{UnitPlan, Wiring};
use crate::{Error, Result, augment::normal};

/// A convolution without bias, its normalisation and perhaps a rectifier.
#[derive(Module, Debug)]
pub(crate) struct Unit {
    pub(crate) weight: Param<Tensor<4>>,
    pub(crate) norm: BatchNorm,
    kernel: usize,
    stride: usize,
    groups: usize,
    rectified: bool,
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
    pub(crate) units: Vec<Unit>,
    head: Head,
    #[module(skip)]
    stages: Vec<Stage>,
}

/// One run of images through a network, and what it does on the way.
pub(crate) trait Pass {
    /// Runs one unit.
    fn unit(&mut self, _place: usize, unit: &Unit, x: Tensor<4>) -> Result<Tensor<4>> {
        unit.forward(x, unit.weight.val())
    }

    /// Sees the images, what each unit gives and each sum of a residual stage, and may change it.
    fn value(&mut self, x: Tensor<4>) -> Result<Tensor<4>> {
        Ok(x)
    }

    /// The weight of the linear layer, as it is used.
    fn head(&mut self, weight: Tensor<2>) -> Result<Tensor<2>> {
        Ok(weight)
    }
}

/// A run that does nothing else.
pub(crate) struct Straight;

impl Pass for Straight {}

impl Unit {
    fn new(plan: &UnitPlan, make: &mut Maker) -> Self {
        let [outputs, inputs, kernel, _] = plan.dims;
        let spread = (2.0 / (inputs * kernel * kernel) as f32).sqrt();
        let weight = make.normal(plan.dims, spread);
        Self::build(plan, weight, BatchNormConfig::new(outputs).init(make.device))
    }

    fn load(plan: &UnitPlan, numbers: &UnitWeights, device: &Device) -> Self {
        let channels = [numbers.gamma.len()];
        let running = |values: &[f32]| RunningState::new(load(values, channels, device).val().detach());
        let mut norm = BatchNormConfig::new(channels[0]).with_epsilon(numbers.epsilon).init(device);
        norm.gamma = load(&numbers.gamma, channels, device);
        norm.beta = load(&numbers.beta, channels, device);
        norm.running_mean = running(&numbers.mean);
        norm.running_var = running(&numbers.variance);
        Self::build(plan, load(&numbers.weight, numbers.dims, device), norm)
    }

    fn build(plan: &UnitPlan, weight: Param<Tensor<4>>, norm: BatchNorm) -> Self {
        let &UnitPlan { dims: [_, _, kernel, _], stride, groups, rectified, .. } = plan;
        Self { weight, norm, kernel, stride, groups, rectified }
    }

    /// With this weight in place of its own.
    pub(crate) fn forward(&self, x: Tensor<4>, weight: Tensor<4>) -> Result<Tensor<4>> {
        let learning = x.device().is_autodiff();
        let convolved = self.convolve(x, weight)?;
        if learning { self.normalise(convolved) } else { self.normalise_by_running(convolved) }
    }

    /// The convolution alone.
    pub(crate) fn convolve(&self, x: Tensor<4>, weight: Tensor<4>) -> Result<Tensor<4>> {
        match (self.kernel, self.stride) {
            (1, 1) => Ok(pointwise(x, weight)),
            _ if self.groups > 1 => operation::depthwise(x, weight, self.stride),
            _ => operation::convolve(x, weight, self.stride),
        }
    }

    pub(crate) fn settings(&self) -> Norm {
        Norm { epsilon: self.norm.epsilon, rectified: self.rectified }
    }

    /// Normalises by the batch, and lets the running statistics follow.
    fn normalise(&self, x: Tensor<4>) -> Result<Tensor<4>> {
        let (norm, device) = (&self.norm, x.device());
        let (out, batch) = operation::normalise(x, norm.gamma.val(), norm.beta.val(), self.settings())?;
        for (state, new) in [(&norm.running_mean, batch.mean), (&norm.running_var, batch.variance)] {
            let share = norm.momentum as f32;
            let old = numbers(state.value_sync())?;
            let followed: Vec<f32> = old.iter().zip(&new).map(|(o, n)| o + share * (n - o)).collect();
            let dims = [followed.len()];
            state.update(Tensor::from_data(TensorData::new(followed, dims), &device));
        }
        Ok(out)
    }

    fn normalise_by_running(&self, x: Tensor<4>) -> Result<Tensor<4>> {
        let norm = &self.norm;
        let mean = numbers(norm.running_mean.value_sync())?;
        let statistics = Statistics { mean, variance: numbers(norm.running_var.value_sync())? };
        operation::normalise_by(x, norm.gamma.val(), norm.beta.val(), &statistics, self.settings())
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

/// A 1x1 convolution as the matrix product that it is, which the engine computes faster.
fn pointwise(x: Tensor<4>, weight: Tensor<4>) -> Tensor<4> {
    let [images, inputs, height, width] = x.dims();
    let outputs = weight.dims()[0];
    let weight = weight.reshape([1, outputs, inputs]);
    weight.matmul(x.reshape([images, inputs, height * width])).reshape([images, outputs, height, width])
}

impl Network {
    /// A network with random weights.
    pub(crate) fn new(plan: &NetworkPlan, rng: &mut StdRng, device: &Device) -> Self {
        let mut make = Maker { rng, device };
        let units = Wiring::new(plan).units.iter().map(|unit| Unit::new(unit, &mut make)).collect();
        let weight = make.uniform([plan.features(), plan.classes], (1.0 / plan.features() as f32).sqrt());
        let bias = Param::from_tensor(Tensor::zeros([plan.classes], device));
        Self { units, head: Head { weight, bias }, stages: plan.stages.clone() }
    }

    /// A network with these weights.
    pub(crate) fn load(plan: &NetworkPlan, weights: &Weights, device: &Device) -> Self {
        let wiring = Wiring::new(plan);
        let units = wiring.units.iter().zip(&weights.units);
        let units = units.map(|(unit, numbers)| Unit::load(unit, numbers, device)).collect();
        let head = Head {
            weight: load(&weights.head, [plan.features(), plan.classes], device),
            bias: load(&weights.bias, [plan.classes], device),
        };
        Self { units, head, stages: plan.stages.clone() }
    }

    /// One number for each image and class; the larger, the likelier.
    pub(crate) fn forward(&self, images: Tensor<4>) -> Result<Tensor<2>> {
        self.run(images, &mut Straight)
    }

    /// The same, with a pass that looks on or takes part.
    pub(crate) fn run(&self, images: Tensor<4>, pass: &mut dyn Pass) -> Result<Tensor<2>> {
        let mut places = 0..self.units.len();
        let mut through = |x: Tensor<4>, pass: &mut dyn Pass| {
            let place = places.next().ok_or(Error::Engine { what: "a network" })?;
            let out = pass.unit(place, &self.units[place], x)?;
            pass.value(out)
        };
        let mut x = pass.value(images)?;
        for stage in &self.stages {
            x = match stage {
                Stage::Conv { .. } => through(x, pass)?,
                Stage::Separable { .. } => {
                    let spread = through(x, pass)?;
                    through(spread, pass)?
                }
                Stage::Residual { projection, .. } => {
                    let inner = through(x.clone(), pass)?;
                    let inner = through(inner, pass)?;
                    let around = if *projection { through(x, pass)? } else { x };
                    pass.value(relu(inner + around))?
                }
            };
        }
        let [images, features, height, width] = x.dims();
        let means = x.reshape([images, features, height * width]).mean_dim(2).reshape([images, features]);
        Ok(means.matmul(pass.head(self.head.weight.val())?) + self.head.bias.val().unsqueeze())
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
