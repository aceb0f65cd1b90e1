//! From bytes to a report.

use std::collections::HashMap;

use flotilla_onnx::clean::{self, Cleaned, Inferred, Known, clean, infer, missing_operators};
use flotilla_onnx::{Dim, Model};
use flotilla_runtime::engine::memory;

use crate::format::{Kind, recognise};
use crate::guess::guess;
use crate::{
    Error, Format, Guess, MAX_BYTES, Memory, Operator, Output, Report, Result, Tensor, cost, integers,
    labels, package, propose, weights,
};

/// Activations of one run from which a board should have the memory for them.
const LARGE_ACTIVATIONS: u64 = 64 << 20;

/// What the caller decides.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Options {
    /// How the model is cleaned up.
    pub clean: clean::Options,
    /// Names of classes, in the place of those that file or package name.
    pub labels: Option<Vec<String>>,
}

/// A model that can be registered.
#[derive(Clone, Debug)]
pub struct Import {
    /// The cleaned ONNX file.
    pub model: Vec<u8>,
    /// What it is.
    pub report: Report,
}

/// Reads a file of any kind, cleans the model in it up and says what it is.
pub fn inspect(bytes: &[u8], options: &Options) -> Result<Import> {
    if bytes.len() > MAX_BYTES {
        return Err(Error::TooLarge { bytes: bytes.len(), limit: MAX_BYTES });
    }
    match recognise(bytes)? {
        Kind::Onnx => onnx(bytes, Format::Onnx, None, options),
        Kind::Archive(archive) => {
            let (bytes, package) = package::open(bytes, archive)?;
            recognise(&bytes)?;
            onnx(&bytes, Format::Package, Some(package), options)
        }
    }
}

/// What the engine says of a model.
struct Tried {
    /// Why it does not run; none if it does.
    error: Option<String>,
    memory: Option<Memory>,
}

/// The causes on one line, each once: the engine repeats itself.
fn told(error: &flotilla_runtime::Error) -> String {
    let mut parts: Vec<String> = Vec::new();
    let mut next: Option<&dyn std::error::Error> = Some(error);
    while let Some(cause) = next {
        let text = cause.to_string();
        if !parts.contains(&text) {
            parts.push(text);
        }
        next = cause.source();
    }
    let text = parts.join(": ").replace(['\n', '\r'], " ");
    text.chars().take(1000).collect()
}

/// A model, cleaned up, and what it seems to be.
struct Read {
    model: Model,
    cleaned: Cleaned,
    known: HashMap<String, Known>,
    problem: Option<String>,
    guess: Guess,
}

impl Read {
    /// Cleans a model up; `original` has what quantisation said of its input.
    fn of(model: &Model, original: &Model, options: &Options, labels: usize) -> Result<Self> {
        let mut model = model.clone();
        let cleaned = clean(&mut model, &options.clean)?;
        let Inferred { values: known, problem } = infer(&model);
        let guess = guess(original, &model, &known, labels);
        Ok(Self { model, cleaned, known, problem, guess })
    }
}

fn onnx(
    bytes: &[u8],
    format: Format,
    package: Option<package::Package>,
    options: &Options,
) -> Result<Import> {
    let original = Model::read(bytes)?;
    weights::check(&original)?;
    let from_package = package.as_ref().map(|package| package.labels.as_slice()).unwrap_or_default();
    let labels = labels::find(options.labels.as_deref(), from_package, &original)?;
    let names = labels.names.len();
    let mut read = Read::of(&original, &original, options, names)?;
    let mut warnings = Vec::new();
    // Answers are real numbers. What is compared with the input has to be of the same kind as that.
    let both = read.guess.output == Output::Anomaly;
    let tensors = read.guess.output == Output::Tensors;
    if let Some(floats) = (!tensors).then(|| integers::to_floats(&original, both)).flatten() {
        let meant = if both { &floats } else { &original };
        read = Read::of(&floats, meant, options, names)?;
        let which = if both { "inputs and outputs" } else { "outputs" };
        warnings.push(format!("the model's {which} held integers and are real numbers now"));
    }
    let Read { model, cleaned, known, problem, guess } = read;
    let file = model.write();
    let tried = match problem {
        Some(problem) => Tried { error: Some(problem), memory: None },
        None => match memory(&file) {
            Ok(memory) => Tried { error: None, memory },
            Err(error) => Tried { error: Some(told(&error)), memory: None },
        },
    };
    labels::check(&labels, &guess.output)?;
    let proposal = propose::propose(&guess, &model, &known, &labels);
    let missing = missing_operators(&model);
    let summary = original.summary();
    warnings.extend(cleaned.notes.clone());
    warnings.extend(
        missing.iter().map(|m| format!("the engine lacks {} ({} used): {}", m.operator, m.count, m.advice)),
    );
    let open = |dims: &Vec<Dim>| dims.iter().any(|dim| !matches!(dim, Dim::Fixed(_)));
    if model.inputs().iter().any(|input| input.dims.as_ref().is_none_or(open)) {
        warnings.push("the model has inputs of open size: say what they are before it is released".into());
    }
    if model.inputs().is_empty() {
        warnings.push("the model has no input, so it always answers the same".into());
    }
    if let Some(memory) = tried.memory.as_ref().filter(|memory| memory.activations > LARGE_ACTIVATIONS) {
        warnings.push(format!(
            "one run takes {} MiB of activations, most of it at `{}`",
            memory.activations >> 20,
            memory.at
        ));
    }
    if original.opset() > 21 {
        warnings.push(format!("opset {} is newer than what the engine is tested with", original.opset()));
    }
    if package.as_ref().is_some_and(|package| package.has_code) {
        warnings.push("the Python code in the package is not run: what it does before and after the model belongs into the pipeline".into());
    }
    let report = Report {
        format,
        package,
        file_bytes: bytes.len() as u64,
        model_bytes: file.len() as u64,
        producer: summary.producer,
        opset: summary.opset,
        inputs: original.inputs().iter().map(Tensor::from).collect(),
        outputs: model.outputs().iter().map(Tensor::from).collect(),
        operators: summary.operators.into_iter().map(|(name, count)| Operator { name, count }).collect(),
        missing,
        runs: tried.error.is_none(),
        engine_error: tried.error,
        parameters: summary.parameters,
        macs: cost::multiplications(&model, &known),
        memory: tried.memory,
        cleaned,
        warnings,
        labels: labels.names,
        guess,
        proposal,
    };
    Ok(Import { model: file, report })
}
