//! Cleans models up and says what that did, and what it does to the time of one run in the engine.
//!
//!     clean FILE.onnx…            what was done, and times as ratios to the first form that runs
//!     clean --write OUT FILE.onnx the cleaned model
#![expect(clippy::unwrap_used, reason = "an example fails by panicking")]

use std::time::{Duration, Instant};

use flotilla_onnx::Model;
use flotilla_onnx::clean::{Options, clean, missing_operators};
use tract_onnx::prelude::*;
use tract_onnx::tract_hir::infer::Factoid;

/// Runs of each form in turn.
const ROUNDS: usize = 201;

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if let [write, out, file] = arguments.as_slice()
        && write == "--write"
    {
        let mut model = Model::read(&std::fs::read(file).unwrap()).unwrap();
        clean(&mut model, &Options::default()).unwrap();
        std::fs::write(out, model.write()).unwrap();
        return;
    }
    for file in arguments {
        let original = Model::read(&std::fs::read(&file).unwrap()).unwrap();
        println!("{file}: {} bytes", original.write().len());
        let mut forms = vec![("as it is".to_owned(), original.clone())];
        for float_activations in [false, true] {
            let mut model = original.clone();
            let begun = Instant::now();
            let cleaned = clean(&mut model, &Options { float_activations, ..Options::default() }).unwrap();
            let name = if float_activations { "float activations" } else { "cleaned" };
            println!("  {name}: {} bytes, {:?} to clean", model.write().len(), begun.elapsed());
            if !float_activations {
                cleaned.steps.iter().for_each(|step| println!("    {}: {}", step.pass, step.changes));
                cleaned.notes.iter().for_each(|note| println!("    {note}"));
                missing_operators(&model)
                    .iter()
                    .for_each(|m| println!("    lacks {}: {}", m.operator, m.advice));
            }
            forms.push((name.into(), model));
        }
        times(&forms);
    }
}

fn times(forms: &[(String, Model)]) {
    let mut running: Vec<(&str, TypedSimpleState, TVec<TValue>, Vec<Duration>)> = Vec::new();
    for (name, model) in forms {
        match load(model) {
            Ok((plan, inputs)) => running.push((name, plan.spawn().unwrap(), inputs, Vec::new())),
            Err(error) => println!("  {name}: does not run: {error:?}"),
        }
    }
    for _ in 0..ROUNDS {
        for (_, state, inputs, times) in &mut running {
            let begun = Instant::now();
            state.run(inputs.clone()).unwrap();
            times.push(begun.elapsed());
        }
    }
    // The fastest run is the one that nothing else on the machine has held up.
    let fastest = |times: &[Duration]| times.iter().min().map_or(0.0, |time| time.as_secs_f64() * 1e3);
    let first = running.first().map(|(_, _, _, times)| fastest(times));
    for (name, _, _, times) in &running {
        println!(
            "  {name}: {:.3} ms, {:.2} of the first",
            fastest(times),
            fastest(times) / first.unwrap_or(1.0)
        );
    }
}

fn load(model: &Model) -> TractResult<(Arc<TypedRunnableModel>, TVec<TValue>)> {
    let loader = onnx().with_ignore_output_shapes(true).with_ignore_value_info(true);
    let mut parsed = loader.model_for_read(&mut &*model.write())?;
    let mut inputs = tvec!();
    for place in 0..parsed.inputs.len() {
        let fact = parsed.input_fact(place)?.clone();
        let shape: Vec<usize> = fact
            .shape
            .dims()
            .map(|dim| dim.concretize().and_then(|dim| usize::try_from(dim.to_i64().ok()?).ok()).unwrap_or(1))
            .collect();
        let kind = fact.datum_type.concretize().unwrap_or(f32::datum_type());
        parsed.set_input_fact(place, InferenceFact::dt_shape(kind, &shape))?;
        inputs.push(Tensor::zero_dt(kind, &shape)?.into());
    }
    Ok((parsed.into_optimized()?.into_runnable()?, inputs))
}
