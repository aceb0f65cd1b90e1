//! Writing what stands for values: scales, rounding, and constants.

use std::rc::Rc;

use tract_onnx::pb::{NodeProto, TensorProto};

use super::held::range;
use super::{Factor, Held, Ints, Rewriter, Source};
use crate::{Attributes, DataType, Node, Result, Tensor, tensor, tensor_f32, tensor_i8};

/// Adding and subtracting this rounds a float below 2^22 half to even: the sum has no place for a fraction.
const ROUND: f32 = 12_582_912.0;

/// Constants up to this many elements are written as floats.
const SMALL: usize = 256;

/// Scale and zero point of a quantised value.
struct Grid {
    scales: Vec<f32>,
    zeros: Vec<i32>,
    /// The type of the zero point; none where there is none.
    kind: Option<DataType>,
}

impl Rewriter {
    pub(super) fn push(&mut self, node: Node) {
        self.nodes.push(node.into());
    }

    pub(super) fn floats(&mut self, dims: &[usize], values: Vec<f32>) -> Result<String> {
        let scalar = if dims.is_empty() { values.first().map(|value| value.to_bits()) } else { None };
        if let Some(name) = scalar.and_then(|bits| self.scalars.get(&bits)) {
            return Ok(name.clone());
        }
        let name = self.name();
        self.made.push(tensor_f32(&name, &Tensor::new(&name, dims, values)?));
        if let Some(bits) = scalar {
            self.scalars.insert(bits, name.clone());
        }
        Ok(name)
    }

    /// A node of two inputs, of which the second is a constant.
    pub(super) fn with(&mut self, op: &str, name: &str, factor: &Factor) -> Result<String> {
        let (dims, values): (&[usize], _) = match factor {
            Factor::Scalar(value) => (&[], vec![*value]),
            Factor::Channels { values, dims, .. } => (dims, values.clone()),
        };
        let constant = self.floats(dims, values)?;
        let output = self.name();
        self.push(Node::new(op, [name, &constant], [output.clone()]));
        Ok(output)
    }

    /// Scale and zero point, where both are constants that make sense.
    fn grid(&self, scale: &str, zero: &str) -> Option<Grid> {
        let scales = tensor::read_f32(self.constants.get(scale)?).ok()?.data;
        let usable = |scale: &f32| scale.is_finite() && *scale > 0.0;
        if scales.is_empty() || !scales.iter().all(usable) {
            return None;
        }
        if zero.is_empty() {
            return Some(Grid { scales, zeros: vec![0], kind: None });
        }
        let proto = self.constants.get(zero)?;
        let zeros = Ints::read(proto)?.data;
        let fits = zeros.len() == scales.len() || zeros.len() == 1;
        fits.then(|| Grid { scales, zeros, kind: DataType::try_from(proto.data_type).ok() })
    }

    /// What stands for a value: floats as they are, integers as floats.
    pub(super) fn view(&mut self, name: &str) -> Held {
        if let Some(held) = self.held.get(name) {
            return held.clone();
        }
        let kind = self.types.get(name).copied();
        match kind {
            Some(kind) if kind != DataType::Float => self.view_ints(name, kind),
            _ => Held::plain(name),
        }
    }

    /// What stands for a value of integers.
    pub(super) fn view_ints(&mut self, name: &str, kind: DataType) -> Held {
        if let Some(held) = self.held.get(name) {
            return held.clone();
        }
        let held = match self.constant(name) {
            Some(ints) => Held { source: Source::Ints(Rc::new(ints)), ..Held::whole(String::new(), kind) },
            None => {
                let output = self.name();
                self.push(Node::new("Cast", [name], [output.clone()]).int("to", DataType::Float as i64));
                Held::whole(output, kind)
            }
        };
        self.held.insert(name.into(), held.clone());
        held
    }

