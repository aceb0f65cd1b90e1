//! What is measured decides: results within the budget only, fallbacks where they help, refusals that help.

use std::cell::Cell;
use std::ops::ControlFlow;

use flotilla_compress::{
    Breach, Budget, Error, Evaluate, Evaluation, FourBit, Metric, Options, Outcomes, Precision, Recipe,
    RuntimeEvaluator, SkipReason, Stage, Warning, compress,
};
use flotilla_protocol::ErrorCode;
use flotilla_runtime::Latency;

use crate::support::{fragile, pictures, pipeline, quietly, squeeze};

/// A search without 4 bits, which keeps some weights in 32-bit floats.
fn keeping(weights: &[&str]) -> Options {
    let keep_float = weights.iter().map(|&w| w.to_owned()).collect();
    Options { keep_float, four_bit: FourBit::Never, ..Options::default() }
}

/// 8-bit weights and nothing else.
fn given() -> Options {
    Options { recipe: Some(Recipe::default()), ..Options::default() }
}

#[test]
fn the_layer_that_breaks_the_model_goes_back_to_floats_and_the_others_stay() {
    let compressed = squeeze(&keeping(&[]), &Budget::default()).unwrap();
    let report = &compressed.report;
    assert_eq!((report.metric, report.value_before, report.value_after), (Metric::Accuracy, 1.0, 1.0));
    assert_eq!((report.samples, report.drop), (40, 0.0));
    let seen: Vec<(&str, f64)> = report.measured.iter().map(|p| (p.name.as_str(), p.drop)).collect();
    let expected = [
        ("f32, folded", 0.0),
        ("f16", 0.0),
        ("int8", 0.5),
        ("int8, equalised and corrected", 0.5),
        ("int8, 1 in f16", 0.0),
    ];
    assert_eq!(seen, expected, "all int8 guesses one class, and without `mix` it does not");
    assert_eq!(report.chosen, Some(4));
    assert_eq!(report.measured[4].kept_float, ["mix"]);
    assert!(report.measured[4].pareto, "nothing that is as good is as small");
    let [sums, mix] = &report.layers[..] else { panic!("{:?}", report.layers) };
    assert_eq!((sums.name.as_str(), sums.precision), ("sums", Precision::Int8));
    assert_eq!((mix.name.as_str(), mix.precision), ("mix", Precision::F16));
    assert_eq!(sums.nodes, ["sum"]);
    assert!(sums.output_error < 0.01 && mix.output_error > 0.1, "{} {}", sums.output_error, mix.output_error);
    assert!(sums.weight_sqnr_db.unwrap() > 35.0);
    assert!(mix.bytes_after < mix.bytes_before * 6 / 10);
    assert!(sums.bytes_after * 3 < sums.bytes_before);
    let pick = report.skipped.iter().find(|s| s.name == "pick");
    assert!(pick.is_none_or(|pick| (pick.elements, &pick.reason) == (32, &SkipReason::TooSmall)));
    let [low, high] = report.drop_interval.unwrap();
    assert!(low < 0.0 && high > 0.0 && high < 0.1, "no sample went another way: {low} to {high}");
    assert_eq!(report.warnings[0], Warning::NoCalibration { by_norms: false });
    assert!(report.warnings.contains(&Warning::FewSamples { samples: 40 }), "a hundredth of 40 is no sample");
    let candidates = report.measured.len();
    assert!(
        report.warnings.contains(&Warning::SameSamples { candidates }),
        "the best of several looks too good"
    );
}

#[test]
fn layers_go_to_four_bits_where_the_budget_allows_it() {
    let whole = squeeze(&keeping(&[]), &Budget::default()).unwrap().report;
    let report = squeeze(&Options::default(), &Budget { max_drop: 1.0, ..Budget::default() }).unwrap().report;
    let chosen = &report.measured[report.chosen.unwrap()];
    assert_eq!(chosen.four_bit.len(), 2, "{chosen}");
    assert!(
        report.bytes_after * 10 < whole.bytes_after * 7,
        "{} of {}",
        report.bytes_after,
        whole.bytes_after
    );
    assert!(report.layers.iter().all(|layer| layer.precision == Precision::Int4));
    let [sums, mix] = &report.layers[..] else { panic!("{:?}", report.layers) };
    assert!(sums.output_error_int4.unwrap() > sums.output_error, "four bits lose more than eight");
    assert!(mix.output_error_int4.unwrap() > sums.output_error_int4.unwrap());
}

#[test]
fn the_report_accounts_for_the_bytes() {
    let options = Options { recipe: Some(Recipe::default()), ..Options::default() };
    let compressed = squeeze(&options, &Budget { max_drop: 1.0, ..Budget::default() }).unwrap();
    let report = &compressed.report;
    assert_eq!(report.bytes_before, fragile().write().len() as u64);
    assert_eq!(report.bytes_after, compressed.onnx.len() as u64);
    let saved: u64 = report.layers.iter().map(|layer| layer.bytes_before - layer.bytes_after).sum();
    // The length before the graph may take a byte less.
    assert!(report.bytes_before - report.bytes_after - saved <= 2, "{report:?}");
    assert!(report.latency_after.p50_ms > 0.0 && report.latency_after.p95_ms >= report.latency_after.p50_ms);
    // 16 x 256, 16 x 16 and 2 x 16 products.
    assert_eq!(report.macs_before, Some(4096 + 256 + 32));
    assert_eq!(report.measured[0].macs, report.macs_before, "rounding saves bytes, not products");
    assert!(report.peak_bytes_before.unwrap() > 17_000);
}

#[test]
fn weights_that_are_to_stay_floats_do() {
    let report = squeeze(&keeping(&["mix"]), &Budget::default()).unwrap().report;
    let mix = report.skipped.iter().find(|s| s.name == "mix").unwrap();
    assert_eq!(mix.reason, SkipReason::KeptFloat);
    assert_eq!(report.layers.len(), 1);
}

