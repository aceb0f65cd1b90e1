//! Loading and running models.

use crate::support::halves;
use flotilla_onnx::{DataType, Dim, GraphBuilder, Node, Value};
use flotilla_protocol::ErrorCode;
use flotilla_runtime::Error;
use flotilla_runtime::engine::Engine;

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
        let mut engine = Engine::load(&halves(batch.clone()), &[1, 1, 2, 2]).unwrap();
        assert_eq!(
            (engine.input_shape(), engine.output_shape()),
            (&[1, 1, 2, 2][..], &[1, 2][..]),
            "{batch}"
        );
        assert_eq!(engine.run(&[1.0, 2.0, 3.0, 4.0]).unwrap(), [4.0, 6.0]);
        assert_eq!(engine.run(&[0.0, 0.5, 0.0, 0.5]).unwrap(), [0.0, 1.0], "the state is clean again");
    }
}

#[test]
fn any_rank_can_be_run() {
    for shape in [&[1, 3][..], &[1, 2, 3], &[1, 2, 1, 2, 1]] {
        let count = shape.iter().product::<usize>();
        let input: Vec<f32> = (0..count).map(|value| value as f32).collect();
        assert_eq!(Engine::load(&identity("Relu", shape), shape).unwrap().run(&input).unwrap(), input);
    }
}

#[test]
fn a_model_for_other_inputs_is_refused_with_both_shapes() {
    let error = Engine::load(&halves(1), &[1, 3, 2, 2]).unwrap_err();
    assert!(matches!(&error, Error::InputShape { pipeline, .. } if pipeline == &[1, 3, 2, 2]), "{error}");
    assert_eq!(error.code(), ErrorCode::ModelInvalid);
    for shape in [&[1, 1, 2][..], &[1, 1, 1, 2, 2], &[]] {
        assert!(matches!(Engine::load(&halves("N"), shape), Err(Error::InputShape { .. })), "{shape:?}");
    }
    assert!(matches!(Engine::load(&halves(1), &[1, 0, 2, 2]), Err(Error::Interface(_))));
    assert!(matches!(Engine::load(&halves(1), &[usize::MAX, 2]), Err(Error::Interface(_))));
}

#[test]
fn a_tensor_of_the_wrong_length_is_refused() {
    let mut engine = Engine::load(&halves(1), &[1, 1, 2, 2]).unwrap();
    assert!(matches!(engine.run(&[1.0; 3]), Err(Error::TensorLength { got: 3, need: 4 })));
    assert_eq!(engine.run(&[1.0; 4]).unwrap(), [2.0, 2.0], "the engine still works");
}

#[test]
fn an_unknown_operator_is_named() {
    let error = Engine::load(&identity("FlyToTheMoon", &[1, 4]), &[1, 4]).unwrap_err();
    assert!(matches!(error.code(), ErrorCode::ModelUnsupported | ErrorCode::ModelInvalid));
    assert!(error.detail().contains("FlyToTheMoon"), "{}", error.detail());
}

#[test]
fn models_with_several_inputs_or_outputs_or_of_integers_are_refused() {
    let value = |name: &str| Value::f32(name, [1_usize, 4]);
    let two_inputs = GraphBuilder::new("sum")
        .input(value("a"))
        .input(value("b"))
        .output(value("y"))
        .node(Node::new("Add", ["a", "b"], ["y"]))
        .build()
        .unwrap();
    let two_outputs = GraphBuilder::new("twice")
        .input(value("x"))
        .output(value("y"))
        .output(value("z"))
        .node(Node::new("Relu", ["x"], ["y"]))
        .node(Node::new("Sigmoid", ["x"], ["z"]))
        .build()
        .unwrap();
    let integers = GraphBuilder::new("integers")
        .input(Value { data_type: Some(DataType::Int64), ..value("x") })
        .output(value("y"))
        .node(Node::new("Cast", ["x"], ["y"]).int("to", DataType::Float as i64))
        .build()
        .unwrap();
    let integer_output = GraphBuilder::new("integer output")
        .input(value("x"))
        .output(Value { data_type: Some(DataType::Int64), ..value("y") })
        .node(Node::new("Cast", ["x"], ["y"]).int("to", DataType::Int64 as i64))
        .build()
        .unwrap();
    for model in [two_inputs, two_outputs, integers, integer_output] {
        let error = Engine::load(&model.write(), &[1, 4]).unwrap_err();
        assert!(matches!(error, Error::Interface(_)), "{}: {}", model.graph().name, error.detail());
        assert_eq!(error.code(), ErrorCode::ModelUnsupported);
    }
}
