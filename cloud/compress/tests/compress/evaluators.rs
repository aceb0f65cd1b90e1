//! Models of any kind, judged by what is known of the samples.

use std::ops::ControlFlow;

use flotilla_compress::{
    Budget, Calibration, Compressed, Error, FourBit, Judge, Metric, Options, RuntimeEvaluator,
    TensorEvaluator, Tried, Warning, compress, compress_made, smallest,
};
use flotilla_onnx::{GraphBuilder, Node, Value};
use flotilla_protocol::{Digest, Truth};

use crate::support::{Noise, fragile, pictures, pipeline};

/// Sixteen values to sixteen values and back: two dense layers.
fn dense(outputs: usize) -> Vec<u8> {
    dense_of(outputs, |weight| weight)
}

/// The same with other weights.
fn dense_of(outputs: usize, weight: fn(f32) -> f32) -> Vec<u8> {
    let mut noise = Noise(31);
    let mut values = |count| noise.values(count).into_iter().map(weight).collect::<Vec<f32>>();
    GraphBuilder::new("dense")
        .input(Value::f32("x", [1_usize, 16]))
        .output(Value::f32("y", [1, outputs]))
        .initializer_f32("in", &[16, 32], values(512))
        .initializer_f32("in_bias", &[32], values(32))
        .initializer_f32("out", &[32, outputs], values(32 * outputs))
        .node(Node::new("MatMul", ["x", "in"], ["p"]))
        .node(Node::new("Add", ["p", "in_bias"], ["s"]))
        .node(Node::new("Relu", ["s"], ["r"]))
        .node(Node::new("MatMul", ["r", "out"], ["y"]))
        .build()
        .unwrap()
        .write()
}

fn samples(count: u64) -> Vec<Vec<f32>> {
    (0..count).map(|seed| Noise(900 + seed).values(16)).collect()
}

fn outputs(onnx: &[u8]) -> Vec<Vec<f32>> {
    samples(64).iter().map(|sample| crate::support::run(onnx, &[1, 16], sample)).collect()
}

fn shrink(onnx: &[u8], judge: Judge, max_drop: f64) -> Result<Compressed, Error> {
    let calibration = (0..32).map(|seed| Noise(70 + seed).values(16)).collect();
    let mut evaluator = TensorEvaluator::new(onnx, [1, 16], samples(64), judge)?
        .calibrated_on(Calibration::new([1, 16], calibration)?);
    let options = Options { four_bit: FourBit::Never, ..Options::default() };
    let budget = Budget { max_drop, ..Budget::default() };
    compress(onnx, &options, &budget, &mut evaluator, &mut |_| ControlFlow::Continue(()))
}

#[test]
fn without_labels_it_is_the_outputs_of_the_model_before_that_count_and_the_report_says_so() {
    let onnx = dense(16);
    let report = shrink(&onnx, Judge::Fidelity { classifier: false }, 0.02).unwrap().report;
    assert_eq!((report.metric, report.value_before), (Metric::Fidelity, 1.0));
    assert!(report.value_after < 1.0 && report.value_after > 0.98, "{}", report.value_after);
    assert!(report.warnings.contains(&Warning::NoLabels));
    let [low, high] = report.drop_interval.unwrap();
    assert!(low < report.drop && report.drop < high && high < 0.02, "{low} {} {high}", report.drop);
    let report = shrink(&onnx, Judge::Fidelity { classifier: true }, 0.05).unwrap().report;
    assert!(report.value_after > 0.95 && report.samples == 64);
    assert!(report.recipe.calibration.is_some() == report.recipe.needs_samples());
}

#[test]
fn values_are_judged_by_their_own_metrics() {
    let onnx = dense(1);
    let truth: Vec<f64> =
        outputs(&onnx).iter().enumerate().map(|(i, y)| f64::from(y[0]) + (i % 3) as f64 - 1.0).collect();
    let report = shrink(&onnx, Judge::R2(truth.clone()), 0.01).unwrap().report;
    assert!(report.metric == Metric::R2 && report.value_before > 0.3, "{}", report.value_before);
    let report = shrink(&onnx, Judge::Mae(truth.clone()), 0.1).unwrap().report;
    assert_eq!(report.metric, Metric::Mae);
    assert!((report.value_after - report.value_before - report.drop).abs() < 1e-12, "more error is a loss");
    // An error may be allowed that is larger than 1; a share may not.
    assert!(shrink(&onnx, Judge::Mae(truth.clone()), 3.0).is_ok());
    let error = shrink(&onnx, Judge::Mae(vec![0.0; 3]), 3.0).unwrap_err();
    assert!(matches!(error, Error::LabelCount { samples: 64, labels: 3 }), "{error}");
}

