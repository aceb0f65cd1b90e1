//! `flotilla model inspect`: what a model of another tool is and costs. Needs no control plane.

use super::args::{Inspect, Reading};
use super::commands::{Done, Out, write_new};
use super::exit::Failure;
use super::{pipeline, read_file, table};
use crate::error_text::with_causes;
use flotilla_import::{
    Detection, Guess, Import, Input, MAX_BYTES, Options, Output, Proposal, Report, Tensor, inspect,
};
use flotilla_protocol::{ErrorCode, limits};
use std::collections::BTreeMap;
use std::io::Read;
use std::path::Path;

/// Address space of the whole program while it looks at a file that nobody vouches for: a graph may ask the engine for more
/// than its file has.
const ADDRESS_SPACE: u64 = 8 * 1024 * limits::MIB as u64;

pub(super) fn run(command: Inspect, out: &Out) -> Done {
    let Inspect { file, reading, cleaned, pipeline, .. } = command;
    let import = examine(&file, &reading)?;
    if let Some(cleaned) = cleaned {
        write_new(&cleaned, || Ok(import.model.clone()))?;
    }
    if let Some(path) = pipeline {
        let Proposal { pipeline, points, .. } = &import.report.proposal;
        pipeline::write(&path, pipeline, points)?;
    }
    out.show(&import.report, print)
}

/// Looks at a file.
pub(super) fn examine(file: &Path, reading: &Reading) -> Result<Import, Failure> {
    let options = options(reading)?;
    let bytes = read_bounded(file, MAX_BYTES)?;
    bound_memory();
    inspect(&bytes, &options).map_err(|e| Failure::new(e.code(), with_causes(&e)))
}

/// How it is read.
pub(super) fn options(reading: &Reading) -> Result<Options, Failure> {
    let mut options = Options::default();
    options.clean.dimensions = pairs(&reading.dims, "--dim")?;
    options.clean.fixed = pairs(&reading.fixed, "--fix")?;
    options.clean.float_activations = reading.float_activations;
    options.labels = reading.labels.as_deref().map(read_labels).transpose()?;
    Ok(options)
}

/// What cannot be bounded is looked at all the same: this is the user's own machine.
fn bound_memory() {
    let bound = rustix::process::Rlimit { current: Some(ADDRESS_SPACE), maximum: None };
    let _ = rustix::process::setrlimit(rustix::process::Resource::As, bound);
}

fn read_bounded(path: &Path, most: usize) -> Result<Vec<u8>, Failure> {
    let mut bytes = Vec::new();
    read_file(path)?
        .take(most as u64 + 1)
        .read_to_end(&mut bytes)
        .map_err(|e| Failure::new(ErrorCode::StorageIo, format!("{} cannot be read: {e}", path.display())))?;
    Ok(bytes)
}

/// A name a line.
fn read_labels(path: &Path) -> Result<Vec<String>, Failure> {
    let bad = |detail: String| {
        let detail = format!("{} {detail}; write the name of a class a line", path.display());
        Failure::new(ErrorCode::InvalidInput, detail)
    };
    let bytes = read_bounded(path, limits::LABELS * (limits::LABEL + 2))?;
    let text = String::from_utf8(bytes).map_err(|e| bad(format!("is no text: {e}")))?;
    let labels: Vec<String> = text.lines().map(|line| line.trim().to_owned()).collect();
    if labels.is_empty() || labels.len() > limits::LABELS {
        return Err(bad(format!("has {} lines; 1 to {} are possible", labels.len(), limits::LABELS)));
    }
    if let Some(line) = labels.iter().position(String::is_empty) {
        return Err(bad(format!("has nothing in line {}", line + 1)));
    }
    Ok(labels)
}

fn pairs<T: std::str::FromStr>(all: &[String], option: &str) -> Result<BTreeMap<String, T>, Failure> {
    let pair = |text: &String| {
        let pair =
            text.rsplit_once('=').and_then(|(name, value)| Some((name.to_owned(), value.parse().ok()?)));
        pair.ok_or_else(|| {
            let detail = format!("{option} {text:?} is not NAME=NUMBER");
            Failure::new(ErrorCode::InvalidInput, detail)
        })
    };
    all.iter().map(pair).collect()
}

