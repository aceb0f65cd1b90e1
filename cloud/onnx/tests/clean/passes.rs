//! What single passes do, and what is refused.

use std::collections::BTreeMap;

use flotilla_onnx::clean::{LABELS, Options, clean, infer, missing_operators};
use flotilla_onnx::{Attributes, Dim, Error, GraphBuilder, Model, Node, Value, pb};

use crate::support::{difference, floats, noise, run};

fn graph() -> GraphBuilder {
    let dims = || [Dim::from("N"), Dim::from(4)];
    GraphBuilder::new("g").input(Value::f32("x", dims())).output(Value::f32("y", dims()))
}

fn operators(model: &Model) -> Vec<&str> {
    model.nodes().iter().map(|node| node.op_type.as_str()).collect()
}

#[test]
fn nodes_that_do_nothing_go_and_names_of_outputs_stay() {
    let mut model = graph()
        .initializer_i64("none", &[4], vec![0; 4])
        .node(Node::new("Identity", ["x"], ["a"]))
        .node(Node::new("Relu", ["a"], ["b"]))
        .node(Node::new("Transpose", ["b"], ["c"]).ints("perm", [0, 1]))
        .node(Node::new("Pad", ["c", "none"], ["d"]))
        .node(Node::new("Dropout", ["d"], ["e", "mask"]))
        .node(Node::new("Concat", ["e"], ["f"]).int("axis", 0))
        .node(Node::new("Identity", ["f"], ["y"]))
        .build()
        .unwrap();
    let input = floats(&[1, 4], &noise(1, 4));
    let before = run(&model, std::slice::from_ref(&input)).unwrap();
    clean(&mut model, &Options::default()).unwrap();
    assert_eq!((operators(&model), model.nodes()[0].output[0].as_str()), (vec!["Relu"], "y"));
    assert_eq!(difference(&run(&model, &[input]).unwrap()["y"], &before["y"]), 0.0);
    assert!(model.initializers().is_empty());
}

#[test]
fn an_input_that_is_also_an_output_keeps_both_names() {
    let mut model = graph().node(Node::new("Identity", ["x"], ["y"])).build().unwrap();
    clean(&mut model, &Options::default()).unwrap();
    let input = floats(&[1, 4], &noise(1, 4));
    assert_eq!(difference(&run(&model, std::slice::from_ref(&input)).unwrap()["y"], &input), 0.0);
}

#[test]
fn two_outputs_of_one_value_stay_two() {
    let mut model = graph()
        .output(Value::f32("z", [Dim::from("N"), Dim::from(4)]))
        .node(Node::new("Neg", ["x"], ["a"]))
        .node(Node::new("Identity", ["a"], ["y"]))
        .node(Node::new("Identity", ["a"], ["z"]))
        .build()
        .unwrap();
    let input = floats(&[1, 4], &noise(1, 4));
    let before = run(&model, std::slice::from_ref(&input)).unwrap();
    clean(&mut model, &Options::default()).unwrap();
    let after = run(&model, &[input]).unwrap();
    assert!(difference(&after["y"], &before["y"]) + difference(&after["z"], &before["z"]) == 0.0);
}

#[test]
fn what_no_output_needs_goes() {
    let mut model = graph()
        .initializer_f32("w", &[4], noise(1, 4))
        .initializer_f32("unread", &[4], noise(2, 4))
        .node(Node::new("Mul", ["x", "w"], ["dead"]))
        .node(Node::new("Exp", ["dead"], ["deader"]))
        .node(Node::new("Relu", ["x"], ["y"]))
        .build()
        .unwrap();
    let cleaned = clean(&mut model, &Options::default()).unwrap();
    assert_eq!((operators(&model), model.initializers().len(), cleaned.changes()), (vec!["Relu"], 0, 6));
}

