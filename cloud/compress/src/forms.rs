//! The forms in which weights are stored, as constants and the nodes that make floats of them.
//!
//! Every form keeps the name of the weight, or of the value that its layer gives, so that the rest of the graph needs no
//! change. Nodes that only look at constants are computed once, when an engine loads the model.

use flotilla_onnx::pb::{NodeProto, TensorProto};
use flotilla_onnx::{
    DataType, Model, Node, Tensor, tensor_f16, tensor_f32, tensor_i8, tensor_i64, tensor_u8,
};
use prost::Message;

use crate::Result;
use crate::int4::{BLOCK, Blocks};
use crate::int8::Quantised;
use crate::layer::{Layer, is, remove_constant};
use crate::weights::Site;

/// From so many scales on, the `Cast` that 16-bit scales need is smaller than what they save.
const HALF_SCALES: usize = 24;
/// Since this version of the operator set `Mul` broadcasts; blocks need nothing newer.
pub(crate) const MIN_OPSET: i64 = 7;
/// Where `MatMulNBits` comes from.
const CONTRIB: &str = "com.microsoft";

/// What takes the place of a weight.
#[derive(Debug, Default)]
pub(crate) struct Stored {
    pub(crate) tensors: Vec<TensorProto>,
    /// Nodes that look at constants alone and run first.
    pub(crate) nodes: Vec<Node>,
    /// Nodes that take the place of the one that read the weight, and that one's output.
    pub(crate) readers: Option<(String, Vec<Node>)>,
    /// The operator set that they come from, where it is not the standard one.
    pub(crate) domain: Option<&'static str>,
}

impl Stored {
    /// Bytes in the file.
    pub(crate) fn bytes(&self, model: &Model) -> usize {
        let nodes = |nodes: &[Node]| -> usize {
            nodes.iter().map(|node| field_bytes(&NodeProto::from(node.clone()))).sum()
        };
        let tensors: usize = self.tensors.iter().map(field_bytes).sum();
        let replaced = self.readers.as_ref().map_or(0, |(output, readers)| {
            nodes(readers).saturating_sub(model.producer_of(output).map_or(0, field_bytes))
        });
        tensors + nodes(&self.nodes) + replaced
    }

    /// Puts it into a model, in the place of a weight; gives the nodes that have to run first.
    pub(crate) fn put(&self, model: &mut Model, weight: &str) -> Result<Vec<Node>> {
        remove_constant(model, weight)?;
        for tensor in &self.tensors {
            model.add_initializer(tensor.clone())?;
        }
        if let Some((output, readers)) = &self.readers
            && let Some(place) =
                model.nodes().iter().position(|node| node.output.first().is_some_and(|o| o == output))
        {
            model.remove_node(place)?;
            model.insert_nodes(place, readers.clone())?;
        }
        if let Some(domain) = self.domain {
            model.require_opset(domain, 1);
        }
        Ok(self.nodes.clone())
    }
}

/// Bytes of the constant of a name in the file.
pub(crate) fn constant_bytes(model: &Model, name: &str) -> usize {
    match model.initializer(name) {
        Some(tensor) => field_bytes(tensor),
        None => model.producer_of(name).map_or(0, field_bytes),
    }
}

/// Bytes of a message as a field of the graph: a tag of one byte, a length and the message.
fn field_bytes(message: &impl Message) -> usize {
    let length = message.encoded_len();
    1 + prost::length_delimiter_len(length) + length
}

fn to_f32(from: &str, to: &str) -> Node {
    // Nodes need no names of their own, and a small model has many of these.
    Node::new("Cast", [from], [to]).named("").int("to", DataType::Float as i64)
}