pub(super) fn print(report: &Report) {
    let made_by = if report.producer.is_empty() { "nobody says what made it" } else { &report.producer };
    println!("{} bytes, operator set {}, by {}", report.file_bytes, report.opset, table::line(made_by));
    println!("{} bytes after clean-up; {} parameters", report.model_bytes, report.parameters);
    if let Some(macs) = report.macs {
        println!("{macs} multiply-accumulates a run");
    }
    if let Some(memory) = &report.memory {
        println!(
            "memory of a run: {} bytes of weights, {} of activations at {}",
            memory.weights,
            memory.activations,
            table::line(&memory.at)
        );
    }
    println!();
    let rows = |kind: &str, tensors: &[Tensor]| -> Vec<Vec<String>> {
        let row = |tensor: &Tensor| {
            let shape = tensor.shape.as_ref().map_or("?".to_owned(), |shape| shape.join(" x "));
            vec![kind.to_owned(), tensor.name.clone(), tensor.data_type.clone().unwrap_or_default(), shape]
        };
        tensors.iter().map(row).collect()
    };
    let tensors = [rows("input", &report.inputs), rows("output", &report.outputs)].concat();
    table::print(&["", "NAME", "TYPE", "SHAPE"], &tensors);
    println!();
    let operators: Vec<String> =
        report.operators.iter().map(|operator| format!("{} {}", operator.count, operator.name)).collect();
    println!("operators: {}", table::line(&operators.join(", ")));
    let steps: Vec<String> =
        report.cleaned.steps.iter().map(|step| format!("{} ({})", step.pass, step.changes)).collect();
    if !steps.is_empty() {
        println!("cleaned up: {}", table::line(&steps.join(", ")));
    }
    print_guess(&report.guess);
    print_points(&report.proposal);
    for warning in &report.warnings {
        println!("! {}", table::line(warning));
    }
    match &report.engine_error {
        None => println!("the engine runs it"),
        Some(error) => println!("the engine does not run it: {}", table::line(error)),
    }
}

fn print_guess(guess: &Guess) {
    let open = |number: &Option<usize>| number.map_or("?".to_owned(), |number| number.to_string());
    let input = match &guess.input {
        Input::Image { width, height, .. } => format!("a picture of {} x {}", open(width), open(height)),
        Input::Sound { samples } => format!("{} samples of sound", open(samples)),
        Input::SoundFeatures { frames, features, .. } => {
            format!("sound, {} frames of {} features", open(frames), open(features))
        }
        Input::Table { columns, .. } => format!("a row of {} columns", open(columns)),
        Input::Tensors => "tensors".to_owned(),
    };
    let output = match &guess.output {
        Output::Classification { classes, several: false, .. } => format!("one of {classes} classes"),
        Output::Classification { classes, several: true, .. } => format!("any of {classes} labels"),
        Output::Detection(detection) => format!("things and where they are ({})", form(detection)),
        Output::Regression { values } => format!("{values} numbers"),
        Output::Anomaly => "the input again, to find what is unusual".to_owned(),
        Output::Embedding { length } => format!("a vector of {length}"),
        Output::Tensors => "tensors".to_owned(),
    };
    println!("it seems to take {input} and to give {output}");
    for state in &guess.states {
        println!("  it keeps {} as {}", table::line(&state.output), table::line(&state.input));
    }
    for why in &guess.why {
        println!("  {}", table::line(why));
    }
}

fn print_points(proposal: &Proposal) {
    if !proposal.points.is_empty() {
        println!("to confirm, since the file does not tell:");
    }
    for point in &proposal.points {
        println!("  {}: {}", point.field, table::line(&point.text));
    }
    if let Some(problem) = &proposal.problem {
        println!("! {}", table::line(problem));
    }
}

fn form(detection: &Detection) -> &'static str {
    match detection {
        Detection::Ssd { .. } => "boxes and scores, as SSD",
        Detection::YoloObjectness { .. } => "YOLO with objectness",
        Detection::Yolo { .. } => "YOLO v8 and later",
        Detection::AnchorFree { .. } => "without anchors",
        Detection::Chosen => "chosen in the network itself",
    }
}