#[test]
fn the_batch_is_one_and_other_open_dimensions_are_asked_for() {
    let dims = || vec![Dim::from("N"), Dim::from("T"), Dim::Unknown];
    let value = |name: &str| Value { dims: Some(dims()), ..Value::f32(name, [1]) };
    let build = || {
        let graph = GraphBuilder::new("g").input(value("x")).output(value("y"));
        graph.node(Node::new("Relu", ["x"], ["y"])).build().unwrap()
    };
    let mut model = build();
    let cleaned = clean(&mut model, &Options::default()).unwrap();
    assert_eq!(model.inputs()[0].to_string(), "x: FLOAT[1,T,?]");
    assert!(cleaned.notes.iter().any(|note| note.contains("`T`")), "{cleaned:?}");
    assert!(cleaned.notes.iter().any(|note| note.contains("`x[2]`")), "{cleaned:?}");
    let mut model = build();
    let dimensions = BTreeMap::from([("T".to_owned(), 5), ("x[2]".to_owned(), 7)]);
    let cleaned = clean(&mut model, &Options { batch: 2, dimensions, ..Options::default() }).unwrap();
    assert_eq!(model.inputs()[0].to_string(), "x: FLOAT[2,5,7]");
    assert_eq!(model.outputs()[0].to_string(), "y: FLOAT[2,5,7]");
    assert!(cleaned.notes.is_empty(), "{cleaned:?}");
}

#[test]
fn a_map_behind_probabilities_is_taken_away_and_labels_are_kept_as_metadata() {
    let classifier = Node::new("LinearClassifier", ["x"], ["label", "scores"])
        .domain("ai.onnx.ml")
        .floats("coefficients", noise(1, 8))
        .floats("intercepts", [0.0, 0.1])
        .int("multi_class", 1)
        .string("post_transform", "SOFTMAX");
    let mut classifier = pb::NodeProto::from(classifier);
    classifier.attribute.push(pb::AttributeProto {
        name: "classlabels_strings".into(),
        r#type: pb::attribute_proto::AttributeType::Strings as i32,
        strings: vec![b"good".to_vec(), b"bad".to_vec()],
        ..pb::AttributeProto::default()
    });
    let mut proto = GraphBuilder::new("g")
        .input(Value::f32("x", [Dim::from("N"), Dim::from(4)]))
        .output(Value { data_type: Some(flotilla_onnx::DataType::String), ..Value::f32("label", ["N"]) })
        .output(Value { data_type: None, dims: None, name: "map".into() })
        .node(classifier.into())
        .node(Node::new("ZipMap", ["scores"], ["map"]).domain("ai.onnx.ml"))
        .build()
        .unwrap()
        .into_proto();
    proto.opset_import.push(pb::OperatorSetIdProto { domain: "ai.onnx.ml".into(), version: 2 });
    let mut model = Model::from_proto(proto).unwrap();
    clean(&mut model, &Options::default()).unwrap();
    let outputs: Vec<String> = model.outputs().iter().map(ToString::to_string).collect();
    assert_eq!(outputs, ["scores: FLOAT[1,2]"]);
    assert_eq!(model.metadata_value(LABELS), Some("good\nbad"));
}

#[test]
fn models_in_training_mode_and_ancient_ones_are_refused() {
    let mode = flotilla_onnx::Tensor::new("m", [], vec![1.0_f32]).unwrap();
    let mut truth = flotilla_onnx::tensor_f32("m", &mode);
    truth.data_type = flotilla_onnx::DataType::Bool as i32;
    truth.raw_data = vec![1];
    let mut model = graph()
        .initializer_f32("ratio", &[], vec![0.5])
        .node(Node::new("Constant", [""; 0], ["on"]).tensor("value", truth))
        .node(Node::new("Dropout", ["x", "ratio", "on"], ["y"]))
        .build()
        .unwrap();
    assert!(matches!(clean(&mut model, &Options::default()), Err(Error::Training { .. })));
    let mut model = graph().opset(6).node(Node::new("Relu", ["x"], ["y"])).build().unwrap();
    assert!(matches!(clean(&mut model, &Options::default()), Err(Error::OldOpset { opset: 6 })));
}

