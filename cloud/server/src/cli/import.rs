//! `flotilla model import`: a finished model of another tool into the registry.

use super::args::ModelImport;
use super::client::Client;
use super::commands::{Done, Out, client, encode};
use super::exit::Failure;
use super::{follow, inspect, pipeline, read_file, table};
use crate::examine::ReadOptions;
use crate::http::api::{JobView, ModelImportRequest, ModelVersionView, UploadView};
use crate::progress::Progress;
use flotilla_import::Proposal;
use flotilla_protocol::{ErrorCode, Pipeline};
use serde::Serialize;
use serde_json::json;
use std::path::Path;

/// What an import comes to.
#[derive(Serialize)]
struct Imported {
    job: JobView,
    /// None while it still runs.
    version: Option<ModelVersionView>,
}

pub(super) fn run(command: ModelImport, out: &Out) -> Done {
    let report = inspect::examine(&command.file, &command.reading)?.report;
    let confirmed = command.pipeline.as_deref().map(pipeline::read).transpose()?;
    if !out.json {
        inspect::print(&report);
    }
    let wanted = match confirmed {
        Some(pipeline) => pipeline,
        None => accepted(&command, &report.proposal)?,
    };
    let dataset = command.dataset.as_deref().map(dataset).transpose()?;
    let options = inspect::options(&command.reading)?;
    let client = client(&command.target)?;
    let samples: Vec<String> =
        command.samples.iter().map(|path| upload(&client, path)).collect::<Result<_, _>>()?;
    let (dataset, dataset_version) = dataset.unzip();
    let request = ModelImportRequest {
        upload: upload(&client, &command.file)?,
        options: ReadOptions {
            dimensions: options.clean.dimensions,
            fixed: options.clean.fixed,
            float_activations: options.clean.float_activations,
            labels: options.labels,
        },
        pipeline: Some(json!(wanted)),
        accept_guesses: false,
        dataset,
        dataset_version: dataset_version.flatten(),
        licence: command.licence,
        note: command.note,
        samples,
    };
    let path = format!("/api/v1/models/{}/import", encode(&command.name));
    let job: JobView = client.post(&path, &request)?;
    if command.detach {
        return out
            .show(&Imported { job, version: None }, |imported| println!("{} is queued", imported.job.id));
    }
    let job = follow::job(&client, job)?;
    let all: Vec<ModelVersionView> = client.get("/api/v1/models")?;
    let version = all.into_iter().rfind(|version| version.model == command.name);
    out.show(&Imported { job, version }, print)
}

fn print(imported: &Imported) {
    if let Some(version) = &imported.version {
        let accuracy = version.accuracy.map(|accuracy| format!(", accuracy {accuracy:.4} on the test split"));
        println!(
            "{} v{} is registered: {} bytes{}",
            version.model,
            version.version,
            version.bytes,
            accuracy.unwrap_or_default()
        );
        println!("flotilla release create {}", version.model);
    }
    let notes = imported.job.result.as_ref().and_then(|result| result["notes"].as_array());
    for note in notes.into_iter().flatten().filter_map(|note| note.as_str()) {
        println!("! {}", table::line(note));
    }
}

/// The proposed pipeline, if nothing has to be confirmed or the user takes it as it is.
fn accepted(command: &ModelImport, proposal: &Proposal) -> Result<Pipeline, Failure> {
    let usable = proposal.problem.is_none();
    if usable && (proposal.points.is_empty() || command.yes) {
        return Ok(proposal.pipeline.clone());
    }
    let draft = Path::new(command.file.file_name().unwrap_or_default()).with_extension("pipeline.toml");
    let (file, draft, reading) = (quoted(&command.file), quoted(&draft), again(command));
    let mut detail = match &proposal.problem {
        Some(problem) => format!("the file does not tell enough for a pipeline: {problem}"),
        None => {
            let fields: Vec<&str> = proposal.points.iter().map(|point| point.field.as_str()).collect();
            format!("the pipeline was guessed, and nobody has confirmed {}", fields.join(", "))
        }
    };
    detail += &format!(
        ".\nWrite it down, make it what the model was trained with, and import with it:\n  flotilla model inspect {file}{reading} \
         --pipeline {draft}\n  flotilla model import {file} --name {}{reading} --pipeline {draft}",
        command.name
    );
    if usable {
        detail += &format!(
            "\nor take the guesses as they are:\n  flotilla model import {file} --name {}{reading} --yes",
            command.name
        );
    }
    Err(Failure::new(ErrorCode::PipelineUnconfirmed, detail))
}

/// The options of how the file is read, once more.
fn again(command: &ModelImport) -> String {
    let reading = &command.reading;
    let mut text = String::new();
    if let Some(labels) = &reading.labels {
        text += &format!(" --labels {}", quoted(labels));
    }
    for (option, values) in [("--dim", &reading.dims), ("--fix", &reading.fixed)] {
        for value in values {
            text += &format!(" {option} {}", quoted(Path::new(value)));
        }
    }
    if reading.float_activations {
        text += " --float-activations";
    }
    text
}

/// A path as shells take it.
fn quoted(path: &Path) -> String {
    let text = path.display().to_string();
    let plain = |c: char| c.is_ascii_alphanumeric() || "/._-=+:@%".contains(c);
    if !text.is_empty() && text.chars().all(plain) {
        text
    } else {
        format!("'{}'", text.replace('\'', r"'\''"))
    }
}

/// `NAME` or `NAME@VERSION`.
fn dataset(text: &str) -> Result<(String, Option<u32>), Failure> {
    let Some((name, version)) = text.split_once('@') else { return Ok((text.to_owned(), None)) };
    let version = version.parse().map_err(|_| {
        let detail = format!("--dataset {text:?} is neither NAME nor NAME@VERSION");
        Failure::new(ErrorCode::InvalidInput, detail)
    })?;
    Ok((name.to_owned(), Some(version)))
}

/// Sends a file; gives the id of the upload.
fn upload(client: &Client, path: &Path) -> Result<String, Failure> {
    let file = read_file(path)?;
    let progress = Progress::new();
    let bytes = file.metadata().ok().map(|facts| facts.len());
    let name = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    let body = follow::Upload { file, shown: (&progress, "upload"), bytes: (0, bytes) };
    let upload: UploadView =
        client.post_bytes(&format!("/api/v1/uploads?name={}", encode(&name)), bytes, body)?;
    progress.clear();
    Ok(upload.id)
}
