//! The facts of a model card, put together from the registry, the datasets and the trust file in force.

use crate::app::App;
use crate::http::problem::Problem;
use flotilla_card::{Card, Data, DataFacts, FORMAT, File, Origin, RELEASES, Release, STEPS, Step, settings};
use flotilla_data::Split;
use flotilla_protocol::{DatasetName, ErrorCode};
use flotilla_registry::{ModelVersion, Release as Signed, Source};
use serde_json::Value;

/// Releases of a model that are looked through for those of one version, the newest first.
const LOOKED_THROUGH: u64 = 500;

/// The card of a version.
pub(crate) async fn of(app: &App, version: &ModelVersion) -> Result<Card, Problem> {
    let lineage = lineage(app, version).await?;
    let report = app.registry.report(version).await?;
    let compression = match (&version.source, &report) {
        (Source::Compressed { .. }, Some(report)) => Some(
            serde_json::from_value(report.clone()).map_err(|e| Problem::new(ErrorCode::StorageCorrupt, e))?,
        ),
        _ => None,
    };
    // What made the network is said of every version that was made of it.
    let first = match lineage.last() {
        Some(first) if first.version != version.version => app.registry.report(first).await?,
        _ => report,
    };
    Ok(Card {
        format: FORMAT,
        model: version.model.to_string(),
        version: version.version,
        created_at_ms: version.created_at_ms,
        created_by: version.created_by.to_string(),
        file: file(version),
        pipeline: app.registry.pipeline(version).await?,
        origin: origin(&version.source),
        settings: first.as_ref().map(said_of_origin).unwrap_or_default(),
        licence: version.licence.clone(),
        data: data(app, version).await?,
        metrics: version.metrics.clone(),
        quality: app.registry.quality(version).await?,
        compression,
        lineage: lineage.iter().map(step).collect(),
        releases: releases(app, version).await?,
    })
}

/// The version, what it was made of, and so on, as far as that is here.
async fn lineage(app: &App, version: &ModelVersion) -> Result<Vec<ModelVersion>, Problem> {
    let mut all = vec![version.clone()];
    let mut source = version.source.clone();
    while let (Source::Compressed { from_version, .. }, true) = (&source, all.len() < STEPS) {
        // Versions count up: what was made of a later one would be a circle.
        if all.last().is_some_and(|last| *from_version >= last.version) {
            break;
        }
        match app.registry.version(&version.model, *from_version).await {
            Ok(from) => {
                source = from.source.clone();
                all.push(from);
            }
            Err(error) if error.code() == ErrorCode::NotFound => break,
            Err(error) => return Err(error.into()),
        }
    }
    Ok(all)
}

fn step(version: &ModelVersion) -> Step {
    Step {
        version: version.version,
        origin: origin(&version.source),
        file: file(version),
        metrics: version.metrics.clone(),
        created_at_ms: version.created_at_ms,
    }
}

fn file(version: &ModelVersion) -> File {
    File { digest: version.onnx, bytes: version.onnx_bytes }
}

fn origin(source: &Source) -> Origin {
    match source {
        Source::Trained { job } => Origin::Trained { job: job.to_string() },
        Source::Compressed { from_version, recipe, .. } => {
            Origin::Compressed { from_version: *from_version, recipe: recipe.clone() }
        }
        Source::Imported { from } => Origin::Imported { from: from.clone() },
    }
}

/// Settings of a training, or what an import found; the history of a training and what was measured stand elsewhere.
fn said_of_origin(report: &Value) -> Vec<(String, String)> {
    let imported = || report.get("import").map(settings);
    report.get("config").map(settings).or_else(imported).unwrap_or_default()
}

async fn data(app: &App, version: &ModelVersion) -> Result<Option<Data>, Problem> {
    let lineage = &version.lineage;
    if lineage.dataset.is_empty() {
        return Ok(None);
    }
    let known = match lineage.dataset.parse::<DatasetName>() {
        Ok(name) => match app.datasets.version(&name, Some(lineage.dataset_version)).await {
            Ok(known) => Some(known),
            Err(error) if error.code() == ErrorCode::NotFound => None,
            Err(error) => return Err(error.into()),
        },
        // Of a bundle that comes from elsewhere.
        Err(_) => None,
    };
    let facts = known.map(|known| DataFacts {
        kind: known.kind.as_str().to_owned(),
        splits: Split::ALL.map(|split| known.splits.of(split)),
        classes: known.classes.len() as u64,
        bytes: known.bytes,
        digest: known.digest,
        source: known.source.description,
        licence: known.source.licence,
    });
    Ok(Some(Data { dataset: lineage.dataset.clone(), version: lineage.dataset_version, facts }))
}

/// The version's releases, the newest first.
async fn releases(app: &App, version: &ModelVersion) -> Result<Vec<Release>, Problem> {
    let trust = app.registry.trust();
    let newest = app.registry.model(&version.model).await?.latest_release;
    let before = newest.saturating_sub(LOOKED_THROUGH);
    let signed = app.registry.releases(&version.model, Some(before), LOOKED_THROUGH as usize).await?;
    let floor = trust.file.floor(&version.model);
    let view = |signed: &Signed| Release {
        counter: signed.counter,
        digest: signed.digest,
        key: signed.key_id.0.to_string(),
        trusted: trust.file.release_keys.get(signed.key_id).is_some() && signed.counter >= floor,
        files: signed
            .files
            .iter()
            .map(|file| (file.name.clone(), File { digest: file.digest, bytes: file.bytes }))
            .collect(),
        created_at_ms: signed.created_at_ms,
        expires_at_ms: signed.expires_at_ms,
    };
    let of_version = signed.iter().rev().filter(|signed| signed.version == version.version);
    Ok(of_version.take(RELEASES).map(view).collect())
}
