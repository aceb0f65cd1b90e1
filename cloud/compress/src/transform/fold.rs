//! Folding: what a layer's output is multiplied with and what is added to it goes into its weight and bias.
//!
//! Batch normalisation as it runs is `a * x + b` for each channel, with `a = scale / sqrt(variance + epsilon)` and
//! `b = shift - mean * a`; so are `Mul`, `Div`, `Add` and `Sub` with a constant for each channel. The layer before
//! computes the same with its weights multiplied by `a` and its bias `a * bias + b`, up to the rounding of floats.

use std::collections::HashSet;

use flotilla_onnx::pb::{NodeProto, TensorProto};
use flotilla_onnx::{Attributes, DataType, Model, Tensor};

use super::Norms;
use crate::Result;
use crate::layer::{Layer, Readers, bias_of, float_dims, is, layers, set_floats};

/// What is done to each channel of a layer's output.
#[derive(Clone, Debug, PartialEq)]
struct Affine {
    factor: Vec<f32>,
    shift: Vec<f32>,
}

/// Folds all that can be; gives how many nodes went.
pub(crate) fn fold(model: &mut Model, norms: &mut Norms) -> Result<usize> {
    // No node may go while places are remembered, so constants stand among the initialisers first.
    lift_constants(model)?;
    let (layers, readers) = (layers(model), Readers::of(model));
    let mut gone: HashSet<usize> = HashSet::new();
    for mut layer in layers {
        // The sum behind a `MatMul` is one already; what stands behind that is not looked at.
        while layer.op != "MatMul"
            && layer.takes_bias
            && let Some(place) = readers.only(&layer.output)
        {
            let node = model.nodes()[place].clone();
            let Some(affine) = affine(model, &layer, &node) else { break };
            if is(&node, "BatchNormalization") {
                norms.0.insert(node.output[0].clone(), statistics(model, &node)?);
            }
            layer.bias = apply(model, &layer, &affine)?;
            let maker = model.nodes().iter().position(|maker| maker.output.first() == Some(&layer.output));
            let Some(maker) = maker else { break };
            let mut renamed = model.nodes()[maker].clone();
            renamed.output[0].clone_from(&node.output[0]);
            layer.output.clone_from(&node.output[0]);
            model.replace_node(maker, renamed.into())?;
            gone.insert(place);
        }
    }
    let mut places: Vec<usize> = gone.into_iter().collect();
    places.sort_unstable();
    for place in places.iter().rev() {
        model.remove_node(*place)?;
    }
    model.remove_unused_initializers();
    Ok(places.len())
}

/// Makes initialisers of the floats that `Constant` nodes hold.
fn lift_constants(model: &mut Model) -> Result<()> {
    let of_floats = |node: &NodeProto| {
        let tensor = node.tensor("value").filter(|tensor| tensor.data_type == DataType::Float as i32)?;
        let name = node.output.first()?.clone();
        is(node, "Constant").then(|| TensorProto { name, ..tensor.clone() })
    };
    let mut place = 0;
    while place < model.nodes().len() {
        match of_floats(&model.nodes()[place]) {
            Some(tensor) => {
                model.remove_node(place)?;
                model.add_initializer(tensor)?;
            }
            None => place += 1,
        }
    }
    Ok(())
}

/// What a node does to each channel of the layer before it, if it is no more than that.
fn affine(model: &Model, layer: &Layer, node: &NodeProto) -> Option<Affine> {
    let channels = layer.matrix.rows;
    let affine = if is(node, "BatchNormalization") {
        normalisation(model, layer, node)?
    } else {
        let [a, b] = &node.input[..] else { return None };
        let first = *a == layer.output;
        let constant = per_channel(model, layer, if first { b } else { a })?;
        let (zeros, ones) = (vec![0.0; channels], vec![1.0; channels]);
        match node.op_type.as_str() {
            _ if a == b => return None,
            "Mul" if is(node, "Mul") => Affine { factor: constant, shift: zeros },
            "Div" if is(node, "Div") && first => {
                Affine { factor: constant.iter().map(|v| 1.0 / v).collect(), shift: zeros }
            }
            "Add" if is(node, "Add") => Affine { factor: ones, shift: constant },
            "Sub" if is(node, "Sub") && first => {
                Affine { factor: ones, shift: constant.iter().map(|v| -v).collect() }
            }
            "Sub" if is(node, "Sub") => Affine { factor: vec![-1.0; channels], shift: constant },
            _ => return None,
        }
    };
    let finite = affine.factor.iter().chain(&affine.shift).all(|v| v.is_finite());
    finite.then_some(affine)
}

