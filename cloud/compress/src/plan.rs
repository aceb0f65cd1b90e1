//! A model with its weights quantised, from which files with any choice of 8-bit layers are written.

use std::collections::HashSet;

use flotilla_onnx::pb::{NodeProto, TensorProto};
use flotilla_onnx::{DataType, Model, Node, Tensor, tensor_f32, tensor_i8};
use prost::Message;

use crate::int8::{Channels, Quantised, quantise};
use crate::weights::{self, Site, SkipReason, Skipped};
use crate::{Error, MAX_LAYERS, Recipe, Result};

/// Since this version `Mul` broadcasts a scale over a channel.
const MIN_OPSET: i64 = 7;
/// Before this version of the file format every initialiser had to be an input as well.
const MIN_IR: i64 = 4;

/// A model and what a recipe makes of its weights.
#[derive(Debug)]
pub(crate) struct Plan {
    model: Model,
    pub(crate) layers: Vec<Layer>,
    pub(crate) skipped: Vec<Skipped>,
}

/// A weight that becomes 8-bit integers.
#[derive(Debug)]
pub(crate) struct Layer {
    pub(crate) site: Site,
    /// Bytes of the weight in the file, before.
    pub(crate) bytes_before: u64,
    /// Bytes of everything that takes its place.
    pub(crate) bytes_after: u64,
    /// Signal to quantisation noise of the weight alone.
    pub(crate) sqnr_db: Option<f64>,
    form: Form,
}

/// The form in which a weight is stored: `Mul(Cast(integers), scales)` under the weight's own name, so that those who
/// read it need no change. An engine computes this once, when it loads the model.
#[derive(Debug)]
struct Form {
    tensors: [TensorProto; 2],
    nodes: [Node; 2],
}

impl Plan {
    /// Reads a model and quantises its weights.
    pub(crate) fn new(onnx: &[u8], recipe: &Recipe) -> Result<Self> {
        recipe.check()?;
        let model = read(onnx, recipe.strip_notes)?;
        let weights = weights::find(&model, recipe.int8_weights.min_elements);
        if weights.sites.len() > MAX_LAYERS {
            return Err(Error::TooManyLayers { layers: weights.sites.len() });
        }
        let mut plan = Self { model, layers: Vec::new(), skipped: weights.skipped };
        let keep: HashSet<&str> = recipe.int8_weights.keep_float.iter().map(String::as_str).collect();
        let known = weights.sites.iter().map(|site| site.name.as_str());
        let known: HashSet<&str> = known.chain(plan.skipped.iter().map(|s| s.name.as_str())).collect();
        if let Some(name) = keep.difference(&known).min() {
            let known = weights.sites.iter().map(|site| site.name.clone()).collect();
            return Err(Error::UnknownLayer { name: (*name).into(), known });
        }
        for (number, site) in weights.sites.into_iter().enumerate() {
            let Site { name, op, elements, .. } = &site;
            let skip = |reason| Skipped { name: name.clone(), op: op.clone(), elements: *elements, reason };
            if keep.contains(name.as_str()) {
                plan.skipped.push(skip(SkipReason::KeptFloat));
                continue;
            }
            // Numbered before anything is left out, so that a layer has the same names in every candidate.
            let layer = layer(&plan.model, number, &site, &recipe.int8_weights.clip_percent)?;
            if layer.bytes_after < layer.bytes_before {
                plan.layers.push(layer);
            } else {
                plan.skipped.push(skip(SkipReason::NoGain));
            }
        }
        if plan.layers.is_empty() {
            return Err(Error::NothingToCompress { skipped: plan.skipped });
        }
        Ok(plan)
    }

    /// The file in which the chosen layers are 8-bit integers. The same choice always gives the same bytes.
    pub(crate) fn build(&self, chosen: impl Fn(&Layer) -> bool) -> Result<Vec<u8>> {
        let mut model = self.model.clone();
        let mut nodes = Vec::new();
        for layer in self.layers.iter().filter(|layer| chosen(layer)) {
            remove_constant(&mut model, &layer.site.name)?;
            for tensor in &layer.form.tensors {
                model.add_initializer(tensor.clone())?;
            }
            nodes.extend(layer.form.nodes.clone());
        }
        model.insert_nodes(0, nodes)?;
        model.check_order()?;
        Ok(model.write())
    }
}

