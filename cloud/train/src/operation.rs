//! The layers of `kernel` as operations of the training engine, with their gradients.

use burn::backend::autodiff::checkpoint::{base::Checkpointer, strategy::NoCheckpointing};
use burn::backend::autodiff::grads::Gradients;
use burn::backend::autodiff::ops::{Backward, Ops, OpsKind};
use burn::backend::flex::{Flex, FlexTensor};
use burn::backend::{Autodiff, BackendTypes};
use burn::tensor::{Shape, Tensor, TensorData};

use crate::kernel::{Depthwise, Normalise, Statistics};
use crate::{Error, Result};

type Engine = Autodiff<Flex>;
type Primitive = <Engine as BackendTypes>::FloatTensorPrimitive;

/// A depthwise 3x3 convolution with a border of one zero; the weights are channels x 1 x 3 x 3.
pub(crate) fn depthwise(x: Tensor<4>, weight: Tensor<4>, stride: usize) -> Result<Tensor<4>> {
    let [images, channels, height, width] = x.dims();
    let layer = Depthwise { channels, height, width, stride };
    let (rows, columns) = layer.output();
    let ((x, x_node), (weight, weight_node)) = (primitive(x)?.into_parts(), primitive(weight)?.into_parts());
    let (x, weight) = (x.to_contiguous(), weight.to_contiguous());
    let out = tensor(layer.forward(values(&x), values(&weight)), [images, channels, rows, columns]);
    let prepared = DepthwiseStep.prepare::<NoCheckpointing>([x_node, weight_node]).compute_bound().stateful();
    Ok(Tensor::from_primitive::<Engine>(match prepared {
        OpsKind::Tracked(step) => step.finish((x, weight, layer), out),
        OpsKind::UnTracked(step) => step.finish(out),
    }))
}

/// Normalises by the statistics of the batch, scales, shifts and rectifies; gives the statistics too.
pub(crate) fn normalise(
    x: Tensor<4>,
    gamma: Tensor<1>,
    beta: Tensor<1>,
    epsilon: f64,
) -> Result<(Tensor<4>, Statistics)> {
    let dims @ [_, channels, height, width] = x.dims();
    let layer = Normalise { channels, plane: height * width, epsilon };
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

/// The numbers of a tensor that `to_contiguous` made, or that [`tensor`] did.
fn values(tensor: &FlexTensor) -> &[f32] {
    tensor.as_slice().expect("contiguous, and all tensors here are of 32-bit floats")
}

fn tensor(values: Vec<f32>, shape: impl Into<Shape>) -> FlexTensor {
    FlexTensor::from_data(TensorData::new(values, shape))
}
