//! What the engine makes of a model, operator by operator: what each works on, and how long it takes here.
//!
//! For predicting how long a model takes on a board (`cloud/boards`). The graph is the one that is run, after the engine
//! has fused and rewritten it for the kernels of this machine.

use super::{Given, Input, input_names, invalid, match_inputs, parse, typed, unsupported, values};
use crate::error::no_panic;
use crate::{Error, Result};
use flotilla_protocol::limits::TENSOR_VALUES;
use std::collections::HashMap;
use std::time::{Duration, Instant};
use tract_onnx::prelude::{
    IntoRunnable, IntoTValue, TValue, TVec, Tensor, TractResult, TypedModel, TypedSimpleState,
};
use tract_onnx::tract_core::internal::{Cost as OperatorCost, TypedFact, TypedNode};
use tract_onnx::tract_core::ops::matmul::optimized::OptMatMul;
use tract_onnx::tract_core::plan;

/// One operator of the graph that is run, and how much it has to do.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Operator {
    /// What the engine calls it; for what has several kernels the one that is taken stands behind it, after a space.
    pub kind: String,
    /// Multiplications with an addition, those of the filled edges of tiles included; of pooling, values looked at.
    pub macs: u64,
    /// How often an inner loop begins: tiles of a matrix product, rows of anything else.
    pub loops: u64,
    /// Values that are fetched one at a time: what a convolution gathers for its matrix product, the edges of windows.
    pub scattered: u64,
    /// Values that it reads, constants left out.
    pub read: u64,
    /// Values that it writes.
    pub written: u64,
    /// Bytes of the constants that it reads.
    pub constant_bytes: u64,
}

/// What running a model takes, measured.
#[derive(Clone, Debug, PartialEq)]
pub struct Profile {
    /// Its operators, each with the shortest time that it took.
    pub operators: Vec<(Operator, Duration)>,
    /// The shortest time of a whole run, without looking into it.
    pub whole: Duration,
}

/// The operators of a model, in the order in which they run.
pub fn operators(onnx: &[u8], given: &[Given]) -> Result<Vec<Operator>> {
    let (model, _) = optimised(onnx, given)?;
    unsupported("count", no_panic(|| running(&model)?.iter().map(|&id| of_node(&model, id)).collect()))
}

/// Runs a model on zeros as often as fits into `time`, at least three times, and says what each operator took.
pub fn profile(onnx: &[u8], given: &[Given], time: Duration) -> Result<Profile> {
    let (model, inputs) = optimised(onnx, given)?;
    unsupported("measure", no_panic(|| measure(model, &inputs, time)))
}

fn measure(model: TypedModel, inputs: &[Input], time: Duration) -> TractResult<Profile> {
    let order = running(&model)?;
    let operators = order.iter().map(|&id| of_node(&model, id)).collect::<TractResult<Vec<_>>>()?;
    let plan = model.into_runnable()?;
    let mut state = plan.spawn()?;
    let mut shortest: HashMap<usize, Duration> = HashMap::new();
    let mut whole = Duration::MAX;
    let (begun, mut rounds) = (Instant::now(), 0);
    while rounds < 3 || begun.elapsed() < time {
        // In turns, so that what else the machine does meets both alike.
        let tensors = zeros(inputs)?;
        let run = Instant::now();
        state.run(tensors)?;
        whole = whole.min(run.elapsed());
        look_into(&mut state, zeros(inputs)?, &mut shortest)?;
        rounds += 1;
    }
    let took = |id: &usize| shortest.get(id).copied().unwrap_or_default();
    Ok(Profile { operators: operators.into_iter().zip(order.iter().map(took)).collect(), whole })
}

fn look_into(
    state: &mut TypedSimpleState,
    tensors: TVec<TValue>,
    shortest: &mut HashMap<usize, Duration>,
) -> TractResult<()> {
    let run = state.run_plan_with_eval(tensors, |context, own, node, inputs| {
        let begun = Instant::now();
        let result = plan::eval(context, own, node, inputs);
        let took = begun.elapsed();
        shortest.entry(node.id).and_modify(|least| *least = took.min(*least)).or_insert(took);
        result
    });
    run.map(drop)
}

