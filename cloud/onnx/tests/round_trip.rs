//! What is built comes back the same when it is written and read, and tract runs it.
#![expect(clippy::unwrap_used, reason = "tests fail by panicking")]

use flotilla_onnx::{Attributes, DataType, Dim, Error, GraphBuilder, Model, Node, Tensor, Value, pb};
use proptest::prelude::*;

/// `y = x * w + b` for two values in, three out.
fn gemm() -> GraphBuilder {
    GraphBuilder::new("gemm")
        .input(Value::f32("x", [Dim::from("N"), Dim::from(2)]))
        .output(Value::f32("y", [Dim::from("N"), Dim::from(3)]))
        .initializer_f32("w", &[3, 2], vec![1.0, 2.0, 3.0, 4.0, 5.0, 6.0])
        .initializer_f32("b", &[3], vec![0.5, 0.0, -0.5])
        .node(Node::new("Gemm", ["x", "w", "b"], ["y"]).int("transB", 1).float("alpha", 1.0))
        .metadata("task", "classification")
}

#[test]
fn a_built_model_is_read_back_with_everything_in_it() {
    let model = gemm().build().unwrap();
    let bytes = model.write();
    let read = Model::read(&bytes).unwrap();
    assert_eq!(read, model);
    assert_eq!(read.write(), bytes);
    assert_eq!(read.opset(), 13);
    assert_eq!(read.producer().0, "flotilla");
    assert_eq!(read.metadata_value("task"), Some("classification"));
    assert_eq!(read.inputs()[0].to_string(), "x: FLOAT[N,2]");
    assert_eq!(read.outputs()[0].dims, Some(vec![Dim::Symbol("N".into()), Dim::Fixed(3)]));
    assert_eq!(read.nodes()[0].int("transB"), Some(1));
    assert_eq!(read.nodes()[0].float("alpha"), Some(1.0));
    assert_eq!(read.nodes()[0].int("alpha"), None, "an attribute is not read as another type");
    assert_eq!(read.tensor_f32("b").unwrap(), Tensor { dims: vec![3], data: vec![0.5, 0.0, -0.5] });
}

#[test]
fn a_summary_counts_operators_and_parameters() {
    let summary = gemm().initializer_i64("shape", &[2], vec![0, -1]).build().unwrap().summary();
    assert_eq!(summary.operators.into_iter().collect::<Vec<_>>(), [("Gemm".to_owned(), 1)]);
    assert_eq!((summary.parameters, summary.constant_bytes), (9, 36 + 16));
    assert_eq!(
        (summary.inputs, summary.outputs),
        (vec!["x: FLOAT[N,2]".into()], vec!["y: FLOAT[N,3]".into()])
    );
}

#[test]
fn tract_computes_what_the_graph_says() {
    use tract_onnx::prelude::*;
    let bytes = gemm().build().unwrap().write();
    let model = onnx().model_for_read(&mut bytes.as_slice()).unwrap();
    let model = model.with_input_fact(0, f32::fact([1, 2]).into()).unwrap();
    let model = model.into_optimized().unwrap().into_runnable().unwrap();
    let out = model.run(tvec!(tensor2(&[[1.0_f32, -1.0]]).into())).unwrap();
    let out: Vec<f32> = out[0].to_plain_array_view::<f32>().unwrap().iter().copied().collect();
    assert_eq!(out, [-0.5, -1.0, -1.5]);
}

#[test]
fn both_forms_of_tensor_data_read_the_same() {
    let typed = pb::TensorProto {
        name: "t".into(),
        dims: vec![2, 2],
        data_type: DataType::Float as i32,
        float_data: vec![1.0, -2.0, 3.5, 0.0],
        ..pb::TensorProto::default()
    };
    let mut model = gemm().build().unwrap();
    model.add_initializer(typed).unwrap();
    let model = Model::read(&model.write()).unwrap();
    let tensor = model.tensor_f32("t").unwrap();
    assert_eq!(tensor.data, [1.0, -2.0, 3.5, 0.0]);
    let mut again = model.clone();
    again.replace_initializer(flotilla_onnx::tensor_f32("t", &tensor)).unwrap();
    assert!(!again.initializer("t").unwrap().raw_data.is_empty());
    assert_eq!(Model::read(&again.write()).unwrap().tensor_f32("t").unwrap(), tensor);
}