/// `Mul(Cast(integers), scales)`. The new names are numbers: those of weights can be long, and each would stand in the
/// file another six times.
pub(crate) fn int8(
    model: &Model,
    number: usize,
    site: &Site,
    dims: &[usize],
    quantised: &Quantised,
) -> Result<Stored> {
    let integers = model.fresh_name(&format!("int8_{number}"));
    let scale = model.fresh_name(&format!("scale_{number}"));
    let cast = model.fresh_name(&format!("f32_{number}"));
    let mut scale_dims = vec![1; dims.len()];
    scale_dims[site.axis] = quantised.scales.len();
    let values = Tensor::new(&integers, dims, quantised.values.clone())?;
    let scales = Tensor::new(&scale, scale_dims, quantised.scales.clone())?;
    let mut stored = Stored { tensors: vec![tensor_i8(&integers, &values)], ..Stored::default() };
    stored.nodes.push(to_f32(&integers, &cast));
    let factor = scales_of(model, &mut stored, &scale, &scales, quantised.half);
    stored.nodes.push(Node::new("Mul", [cast, factor], [site.name.clone()]).named(""));
    Ok(stored)
}

/// Adds scales to a form; gives the name under which they are floats.
fn scales_of(model: &Model, stored: &mut Stored, name: &str, scales: &Tensor<f32>, half: bool) -> String {
    if !half || scales.data.len() < HALF_SCALES {
        stored.tensors.push(tensor_f32(name, scales));
        return name.into();
    }
    let cast = model.fresh_name(&format!("{name}_f32"));
    stored.tensors.push(tensor_f16(name, scales));
    stored.nodes.push(to_f32(name, &cast));
    cast
}

/// A `Cast` of 16-bit floats.
pub(crate) fn f16(model: &Model, number: usize, name: &str, tensor: &Tensor<f32>) -> Stored {
    let halves = model.fresh_name(&format!("f16_{number}"));
    Stored {
        nodes: vec![to_f32(&halves, name)],
        tensors: vec![tensor_f16(&halves, tensor)],
        ..Stored::default()
    }
}

/// Two 4-bit integers a byte, unpacked by operators of the standard set: the lower halves of all bytes are the first half
/// of the weight, the upper ones the second.
pub(crate) fn int4(
    model: &Model,
    number: usize,
    site: &Site,
    dims: &[usize],
    layer: &Layer,
    blocks: &Blocks,
) -> Result<Stored> {
    let matrix = layer.matrix;
    let codes: Vec<u8> = (0..matrix.rows * matrix.cols)
        .map(|place| code(blocks.values[matrix.at(place / matrix.cols, place % matrix.cols)]))
        .collect();
    let (first, second) = codes.split_at(codes.len() / 2);
    let packed: Vec<u8> = first.iter().zip(second).map(|(low, high)| low | high << 4).collect();
    let name = |part: &str| model.fresh_name(&format!("int4_{number}{part}"));
    let [bytes, floats, shifted, high, sixteenfold, low] = ["", "b", "c", "d", "e", "f"].map(name);
    let [both, centred, rows, scaled, scale] = ["g", "h", "i", "j", "s"].map(name);
    let [by16, times16, eight, in_blocks, in_rows] = ["k", "l", "m", "n", "o"].map(name);
    let scalar = |name: &str, value: f32| tensor_f32(name, &Tensor { dims: vec![], data: vec![value] });
    let shape = |name: &str, dims: &[usize]| {
        let data = dims.iter().map(|&dim| i64::try_from(dim).unwrap_or(i64::MAX)).collect();
        tensor_i64(name, &Tensor { dims: vec![dims.len()], data })
    };
    let count = matrix.rows * blocks.of_row;
    let scales = Tensor::new(&scale, [count, 1], blocks.scales.clone())?;
    let target: Vec<usize> = if matrix.transposed { vec![matrix.rows, matrix.cols] } else { dims.to_vec() };
    let mut stored = Stored {
        tensors: vec![
            tensor_u8(&bytes, &Tensor::new(&bytes, [packed.len()], packed)?),
            scalar(&by16, 1.0 / 16.0),
            scalar(&times16, 16.0),
            scalar(&eight, 8.0),
            shape(&in_blocks, &[count, blocks.block]),
            shape(&in_rows, &target),
        ],
        ..Stored::default()
    };
    let node = |op: &str, inputs: &[&String], output: &str| {
        Node::new(op, inputs.iter().map(|i| i.as_str()), [output]).named("")
    };
    let weight = site.name.as_str();
    stored.nodes = vec![
        to_f32(&bytes, &floats),
        node("Mul", &[&floats, &by16], &shifted),
        node("Floor", &[&shifted], &high),
        node("Mul", &[&high, &times16], &sixteenfold),
        node("Sub", &[&floats, &sixteenfold], &low),
        node("Concat", &[&low, &high], &both).int("axis", 0),
        node("Sub", &[&both, &eight], &centred),
        node("Reshape", &[&centred, &in_blocks], &rows),
    ];
    let factor = scales_of(model, &mut stored, &scale, &scales, true);
    stored.nodes.push(node("Mul", &[&rows, &factor], &scaled));
    if matrix.transposed {
        let upright = name("p");
        stored.nodes.push(node("Reshape", &[&scaled, &in_rows], &upright));
        stored.nodes.push(node("Transpose", &[&upright], weight).ints("perm", [1, 0]));
    } else {
        stored.nodes.push(node("Reshape", &[&scaled, &in_rows], weight));
    }
    Ok(stored)
}

