//! Which tensors of a model are weights that can be stored in a smaller form, and along which axis their channels lie.

use std::collections::{HashMap, HashSet};
use std::fmt;

use flotilla_onnx::pb::{NodeProto, TensorProto};
use flotilla_onnx::{Attributes, DataType, Model, is_standard_domain};
use serde::{Deserialize, Serialize};

/// Operators that an input is followed through at most.
const MAX_STEPS: usize = 8;

/// A weight tensor of a model: a constant that a layer reads.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Site {
    /// Name of the tensor.
    pub(crate) name: String,
    /// Operator of the first layer that reads it.
    pub(crate) op: String,
    /// Names of the layers that read it; a layer without a name is called after its output.
    pub(crate) nodes: Vec<String>,
    /// Axis of the output channels.
    pub(crate) axis: usize,
    /// Elements of the tensor.
    pub(crate) elements: u64,
}

/// A weight that stays as it is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Skipped {
    /// Name of the tensor.
    pub name: String,
    /// Operator that reads it.
    pub op: String,
    /// Elements of the tensor; zero where it is no constant.
    pub elements: u64,
    /// Why.
    pub reason: SkipReason,
}

/// Why a weight stays as it is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SkipReason {
    /// It has fewer elements than the recipe asks for.
    TooSmall,
    /// With its scales it would take as much room as before.
    NoGain,
    /// The recipe says so.
    KeptFloat,
    /// Its elements are not 32-bit floats, as in a model that is compressed already.
    ElementType(String),
    /// Another operator computes it, so there is no constant to store.
    Computed(String),
    /// It has no axis of output channels.
    NoChannels,
    /// It is an output of the model as well.
    Output,
    /// The form cannot hold a weight of this shape, or that is read in this way.
    Shape,
    /// Its elements are too large for the form.
    Range,
}

impl fmt::Display for SkipReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::TooSmall => f.write_str("has too few elements"),
            Self::NoGain => f.write_str("would not get smaller"),
            Self::KeptFloat => f.write_str("is kept in f32 by the recipe"),
            Self::ElementType(found) => write!(f, "has elements of type {found}"),
            Self::Computed(op) => write!(f, "is computed by {op}"),
            Self::NoChannels => f.write_str("has no axis of output channels"),
            Self::Output => f.write_str("is an output of the model"),
            Self::Shape => f.write_str("has a shape that the form cannot hold"),
            Self::Range => f.write_str("has elements that are too large for the form"),
        }
    }
}

/// The weights of a model, in the order in which they are read, each once.
#[derive(Debug, Default)]
pub(crate) struct Weights {
    pub(crate) sites: Vec<Site>,
    pub(crate) skipped: Vec<Skipped>,
}

/// Finds the weights of a model that have at least so many elements.
///
/// A tensor that several layers read has the channels of the first: with the other layers the scales are then finer
/// or coarser than needed, never wrong.
pub(crate) fn find(model: &Model, min_elements: u64) -> Weights {
    let index = Index::new(model);
    let mut weights = Weights::default();
    let mut sites: HashMap<&str, usize> = HashMap::new();
    let mut skipped: HashSet<&str> = HashSet::new();
    for node in model.nodes() {
        for (input, operand) in operands(node) {
            let (name, verdict) = match index.resolve(input, operand.axis) {
                Resolved::Constant(name, tensor, axis) => {
                    (name, index.judge(tensor, name, axis, min_elements))
                }
                Resolved::Computed(op) if operand.weight => {
                    (input, Err((0, SkipReason::Computed(op.into()))))
                }
                _ => continue,
            };
            match verdict {
                Ok(_) if sites.contains_key(name) => weights.sites[sites[name]].nodes.push(label(node)),
                Ok((axis, elements)) => {
                    sites.insert(name, weights.sites.len());
                    let (name, op, nodes) = (name.into(), node.op_type.clone(), vec![label(node)]);
                    weights.sites.push(Site { name, op, nodes, axis, elements });
                }
                Err((elements, reason)) => {
                    if skipped.insert(name) {
                        let (name, op) = (name.into(), node.op_type.clone());
                        weights.skipped.push(Skipped { name, op, elements, reason });
                    }
                }
            }
        }
    }
    weights
}

fn label(node: &NodeProto) -> String {
    let output = || node.output.first().cloned().unwrap_or_default();
    if node.name.is_empty() { output() } else { node.name.clone() }
}

/// An axis, whatever the rank.
#[derive(Clone, Copy, PartialEq)]
enum Axis {
    First,
    SecondLast,
    Last,
}