fn zeros(inputs: &[Input]) -> TractResult<TVec<TValue>> {
    let mut tensors: Vec<(usize, TValue)> = Vec::with_capacity(inputs.len());
    for input in inputs {
        let tensor = Tensor::zero_dt(input.datum, &input.port.shape)?;
        tensors.push((input.place, tensor.into_tvalue()));
    }
    tensors.sort_by_key(|(place, _)| *place);
    Ok(tensors.into_iter().map(|(_, tensor)| tensor).collect())
}

fn optimised(onnx: &[u8], given: &[Given]) -> Result<(TypedModel, Vec<Input>)> {
    if let Some(large) = given.iter().find(|given| values(&given.shape).is_none()) {
        let shape = &large.shape;
        return Err(Error::Interface(format!("an input of {shape:?} is over {TENSOR_VALUES} values")));
    }
    let parsed = invalid("read", no_panic(|| parse(onnx)))?;
    let inputs = match_inputs(&parsed, &input_names(&parsed), given)?;
    let typed = unsupported("infer shapes", no_panic(|| typed(parsed, &inputs)))?;
    Ok((unsupported("optimise", no_panic(|| typed.into_optimized()))?, inputs))
}

/// The nodes that do something when the model runs.
fn running(model: &TypedModel) -> TractResult<Vec<usize>> {
    let constant = |id: &usize| model.node(*id).outputs.iter().all(|output| output.fact.konst.is_some());
    let source = |id: &usize| model.inputs.iter().any(|input| input.node == *id);
    Ok(model.eval_order()?.into_iter().filter(|id| !constant(id) && !source(id)).collect())
}

fn of_node(model: &TypedModel, id: usize) -> TractResult<Operator> {
    let node = model.node(id);
    let facts = model.node_input_facts(id)?;
    let mut macs = 0_u64;
    for (cost, times) in node.op.cost(&facts)? {
        if matches!(cost, OperatorCost::FMA(_)) {
            macs = macs.saturating_add(whole(times.to_i64()));
        }
    }
    let values = |fact: &TypedFact| whole(fact.shape.volume().to_i64());
    let written: u64 = node.outputs.iter().map(|output| values(&output.fact)).sum();
    let last = node.outputs.first().and_then(|output| output.fact.shape.as_concrete()?.last().copied());
    let operator = Operator {
        kind: node.op.name().into_owned(),
        macs,
        loops: written / last.unwrap_or(1).max(1) as u64,
        scattered: 0,
        // What is packed for a matrix product is one value to the engine, and says nothing.
        read: facts
            .iter()
            .filter(|fact| fact.konst.is_none() && !fact.is_exotic())
            .map(|fact| values(fact))
            .sum(),
        written,
        constant_bytes: facts
            .iter()
            .filter_map(|fact| fact.konst.as_ref())
            .map(|constant| (constant.len() * constant.datum_type().size_of()) as u64)
            .sum(),
    };
    if let Some(product) = node.op_as::<OptMatMul>() {
        return Ok(matrix_product(model, node, product, operator));
    }
    Ok(match operator.kind.as_str() {
        // They say how others are to read what is there.
        "IntoShape" | "LazyIm2col" => Operator { kind: operator.kind, ..Operator::default() },
        "OptMatMulPack" => Operator { kind: packing(node, &operator.kind), ..operator },
        "OptMaxPool" | "OptSumPool" => {
            Operator { macs: operator.written.saturating_mul(pooled(node)), ..operator }
        }
        "DepthWiseConv" | "DirectSpatialConv" => windows(&facts, node, operator),
        _ => operator,
    })
}

fn whole<E>(number: std::result::Result<i64, E>) -> u64 {
    number.ok().and_then(|number| u64::try_from(number).ok()).unwrap_or_default()
}

/// A matrix product computes whole tiles. One that is a convolution gathers its columns on the way.
fn matrix_product(model: &TypedModel, node: &TypedNode, product: &OptMatMul, operator: Operator) -> Operator {
    let Some(kernel) = product.mmm.first() else { return operator };
    let (m, n) = (whole(product.m().to_i64()).max(1), whole(product.n().to_i64()).max(1));
    let (rows, columns) = (m.div_ceil(kernel.mr().max(1) as u64), n.div_ceil(kernel.nr().max(1) as u64));
    let (wide, high) = (columns * kernel.nr() as u64, rows * kernel.mr() as u64);
    let batch = (operator.written / (m * n)).max(1);
    let depth = operator.macs / (m * n * batch);
    let gathers = node.inputs.iter().any(|input| model.node(input.node).op.name().contains("Im2col"));
    let way = if gathers { " gathered" } else { "" };
    Operator {
        kind: format!("{} {}{way}", operator.kind, kernel.name()),
        macs: depth.saturating_mul(wide).saturating_mul(high).saturating_mul(batch),
        loops: rows * columns * batch,
        scattered: if gathers { depth.saturating_mul(wide).saturating_mul(batch) } else { 0 },
        ..operator
    }
}

