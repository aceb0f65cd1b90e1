//! What models say that are no classifiers.

use crate::support::{grey, halves};
use flotilla_onnx::{Dim, GraphBuilder, Node, Value};
use flotilla_protocol::Pipeline;
use flotilla_protocol::pipeline::{
    Activation, Anomaly, AnomalyScore, Embedding, Input as Takes, MultiLabel, Output, Regression, Resize,
    Target, TensorKind, TensorSpec, TensorsInput, TensorsOutput,
};
use flotilla_runtime::{Answer, Error, Input, Model, Values};

fn gives(output: Output) -> Pipeline {
    Pipeline { output, ..grey(2, 2, Resize::Exact, &["-"]) }
}

fn said(output: Output, pixels: &[u8]) -> flotilla_runtime::Prediction {
    Model::load(&gives(output), &halves(1)).unwrap().predict(Input::Raw(pixels)).unwrap()
}

#[test]
fn labels_that_apply_together_have_their_own_thresholds() {
    let output = |thresholds: &[f32]| {
        Output::MultiLabel(MultiLabel {
            labels: vec!["left".into(), "right".into()],
            activation: Activation::Sigmoid,
            thresholds: thresholds.to_vec(),
            output: None,
        })
    };
    let labels = |thresholds: &[f32], pixels: &[u8]| {
        let Answer::Labels(labels) = said(output(thresholds), pixels).answer else { panic!("no labels") };
        labels.into_iter().map(|label| label.label).collect::<Vec<_>>()
    };
    // Sums are 0 and 1; sigmoids 0.5 and 0.73.
    assert_eq!(labels(&[0.5], &[0, 255, 0, 0]), ["right", "left"]);
    assert_eq!(labels(&[0.6], &[0, 255, 0, 0]), ["right"]);
    assert_eq!(labels(&[0.5, 0.9], &[0, 255, 0, 0]), ["left"]);
    let error = Model::load(&gives(output(&[0.1, 0.2, 0.3])), &halves(1)).unwrap_err();
    assert!(error.detail().contains("1 or 2 are needed"), "{}", error.detail());
}

#[test]
fn numbers_come_in_their_own_units() {
    let target = |name: &str, mean, std| Target { name: name.into(), unit: "°C".into(), mean, std };
    let targets = vec![target("inside", 20.0, 10.0), target("outside", 0.0, 1.0)];
    let output = Output::Regression(Regression { targets, output: None });
    let prediction = said(output, &[255, 0, 0, 51]);
    let Answer::Values(values) = &prediction.answer else { panic!("no numbers") };
    assert_eq!((values[0].name.as_str(), values[0].value, values[0].unit.as_str()), ("inside", 30.0, "°C"));
    assert_eq!((values[1].value, prediction.scores.clone()), (0.2, vec![30.0, 0.2]));
    assert_eq!(prediction.headline(), None);
}

/// Gives 4 values: the input times two.
fn twice() -> Vec<u8> {
    GraphBuilder::new("twice")
        .input(Value::f32("x", [Dim::from(1), 1.into(), 2.into(), 2.into()]))
        .output(Value::f32("y", [Dim::from(1), 1.into(), 2.into(), 2.into()]))
        .node(Node::new("Add", ["x", "x"], ["y"]))
        .build()
        .unwrap()
        .write()
}

#[test]
fn what_cannot_be_made_again_is_anomalous() {
    let output = |score| Output::Anomaly(Anomaly { score, threshold: 0.3, output: None });
    let anomaly = |score, pixels: &[u8]| {
        let mut model = Model::load(&gives(output(score)), &twice()).unwrap();
        match model.predict(Input::Raw(pixels)).unwrap().answer {
            Answer::Anomaly(anomaly) => anomaly,
            other => panic!("{other:?}"),
        }
    };
    // The differences are the input itself.
    let usual = anomaly(AnomalyScore::SquaredError, &[0, 0, 0, 255]);
    assert_eq!((usual.score, usual.threshold, usual.anomalous), (0.25, 0.3, false));
    assert!(anomaly(AnomalyScore::SquaredError, &[0, 0, 255, 255]).anomalous);
    assert_eq!(anomaly(AnomalyScore::AbsoluteError, &[0, 0, 255, 255]).score, 0.5);
    let error = Model::load(&gives(output(AnomalyScore::Direct)), &twice()).unwrap_err();
    assert!(error.detail().contains("4 values") && error.detail().contains("needs 1"), "{}", error.detail());
}

