//! Networks that keep a state between calls.

use flotilla_onnx::{GraphBuilder, Node, Value};
use flotilla_protocol::Pipeline;
use flotilla_protocol::pipeline::{
    ConstantTensor, Input as Takes, Output, StateTensor, TensorKind, TensorSpec, TensorsInput, TensorsOutput,
};
use flotilla_runtime::{Answer, Error, Input, Model, Stream, Values, check_golden, make_golden};

fn spec(name: &str) -> TensorSpec {
    TensorSpec { name: name.into(), kind: TensorKind::Fp32, shape: vec![1] }
}

/// Adds up what it is given, times a constant.
fn counter() -> (Pipeline, Vec<u8>) {
    let value = |name: &str| Value::f32(name, [1_usize]);
    let onnx = GraphBuilder::new("counter")
        .input(value("x"))
        .input(value("rate"))
        .input(value("before"))
        .output(value("sum"))
        .output(value("after"))
        .node(Node::new("Mul", ["x", "rate"], ["step"]))
        .node(Node::new("Add", ["before", "step"], ["after"]))
        .node(Node::new("Identity", ["after"], ["sum"]))
        .build()
        .unwrap()
        .write();
    let input = Takes::Tensors(TensorsInput { tensors: vec![spec("x")] });
    let pipeline = Pipeline {
        states: vec![StateTensor { input: spec("before"), output: "after".into() }],
        constants: vec![ConstantTensor { input: spec("rate"), values: vec![10.0] }],
        ..Pipeline::new(input, Output::Tensors(TensorsOutput {}))
    };
    (pipeline, onnx)
}

fn sum(model: &mut Model, stream: Stream<'_>, x: f32) -> f32 {
    let prediction = model.predict_in(stream, Input::Raw(&x.to_le_bytes())).unwrap();
    let Answer::Tensors(tensors) = prediction.answer else { panic!("no tensors") };
    assert_eq!(tensors.len(), 1, "states are nobody's business");
    assert_eq!(tensors[0].name, "sum");
    prediction.scores[0]
}

#[test]
fn each_stream_goes_on_where_it_was() {
    let (pipeline, onnx) = counter();
    let mut model = Model::load(&pipeline, &onnx).unwrap();
    assert!(model.is_stateful());
    let names: Vec<&str> = model.inputs().iter().map(|port| port.name.as_str()).collect();
    assert_eq!(names, ["x"]);
    let stream = |name| Stream { name, ..Stream::default() };
    assert_eq!(sum(&mut model, stream("a"), 1.0), 10.0);
    assert_eq!(sum(&mut model, stream("b"), 2.0), 20.0);
    assert_eq!(sum(&mut model, stream("a"), 1.0), 20.0);
    assert_eq!(sum(&mut model, Stream { start: true, ..stream("a") }, 1.0), 10.0);
    assert_eq!(sum(&mut model, Stream { end: true, ..stream("a") }, 1.0), 20.0);
    assert_eq!(sum(&mut model, stream("a"), 1.0), 10.0);
    let (outputs, _) = model.run(stream("b"), vec![Values::Fp32(vec![1.0])]).unwrap();
    assert_eq!(outputs, [Values::Fp32(vec![30.0])], "tensors are of the same stream");
}

#[test]
fn a_stream_that_left_the_numbers_begins_anew() {
    let (pipeline, onnx) = counter();
    let mut model = Model::load(&pipeline, &onnx).unwrap();
    let stream = Stream { name: "a", ..Stream::default() };
    assert!(sum(&mut model, stream, 3e37) > 2e38);
    let beyond = model.predict_in(stream, Input::Raw(&3e37_f32.to_le_bytes())).unwrap_err();
    assert!(matches!(beyond, Error::NotFinite { index: 0 }), "{beyond}");
    assert_eq!(sum(&mut model, stream, 1.0), 10.0);
}

#[test]
fn an_input_for_itself_has_the_same_answer_whatever_came_before() {
    let (pipeline, onnx) = counter();
    let load = || Model::load(&pipeline, &onnx).unwrap();
    let inputs = [1.0_f32, 2.0].map(|x| x.to_le_bytes());
    let golden = make_golden(&mut load(), inputs, 0.0).unwrap();
    assert_eq!([&golden.vectors[0].scores, &golden.vectors[1].scores], [&[10.0], &[20.0]]);
    // A device runs the vectors again and again, to measure.
    let mut model = load();
    for _ in 0..2 {
        assert_eq!(check_golden(&mut model, &golden).unwrap().max_abs_error, 0.0);
    }
    assert_eq!(sum(&mut model, Stream::default(), 1.0), 10.0, "what was tried leaves nothing behind");
}

#[test]
fn states_and_constants_that_do_not_fit_are_named() {
    let (pipeline, onnx) = counter();
    let load = |change: fn(&mut Pipeline)| {
        let mut pipeline = pipeline.clone();
        change(&mut pipeline);
        Model::load(&pipeline, &onnx).unwrap_err().detail()
    };
    assert!(load(|p| p.states[0].output = "x".into()).contains("no output x for a state; it has sum, after"));
    assert!(load(|p| p.constants.clear()).contains("what rate is"));
    assert!(load(|p| p.constants[0].values.push(1.0)).contains("as many finite values"));
    assert!(load(|p| p.constants[0].values = vec![1e300]).contains("a value of rate is no FP32"));
    assert!(load(|p| p.states[0].input.name = "x".into()).contains("x is named twice"));
    assert!(load(|p| p.states[0].input.shape = vec![1, 2]).contains("before"), "another shape");
}
