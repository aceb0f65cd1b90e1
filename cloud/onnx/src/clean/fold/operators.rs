//! The operators that chains of shapes and small constants are made of.

use tract_onnx::pb::NodeProto;

use super::value::{Constant, Data, broadcast, count, places};
use crate::{Attributes, DataType};

/// What a node gives for these inputs; none where that is not computed here.
pub(super) fn evaluate(node: &NodeProto, inputs: &[Option<&Constant>]) -> Option<Constant> {
    let input = |place: usize| inputs.get(place).copied().flatten();
    let x = input(0)?;
    match node.op_type.as_str() {
        "Identity" => Some(x.clone()),
        "Cast" => cast(x, node.int("to")?),
        "Neg" | "Abs" | "Floor" | "Ceil" | "Round" | "Sqrt" | "Exp" | "Reciprocal" | "Not" => {
            unary(&node.op_type, x)
        }
        "Add" | "Sub" | "Mul" | "Div" | "Min" | "Max" | "Pow" if node.input.len() == 2 => {
            arithmetic(&node.op_type, x, input(1)?)
        }
        "Equal" | "Less" | "LessOrEqual" | "Greater" | "GreaterOrEqual" | "And" | "Or" => {
            compare(&node.op_type, x, input(1)?)
        }
        "Where" => choose(x, input(1)?, input(2)?),
        "Gather" => gather(x, input(1)?, node.int("axis").unwrap_or(0)),
        "Slice" => slice(x, inputs),
        "Concat" => concat(inputs, node.int("axis")?),
        "Unsqueeze" => unsqueeze(x, input(1)?.as_ints()?),
        // Before opset 13 axes were an attribute: that form is brought to the later one first.
        "Squeeze" if node.attribute("axes").is_none() => squeeze(x, input(1)),
        "Reshape" if node.int("allowzero").unwrap_or(0) == 0 => reshape(x, input(1)?.as_ints()?),
        "Transpose" => transpose(x, node.ints("perm")),
        "ConstantOfShape" => constant_of_shape(x, node),
        "Expand" => {
            let dims = broadcast(&x.dims, &sizes(input(1)?.as_ints()?)?)?;
            x.pick(dims.clone(), places(&x.dims, &dims))
        }
        "Range" => range(x, input(1)?, input(2)?),
        "ReduceProd" | "ReduceSum" | "ReduceMin" | "ReduceMax" => reduce(node, x, input(1)),
        _ => None,
    }
}

fn sizes(values: &[i64]) -> Option<Vec<usize>> {
    values.iter().map(|&value| usize::try_from(value).ok()).collect()
}

fn axis(axis: i64, rank: usize) -> Option<usize> {
    let rank = i64::try_from(rank).ok()?;
    let place = if axis < 0 { axis.checked_add(rank)? } else { axis };
    (0..rank).contains(&place).then_some(())?;
    usize::try_from(place).ok()
}

fn cast(x: &Constant, to: i64) -> Option<Constant> {
    let to = DataType::try_from(i32::try_from(to).ok()?).ok()?;
    let data = match (&x.data, to) {
        (Data::Ints(values), DataType::Float) => Data::Floats(values.iter().map(|&v| v as f32).collect()),
        (Data::Floats(values), DataType::Float) => Data::Floats(values.clone()),
        (Data::Ints(values), DataType::Int64) => Data::Ints(values.clone()),
        (Data::Ints(values), DataType::Int32) => {
            Data::Ints(values.iter().map(|&v| (v as i32).into()).collect())
        }
        (Data::Floats(values), DataType::Int64) => Data::Ints(values.iter().map(|&v| v as i64).collect()),
        (Data::Floats(values), DataType::Int32) => {
            Data::Ints(values.iter().map(|&v| (v as i32).into()).collect())
        }
        (Data::Ints(values), DataType::Bool) => {
            Data::Ints(values.iter().map(|&v| i64::from(v != 0)).collect())
        }
        (Data::Floats(values), DataType::Bool) => {
            Data::Ints(values.iter().map(|&v| i64::from(v != 0.0)).collect())
        }
        _ => return None,
    };
    Some(Constant { dims: x.dims.clone(), data, data_type: to })
}