#[test]
fn what_cannot_be_built_is_refused_with_its_name() {
    let build = |g: GraphBuilder| g.build().unwrap_err();
    let twice = gemm().initializer_f32("w", &[1], vec![0.0]);
    assert!(matches!(build(twice), Error::Duplicate { name } if name == "w"));
    let unknown = gemm().node(Node::new("Relu", ["nowhere"], ["z"]));
    assert!(matches!(build(unknown), Error::Undefined { node, value } if node == "z" && value == "nowhere"));
    let remade = gemm().node(Node::new("Relu", ["x"], ["y"]).named("other"));
    assert!(matches!(build(remade), Error::Duplicate { name } if name == "y"));
    let short = gemm().initializer_f32("s", &[2, 2], vec![1.0]);
    assert!(matches!(build(short), Error::DataLength { found: 1, expected: 4, .. }));
    let huge = gemm().initializer_f32("h", &[usize::MAX, 2], vec![]);
    assert!(matches!(build(huge), Error::Dims { .. }));
    let no_output = gemm().output(Value::f32("later", [Dim::Unknown]));
    assert!(matches!(build(no_output), Error::Undefined { value, .. } if value == "later"));
    assert!(matches!(build(GraphBuilder::new("empty")), Error::NoGraph));
}

prop_compose! {
    /// A chain of element-wise nodes with constants of all three types among them.
    fn chain()(
        steps in prop::collection::vec((0..3_usize, prop::collection::vec(any::<f32>(), 0..6), any::<i8>()), 1..12),
    ) -> Model {
        let mut graph = GraphBuilder::new("chain").input(Value::f32("v0", [Dim::from("N"), Dim::Unknown]));
        for (n, (kind, floats, small)) in steps.iter().enumerate() {
            let (from, to, constant) = (format!("v{n}"), format!("v{}", n + 1), format!("c{n}"));
            graph = match kind {
                0 => graph
                    .initializer_f32(&constant, &[floats.len()], floats.clone())
                    .node(Node::new("Mul", [from, constant], [to])),
                1 => graph
                    .initializer_i8(&constant, &[1, 2], vec![*small, 0])
                    .node(Node::new("Cast", [constant], [format!("f{n}")]).int("to", 1))
                    .node(Node::new("Add", [from, format!("f{n}")], [to])),
                _ => graph
                    .initializer_i64(&constant, &[], vec![i64::from(*small)])
                    .node(Node::new("Reshape", [from, constant], [to]).ints("extra", [i64::MIN, 0, i64::MAX])
                        .string("mode", "häufig").floats("f", floats.clone())),
            };
        }
        graph.output(Value::f32(format!("v{}", steps.len()), [Dim::Unknown])).build().unwrap()
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_built_model_survives_writing_and_reading(model in chain()) {
        let bytes = model.write();
        let read = Model::read(&bytes).unwrap();
        prop_assert_eq!(read.write(), bytes, "bytes, because NaN is not equal to itself");
        prop_assert!(read.check_order().is_ok());
        prop_assert_eq!(read.summary(), model.summary());
        for tensor in model.initializers() {
            prop_assert_eq!(read.initializer(&tensor.name), Some(tensor));
        }
    }

    #[test]
    fn any_floats_come_back_bit_for_bit(data in prop::collection::vec(any::<u32>(), 0..64)) {
        let data: Vec<f32> = data.into_iter().map(f32::from_bits).collect();
        let model = gemm().initializer_f32("t", &[data.len()], data.clone()).build().unwrap();
        let read = Model::read(&model.write()).unwrap().tensor_f32("t").unwrap();
        let bits = |values: &[f32]| values.iter().map(|v| v.to_bits()).collect::<Vec<_>>();
        prop_assert_eq!(bits(&read.data), bits(&data));
    }
}