/// An input of a layer that may be a weight.
#[derive(Clone, Copy)]
struct Operand {
    /// Where its output channels lie.
    axis: Axis,
    /// Whether it is a weight in any case, not perhaps an activation.
    weight: bool,
}

/// The inputs of a node that may be weights.
fn operands(node: &NodeProto) -> impl Iterator<Item = (&str, Operand)> {
    let standard = is_standard_domain(&node.domain);
    let transposed = |attribute| node.int(attribute).unwrap_or_default() != 0;
    let weight = |axis| Some(Operand { axis, weight: true });
    let perhaps = |axis| Some(Operand { axis, weight: false });
    let operands = match node.op_type.as_str() {
        "Conv" if standard => [None, weight(Axis::First)],
        // [M, K] x [K, N]: the output channels are the columns of the second operand, or the rows of the first.
        "Gemm" if standard => [
            perhaps(if transposed("transA") { Axis::Last } else { Axis::SecondLast }),
            weight(if transposed("transB") { Axis::First } else { Axis::Last }),
        ],
        "MatMul" if standard => [perhaps(Axis::SecondLast), perhaps(Axis::Last)],
        _ => [None, None],
    };
    let inputs = node.input.iter().map(String::as_str).zip(operands);
    inputs.filter(|(name, _)| !name.is_empty()).filter_map(|(name, operand)| Some((name, operand?)))
}

/// What stands behind the input of a layer.
enum Resolved<'a> {
    /// A constant of this name, with its channels on this axis.
    Constant(&'a str, &'a TensorProto, Axis),
    /// What this operator computes.
    Computed(&'a str),
    /// An input of the model.
    Input,
}

/// The model's names, looked up once.
struct Index<'a> {
    constants: HashMap<&'a str, &'a TensorProto>,
    makers: HashMap<&'a str, &'a NodeProto>,
    outputs: HashSet<&'a str>,
}

impl<'a> Index<'a> {
    fn new(model: &'a Model) -> Self {
        let mut index = Self {
            constants: model.initializers().iter().map(|t| (t.name.as_str(), t)).collect(),
            makers: HashMap::new(),
            outputs: model.graph().output.iter().map(|output| output.name.as_str()).collect(),
        };
        for node in model.nodes() {
            let outputs = node.output.iter().map(String::as_str);
            match node.tensor("value") {
                Some(tensor) if node.op_type == "Constant" => {
                    index.constants.extend(outputs.map(|name| (name, tensor)));
                }
                _ => index.makers.extend(outputs.map(|name| (name, node))),
            }
        }
        index
    }

    /// Follows an input to the constant that it is or, through `Identity` and `Reshape`, was.
    fn resolve(&self, input: &'a str, axis: Axis) -> Resolved<'a> {
        let mut name = input;
        for _ in 0..MAX_STEPS {
            if let Some(tensor) = self.constants.get(name) {
                return Resolved::Constant(name, tensor, axis);
            }
            let Some(maker) = self.makers.get(name) else { return Resolved::Input };
            name = match (maker.op_type.as_str(), maker.input.first()) {
                ("Identity", Some(source)) => source,
                // Merging or splitting the other axes leaves the outermost and the innermost where they are.
                ("Reshape", Some(source)) if axis != Axis::SecondLast => source,
                (op, _) => return Resolved::Computed(op),
            };
        }
        Resolved::Computed("Identity")
    }

    /// The axis of a constant's channels and its number of elements, or its number of elements and why it stays.
    fn judge(
        &self,
        tensor: &TensorProto,
        name: &str,
        axis: Axis,
        min_elements: u64,
    ) -> Result<(usize, u64), (u64, SkipReason)> {
        let dims = tensor.dims.iter().map(|&d| u64::try_from(d).unwrap_or_default());
        let elements = dims.fold(1, u64::saturating_mul);
        let skip = |reason| Err((elements, reason));
        if tensor.data_type != DataType::Float as i32 {
            let known = DataType::try_from(tensor.data_type).unwrap_or(DataType::Undefined);
            return skip(SkipReason::ElementType(known.as_str_name().to_lowercase()));
        }
        let rank = tensor.dims.len();
        if rank < 2 {
            return skip(SkipReason::NoChannels);
        }
        if elements < min_elements {
            return skip(SkipReason::TooSmall);
        }
        if self.outputs.contains(name) {
            return skip(SkipReason::Output);
        }
        let axis = match axis {
            Axis::First => 0,
            Axis::SecondLast => rank - 2,
            Axis::Last => rank - 1,
        };
        Ok((axis, elements))
    }
}