    /// The real numbers of a quantised value.
    pub(super) fn real(&mut self, x: &str, scale: &str, zero: &str, axis: i64) -> Option<Held> {
        let grid = self.grid(scale, zero)?;
        if let Some(ints) = self.constant(x).filter(|_| !self.held.contains_key(x)) {
            return constant_real(&ints, &grid, axis);
        }
        let kind = grid.kind.unwrap_or(DataType::Uint8);
        let ([scale], [zero]) = (grid.scales.as_slice(), grid.zeros.as_slice()) else { return None };
        let held = self.view_ints(x, kind);
        if matches!(held.source, Source::Ints(_)) || held.relu {
            return None;
        }
        let factor =
            if held.scale == Some(*scale) { Factor::Scalar(1.0) } else { held.factor.map(|f| f * scale) };
        let off = held.zero - i64::from(*zero);
        if off == 0 {
            return Some(Held { factor, zero: 0, kind: DataType::Float, whole: false, scale: None, ..held });
        }
        // Another zero point than the value was made with: what is off is added before the scale.
        let shifted = self.shifted(&held, off as f32).ok()?;
        let factor = Factor::Scalar(*scale);
        Some(Held { source: Source::Value(shifted), factor, ..Held::plain("") })
    }

    /// The elements with their factor applied and something added.
    pub(super) fn shifted(&mut self, held: &Held, off: f32) -> Result<String> {
        let base = self.without_relu(held)?;
        let scaled = if held.factor.is_one() { base.clone() } else { self.with("Mul", &base, &held.factor)? };
        self.with("Add", &scaled, &Factor::Scalar(off))
    }

    /// Weights with a scale for every few elements: their real numbers, for the engine knows no blocks.
    pub(super) fn blocked(&mut self, node: &NodeProto) -> Result<bool> {
        let ([x, scale, ..], [output]) = (node.input.as_slice(), node.output.as_slice()) else {
            return Ok(false);
        };
        let zero = node.input.get(2).map_or("", String::as_str);
        let (Some(ints), Some(grid)) = (self.constant(x), self.grid(scale, zero)) else { return Ok(false) };
        let block = node.int("block_size").and_then(|size| usize::try_from(size).ok());
        let Some(values) =
            block.and_then(|block| in_blocks(&ints, &grid, block, node.int("axis").unwrap_or(1)))
        else {
            return Ok(false);
        };
        let name = self.floats(&ints.dims, values)?;
        self.held.insert(output.clone(), Held::plain(&name));
        Ok(true)
    }

    /// A real value on the grid of a quantised one; none where the grid is not constant.
    pub(super) fn rounded(
        &mut self,
        held: Held,
        scale: &str,
        zero: &str,
        axis: i64,
        kind: Option<i64>,
    ) -> Result<Option<Held>> {
        let Some(grid) = self.grid(scale, zero) else { return Ok(None) };
        let asked = kind.and_then(|to| DataType::try_from(i32::try_from(to).ok()?).ok());
        let kind = grid.kind.or(asked).unwrap_or(DataType::Uint8);
        let (Some((low, high)), [scale], [zero]) =
            (range(kind), grid.scales.as_slice(), grid.zeros.as_slice())
        else {
            return self.rounded_by_channel(&held, &grid, kind, axis);
        };
        if held.zero != 0 || matches!(held.source, Source::Ints(_)) {
            return Ok(None);
        }
        let (scale, zero) = (*scale, i64::from(*zero));
        let (low, high) = (low - zero, high - zero);
        // What is clamped to positive numbers anyway needs no Relu before.
        let name = match &held.source {
            Source::Value(name) if low >= 0 => self.relus.get(name).unwrap_or(name).clone(),
            _ => self.without_relu(&held)?,
        };
        if self.float_activations {
            let real = if held.factor.is_one() { name } else { self.with("Mul", &name, &held.factor)? };
            let clamped = self.clamp(&real, low as f32 * scale, high as f32 * scale)?;
            let factor = Factor::Scalar(1.0 / scale);
            return Ok(Some(Held { factor, zero, kind, scale: Some(scale), ..Held::plain(&clamped) }));
        }
        let factor = held.factor.map(|f| f / scale);
        let scaled = if factor.is_one() { name } else { self.with("Mul", &name, &factor)? };
        let clamped = self.clamp(&scaled, low as f32, high as f32)?;
        let whole = self.round(&clamped)?;
        Ok(Some(Held { zero, ..Held::whole(whole, kind) }))
    }

