//! What is measured decides: results within the budget only, fallbacks where they help, refusals that help.

use std::cell::Cell;
use std::ops::ControlFlow;

use flotilla_compress::{
    Breach, Budget, Error, Evaluate, Evaluation, Int8Weights, Options, Precision, Recipe, RuntimeEvaluator,
    SkipReason, Stage, compress,
};
use flotilla_protocol::ErrorCode;
use flotilla_runtime::Latency;

use crate::support::{fragile, pictures, pipeline, quietly, squeeze};

fn keeping(weights: &[&str]) -> Options {
    let keep_float = weights.iter().map(|&w| w.to_owned()).collect();
    let int8_weights = Int8Weights { keep_float, ..Int8Weights::default() };
    Options { recipe: Recipe { int8_weights, ..Recipe::default() }, ..Options::default() }
}

#[test]
fn the_layer_that_breaks_the_model_goes_back_to_floats_and_the_others_stay() {
    let compressed = squeeze(&Options::default(), &Budget::default()).unwrap();
    let report = &compressed.report;
    assert_eq!(report.recipe.int8_weights.keep_float, ["mix"]);
    assert_eq!((report.accuracy_before, report.accuracy_after, report.accuracy_drop), (1.0, 1.0, 0.0));
    assert_eq!(report.samples, 40);
    let drops: Vec<f64> = report.measured.iter().map(|point| point.drop).collect();
    assert_eq!(drops, [0.5, 0.0], "all int8 first, which guesses one class; then without `mix`");
    let [sums, mix] = &report.layers[..] else { panic!("{:?}", report.layers) };
    assert_eq!((sums.name.as_str(), sums.precision), ("sums", Precision::Int8));
    assert_eq!((mix.name.as_str(), mix.precision), ("mix", Precision::F32));
    assert_eq!(sums.nodes, ["sum"]);
    assert!(sums.output_error < 0.01 && mix.output_error > 0.1, "{} {}", sums.output_error, mix.output_error);
    assert!(sums.weight_sqnr_db.unwrap() > 35.0);
    assert_eq!(mix.bytes_after, mix.bytes_before);
    assert!(sums.bytes_after * 3 < sums.bytes_before);
    let pick = report.skipped.iter().find(|s| s.name == "pick").unwrap();
    assert_eq!((pick.elements, &pick.reason), (32, &SkipReason::TooSmall));
}

#[test]
fn the_report_accounts_for_the_bytes() {
    let compressed = squeeze(&keeping(&["mix"]), &Budget::default()).unwrap();
    let report = &compressed.report;
    assert_eq!(report.bytes_before, fragile().write().len() as u64);
    assert_eq!(report.bytes_after, compressed.onnx.len() as u64);
    let saved: u64 = report.layers.iter().map(|layer| layer.bytes_before - layer.bytes_after).sum();
    // The length before the graph may take a byte less.
    assert!(report.bytes_before - report.bytes_after - saved <= 2, "{report:?}");
    let mix = report.skipped.iter().find(|s| s.name == "mix").unwrap();
    assert_eq!(mix.reason, SkipReason::KeptFloat);
    assert!(report.latency_after.p50_ms > 0.0 && report.latency_after.p95_ms >= report.latency_after.p50_ms);
}

#[test]
fn over_the_budget_nothing_ships_and_the_nearest_candidates_are_told() {
    for options in [keeping(&["sums"]), Options { max_fallbacks: 0, ..Options::default() }] {
        let error = squeeze(&options, &Budget::default()).unwrap_err();
        assert_eq!(error.code(), ErrorCode::OverBudget);
        let text = error.to_string();
        let Error::OverBudget(refusal) = error else { panic!("{text}") };
        assert_eq!(refusal.breaches, [Breach::Drop { measured: 0.5, allowed: 0.01 }]);
        assert_eq!((refusal.nearest.len(), refusal.nearest[0].drop), (1, 0.5));
        assert!(text.contains("accuracy drops by 0.5000 of 0.0100 allowed"), "{text}");
        assert!(text.contains("raise the budget"), "{text}");
    }
    let wide = Budget { max_drop: 0.5, ..Budget::default() };
    let compressed = squeeze(&keeping(&["sums"]), &wide).unwrap();
    assert_eq!(compressed.report.accuracy_drop, 0.5, "the same candidate ships when the budget allows it");
}

#[test]
fn a_size_that_only_a_broken_model_has_is_refused_with_both_candidates() {
    let whole = squeeze(&Options::default(), &Budget { max_drop: 1.0, ..Budget::default() }).unwrap();
    let budget = Budget { max_bytes: Some(whole.report.bytes_after), ..Budget::default() };
    let Err(Error::OverBudget(refusal)) = squeeze(&Options::default(), &budget) else { panic!("it shipped") };
    assert_eq!((refusal.measured, refusal.nearest.len()), (2, 2));
    assert!(matches!(refusal.breaches[..], [Breach::Bytes { .. }]), "{:?}", refusal.breaches);
    assert_eq!(refusal.nearest[0].kept_float, ["mix"]);
}

#[test]
fn a_latency_that_cannot_be_met_is_refused_at_once() {
    let budget = Budget { max_drop: 1.0, max_latency_ms: Some(1e-9), ..Budget::default() };
    let Err(Error::OverBudget(refusal)) = squeeze(&Options::default(), &budget) else { panic!("it shipped") };
    assert_eq!(refusal.measured, 1);
    assert!(matches!(refusal.breaches[..], [Breach::Latency { .. }]), "{:?}", refusal.breaches);
}