/// A 4-bit integer as it is stored.
fn code(value: i8) -> u8 {
    // Between -8 and 7, so that the sum lies between 0 and 15.
    (value + 8) as u8
}

/// `MatMulNBits` in the place of a dense layer; none where the node that reads the weight is another one.
pub(crate) fn mat_mul_nbits(
    model: &Model,
    number: usize,
    layer: &Layer,
    blocks: &Blocks,
) -> Result<Option<Stored>> {
    let reads = |node: &&NodeProto| node.input.get(1) == Some(&layer.weight);
    let Some(node) = model.nodes().iter().find(reads) else { return Ok(None) };
    let (rows, of_row) = (layer.matrix.rows, blocks.of_row);
    let mut bytes = vec![0x88_u8; rows * of_row * BLOCK / 2];
    for row in 0..rows {
        for col in 0..layer.matrix.cols {
            let place = (row * of_row + col / BLOCK) * BLOCK + col % BLOCK;
            let value = code(blocks.values[layer.matrix.at(row, col)]);
            let byte = &mut bytes[place / 2];
            *byte = if place.is_multiple_of(2) { *byte & 0xf0 | value } else { *byte & 0x0f | value << 4 };
        }
    }
    let name = |part: &str| model.fresh_name(&format!("{part}_{number}"));
    let (weight, scale, zero) = (name("nbits"), name("scale"), name("zero"));
    let mut stored = Stored { domain: Some(CONTRIB), ..Stored::default() };
    stored.tensors.push(tensor_u8(&weight, &Tensor::new(&weight, [rows, of_row, BLOCK / 2], bytes)?));
    let scales = Tensor::new(&scale, [rows * of_row], blocks.scales.clone())?;
    let factor = scales_of(model, &mut stored, &scale, &scales, true);
    let mut inputs = vec![layer.input.clone(), weight, factor];
    if blocks.zeros.iter().any(|zero| *zero != 8) {
        let packed = blocks.zeros.chunks(of_row).flat_map(|row| {
            row.chunks(2).map(|pair| pair[0] | pair.get(1).copied().unwrap_or(8) << 4).collect::<Vec<_>>()
        });
        let packed: Vec<u8> = packed.collect();
        stored.tensors.push(tensor_u8(&zero, &Tensor::new(&zero, [packed.len()], packed)?));
        inputs.push(zero);
    }
    let product = node.output[0].clone();
    let sum = node.input.get(2).filter(|bias| is(node, "Gemm") && !bias.is_empty());
    let inner = if sum.is_some() { name("product") } else { product.clone() };
    let (n, k) = (rows as i64, layer.matrix.cols as i64);
    let mut readers = vec![
        Node::new("MatMulNBits", inputs, [inner.clone()])
            .named("")
            .domain(CONTRIB)
            .int("K", k)
            .int("N", n)
            .int("bits", 4)
            .int("block_size", BLOCK as i64),
    ];
    readers.extend(sum.map(|bias| Node::new("Add", [&inner, bias], [&product]).named("")));
    stored.readers = Some((product, readers));
    Ok(Some(stored))
}
