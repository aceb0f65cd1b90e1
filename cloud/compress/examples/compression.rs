//! Compresses one model as `tests/bench-compression` asks for it, and runs models beside each other.
//!
//!   compression compress MODEL OUT KEY=VALUE...   writes OUT, OUT.json (the report) and OUT.svg
//!   compression run SHAPE SAMPLES MODEL...        writes MODEL.out beside each, and times on one line of JSON
//!
//! Files of samples are 32-bit floats, those of labels 32-bit integers, little endian, one after another.
//! Keys: shape=1,32,32,3 samples=FILE labels=FILE calibration=FILE judge=accuracy|top1|outputs|auc max-drop=0.003
//! four-bit=never|standard|contrib layer-samples=16.

use std::collections::BTreeMap;
use std::error::Error;
use std::ops::ControlFlow;
use std::time::Instant;

use flotilla_compress::{Budget, Calibration, FourBit, Judge, Options, TensorEvaluator, compress};
use flotilla_runtime::Latency;
use flotilla_runtime::engine::Probe;

type Outcome<T> = Result<T, Box<dyn Error>>;

fn main() -> Outcome<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match arguments[..] {
        ["compress", model, out, ref pairs @ ..] => shrink(model, out, pairs),
        ["run", shape, samples, ref models @ ..] => run(shape, samples, models),
        _ => Err("see the first lines of this file".into()),
    }
}

fn shape(text: &str) -> Outcome<Vec<usize>> {
    Ok(text.split(',').map(str::parse).collect::<Result<_, _>>()?)
}

fn tensors(file: &str, shape: &[usize]) -> Outcome<Vec<Vec<f32>>> {
    let bytes = std::fs::read(file)?;
    let values: Vec<f32> = bytes.as_chunks::<4>().0.iter().map(|b| f32::from_le_bytes(*b)).collect();
    Ok(values.chunks_exact(shape.iter().product()).map(<[f32]>::to_vec).collect())
}

fn labels(file: &str) -> Outcome<Vec<usize>> {
    let bytes = std::fs::read(file)?;
    Ok(bytes.as_chunks::<4>().0.iter().map(|b| u32::from_le_bytes(*b) as usize).collect())
}

fn shrink(model: &str, out: &str, pairs: &[&str]) -> Outcome<()> {
    let pairs: Option<BTreeMap<&str, &str>> = pairs.iter().map(|pair| pair.split_once('=')).collect();
    let pairs = pairs.ok_or("KEY=VALUE is expected")?;
    let key = |name: &str| pairs.get(name).copied().ok_or_else(|| format!("{name}=... is missing"));
    let onnx = std::fs::read(model)?;
    let shape = shape(key("shape")?)?;
    let judge = match key("judge")? {
        "accuracy" => Judge::Accuracy(labels(key("labels")?)?),
        "top1" => Judge::Fidelity { classifier: true },
        "auc" => {
            let anomalies = labels(key("labels")?)?.into_iter().map(|label| label != 0).collect();
            Judge::Auc { anomalies, reconstruction: true }
        }
        _ => Judge::Fidelity { classifier: false },
    };
    let four_bit = match pairs.get("four-bit").copied() {
        Some("never") => FourBit::Never,
        Some("contrib") => FourBit::Contrib,
        _ => FourBit::Standard,
    };
    let mut evaluator = TensorEvaluator::new(&onnx, shape.clone(), tensors(key("samples")?, &shape)?, judge)?;
    if let Some(file) = pairs.get("calibration") {
        evaluator = evaluator.calibrated_on(Calibration::new(shape.clone(), tensors(file, &shape)?)?);
    }
    let budget = Budget { max_drop: key("max-drop")?.parse()?, ..Budget::default() };
    let layer_samples = pairs.get("layer-samples").map_or(Ok(16), |samples| samples.parse())?;
    let options = Options { four_bit, layer_samples, ..Options::default() };
    let started = Instant::now();
    let compressed = compress(&onnx, &options, &budget, &mut evaluator, &mut |_| ControlFlow::Continue(()))?;
    let report = &compressed.report;
    std::fs::write(out, &compressed.onnx)?;
    std::fs::write(format!("{out}.json"), serde_json::to_string_pretty(report)?)?;
    std::fs::write(format!("{out}.svg"), report.pareto_svg())?;
    eprintln!("{} in {:.1} s: {}", out, started.elapsed().as_secs_f64(), report.recipe);
    for (place, point) in report.measured.iter().enumerate() {
        let mark = if report.chosen == Some(place) {
            '*'
        } else if point.pareto {
            '+'
        } else {
            ' '
        };
        eprintln!("  {mark} {point}; output error {:.5}", point.output_error.unwrap_or_default());
    }
    report.warnings.iter().for_each(|warning| eprintln!("  {warning}"));
    Ok(())
}

/// Runs all models on each sample in turn, so that what else the machine does falls on all of them.
fn run(dims: &str, samples: &str, models: &[&str]) -> Outcome<()> {
    let dims = shape(dims)?;
    let samples = tensors(samples, &dims)?;
    let load = |model: &&str| -> Outcome<Probe> { Ok(Probe::load(&std::fs::read(model)?, &dims)?) };
    let mut probes = models.iter().map(load).collect::<Outcome<Vec<Probe>>>()?;
    let mut outputs: Vec<Vec<u8>> = vec![Vec::new(); models.len()];
    let mut times = vec![Vec::new(); models.len()];
    for sample in &samples {
        for (index, probe) in probes.iter_mut().enumerate() {
            let started = Instant::now();
            let arrays = probe.run(sample)?;
            times[index].push(started.elapsed());
            let values = arrays.iter().flat_map(|array| &array.values);
            outputs[index].extend(values.flat_map(|value| value.to_le_bytes()));
        }
    }
    for (model, bytes) in models.iter().zip(outputs) {
        std::fs::write(format!("{model}.out"), bytes)?;
    }
    let medians: Vec<f64> = times.iter().map(|times| Latency::of(times).p50_ms).collect();
    println!("{}", serde_json::to_string(&medians)?);
    Ok(())
}
