//! Models that another tool has quantised to 8 bits, in a form that the engine runs right and fast.
//!
//! The engine is slow on quantised operators, lacks most of ONNX Runtime's own, and is silently wrong on some forms. So
//! integers become floats that hold integers: weights stay 8-bit constants behind a `Cast`; a convolution of integers is
//! exact in floats as long as sums stay below 2^24, as they do; and `QuantizeLinear` becomes a product, a clamp, and the sum
//! with and difference to 1.5 * 2^23, which is rounding half to even as the standard wants, and which the engine does
//! on the way out of a matrix product. A scale travels with a value until an operator needs the real numbers, so that what
//! `DequantizeLinear` and the next `QuantizeLinear` multiply by is one product.
//!
//! With [`Options::float_activations`](super::Options::float_activations) activations are only clamped and not rounded.

mod emit;
mod held;
mod integer;
mod linear;

use std::collections::{HashMap, HashSet};

use tract_onnx::pb::{NodeProto, TensorProto};

use super::Changes;
use super::graph::{Names, is_standard};
use crate::{Attributes, DataType, Model, Result, Value, order};
use held::{Factor, Held, Ints, Source};

/// The domain of ONNX Runtime's own operators.
const MICROSOFT: &str = "com.microsoft";

/// Rewrites everything that is quantised.
pub(super) fn rewrite(model: &mut Model, float_activations: bool) -> Result<Changes> {
    let count = model.nodes().iter().filter(|node| is_quantised(node)).count() as u64;
    if count == 0 {
        return Ok(Changes::default());
    }
    let types =
        model.inputs().into_iter().filter_map(|Value { name, data_type, .. }| Some((name, data_type?)));
    let types = types.collect();
    let names = Names::of(model.graph());
    let outputs: Vec<String> = model.outputs().into_iter().map(|output| output.name).collect();
    let graph = model.graph_mut();
    let constants = std::mem::take(&mut graph.initializer).into_iter().map(|t| (t.name.clone(), t)).collect();
    let mut rewriter = Rewriter {
        names,
        constants,
        types,
        held: HashMap::new(),
        written: HashSet::new(),
        scalars: HashMap::new(),
        relus: HashMap::new(),
        named: 0,
        nodes: Vec::new(),
        made: Vec::new(),
        float_activations,
    };
    for node in std::mem::take(&mut graph.node) {
        rewriter.node(node)?;
    }
    for output in &outputs {
        rewriter.materialise(output)?;
    }
    let Rewriter { nodes, made, constants, .. } = rewriter;
    graph.node = nodes;
    graph.initializer.extend(constants.into_values());
    graph.initializer.extend(made);
    // The table of constants has no order of its own, and the same model always gives the same bytes.
    graph.initializer.sort_by(|a, b| a.name.cmp(&b.name));
    let mut notes = vec![format!("{count} quantised nodes run as floats that hold integers")];
    if float_activations {
        notes =
            vec![format!("{count} quantised nodes run as floats: activations are clamped and not rounded")];
    }
    Ok(Changes { count, notes })
}

/// Whether a node is there because of quantisation.
fn is_quantised(node: &NodeProto) -> bool {
    let op = node.op_type.as_str();
    let standard = matches!(
        op,
        "QuantizeLinear"
            | "DequantizeLinear"
            | "DynamicQuantizeLinear"
            | "QLinearConv"
            | "QLinearMatMul"
            | "ConvInteger"
            | "MatMulInteger"
    );
    (is_standard(node) && standard) || (node.domain == MICROSOFT && (standard || integer::is_composite(op)))
}

/// One walk over the nodes in their order.
struct Rewriter {
    names: Names,
    /// Initialisers of the model.
    constants: HashMap<String, TensorProto>,
    /// Types of inputs.
    types: HashMap<String, DataType>,
    /// Values that are not there as the model names them, but as something that stands for them.
    held: HashMap<String, Held>,
    /// What each Relu that stands in the graph reads.
    relus: HashMap<String, String>,
    /// Scalars that are written already, by their bits.
    scalars: HashMap<u32, String>,
    /// Names given so far: those of exporters can be hundreds of bytes long, and are not grown further.
    named: u64,
    /// Values that stand for something and are also there under their names.
    written: HashSet<String>,
    nodes: Vec<NodeProto>,
    made: Vec<TensorProto>,
    float_activations: bool,
}

