//! Datasets, their samples and imports.

use super::super::api::{
    DatasetView, ImportProgressView, ImportView, SampleView, SkippedView, UnlabelledView,
};
use super::super::problem::Problem;
use super::super::service::{Answer, Call, Handled};
use super::super::spool::{Spool, too_large};
use crate::app::{App, UPLOADS};
use flotilla_data::{DatasetVersion, Format, ImportOptions, ImportReport, ImportRequest, Source, Split};
use flotilla_identity::now_ms;
use flotilla_protocol::{DatasetName, Digest, ErrorCode, Truth};
use http::StatusCode;
use serde_json::json;

/// What to do where an upload is too large.
const ADVICE: &str = "import it in parts";
/// Datasets that one answer lists.
const LISTED: usize = 500;

/// `GET /api/v1/datasets`
pub(crate) async fn list(call: Call) -> Handled {
    Answer::json(&views(&call.app).await?)
}

/// Every dataset with its newest version, in the order of their making.
pub(crate) async fn views(app: &App) -> Result<Vec<DatasetView>, Problem> {
    let mut datasets = app.datasets.list(None, LISTED).await?;
    datasets.sort_by_key(|d| d.created_at_ms);
    let mut views = Vec::with_capacity(datasets.len());
    for dataset in datasets {
        views.push(view(&app.datasets.version(&dataset.name, None).await?));
    }
    Ok(views)
}

pub(crate) fn view(version: &DatasetVersion) -> DatasetView {
    DatasetView {
        name: version.dataset.to_string(),
        version: version.version,
        kind: version.kind.as_str().to_owned(),
        samples: version.samples,
        classes: version.classes.len(),
        class_names: version.classes.clone(),
        train: version.splits.of(Split::Train),
        validation: version.splits.of(Split::Validation),
        test: version.splits.of(Split::Test),
        unlabelled: version.unlabelled.map_or(0, |unlabelled| unlabelled.samples),
    }
}

/// `GET /api/v1/datasets/{name}`
pub(crate) async fn show(call: Call) -> Handled {
    let version = call.app.datasets.version(&call.param("name")?, None).await?;
    Answer::json(&view(&version))
}

/// `POST /api/v1/datasets/{name}/import-bundled`
pub(crate) async fn import_bundled(call: Call) -> Handled {
    let name: DatasetName = call.param("name")?;
    let request = ImportRequest {
        name,
        source: Source::BundledDigits,
        format: None,
        options: ImportOptions::default(),
    };
    run(&call, request).await
}

/// `POST /api/v1/datasets/{name}/import`
pub(crate) async fn import(mut call: Call) -> Handled {
    let name: DatasetName = call.param("name")?;
    let format: Option<Format> = call.query("format")?;
    let mut options = ImportOptions { label_column: call.query("label")?, ..ImportOptions::default() };
    if let Some(target) = call.query::<String>("target")? {
        if options.label_column.is_some() {
            let detail =
                "label names the column of classes and target that of numbers to predict: give one of them";
            return Err(Problem::new(ErrorCode::InvalidInput, detail));
        }
        (options.label_column, options.numeric_label) = (Some(target), Some(true));
    }
    if let Some(seed) = call.query("seed")? {
        options.seed = seed;
    }
    let file_name: String = call.query("file")?.unwrap_or_else(|| "data".to_owned());
    let _turn = call.app.uploads.clone().try_acquire_owned().map_err(|_| {
        let detail = format!("{UPLOADS} uploads are under way already; try again when one has ended");
        Problem::new(ErrorCode::Busy, detail)
    })?;
    let spools = call.app.spool.clone();
    let reserve = flotilla_storage::RecordsConfig::default().reserve_bytes;
    if call.length.is_some_and(|length| length > options.max_bytes) {
        // Said before the body is asked for: a client that waits for 100 Continue sends nothing.
        return Err(too_large(options.max_bytes, ADVICE));
    }
    let spool = Spool::receive(&spools, &file_name, call.body(), options.max_bytes, ADVICE, reserve).await?;
    let source = Source::Path(spool.file.clone());
    run(&call, ImportRequest { name, source, format, options }).await
}