#[test]
fn a_vector_can_be_brought_to_the_length_of_one() {
    let embedding =
        |normalise| said(Output::Embedding(Embedding { normalise, output: None }), &[153, 204, 0, 0]);
    assert_eq!(embedding(false).scores, [0.6, 0.8]);
    let whole =
        said(Output::Embedding(Embedding { normalise: true, output: None }), &[255, 255, 255, 255]).scores;
    assert!((whole.iter().map(|v| v * v).sum::<f32>() - 1.0).abs() < 1e-6, "{whole:?}");
    let nothing = said(Output::Embedding(Embedding { normalise: true, output: None }), &[0; 4]);
    assert_eq!(nothing.scores, [0.0, 0.0], "what has no direction has none after");
    for factor in ["1e25", "1e-25"] {
        let factor = factor.parse().unwrap();
        let onnx = scaled(factor);
        let output = Output::Embedding(Embedding { normalise: true, output: None });
        let scores = Model::load(&gives(output), &onnx)
            .unwrap()
            .predict(Input::Raw(&[255, 255, 0, 0]))
            .unwrap()
            .scores;
        assert!((scores[0] - 1.0).abs() < 1e-6 && scores[1] == 0.0, "{factor}: {scores:?}");
    }
}

/// The first two pixels' sum and 0, times a factor.
fn scaled(factor: f32) -> Vec<u8> {
    GraphBuilder::new("scaled")
        .input(Value::f32("x", [1_usize, 1, 2, 2]))
        .output(Value::f32("y", [1_usize, 2]))
        .initializer_f32("w", &[4, 2], vec![factor, 0.0, factor, 0.0, 0.0, 0.0, 0.0, 0.0])
        .node(Node::new("Flatten", ["x"], ["flat"]))
        .node(Node::new("MatMul", ["flat", "w"], ["y"]))
        .build()
        .unwrap()
        .write()
}

fn tensors(specs: &[(&str, TensorKind, &[u32])]) -> Pipeline {
    let spec = |(name, kind, shape): &(&str, TensorKind, &[u32])| TensorSpec {
        name: (*name).into(),
        kind: *kind,
        shape: shape.to_vec(),
    };
    let tensors = specs.iter().map(spec).collect();
    Pipeline::new(Takes::Tensors(TensorsInput { tensors }), Output::Tensors(TensorsOutput {}))
}

fn sum() -> Vec<u8> {
    let value = |name: &str| Value::f32(name, [1_usize, 2]);
    GraphBuilder::new("sum")
        .input(value("a"))
        .input(value("b"))
        .output(value("y"))
        .node(Node::new("Add", ["a", "b"], ["y"]))
        .build()
        .unwrap()
        .write()
}

#[test]
fn tensors_go_in_as_bytes_or_json_and_come_out_as_they_are() {
    let pipeline = tensors(&[("b", TensorKind::Fp32, &[1, 2]), ("a", TensorKind::Fp32, &[1, 2])]);
    let mut model = Model::load(&pipeline, &sum()).unwrap();
    let raw: Vec<u8> = [1.0_f32, 2.0, 10.0, 20.0].iter().flat_map(|v| v.to_le_bytes()).collect();
    for input in
        [Input::Raw(&raw), Input::Unsaid(&raw), Input::Encoded(br#"{"a": [[10, 20]], "b": [1.0, 2]}"#)]
    {
        let prediction = model.predict(input).unwrap();
        let Answer::Tensors(tensors) = prediction.answer else { panic!("no tensors") };
        assert_eq!((tensors[0].name.as_str(), &tensors[0].shape[..]), ("y", &[1, 2][..]));
        assert_eq!(tensors[0].values, Values::Fp32(vec![11.0, 22.0]));
    }
    for (bad, word) in [
        ("{}", "input b is missing"),
        (r#"{"b": [1, 2], "a": [1]}"#, "1 values; the model takes 2"),
        (r#"{"b": [1, 2], "a": [1, 2], "c": 1}"#, "no input c, but b, a"),
        (r#"{"b": [1, 2], "a": [1, "x"]}"#, "a number, or a list"),
        (r#"{"b": [1, 2], "a": [1, 1e400]}"#, "cannot be read"),
        ("[1, 2]", "cannot be read"),
    ] {
        let error = model.predict(Input::Encoded(bad.as_bytes())).unwrap_err();
        assert!(error.detail().contains(word), "{bad}: {}", error.detail());
    }
    let nan: Vec<u8> = [f32::NAN; 4].iter().flat_map(|v| v.to_le_bytes()).collect();
    assert!(matches!(model.predict(Input::Raw(&nan)), Err(Error::TensorNotFinite { .. })));
    assert!(matches!(model.predict(Input::Raw(&raw[1..])), Err(Error::TensorBytes { got: 15, need: 16 })));
}
