//! The form of the result: what stands in the file, and that engines read it as meant.

use flotilla_compress::{Clip, Error, Form, Recipe, SkipReason, Step, Weights};
use flotilla_onnx::{Model, Node, Tensor, tensor_f32};

use crate::support::{Noise, SIDE, difference, every_form, fragile, graph, run};

/// The integers and scales that make a weight.
fn stored(model: &Model, weight: &str) -> (Tensor<i8>, Tensor<f32>) {
    let mul = model.producer_of(weight).unwrap();
    let cast = model.producer_of(&mul.input[0]).unwrap();
    assert_eq!((mul.op_type.as_str(), cast.op_type.as_str()), ("Mul", "Cast"));
    (model.tensor_i8(&cast.input[0]).unwrap(), model.tensor_f32(&mul.input[1]).unwrap())
}

/// The integers and scales that make a weight, multiplied by hand.
fn dequantised(model: &Model, weight: &str) -> Tensor<f32> {
    let (values, scales) = stored(model, weight);
    assert_eq!(values.dims.len(), scales.dims.len());
    let axis = scales.dims.iter().position(|&d| d > 1).unwrap();
    assert_eq!(scales.data.len(), values.dims[axis], "one scale a channel");
    let inner: usize = values.dims[axis + 1..].iter().product();
    let scale = |place: usize| scales.data[place / inner % values.dims[axis]];
    let data = values.data.iter().enumerate().map(|(place, &v)| f32::from(v) * scale(place)).collect();
    Tensor { dims: values.dims, data }
}

const WEIGHTS: [&str; 7] = ["conv", "depthwise", "left", "shared", "made", "rows", "columns"];

/// The float model with the weights that `int8` stands for, one of them perhaps a hundredth too large.
fn by_hand(int8: &Model, wrong: Option<&str>) -> Vec<u8> {
    let mut model = every_form();
    let place = model.nodes().iter().position(|node| node.op_type == "Constant").unwrap();
    model.remove_node(place).unwrap();
    model.add_initializer(tensor_f32("made", &dequantised(int8, "made"))).unwrap();
    for weight in WEIGHTS {
        let mut tensor = dequantised(int8, weight);
        if wrong == Some(weight) {
            tensor.data.iter_mut().for_each(|v| *v *= 1.01);
        }
        model.replace_initializer(tensor_f32(weight, &tensor)).unwrap();
    }
    model.write()
}

#[test]
fn the_engine_computes_what_integers_times_scales_give() {
    let float = every_form().write();
    let onnx = Recipe::default().apply(&float).unwrap();
    let int8 = Model::read(&onnx).unwrap();
    let shape = [1, 1, SIDE, SIDE];
    for seed in 0..8 {
        let input = Noise(seed).values(SIDE * SIDE);
        let found = run(&onnx, &shape, &input);
        let off = difference(&run(&by_hand(&int8, None), &shape, &input), &found);
        assert!(off <= 1e-6, "{off}");
        let off = difference(&run(&float, &shape, &input), &found);
        assert!(off > 1e-5 && off <= 0.05, "{off}");
    }
    let input = Noise(0).values(SIDE * SIDE);
    let found = run(&onnx, &shape, &input);
    for weight in WEIGHTS {
        let off = difference(&run(&by_hand(&int8, Some(weight)), &shape, &input), &found);
        assert!(off > 1e-3, "a wrong scale of `{weight}` would be seen: {off}");
    }
}

#[test]
fn channels_lie_along_the_output_of_each_operator() {
    let model = Model::read(&Recipe::default().apply(&every_form().write()).unwrap()).unwrap();
    let scale_dims = |weight: &str| stored(&model, weight).1.dims;
    assert_eq!(scale_dims("conv"), [32, 1, 1, 1]);
    assert_eq!(scale_dims("depthwise"), [32, 1, 1, 1]);
    assert_eq!(scale_dims("left"), [16, 1], "rows of the left operand of MatMul");
    assert_eq!(scale_dims("shared"), [1, 32], "columns of the right operand of MatMul");
    assert_eq!(scale_dims("rows"), [48, 1], "rows where Gemm transposes");
    assert_eq!(scale_dims("columns"), [1, 10], "columns where Gemm does not");
}