impl Rewriter {
    fn node(&mut self, node: NodeProto) -> Result<()> {
        let done = match (node.domain.as_str(), node.op_type.as_str()) {
            ("" | "ai.onnx" | MICROSOFT, "DequantizeLinear") => self.dequantize(&node)?,
            ("" | "ai.onnx" | MICROSOFT, "QuantizeLinear") => self.quantize(&node)?,
            ("" | "ai.onnx", "DynamicQuantizeLinear") => self.dynamic(&node)?,
            ("" | "ai.onnx", "QLinearConv" | "QLinearMatMul" | "ConvInteger" | "MatMulInteger") => {
                self.integer(&node)?
            }
            (MICROSOFT, op) if integer::is_composite(op) => self.composite(&node)?,
            ("" | "ai.onnx", "Conv" | "MatMul" | "Gemm") => self.product(&node)?,
            ("" | "ai.onnx", "Add") => self.sum(&node)?,
            ("" | "ai.onnx", "Relu") => self.relu(&node),
            ("" | "ai.onnx", "Cast") => self.cast(&node),
            ("" | "ai.onnx", op) => self.moves(&node, op)?,
            _ => false,
        };
        if !done {
            for name in order::reads(&node).into_iter().map(str::to_owned).collect::<Vec<_>>() {
                self.materialise(&name)?;
            }
            if let ("Relu", [input], [output]) =
                (node.op_type.as_str(), node.input.as_slice(), node.output.as_slice())
            {
                self.relus.insert(output.clone(), input.clone());
            }
            self.nodes.push(node);
        }
        Ok(())
    }

    fn dequantize(&mut self, node: &NodeProto) -> Result<bool> {
        let [x, scale, ..] = node.input.as_slice() else { return Ok(false) };
        let zero = node.input.get(2).map_or("", String::as_str);
        if node.int("block_size").unwrap_or(0) != 0 {
            return self.blocked(node);
        }
        let Some(held) = self.real(x, scale, zero, node.int("axis").unwrap_or(1)) else { return Ok(false) };
        self.hold(node, held);
        Ok(true)
    }

    fn quantize(&mut self, node: &NodeProto) -> Result<bool> {
        let [x, scale, ..] = node.input.as_slice() else { return Ok(false) };
        let zero = node.input.get(2).map_or("", String::as_str);
        let held = self.view(x);
        let kind = node.int("output_dtype").filter(|&to| to != 0);
        let held = self.rounded(held, scale, zero, node.int("axis").unwrap_or(1), kind)?;
        let Some(held) = held else { return Ok(false) };
        self.hold(node, held);
        Ok(true)
    }

    /// A name for a value or constant made here.
    fn name(&mut self) -> String {
        self.named += 1;
        self.names.fresh(&format!("q{}", self.named))
    }

    /// Remembers what stands for the only output of a node.
    fn hold(&mut self, node: &NodeProto, held: Held) {
        if let Some(output) = node.output.first() {
            self.held.insert(output.clone(), held);
        }
    }

    fn relu(&mut self, node: &NodeProto) -> bool {
        let Some(held) = node.input.first().and_then(|input| self.held.get(input)) else { return false };
        if held.kind != DataType::Float || held.zero != 0 || !matches!(held.source, Source::Value(_)) {
            return false;
        }
        let held = Held { relu: true, ..held.clone() };
        self.hold(node, held);
        true
    }

    /// Real numbers of what a product of integers gave.
    fn cast(&mut self, node: &NodeProto) -> bool {
        let Some(held) = node.input.first().and_then(|input| self.held.get(input)) else { return false };
        if node.int("to") != Some(DataType::Float as i64) || held.zero != 0 || held.relu {
            return false;
        }
        let held = Held { kind: DataType::Float, ..held.clone() };
        self.hold(node, held);
        true
    }

    /// Operators that only move elements, take the largest, or average, do the same with what stands for a value.
    fn moves(&mut self, node: &NodeProto, op: &str) -> Result<bool> {
        let any = matches!(
            op,
            "Reshape"
                | "Flatten"
                | "Transpose"
                | "Squeeze"
                | "Unsqueeze"
                | "Slice"
                | "Gather"
                | "Identity"
                | "Expand"
                | "Tile"
                | "Split"
                | "DepthToSpace"
                | "SpaceToDepth"
                | "MaxPool"
                | "GlobalMaxPool"
        );
        let linear = matches!(op, "AveragePool" | "GlobalAveragePool" | "ReduceMean");
        let Some(held) = node.input.first().and_then(|input| self.held.get(input)).cloned() else {
            return Ok(false);
        };
        let real = held.kind == DataType::Float && held.zero == 0;
        let plain = matches!(held.factor, Factor::Scalar(_)) && matches!(held.source, Source::Value(_));
        let one_output = op == "Split" || node.output.len() == 1;
        let rest_plain = node.input.iter().skip(1).all(|input| !self.held.contains_key(input));
        if !plain || !one_output || !rest_plain || !(any || (linear && real)) {
            return Ok(false);
        }
        let name = self.without_relu(&held)?;
        let mut moved = node.clone();
        moved.input[0] = name;
        for output in &mut moved.output {
            let stands = self.name();
            let whole = held.whole && !linear;
            let held = Held { source: Source::Value(stands.clone()), relu: false, whole, ..held.clone() };
            self.held.insert(std::mem::replace(output, stands), held);
        }
        moved.name = moved.output[0].clone();
        self.nodes.push(moved);
        Ok(true)
    }

    /// The constant of this name as integers less their zero points, with the scale beside them.
    fn constant(&self, name: &str) -> Option<Ints> {
        Ints::read(self.constants.get(name)?)
    }
}
