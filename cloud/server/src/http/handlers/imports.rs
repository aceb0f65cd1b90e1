//! Models of other tools: uploaded, looked at, imported.

use super::super::api::{ModelImportRequest, UploadView};
use super::super::problem::Problem;
use super::super::service::{Answer, Call, Handled};
use super::super::spool::{Spool, too_large};
use super::jobs;
use crate::examine::{self, ReadOptions, Task, examine};
use crate::uploads::{BYTES, HELD, Held, LOOKS};
use crate::work::{IMPORT, ImportSpec, Wanted};
use flotilla_identity::now_ms;
use flotilla_jobs::JobFailure;
use flotilla_protocol::{DatasetName, ErrorCode, ModelName, Pipeline, limits};
use flotilla_registry::SAMPLE_INPUTS;
use http::StatusCode;
use serde_json::json;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

/// What to do where an upload is too large.
const ADVICE: &str = "use a smaller model";

/// `POST /api/v1/uploads`
pub(crate) async fn upload(mut call: Call) -> Handled {
    let name: String = call.query("name")?.unwrap_or_else(|| "model".to_owned());
    if call.length.is_some_and(|length| length > BYTES) {
        // Said before the body is asked for: a client that waits for 100 Continue sends nothing.
        return Err(too_large(BYTES, ADVICE));
    }
    let full = || {
        let detail = format!("{HELD} uploads wait already: import or delete one, or wait an hour");
        Problem::new(ErrorCode::Busy, detail)
    };
    let app = call.app.clone();
    let _turn = app.uploads.clone().try_acquire_owned().map_err(|_| full())?;
    if !app.held.has_room(now_ms()) {
        return Err(full());
    }
    let reserve = flotilla_storage::RecordsConfig::default().reserve_bytes;
    let spool = Spool::receive(app.held.folder(), &name, call.body(), BYTES, ADVICE, reserve).await?;
    let facts = tokio::fs::metadata(&spool.file).await;
    let bytes =
        facts.map_err(|e| Problem::new(ErrorCode::StorageIo, format!("the upload is lost: {e}")))?.len();
    if bytes == 0 {
        return Err(Problem::new(ErrorCode::InvalidInput, "the body is empty: send the bytes of the file"));
    }
    let (id, held) = app.held.hold(spool, name, bytes, now_ms()).ok_or_else(full)?;
    let Held { name, expires_at_ms, .. } = held;
    Answer::json_with(StatusCode::CREATED, &UploadView { id, name, bytes, expires_at_ms })
}

/// `DELETE /api/v1/uploads/{id}`
pub(crate) async fn forget(call: Call) -> Handled {
    let id: String = call.param("id")?;
    if !call.app.held.forget(&id) {
        return Err(gone(&id));
    }
    Answer::json(&json!({ "deleted": id }))
}

fn gone(id: &str) -> Problem {
    let id: String = id.chars().take(limits::ID).collect();
    let detail = format!("there is no upload {id}; uploads are kept for an hour: send the file again");
    Problem::new(ErrorCode::NotFound, detail)
}

fn held(call: &Call, id: &str) -> Result<Held, Problem> {
    call.app.held.find(id, now_ms()).ok_or_else(|| gone(id))
}

/// `POST /api/v1/uploads/{id}/inspect`
pub(crate) async fn inspect(mut call: Call) -> Handled {
    let options: ReadOptions = call.json().await?;
    let id: String = call.param("id")?;
    let file = held(&call, &id)?;
    let _look = call.app.held.looks.clone().try_acquire_owned().map_err(|_| {
        let detail = format!("{LOOKS} models are looked at already: try again in a moment");
        Problem::new(ErrorCode::Busy, detail)
    })?;
    let program = std::env::current_exe().map_err(|e| Problem::new(ErrorCode::Internal, e))?;
    let folder = Folder(file.spool.folder.join(format!("look-{:016x}", rand::random::<u64>())));
    let looked = tokio::task::spawn_blocking(move || look(&program, &folder.0, &file.spool.file, options));
    let report = looked.await.map_err(|e| Problem::new(ErrorCode::Internal, e))?;
    let report = report.map_err(|failure| Problem::new(failure.code, failure.detail))?;
    Answer::bytes(StatusCode::OK, "application/json", report.into())
}

