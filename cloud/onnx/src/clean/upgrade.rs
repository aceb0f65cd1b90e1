//! Forms of operator sets 7 to 12 in those of 13, which every later step and the engine read.
//!
//! What was an attribute became an input for most; `Softmax` changed its meaning; `Upsample`, `Scatter` and the first
//! `Resize` were replaced. Operators that need no change are left alone.

use std::collections::HashMap;

use tract_onnx::pb::{GraphProto, NodeProto, TensorProto};

use super::Changes;
use super::constants::{set_int, take};
use super::graph::{Names, is_standard};
use super::shapes::{self, Known};
use crate::{Attributes, IR_VERSION, Model, Node, OPSET, Result, Tensor, order, tensor_f32, tensor_i64};

/// Brings an older model to [`OPSET`].
pub(super) fn upgrade(model: &mut Model) -> Result<Changes> {
    let from = model.opset();
    if from == 0 || from >= OPSET {
        return Ok(Changes::default());
    }
    if let Some(op_type) = obstacle(model.graph(), from) {
        let note = format!("the model stays in opset {from}: its {op_type} has no later form");
        return Ok(Changes { count: 0, notes: vec![note] });
    }
    let known = if softmax(model.graph()) { shapes::infer(model).values } else { HashMap::new() };
    let mut pass = Pass { from, names: Names::of(model.graph()), known, count: 0 };
    pass.graph(model.graph_mut())?;
    model.set_opset(OPSET);
    model.raise_ir_version(IR_VERSION);
    Ok(Changes {
        count: pass.count,
        notes: vec![format!("the model was brought from opset {from} to {OPSET}")],
    })
}

/// An operator whose old meaning has no simple later form.
fn obstacle(graph: &GraphProto, from: i64) -> Option<&'static str> {
    let scan = |node: &NodeProto| is_standard(node) && node.op_type == "Scan" && from < 9;
    let here = graph.node.iter().any(scan).then_some("Scan");
    here.or_else(|| graph.node.iter().flat_map(order::subgraphs).find_map(|inner| obstacle(inner, from)))
}

fn softmax(graph: &GraphProto) -> bool {
    graph.node.iter().any(|node| is_softmax(node) || order::subgraphs(node).any(softmax))
}

fn is_softmax(node: &NodeProto) -> bool {
    is_standard(node) && matches!(node.op_type.as_str(), "Softmax" | "LogSoftmax" | "Hardmax")
}

struct Pass {
    from: i64,
    names: Names,
    known: HashMap<String, Known>,
    count: u64,
}

impl Pass {
    fn graph(&mut self, graph: &mut GraphProto) -> Result<()> {
        let (mut nodes, mut constants) = (Vec::with_capacity(graph.node.len()), Vec::new());
        for mut node in std::mem::take(&mut graph.node) {
            for inner in node.attribute.iter_mut().flat_map(|a| a.g.iter_mut().chain(&mut a.graphs)) {
                self.graph(inner)?;
            }
            if is_standard(&node) {
                self.node(node, &mut nodes, &mut constants)?;
            } else {
                nodes.push(node);
            }
        }
        graph.node = nodes;
        graph.initializer.extend(constants);
        Ok(())
    }

    fn node(
        &mut self,
        mut node: NodeProto,
        out: &mut Vec<NodeProto>,
        constants: &mut Vec<TensorProto>,
    ) -> Result<()> {
        let before = self.count;
        self.count += 1;
        match node.op_type.as_str() {
            "Squeeze" | "Unsqueeze" | "ReduceSum" if node.input.len() == 1 => match take(&mut node, "axes") {
                Some(axes) => node.input.push(self.ints("axes", axes.ints, constants)?),
                None => self.count = before,
            },
            "Split" if node.input.len() == 1 => match take(&mut node, "split") {
                Some(split) => node.input.push(self.ints("split", split.ints, constants)?),
                None => self.count = before,
            },
            "Clip" if self.from < 11 => {
                for bound in ["min", "max"] {
                    let value = take(&mut node, bound).map(|a| a.f);
                    let input = value.map(|value| self.float(bound, value, constants)).transpose()?;
                    node.input.push(input.unwrap_or_default());
                }
                trim(&mut node.input);
            }
            "Pad" if self.from < 11 => {
                let pads = take(&mut node, "pads").or_else(|| take(&mut node, "paddings"));
                let value = take(&mut node, "value").map_or(0.0, |a| a.f);
                node.input.push(self.ints("pads", pads.map(|a| a.ints).unwrap_or_default(), constants)?);
                if value != 0.0 {
                    node.input.push(self.float("value", value, constants)?);
                }
            }
            "Slice" if self.from < 10 => {
                for part in ["starts", "ends", "axes"] {
                    if let Some(values) = take(&mut node, part) {
                        node.input.push(self.ints(part, values.ints, constants)?);
                    }
                }
            }
            "TopK" if self.from < 10 => {
                let k = take(&mut node, "k").map_or(1, |a| a.i);
                node.input.push(self.ints("k", vec![k], constants)?);
            }
            "Upsample" => self.resize(&mut node, constants)?,
            "Resize" if self.from == 10 => self.resize(&mut node, constants)?,
            "Scatter" => node.op_type = "ScatterElements".into(),
            "Softmax" | "LogSoftmax" | "Hardmax" => {
                return self.softmax(node, out);
            }
            _ => self.count = before,
        }
        out.push(node);
        Ok(())
    }

