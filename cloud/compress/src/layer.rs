//! Layers of a model as matrices: the constant that each multiplies its input with, and what is added to the product.

use std::collections::{HashMap, HashSet};

use flotilla_onnx::pb::NodeProto;
use flotilla_onnx::{Attributes, DataType, Model, Tensor, is_standard_domain, tensor_f32};

use crate::Result;

/// A convolution or matrix product with a constant weight that nothing else reads.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Layer {
    /// What computes it.
    pub(crate) op: String,
    /// Name of the weight.
    pub(crate) weight: String,
    /// The value that it is multiplied with.
    pub(crate) input: String,
    /// The value that comes out, the bias added.
    pub(crate) output: String,
    /// The constant that is added, one element an output channel.
    pub(crate) bias: Option<String>,
    /// Whether a bias can be had: a bare `MatMul` has no place for one.
    pub(crate) takes_bias: bool,
    /// How the weight lies in memory.
    pub(crate) matrix: Matrix,
    /// How a convolution goes over its input; none for a dense layer.
    pub(crate) window: Option<Window>,
}

/// A weight as a matrix of output channels by the elements that each is computed of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Matrix {
    /// Output channels.
    pub(crate) rows: usize,
    /// Elements of one.
    pub(crate) cols: usize,
    /// Whether the elements of one output channel lie apart: `[K, N]` in memory.
    pub(crate) transposed: bool,
}

impl Matrix {
    /// Place of an element in memory.
    pub(crate) fn at(self, row: usize, col: usize) -> usize {
        if self.transposed { col * self.rows + row } else { row * self.cols + col }
    }

    /// The elements of one output channel.
    pub(crate) fn row(self, data: &[f32], row: usize) -> Vec<f32> {
        (0..self.cols).map(|col| data[self.at(row, col)]).collect()
    }
}

/// How a convolution goes over its input.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Window {
    /// Rows and columns.
    pub(crate) kernel: [usize; 2],
    pub(crate) strides: [usize; 2],
    pub(crate) dilations: [usize; 2],
    /// Top and left.
    pub(crate) pads: [usize; 2],
    /// Bottom and right.
    pub(crate) pads_end: [usize; 2],
    pub(crate) groups: usize,
}

impl Layer {
    /// Groups of channels that do not see each other.
    pub(crate) fn groups(&self) -> usize {
        self.window.as_ref().map_or(1, |window| window.groups)
    }

    /// Elements of one output channel that belong to one input channel.
    pub(crate) fn taps(&self) -> usize {
        self.window.as_ref().map_or(1, |window| window.kernel[0] * window.kernel[1])
    }

    /// Input channels, of all groups.
    pub(crate) fn channels(&self) -> usize {
        self.matrix.cols / self.taps().max(1) * self.groups()
    }

    /// The input channel of an element.
    pub(crate) fn channel_of(&self, row: usize, col: usize) -> usize {
        let of_group = self.matrix.cols / self.taps();
        row / (self.matrix.rows / self.groups()) * of_group + col / self.taps()
    }
}

/// Who reads what.
pub(crate) struct Readers {
    readers: HashMap<String, Vec<usize>>,
    outputs: HashSet<String>,
}

impl Readers {
    pub(crate) fn of(model: &Model) -> Self {
        let mut readers: HashMap<String, Vec<usize>> = HashMap::new();
        for (place, node) in model.nodes().iter().enumerate() {
            // Names that inner graphs read count as well, so that nothing is taken from under them.
            for name in node.input.iter().map(String::as_str).chain(inner_names(node)) {
                readers.entry(name.into()).or_default().push(place);
            }
        }
        let outputs = model.graph().output.iter().map(|output| output.name.clone()).collect();
        Self { readers, outputs }
    }

    /// The place of the only node that reads a value once, where the value is no output of the graph.
    pub(crate) fn only(&self, value: &str) -> Option<usize> {
        match self.readers.get(value).map(Vec::as_slice) {
            Some([place]) if !self.outputs.contains(value) => Some(*place),
            _ => None,
        }
    }
}