/// The report on a file, by a process of its own in a folder of its own.
fn look(program: &Path, folder: &Path, file: &Path, options: ReadOptions) -> Result<Vec<u8>, JobFailure> {
    let failed = |e: std::io::Error| crate::work::io_failure("using", folder, &e);
    let (input, output) = (folder.join("in"), folder.join("out"));
    for path in [&input, &output] {
        std::fs::create_dir_all(path).map_err(failed)?;
    }
    std::fs::hard_link(file, input.join(examine::FILE)).map_err(failed)?;
    let task = serde_json::to_vec(&Task { options, import: None })
        .map_err(|e| JobFailure::caused(ErrorCode::Internal, &e))?;
    std::fs::write(input.join(examine::TASK), task).map_err(failed)?;
    examine(program, &input, &output, &mut |_| ControlFlow::Continue(()))?;
    std::fs::read(output.join(examine::REPORT)).map_err(failed)
}

/// A folder that goes with this.
struct Folder(PathBuf);

impl Drop for Folder {
    fn drop(&mut self) {
        drop(std::fs::remove_dir_all(&self.0));
    }
}

/// `POST /api/v1/models/{model}/import`
pub(crate) async fn import(mut call: Call) -> Handled {
    let request: ModelImportRequest = call.json().await?;
    let model: ModelName = call.param("model")?;
    let file = held(&call, &request.upload)?;
    let pipeline = request.pipeline.map(read_pipeline).transpose()?;
    for (what, text) in [("licence", &request.licence), ("note", &request.note)] {
        if text.as_ref().is_some_and(|text| text.trim().is_empty() || text.len() > limits::TEXT / 2) {
            let detail = format!("the {what} has 1 to {} bytes", limits::TEXT / 2);
            return Err(Problem::new(ErrorCode::InvalidInput, detail));
        }
    }
    let dataset = match &request.dataset {
        Some(name) => {
            let name: DatasetName =
                name.parse().map_err(|e| Problem::new(ErrorCode::InvalidInput, format!("dataset: {e}")))?;
            let version = call.app.datasets.version(&name, request.dataset_version).await?;
            Some((name, version.version))
        }
        None => None,
    };
    if request.samples.len() > SAMPLE_INPUTS {
        let detail = format!("{} samples; up to {SAMPLE_INPUTS} are possible", request.samples.len());
        return Err(Problem::new(ErrorCode::TooLarge, detail));
    }
    let mut samples = Vec::with_capacity(request.samples.len());
    for id in &request.samples {
        let sample = held(&call, id)?;
        if sample.bytes > limits::PREDICT_INPUT as u64 {
            let detail = format!("the sample {} is over the bound of an input", sample.name);
            return Err(Problem::new(ErrorCode::TooLarge, detail));
        }
        samples.push(call.app.objects.put_file(&sample.spool.file).await?);
    }
    let wanted = Wanted {
        options: request.options,
        pipeline,
        accept_guesses: request.accept_guesses,
        licence: request.licence,
        note: request.note,
        samples,
    };
    let wanted = serde_json::to_vec(&wanted).map_err(|e| Problem::new(ErrorCode::Internal, e))?;
    let spec = ImportSpec {
        model,
        name: file.name.chars().take(200).collect(),
        file: call.app.objects.put_file(&file.spool.file).await?,
        bytes: file.bytes,
        wanted: call.app.objects.put(wanted).await?,
        dataset,
    };
    let answer = jobs::submit(&call, IMPORT, json!(spec), StatusCode::ACCEPTED).await?;
    for id in request.samples.iter().chain([&request.upload]) {
        call.app.held.forget(id);
    }
    Ok(answer)
}

fn read_pipeline(value: serde_json::Value) -> Result<Pipeline, Problem> {
    let invalid = |text: String| Problem::new(ErrorCode::InvalidInput, format!("pipeline: {text}"));
    let pipeline: Pipeline = serde_json::from_value(value).map_err(|e| invalid(e.to_string()))?;
    pipeline.check().map_err(|e| invalid(e.to_string()))?;
    Ok(pipeline)
}