/// How wide the panels are decides how fast values are brought into them; the engine says it in words only.
fn packing(node: &TypedNode, name: &str) -> String {
    let words = node.op.info().ok().and_then(|lines| lines.into_iter().next()).unwrap_or_default();
    let panel = words.split("F32[").nth(1).and_then(|rest| rest.split(']').next());
    panel.map_or_else(|| name.to_owned(), |panel| format!("{name} {panel}"))
}

/// Values that one output of a pool looks at.
fn pooled(node: &TypedNode) -> u64 {
    use tract_onnx::tract_core::ops::cnn::{OptMaxPool, OptSumPool};
    let shape = node.op_as::<OptMaxPool>().map(|pool| &pool.pool_spec.kernel_shape);
    let shape = shape.or_else(|| node.op_as::<OptSumPool>().map(|pool| &pool.pool_spec.kernel_shape));
    shape.map_or(1, |shape| shape.iter().product::<usize>() as u64)
}

/// Convolutions that go over the picture itself: rows of windows, and edges, where windows lie partly outside. Windows
/// are taken to be square.
fn windows(facts: &[&TypedFact], node: &TypedNode, operator: Operator) -> Operator {
    let channels = facts.get(2).map_or(0, |bias| whole(bias.shape.volume().to_i64()));
    let is_last = |fact: &&TypedFact| {
        let dims = fact.shape.as_concrete().unwrap_or_default();
        dims.last().is_some_and(|dim| *dim as u64 == channels) && dims.iter().rev().nth(2) != dims.last()
    };
    let last = node.outputs.first().is_some_and(|output| is_last(&&output.fact));
    let sides = |fact: &TypedFact| -> Option<[u64; 2]> {
        let mut dims = fact.shape.as_concrete()?.iter().rev().skip(usize::from(last)).map(|dim| *dim as u64);
        let (wide, high) = (dims.next()?, dims.next()?);
        Some([high, wide])
    };
    let (Some(input), Some(output)) = (
        facts.first().and_then(|fact| sides(fact)),
        node.outputs.first().and_then(|output| sides(&output.fact)),
    ) else {
        return operator;
    };
    let depthwise = operator.kind == "DepthWiseConv";
    let taps = (operator.macs / operator.written.max(1)).max(1);
    let side = if depthwise { taps.isqrt().max(1) } else { 3 };
    let strides = [0, 1].map(|axis| (input[axis] + output[axis] / 2) / output[axis].max(1)).map(|s| s.max(1));
    let inner = [0, 1].map(|axis| {
        let fit = input[axis].checked_sub(side).map_or(0, |free| free / strides[axis] + 1);
        fit.min(output[axis])
    });
    let planes = operator.written / (output[0] * output[1]).max(1);
    let edges = (output[0] * output[1]).saturating_sub(inner[0] * inner[1]);
    if last {
        // Each place of the picture is a loop over its channels, and what does not fill the lanes has code of its own.
        let few = if channels < LANES { format!(" {channels}") } else { String::new() };
        let kind = format!("{} channels last{few}", operator.kind);
        return Operator { kind, loops: operator.written / channels.max(1), ..operator };
    }
    let way = if strides[1] > 1 { " strided" } else { "" };
    // An edge is a span of its own on each side of the picture, and in each corner.
    let spans = inner[0] + if edges > 0 { 8 } else { 0 };
    Operator {
        kind: format!("{}{way}", operator.kind),
        loops: planes.saturating_mul(spans),
        scattered: planes.saturating_mul(edges + inner[0] * (inner[1] % LANES)).saturating_mul(taps),
        ..operator
    }
}

/// Values that kernels of this kind work on at once; what is left of a row is done one by one.
const LANES: u64 = 8;