    /// What enlarged pictures before opset 11: by scales, places counted from the upper left corner, rounded down.
    fn resize(&mut self, node: &mut NodeProto, constants: &mut Vec<TensorProto>) -> Result<()> {
        let scales = match (node.input.get(1).cloned(), take(node, "scales")) {
            (Some(scales), _) => scales,
            (None, scales) => {
                let scales = scales.map(|a| a.floats).unwrap_or_default();
                let name = self.names.fresh("scales");
                constants.push(tensor_f32(&name, &Tensor::new(&name, [scales.len()], scales)?));
                name
            }
        };
        node.op_type = "Resize".into();
        node.input.truncate(1);
        node.input.extend([String::new(), scales]);
        let with = Node::from(std::mem::take(node))
            .string("coordinate_transformation_mode", "asymmetric")
            .string("nearest_mode", "floor");
        *node = with.into();
        Ok(())
    }

    /// Before opset 13 all dimensions from the axis on counted as one.
    fn softmax(&mut self, mut node: NodeProto, out: &mut Vec<NodeProto>) -> Result<()> {
        let axis = node.int("axis").unwrap_or(1);
        let known = node.input.first().and_then(|input| self.known.get(input));
        let rank = known.and_then(Known::rank);
        let place = rank.and_then(|rank| {
            let place = if axis < 0 { axis.checked_add(i64::try_from(rank).ok()?)? } else { axis };
            usize::try_from(place).ok().filter(|&place| place < rank)
        });
        let one = |dim: &Option<usize>| *dim == Some(1);
        let alone = place.is_some_and(|place| {
            known.and_then(|k| k.dims.as_ref()).is_some_and(|dims| dims.iter().skip(place + 1).all(one))
        });
        if axis == -1 || alone {
            set_int(&mut node, "axis", axis);
            out.push(node);
            return Ok(());
        }
        let (Some(input), Some(output)) = (node.input.first().cloned(), node.output.first().cloned()) else {
            out.push(node);
            return Ok(());
        };
        let mut fresh = |part: &str| self.names.fresh(&format!("{output}.{part}"));
        let (shape, flat, soft) = (fresh("shape"), fresh("flat"), fresh("soft"));
        out.push(Node::new("Shape", [input.clone()], [shape.clone()]).into());
        out.push(Node::new("Flatten", [input], [flat.clone()]).int("axis", axis).into());
        node.input = vec![flat];
        node.output = vec![soft.clone()];
        set_int(&mut node, "axis", 1);
        let reshaped = Node::new("Reshape", [soft, shape], [output.clone()]).named(fresh("reshape"));
        out.push(node);
        out.push(reshaped.into());
        Ok(())
    }

    fn ints(&mut self, base: &str, values: Vec<i64>, constants: &mut Vec<TensorProto>) -> Result<String> {
        let name = self.names.fresh(base);
        constants.push(tensor_i64(&name, &Tensor::new(&name, [values.len()], values)?));
        Ok(name)
    }

    fn float(&mut self, base: &str, value: f32, constants: &mut Vec<TensorProto>) -> Result<String> {
        let name = self.names.fresh(base);
        constants.push(tensor_f32(&name, &Tensor::new(&name, [], vec![value])?));
        Ok(name)
    }
}

/// Without the empty names at the end.
fn trim(inputs: &mut Vec<String>) {
    while inputs.last().is_some_and(String::is_empty) {
        inputs.pop();
    }
}