#[test]
fn budgets_and_options_that_cannot_be_meant_are_refused() {
    for budget in [
        Budget { max_drop: f64::NAN, ..Budget::default() },
        Budget { max_drop: -0.1, ..Budget::default() },
        Budget { max_drop: 1.1, ..Budget::default() },
        Budget { max_latency_ms: Some(0.0), ..Budget::default() },
        Budget { max_latency_ms: Some(f64::INFINITY), ..Budget::default() },
    ] {
        let error = squeeze(&Options::default(), &budget).unwrap_err();
        assert!(matches!(error, Error::Budget { .. }), "{budget:?}: {error}");
        assert_eq!(error.code(), ErrorCode::InvalidInput);
    }
    for calibration_samples in [0, 4097] {
        let options = Options { calibration_samples, ..Options::default() };
        assert!(matches!(squeeze(&options, &Budget::default()), Err(Error::Option { .. })));
    }
    let pipeline = pipeline(2);
    assert!(matches!(RuntimeEvaluator::new(&pipeline, Vec::<Vec<u8>>::new(), vec![]), Err(Error::NoSamples)));
    assert!(matches!(
        RuntimeEvaluator::new(&pipeline, vec![vec![0_u8]], vec![]),
        Err(Error::LabelCount { samples: 1, labels: 0 })
    ));
}

#[test]
fn progress_names_every_step_and_each_of_them_can_be_the_last() {
    let pipeline = pipeline(2);
    let onnx = fragile().write();
    let attempt = |stop_at: usize| {
        let (samples, labels) = pictures(8);
        let mut evaluator = RuntimeEvaluator::new(&pipeline, samples, labels).unwrap();
        let mut seen = Vec::new();
        let result =
            compress(&onnx, &Options::default(), &Budget::default(), &mut evaluator, &mut |progress| {
                seen.push(progress);
                if seen.len() == stop_at { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
            });
        (result, seen)
    };
    let (result, seen) = attempt(usize::MAX);
    result.unwrap();
    let stages: Vec<Stage> = seen.iter().map(|p| p.stage).collect();
    use Stage::{Baseline, Candidates, Layers, Quantise};
    assert_eq!(stages, [Quantise, Baseline, Layers, Layers, Candidates, Candidates]);
    assert!(seen.iter().all(|p| p.done < p.total));
    assert_eq!(seen[3].layer.as_deref(), Some("mix"));
    for stop_at in 1..=seen.len() {
        let error = attempt(stop_at).0.unwrap_err();
        assert!(matches!(error, Error::Cancelled), "step {stop_at}: {error}");
        assert_eq!(error.code(), ErrorCode::Cancelled);
    }
}

#[test]
fn a_measurement_can_be_stopped_between_two_samples() {
    let pipeline = pipeline(2);
    let asked = Cell::new(0);
    for stop_at in [1, 5, 42, 50] {
        asked.set(0);
        let (samples, labels) = pictures(40);
        let evaluator = RuntimeEvaluator::new(&pipeline, samples, labels).unwrap();
        let mut evaluator = evaluator.cancelled_by(|| {
            asked.set(asked.get() + 1);
            asked.get() >= stop_at
        });
        let result = quietly(&fragile().write(), &Options::default(), &Budget::default(), &mut evaluator);
        assert!(matches!(result, Err(Error::Cancelled)));
        assert_eq!(asked.get(), stop_at, "it stops when it is told");
    }
}

/// An evaluator of a caller that gives what it was told to.
struct Given {
    runs: Vec<Evaluation>,
    outputs: Vec<Vec<Vec<f32>>>,
}

impl Evaluate for Given {
    fn accuracy(&mut self, _: &[u8]) -> Result<Evaluation, Error> {
        Ok(self.runs.remove(0))
    }

    fn outputs(&mut self, _: &[u8], _: usize) -> Result<Vec<Vec<f32>>, Error> {
        Ok(self.outputs.remove(0))
    }
}

#[test]
fn measurements_that_cannot_be_compared_never_pass_for_a_result() {
    let run = |correct, total| Evaluation { correct, total, latency: Latency { p50_ms: 1.0, p95_ms: 1.0 } };
    let good = || vec![vec![vec![0.5, 0.5]]; 3];
    for (runs, outputs) in [
        (vec![run(0, 0)], good()),
        (vec![run(9, 8)], good()),
        (vec![run(8, 8), run(7, 7)], good()),
        (vec![run(8, 8); 2], vec![vec![]; 3]),
        (vec![run(8, 8); 2], vec![vec![vec![0.5, 0.5]], vec![vec![0.5]], vec![vec![0.5, 0.5]]]),
        (vec![run(8, 8); 2], vec![vec![vec![0.5, 0.5]], vec![vec![0.5, f32::NAN]], vec![vec![0.5, 0.5]]]),
    ] {
        let mut evaluator = Given { runs, outputs };
        let result = quietly(&fragile().write(), &Options::default(), &Budget::default(), &mut evaluator);
        assert!(matches!(result, Err(Error::Evaluator { .. })), "{result:?}");
    }
    let mut honest = Given { runs: vec![run(8, 8); 2], outputs: good() };
    quietly(&fragile().write(), &Options::default(), &Budget::default(), &mut honest).unwrap();
}
