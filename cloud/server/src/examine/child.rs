//! The process itself: read, load, try, measure.

use super::{
    Done, FILE, ImportTask, MEMORY, MODEL, PIPELINE, QUALITY, REPORT, SAMPLES, Said, TASK, Task,
    WITHOUT_MEMORY, sample_name,
};
use crate::error_text::with_causes;
use crate::work::Labels;
use flotilla_data::SampleFile;
use flotilla_import::{Proposal, Report, generated_inputs, inspect};
use flotilla_jobs::JobFailure;
use flotilla_protocol::manifest::Metrics;
use flotilla_protocol::pipeline::Output;
use flotilla_protocol::{ErrorCode, Pipeline};
use flotilla_runtime::{Input, Model, Preprocessor, judge};
use rustix::process::{Resource, Rlimit, Signal, set_parent_process_death_signal, setrlimit};
use serde::Serialize;
use std::path::Path;
use std::process::ExitCode;
use std::time::{Duration, Instant};

/// How often it says how far it is.
const TELL: Duration = Duration::from_millis(200);
/// Exit code of a process that got no memory.
const NO_MEMORY: i32 = 71;
/// Points that a refusal names.
const POINTS: usize = 12;

/// Does the task in a folder and says so on the standard output.
pub(crate) fn main(input: &Path, output: &Path) -> ExitCode {
    // Nobody waits for it any more when its parent has gone. A process that cannot be bounded does not begin.
    let limit = |bytes| Rlimit { current: Some(bytes), maximum: Some(bytes) };
    let bounded = set_parent_process_death_signal(Some(Signal::KILL))
        .and_then(|()| setrlimit(Resource::As, limit(MEMORY)))
        .and_then(|()| setrlimit(Resource::Core, limit(0)));
    end_without_memory();
    let done = match bounded {
        Ok(()) => run(&Place { input, output }),
        Err(error) => {
            Err(JobFailure::new(ErrorCode::Internal, format!("its memory cannot be bounded: {error}")))
        }
    };
    say(&match done {
        Ok(done) => Said::Done(done),
        Err(failure) => Said::Failed { code: failure.code.to_string(), detail: failure.detail },
    });
    ExitCode::SUCCESS
}

/// The engine panics where it gets no memory, and its panics are caught on the way. What comes after that says nothing about
/// the model, so the process ends there; its parent reads why.
fn end_without_memory() {
    std::panic::set_hook(Box::new(|panic| {
        let text = panic.to_string();
        eprintln!("{text}");
        if WITHOUT_MEMORY.iter().any(|words| text.contains(words)) {
            std::process::exit(NO_MEMORY);
        }
    }));
}

fn say(said: &Said) {
    if let Ok(line) = serde_json::to_string(said) {
        println!("{line}");
    }
}

fn progress(done: u64, total: u64, stage: &str) {
    say(&Said::Progress { done, total, stage: stage.into() });
}

struct Place<'a> {
    input: &'a Path,
    output: &'a Path,
}

impl Place<'_> {
    fn read(&self, name: &str) -> Result<Vec<u8>, JobFailure> {
        let path = self.input.join(name);
        std::fs::read(&path).map_err(|e| io_failure(&path, &e))
    }

    fn write(&self, name: &str, bytes: &[u8]) -> Result<(), JobFailure> {
        let path = self.output.join(name);
        std::fs::write(&path, bytes).map_err(|e| io_failure(&path, &e))
    }

    fn write_json<T: Serialize>(&self, name: &str, value: &T) -> Result<(), JobFailure> {
        let text = serde_json::to_vec(value).map_err(|e| JobFailure::caused(ErrorCode::Internal, &e))?;
        self.write(name, &text)
    }
}

fn io_failure(path: &Path, error: &std::io::Error) -> JobFailure {
    crate::work::io_failure("using", path, error)
}

fn run(place: &Place<'_>) -> Result<Done, JobFailure> {
    let task: Task = serde_json::from_slice(&place.read(TASK)?)
        .map_err(|e| JobFailure::caused(ErrorCode::Malformed, &e))?;
    progress(0, 4, "reading the file");
    let import = inspect(&place.read(FILE)?, &task.options.into())
        .map_err(|e| JobFailure::new(e.code(), with_causes(&e)))?;
    place.write_json(REPORT, &import.report)?;
    let mut done = Done {
        bytes: import.report.model_bytes,
        parameters: import.report.parameters,
        macs: import.report.macs,
        producer: shown(&import.report.producer, 120),
        ..Done::default()
    };
    if let Some(task) = task.import {
        register(place, &import.report, &import.model, task, &mut done)?;
    }
    Ok(done)
}