#[test]
fn anomalies_are_judged_by_how_well_scores_tell_them_apart() {
    let onnx = dense(16);
    let score = |(sample, output): (&Vec<f32>, &Vec<f32>)| -> f32 {
        sample.iter().zip(output).map(|(a, b)| (a - b).powi(2)).sum()
    };
    let (samples, outputs) = (samples(64), outputs(&onnx));
    let scores: Vec<f32> = samples.iter().zip(&outputs).map(score).collect();
    let mut sorted = scores.clone();
    sorted.sort_by(f32::total_cmp);
    let anomalies: Vec<bool> = scores.iter().map(|score| *score > sorted[40]).collect();
    let judge = |anomalies| Judge::Auc { anomalies, reconstruction: true };
    let report = shrink(&onnx, judge(anomalies), 0.02).unwrap().report;
    assert_eq!((report.metric, report.value_before), (Metric::Auc, 1.0));
    let error = shrink(&onnx, judge(vec![true; 64]), 0.02).unwrap_err();
    assert!(matches!(&error, Error::Evaluator { problem } if problem.contains("one kind")), "{error}");
}

#[test]
fn labels_make_it_accuracy() {
    let onnx = dense(5);
    let best = |scores: &Vec<f32>| (0..5).max_by(|&a, &b| scores[a].total_cmp(&scores[b])).unwrap();
    let labels: Vec<usize> = outputs(&onnx).iter().map(best).collect();
    let report = shrink(&onnx, Judge::Accuracy(labels), 0.05).unwrap().report;
    assert_eq!((report.metric, report.value_before), (Metric::Accuracy, 1.0));
    assert!(!report.warnings.contains(&Warning::NoLabels));
}

#[test]
fn a_calibration_set_of_one_class_is_told_and_an_empty_one_refused() {
    let pipeline = pipeline(2);
    let (samples, labels) = pictures(8);
    let evaluator = || RuntimeEvaluator::new(&pipeline, samples.clone(), labels.clone()).unwrap();
    assert!(matches!(evaluator().calibrated_on(vec![], vec![]), Err(Error::Calibration { .. })));
    assert!(matches!(
        evaluator().calibrated_on(samples.clone(), vec![1]),
        Err(Error::LabelCount { samples: 8, labels: 1 })
    ));
    let mut one = evaluator().calibrated_on(samples[..2].to_vec(), vec![1, 1]).unwrap();
    let budget = Budget { max_drop: 1.0, ..Budget::default() };
    let report =
        crate::support::quietly(&fragile().write(), &Options::default(), &budget, &mut one).unwrap().report;
    assert!(report.warnings.contains(&Warning::OneClass { label: 1 }), "{:?}", report.warnings);
    assert!(!report.warnings.contains(&Warning::NoCalibration { by_norms: false }));
    let said: Vec<String> = report.warnings.iter().map(ToString::to_string).collect();
    assert!(said[0].contains("class 1"), "{said:?}");
}

#[test]
fn the_plot_is_one_picture_that_fits_light_and_dark() {
    let report = shrink(&dense(16), Judge::Fidelity { classifier: false }, 0.02).unwrap().report;
    let svg = report.pareto_svg();
    assert!(svg.starts_with("<svg xmlns") && svg.ends_with("</svg>"));
    assert_eq!(svg.matches("<circle").count(), report.measured.len());
    for part in ["currentColor", "var(--accent", "Size of the file, kB", "fidelity lost, percentage points"] {
        assert!(svg.contains(part), "{part}");
    }
    for outside in ["href", "<script", "<style", "<image", "NaN", "inf"] {
        assert!(!svg.contains(outside), "{outside}");
    }
    // Every element is closed: as many opened as ended.
    assert_eq!(svg.matches('<').count(), svg.matches('>').count());
    let opened = svg.matches('<').count() - svg.matches("</").count() - svg.matches("/>").count();
    assert_eq!(opened, svg.matches("</").count());
}