fn inner_names(node: &NodeProto) -> Vec<&str> {
    let inner = node.attribute.iter().flat_map(|a| a.g.iter().chain(&a.graphs));
    let nodes = inner.flat_map(|graph| &graph.node);
    nodes.flat_map(|node| node.input.iter().map(String::as_str).chain(inner_names(node))).collect()
}

/// The layers of a model whose form is known through and through, in the order in which they run.
pub(crate) fn layers(model: &Model) -> Vec<Layer> {
    let readers = Readers::of(model);
    model.nodes().iter().filter_map(|node| layer(model, &readers, node)).collect()
}

/// Whether a node's operator is the standard one of this name.
pub(crate) fn is(node: &NodeProto, op: &str) -> bool {
    node.op_type == op && is_standard_domain(&node.domain)
}

fn layer(model: &Model, readers: &Readers, node: &NodeProto) -> Option<Layer> {
    let [input, weight, ..] = &node.input[..] else { return None };
    let [output] = &node.output[..] else { return None };
    readers.only(weight)?;
    let dims = float_dims(model, weight)?;
    let third = node.input.get(2).filter(|name| !name.is_empty());
    let (matrix, window) = if is(node, "Conv") {
        let window = window(node, &dims)?;
        if !dims[0].is_multiple_of(window.groups) {
            return None;
        }
        let cols = dims[1..].iter().product();
        (Matrix { rows: dims[0], cols, transposed: false }, Some(window))
    } else if is(node, "Gemm") || is(node, "MatMul") {
        let &[first, last] = &dims[..] else { return None };
        let unchanged = |name| node.float(name).is_none_or(|factor| factor == 1.0);
        let plain = unchanged("alpha") && unchanged("beta") && node.int("transA").unwrap_or_default() == 0;
        if !plain {
            return None;
        }
        let by_row = is(node, "Gemm") && node.int("transB").unwrap_or_default() != 0;
        let (rows, cols) = if by_row { (first, last) } else { (last, first) };
        (Matrix { rows, cols, transposed: !by_row }, None)
    } else {
        return None;
    };
    if matrix.rows == 0 || matrix.cols == 0 {
        return None;
    }
    let mut layer = Layer {
        op: node.op_type.clone(),
        weight: weight.clone(),
        input: input.clone(),
        output: output.clone(),
        bias: third.cloned(),
        takes_bias: !is(node, "MatMul"),
        matrix,
        window,
    };
    if is(node, "MatMul")
        && let Some((bias, sum)) = added(model, readers, output, matrix.rows)
    {
        (layer.bias, layer.output, layer.takes_bias) = (Some(bias), sum, true);
    }
    // A bias that is computed, or broadcast in another way, is left alone, and so is its layer's.
    if let Some(bias) = &layer.bias
        && float_dims(model, bias).is_none_or(|dims| dims.iter().product::<usize>() != matrix.rows)
    {
        (layer.bias, layer.takes_bias) = (None, false);
    }
    Some(layer)
}

/// The constant that an `Add` behind a product adds to each channel, and the sum.
fn added(model: &Model, readers: &Readers, product: &str, channels: usize) -> Option<(String, String)> {
    let node = &model.nodes()[readers.only(product)?];
    let [a, b] = &node.input[..] else { return None };
    let other = if a == product { b } else { a };
    let dims = float_dims(model, other)?;
    let per_channel = dims.last() == Some(&channels) && dims.iter().product::<usize>() == channels;
    (is(node, "Add") && per_channel && other != product).then(|| (other.clone(), node.output[0].clone()))
}

/// The dimensions of a constant of floats.
pub(crate) fn float_dims(model: &Model, name: &str) -> Option<Vec<usize>> {
    let tensor = model.constant(name)?;
    if tensor.data_type != DataType::Float as i32 {
        return None;
    }
    tensor.dims.iter().map(|&dim| usize::try_from(dim).ok()).collect()
}