fn unary(op: &str, x: &Constant) -> Option<Constant> {
    let data = match (&x.data, op) {
        (Data::Ints(values), "Not") if x.data_type == DataType::Bool => {
            Data::Ints(values.iter().map(|&v| i64::from(v == 0)).collect())
        }
        (Data::Ints(values), "Neg") => {
            Data::Ints(values.iter().map(|v| v.checked_neg()).collect::<Option<_>>()?)
        }
        (Data::Ints(values), "Abs") => {
            Data::Ints(values.iter().map(|v| v.checked_abs()).collect::<Option<_>>()?)
        }
        (Data::Floats(values), _) => {
            let compute: fn(f32) -> f32 = match op {
                "Neg" => |v| -v,
                "Abs" => f32::abs,
                "Floor" => f32::floor,
                "Ceil" => f32::ceil,
                "Round" => f32::round_ties_even,
                "Sqrt" => f32::sqrt,
                "Exp" => f32::exp,
                "Reciprocal" => f32::recip,
                _ => return None,
            };
            Data::Floats(values.iter().map(|&v| compute(v)).collect())
        }
        _ => return None,
    };
    Some(Constant { data, ..x.clone() })
}

/// Both sides with the shape that they broadcast to.
fn both(a: &Constant, b: &Constant) -> Option<(Constant, Constant)> {
    let dims = broadcast(&a.dims, &b.dims)?;
    Some((a.pick(dims.clone(), places(&a.dims, &dims))?, b.pick(dims.clone(), places(&b.dims, &dims))?))
}

fn arithmetic(op: &str, a: &Constant, b: &Constant) -> Option<Constant> {
    if a.data_type != b.data_type || a.data_type == DataType::Bool {
        return None;
    }
    let (a, b) = both(a, b)?;
    let data = match (&a.data, &b.data) {
        (Data::Ints(x), Data::Ints(y)) => {
            let narrow = a.data_type == DataType::Int32;
            let compute = |(&x, &y): (&i64, &i64)| {
                let value = match op {
                    "Add" => x.checked_add(y),
                    "Sub" => x.checked_sub(y),
                    "Mul" => x.checked_mul(y),
                    "Div" => x.checked_div(y),
                    "Min" => Some(x.min(y)),
                    "Max" => Some(x.max(y)),
                    _ => None,
                }?;
                (!narrow || i32::try_from(value).is_ok()).then_some(value)
            };
            Data::Ints(x.iter().zip(y).map(compute).collect::<Option<_>>()?)
        }
        (Data::Floats(x), Data::Floats(y)) => {
            let compute: fn(f32, f32) -> f32 = match op {
                "Add" => |x, y| x + y,
                "Sub" => |x, y| x - y,
                "Mul" => |x, y| x * y,
                "Div" => |x, y| x / y,
                "Min" => f32::min,
                "Max" => f32::max,
                "Pow" => f32::powf,
                _ => return None,
            };
            Data::Floats(x.iter().zip(y).map(|(&x, &y)| compute(x, y)).collect())
        }
        _ => return None,
    };
    Some(Constant { data, ..a })
}

fn compare(op: &str, a: &Constant, b: &Constant) -> Option<Constant> {
    let (a, b) = both(a, b)?;
    let holds = |order: Option<std::cmp::Ordering>| match op {
        "Equal" => order.is_some_and(std::cmp::Ordering::is_eq),
        "Less" => order.is_some_and(std::cmp::Ordering::is_lt),
        "LessOrEqual" => order.is_some_and(std::cmp::Ordering::is_le),
        "Greater" => order.is_some_and(std::cmp::Ordering::is_gt),
        _ => order.is_some_and(std::cmp::Ordering::is_ge),
    };
    let truths = match (&a.data, &b.data) {
        (Data::Ints(x), Data::Ints(y)) => match op {
            "And" => x.iter().zip(y).map(|(&x, &y)| x != 0 && y != 0).collect(),
            "Or" => x.iter().zip(y).map(|(&x, &y)| x != 0 || y != 0).collect(),
            _ => x.iter().zip(y).map(|(x, y)| holds(Some(x.cmp(y)))).collect(),
        },
        (Data::Floats(x), Data::Floats(y)) if !matches!(op, "And" | "Or") => {
            x.iter().zip(y).map(|(x, y)| holds(x.partial_cmp(y))).collect()
        }
        _ => return None,
    };
    Some(Constant::truths(a.dims, truths))
}

fn choose(condition: &Constant, yes: &Constant, no: &Constant) -> Option<Constant> {
    if yes.data_type != no.data_type {
        return None;
    }
    let dims = broadcast(&condition.dims, &broadcast(&yes.dims, &no.dims)?)?;
    let condition = condition.pick(dims.clone(), places(&condition.dims, &dims))?;
    let yes = yes.pick(dims.clone(), places(&yes.dims, &dims))?;
    let no = no.pick(dims.clone(), places(&no.dims, &dims))?;
    let truths = condition.as_ints()?;
    let data = match (&yes.data, &no.data) {
        (Data::Ints(y), Data::Ints(n)) => Data::Ints(
            truths.iter().zip(y.iter().zip(n)).map(|(&t, (&y, &n))| if t != 0 { y } else { n }).collect(),
        ),
        (Data::Floats(y), Data::Floats(n)) => Data::Floats(
            truths.iter().zip(y.iter().zip(n)).map(|(&t, (&y, &n))| if t != 0 { y } else { n }).collect(),
        ),
        _ => return None,
    };
    Some(Constant { dims, data, data_type: yes.data_type })
}

