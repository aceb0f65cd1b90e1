//! Jobs.

use super::super::api::{FailureView, JobView, Json, ProgressView, TrainRequest};
use super::super::problem::Problem;
use super::super::service::{Answer, Call, Handled};
use crate::app::App;
use crate::work::{TRAIN, TrainSpec, config};
use flotilla_identity::now_ms;
use flotilla_jobs::{Job, JobState};
use flotilla_protocol::{DatasetName, ErrorCode, JobId, ModelName, limits};
use http::StatusCode;
use serde_json::json;

/// Jobs that one answer lists.
const LISTED: usize = 500;

/// `GET /api/v1/jobs`
pub(crate) async fn list(call: Call) -> Handled {
    Answer::json(&views(&call.app).await?)
}

/// Every job, oldest first.
pub(crate) async fn views(app: &App) -> Result<Vec<JobView>, Problem> {
    // The queue lists the newest first, so that the bound leaves out old ones.
    let mut jobs = app.queue.list(None, LISTED).await?;
    // Records hold the newest metrics only; the newest training is shown whole.
    if let Some(job) = jobs.iter_mut().find(|job| job.kind == TRAIN) {
        job.metrics = app.queue.metrics(job).await?;
    }
    Ok(jobs.iter().rev().map(view).collect())
}

fn view(job: &Job) -> JobView {
    let failure = match &job.state {
        JobState::Failed { code, detail } => Some(FailureView::new(*code, detail)),
        _ => None,
    };
    let metrics = job.metrics.iter().map(|point| {
        let mut value = json!(point.values);
        value["epoch"] = json!(point.step);
        value
    });
    let progress = (job.attempt > 0).then(|| ProgressView {
        done: job.progress.done,
        total: job.progress.total.unwrap_or_default(),
        stage: job.progress.stage.clone(),
    });
    JobView {
        id: job.id.to_string(),
        kind: job.kind.clone(),
        state: job.state.as_str().to_owned(),
        attempt: job.attempt,
        progress,
        spec: job.spec.clone(),
        metrics: metrics.collect(),
        result: job.result.clone(),
        failure,
        created_at_ms: job.created_at_ms,
        finished_at_ms: job.finished_at_ms,
    }
}

pub(super) fn parse<T: std::str::FromStr>(what: &str, text: &str) -> Result<T, Problem>
where
    T::Err: std::fmt::Display,
{
    text.parse().map_err(|e| Problem::new(ErrorCode::InvalidInput, format!("{what}: {e}")))
}

/// `POST /api/v1/jobs/train`
pub(crate) async fn train(mut call: Call) -> Handled {
    let request: TrainRequest = call.json().await?;
    let dataset: DatasetName = parse("dataset", &request.dataset)?;
    let model: ModelName = parse("model", &request.model)?;
    let version = call.app.datasets.version(&dataset, request.dataset_version).await?;
    let config = config(version.kind, request.config).map_err(|(code, detail)| Problem::new(code, detail))?;
    let leave_out = request.leave_out;
    if leave_out.len() > limits::TABLE_COLUMNS {
        let detail = format!("leave_out names more than {} columns", limits::TABLE_COLUMNS);
        return Err(Problem::new(ErrorCode::InvalidInput, detail));
    }
    let spec = TrainSpec { dataset, dataset_version: version.version, model, config, leave_out };
    submit(&call, TRAIN, json!(spec), StatusCode::CREATED).await
}

pub(super) async fn submit(call: &Call, kind: &str, spec: Json, status: StatusCode) -> Handled {
    let job = call.app.queue.submit(call.actor()?, kind, spec, now_ms()).await?;
    call.app.changed();
    Answer::json_with(status, &view(&job))
}

/// `GET /api/v1/jobs/{id}`
pub(crate) async fn show(call: Call) -> Handled {
    let id: JobId = call.param("id")?;
    let mut job = call.app.queue.get(&id).await?;
    job.metrics = call.app.queue.metrics(&job).await?;
    Answer::json(&view(&job))
}

/// `GET /api/v1/jobs/{id}/log`
pub(crate) async fn log(call: Call) -> Handled {
    let id: JobId = call.param("id")?;
    let log = call.app.queue.log(&call.app.queue.get(&id).await?).await?;
    Answer::bytes(StatusCode::OK, "text/plain; charset=utf-8", log)
}

/// `POST /api/v1/jobs/{id}/cancel`
pub(crate) async fn cancel(call: Call) -> Handled {
    let id: JobId = call.param("id")?;
    let job = call.app.queue.cancel(call.actor()?, &id, now_ms()).await?;
    call.app.changed();
    Answer::json(&view(&job))
}