/// How a convolution of one or two dimensions goes over its input; none where the file leaves it to the engine.
fn window(node: &NodeProto, dims: &[usize]) -> Option<Window> {
    let spatial = dims.len().checked_sub(2).filter(|rank| (1..=2).contains(rank))?;
    let explicit = node.string("auto_pad").is_none_or(|pad| pad == "NOTSET" || pad.is_empty());
    let pair = |values: Option<&[i64]>, default: usize| {
        let values: Vec<usize> = match values {
            Some(values) => values.iter().map(|&v| usize::try_from(v).ok()).collect::<Option<_>>()?,
            None => vec![default; spatial],
        };
        match values[..] {
            [only] if spatial == 1 => Some([default, only]),
            [first, second] if spatial == 2 => Some([first, second]),
            _ => None,
        }
    };
    let kernel = match dims[2..] {
        [only] => [1, only],
        [first, second] => [first, second],
        _ => return None,
    };
    let pads = node.ints("pads");
    let (begin, end) = match pads {
        Some(pads) if pads.len() == 2 * spatial => (Some(&pads[..spatial]), Some(&pads[spatial..])),
        Some(_) => return None,
        None => (None, None),
    };
    let groups = usize::try_from(node.int("group").unwrap_or(1)).ok().filter(|&groups| groups > 0)?;
    let window = Window {
        kernel,
        strides: pair(node.ints("strides"), 1)?,
        dilations: pair(node.ints("dilations"), 1)?,
        pads: pair(begin, 0)?,
        pads_end: pair(end, 0)?,
        groups,
    };
    let positive = window.strides.iter().chain(&window.dilations).chain(&kernel).all(|&v| v > 0);
    (explicit && positive).then_some(window)
}

/// Takes out the initialiser or the `Constant` node that makes a value.
pub(crate) fn remove_constant(model: &mut Model, name: &str) -> Result<()> {
    if model.initializer(name).is_some() {
        model.remove_initializer(name)?;
    } else if let Some(place) = model.nodes().iter().position(|node| node.output.iter().any(|o| o == name)) {
        model.remove_node(place)?;
    }
    Ok(())
}

/// Puts floats in the place of a constant, or makes a new one.
pub(crate) fn set_floats(model: &mut Model, name: &str, tensor: &Tensor<f32>) -> Result<()> {
    let proto = tensor_f32(name, tensor);
    if model.initializer(name).is_some() {
        model.replace_initializer(proto)?;
    } else {
        remove_constant(model, name)?;
        model.add_initializer(proto)?;
    }
    Ok(())
}

/// Gives the layer that computes `output` a bias of its own, which is all zero, where it has none; gives its name.
pub(crate) fn bias_of(model: &mut Model, layer: &Layer) -> Result<Option<String>> {
    let shared = |name: &String| Readers::of(model).only(name).is_none();
    match &layer.bias {
        Some(bias) if !shared(bias) => return Ok(Some(bias.clone())),
        _ if !layer.takes_bias => return Ok(None),
        _ => {}
    }
    let maker = |node: &NodeProto| node.output.first() == Some(&layer.output);
    let Some(place) = model.nodes().iter().position(maker) else { return Ok(None) };
    // A form that stands for a layer may have other inputs in third place.
    let third_is_bias = |node: &NodeProto| is(node, "Conv") || is(node, "Gemm");
    if layer.bias.is_none() && !third_is_bias(&model.nodes()[place]) {
        return Ok(None);
    }
    let old = layer.bias.as_ref().map(|bias| model.tensor_f32(bias)).transpose()?;
    let zeros = || Tensor { dims: vec![layer.matrix.rows], data: vec![0.0; layer.matrix.rows] };
    let name = model.fresh_name("bias");
    set_floats(model, &name, &old.unwrap_or_else(zeros))?;
    let mut node = model.nodes()[place].clone();
    match &layer.bias {
        Some(bias) => node.input.iter_mut().filter(|name| *name == bias).for_each(|n| n.clone_from(&name)),
        None => {
            node.input.truncate(2);
            node.input.push(name.clone());
        }
    }
    model.replace_node(place, node.into())?;
    Ok(Some(name))
}
