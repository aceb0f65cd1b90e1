//! `flotilla compress` and `flotilla model report`: what a compression may cost, and what it found.

use super::args::Compress;
use super::client::Client;
use super::commands::{Done, Out, client, encode};
use super::exit::Failure;
use super::{follow, table, upload};
use crate::http::api::{CompressRequest, JobView, Json, ModelVersionView, SampleSetView};
use crate::progress::Progress;
use flotilla_compress::{Metric, Point, Precision, Report};
use flotilla_protocol::{DatasetName, ErrorCode};
use serde::Serialize;
use std::path::Path;

/// Bytes of a recipe or a report that is read for one.
const RECIPE_BYTES: u64 = 8 << 20;
/// Layers that are shown; the report has all.
const LAYERS: usize = 12;

/// What came of a compression.
#[derive(Serialize)]
struct Compressed {
    job: String,
    model: String,
    version: u32,
    report: Report,
}

pub(super) fn run(command: Compress, out: &Out) -> Done {
    let (dataset, dataset_version) = match &command.dataset {
        Some(text) => named(text)?,
        None => (None, None),
    };
    let recipe = command.recipe.as_deref().map(recipe).transpose()?.unwrap_or(Json::Null);
    let shrink = match &command.shrink {
        Some(text) => serde_json::from_str(text).map_err(|e| {
            Failure::new(ErrorCode::InvalidInput, format!("--shrink is not a JSON object: {e}"))
        })?,
        None => Json::Null,
    };
    let client = client(&command.target)?;
    let samples = match command.samples.as_slice() {
        [] => None,
        files => Some(send(&client, files)?),
    };
    let request = CompressRequest {
        version: command.version,
        max_drop: command.max_drop,
        max_bytes: command.max_size,
        max_latency_ms: command.max_latency,
        max_peak_bytes: command.max_memory,
        board: command.board,
        measure_on: command.measure_on,
        method: command.method,
        // The command line knows no other words.
        four_bit: serde_json::from_value(command.four_bit.into()).unwrap_or_default(),
        keep_float: command.keep_float,
        recipe,
        dataset,
        dataset_version,
        samples,
        shrink,
        ..CompressRequest::new(command.model)
    };
    let job: JobView = client.post("/api/v1/jobs/compress", &request)?;
    if command.detach {
        return out.show(&job, |job| println!("{} {} {}", job.id, job.kind, job.state));
    }
    let job = follow::to_its_end(&client, job)?;
    let job = follow::verdict(job).map_err(|failed| {
        let (job, failure) = *failed;
        refused(job.result, failure, out)
    })?;
    let versions: Vec<ModelVersionView> = client.get("/api/v1/models")?;
    let made = versions.into_iter().find(|version| version.job == job.id).ok_or_else(|| {
        Failure::new(ErrorCode::NotFound, format!("{} has made a version that is not there any more", job.id))
    })?;
    let report = report(&client, &made.model, made.version)?;
    let report = serde_json::from_value(report).map_err(|e| Failure::new(ErrorCode::Malformed, e))?;
    let compressed = Compressed { job: job.id, model: made.model, version: made.version, report };
    out.show(&compressed, |made| {
        println!("{} v{}", made.model, made.version);
        print(&made.report);
    })
}

/// `flotilla model report`
pub(super) fn show(model: &str, version: u32, client: &Client, out: &Out) -> Done {
    let report = report(client, model, version)?;
    out.show(&report, |json| match serde_json::from_value::<Report>(json.clone()) {
        Ok(report) => print(&report),
        // What training says has no tables of its own.
        Err(_) => println!("{json:#}"),
    })
}

fn report(client: &Client, model: &str, version: u32) -> Result<Json, Failure> {
    Ok(client.get(&format!("/api/v1/models/{}/versions/{version}/report", encode(model)))?)
}

