//! Operators on integers: those of the standard, and those that ONNX Runtime's own quantiser writes.

use std::rc::Rc;

use tract_onnx::pb::NodeProto;

use super::{Factor, Held, Rewriter, Source};
use crate::{Attributes, DataType, Node, Result};

/// ONNX Runtime's own operators that are rewritten: each is a float operator between scales.
pub(super) fn is_composite(op: &str) -> bool {
    matches!(
        op,
        "QLinearAdd"
            | "QLinearMul"
            | "QLinearAveragePool"
            | "QLinearGlobalAveragePool"
            | "QLinearSigmoid"
            | "QLinearLeakyRelu"
            | "QLinearSoftmax"
            | "QLinearConcat"
            | "QGemm"
    )
}

impl Rewriter {
    /// `QLinearConv`, `QLinearMatMul`, `ConvInteger` and `MatMulInteger`.
    pub(super) fn integer(&mut self, node: &NodeProto) -> Result<bool> {
        let input = |place: usize| text(node, place);
        if node.op_type == "QLinearConv" || node.op_type == "QLinearMatMul" {
            let conv = node.op_type == "QLinearConv";
            let x = self.real(input(0), input(1), input(2), 1);
            let w = self.real(input(3), input(4), input(5), i64::from(!conv));
            let (Some(x), Some(w)) = (x, w) else { return Ok(false) };
            let bias = if conv && !input(8).is_empty() { self.bias(input(8), &x, &w) } else { None };
            let held = self.any_product(node, &x, &w, bias.as_deref())?;
            return self.finish(node, held, input(6), input(7));
        }
        let x = self.view_ints(input(0), DataType::Uint8);
        let w = self.view_ints(input(1), DataType::Int8);
        let (Some(x), Some(w)) = (self.less_zero(x, input(2))?, self.less_zero(w, input(3))?) else {
            return Ok(false);
        };
        let held = self.any_product(node, &x, &w, None)?;
        self.hold(node, Held { kind: DataType::Int32, whole: true, ..held });
        Ok(true)
    }

    /// A product on integers if that can be, and on real numbers if not.
    fn any_product(&mut self, node: &NodeProto, x: &Held, w: &Held, bias: Option<&str>) -> Result<Held> {
        if let Some(held) = self.whole_product(node, x, w, bias)? {
            return Ok(held);
        }
        let mut inputs = vec![self.spelled(x.clone())?, self.spelled(w.clone())?];
        if let Some(bias) = bias {
            self.materialise(bias)?;
            inputs.push(bias.into());
        }
        let op = match node.op_type.as_str() {
            "QLinearConv" | "ConvInteger" => "Conv",
            "QGemm" | "Gemm" => "Gemm",
            _ => "MatMul",
        };
        let mut product = node.clone();
        let output = self.name();
        product.op_type = op.into();
        product.domain = String::new();
        product.input = inputs;
        product.output = vec![output.clone()];
        product.name.clone_from(&output);
        self.nodes.push(product);
        Ok(Held::plain(&output))
    }

    /// A bias of integers, whose scale is the product of the other two; the name under which it is held.
    fn bias(&mut self, name: &str, x: &Held, w: &Held) -> Option<String> {
        let ints = self.constant(name)?;
        let Factor::Scalar(scale) = x.factor else { return None };
        let factor = match w.factor.map(|w| w * scale) {
            Factor::Channels { values, .. } => Factor::Channels { dims: vec![values.len()], values, axis: 0 },
            scalar => scalar,
        };
        let held = Held { source: Source::Ints(Rc::new(ints)), factor, ..Held::plain("") };
        let bias = self.name();
        self.held.insert(bias.clone(), held);
        Some(bias)
    }

