//! Judging models: figures against what scikit-learn gives for the same answers, and truths that do not fit.

use crate::support::{classes, halves, halves_pipeline};
use flotilla_onnx::{Dim, GraphBuilder, Node, Value};
use flotilla_protocol::pipeline::detection::{BoxForm, Boxes};
use flotilla_protocol::pipeline::{
    Activation, Anomaly, AnomalyScore, Decoder, Detection, MultiLabel, Output, Regression, Target,
};
use flotilla_protocol::{ErrorCode, Pipeline, TrueBox, Truth};
use flotilla_runtime::metrics::Metric;
use flotilla_runtime::quality::{Class, Confused, FORMAT, Figures};
use flotilla_runtime::{Error, Model, Quality, judge};

fn close(a: impl Into<Option<f64>>, b: f64) {
    let a = a.into();
    assert!(a.is_some_and(|a| (a - b).abs() < 1e-6), "{a:?} is not {b}");
}

/// A picture of [`halves`] whose columns sum up to these bytes.
fn picture(left: u8, right: u8) -> Vec<u8> {
    vec![left, right, 0, 0]
}

fn judged(pipeline: &Pipeline, samples: &[(Vec<u8>, Truth)]) -> Quality {
    let mut model = Model::load(pipeline, &halves("N")).unwrap();
    let quality = judge(&mut model, samples.to_vec()).unwrap();
    // Read back, a figure may differ in its last digit.
    let text = serde_json::to_string(&quality).unwrap();
    let again: Quality = serde_json::from_str(&text).unwrap();
    let kind = |quality: &Quality| std::mem::discriminant(&quality.figures);
    assert_eq!((kind(&again), again.samples), (kind(&quality), quality.samples), "{text}");
    let off = |a: Option<f64>, b: Option<f64>| (a.unwrap_or(-1.0) - b.unwrap_or(-1.0)).abs();
    assert!(off(again.headline.value, quality.headline.value) < 1e-12, "{text}");
    assert_eq!((quality.format, quality.samples), (FORMAT, samples.len() as u64));
    quality
}

#[test]
fn classes_have_confusions_and_intervals() {
    // True left: six, of which two are taken for right. True right: four, of which one is taken for left.
    let sample = |truth: u32, said: u32| {
        let bytes = if said == 0 { picture(200, 10) } else { picture(10, 200) };
        (bytes, Truth::Class(truth))
    };
    let mut samples = vec![sample(0, 0); 4];
    samples.extend([sample(0, 1), sample(0, 1), sample(1, 1), sample(1, 1), sample(1, 1), sample(1, 0)]);
    let quality = judged(&halves_pipeline(), &samples);
    assert_eq!(quality.metric, Metric::Accuracy);
    close(quality.headline.value, 0.7);
    // statsmodels.stats.proportion.proportion_confint(7, 10, method="wilson")
    let [low, high] = quality.headline.interval.unwrap();
    close(low, 0.396_778_147_461_145_26);
    close(high, 0.892_208_732_593_014);
    let Figures::Classification(figures) = &quality.figures else { panic!("{quality:?}") };
    assert_eq!(figures.confusion, Some(vec![vec![4, 2], vec![1, 3]]));
    let confused = |truth, predicted, samples| Confused { truth, predicted, samples };
    assert_eq!(figures.confused, [confused(0, 1, 2), confused(1, 0, 1)]);
    let [left, right] = &figures.classes[..] else { panic!("{figures:?}") };
    assert_eq!((left.label.as_str(), left.support, left.predicted, left.correct), ("left", 6, 5, 4));
    close(left.precision.value, 0.8);
    close(left.recall.value, 4.0 / 6.0);
    close(left.f1.value, 8.0 / 11.0);
    close(right.f1.value, 2.0 * 0.6 * 0.75 / 1.35);
    close(figures.macro_f1, (8.0 / 11.0 + 2.0 / 3.0) / 2.0);
    for figure in [left.precision, left.recall, left.f1, right.precision, right.recall, right.f1] {
        let ([low, high], value) = (figure.interval.unwrap(), figure.value.unwrap());
        assert!(0.0 < low && low < value && value < high && high < 1.0, "{figure:?}");
    }
    // All claim the same, softmax of 190/255, and seven of ten are right.
    let claim = f64::from((190.0_f32 / 255.0).exp() / ((190.0_f32 / 255.0).exp() + 1.0));
    let calibration = figures.calibration.as_ref().unwrap();
    close(calibration.ece, (claim - 0.7).abs());
    assert_eq!(calibration.bins.iter().map(|bin| bin.samples).sum::<u64>(), 10);
    assert!(quality.latency.p95_ms >= quality.latency.p50_ms && quality.latency.p50_ms > 0.0);
    let metrics = quality.metrics();
    assert_eq!((metrics.samples, metrics.correct, metrics.accuracy), (10, 7, 0.7));
}

