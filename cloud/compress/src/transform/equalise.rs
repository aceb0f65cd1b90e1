//! Cross-layer equalisation: ranges of weights are moved from a layer to the next, channel by channel, where what lies
//! between lets factors pass.
//!
//! Nagel et al., "Data-Free Quantization Through Weight Equalization and Bias Correction" (arXiv:1906.04721), section
//! 4.1: with `f(s * x) = s * f(x)` for positive `s`, dividing an output channel of one layer by `s` and multiplying what
//! the next layer makes of it changes nothing but rounding, and with `s = sqrt(r1 / r2)`, for the largest magnitudes `r1`
//! and `r2` of the channel in either weight, both become the same. Where each output channel has its own scale anyway, it
//! is the second layer that gains. Operators between that do not let factors pass (`Clip`, as in Relu6, `Sigmoid`) are
//! refused and named; high biases are not absorbed.

use flotilla_onnx::{Attributes, Model};

use super::Norms;
use crate::Result;
use crate::layer::{Layer, Readers, is, layers, set_floats};

/// Factors stay within this and its inverse, so that no weight leaves the range of floats.
const LARGEST: f32 = 1e4;
/// Operators between two layers at most.
const MAX_BETWEEN: usize = 8;

/// What was done, and where it was not possible.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Equalised {
    /// Pairs of layers, by their weights.
    pub(crate) pairs: Vec<(String, String)>,
    /// Layers whose output meets an operator that lets no factor pass, and that operator.
    pub(crate) refused: Vec<(String, String)>,
}

/// Equalises every pair of layers, from first to last, as often as `rounds` says.
pub(crate) fn equalise(model: &mut Model, norms: &mut Norms, rounds: u8) -> Result<Equalised> {
    let mut done = Equalised::default();
    let layers = layers(model);
    let readers = Readers::of(model);
    let mut pairs = Vec::new();
    for layer in &layers {
        match follow(model, &readers, layer, &layers) {
            Next::Layer(next) if next.channels() == layer.matrix.rows => pairs.push((layer, next)),
            Next::Blocked(op) => done.refused.push((layer.weight.clone(), op)),
            Next::Layer(_) | Next::Nothing => {}
        }
    }
    // A layer without a place for its factors cannot take part: a bias that is shared or computed.
    pairs.retain(|(layer, _)| match &layer.bias {
        Some(bias) => readers.only(bias).is_some(),
        None => layer.takes_bias || layer.op == "MatMul",
    });
    for _ in 0..rounds {
        for (first, second) in &pairs {
            equalise_pair(model, norms, first, second)?;
        }
    }
    done.pairs = pairs.iter().map(|(a, b)| (a.weight.clone(), b.weight.clone())).collect();
    Ok(done)
}

enum Next<'a> {
    Layer(&'a Layer),
    /// An operator that lets no factor pass stands before the next layer.
    Blocked(String),
    /// More than one reads the output, or there is no layer behind it.
    Nothing,
}

fn follow<'a>(model: &Model, readers: &Readers, from: &Layer, layers: &'a [Layer]) -> Next<'a> {
    let mut value = from.output.as_str();
    for _ in 0..MAX_BETWEEN {
        let Some(place) = readers.only(value) else { return Next::Nothing };
        let node = &model.nodes()[place];
        if node.input.first().map(String::as_str) != Some(value) {
            return Next::Nothing;
        }
        if let Some(next) = layers.iter().find(|next| next.input == value) {
            // Dense layers have their channels last, convolutions second.
            let alike = next.window.is_some() == from.window.is_some();
            return if alike { Next::Layer(next) } else { Next::Nothing };
        }
        let passes = [
            "Relu",
            "LeakyRelu",
            "PRelu",
            "Identity",
            "Dropout",
            "MaxPool",
            "AveragePool",
            "GlobalAveragePool",
            "GlobalMaxPool",
        ];
        if !passes.iter().any(|op| is(node, op)) {
            let bounded = ["Clip", "Sigmoid", "HardSigmoid", "HardSwish", "Tanh", "Elu", "Selu", "Softplus"];
            let blocked = bounded.contains(&node.op_type.as_str());
            return if blocked { Next::Blocked(node.op_type.clone()) } else { Next::Nothing };
        }
        // Behind a dense layer the channels come last, and windows over them mix their factors.
        if from.window.is_none() && node.op_type.ends_with("Pool") {
            return Next::Nothing;
        }
        let falls = is(node, "LeakyRelu") && node.float("alpha").is_some_and(|alpha| !alpha.is_finite());
        let Some(output) = node.output.first().filter(|_| !falls) else { return Next::Nothing };
        value = output;
    }
    Next::Nothing
}

fn equalise_pair(model: &mut Model, norms: &mut Norms, first: &Layer, second: &Layer) -> Result<()> {
    let channels = first.matrix.rows;
    let mut a = model.tensor_f32(&first.weight)?;
    let mut b = model.tensor_f32(&second.weight)?;
    let largest = |values: &mut dyn Iterator<Item = f32>| values.fold(0.0_f32, |peak, v| peak.max(v.abs()));
    let of_first = |row| largest(&mut (0..first.matrix.cols).map(|col| a.data[first.matrix.at(row, col)]));
    let mut of_second = vec![0.0_f32; channels];
    for row in 0..second.matrix.rows {
        for col in 0..second.matrix.cols {
            let place = &mut of_second[second.channel_of(row, col)];
            *place = place.max(b.data[second.matrix.at(row, col)].abs());
        }
    }
    let factors: Vec<f32> = (0..channels)
        .map(|channel| {
            let factor = (of_first(channel) / of_second[channel]).sqrt();
            // A channel of zeros, on either side, has nothing to give.
            if factor.is_finite() && factor > 0.0 { factor.clamp(1.0 / LARGEST, LARGEST) } else { 1.0 }
        })
        .collect();
    for (row, factor) in factors.iter().enumerate() {
        (0..first.matrix.cols).for_each(|col| a.data[first.matrix.at(row, col)] /= factor);
    }
    for row in 0..second.matrix.rows {
        for col in 0..second.matrix.cols {
            b.data[second.matrix.at(row, col)] *= factors[second.channel_of(row, col)];
        }
    }
    set_floats(model, &first.weight, &a)?;
    set_floats(model, &second.weight, &b)?;
    if let Some(bias) = &first.bias {
        let mut tensor = model.tensor_f32(bias)?;
        tensor.data.iter_mut().zip(&factors).for_each(|(value, factor)| *value /= factor);
        set_floats(model, bias, &tensor)?;
    }
    if let Some(channels) = norms.0.get_mut(&first.output) {
        channels.iter_mut().zip(&factors).for_each(|(norm, s)| *norm = (norm.0 / s, norm.1 / s));
    }
    Ok(())
}