    /// What stands for integers less their zero point.
    fn less_zero(&mut self, held: Held, zero: &str) -> Result<Option<Held>> {
        if zero.is_empty() {
            return Ok(Some(held));
        }
        if let Some(zeros) = self.constant(zero).filter(|_| !self.held.contains_key(zero)) {
            return Ok(match (&held.source, zeros.data.as_slice()) {
                (Source::Ints(ints), zeros) => {
                    let axis = if ints.dims.len() == 2 { 1 } else { 0 };
                    ints.less(zeros, axis)
                        .map(|less| Held { source: Source::Ints(Rc::new(less)), ..held.clone() })
                }
                (Source::Value(_), [zero]) if held.zero == i64::from(*zero) => Some(Held { zero: 0, ..held }),
                (Source::Value(_), [zero]) => {
                    let shifted = self.shifted(&held, (held.zero - i64::from(*zero)) as f32)?;
                    Some(Held::whole(shifted, held.kind))
                }
                _ => None,
            });
        }
        // A zero point that is computed for every input.
        let zero = self.view_ints(zero, held.kind);
        let whole = |held: &Held| held.zero == 0 && held.factor.is_one();
        if !whole(&held) || !whole(&zero) {
            return Ok(None);
        }
        let (name, zero) = (self.without_relu(&held)?, self.without_relu(&zero)?);
        let output = self.name();
        self.push(Node::new("Sub", [name, zero], [output.clone()]));
        Ok(Some(Held::whole(output, held.kind)))
    }

    /// `DynamicQuantizeLinear`: the grid of 8 bits that just holds the input and zero.
    pub(super) fn dynamic(&mut self, node: &NodeProto) -> Result<bool> {
        let ([x], [y, scale, zero]) = (node.input.as_slice(), node.output.as_slice()) else {
            return Ok(false);
        };
        self.materialise(x)?;
        let number = |s: &mut Self, value: f32| s.floats(&[], vec![value]);
        let (none, steps) = (number(self, 0.0)?, number(self, 255.0)?);
        let op = |s: &mut Self, op: &str, inputs: &[&str]| {
            let output = s.name();
            let node = Node::new(op, inputs.iter().copied(), [output.clone()]);
            s.push(if op.starts_with("Reduce") { node.int("keepdims", 0) } else { node });
            output
        };
        let least = op(self, "ReduceMin", &[x]);
        let least = op(self, "Min", &[&least, &none]);
        let most = op(self, "ReduceMax", &[x]);
        let most = op(self, "Max", &[&most, &none]);
        let span = op(self, "Sub", &[&most, &least]);
        let step = op(self, "Div", &[&span, &steps]);
        // An input of zeros only has no span; any step will do.
        let flat = op(self, "Equal", &[&step, &none]);
        let one = self.name();
        self.push(Node::new("Cast", [flat], [one.clone()]).int("to", DataType::Float as i64));
        self.push(Node::new("Add", [step, one], [scale.clone()]));
        let below = op(self, "Div", &[&least, scale]);
        let below = op(self, "Sub", &[&none, &below]);
        let clamp = |s: &mut Self, name: &str| {
            let output = s.name();
            s.push(Node::new("Clip", [name, &none, &steps], [output.clone()]));
            output
        };
        let below = clamp(self, &below);
        let zero_point = op(self, "Round", &[&below]);
        let scaled = op(self, "Div", &[x, scale]);
        let rounded = op(self, "Round", &[&scaled]);
        let shifted = op(self, "Add", &[&rounded, &zero_point]);
        let whole = clamp(self, &shifted);
        self.held.insert(y.clone(), Held::whole(whole, DataType::Uint8));
        self.held.insert(zero.clone(), Held::whole(zero_point, DataType::Uint8));
        Ok(true)
    }

