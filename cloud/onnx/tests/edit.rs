//! Changing a model keeps it whole, or says why it cannot.
#![expect(clippy::unwrap_used, reason = "tests fail by panicking")]

use flotilla_onnx::{Dim, Error, GraphBuilder, Model, Node, Tensor, Value, pb, tensor_f32, tensor_i8};

/// Two layers that read the same weights.
fn shared() -> Model {
    GraphBuilder::new("shared")
        .input(Value::f32("x", [Dim::from("N"), Dim::from(2)]))
        .output(Value::f32("y", [Dim::from("N"), Dim::from(2)]))
        .initializer_f32("w", &[2, 2], vec![1.0, 2.0, 3.0, 4.0])
        .node(Node::new("MatMul", ["x", "w"], ["h"]))
        .node(Node::new("Relu", ["h"], ["r"]))
        .node(Node::new("MatMul", ["r", "w"], ["y"]))
        .build()
        .unwrap()
}

fn run(model: &Model, input: [f32; 2]) -> Vec<f32> {
    use tract_onnx::prelude::*;
    let read = onnx().model_for_read(&mut model.write().as_slice()).unwrap();
    let read = read.with_input_fact(0, f32::fact([1, 2]).into()).unwrap();
    let runnable = read.into_optimized().unwrap().into_runnable().unwrap();
    let out = runnable.run(tvec!(tensor2(&[input]).into())).unwrap();
    out[0].to_plain_array_view::<f32>().unwrap().iter().copied().collect()
}

#[test]
fn weights_become_int8_with_a_cast_and_a_scale_before_their_readers() {
    let mut model = shared();
    let before = run(&model, [1.0, -0.25]);
    assert_eq!(model.consumers_of("w"), [0, 2]);
    model.remove_initializer("w").unwrap();
    assert!(matches!(model.check_order(), Err(Error::Undefined { value, .. }) if value == "w"));
    let quantised = Tensor::new("w_int8", [2, 2], vec![25_i8, 50, 75, 100]).unwrap();
    model.add_initializer(tensor_i8("w_int8", &quantised)).unwrap();
    let scale = Tensor::new("w_scale", [1, 1], vec![0.04_f32]).unwrap();
    model.add_initializer(tensor_f32("w_scale", &scale)).unwrap();
    let cast = Node::new("Cast", ["w_int8"], ["w_cast"]).int("to", 1);
    let mul = Node::new("Mul", ["w_cast", "w_scale"], ["w"]);
    model.insert_nodes(0, [cast, mul]).unwrap();
    model.check_order().unwrap();
    let after = run(&model, [1.0, -0.25]);
    for (a, b) in after.iter().zip(&before) {
        assert!((a - b).abs() < 1e-5, "{after:?} {before:?}");
    }
}

#[test]
fn a_renamed_value_is_renamed_for_its_maker_and_all_readers() {
    let mut model = shared();
    assert!(model.rename("h", "hidden").unwrap());
    assert!(model.rename("w", "weights").unwrap());
    assert!(model.rename("x", "image").unwrap());
    assert!(!model.rename("nothing", "else").unwrap());
    model.check_order().unwrap();
    assert_eq!(model.nodes()[0].input, ["image", "weights"]);
    assert_eq!(model.inputs()[0].name, "image");
    assert!(matches!(model.rename("r", "weights"), Err(Error::Duplicate { .. })));
    assert!(matches!(model.rename("r", ""), Err(Error::NoName { .. })));
    assert_eq!(run(&model, [1.0, 1.0]), run(&shared(), [1.0, 1.0]));
}

#[test]
fn changes_that_would_break_the_graph_are_refused() {
    let mut model = shared();
    let taken = tensor_f32("h", &Tensor::new("h", [1], vec![0.0]).unwrap());
    assert!(matches!(model.add_initializer(taken.clone()), Err(Error::Duplicate { .. })));
    assert!(matches!(model.replace_initializer(taken), Err(Error::NoTensor { .. })));
    assert!(matches!(model.remove_initializer("none"), Err(Error::NoTensor { .. })));
    let relu = Node::new("Relu", ["x"], ["h"]);
    assert!(matches!(model.insert_nodes(0, [relu.clone()]), Err(Error::Duplicate { .. })));
    assert!(matches!(model.insert_nodes(4, [relu]), Err(Error::Place { index: 4, nodes: 3 })));
    assert!(matches!(model.remove_node(3), Err(Error::Place { .. })));
    assert_eq!(model, shared(), "a refused change changes nothing");
}

#[test]
fn unused_constants_go_and_used_ones_stay() {
    let mut model = shared();
    for name in ["a", "b"] {
        let tensor = Tensor::new(name, [1], vec![0.0]).unwrap();
        model.add_initializer(tensor_f32(name, &tensor)).unwrap();
    }
    assert_eq!(model.remove_unused_initializers(), 2);
    assert_eq!(model, shared());
}

#[test]
fn fresh_names_are_not_taken() {
    let model = shared();
    assert_eq!(model.fresh_name("w_int8"), "w_int8");
    assert_eq!(model.fresh_name("w"), "w_2");
    assert!(!model.fresh_name("").is_empty());
}

/// What an `If` reads inside its branches counts as read by the `If`, and is renamed there, but for names of its own.
#[test]
fn inner_graphs_are_followed() {
    let mut model = shared();
    let value = |name: &str| pb::ValueInfoProto { name: name.into(), ..pb::ValueInfoProto::default() };
    let branch = |inner: &str| pb::GraphProto {
        node: vec![Node::new("Identity", ["w"], [inner]).into(), Node::new("Relu", [inner], ["out"]).into()],
        output: vec![value("out")],
        ..pb::GraphProto::default()
    };
    let attribute = |name: &str, graph| pb::AttributeProto {
        name: name.into(),
        r#type: pb::attribute_proto::AttributeType::Graph as i32,
        g: Some(graph),
        ..pb::AttributeProto::default()
    };
    let mut node = pb::NodeProto::from(Node::new("If", ["x"], ["z"]));
    node.attribute.extend([attribute("then_branch", branch("h2")), attribute("else_branch", branch("x"))]);
    model.insert_nodes(3, [node.into()]).unwrap();
    assert_eq!(model.consumers_of("w"), [0, 2, 3]);
    assert_eq!(model.consumers_of("h2"), Vec::<usize>::new());
    assert!(model.rename("w", "weights").unwrap());
    let inner = model.nodes()[3].attribute[0].g.as_ref().unwrap();
    assert_eq!(inner.node[0].input, ["weights"]);
    assert!(matches!(model.rename("weights", "h2"), Err(Error::Duplicate { .. })));
    // The second branch makes an `x` of its own while the outer one is visible: the format forbids that.
    assert!(matches!(model.check_order(), Err(Error::Duplicate { name }) if name == "x"));
}