#[test]
fn what_is_not_defined_is_not_zero() {
    let nothing = judged(&halves_pipeline(), &[]);
    assert_eq!((nothing.headline.value, nothing.headline.interval), (None, None));
    let one_sided = judged(&halves_pipeline(), &[(picture(9, 0), Truth::Class(0))]);
    let Figures::Classification(figures) = &one_sided.figures else { panic!("{one_sided:?}") };
    let right: &Class = &figures.classes[1];
    assert_eq!((right.precision.value, right.recall.value, right.f1.value), (None, None, None));
    close(figures.macro_f1, 1.0);

    let mut pipeline = halves_pipeline();
    classes(&mut pipeline).activation = Activation::None;
    // Logits are no probabilities: they say nothing of how sure the model is.
    let quality = judged(&pipeline, &[(vec![255, 0, 255, 0], Truth::Class(0))]);
    let Figures::Classification(figures) = &quality.figures else { panic!("{quality:?}") };
    assert_eq!(figures.calibration, None);
}

#[test]
fn labels_that_apply_together_are_ranked() {
    let labels = ["left", "right"].map(str::to_owned).to_vec();
    let (activation, thresholds) = (Activation::None, vec![0.5]);
    let output = Output::MultiLabel(MultiLabel { labels, activation, thresholds, output: None });
    let pipeline = Pipeline::new(halves_pipeline().input, output);
    let sample = |left, right, truth: &[u32]| (picture(left, right), Truth::Labels(truth.to_vec()));
    let samples = [
        sample(230, 230, &[0, 1]),
        sample(200, 0, &[]),
        sample(150, 20, &[0]),
        sample(100, 140, &[0]),
        sample(50, 130, &[1]),
        sample(0, 0, &[]),
    ];
    let quality = judged(&pipeline, &samples);
    let Figures::MultiLabel(figures) = &quality.figures else { panic!("{quality:?}") };
    // sklearn.metrics.average_precision_score: positives at ranks 1, 3, 4; and at 1 and 3.
    let (left, right) = ((1.0 + 2.0 / 3.0 + 3.0 / 4.0) / 3.0, (1.0 + 2.0 / 3.0) / 2.0);
    close(figures.labels[0].average_precision, left);
    close(figures.labels[1].average_precision, right);
    close(quality.headline.value, (left + right) / 2.0);
    assert_eq!(quality.metric, Metric::Map);
    // At the threshold: left is said of 1, 2, 3; right of 1, 4, 5.
    close(figures.labels[0].f1.value, 2.0 / 3.0);
    close(figures.labels[1].f1.value, 0.8);
    close(figures.exact.value, 4.0 / 6.0);
    let [low, high] = quality.headline.interval.unwrap();
    assert!(low < (left + right) / 2.0 && high <= 1.0, "{low} {high}");
    assert_eq!(judged(&pipeline, &samples).headline, quality.headline, "the seed is fixed");
    assert_eq!(quality.metrics().other.get("mAP"), Some(&((left + right) / 2.0)));
}