#[test]
fn weights_become_cast_and_mul_under_their_own_names_and_the_rest_is_untouched() {
    let float = every_form();
    let int8 = Model::read(&Recipe::default().apply(&float.write()).unwrap()).unwrap();
    int8.check_order().unwrap();
    assert_eq!(int8.opset(), 13);
    assert_eq!(int8.inputs(), float.inputs());
    assert_eq!(int8.outputs(), float.outputs());
    assert_eq!(int8.tensor_f32("conv_bias").unwrap(), float.tensor_f32("conv_bias").unwrap());
    assert_eq!(int8.tensor_f32("tiny").unwrap(), float.tensor_f32("tiny").unwrap());
    assert_eq!(int8.consumers_of("shared").len(), 2, "a weight read twice is stored once");
    assert_eq!(stored(&int8, "shared").0.dims, [32, 32]);
    assert!(int8.constant("shared").is_none(), "the floats are gone");
    let (before, after) = (float.summary().operators, int8.summary().operators);
    assert_eq!((after["Cast"], after["Mul"]), (7, 7));
    assert!(!after.contains_key("Constant"), "it held a weight, and nothing else");
    assert!(before.iter().all(|(op, count)| op == "Constant" || after[op] == *count));
}

#[test]
fn names_that_are_taken_are_avoided() {
    let mut float = fragile();
    float.rename("s", "int8_0").unwrap();
    float.rename("r", "scale_1").unwrap();
    let int8 = Model::read(&Recipe::default().apply(&float.write()).unwrap()).unwrap();
    int8.check_order().unwrap();
    assert_eq!(int8.producer_of("int8_0").unwrap().op_type, "Gemm");
    assert_eq!((stored(&int8, "sums").0.dims, stored(&int8, "mix").1.dims), (vec![16, 256], vec![16, 1]));
}

#[test]
fn a_file_of_the_oldest_format_is_lifted_to_one_that_allows_the_form() {
    // Before version 4 every initialiser is an input too.
    let mut proto = fragile().into_proto();
    proto.ir_version = 3;
    let graph = proto.graph.as_mut().unwrap();
    let inputs = graph.initializer.iter().map(|t| {
        let dims = t.dims.iter().map(|&d| usize::try_from(d).unwrap());
        flotilla_onnx::pb::ValueInfoProto::from(flotilla_onnx::Value::f32(&t.name, dims))
    });
    let inputs: Vec<_> = inputs.collect();
    graph.input.extend(inputs);
    let old = Model::from_proto(proto).unwrap();
    let int8 = Model::read(&Recipe::default().apply(&old.write()).unwrap()).unwrap();
    assert_eq!(int8.ir_version(), 4);
    assert_eq!(int8.inputs().len(), 1);
    assert!(int8.graph().input.iter().all(|input| input.name != "mix"));
}

#[test]
fn a_weight_is_found_behind_a_reshape_and_notes_are_left_out() {
    let weights = Noise(9).values(16 * 16 * 10);
    let mut node = flotilla_onnx::pb::NodeProto::from(Node::new("Reshape", ["w", "shape"], ["w2"]));
    node.doc_string = "a long story of where this comes from".into();
    let float = graph("reshaped", 10)
        .initializer_f32("w", &[16, 16, 10], weights)
        .initializer_i64("shape", &[2], vec![256, 10])
        .node(node.into())
        .node(Node::new("Flatten", ["image"], ["f"]).int("axis", 1))
        .node(Node::new("Identity", ["w2"], ["w3"]))
        .node(Node::new("MatMul", ["f", "w3"], ["logits"]))
        .build()
        .unwrap();
    let float = float.write();
    let with_notes = Recipe::new(vec![Step::Weights(Weights::new(Form::Int8))]).apply(&float).unwrap();
    let onnx = Recipe::default().apply(&float).unwrap();
    assert!(onnx.len() + 37 < with_notes.len());
    let int8 = Model::read(&onnx).unwrap();
    assert_eq!(stored(&int8, "w").1.dims, [1, 1, 10]);
    let input = Noise(1).values(SIDE * SIDE);
    let shape = [1, 1, SIDE, SIDE];
    assert!(difference(&run(&float, &shape, &input), &run(&onnx, &shape, &input)) < 0.02);
}