#[test]
fn over_the_budget_nothing_ships_and_the_nearest_candidates_are_told() {
    let error = squeeze(&given(), &Budget::default()).unwrap_err();
    assert_eq!(error.code(), ErrorCode::OverBudget);
    let text = error.to_string();
    let Error::OverBudget(refusal) = error else { panic!("{text}") };
    let lost = Breach::Drop { metric: Metric::Accuracy, measured: 0.5, allowed: 0.01 };
    assert_eq!(refusal.breaches, [lost]);
    assert_eq!((refusal.nearest.len(), refusal.nearest[0].drop), (1, 0.5));
    assert!(text.contains("accuracy drops by 0.5000 of 0.0100 allowed"), "{text}");
    assert!(text.contains("raise the budget"), "{text}");
    let wide = Budget { max_drop: 0.5, ..Budget::default() };
    let compressed = squeeze(&given(), &wide).unwrap();
    assert_eq!(compressed.report.drop, 0.5, "the same candidate ships when the budget allows it");
}

#[test]
fn a_size_that_only_a_broken_model_has_is_refused_with_the_nearest_first() {
    let whole = squeeze(&given(), &Budget { max_drop: 1.0, ..Budget::default() }).unwrap();
    let budget = Budget { max_bytes: Some(whole.report.bytes_after / 2), ..Budget::default() };
    let Err(Error::OverBudget(refusal)) = squeeze(&keeping(&[]), &budget) else { panic!("it shipped") };
    assert_eq!((refusal.measured, refusal.nearest.len()), (5, 5));
    assert!(matches!(refusal.breaches[..], [Breach::Bytes { .. }]), "{:?}", refusal.breaches);
    assert_eq!(refusal.nearest[0].kept_float, ["mix"], "the smallest of those that work");
}

#[test]
fn a_latency_or_memory_that_cannot_be_met_is_refused() {
    for budget in [
        Budget { max_drop: 1.0, max_latency_ms: Some(1e-9), ..Budget::default() },
        Budget { max_drop: 1.0, max_peak_bytes: Some(1), ..Budget::default() },
    ] {
        let Err(Error::OverBudget(refusal)) = squeeze(&given(), &budget) else { panic!("it shipped") };
        assert_eq!(refusal.measured, 1);
        let breach = &refusal.breaches[..];
        assert!(matches!(breach, [Breach::Latency { .. } | Breach::Memory { .. }]), "{breach:?}");
    }
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
    for samples in [0, 4097] {
        let options = Options { calibration_samples: samples, ..Options::default() };
        assert!(matches!(squeeze(&options, &Budget::default()), Err(Error::Option { .. })));
        let options = Options { layer_samples: samples, ..Options::default() };
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
        let result = compress(&onnx, &keeping(&[]), &Budget::default(), &mut evaluator, &mut |progress| {
            seen.push(progress);
            if seen.len() == stop_at { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        });
        (result, seen)
    };
    let (result, seen) = attempt(usize::MAX);
    result.unwrap();
    let stages: Vec<Stage> = seen.iter().map(|p| p.stage).collect();
    use Stage::{Baseline, Candidates, Layers, Quantise};
    let candidates = [Candidates; 5];
    assert_eq!(stages, [&[Quantise, Baseline, Layers, Layers][..], &candidates].concat());
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
    fn evaluate(&mut self, _: &[u8]) -> Result<Evaluation, Error> {
        Ok(self.runs.remove(0))
    }

    fn outputs(&mut self, _: &[u8], _: usize) -> Result<Vec<Vec<f32>>, Error> {
        Ok(self.outputs.remove(0))
    }
}

#[test]
fn measurements_that_cannot_be_compared_never_pass_for_a_result() {
    let run = |right: usize, total: usize| Evaluation {
        metric: Metric::Accuracy,
        value: right as f64 / total as f64,
        total: total as u64,
        outcomes: Outcomes::Hits((0..total).map(|sample| sample < right).collect()),
        latency: Latency { p50_ms: 1.0, p95_ms: 1.0 },
        macs: None,
        peak_bytes: None,
    };
    let unknown = |total| Evaluation { outcomes: Outcomes::None, ..run(8, total) };
    let good = || vec![vec![vec![0.5, 0.5]]; 4];
    let other = Evaluation { metric: Metric::Auc, ..unknown(8) };
    for (runs, outputs) in [
        (vec![run(0, 0)], good()),
        (vec![Evaluation { value: f64::NAN, ..run(8, 8) }], good()),
        (vec![Evaluation { value: 1.5, ..run(8, 8) }], good()),
        (vec![Evaluation { total: 9, ..run(8, 8) }], good()),
        (vec![run(8, 8), run(7, 7)], good()),
        (vec![unknown(8), other], good()),
        (vec![run(8, 8); 2], vec![vec![]; 4]),
        (vec![run(8, 8); 2], vec![vec![vec![0.5, 0.5]], vec![vec![0.5]], vec![vec![0.5, 0.5]]]),
        (vec![run(8, 8); 2], vec![vec![vec![0.5, 0.5]], vec![vec![0.5, f32::NAN]], vec![vec![0.5, 0.5]]]),
    ] {
        let mut evaluator = Given { runs, outputs };
        let result = quietly(&fragile().write(), &given(), &Budget::default(), &mut evaluator);
        assert!(matches!(result, Err(Error::Evaluator { .. })), "{result:?}");
    }
    let mut honest = Given { runs: vec![run(8, 8); 2], outputs: good() };
    quietly(&fragile().write(), &given(), &Budget::default(), &mut honest).unwrap();
}