fn normalisation(model: &Model, layer: &Layer, node: &NodeProto) -> Option<Affine> {
    let training = node.int("training_mode").unwrap_or_default() != 0;
    let more = node.output.iter().skip(1).any(|output| !output.is_empty());
    let per_activation = node.int("spatial") == Some(0);
    if training || more || per_activation || node.input.first() != Some(&layer.output) {
        return None;
    }
    let part = |index: usize| {
        let tensor = model.tensor_f32(node.input.get(index)?).ok()?;
        (tensor.data.len() == layer.matrix.rows).then_some(tensor.data)
    };
    let (scale, shift, mean, variance) = (part(1)?, part(2)?, part(3)?, part(4)?);
    let epsilon = f64::from(node.float("epsilon").unwrap_or(1e-5));
    let factors = scale.iter().zip(&variance).map(|(s, v)| f64::from(*s) / (f64::from(*v) + epsilon).sqrt());
    let factors: Vec<f64> = factors.collect();
    let shifts =
        factors.iter().zip(shift.iter().zip(&mean)).map(|(f, (s, m))| f64::from(*s) - f64::from(*m) * f);
    Some(Affine {
        shift: shifts.map(|v| v as f32).collect(),
        factor: factors.iter().map(|v| *v as f32).collect(),
    })
}

/// A constant that has one value for each channel of the layer's output, or one for all.
fn per_channel(model: &Model, layer: &Layer, name: &str) -> Option<Vec<f32>> {
    let dims = float_dims(model, name)?;
    let channels = layer.matrix.rows;
    let data = model.tensor_f32(name).ok()?.data;
    // Rank of the layer's output, and how many axes lie behind that of its channels.
    let (rank, behind) = match &layer.window {
        Some(_) => {
            let rank = float_dims(model, &layer.weight)?.len();
            (rank, rank - 2)
        }
        None => (2, 0),
    };
    if dims.len() > rank {
        return None;
    }
    if data.len() == 1 {
        return Some(vec![data[0]; channels]);
    }
    let axis = dims.len().checked_sub(behind + 1)?;
    (dims[axis] == channels && data.len() == channels).then_some(data)
}

/// Changes weight and bias; gives the name of the bias.
fn apply(model: &mut Model, layer: &Layer, affine: &Affine) -> Result<Option<String>> {
    if affine.factor.iter().any(|factor| *factor != 1.0) {
        let mut weight = model.tensor_f32(&layer.weight)?;
        for (row, factor) in affine.factor.iter().enumerate() {
            (0..layer.matrix.cols).for_each(|col| weight.data[layer.matrix.at(row, col)] *= factor);
        }
        set_floats(model, &layer.weight, &weight)?;
    }
    let Some(name) = bias_of(model, layer)? else { return Ok(None) };
    let Tensor { dims, mut data } = model.tensor_f32(&name)?;
    for (value, (factor, shift)) in data.iter_mut().zip(affine.factor.iter().zip(&affine.shift)) {
        *value = *value * factor + shift;
    }
    set_floats(model, &name, &Tensor { dims, data })?;
    Ok(Some(name))
}

/// Mean and standard deviation of what a normalisation gives: its shift and the size of its scale.
fn statistics(model: &Model, node: &NodeProto) -> Result<Vec<(f32, f32)>> {
    let (scale, shift) = (model.tensor_f32(&node.input[1])?, model.tensor_f32(&node.input[2])?);
    Ok(shift.data.iter().zip(&scale.data).map(|(mean, scale)| (*mean, scale.abs())).collect())
}