/// Elements before, along and behind an axis.
fn around(dims: &[usize], axis: usize) -> (usize, usize, usize) {
    (dims[..axis].iter().product(), dims[axis], dims[axis + 1..].iter().product())
}

/// The slices of an axis that are named, in that order.
fn take(x: &Constant, axis: usize, chosen: &[usize], instead: &[usize]) -> Option<Constant> {
    let (outer, along, inner) = around(&x.dims, axis);
    let mut dims = x.dims[..axis].to_vec();
    dims.extend(instead);
    dims.extend(&x.dims[axis + 1..]);
    count(&dims)?;
    let mut all = Vec::new();
    for block in 0..outer {
        for &place in chosen {
            all.extend((0..inner).map(|rest| (block * along + place) * inner + rest));
        }
    }
    x.pick(dims, all)
}

fn gather(x: &Constant, indices: &Constant, along: i64) -> Option<Constant> {
    let along = axis(along, x.dims.len())?;
    let size = x.dims[along];
    let chosen: Option<Vec<usize>> = indices.as_ints()?.iter().map(|&index| axis(index, size)).collect();
    take(x, along, &chosen?, &indices.dims)
}

fn slice(x: &Constant, inputs: &[Option<&Constant>]) -> Option<Constant> {
    let part = |place: usize| inputs.get(place).copied().flatten();
    let (starts, ends) = (part(1)?.as_ints()?, part(2)?.as_ints()?);
    let all: Vec<i64> = (0..i64::try_from(starts.len()).ok()?).collect();
    let axes = match part(3) {
        Some(axes) => axes.as_ints()?.to_vec(),
        None => all,
    };
    let steps = match part(4) {
        Some(steps) => steps.as_ints()?.to_vec(),
        None => vec![1; starts.len()],
    };
    if [ends.len(), axes.len(), steps.len()].iter().any(|&n| n != starts.len()) {
        return None;
    }
    let mut out = x.clone();
    for (((&start, &end), &along), &step) in starts.iter().zip(ends).zip(&axes).zip(&steps) {
        let along = axis(along, x.dims.len())?;
        let size = i64::try_from(x.dims[along]).ok()?;
        let from_end = |value: i64| if value < 0 { value.saturating_add(size) } else { value };
        let (low, high) = if step > 0 { (0, size) } else { (-1, size - 1) };
        let start = from_end(start).clamp(low.max(0), high.max(0));
        let end = if end < 0 && step < 0 && end.saturating_add(size) < 0 {
            -1
        } else {
            from_end(end).clamp(low, high)
        };
        if step == 0 {
            return None;
        }
        let mut chosen = Vec::new();
        let mut at = start;
        while if step > 0 { at < end } else { at > end } {
            chosen.push(usize::try_from(at).ok()?);
            at = at.checked_add(step)?;
        }
        out = take(&out, along, &chosen, &[chosen.len()])?;
    }
    Some(out)
}

fn concat(inputs: &[Option<&Constant>], along: i64) -> Option<Constant> {
    let parts: Vec<&Constant> = inputs.iter().copied().collect::<Option<_>>()?;
    let first = parts.first()?;
    let along = axis(along, first.dims.len())?;
    let fits = |part: &&Constant| {
        part.data_type == first.data_type
            && part.dims.len() == first.dims.len()
            && part.dims.iter().zip(&first.dims).enumerate().all(|(axis, (a, b))| axis == along || a == b)
    };
    parts.iter().all(fits).then_some(())?;
    let mut dims = first.dims.clone();
    dims[along] = parts.iter().map(|part| part.dims[along]).sum();
    let total = count(&dims)?;
    let outer: usize = dims[..along].iter().product();
    let (mut ints, mut floats) = (Vec::with_capacity(total), Vec::new());
    for block in 0..outer {
        for part in &parts {
            let run = part.len() / outer;
            match &part.data {
                Data::Ints(values) => ints.extend(&values[block * run..(block + 1) * run]),
                Data::Floats(values) => floats.extend(&values[block * run..(block + 1) * run]),
            }
        }
    }
    let data = if matches!(first.data, Data::Ints(_)) { Data::Ints(ints) } else { Data::Floats(floats) };
    Some(Constant { dims, data, data_type: first.data_type })
}