/// Everything that would fail later, tried now: the model with its pipeline, inputs for its releases, its accuracy.
fn register(
    place: &Place<'_>,
    report: &Report,
    onnx: &[u8],
    task: ImportTask,
    done: &mut Done,
) -> Result<(), JobFailure> {
    let pipeline = match task.pipeline {
        Some(pipeline) => pipeline,
        None => confirmed(&report.proposal, task.accept_guesses)?,
    };
    pipeline.check().map_err(|e| JobFailure::new(ErrorCode::InvalidInput, e.to_string()))?;
    progress(1, 4, "loading the model");
    let mut model = Model::load(&pipeline, onnx).map_err(|error| {
        let mut detail = format!("the model does not run with this pipeline: {}", with_causes(&error));
        let advice =
            report.missing.iter().map(|m| format!("; the engine lacks {}: {}", m.operator, m.advice));
        detail.extend(advice);
        JobFailure::new(error.code(), detail)
    })?;
    place.write(MODEL, onnx)?;
    place.write_json(PIPELINE, &pipeline)?;
    progress(2, 4, "trying inputs");
    inputs(place, &pipeline, &mut model, task.samples, done)?;
    let samples = place.input.join(SAMPLES);
    if samples.exists() {
        match &pipeline.output {
            Output::Embedding(_) | Output::Tensors(_) => {
                done.notes
                    .push("nothing was measured: what the model says is nothing that a dataset tells".into());
            }
            _ => done.evaluation = Some(measure(place, &mut model, &pipeline, &samples, &task.classes)?),
        }
    }
    Ok(())
}

/// The proposed pipeline, if nothing in it has to be confirmed or somebody takes it as it is.
fn confirmed(proposal: &Proposal, accept_guesses: bool) -> Result<Pipeline, JobFailure> {
    if let Some(problem) = &proposal.problem {
        let detail =
            format!("the file does not tell enough for a pipeline ({problem}): write one and give it");
        return Err(JobFailure::new(ErrorCode::PipelineUnconfirmed, detail));
    }
    if proposal.points.is_empty() || accept_guesses {
        return Ok(proposal.pipeline.clone());
    }
    let fields: Vec<&str> = proposal.points.iter().take(POINTS).map(|point| point.field.as_str()).collect();
    let detail = format!(
        "the pipeline was guessed, and nobody has confirmed {}: give the pipeline that the model was trained with, or accept \
         the guesses",
        fields.join(", ")
    );
    Err(JobFailure::new(ErrorCode::PipelineUnconfirmed, detail))
}

/// Inputs that releases are checked with: those that came with the model, which all have to work, or made up ones.
fn inputs(
    place: &Place<'_>,
    pipeline: &Pipeline,
    model: &mut Model,
    given: usize,
    done: &mut Done,
) -> Result<(), JobFailure> {
    let mut kept = 0;
    let mut keep = |bytes: &[u8]| -> Result<(), JobFailure> {
        place.write(&sample_name(kept), bytes)?;
        kept += 1;
        Ok(())
    };
    let mut wrong = None;
    if given > 0 {
        let preprocessor = Preprocessor::new(pipeline).map_err(|e| JobFailure::caused(e.code(), &e))?;
        for number in 0..given {
            let name = sample_name(number);
            let bytes = place.read(&name)?;
            let answer = model.predict(Input::Unsaid(&bytes)).map_err(|error| {
                let detail =
                    format!("sample {} is no input of the model: {}", number + 1, with_causes(&error));
                JobFailure::new(error.code(), detail)
            });
            answer?;
            let small = crate::golden::small(&preprocessor, bytes);
            keep(&small.map_err(|e| JobFailure::caused(e.code(), &e))?)?;
        }
    } else {
        for bytes in generated_inputs(pipeline) {
            match model.predict(Input::Unsaid(&bytes)) {
                Ok(_) => keep(&bytes)?,
                Err(error) => wrong = Some(with_causes(&error)),
            }
        }
    }
    done.generated = given == 0;
    done.inputs = kept;
    if kept == 0 {
        let why = shown(&wrong.unwrap_or_default(), 300);
        done.notes.push(format!(
            "the model answers no made up input ({why}): give samples with the model, or a dataset, before it is released"
        ));
    }
    Ok(())
}

/// So many characters of a text that is somebody else's, on one line.
fn shown(text: &str, most: usize) -> String {
    text.chars().take(most).map(|c| if c.is_control() { ' ' } else { c }).collect()
}

/// How good the model is on samples whose classes have the names of its labels.
fn measure(
    place: &Place<'_>,
    model: &mut Model,
    pipeline: &Pipeline,
    samples: &Path,
    classes: &[String],
) -> Result<Metrics, JobFailure> {
    let refused = |(code, detail): (ErrorCode, String)| JobFailure::new(code, detail);
    let labels = Labels::of(classes, pipeline).map_err(refused)?;
    let open = || SampleFile::open(samples).map_err(|e| JobFailure::caused(e.code(), &e));
    let total = open()?.count() as u64;
    let (mut seen, mut told, mut stopped) = (0_u64, Instant::now(), None);
    let samples = open()?.map_while(|sample| {
        seen += 1;
        if told.elapsed() > TELL {
            told = Instant::now();
            progress(seen, total, "measuring");
        }
        let told = sample
            .map_err(|error| JobFailure::caused(error.code(), &error))
            .and_then(|(truth, bytes)| Ok((bytes, labels.truth(truth).map_err(refused)?)));
        told.map_err(|failure| stopped = Some(failure)).ok()
    });
    let quality = judge(model, samples).map_err(|e| JobFailure::new(e.code(), with_causes(&e)))?;
    if let Some(failure) = stopped {
        return Err(failure);
    }
    place.write_json(QUALITY, &quality)?;
    Ok(quality.metrics())
}