#[test]
fn operators_that_the_engine_lacks_are_named_with_advice() {
    let model = graph()
        .node(Node::new("ImageScaler", ["x"], ["a"]))
        .node(Node::new("Swizzle", ["a"], ["b"]))
        .node(Node::new("Swizzle", ["b"], ["c"]))
        .node(Node::new("Relu", ["c"], ["d"]).domain("org.example"))
        .node(Node::new("Relu", ["d"], ["y"]))
        .build()
        .unwrap();
    let missing = missing_operators(&model);
    let named: Vec<_> = missing.iter().map(|m| (m.operator.as_str(), m.count)).collect();
    assert_eq!(named, [("ImageScaler", 1), ("Swizzle", 2), ("org.example.Relu", 1)]);
    assert!(
        missing[0].advice.contains("retired") && missing[2].advice.contains("org.example"),
        "{missing:?}"
    );
}

#[test]
fn large_constants_stay_computed_so_that_files_stay_small() {
    let mut model = graph()
        .initializer_i8("q", &[80, 80], vec![3; 6400])
        .initializer_f32("scale", &[80, 1], noise(1, 80))
        .node(Node::new("Cast", ["q"], ["f"]).int("to", 1))
        .node(Node::new("Mul", ["f", "scale"], ["w"]))
        .node(Node::new("ReduceSum", ["w"], ["s"]).int("keepdims", 0))
        .node(Node::new("Add", ["x", "s"], ["y"]))
        .build()
        .unwrap();
    let before = model.write().len();
    clean(&mut model, &Options::default()).unwrap();
    assert!(model.write().len() <= before, "{}", model.write().len());
    assert_eq!(model.nodes()[0].int("to"), Some(1));
}

#[test]
fn nodes_that_ask_for_gigabytes_are_refused_before_the_engine_sees_them() {
    let graph = || GraphBuilder::new("g").input(Value::f32("x", [1])).output(Value::f32("y", [1]));
    let huge = i64::from(i32::MAX);
    let shape = graph()
        .initializer_i64("s", &[2], vec![40_000, 40_000])
        .node(Node::new("ConstantOfShape", ["s"], ["c"]))
        .node(Node::new("Add", ["x", "c"], ["y"]));
    let chain = graph()
        .initializer_i64("s", &[1], vec![100_000])
        .node(Node::new("Mul", ["s", "s"], ["t"]))
        .node(Node::new("Expand", ["x", "t"], ["y"]));
    let pads = graph().initializer_i64("p", &[2], vec![0, huge]).node(Node::new("Pad", ["x", "p"], ["y"]));
    let window = graph()
        .node(Node::new("AveragePool", ["x"], ["y"]).ints("kernel_shape", [1]).ints("pads", [0, huge]));
    let input = GraphBuilder::new("g")
        .input(Value::f32("x", [usize::MAX / 8, 8]))
        .output(Value::f32("y", [1]))
        .node(Node::new("Relu", ["x"], ["y"]));
    for graph in [shape, chain, pads, window, input] {
        let mut model = graph.build().unwrap();
        let refused = clean(&mut model, &Options::default());
        assert!(matches!(refused, Err(Error::TooManyElements { .. })), "{refused:?}");
    }
}

#[test]
fn an_axis_that_no_value_has_is_refused_and_sizes_that_do_not_fit_are_told() {
    let graph = || GraphBuilder::new("g").input(Value::f32("x", [1, 4])).output(Value::f32("y", [1, 4]));
    // The engine would count up to it.
    let mut model = graph().node(Node::new("Softmax", ["x"], ["y"]).int("axis", i64::MAX)).build().unwrap();
    assert!(matches!(clean(&mut model, &Options::default()), Err(Error::Axis { axis: i64::MAX, .. })));
    let mut model = graph()
        .initializer_f32("w", &[3], vec![0.0; 3])
        .node(Node::new("Add", ["x", "w"], ["a"]))
        .node(Node::new("Relu", ["a"], ["y"]))
        .build()
        .unwrap();
    clean(&mut model, &Options::default()).unwrap();
    let problem = infer(&model).problem;
    assert!(problem.as_ref().is_some_and(|problem| problem.contains("do not fit")), "{problem:?}");
}

