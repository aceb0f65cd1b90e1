//! Loading and running models.

use crate::support::{engine, halves, run};
use flotilla_onnx::{DataType, Dim, GraphBuilder, Node, Value};
use flotilla_protocol::ErrorCode;
use flotilla_protocol::pipeline::TensorKind;
use flotilla_runtime::Error;
use flotilla_runtime::Values;
use flotilla_runtime::engine::{Engine, Given};

fn identity(op: &str, shape: &[usize]) -> Vec<u8> {
    let dims = || shape.iter().map(|&dim| Dim::Fixed(dim));
    GraphBuilder::new("identity")
        .input(Value::f32("x", dims()))
        .output(Value::f32("y", dims()))
        .node(Node::new(op, ["x"], ["y"]))
        .build()
        .unwrap()
        .write()
}

#[test]
fn open_and_fixed_batches_load_for_one_input() {
    for batch in [Dim::Symbol("N".into()), Dim::Unknown, Dim::Fixed(1), Dim::Fixed(8)] {
        let mut engine = engine(&halves(batch.clone()), &[1, 1, 2, 2]).unwrap();
        assert_eq!(
            (&engine.inputs().next().unwrap().shape[..], &engine.outputs()[0].shape[..]),
            (&[1, 1, 2, 2][..], &[1, 2][..]),
            "{batch}"
        );
        assert_eq!(run(&mut engine, &[1.0, 2.0, 3.0, 4.0]).unwrap(), [4.0, 6.0]);
        assert_eq!(run(&mut engine, &[0.0, 0.5, 0.0, 0.5]).unwrap(), [0.0, 1.0], "the state is clean again");
    }
}

#[test]
fn any_rank_can_be_run() {
    for shape in [&[1, 3][..], &[1, 2, 3], &[1, 2, 1, 2, 1]] {
        let count = shape.iter().product::<usize>();
        let input: Vec<f32> = (0..count).map(|value| value as f32).collect();
        assert_eq!(run(&mut engine(&identity("Relu", shape), shape).unwrap(), &input).unwrap(), input);
    }
}

#[test]
fn a_model_for_other_inputs_is_refused_with_both_shapes() {
    let error = engine(&halves(1), &[1, 3, 2, 2]).unwrap_err();
    assert!(matches!(&error, Error::InputShape { pipeline, .. } if pipeline == &[1, 3, 2, 2]), "{error}");
    assert_eq!(error.code(), ErrorCode::ModelInvalid);
    for shape in [&[1, 1, 2][..], &[1, 1, 1, 2, 2], &[]] {
        assert!(matches!(engine(&halves("N"), shape), Err(Error::InputShape { .. })), "{shape:?}");
    }
    assert!(matches!(engine(&halves(1), &[1, 0, 2, 2]), Err(Error::Interface(_))));
    assert!(matches!(engine(&halves(1), &[usize::MAX, 2]), Err(Error::Interface(_))));
}

#[test]
fn a_tensor_of_the_wrong_length_is_refused() {
    let mut engine = engine(&halves(1), &[1, 1, 2, 2]).unwrap();
    assert!(matches!(run(&mut engine, &[1.0; 3]), Err(Error::TensorLength { got: 3, need: 4 })));
    assert_eq!(run(&mut engine, &[1.0; 4]).unwrap(), [2.0, 2.0], "the engine still works");
}

#[test]
fn an_unknown_operator_is_named() {
    let error = engine(&identity("FlyToTheMoon", &[1, 4]), &[1, 4]).unwrap_err();
    assert!(matches!(error.code(), ErrorCode::ModelUnsupported | ErrorCode::ModelInvalid));
    assert!(error.detail().contains("FlyToTheMoon"), "{}", error.detail());
}

fn value(name: &str) -> Value {
    Value::f32(name, [1_usize, 2])
}

fn given(name: &str, kind: TensorKind) -> Given {
    Given { name: Some(name.into()), kind: Some(kind), shape: vec![1, 2] }
}

#[test]
fn several_inputs_and_outputs_of_any_kind_go_by_their_names() {
    let model = GraphBuilder::new("several")
        .input(value("a"))
        .input(Value { data_type: Some(DataType::Int64), ..value("b") })
        .output(value("sum"))
        .output(Value { data_type: Some(DataType::Int32), ..value("whole") })
        .node(Node::new("Cast", ["b"], ["c"]).int("to", DataType::Float as i64))
        .node(Node::new("Add", ["a", "c"], ["sum"]))
        .node(Node::new("Cast", ["b"], ["whole"]).int("to", DataType::Int32 as i64))
        .build()
        .unwrap()
        .write();
    // In the order in which the caller gives them.
    let inputs = [given("b", TensorKind::Int64), given("a", TensorKind::Fp32)];
    let mut engine = Engine::load(&model, &inputs).unwrap();
    let outputs: Vec<_> = engine.outputs().iter().map(|port| (port.name.as_str(), port.kind)).collect();
    assert_eq!(outputs, [("sum", TensorKind::Fp32), ("whole", TensorKind::Int32)]);
    let (b, a) = (Values::Int64(vec![1, -2]), Values::Fp32(vec![0.5, 0.5]));
    assert_eq!(engine.run(&[&b, &a]).unwrap(), [Values::Fp32(vec![1.5, -1.5]), Values::Int32(vec![1, -2])]);
    assert!(matches!(engine.run(&[&a, &b]), Err(Error::Interface(_))), "kinds are not mixed up");
    assert!(matches!(engine.run(&[&b]), Err(Error::Interface(_))));
}

#[test]
fn inputs_that_the_caller_does_not_know_are_named() {
    let sum = GraphBuilder::new("sum")
        .input(value("a"))
        .input(value("b"))
        .output(value("y"))
        .node(Node::new("Add", ["a", "b"], ["y"]))
        .build()
        .unwrap()
        .write();
    let (a, b) = (given("a", TensorKind::Fp32), given("b", TensorKind::Fp32));
    let free = Given::of(&[1, 2]);
    for (given, word) in [
        (vec![free.clone()], "what b is"),
        (vec![a.clone()], "what b is"),
        (vec![a.clone(), given("c", TensorKind::Fp32)], "no input c; it has a, b"),
        (vec![a.clone(), given("b", TensorKind::Int8)], "holds FP32, not INT8"),
        (vec![], "what a, b is"),
    ] {
        let error = Engine::load(&sum, &given).unwrap_err();
        assert!(error.detail().contains(word), "{given:?}: {}", error.detail());
        assert_eq!(error.code(), ErrorCode::ModelUnsupported);
    }
    assert!(Engine::load(&sum, &[b.clone(), a]).is_ok());
    assert!(Engine::load(&sum, &[free, b]).is_ok(), "what nothing names is the input without a name");
}