    /// ONNX Runtime's own operators.
    pub(super) fn composite(&mut self, node: &NodeProto) -> Result<bool> {
        let input = |place: usize| text(node, place);
        let real = |s: &mut Self, at: usize| s.real(input(at), input(at + 1), input(at + 2), 1);
        match node.op_type.as_str() {
            "QLinearAdd" | "QLinearMul" => {
                let (Some(x), Some(y)) = (real(self, 0), real(self, 3)) else { return Ok(false) };
                let op = node.op_type.trim_start_matches("QLinear");
                let held = self.two(op, x, y)?;
                self.finish(node, held, input(6), input(7))
            }
            "QLinearConcat" => {
                let mut parts = Vec::new();
                for at in (2..node.input.len()).step_by(3) {
                    let Some(part) = real(self, at) else { return Ok(false) };
                    parts.push(self.spelled(part)?);
                }
                let name = self.name();
                self.push(
                    Node::new("Concat", parts, [name.clone()]).int("axis", node.int("axis").unwrap_or(0)),
                );
                self.finish(node, Held::plain(&name), input(0), input(1))
            }
            "QGemm" => self.gemm(node),
            op => {
                let standard = node.int("opset").unwrap_or(13) >= 13 || node.int("axis") == Some(-1);
                if node.int("channels_last").unwrap_or(0) != 0 || (op == "QLinearSoftmax" && !standard) {
                    return Ok(false);
                }
                let Some(x) = real(self, 0) else { return Ok(false) };
                let x = self.spelled(x)?;
                let name = self.name();
                let mut inner = NodeProto {
                    op_type: op.trim_start_matches("QLinear").into(),
                    domain: String::new(),
                    input: vec![x],
                    output: vec![name.clone()],
                    name: name.clone(),
                    ..node.clone()
                };
                inner.attribute.retain(|a| a.name != "channels_last" && a.name != "opset");
                self.nodes.push(inner);
                self.finish(node, Held::plain(&name), input(3), input(4))
            }
        }
    }

    fn gemm(&mut self, node: &NodeProto) -> Result<bool> {
        let input = |place: usize| text(node, place);
        let columns = i64::from(node.int("transB").unwrap_or(0) == 0);
        let (x, w) =
            (self.real(input(0), input(1), input(2), 1), self.real(input(3), input(4), input(5), columns));
        let (Some(x), Some(w), true) = (x, w, node.float("alpha").unwrap_or(1.0) == 1.0) else {
            return Ok(false);
        };
        let bias = if input(6).is_empty() { None } else { self.bias(input(6), &x, &w) };
        let plain = NodeProto { op_type: "Gemm".into(), domain: String::new(), ..node.clone() };
        let held = self.any_product(&plain, &x, &w, bias.as_deref())?;
        if input(7).is_empty() {
            self.hold(node, held);
            return Ok(true);
        }
        self.finish(node, held, input(7), input(8))
    }

    /// A sum or product of two real values.
    fn two(&mut self, op: &str, x: Held, y: Held) -> Result<Held> {
        let name = self.name();
        if op == "Add" {
            let (a, b) = (self.name(), self.name());
            self.held.insert(a.clone(), x.clone());
            self.held.insert(b.clone(), y.clone());
            let node = Node::new("Add", [a, b], [name.clone()]).into();
            if self.sum(&node)?
                && let Some(held) = self.held.remove(&name)
            {
                return Ok(held);
            }
        }
        let inputs = [self.spelled(x)?, self.spelled(y)?];
        self.push(Node::new(op, inputs, [name.clone()]));
        Ok(Held::plain(&name))
    }

    /// Puts the result on its grid.
    fn finish(&mut self, node: &NodeProto, held: Held, scale: &str, zero: &str) -> Result<bool> {
        let Some(held) = self.rounded(held, scale, zero, 1, None)? else { return Ok(false) };
        self.hold(node, held);
        Ok(true)
    }

    /// A value's real numbers under a name of their own.
    fn spelled(&mut self, held: Held) -> Result<String> {
        let held = Held { kind: DataType::Float, ..held };
        let name = self.name();
        self.held.insert(name.clone(), held);
        self.materialise(&name)?;
        Ok(name)
    }
}

fn text(node: &NodeProto, place: usize) -> &str {
    node.input.get(place).map_or("", String::as_str)
}
