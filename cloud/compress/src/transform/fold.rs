//! Folding: what a layer's output is multiplied with and what is added to it goes into its weight and bias.
//!
//! Batch normalisation as it runs is `a * x + b` for each channel, with `a = scale / sqrt(variance + epsilon)` and
//! `b = shift - mean * a`; so are `Mul`, `Div`, `Add` and `Sub` with a constant for each channel. The layer before
//! computes the same with its weights multiplied by `a` and its bias `a * bias + b`, up to the rounding of floats.

use flotilla_onnx::pb::NodeProto;
use flotilla_onnx::{Attributes, Model, Tensor};

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
    let mut folded = 0;
    while fold_one(model, norms)? {
        folded += 1;
    }
    model.remove_unused_initializers();
    Ok(folded)
}

fn fold_one(model: &mut Model, norms: &mut Norms) -> Result<bool> {
    let readers = Readers::of(model);
    for layer in layers(model) {
        // The sum behind a `MatMul` is one already; what stands behind that is not looked at.
        if layer.op == "MatMul" || !layer.takes_bias {
            continue;
        }
        let Some(place) = readers.only(&layer.output) else { continue };
        let node = model.nodes()[place].clone();
        let Some(affine) = affine(model, &layer, &node) else { continue };
        apply(model, &layer, &affine)?;
        if is(&node, "BatchNormalization") {
            norms.0.insert(node.output[0].clone(), statistics(model, &node)?);
        }
        let maker = model.nodes().iter().position(|maker| maker.output.first() == Some(&layer.output));
        if let Some(maker) = maker {
            let mut node_before = model.nodes()[maker].clone();
            node_before.output[0].clone_from(&node.output[0]);
            model.replace_node(maker, node_before.into())?;
            // `Constant` nodes may have gone meanwhile, so the place is looked up again.
            let again = model.nodes().iter().position(|other| *other == node);
            model.remove_node(again.unwrap_or(place))?;
        }
        return Ok(true);
    }
    Ok(false)
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

fn apply(model: &mut Model, layer: &Layer, affine: &Affine) -> Result<()> {
    if affine.factor.iter().any(|factor| *factor != 1.0) {
        let mut weight = model.tensor_f32(&layer.weight)?;
        for (row, factor) in affine.factor.iter().enumerate() {
            (0..layer.matrix.cols).for_each(|col| weight.data[layer.matrix.at(row, col)] *= factor);
        }
        set_floats(model, &layer.weight, &weight)?;
    }
    let Some(name) = bias_of(model, layer)? else { return Ok(()) };
    let Tensor { dims, mut data } = model.tensor_f32(&name)?;
    for (value, (factor, shift)) in data.iter_mut().zip(affine.factor.iter().zip(&affine.shift)) {
        *value = *value * factor + shift;
    }
    set_floats(model, &name, &Tensor { dims, data })
}

/// Mean and standard deviation of what a normalisation gives: its shift and the size of its scale.
fn statistics(model: &Model, node: &NodeProto) -> Result<Vec<(f32, f32)>> {
    let (scale, shift) = (model.tensor_f32(&node.input[1])?, model.tensor_f32(&node.input[2])?);
    Ok(shift.data.iter().zip(&scale.data).map(|(mean, scale)| (*mean, scale.abs())).collect())
}