#[test]
fn numbers_are_off_by_so_much() {
    let target = |name: &str, mean, std| Target { name: name.into(), unit: "mm".into(), mean, std };
    let targets = vec![target("width", 1.0, 255.0), target("height", 0.0, 255.0)];
    let output = Output::Regression(Regression { targets, output: None });
    let pipeline = Pipeline::new(halves_pipeline().input, output);
    let sample = |said: [u8; 2], truth: [f64; 2]| (picture(said[0], said[1]), Truth::Values(truth.to_vec()));
    let samples = [
        sample([1, 25], [3.0, 30.0]),
        sample([4, 0], [5.0, -5.0]),
        sample([9, 20], [9.0, 20.0]),
        sample([19, 80], [20.0, 70.0]),
    ];
    let quality = judged(&pipeline, &samples);
    let Figures::Regression(figures) = &quality.figures else { panic!("{quality:?}") };
    let [width, height] = &figures.targets[..] else { panic!("{figures:?}") };
    assert_eq!((width.name.as_str(), width.unit.as_str()), ("width", "mm"));
    // The example of scikit-learn's documentation, tenfold.
    close(height.r2.value.map(|r2| (r2 * 1e4).round() / 1e4), 0.9486);
    close(height.mae.value.map(|mae| (mae * 1e4).round() / 1e4), 5.0);
    close(height.rmse.map(|rmse| (rmse * 1e3).round() / 1e3), 6.124);
    assert!(height.mae.interval.is_some_and(|[low, high]| low < 5.0 && 5.0 < high));
    close(quality.headline.value, (width.r2.value.unwrap() + height.r2.value.unwrap()) / 2.0);
    assert_eq!(quality.metric, Metric::R2);
}

#[test]
fn anomalies_are_told_by_score_and_found_at_the_threshold() {
    // The mean squared difference of input and zero: what is dark is usual.
    let zero = GraphBuilder::new("zero")
        .input(Value::f32("x", [Dim::from("N"), 1.into(), 2.into(), 2.into()]))
        .output(Value::f32("y", [Dim::from("N"), 1.into(), 2.into(), 2.into()]))
        .initializer_f32("w", &[1], vec![0.0])
        .node(Node::new("Mul", ["x", "w"], ["y"]))
        .build()
        .unwrap()
        .write();
    let score = AnomalyScore::SquaredError;
    let output = Output::Anomaly(Anomaly { score, threshold: 0.25, output: None });
    let pipeline = Pipeline::new(halves_pipeline().input, output);
    let mut model = Model::load(&pipeline, &zero).unwrap();
    let sample = |bright: u8, truth: bool| (vec![bright; 4], Truth::Anomalous(truth));
    let samples = [
        sample(250, true),
        sample(200, false),
        sample(150, true),
        sample(100, false),
        sample(90, true),
        sample(5, false),
    ];
    let quality = judge(&mut model, samples).unwrap();
    let Figures::Anomaly(figures) = &quality.figures else { panic!("{quality:?}") };
    assert_eq!(quality.metric, Metric::Auc);
    // Of nine pairs: 250 beats three, 150 two, 90 one.
    close(quality.headline.value, 6.0 / 9.0);
    assert_eq!((figures.anomalies, figures.found, figures.normal, figures.false_alarms), (3, 2, 3, 1));
    close(figures.precision.value, 2.0 / 3.0);
    close(figures.false_alarm_rate.value, 1.0 / 3.0);
    assert!(figures.recall.interval.is_some() && figures.threshold == 0.25);
}

/// A detector that always finds one thing at the left and one at the right of a picture, surer of the brighter half.
fn finder() -> (Pipeline, Vec<u8>) {
    let onnx = GraphBuilder::new("finder")
        .input(Value::f32("x", [Dim::from("N"), 1.into(), 2.into(), 2.into()]))
        .output(Value::f32("boxes", [1.into(), 2.into(), Dim::from(4)]))
        .output(Value::f32("scores", [1.into(), 2.into(), Dim::from(1)]))
        .initializer_f32("places", &[1, 2, 4], vec![0.0, 0.0, 1.0, 2.0, 1.0, 0.0, 2.0, 2.0])
        .initializer_f32("w", &[4, 2], vec![0.5, 0.0, 0.0, 0.5, 0.5, 0.0, 0.0, 0.5])
        .initializer_i64("shape", &[3], vec![1, 2, 1])
        .node(Node::new("Flatten", ["x"], ["flat"]).int("axis", 1))
        .node(Node::new("MatMul", ["flat", "w"], ["sums"]))
        .node(Node::new("Reshape", ["sums", "shape"], ["scores"]))
        .node(Node::new("Identity", ["places"], ["boxes"]))
        .build()
        .unwrap()
        .write();
    let output = Output::Detection(Detection {
        labels: vec!["thing".into()],
        decoder: Decoder::Boxes(Boxes {
            boxes: "boxes".into(),
            scores: "scores".into(),
            softmax: false,
            background: false,
            form: BoxForm::Corners,
            relative: false,
            priors: None,
        }),
        score: 0.1,
        overlap: 0.5,
        limit: 10,
    });
    (Pipeline::new(halves_pipeline().input, output), onnx)
}

