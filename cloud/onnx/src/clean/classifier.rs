//! Classifiers of `ai.onnx.ml`: probabilities are kept, maps and labels are not.
//!
//! Converters of scikit-learn and its like put a `ZipMap` behind the probabilities, which makes a dictionary a sample, and
//! give the label beside them. The engine has neither dictionaries nor texts; the label is the largest probability.

use std::collections::{HashMap, HashSet};

use tract_onnx::pb::{GraphProto, TypeProto, ValueInfoProto, type_proto};

use super::Changes;
use super::graph::redirect;
use crate::{DataType, Model, Result, Value};

const ML: &str = "ai.onnx.ml";

/// Metadata under which class labels of a classifier are kept, separated by newlines.
pub const LABELS: &str = "flotilla.labels";

/// Operators that give a label and scores.
const CLASSIFIERS: [&str; 3] = ["TreeEnsembleClassifier", "LinearClassifier", "SVMClassifier"];

/// Takes maps and label outputs away where probabilities stand beside them.
pub(super) fn probabilities(model: &mut Model) -> Result<Changes> {
    let mut labels = class_labels(model.graph());
    let graph = model.graph_mut();
    let mut zipped = HashMap::new();
    graph.node.retain(|node| {
        let zip = node.op_type == "ZipMap" && node.domain == ML;
        if let (true, [input], [output]) = (zip, node.input.as_slice(), node.output.as_slice()) {
            zipped.insert(output.clone(), input.clone());
        }
        !zip
    });
    let mut count = zipped.len() as u64;
    redirect(graph, &zipped);
    for output in &mut graph.output {
        if let Some(probabilities) = zipped.get(&output.name) {
            *output = float_tensor(probabilities);
        }
    }
    let mut notes = Vec::new();
    if let Some(label) = label_output(graph) {
        graph.output.retain(|output| output.name != label);
        count += 1;
        notes.push(format!(
            "the output `{label}` with the label is left out: the label is the class of the largest probability"
        ));
    } else {
        labels.clear();
    }
    if !labels.is_empty() {
        model.set_metadata(LABELS, labels.join("\n"));
    }
    Ok(Changes { count, notes })
}

/// The output that is a classifier's label and stands beside its scores.
fn label_output(graph: &GraphProto) -> Option<String> {
    let outputs: HashSet<&str> = graph.output.iter().map(|o| o.name.as_str()).collect();
    if outputs.len() < 2 {
        return None;
    }
    // The label may pass through casts, reshapes and the like on its way out.
    let mut labels: HashMap<&str, usize> = HashMap::new();
    for (place, node) in graph.node.iter().enumerate() {
        let classifier = node.domain == ML && CLASSIFIERS.contains(&node.op_type.as_str());
        let largest = node.op_type == "ArgMax"
            && node.input.first().is_some_and(|scores| outputs.contains(scores.as_str()));
        let passes = matches!(
            node.op_type.as_str(),
            "Cast" | "Reshape" | "Squeeze" | "Identity" | "ArrayFeatureExtractor" | "Gather"
        );
        let of = node.input.iter().find_map(|input| labels.get(input.as_str()).copied());
        match (node.output.first(), of) {
            (Some(label), _) if classifier || largest => {
                labels.insert(label, place);
            }
            (Some(label), Some(of)) if passes => {
                labels.insert(label, of);
            }
            _ => {}
        }
    }
    let flat = |output: &&ValueInfoProto| Value::from(*output).dims.is_none_or(|dims| dims.len() <= 2);
    let label = |output: &&ValueInfoProto| labels.contains_key(output.name.as_str());
    graph.output.iter().filter(label).find(flat).map(|output| output.name.clone())
}

fn float_tensor(name: &str) -> ValueInfoProto {
    let tensor = type_proto::Tensor { elem_type: DataType::Float as i32, shape: None };
    let value = TypeProto { value: Some(type_proto::Value::TensorType(tensor)), ..TypeProto::default() };
    ValueInfoProto { name: name.into(), r#type: Some(value), ..ValueInfoProto::default() }
}

/// What the classifier calls its classes.
fn class_labels(graph: &GraphProto) -> Vec<String> {
    for node in graph.node.iter().filter(|node| node.domain == ML) {
        for attribute in &node.attribute {
            match attribute.name.as_str() {
                "classlabels_strings" | "classlabels_string" if !attribute.strings.is_empty() => {
                    return attribute
                        .strings
                        .iter()
                        .map(|s| String::from_utf8_lossy(s).into_owned())
                        .collect();
                }
                "classlabels_int64s" | "classlabels_ints" if !attribute.ints.is_empty() => {
                    return attribute.ints.iter().map(ToString::to_string).collect();
                }
                _ => {}
            }
        }
    }
    Vec::new()
}