#[test]
fn an_operator_set_without_broadcasting_is_refused() {
    let mut proto = fragile().into_proto();
    proto.opset_import[0].version = 6;
    let error = Recipe::default().apply(&Model::from_proto(proto).unwrap().write()).unwrap_err();
    assert!(matches!(error, Error::Opset { opset: 6, .. }), "{error}");
}

#[test]
fn a_model_that_is_compressed_already_says_so() {
    let once = Recipe::default().apply(&every_form().write()).unwrap();
    let error = Recipe::default().apply(&once).unwrap_err();
    let Error::NothingToCompress { skipped } = &error else { panic!("{error}") };
    let conv = skipped.iter().find(|s| s.name == "conv").unwrap();
    assert_eq!(conv.reason, SkipReason::Computed("Mul".into()));
    assert!(error.to_string().contains("`conv` of Conv is computed by Mul"), "{error}");
}

#[test]
fn weights_without_a_gain_stay_floats() {
    // Two elements a channel: the scales alone take twice the room that the integers save.
    let weights = Noise(5).values(SIDE * SIDE * 300);
    let model = graph("wide", 300)
        .initializer_f32("w", &[SIDE * SIDE, 300], weights)
        .initializer_f32("thin", &[1, 300], Noise(6).values(300))
        .initializer_f32("one", &[1, 1], vec![1.0])
        .node(Node::new("Flatten", ["image"], ["f"]).int("axis", 1))
        .node(Node::new("Gemm", ["f", "w"], ["g"]))
        .node(Node::new("MatMul", ["one", "thin"], ["t"]))
        .node(Node::new("Add", ["g", "t"], ["logits"]))
        .build()
        .unwrap();
    let int8 = Model::read(&Recipe::default().apply(&model.write()).unwrap()).unwrap();
    assert_eq!(stored(&int8, "w").1.dims, [1, 300]);
    assert!(int8.initializer("thin").is_some());
}

#[test]
fn recipes_that_cannot_be_meant_are_refused() {
    let onnx = fragile().write();
    let int8 = || Weights::new(Form::Int8);
    let recipe = |weights| Recipe::new(vec![Step::Weights(weights)]);
    for named in [
        Weights { except: vec!["head".into()], ..int8() },
        Weights { only: vec!["head".into()], ..int8() },
        Weights { only: vec!["head".into()], ..Weights::new(Form::F16) },
    ] {
        let error = recipe(named).apply(&onnx).unwrap_err();
        assert!(matches!(&error, Error::UnknownLayer { name, .. } if name == "head"), "{error}");
        assert!(error.to_string().contains("mix"), "it says which names there are: {error}");
    }
    for (field, bad) in [
        ("min_elements", Weights { min_elements: 0, ..int8() }),
        ("clip", Weights { clip: Clip::Mse(vec![]), ..int8() }),
        ("clip", Weights { clip: Clip::Mse(vec![0]), ..int8() }),
        ("clip", Weights { clip: Clip::Mse(vec![101]), ..int8() }),
        ("clip", Weights { clip: Clip::Mse(vec![50; 33]), ..int8() }),
        ("clip", Weights { clip: Clip::Percentile(0), ..int8() }),
        ("clip", Weights { clip: Clip::Percentile(10_001), ..int8() }),
        ("except", Weights { except: vec!["sums".into(); 1025], ..int8() }),
    ] {
        let error = recipe(bad).apply(&onnx).unwrap_err();
        assert!(matches!(&error, Error::Recipe { field: f, .. } if *f == field), "{field}: {error}");
    }
    for (field, bad) in [
        ("format", Recipe { format: 3, ..Recipe::default() }),
        ("steps", Recipe::new(vec![])),
        ("steps", Recipe::new(vec![Step::Tidy {}; 2])),
        ("steps", Recipe::new(vec![Step::Tidy {}, Step::Fold {}])),
        ("steps", Recipe::new(vec![Step::Fold {}; 65])),
        ("rounds", Recipe::new(vec![Step::Equalise { rounds: 0 }])),
    ] {
        let error = bad.apply(&onnx).unwrap_err();
        assert!(matches!(&error, Error::Recipe { field: f, .. } if *f == field), "{field}: {error}");
    }
}