    /// The same with a grid of its own for each channel.
    fn rounded_by_channel(
        &mut self,
        held: &Held,
        grid: &Grid,
        kind: DataType,
        axis: i64,
    ) -> Result<Option<Held>> {
        // Broadcasting needs the number of dimensions, which pictures and rows have by their layout.
        let after = match usize::try_from(axis) {
            Ok(1) => 2,
            _ => return Ok(None),
        };
        let Some((low, high)) = range(kind) else { return Ok(None) };
        if held.zero != 0 || !held.factor.is_one() || matches!(held.source, Source::Ints(_)) {
            return Ok(None);
        }
        let name = self.without_relu(held)?;
        let mut dims = vec![grid.scales.len()];
        dims.extend(std::iter::repeat_n(1, after));
        let channels = |values: Vec<f32>| Factor::Channels { values, dims: dims.clone(), axis: 1 };
        let scales = channels(grid.scales.iter().map(|scale| 1.0 / scale).collect());
        let zeros: Vec<f32> = (0..grid.scales.len())
            .map(|place| grid.zeros.get(place).or(grid.zeros.first()).map_or(0.0, |&zero| zero as f32))
            .collect();
        let scaled = self.with("Mul", &name, &scales)?;
        let rounded = self.round(&scaled)?;
        let shifted = self.with("Add", &rounded, &channels(zeros))?;
        let clamped = self.clamp(&shifted, low as f32, high as f32)?;
        Ok(Some(Held::whole(clamped, kind)))
    }

    fn clamp(&mut self, name: &str, low: f32, high: f32) -> Result<String> {
        let low = self.floats(&[], vec![low])?;
        let high = self.floats(&[], vec![high])?;
        let output = self.name();
        self.push(Node::new("Clip", [name, &low, &high], [output.clone()]));
        Ok(output)
    }

    fn round(&mut self, name: &str) -> Result<String> {
        let up = self.with("Add", name, &Factor::Scalar(ROUND))?;
        self.with("Sub", &up, &Factor::Scalar(ROUND))
    }

    /// The value that has the elements, with negative ones at zero where they stand for that.
    pub(super) fn without_relu(&mut self, held: &Held) -> Result<String> {
        let name = match &held.source {
            Source::Value(name) => name.clone(),
            Source::Ints(ints) => self.constant_value(&ints.clone())?,
        };
        if !held.relu {
            return Ok(name);
        }
        let output = self.name();
        self.push(Node::new("Relu", [name], [output.clone()]));
        Ok(output)
    }

    /// A constant of integers as floats: small ones as such, others as 8-bit integers and a `Cast`.
    pub(super) fn constant_value(&mut self, ints: &Ints) -> Result<String> {
        let narrow: Option<Vec<i8>> = ints.data.iter().map(|&value| i8::try_from(value).ok()).collect();
        match narrow {
            Some(narrow) if narrow.len() > SMALL => {
                let name = self.names.fresh(&format!("{}.i8", ints.name));
                self.made.push(tensor_i8(&name, &Tensor::new(&name, ints.dims.clone(), narrow)?));
                let output = self.names.fresh(&format!("{}.f", ints.name));
                self.push(Node::new("Cast", [name], [output.clone()]).int("to", DataType::Float as i64));
                Ok(output)
            }
            _ => self.wide(ints),
        }
    }