fn unsqueeze(x: &Constant, axes: &[i64]) -> Option<Constant> {
    let rank = x.dims.len() + axes.len();
    let axes: Vec<usize> = axes.iter().map(|&a| axis(a, rank)).collect::<Option<_>>()?;
    let mut old = x.dims.iter().copied();
    let dims: Option<Vec<usize>> =
        (0..rank).map(|place| if axes.contains(&place) { Some(1) } else { old.next() }).collect();
    x.shaped(dims?)
}

fn squeeze(x: &Constant, axes: Option<&Constant>) -> Option<Constant> {
    let rank = x.dims.len();
    let dims = match axes {
        None => x.dims.iter().copied().filter(|&dim| dim != 1).collect(),
        Some(axes) => {
            let axes: Vec<usize> = axes.as_ints()?.iter().map(|&a| axis(a, rank)).collect::<Option<_>>()?;
            (0..rank).filter(|place| !axes.contains(place)).map(|place| x.dims[place]).collect()
        }
    };
    x.shaped(dims)
}

fn reshape(x: &Constant, shape: &[i64]) -> Option<Constant> {
    let copied = |(place, &dim): (usize, &i64)| match dim {
        0 => x.dims.get(place).map(|&dim| Some(dim)),
        -1 => Some(None),
        dim => usize::try_from(dim).ok().map(Some),
    };
    let dims: Vec<Option<usize>> = shape.iter().enumerate().map(copied).collect::<Option<_>>()?;
    let fixed: usize = count(&dims.iter().flatten().copied().collect::<Vec<_>>())?;
    let open = x.len().checked_div(fixed).unwrap_or(0);
    x.shaped(dims.into_iter().map(|dim| dim.unwrap_or(open)).collect())
}

fn transpose(x: &Constant, perm: Option<&[i64]>) -> Option<Constant> {
    let rank = x.dims.len();
    let perm: Vec<usize> = match perm {
        Some(perm) => sizes(perm)?,
        None => (0..rank).rev().collect(),
    };
    let mut sorted = perm.clone();
    sorted.sort_unstable();
    sorted.iter().copied().eq(0..rank).then_some(())?;
    let dims: Vec<usize> = perm.iter().map(|&axis| x.dims[axis]).collect();
    let steps: Vec<usize> = (0..rank).map(|axis| x.dims[axis + 1..].iter().product()).collect();
    let old = |index: usize| {
        let mut rest = index;
        let mut place = 0;
        for (axis, &dim) in dims.iter().enumerate().rev() {
            place += rest % dim * steps[perm[axis]];
            rest /= dim;
        }
        place
    };
    x.pick(dims.clone(), (0..x.len()).map(old))
}

fn constant_of_shape(shape: &Constant, node: &NodeProto) -> Option<Constant> {
    let dims = sizes(shape.as_ints()?)?;
    let elements = count(&dims)?;
    let value = match node.tensor("value") {
        Some(value) => Constant::read(value)?,
        None => Constant { dims: vec![1], data: Data::Floats(vec![0.0]), data_type: DataType::Float },
    };
    value.pick(dims, std::iter::repeat_n(0, elements))
}

fn range(start: &Constant, end: &Constant, step: &Constant) -> Option<Constant> {
    let one = |value: &Constant| value.as_ints().and_then(|v| v.first().copied());
    let (start, end, step) = (one(start)?, one(end)?, one(step)?);
    let mut values = Vec::new();
    let mut at = start;
    while step != 0 && if step > 0 { at < end } else { at > end } {
        values.push(at);
        count(&[values.len()])?;
        at = at.checked_add(step)?;
    }
    Some(Constant::ints(vec![values.len()], values))
}

/// Reductions of integers over all elements, as for the number of elements of a shape.
fn reduce(node: &NodeProto, x: &Constant, axes: Option<&Constant>) -> Option<Constant> {
    let listed = node.ints("axes").or_else(|| axes.and_then(Constant::as_ints));
    let whole = x.dims.len() <= 1 && listed.is_none_or(|axes| matches!(axes, [0 | -1]));
    if !whole || node.int("noop_with_empty_axes") == Some(1) {
        return None;
    }
    let values = x.as_ints()?;
    let value = match node.op_type.as_str() {
        "ReduceProd" => values.iter().try_fold(1_i64, |all, &v| all.checked_mul(v))?,
        "ReduceSum" => values.iter().try_fold(0_i64, |all, &v| all.checked_add(v))?,
        "ReduceMin" => values.iter().copied().min()?,
        _ => values.iter().copied().max()?,
    };
    let keep = node.int("keepdims").unwrap_or(1) == 1;
    let dims = if keep { vec![1; x.dims.len()] } else { Vec::new() };
    Some(Constant { dims, data: Data::Ints(vec![value]), data_type: x.data_type })
}
