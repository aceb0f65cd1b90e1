//! Looking into a model: several outputs, and what a run takes.

use flotilla_onnx::{Dim, GraphBuilder, Node, Value};
use flotilla_runtime::Error;
use flotilla_runtime::engine::{Cost, Memory, Probe, cost, memory};

/// A dense layer of 3 to 2 values and the rectifier behind it, both of them outputs.
fn two_outputs() -> Vec<u8> {
    let dims = |last: usize| [Dim::from("N"), Dim::from(last)];
    GraphBuilder::new("two")
        .input(Value::f32("x", dims(3)))
        .output(Value::f32("relu", dims(2)))
        .output(Value::f32("sum", dims(2)))
        .initializer_f32("w", &[3, 2], vec![1.0, -1.0, 2.0, -2.0, 3.0, -3.0])
        .node(Node::new("MatMul", ["x", "w"], ["sum"]))
        .node(Node::new("Relu", ["sum"], ["relu"]))
        .build()
        .unwrap()
        .write()
}

#[test]
fn every_output_is_given_in_the_order_of_the_file() {
    let mut probe = Probe::load(&two_outputs(), &[1, 3]).unwrap();
    for _ in 0..2 {
        let arrays = probe.run(&[1.0, 1.0, 1.0]).unwrap();
        let values: Vec<&[f32]> = arrays.iter().map(|array| array.values.as_slice()).collect();
        assert_eq!(values, [[6.0, 0.0], [6.0, -6.0]]);
        assert_eq!(arrays[1].shape, [1, 2]);
        assert!(matches!(probe.run(&[1.0]), Err(Error::TensorLength { got: 1, need: 3 })));
    }
    assert!(matches!(Probe::load(&two_outputs(), &[1, 4]), Err(Error::InputShape { .. })));
}

#[test]
fn a_run_costs_what_its_products_and_values_take() {
    let Cost { macs, peak_bytes } = cost(&two_outputs(), &[1, 3]).unwrap();
    assert_eq!(macs, 6);
    // Six weights, and at least an input of three beside an output of two.
    assert!((44..=80).contains(&peak_bytes), "{peak_bytes}");
    let eight = cost(&two_outputs(), &[8, 3]).unwrap();
    assert_eq!(eight.macs, 48);
    assert!(eight.peak_bytes > peak_bytes);
    assert!(cost(b"nothing", &[1, 3]).is_err());
}

#[test]
fn memory_is_the_same_whoever_asks_and_unknown_where_sizes_are_open() {
    assert_eq!(memory(&two_outputs()).unwrap(), None, "the batch is open");
    let pooled = GraphBuilder::new("pooled")
        .input(Value::f32("x", [1_usize, 4, 16, 16]))
        .output(Value::f32("y", [1_usize, 8, 8, 8]))
        .initializer_f32("w", &[8, 4, 1, 1], vec![0.5; 32])
        .node(Node::new("Conv", ["x", "w"], ["c"]))
        .node(Node::new("MaxPool", ["c"], ["y"]).ints("kernel_shape", [2, 2]).ints("strides", [2, 2]))
        .build()
        .unwrap()
        .write();
    let Memory { weights, activations, .. } = memory(&pooled).unwrap().unwrap();
    assert_eq!(weights, 4 * 32);
    // The input of 1,024 floats beside what the convolution makes of it.
    assert!((4 * 3_072..6 * 3_072).contains(&activations), "{activations}");
    assert_eq!(cost(&pooled, &[1, 4, 16, 16]).unwrap().peak_bytes, weights + activations);
    assert!(memory(b"nothing").is_err());
}