    /// Integers that 8 bits with a sign do not hold: without it and shifted where they fit so, else as floats.
    fn wide(&mut self, ints: &Ints) -> Result<String> {
        let low = ints.data.iter().copied().min().unwrap_or_default();
        let shifted: Option<Vec<u8>> =
            ints.data.iter().map(|&value| u8::try_from(value.checked_sub(low)?).ok()).collect();
        match shifted {
            Some(raw_data) if raw_data.len() > SMALL => {
                let name = self.names.fresh(&format!("{}.u8", ints.name));
                let dims = ints.dims.iter().map(|&dim| dim as i64).collect();
                let data_type = DataType::Uint8 as i32;
                self.made.push(TensorProto {
                    name: name.clone(),
                    dims,
                    data_type,
                    raw_data,
                    ..TensorProto::default()
                });
                let cast = self.names.fresh(&format!("{}.f", ints.name));
                self.push(Node::new("Cast", [name], [cast.clone()]).int("to", DataType::Float as i64));
                self.with("Add", &cast, &Factor::Scalar(low as f32))
            }
            _ => self.floats(&ints.dims, ints.data.iter().map(|&v| v as f32).collect()),
        }
    }

    /// Writes a value under the name and in the type that the model gives it.
    pub(super) fn materialise(&mut self, name: &str) -> Result<()> {
        let Some(held) = self.held.get(name).cloned() else { return Ok(()) };
        // A constant of the model is there as it is.
        if self.constants.contains_key(name) || !self.written.insert(name.into()) {
            return Ok(());
        }
        let mut at = self.without_relu(&held)?;
        if !held.factor.is_one() {
            at = self.with("Mul", &at, &held.factor)?;
        }
        if !held.whole && held.kind != DataType::Float {
            at = self.round(&at)?;
        }
        if held.zero != 0 {
            at = self.with("Add", &at, &Factor::Scalar(held.zero as f32))?;
        }
        let last = if held.kind == DataType::Float {
            Node::new("Identity", [at], [name])
        } else {
            Node::new("Cast", [at], [name]).int("to", held.kind as i64)
        };
        let node = last.named(self.name());
        self.push(node);
        Ok(())
    }
}

/// A constant's real numbers.
fn constant_real(ints: &Ints, grid: &Grid, axis: i64) -> Option<Held> {
    let rank = ints.dims.len();
    let axis = if axis < 0 {
        usize::try_from(axis + i64::try_from(rank).ok()?).ok()?
    } else {
        usize::try_from(axis).ok()?
    };
    let less = ints.less(&grid.zeros, axis)?;
    let factor = match grid.scales.as_slice() {
        [scale] => Factor::Scalar(*scale),
        scales if ints.dims.get(axis) == Some(&scales.len()) => {
            let mut dims = vec![scales.len()];
            dims.extend(std::iter::repeat_n(1, rank - axis - 1));
            Factor::Channels { values: scales.to_vec(), dims, axis }
        }
        _ => return None,
    };
    Some(Held { source: Source::Ints(Rc::new(less)), factor, ..Held::plain("") })
}

fn in_blocks(ints: &Ints, grid: &Grid, block: usize, axis: i64) -> Option<Vec<f32>> {
    let rank = i64::try_from(ints.dims.len()).ok()?;
    let axis = usize::try_from(if axis < 0 { axis.checked_add(rank)? } else { axis }).ok()?;
    let (along, inner) = (*ints.dims.get(axis)?, ints.dims[axis + 1..].iter().product::<usize>());
    let blocks = along.checked_div(block)? + usize::from(along % block != 0);
    let real = |(place, &value): (usize, &i32)| {
        let (outer, at, rest) = (place / (along * inner), place / inner % along, place % inner);
        let cell = (outer * blocks + at / block) * inner + rest;
        let zero = if grid.zeros.len() == 1 { grid.zeros[0] } else { *grid.zeros.get(cell)? };
        Some((value - zero) as f32 * grid.scales.get(cell)?)
    };
    ints.data.iter().enumerate().map(real).collect()
}
