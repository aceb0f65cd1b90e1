//! What is left after changes to the whole graph.
#![expect(clippy::unwrap_used, reason = "tests fail by panicking")]

use super::short;
use crate::{GraphBuilder, Model, Node, Value};

fn model() -> Model {
    GraphBuilder::new("g")
        .input(Value::f32("a", [1_usize, 2]))
        .output(Value::f32("y", [1_usize, 2]))
        .initializer_f32("one", &[2], vec![1.0, 1.0])
        .initializer_f32("same", &[2], vec![1.0, 1.0])
        .initializer_f32("row", &[1, 2], vec![1.0, 1.0])
        .node(Node::new("Add", ["a", "one"], ["a_long_name"]))
        .node(Node::new("Mul", ["a_long_name", "same"], ["side"]))
        .node(Node::new("Sub", ["a_long_name", "row"], ["y"]))
        .build()
        .unwrap()
}

#[test]
fn equal_constants_are_kept_once() {
    let mut model = model();
    assert_eq!(model.share_initializers(), 1);
    assert_eq!(model.nodes()[1].input, ["a_long_name", "one"]);
    assert!(model.initializer("row").is_some(), "other dimensions, another constant");
    model.check_order().unwrap();
}

#[test]
fn short_names_are_unique_and_leave_inputs_and_outputs() {
    let mut model = model();
    model.shorten_names();
    model.check_order().unwrap();
    assert_eq!((model.inputs()[0].name.as_str(), model.outputs()[0].name.as_str()), ("a", "y"));
    assert_eq!(model.nodes()[0].input, ["a", "b"], "`a` is the input's");
    assert!(model.nodes().iter().all(|node| node.name.is_empty()));
    let names: Vec<String> = [0, 25, 26, 27, 701, 702].map(short).into();
    assert_eq!(names, ["a", "z", "aa", "ab", "zz", "aaa"]);
}

#[test]
fn exposing_a_value_leaves_only_what_it_needs() {
    let mut model = model();
    model.expose(&["side"]).unwrap();
    model.check_order().unwrap();
    assert_eq!((model.nodes().len(), model.initializers().len()), (2, 2));
    assert!(model.expose(&["nowhere"]).is_err());
}

#[test]
fn operator_sets_and_notes_change_as_told() {
    let mut model = model();
    model.require_opset("com.microsoft", 1);
    model.require_opset("", 7);
    assert_eq!(model.opset(), 13, "never lowered");
    assert!(model.opsets().any(|set| set == ("com.microsoft", 1)));
    model.require_ir_version(9);
    assert_eq!(model.ir_version(), 9);
    assert_eq!(model.replace_node(1, Node::new("Relu", ["a"], ["side"])).unwrap().op_type, "Mul");
    assert!(model.replace_node(3, Node::new("Relu", ["a"], ["z"])).is_err());
}
