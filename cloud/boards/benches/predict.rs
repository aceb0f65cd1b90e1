//! How far predictions are off on this machine: `cargo bench -p flotilla-boards --bench predict`, or with `--profile dev`;
//! the time for calibrating, in seconds, may follow after `--`.
//!
//! The machine is calibrated on generated graphs first; the models of `FLOTILLA_TEST_DATA` take no part in that. Then
//! each is measured in turns with all others, so that what else the machine does meets all of them alike. What is compared
//! is the shortest run; or, where that is less, the sum of the shortest times of each operator and of what a run costs
//! besides: on a busy machine no run of some milliseconds is left alone, but its operators are.
#![expect(clippy::unwrap_used, reason = "a benchmark that cannot measure ends")]

use std::path::PathBuf;
use std::time::Duration;

use flotilla_boards::{CostTable, calibrate, reference};
use flotilla_compress::{Form, Recipe, Step, Weights};
use flotilla_runtime::engine::{self, Given, Operator};

const MODELS: [(&str, &[usize]); 7] = [
    ("mnist.onnx", &[1, 1, 28, 28]),
    ("mlperf-tiny/ic_resnet8_float.onnx", &[1, 32, 32, 3]),
    ("mlperf-tiny/vww_mobilenetv1_float.onnx", &[1, 96, 96, 3]),
    ("mlperf-tiny/kws_dscnn_float.onnx", &[1, 49, 10, 1]),
    ("mlperf-tiny/ad_autoencoder_float.onnx", &[1, 640]),
    ("ultraface-RFB-320.onnx", &[1, 3, 240, 320]),
    ("yunet_n_320_320.onnx", &[1, 3, 320, 320]),
];
/// Turns in which every model is measured once.
const TURNS: usize = 12;
const TURN: Duration = Duration::from_millis(150);

struct Model {
    name: String,
    onnx: Vec<u8>,
    given: [Given; 1],
    operators: Vec<(Operator, Duration)>,
    whole: Duration,
}

fn main() {
    let Some(data) = std::env::var_os("FLOTILLA_TEST_DATA").map(PathBuf::from) else {
        println!("FLOTILLA_TEST_DATA is not set: there is nothing to predict");
        return;
    };
    let seconds = std::env::args().skip(1).find_map(|argument| argument.parse().ok()).unwrap_or(60);
    let calibrated = calibrate("this-machine", Duration::from_secs(seconds), |_, _| ()).unwrap();
    println!(
        "calibrated on {} graphs; on those left out of the fit: median error {:.1} %, worst {:.1} %",
        calibrated.graphs,
        calibrated.median_error * 100.0,
        calibrated.worst_error * 100.0
    );
    if let Some(file) = std::env::var_os("FLOTILLA_TABLE") {
        std::fs::write(file, calibrated.table.to_text().unwrap()).unwrap();
    }
    let mut models = Vec::new();
    for (name, shape) in MODELS {
        let onnx = std::fs::read(data.join("models").join(name)).unwrap();
        let recipe = Recipe::new(vec![Step::Weights(Weights::new(Form::Int8))]);
        if let Ok(small) = recipe.apply(&onnx) {
            models.push(model(format!("{name} int8"), small, shape));
        }
        models.push(model(name.to_owned(), onnx, shape));
    }
    for _ in 0..TURNS {
        models.iter_mut().for_each(measure);
    }
    for (what, table) in
        [("calibrated here", &calibrated.table), ("the table that comes with it", &reference())]
    {
        compare(what, table, &calibrated.table, &models);
    }
    if std::env::var_os("FLOTILLA_OPERATORS").is_some() {
        models.iter().for_each(|model| look(&calibrated.table, model));
    }
}

fn model(name: String, onnx: Vec<u8>, shape: &[usize]) -> Model {
    Model { name, onnx, given: [Given::of(shape)], operators: Vec::new(), whole: Duration::MAX }
}

fn measure(model: &mut Model) {
    let profile = engine::profile(&model.onnx, &model.given, TURN).unwrap();
    model.whole = model.whole.min(profile.whole);
    if model.operators.is_empty() {
        model.operators = profile.operators;
        return;
    }
    for ((_, least), (_, again)) in model.operators.iter_mut().zip(profile.operators) {
        *least = (*least).min(again);
    }
}

fn compare(what: &str, table: &CostTable, calibrated: &CostTable, models: &[Model]) {
    println!(
        "\n{what}\n{:<44} {:>10} {:>10} {:>9} {:>21}",
        "model", "predicted", "measured", "error", "interval"
    );
    let mut errors: Vec<f64> = models
        .iter()
        .map(|model| {
            let operators: Vec<Operator> =
                model.operators.iter().map(|(operator, _)| operator.clone()).collect();
            let prediction = table.predict(&operators);
            let inside: f64 = model.operators.iter().map(|(_, time)| time.as_secs_f64() * 1e3).sum();
            let took = (inside + calibrated.run_ms(&operators)).min(model.whole.as_secs_f64() * 1e3);
            let error = prediction.ms / took - 1.0;
            println!(
                "{:<44} {:>7.3} ms {:>7.3} ms {:>+7.1} % {:>9.3}-{:.3} ms",
                model.name,
                prediction.ms,
                took,
                error * 100.0,
                prediction.low_ms,
                prediction.high_ms
            );
            error.abs()
        })
        .collect();
    errors.sort_by(f64::total_cmp);
    let (median, worst) = (errors[errors.len() / 2], errors[errors.len() - 1]);
    println!("median error {:.1} %, worst {:.1} %", median * 100.0, worst * 100.0);
}

fn look(table: &CostTable, model: &Model) {
    println!("\n{}", model.name);
    for (operator, took) in &model.operators {
        let one = std::slice::from_ref(operator);
        let alone = table.predict(one).ms - table.run_ms(one);
        let took = took.as_secs_f64() * 1e3;
        println!("{took:>9.4} ms {alone:>9.4} ms predicted  {operator:?}");
    }
}
