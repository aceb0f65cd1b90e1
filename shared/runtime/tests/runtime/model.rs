//! Predictions and evaluation.

use crate::support::{classes, grey, halves, halves_pipeline, label, png};
use flotilla_onnx::{Dim, GraphBuilder, Node, Value};
use flotilla_protocol::ErrorCode;
use flotilla_protocol::pipeline::{Activation, Resize};
use flotilla_runtime::{Error, Input, Model};

#[test]
fn the_lighter_half_wins_with_its_softmax_score() {
    let mut model = Model::load(&halves_pipeline(), &halves("N")).unwrap();
    let prediction = model.predict(Input::Raw(&[255, 0, 0, 0])).unwrap();
    let headline = prediction.headline().unwrap();
    assert_eq!((headline.label_index, headline.label), (0, "left"));
    let expected = std::f32::consts::E / (1.0 + std::f32::consts::E);
    assert!((headline.confidence.unwrap() - expected).abs() < 1e-6, "{prediction:?}");
    assert!((prediction.scores.iter().sum::<f32>() - 1.0).abs() < 1e-6);

    let picture = png(image::GrayImage::from_raw(4, 2, vec![0, 0, 0, 255, 0, 0, 0, 255]).unwrap());
    assert_eq!(label(&model.predict(Input::Encoded(&picture)).unwrap()), "right");
    assert_eq!(label(&model.predict(Input::Raw(&[9; 4])).unwrap()), "left", "the first of equals");
}

#[test]
fn scores_of_models_with_probabilities_are_left_alone() {
    let mut pipeline = halves_pipeline();
    let classification = classes(&mut pipeline);
    classification.activation = Activation::None;
    let mut model = Model::load(&pipeline, &halves(1)).unwrap();
    assert_eq!(model.predict(Input::Raw(&[0, 51, 0, 51])).unwrap().scores, [0.0, 0.4]);
}

#[test]
fn a_model_must_have_one_score_a_label() {
    let error = Model::load(&grey(2, 2, Resize::Exact, &["a", "b", "c"]), &halves(1)).unwrap_err();
    assert!(matches!(error, Error::Labels { outputs: 2, labels: 3 }));
    assert_eq!(error.code(), ErrorCode::ModelInvalid);
}

#[test]
fn scores_that_are_no_numbers_are_an_error() {
    let logarithm = GraphBuilder::new("log")
        .input(Value::f32("x", [Dim::from("N"), 1.into(), 1.into(), 2.into()]))
        .output(Value::f32("y", [Dim::from("N"), Dim::from(2)]))
        .node(Node::new("Flatten", ["x"], ["flat"]).int("axis", 1))
        .node(Node::new("Log", ["flat"], ["y"]))
        .build()
        .unwrap()
        .write();
    let mut pipeline = grey(2, 1, Resize::Exact, &["a", "b"]);
    let classification = classes(&mut pipeline);
    classification.activation = Activation::None;
    let mut model = Model::load(&pipeline, &logarithm).unwrap();
    let error = model.predict(Input::Raw(&[255, 0])).unwrap_err();
    assert!(matches!(error, Error::NotFinite { index: 1 }), "{error}");
    assert_eq!(error.code(), ErrorCode::InferenceFailed);
    assert_eq!(label(&model.predict(Input::Raw(&[255, 128])).unwrap()), "a", "the model still works");
}
