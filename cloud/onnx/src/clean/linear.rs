//! A matrix product with a bias as one `Gemm`, where that is the same.

use std::collections::{HashMap, HashSet};

use tract_onnx::pb::NodeProto;

use super::Changes;
use super::graph::{constants, is, uses};
use super::shapes::{self, Known};
use crate::{DataType, Model, Node, Result};

/// `MatMul` of two matrices, and `Add` of a constant row behind it, becomes `Gemm`: one layer is one node for
/// whoever looks at layers.
pub(super) fn to_gemm(model: &mut Model) -> Result<Changes> {
    if !model.nodes().iter().any(|node| is(node, "MatMul")) {
        return Ok(Changes::default());
    }
    let known = shapes::infer(model).values;
    let matrix = |name: &str| {
        known.get(name).is_some_and(|k| k.data_type == Some(DataType::Float) && k.rank() == Some(2))
    };
    let columns = |name: &str| known.get(name).and_then(Known::fixed)?.get(1).copied();
    let mut rows: HashMap<String, Vec<i64>> = HashMap::new();
    for (name, tensor) in constants(model) {
        if tensor.data_type == DataType::Float as i32 {
            rows.insert(name.to_owned(), tensor.dims.clone());
        }
    }
    let uses: HashMap<String, usize> =
        uses(model.graph()).into_iter().map(|(name, count)| (name.to_owned(), count)).collect();
    let products: HashMap<String, NodeProto> = model
        .nodes()
        .iter()
        .filter(|node| {
            is(node, "MatMul")
                && node.input.len() == 2
                && matrix(&node.input[0])
                && matrix(&node.input[1])
                && node.output.first().is_some_and(|output| uses.get(output) == Some(&1))
        })
        .filter_map(|node| Some((node.output.first()?.clone(), node.clone())))
        .collect();
    let mut merged = HashSet::new();
    for node in &mut model.graph_mut().node {
        if !is(node, "Add") || node.input.len() != 2 || node.output.len() != 1 {
            continue;
        }
        let sides = [(0, 1), (1, 0)].into_iter();
        let found = sides.filter_map(|(product, bias)| {
            let (product, bias) = (products.get(&node.input[product])?, &node.input[bias]);
            let columns = i64::try_from(columns(&product.input[1])?).ok()?;
            let row = rows.get(bias)?;
            let fits = row.last() == Some(&columns)
                && row.iter().rev().skip(1).all(|&dim| dim == 1)
                && row.len() <= 2;
            fits.then_some((product, bias.clone()))
        });
        let Some((product, bias)) = found.into_iter().next() else {
            continue;
        };
        let inputs = [product.input[0].clone(), product.input[1].clone(), bias];
        let gemm = Node::new("Gemm", inputs, [node.output[0].clone()]).named(node.name.clone());
        merged.insert(product.output[0].clone());
        *node = gemm.into();
    }
    model.graph_mut().node.retain(|node| !node.output.first().is_some_and(|output| merged.contains(output)));
    Ok(Changes::counted(merged.len() as u64))
}