/// A dataset and its version out of `NAME` or `NAME@VERSION`.
fn named(text: &str) -> Result<(Option<String>, Option<u32>), Failure> {
    let invalid =
        |problem: String| Failure::new(ErrorCode::InvalidInput, format!("--dataset {text}: {problem}"));
    let (name, version) = match text.split_once('@') {
        Some((name, version)) => {
            let version = version.strip_prefix('v').unwrap_or(version);
            (name, Some(version.parse().map_err(|_| invalid(format!("{version:?} is no version")))?))
        }
        None => (text, None),
    };
    name.parse::<DatasetName>().map_err(|e| invalid(e.to_string()))?;
    Ok((Some(name.to_owned()), version))
}

/// The recipe in a file: that alone, a report, or what `flotilla compress -o json` says.
fn recipe(path: &Path) -> Result<Json, Failure> {
    let unreadable =
        |e: &dyn std::fmt::Display| Failure::new(ErrorCode::InvalidInput, format!("{}: {e}", path.display()));
    let facts = std::fs::metadata(path)
        .map_err(|e| Failure::new(ErrorCode::NotFound, format!("{} cannot be read: {e}", path.display())))?;
    if facts.len() > RECIPE_BYTES {
        return Err(unreadable(&format!("it has {} bytes, and a recipe up to {RECIPE_BYTES}", facts.len())));
    }
    let text = std::fs::read(path).map_err(|e| unreadable(&e))?;
    let mut json: Json = serde_json::from_slice(&text).map_err(|e| unreadable(&e))?;
    for part in ["report", "recipe"] {
        if let Some(inner) = json.get_mut(part).filter(|inner| inner.is_object()) {
            json = inner.take();
        }
    }
    Ok(json)
}

/// Sends files, and says what the samples are called.
fn send(client: &Client, files: &[std::path::PathBuf]) -> Result<String, Failure> {
    let progress = Progress::new();
    let stage = "samples";
    progress.stage(stage, "sending");
    let (file, name) = upload::files(files)?;
    let bytes = (0, file.metadata().ok().map(|facts| facts.len()));
    let upload = follow::Upload { file, shown: (&progress, stage), bytes };
    let path = format!("/api/v1/samples?file={}", encode(&name));
    let view: SampleSetView = client.post_bytes(&path, bytes.1, upload)?;
    progress.clear();
    Ok(view.samples)
}

/// A job's failure, with the points that are nearest to its budget.
fn refused(facts: Option<Json>, failure: Failure, out: &Out) -> Failure {
    let Some(facts) = facts else { return failure };
    if let Some(nearest) = facts["nearest"].as_array().filter(|_| !out.json) {
        let text = |point: &Json, key: &str| match &point[key] {
            Json::String(text) => text.clone(),
            Json::Null => "-".to_owned(),
            other => other.to_string(),
        };
        let metric =
            |point: &Json| serde_json::from_value::<Metric>(point["metric"].clone()).unwrap_or_default();
        let row = |point: &Json| {
            let interval = serde_json::from_value::<Option<[f64; 2]>>(point["drop_interval"].clone());
            vec![
                text(point, "name"),
                point["value"].as_f64().map(figure).unwrap_or_default(),
                loss(metric(point), point["drop"].as_f64().unwrap_or_default(), interval.ok().flatten()),
                text(point, "bytes"),
                point["latency_ms"].as_f64().map(|ms| format!("{ms:.3}")).unwrap_or_default(),
                text(point, "macs"),
                text(point, "peak_bytes"),
            ]
        };
        let metric = nearest.first().map(metric).unwrap_or_default().name().to_uppercase();
        let header = ["NEAREST", &metric, "LOST (95 %)", "BYTES", "MS", "MACS", "MEMORY"];
        table::print_to_stderr(&header, &nearest.iter().map(row).collect::<Vec<_>>());
    }
    failure.with_facts(facts)
}

fn figure(value: f64) -> String {
    format!("{value:.4}")
}