/// An `If` that doubles `x` where the condition holds, and takes two away where not.
fn either(condition: &str) -> Node {
    let branch = |op: &str| {
        let one = flotilla_onnx::Tensor::new("k", [], vec![2.0_f32]).unwrap();
        pb::GraphProto {
            name: op.into(),
            node: vec![
                Node::new("Constant", [""; 0], ["k"])
                    .tensor("value", flotilla_onnx::tensor_f32("", &one))
                    .into(),
                Node::new(op, ["x", "k"], ["inner"]).into(),
            ],
            output: vec![Value::f32("inner", [1, 4]).into()],
            ..pb::GraphProto::default()
        }
    };
    let mut node = pb::NodeProto::from(Node::new("If", [condition], ["chosen"]));
    for (name, op) in [("then_branch", "Mul"), ("else_branch", "Sub")] {
        node.attribute.push(pb::AttributeProto {
            name: name.into(),
            r#type: pb::attribute_proto::AttributeType::Graph as i32,
            g: Some(branch(op)),
            ..pb::AttributeProto::default()
        });
    }
    node.into()
}

#[test]
fn a_branch_that_is_always_taken_stands_in_the_graph() {
    let node = either("squeezed");
    // As PyTorch asks whether a dimension is one.
    let mut model = graph()
        .initializer_i64("place", &[], vec![0])
        .initializer_i64("one", &[], vec![1])
        .node(Node::new("Shape", ["x"], ["shape"]))
        .node(Node::new("Gather", ["shape", "place"], ["dim"]))
        .node(Node::new("Equal", ["dim", "one"], ["squeezed"]))
        .node(node)
        .node(Node::new("Relu", ["chosen"], ["y"]))
        .build()
        .unwrap();
    let cleaned = clean(&mut model, &Options::default()).unwrap();
    assert_eq!(operators(&model), ["Mul", "Relu"], "{cleaned:?}");
    let values = noise(1, 4);
    let doubled: Vec<f32> = values.iter().map(|value| (value * 2.0).max(0.0)).collect();
    let answers = run(&model, &[floats(&[1, 4], &values)]).unwrap();
    assert_eq!(difference(&answers["y"], &floats(&[1, 4], &doubled)), 0.0);
}

#[test]
fn an_input_of_one_value_becomes_a_constant_and_decides_branches() {
    let build = || {
        graph()
            .input(Value {
                data_type: Some(flotilla_onnx::DataType::Int64),
                dims: Some(Vec::new()),
                name: "sr".into(),
            })
            .initializer_i64("rate", &[], vec![16000])
            .node(Node::new("Equal", ["sr", "rate"], ["wide"]))
            .node(either("wide"))
            .node(Node::new("Relu", ["chosen"], ["y"]))
            .build()
            .unwrap()
    };
    for (rate, operator) in [(16000.0, "Mul"), (8000.0, "Sub")] {
        let mut model = build();
        let fixed = BTreeMap::from([("sr".to_owned(), rate)]);
        clean(&mut model, &Options { fixed, ..Options::default() }).unwrap();
        assert_eq!((operators(&model), model.inputs().len()), (vec![operator, "Relu"], 1));
    }
    let fixed = BTreeMap::from([("rate".to_owned(), 1.0)]);
    let refused = clean(&mut build(), &Options { fixed, ..Options::default() });
    assert!(matches!(refused, Err(Error::NoInput { .. })), "{refused:?}");
}
