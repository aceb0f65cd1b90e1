//! The layers of `kernel` and `convolve` as operations of the training engine, with their gradients. On a device that
//! does not learn they are the same arithmetic without any.

use burn::backend::autodiff::checkpoint::{base::Checkpointer, strategy::NoCheckpointing};
use burn::backend::autodiff::grads::Gradients;
use burn::backend::autodiff::ops::{Backward, Ops, OpsKind};
use burn::backend::flex::{Flex, FlexTensor};
use burn::backend::{Autodiff, BackendTypes};
use burn::tensor::{Shape, Tensor, TensorData};

use crate::convolve::{Convolve, exchange};
use crate::kernel::{Depthwise, Normalise, Statistics};
use crate::{Error, Result};

type Engine = Autodiff<Flex>;
type Primitive = <Engine as BackendTypes>::FloatTensorPrimitive;

/// A depthwise 3x3 convolution with a border of one zero; the weights are channels x 1 x 3 x 3.
pub(crate) fn depthwise(x: Tensor<4>, weight: Tensor<4>, stride: usize) -> Result<Tensor<4>> {
    let [images, channels, height, width] = x.dims();
    let layer = Depthwise { channels, height, width, stride };
    let (rows, columns) = layer.output();
    if !x.device().is_autodiff() {
        let out = layer.forward(values(&plain(x)?), values(&plain(weight)?));
        return Ok(Tensor::from_primitive::<Flex>(tensor(out, [images, channels, rows, columns])));
    }
    let ((x, x_node), (weight, weight_node)) = (primitive(x)?.into_parts(), primitive(weight)?.into_parts());
    let (x, weight) = (x.to_contiguous(), weight.to_contiguous());
    let out = tensor(layer.forward(values(&x), values(&weight)), [images, channels, rows, columns]);
    let prepared = DepthwiseStep.prepare::<NoCheckpointing>([x_node, weight_node]).compute_bound().stateful();
    Ok(Tensor::from_primitive::<Engine>(match prepared {
        OpsKind::Tracked(step) => step.finish((x, weight, layer), out),
        OpsKind::UnTracked(step) => step.finish(out),
    }))
}

/// A full convolution with an odd kernel and a border of zeros that keeps the size.
pub(crate) fn convolve(x: Tensor<4>, weight: Tensor<4>, stride: usize) -> Result<Tensor<4>> {
    let ([images, inputs, height, width], [outputs, _, kernel, _]) = (x.dims(), weight.dims());
    let layer = Convolve { inputs, height, width, kernel, stride };
    let (rows, columns) = layer.output();
    let dims = [images, outputs, rows, columns];
    if !x.device().is_autodiff() {
        let out = convolve_forward(layer, values(&plain(x)?), &plain(weight)?);
        return Ok(Tensor::from_primitive::<Flex>(tensor(out, dims)));
    }
    let ((x, x_node), (weight, weight_node)) = (primitive(x)?.into_parts(), primitive(weight)?.into_parts());
    let (x, weight) = (x.to_contiguous(), weight.to_contiguous());
    let out = tensor(convolve_forward(layer, values(&x), &weight), dims);
    let prepared = ConvolveStep.prepare::<NoCheckpointing>([x_node, weight_node]).compute_bound().stateful();
    Ok(Tensor::from_primitive::<Engine>(match prepared {
        OpsKind::Tracked(step) => step.finish((x, weight, layer), out),
        OpsKind::UnTracked(step) => step.finish(out),
    }))
}

fn convolve_forward(layer: Convolve, x: &[f32], weight: &FlexTensor) -> Vec<f32> {
    let (patch, plane) = (layer.patch(), layer.plane());
    let outputs = values(weight).len() / patch;
    let mut out = Vec::with_capacity(x.len() / layer.image() * outputs * plane);
    let weight = matrix(values(weight).to_vec(), [outputs, patch]);
    for x in x.chunks(layer.images_at_once() * layer.image()) {
        let images = x.len() / layer.image();
        let sums = product(weight.clone(), matrix(layer.columns(x), [patch, images * plane]));
        out.extend(exchange(values(&sums), outputs, images));
    }
    out
}

