//! Products and sums of what stands for values.

use tract_onnx::pb::NodeProto;

use super::{Factor, Held, Rewriter, Source};
use crate::{Attributes, DataType, Node, Result, tensor};

/// How far, relatively, the scale of a bias may be from the product of the other two to count as the same.
const SAME_SCALE: f32 = 1e-3;

impl Rewriter {
    /// `Conv`, `MatMul` or `Gemm` in a model with quantised parts.
    pub(super) fn product(&mut self, node: &NodeProto) -> Result<bool> {
        let [x, w, ..] = node.input.as_slice() else { return Ok(false) };
        let (Some(x), Some(w)) = (self.held.get(x).cloned(), self.held.get(w).cloned()) else {
            return Ok(false);
        };
        let bias = node.input.get(2).filter(|bias| !bias.is_empty()).cloned();
        let Some(held) = self.whole_product(node, &x, &w, bias.as_deref())? else { return Ok(false) };
        self.hold(node, held);
        Ok(true)
    }

    /// A product of integers, where the input has one scale and the weight is a constant with one a channel.
    pub(super) fn whole_product(
        &mut self,
        node: &NodeProto,
        x: &Held,
        w: &Held,
        bias: Option<&str>,
    ) -> Result<Option<Held>> {
        let (Factor::Scalar(scale), Source::Value(_), Source::Ints(ints)) = (&x.factor, &x.source, &w.source)
        else {
            return Ok(None);
        };
        // Without rounding there are no integers to be exact about, and scales go into the weights.
        if x.zero != 0 || w.zero != 0 || (self.float_activations && !x.whole) {
            return Ok(None);
        }
        let rank = ints.dims.len();
        let (channel, dims) = match node.op_type.as_str() {
            "Conv" | "QLinearConv" | "ConvInteger" if rank > 2 => {
                let mut dims = vec![ints.dims[0]];
                dims.extend(std::iter::repeat_n(1, rank - 2));
                (0, dims)
            }
            "MatMul" | "QLinearMatMul" | "MatMulInteger" if rank == 2 => (1, vec![ints.dims[1]]),
            "Gemm" if rank == 2 && plain_gemm(node) => {
                let channel = usize::from(node.int("transB").unwrap_or(0) == 0);
                (channel, vec![ints.dims[channel]])
            }
            _ => return Ok(None),
        };
        let factor = match &w.factor {
            Factor::Scalar(w) => Factor::Scalar(scale * w),
            Factor::Channels { values, axis, .. } if *axis == channel => {
                Factor::Channels { values: values.iter().map(|w| scale * w).collect(), dims, axis: 1 }
            }
            Factor::Channels { .. } => return Ok(None),
        };
        let outputs = ints.dims[channel];
        let bias = match bias {
            None => None,
            Some(bias) => match self.in_units(bias, &factor, outputs) {
                Some(bias) => Some(bias),
                None => return Ok(None),
            },
        };
        let source = self.without_relu(x)?;
        let weight = self.constant_value(&ints.clone())?;
        let mut product = node.clone();
        product.op_type = match node.op_type.as_str() {
            "QLinearConv" | "ConvInteger" => "Conv".into(),
            "QLinearMatMul" | "MatMulInteger" => "MatMul".into(),
            other => other.into(),
        };
        let output = self.name();
        product.input = vec![source, weight];
        if let Some(bias) = bias {
            product.input.push(self.floats(&[outputs], bias)?);
        }
        product.output = vec![output.clone()];
        product.name.clone_from(&output);
        self.nodes.push(product);
        Ok(Some(Held { source: Source::Value(output), factor, ..Held::plain("") }))
    }

    /// A constant row in units of the factor.
    fn in_units(&self, name: &str, factor: &Factor, outputs: usize) -> Option<Vec<f32>> {
        if let Some(Held { source: Source::Ints(ints), factor: own, zero: 0, .. }) = self.held.get(name) {
            let unit = |place: usize, value: i32| {
                let (own, wanted) = (own.at(place)?, factor.at(place)?);
                let ratio = own / wanted;
                Some(if (ratio - 1.0).abs() < SAME_SCALE { value as f32 } else { value as f32 * ratio })
            };
            let row = ints.data.len() == outputs;
            return row.then(|| ints.data.iter().enumerate().map(|(at, &v)| unit(at, v)).collect()).flatten();
        }
        let real = tensor::read_f32(self.constants.get(name)?).ok()?.data;
        let unit = |(place, value): (usize, &f32)| Some(value / factor.at(place)?);
        (real.len() == outputs).then(|| real.iter().enumerate().map(unit).collect()).flatten()
    }

    /// `Add`: a bias in the units of the product before it, or two values of which one takes the scale of the other.
    pub(super) fn sum(&mut self, node: &NodeProto) -> Result<bool> {
        let [a, b] = node.input.as_slice() else { return Ok(false) };
        for (product, bias) in [(a, b), (b, a)] {
            let Some(held) = self.held.get(product).cloned() else { continue };
            let real =
                held.zero == 0 && held.kind == DataType::Float && matches!(held.source, Source::Value(_));
            let Some(dims) = self.constant_dims(bias).filter(|_| real) else { continue };
            // Of channels, rows only: those of pictures are not the last axis.
            let fits = match &held.factor {
                Factor::Scalar(_) => !held.factor.is_one(),
                Factor::Channels { dims: outputs, .. } => outputs.len() == 1 && dims == *outputs,
            };
            if let Some(units) = self.in_units(bias, &held.factor, dims.iter().product()).filter(|_| fits) {
                let source = self.without_relu(&held)?;
                let bias = self.floats(&dims, units)?;
                let stands = self.name();
                self.push(Node::new("Add", [source, bias], [stands.clone()]));
                self.hold(node, Held { source: Source::Value(stands), relu: false, ..held });
                return Ok(true);
            }
        }
        if let (Some(x), Some(y)) = (self.held.get(a).cloned(), self.held.get(b).cloned()) {
            let scaled = |held: &Held| match (&held.factor, &held.source) {
                (Factor::Scalar(factor), Source::Value(_))
                    if held.zero == 0 && held.kind == DataType::Float =>
                {
                    Some(*factor)
                }
                _ => None,
            };
            if let (Some(fx), Some(fy)) = (scaled(&x), scaled(&y)) {
                let (nx, ny) = (self.without_relu(&x)?, self.without_relu(&y)?);
                let ratio = Factor::Scalar(fx / fy);
                let nx = if ratio.is_one() { nx } else { self.with("Mul", &nx, &ratio)? };
                let stands = self.name();
                self.push(Node::new("Add", [nx, ny], [stands.clone()]));
                self.hold(node, Held { factor: y.factor, ..Held::plain(&stands) });
                return Ok(true);
            }
        }
        Ok(false)
    }

    fn constant_dims(&self, name: &str) -> Option<Vec<usize>> {
        if let Some(Held { source: Source::Ints(ints), .. }) = self.held.get(name) {
            return Some(ints.dims.clone());
        }
        tensor::check(self.constants.get(name)?).ok()
    }
}

fn plain_gemm(node: &NodeProto) -> bool {
    node.float("alpha").unwrap_or(1.0) == 1.0
        && node.float("beta").unwrap_or(1.0) == 1.0
        && node.int("transA").unwrap_or(0) == 0
}