#[test]
fn the_runtime_judges_by_what_is_true_or_by_what_the_model_before_said() {
    let pipeline = pipeline(2);
    let (samples, labels) = pictures(24);
    let onnx = fragile().write();
    let budget = Budget { max_drop: 1.0, ..Budget::default() };
    let judged = |evaluator: flotilla_compress::Result<RuntimeEvaluator<'_, Vec<u8>>>| {
        crate::support::quietly(&onnx, &Options::default(), &budget, &mut evaluator.unwrap()).unwrap().report
    };
    let truths: Vec<Truth> = labels.iter().map(|label| Truth::Class(*label as u32)).collect();
    let by_labels = judged(RuntimeEvaluator::judged_by(&pipeline, samples.clone(), truths));
    assert_eq!((by_labels.metric, by_labels.samples), (Metric::Accuracy, 24));
    assert!(!by_labels.warnings.contains(&Warning::NoLabels));
    let faithful = judged(RuntimeEvaluator::faithful_to(&onnx, &pipeline, samples.clone()));
    assert_eq!((faithful.metric, faithful.value_before), (Metric::Fidelity, 1.0));
    assert!(faithful.warnings.contains(&Warning::NoLabels));
    let drawn = judged(RuntimeEvaluator::without_samples(&onnx, &pipeline));
    assert_eq!((drawn.metric, drawn.samples), (Metric::Fidelity, 64));
    assert!(drawn.warnings.contains(&Warning::NoSamples { drawn: 64 }), "{:?}", drawn.warnings);
    assert!(drawn.warnings.contains(&Warning::NoCalibration { by_norms: false }), "{:?}", drawn.warnings);
    // The same inputs are drawn each time.
    assert_eq!(judged(RuntimeEvaluator::without_samples(&onnx, &pipeline)).output, drawn.output);
}

#[test]
fn truths_that_do_not_fit_the_model_are_refused() {
    let pipeline = pipeline(2);
    let (samples, _) = pictures(2);
    let refused = |truths: Vec<Truth>| {
        let mut evaluator = match RuntimeEvaluator::judged_by(&pipeline, samples.clone(), truths) {
            Ok(evaluator) => evaluator,
            Err(error) => return error,
        };
        let options = Options::default();
        crate::support::quietly(&fragile().write(), &options, &Budget::default(), &mut evaluator).unwrap_err()
    };
    for truths in [
        vec![Truth::Values(vec![1.0]), Truth::Values(vec![2.0])],
        vec![Truth::Anomalous(true), Truth::Anomalous(false)],
        vec![Truth::Class(0), Truth::Anomalous(false)],
        vec![Truth::Class(0), Truth::Class(9)],
    ] {
        let error = refused(truths);
        assert!(matches!(error, Error::Runtime(_)), "{error}");
        assert_eq!(error.code(), flotilla_protocol::ErrorCode::InvalidInput, "{error}");
    }
    assert!(matches!(refused(vec![Truth::Class(0)]), Error::LabelCount { samples: 2, labels: 1 }));
}

#[test]
fn what_was_made_of_a_model_is_counted_from_that_model_and_the_smallest_within_the_budget_ships() {
    let whole = dense(16);
    let half = dense_of(16, |weight| (64.0 * weight).round() / 64.0);
    let judge =
        || TensorEvaluator::new(&whole, [1, 16], samples(64), Judge::Fidelity { classifier: false }).unwrap();
    let try_it = |onnx: &[u8], max_drop: f64| {
        let budget = Budget { max_drop, ..Budget::default() };
        let options = Options { four_bit: FourBit::Never, ..Options::default() };
        let mut go_on = |_| ControlFlow::Continue(());
        match compress_made(&whole, onnx, &options, &budget, &mut judge(), &mut go_on) {
            Ok(made) => Ok(made),
            Err(Error::OverBudget(refused)) => Err(refused),
            Err(error) => panic!("{error}"),
        }
    };
    let made = try_it(&half, 0.05).unwrap();
    assert_eq!((made.report.source, made.report.bytes_before), (Digest::of(&whole), whole.len() as u64));
    assert!(made.report.value_before == 1.0 && made.report.drop > 0.0, "{:?}", made.report.drop);
    let budget = Budget { max_drop: 0.05, ..Budget::default() };
    let tried = |name: &str, result| Tried { name: name.to_owned(), result };
    let over = try_it(&half, 0.0).unwrap_err();
    let all = vec![tried("whole", try_it(&whole, 0.05)), tried("half", Err(over.clone()))];
    let (place, best) = smallest(&budget, all).unwrap();
    let report = best.report;
    assert_eq!(place, 0);
    let chosen = &report.measured[report.chosen.unwrap()];
    assert!(chosen.bytes == report.bytes_after && chosen.name.starts_with("whole: "), "{chosen}");
    assert!(report.measured.iter().any(|point| point.name.starts_with("half: ")));
    let error = smallest(&budget, vec![tried("half", Err(over))]).unwrap_err();
    assert!(matches!(&error, Error::OverBudget(refused) if refused.nearest[0].name.starts_with("half: ")));
}