/// The gradients of the input, where it is wanted, and of the weights.
fn convolve_backward(
    layer: Convolve,
    x: &[f32],
    weight: &[f32],
    gradient: &[f32],
    input: bool,
) -> (Option<Vec<f32>>, Vec<f32>) {
    let (patch, plane) = (layer.patch(), layer.plane());
    let outputs = weight.len() / patch;
    let turned = matrix(weight.to_vec(), [outputs, patch]).transpose();
    let mut of_x = input.then(|| Vec::with_capacity(x.len()));
    let mut of_weight = vec![0.0; weight.len()];
    let at_once = layer.images_at_once();
    let parts = x.chunks(at_once * layer.image()).zip(gradient.chunks(at_once * outputs * plane));
    for (x, gradient) in parts {
        let images = x.len() / layer.image();
        let gradient = matrix(exchange(gradient, images, outputs), [outputs, images * plane]);
        let columns = matrix(layer.columns(x), [patch, images * plane]);
        let part = product(gradient.clone(), columns.transpose());
        of_weight.iter_mut().zip(values(&part)).for_each(|(sum, v)| *sum += v);
        if let Some(of_x) = &mut of_x {
            of_x.extend(layer.gather(values(&product(turned.clone(), gradient)), images));
        }
    }
    (of_x, of_weight)
}

fn matrix(values: Vec<f32>, dims: [usize; 2]) -> Tensor<2> {
    Tensor::from_primitive::<Flex>(tensor(values, dims))
}

fn product(a: Tensor<2>, b: Tensor<2>) -> FlexTensor {
    let product = a.matmul(b).try_into_primitive::<Flex>();
    product.expect("a product of two tensors is where they are").to_contiguous()
}

/// How a normalisation is done beside its scale and shift.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Norm {
    pub(crate) epsilon: f64,
    pub(crate) rectified: bool,
}

impl Norm {
    pub(crate) fn layer(self, dims: [usize; 4]) -> Normalise {
        let [_, channels, height, width] = dims;
        let Self { epsilon, rectified } = self;
        Normalise { channels, plane: height * width, epsilon, rectified }
    }
}

/// Normalises by known statistics, on a device that does not learn.
pub(crate) fn normalise_by(
    x: Tensor<4>,
    gamma: Tensor<1>,
    beta: Tensor<1>,
    statistics: &Statistics,
    norm: Norm,
) -> Result<Tensor<4>> {
    let dims = x.dims();
    let (x, gamma, beta) = (plain(x)?, plain(gamma)?, plain(beta)?);
    let out = norm.layer(dims).forward(values(&x), values(&gamma), values(&beta), statistics);
    Ok(Tensor::from_primitive::<Flex>(tensor(out, dims)))
}

/// Normalises by the statistics of the batch, scales, shifts and perhaps rectifies; gives the statistics too.
pub(crate) fn normalise(
    x: Tensor<4>,
    gamma: Tensor<1>,
    beta: Tensor<1>,
    norm: Norm,
) -> Result<(Tensor<4>, Statistics)> {
    let dims = x.dims();
    let layer = norm.layer(dims);
    let (x, x_node) = primitive(x)?.into_parts();
    let (gamma, gamma_node) = primitive(gamma)?.into_parts();
    let (beta, beta_node) = primitive(beta)?.into_parts();
    let (x, gamma, beta) = (x.to_contiguous(), gamma.to_contiguous(), beta.to_contiguous());
    let statistics = layer.statistics(values(&x));
    let out = tensor(layer.forward(values(&x), values(&gamma), values(&beta), &statistics), dims);
    let nodes = [x_node, gamma_node, beta_node];
    let out = match NormaliseStep.prepare::<NoCheckpointing>(nodes).compute_bound().stateful() {
        OpsKind::Tracked(step) => step.finish((x, gamma, out.clone(), statistics.clone(), layer), out),
        OpsKind::UnTracked(step) => step.finish(out),
    };
    Ok((Tensor::from_primitive::<Engine>(out), statistics))
}