async fn run(call: &Call, request: ImportRequest) -> Handled {
    let running = call.app.imports.begin(&request.name);
    let mut report = |progress| running.report(progress);
    let report = call.app.datasets.import(call.actor()?, request, &mut report, now_ms()).await?;
    call.app.changed();
    let status = if report.existing { StatusCode::OK } else { StatusCode::CREATED };
    Answer::json_with(status, &import_view(report))
}

/// `GET /api/v1/datasets/{name}/import`
pub(crate) async fn import_progress(call: Call) -> Handled {
    let name: DatasetName = call.param("name")?;
    let progress = call.app.imports.progress(&name).ok_or_else(|| {
        Problem::new(ErrorCode::NotFound, format!("no import into the dataset {name} runs now"))
    })?;
    Answer::json(&ImportProgressView {
        stage: progress.stage.as_str().to_owned(),
        done: progress.done,
        total: progress.total,
    })
}

fn import_view(report: ImportReport) -> ImportView {
    let skipped = report.skipped.into_iter();
    ImportView {
        dataset: view(&report.version),
        unchanged: report.existing,
        imported: report.imported,
        duplicates: report.duplicates,
        skipped_total: report.skipped_total,
        skipped: skipped.map(|s| SkippedView { file: s.file, line: s.line, reason: s.reason }).collect(),
    }
}

/// `GET /api/v1/datasets/{name}/versions/{version}/samples`
pub(crate) async fn samples(call: Call) -> Handled {
    let version = call.app.datasets.version(&call.param("name")?, Some(call.param("version")?)).await?;
    let split = call.query::<String>("split")?.map(|text| parse_split(&text)).transpose()?;
    let samples = call.app.datasets.samples(&version, split).await?;
    let view = |s: flotilla_data::SampleRef| {
        let (label, truth) = match s.truth {
            Truth::Class(label) => (Some(label), None),
            other => (None, Some(json!(other))),
        };
        SampleView { digest: s.digest.to_string(), label, truth }
    };
    Answer::json(&samples.into_iter().map(view).collect::<Vec<_>>())
}

/// A split by its name.
pub(crate) fn parse_split(text: &str) -> Result<Split, Problem> {
    Split::ALL.into_iter().find(|split| split.as_str() == text).ok_or_else(|| {
        Problem::new(ErrorCode::InvalidInput, format!("split {text:?} is none of train, validation, test"))
    })
}

/// `GET /api/v1/datasets/{name}/versions/{version}/samples/{digest}`
pub(crate) async fn sample(call: Call) -> Handled {
    let digest: Digest = call.param("digest")?;
    let version = call.app.datasets.version(&call.param("name")?, Some(call.param("version")?)).await?;
    let bytes = match call.app.datasets.sample(&version, &digest).await {
        Ok(sample) => call.app.datasets.sample_bytes(&sample).await?,
        Err(flotilla_data::Error::NotFound { .. }) => {
            call.app.datasets.unlabelled_bytes(&version, &digest).await?
        }
        Err(error) => return Err(error.into()),
    };
    Answer::bytes(StatusCode::OK, content_type(&bytes), bytes)
}

/// `GET /api/v1/datasets/{name}/versions/{version}/unlabelled`
pub(crate) async fn unlabelled(call: Call) -> Handled {
    let version = call.app.datasets.version(&call.param("name")?, Some(call.param("version")?)).await?;
    let samples = call.app.datasets.unlabelled(&version).await?.into_iter();
    let view = |s: flotilla_data::UnlabelledRef| UnlabelledView { digest: s.digest.to_string() };
    Answer::json(&samples.map(view).collect::<Vec<_>>())
}

/// What a sample is sent as.
pub(crate) fn content_type(bytes: &[u8]) -> &'static str {
    match bytes {
        [0x89, b'P', b'N', b'G', ..] => "image/png",
        [0xff, 0xd8, ..] => "image/jpeg",
        [b'R', b'I', b'F', b'F', ..] => "audio/wav",
        [b'[' | b'{', ..] => "application/json",
        _ => "application/octet-stream",
    }
}