/// Reads a model, and checks that its order and version allow what is done to it.
fn read(onnx: &[u8], strip_notes: bool) -> Result<Model> {
    let model = Model::read(onnx)?;
    model.check_order()?;
    let opset = model.opset();
    if opset < MIN_OPSET {
        return Err(Error::Opset { opset, needed: MIN_OPSET });
    }
    let mut proto = model.into_proto();
    proto.ir_version = proto.ir_version.max(MIN_IR);
    if let Some(graph) = proto.graph.as_mut().filter(|_| strip_notes) {
        graph.value_info.clear();
        graph.initializer.iter_mut().for_each(|tensor| tensor.doc_string.clear());
        graph.node.iter_mut().for_each(|node| node.doc_string.clear());
    }
    Ok(Model::from_proto(proto)?)
}

/// Takes out the initialiser or the `Constant` node that makes a value.
fn remove_constant(model: &mut Model, name: &str) -> Result<()> {
    if model.initializer(name).is_some() {
        model.remove_initializer(name)?;
    } else if let Some(place) = model.nodes().iter().position(|node| node.output.iter().any(|o| o == name)) {
        model.remove_node(place)?;
    }
    Ok(())
}

fn layer(model: &Model, number: usize, site: &Site, clip_percent: &[u8]) -> Result<Layer> {
    let Tensor { dims, data } = model.tensor_f32(&site.name)?;
    let channels = Channels::along(&dims, site.axis)
        .ok_or_else(|| Error::NoAxis { tensor: site.name.clone(), axis: site.axis })?;
    let quantised = quantise(&data, channels, clip_percent)
        .map_err(|element| Error::NonFinite { tensor: site.name.clone(), element })?;
    let sqnr_db = quantised.sqnr_db();
    let form = form(model, number, site, dims, quantised)?;
    let before = match model.initializer(&site.name) {
        Some(tensor) => field_bytes(tensor),
        None => model.producer_of(&site.name).map_or(0, field_bytes),
    };
    let nodes: Vec<NodeProto> = form.nodes.iter().cloned().map(NodeProto::from).collect();
    let after =
        form.tensors.iter().map(field_bytes).sum::<usize>() + nodes.iter().map(field_bytes).sum::<usize>();
    Ok(Layer { site: site.clone(), bytes_before: before as u64, bytes_after: after as u64, sqnr_db, form })
}

/// The new names are numbers: those of weights can be long, and each would stand in the file another six times.
fn form(model: &Model, number: usize, site: &Site, dims: Vec<usize>, quantised: Quantised) -> Result<Form> {
    let Site { name, axis, .. } = site;
    let integers = model.fresh_name(&format!("int8_{number}"));
    let scale = model.fresh_name(&format!("scale_{number}"));
    let cast = model.fresh_name(&format!("f32_{number}"));
    let mut scale_dims = vec![1; dims.len()];
    scale_dims[*axis] = quantised.scales.len();
    let values = Tensor::new(&integers, dims, quantised.values)?;
    let scales = Tensor::new(&scale, scale_dims, quantised.scales)?;
    // Nodes need no names of their own, and a small model has many of these.
    let nodes = [
        Node::new("Cast", [&integers], [&cast]).named("").int("to", DataType::Float as i64),
        Node::new("Mul", [&cast, &scale], [name]).named(""),
    ];
    Ok(Form { tensors: [tensor_i8(&integers, &values), tensor_f32(&scale, &scales)], nodes })
}

/// Bytes of a message as a field of the graph: a tag of one byte, a length and the message.
fn field_bytes(message: &impl Message) -> usize {
    let length = message.encoded_len();
    1 + prost::length_delimiter_len(length) + length
}