#[derive(Debug)]
struct DepthwiseStep;

impl Backward<Flex, 2> for DepthwiseStep {
    type State = (FlexTensor, FlexTensor, Depthwise);

    fn backward(self, ops: Ops<Self::State, 2>, gradients: &mut Gradients, _: &mut Checkpointer) {
        let [x_node, weight_node] = ops.parents;
        let (x, weight, layer) = ops.state;
        let gradient = gradients.consume::<Flex>(&ops.node).to_contiguous();
        let (of_x, of_weight) = layer.backward(values(&x), values(&weight), values(&gradient));
        for (node, of, like) in [(x_node, of_x, &x), (weight_node, of_weight, &weight)] {
            if let Some(node) = node {
                gradients.register::<Flex>(node.id, tensor(of, like.layout().shape().clone()));
            }
        }
    }
}

#[derive(Debug)]
struct ConvolveStep;

impl Backward<Flex, 2> for ConvolveStep {
    type State = (FlexTensor, FlexTensor, Convolve);

    fn backward(self, ops: Ops<Self::State, 2>, gradients: &mut Gradients, _: &mut Checkpointer) {
        let [x_node, weight_node] = ops.parents;
        let (x, weight, layer) = ops.state;
        let gradient = gradients.consume::<Flex>(&ops.node).to_contiguous();
        let (of_x, of_weight) =
            convolve_backward(layer, values(&x), values(&weight), values(&gradient), x_node.is_some());
        for (node, of, like) in [(x_node, of_x, &x), (weight_node, Some(of_weight), &weight)] {
            if let (Some(node), Some(of)) = (node, of) {
                gradients.register::<Flex>(node.id, tensor(of, like.layout().shape().clone()));
            }
        }
    }
}

#[derive(Debug)]
struct NormaliseStep;

impl Backward<Flex, 3> for NormaliseStep {
    type State = (FlexTensor, FlexTensor, FlexTensor, Statistics, Normalise);

    fn backward(self, ops: Ops<Self::State, 3>, gradients: &mut Gradients, _: &mut Checkpointer) {
        let (x, gamma, y, statistics, layer) = ops.state;
        let gradient = gradients.consume::<Flex>(&ops.node).to_contiguous();
        let (of_x, of_gamma, of_beta) =
            layer.backward(values(&x), values(&y), values(&gradient), values(&gamma), &statistics);
        let all = [(of_x, &x), (of_gamma, &gamma), (of_beta, &gamma)];
        for (node, (of, like)) in ops.parents.into_iter().zip(all) {
            if let Some(node) = node {
                gradients.register::<Flex>(node.id, tensor(of, like.layout().shape().clone()));
            }
        }
    }
}

fn primitive<const D: usize>(tensor: Tensor<D>) -> Result<Primitive> {
    tensor.try_into_primitive::<Engine>().map_err(|_| Error::Engine { what: "a tensor" })
}

/// A tensor of a device that does not learn.
fn plain<const D: usize>(tensor: Tensor<D>) -> Result<FlexTensor> {
    let plain = tensor.try_into_primitive::<Flex>().map_err(|_| Error::Engine { what: "a tensor" })?;
    Ok(plain.to_contiguous())
}

/// The numbers of a tensor that `to_contiguous` made, or that [`tensor`] did.
fn values(tensor: &FlexTensor) -> &[f32] {
    tensor.as_slice().expect("contiguous, and all tensors here are of 32-bit floats")
}

fn tensor(values: Vec<f32>, shape: impl Into<Shape>) -> FlexTensor {
    FlexTensor::from_data(TensorData::new(values, shape))
}