/// What is lost, in percentage points of a share, with its interval.
fn loss(metric: Metric, drop: f64, interval: Option<[f64; 2]>) -> String {
    let (unit, sign) = if metric.is_share() { (100.0, " pt") } else { (1.0, "") };
    // No minus before what is rounded to zero.
    let shown = |value: f64| format!("{:.2}", if (value * unit).abs() < 0.005 { 0.0 } else { value * unit });
    match interval {
        Some([low, high]) => format!("{}{sign} ({} to {})", shown(drop), shown(low), shown(high)),
        None => format!("{}{sign}", shown(drop)),
    }
}

fn print(report: &Report) {
    let metric = report.metric;
    if let Some(made) = &report.made {
        println!("network: {} (seed {})", made.how, made.seed);
    }
    println!("recipe: {}", report.recipe);
    println!(
        "{} -> {} bytes ({:.1} %)",
        report.bytes_before,
        report.bytes_after,
        100.0 * report.bytes_after as f64 / report.bytes_before.max(1) as f64
    );
    let judged = match metric {
        Metric::Fidelity => "fidelity to the model before, for want of labels",
        other => other.name(),
    };
    println!(
        "{judged}: {} -> {} on {} samples, lost {}",
        figure(report.value_before),
        figure(report.value_after),
        report.samples,
        loss(metric, report.drop, report.drop_interval)
    );
    let place = match &report.latency_on {
        Some(board) => format!("predicted for {board}"),
        None => "measured here".to_owned(),
    };
    println!(
        "latency p50 {place}: {:.3} -> {:.3} ms",
        report.latency_before.p50_ms, report.latency_after.p50_ms
    );
    println!();
    let count = |value: Option<u64>| value.map_or_else(|| "-".to_owned(), |value| value.to_string());
    let row = |(place, point): (usize, &Point)| {
        let mark = match (report.chosen == Some(place), point.pareto) {
            (true, _) => "*",
            (false, true) => "+",
            (false, false) => "",
        };
        vec![
            mark.to_owned(),
            point.name.clone(),
            figure(point.value),
            loss(metric, point.drop, point.drop_interval),
            point.bytes.to_string(),
            format!("{:.3}", point.latency.p50_ms),
            count(point.macs),
            count(point.peak_bytes),
        ]
    };
    let name = metric.name().to_uppercase();
    let header = ["", "CANDIDATE", &name, "LOST (95 %)", "BYTES", "MS", "MACS", "MEMORY"];
    table::print(&header, &report.measured.iter().enumerate().map(row).collect::<Vec<_>>());
    println!("* ships, + no other is as good in everything and better in something");
    print_layers(report);
    for warning in &report.warnings {
        println!("warning: {warning}");
    }
}

/// Which layer takes rounding worst.
fn print_layers(report: &Report) {
    if report.layers.is_empty() {
        return;
    }
    let mut layers: Vec<_> = report.layers.iter().collect();
    layers.sort_by(|a, b| b.output_error.total_cmp(&a.output_error));
    let row = |layer: &&flotilla_compress::LayerReport| {
        let precision = match layer.precision {
            Precision::Int4 => "4-bit",
            Precision::Int8 => "8-bit",
            Precision::F16 => "f16",
            Precision::F32 => "f32",
        };
        vec![
            layer.name.clone(),
            layer.op.clone(),
            precision.to_owned(),
            layer.bytes_before.to_string(),
            layer.bytes_after.to_string(),
            format!("{:.2e}", layer.output_error),
            layer.output_error_int4.map_or_else(|| "-".to_owned(), |error| format!("{error:.2e}")),
        ]
    };
    println!();
    let header = ["LAYER", "OPERATOR", "STORED AS", "BYTES", "AFTER", "ERROR AT 8 BITS", "AT 4 BITS"];
    table::print(&header, &layers.iter().take(LAYERS).map(row).collect::<Vec<_>>());
    if layers.len() > LAYERS {
        println!("… and {} more layers that take it better", layers.len() - LAYERS);
    }
}