#[test]
fn things_are_found_where_they_are() {
    let (pipeline, onnx) = finder();
    let mut model = Model::load(&pipeline, &onnx).unwrap();
    let there = |area| TrueBox { label: 0, area, ignored: false };
    let (left, right) = (there([0.0, 0.0, 1.0, 2.0]), there([1.0, 0.0, 2.0, 2.0]));
    let png = |left: u8, right: u8| {
        crate::support::png(image::GrayImage::from_raw(2, 2, vec![left, right, left, right]).unwrap())
    };
    let samples = [
        (png(250, 0), Truth::Boxes(vec![left])),
        (png(0, 200), Truth::Boxes(vec![right])),
        (png(150, 100), Truth::Boxes(vec![right])),
        (png(0, 0), Truth::Boxes(vec![TrueBox { ignored: true, ..left }])),
    ];
    let quality = judge(&mut model, samples).unwrap();
    let Figures::Detection(figures) = &quality.figures else { panic!("{quality:?}") };
    // By score: right, right, wrong, right; recall 1/3, 2/3, 2/3, 1.
    let expected = (67.0 + 34.0 * 0.75) / 101.0;
    close(quality.headline.value, expected);
    close(figures.coco, expected);
    let thing = &figures.labels[0];
    assert_eq!((thing.there, thing.found), (3, 4));
    close(thing.half, expected);
    assert!(quality.headline.interval.is_some_and(|[low, high]| low < expected && expected < high));
}

#[test]
fn a_truth_that_does_not_fit_is_named() {
    let mut model = Model::load(&halves_pipeline(), &halves("N")).unwrap();
    let error =
        judge(&mut model, [(vec![0; 4], Truth::Class(0)), (vec![0; 5], Truth::Class(0))]).unwrap_err();
    assert!(matches!(error, Error::Sample { index: 1, .. }));
    assert!(error.detail().contains("5 bytes"), "{}", error.detail());
    let error = judge(&mut model, [(vec![0; 4], Truth::Class(2))]).unwrap_err();
    assert!(matches!(error, Error::SampleLabel { index: 0, label: 2, labels: 2 }));
    for truth in
        [Truth::Labels(vec![0]), Truth::Values(vec![1.0]), Truth::Boxes(vec![]), Truth::Anomalous(true)]
    {
        let error = judge(&mut model, [(vec![0; 4], Truth::Class(1)), (vec![0; 4], truth)]).unwrap_err();
        assert!(matches!(error, Error::SampleTruth { index: 1, .. }), "{error}");
        assert_eq!(error.code(), ErrorCode::InvalidInput);
        assert!(error.detail().contains("the model gives one class"), "{}", error.detail());
    }
    let target = |name: &str| Target { name: name.into(), unit: String::new(), mean: 0.0, std: 1.0 };
    let output = Output::Regression(Regression { targets: vec![target("a"), target("b")], output: None });
    let mut model = Model::load(&Pipeline::new(halves_pipeline().input, output), &halves("N")).unwrap();
    for values in [vec![1.0], vec![1.0, f64::NAN]] {
        let error = judge(&mut model, [(vec![0; 4], Truth::Values(values))]).unwrap_err();
        assert!(matches!(error, Error::SampleTruth { index: 0, .. }), "{error}");
    }
    let (pipeline, onnx) = finder();
    let mut model = Model::load(&pipeline, &onnx).unwrap();
    let place = TrueBox { label: 0, area: [0.0, f32::NAN, 1.0, 1.0], ignored: false };
    let error = judge(&mut model, [(vec![0; 4], Truth::Boxes(vec![place]))]).unwrap_err();
    assert!(matches!(error, Error::SampleTruth { index: 0, .. }), "{error}");
}
