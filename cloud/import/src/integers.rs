//! Quantised models that take or give integers, as files of TensorFlow Lite do: what reads their answers wants real numbers.

use flotilla_onnx::Model;
use flotilla_onnx::pb::tensor_proto::DataType;
use flotilla_onnx::pb::type_proto::Value as Kind;
use flotilla_onnx::pb::{GraphProto, NodeProto, ValueInfoProto};

/// The model with floats where it gave integers of a scale, and, with `inputs`, where it took them; none where there are
/// no such ones.
pub(crate) fn to_floats(model: &Model, inputs: bool) -> Option<Model> {
    let mut proto = model.clone().into_proto();
    let graph = proto.graph.as_mut()?;
    let mut changed = outputs(graph);
    if inputs {
        changed |= self::inputs(graph);
    }
    if changed { Model::from_proto(proto).ok() } else { None }
}

fn outputs(graph: &mut GraphProto) -> bool {
    let mut changed = false;
    for place in 0..graph.output.len() {
        let name = graph.output[place].name.clone();
        let made_by =
            |node: &&NodeProto| node.op_type == "QuantizeLinear" && node.output.first() == Some(&name);
        let Some(maker) = graph.node.iter().find(made_by) else { continue };
        let scale: Vec<String> = maker.input.iter().skip(1).cloned().collect();
        if !is_integer(&graph.output[place]) || scale.is_empty() {
            continue;
        }
        let integers = format!("{name}.integers");
        for node in &mut graph.node {
            rename(&mut node.input, &name, &integers);
            rename(&mut node.output, &name, &integers);
        }
        let mut input = vec![integers];
        input.extend(scale);
        graph.node.push(node("DequantizeLinear", input, &name));
        make_float(&mut graph.output[place]);
        changed = true;
    }
    changed
}

fn inputs(graph: &mut GraphProto) -> bool {
    let mut changed = false;
    for place in 0..graph.input.len() {
        let name = graph.input[place].name.clone();
        let read_by =
            |node: &&NodeProto| node.op_type == "DequantizeLinear" && node.input.first() == Some(&name);
        let Some(reader) = graph.node.iter().find(read_by) else { continue };
        let scale: Vec<String> = reader.input.iter().skip(1).cloned().collect();
        if !is_integer(&graph.input[place]) || scale.is_empty() {
            continue;
        }
        let integers = format!("{name}.integers");
        for node in &mut graph.node {
            rename(&mut node.input, &name, &integers);
        }
        let mut input = vec![name.clone()];
        input.extend(scale);
        graph.node.insert(0, node("QuantizeLinear", input, &integers));
        make_float(&mut graph.input[place]);
        changed = true;
    }
    changed
}

fn node(operator: &str, input: Vec<String>, output: &str) -> NodeProto {
    NodeProto {
        op_type: operator.into(),
        name: format!("{output}.{operator}"),
        input,
        output: vec![output.into()],
        ..NodeProto::default()
    }
}

fn rename(names: &mut [String], from: &str, to: &str) {
    for name in names.iter_mut().filter(|name| *name == from) {
        to.clone_into(name);
    }
}

fn is_integer(value: &ValueInfoProto) -> bool {
    let Some(Kind::TensorType(tensor)) = value.r#type.as_ref().and_then(|kind| kind.value.as_ref()) else {
        return false;
    };
    matches!(DataType::try_from(tensor.elem_type), Ok(DataType::Int8 | DataType::Uint8))
}

fn make_float(value: &mut ValueInfoProto) {
    if let Some(Kind::TensorType(tensor)) = value.r#type.as_mut().and_then(|kind| kind.value.as_mut()) {
        tensor.elem_type = DataType::Float.into();
    }
}
