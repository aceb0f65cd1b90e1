//! Operators that the engine does not have, with what to do about each.

use std::collections::BTreeMap;

use serde::Serialize;
use tract_onnx::pb::{GraphProto, NodeProto};

use super::graph::is_standard;
use crate::{Model, order};

/// An operator that the engine lacks.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Missing {
    /// The operator, with its domain where that is not the standard one.
    pub operator: String,
    /// How often the model uses it.
    pub count: u64,
    /// What it is and what to do.
    pub advice: String,
}

/// Operators that were part of ONNX once, or only as an experiment, and what stands in their place.
const RETIRED: [(&str, &str); 11] = [
    ("Upsample", "it was replaced by Resize in opset 10"),
    ("Scatter", "it was replaced by ScatterElements in opset 11"),
    ("ATen", "it is PyTorch's own: export again with a newer torch and without ONNX_ATEN"),
    ("Affine", "it was an experiment: write it as Mul and Add"),
    ("ImageScaler", "it was an experiment: write it as Mul and Add"),
    ("Crop", "it was an experiment: write it as Slice"),
    ("DynamicSlice", "it was an experiment: write it as Slice"),
    ("GRUUnit", "it was an experiment: write it as GRU"),
    ("GivenTensorFill", "it was an experiment: write it as Constant"),
    ("ConstantFill", "it was an experiment: write it as ConstantOfShape"),
    ("Scale", "it was an experiment: write it as Mul"),
];

/// Operators of the model, inner graphs included, that the engine does not have.
#[must_use]
pub fn missing_operators(model: &Model) -> Vec<Missing> {
    let engine = tract_onnx::onnx();
    let mut counts: BTreeMap<(String, String), u64> = BTreeMap::new();
    count(model.graph(), &mut |node| {
        let known = engine.op_register.0.contains_key(&node.op_type);
        // The engine looks at names alone: an operator of a domain that it does not know is another one.
        let domain = is_standard(node) || matches!(node.domain.as_str(), "ai.onnx.ml" | "com.microsoft");
        if !(known && domain) {
            *counts.entry((node.domain.clone(), node.op_type.clone())).or_default() += 1;
        }
    });
    let missing = |((domain, op_type), count): ((String, String), u64)| Missing {
        advice: advice(&domain, &op_type),
        operator: if domain.is_empty() { op_type } else { format!("{domain}.{op_type}") },
        count,
    };
    counts.into_iter().map(missing).collect()
}

fn advice(domain: &str, op_type: &str) -> String {
    if let Some((_, what)) = RETIRED.iter().find(|(name, _)| *name == op_type) {
        return format!("retired: {what}");
    }
    match domain {
        "" | "ai.onnx" => "the engine does not have this operator: export the model without it".into(),
        "ai.onnx.ml" => {
            "the engine does not have this classical model: export tree ensembles or linear models".into()
        }
        "com.microsoft" => "ONNX Runtime's own: export the model before that runtime optimises it".into(),
        other => format!(
            "an operator of `{other}`, which the engine does not know: export with standard operators"
        ),
    }
}

fn count(graph: &GraphProto, see: &mut impl FnMut(&NodeProto)) {
    for node in &graph.node {
        see(node);
        order::subgraphs(node).for_each(|inner| count(inner, see));
    }
}
