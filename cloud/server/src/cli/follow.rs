//! Follows long work on stderr until it is over.

use super::client::{Client, ClientError};
use super::exit::Failure;
use crate::http::api::{ExperimentView, ImportProgressView, JobView, RolloutView};
use crate::progress::Progress;
use flotilla_protocol::ErrorCode;
use std::fs::File;
use std::io::{self, Read};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::time::Duration;

const POLL: Duration = Duration::from_millis(150);

/// Follows a job; its failure is the command's.
pub(crate) fn job(client: &Client, job: JobView) -> Result<JobView, Failure> {
    verdict(to_its_end(client, job)?).map_err(|failed| failed.1)
}

/// Follows a job until it is over, one way or another.
pub(crate) fn to_its_end(client: &Client, mut job: JobView) -> Result<JobView, Failure> {
    let progress = Progress::new();
    let kind = job.kind.clone();
    progress.stage(&kind, &format!("{} is queued", job.id));
    while !job.is_over() {
        std::thread::sleep(POLL);
        job = client.get(&format!("/api/v1/jobs/{}", job.id))?;
        job_progress(&progress, &kind, &job);
    }
    progress.clear();
    Ok(job)
}

/// A job that has succeeded, or one that has not and why.
pub(crate) fn verdict(job: JobView) -> Result<JobView, Box<(JobView, Failure)>> {
    let failure = match &job.failure {
        Some(failure) => {
            Failure::new(ErrorCode::from_text(&failure.code), format!("{}: {}", job.id, failure.detail))
        }
        None if job.state == "cancelled" => {
            Failure::new(ErrorCode::Cancelled, format!("{} was cancelled", job.id))
        }
        None => return Ok(job),
    };
    Err(Box::new((job, failure)))
}

/// Shows how far a running job is, with its newest figure on the validation split if it has one.
pub(crate) fn job_progress(display: &Progress, stage: &str, job: &JobView) {
    // Before its first stage a job has nothing to count.
    let Some(progress) = job.progress.as_ref().filter(|progress| !progress.stage.is_empty()) else { return };
    let figure = |name: &str| job.metrics.last().and_then(|m| m[name].as_f64());
    let figure = match (figure("validation_accuracy"), figure("validation_r2")) {
        (Some(accuracy), _) => format!(", validation accuracy {accuracy:.4}"),
        (None, Some(r2)) => format!(", validation R2 {r2:.4}"),
        (None, None) => String::new(),
    };
    display.update(stage, progress.done, Some(progress.total), &format!("{}{figure}", progress.stage));
}

/// Follows a rollout; anything but success is a failure.
pub(crate) fn rollout(client: &Client, mut rollout: RolloutView) -> Result<RolloutView, Failure> {
    let progress = Progress::new();
    progress.stage("rollout", &rollout.id);
    while !rollout.is_over() && !rollout.waits_for_somebody() {
        let (confirmed, all) = rollout.progress();
        progress.update("rollout", confirmed.into(), Some(all.into()), "devices confirmed");
        // A wave that is watched takes its time.
        let stage = rollout.shadow.as_ref().map(|stage| &stage.watch);
        let watched = stage.into_iter().chain(&rollout.watch).any(|watch| watch.since_ms.is_some());
        let rest = if watched { 20 } else { 1 };
        std::thread::sleep(POLL * rest);
        rollout = client.get(&format!("/api/v1/rollouts/{}?brief=true", rollout.id))?;
    }
    progress.clear();
    rollout = client.get(&format!("/api/v1/rollouts/{}", rollout.id))?;
    // One that takes late comers in has reached all that there are.
    if rollout.state == "succeeded" || rollout.state == "running" {
        return Ok(rollout);
    }
    let verb = if rollout.is_over() { "ended as" } else { "is" };
    let detail = format!("{} {verb} {}: {}", rollout.id, rollout.state, rollout.reason);
    Err(Failure::new(ErrorCode::WrongState, detail))
}

/// Follows an experiment until it asks something or is over; a failure of it is the command's.
pub(crate) fn experiment(client: &Client, mut experiment: ExperimentView) -> Result<ExperimentView, Failure> {
    let progress = Progress::new();
    while !experiment.rests() {
        progress.stage("experiment", &format!("{}: {}", experiment.state, experiment.reason));
        std::thread::sleep(POLL * 10);
        experiment = client.get(&format!("/api/v1/experiments/{}", experiment.id))?;
    }
    progress.clear();
    if experiment.state == "failed" {
        let detail = format!("{} has failed: {}", experiment.id, experiment.reason);
        return Err(Failure::new(ErrorCode::WrongState, detail));
    }
    Ok(experiment)
}

/// Does `send`, the request that imports into the dataset `name`, and shows meanwhile how far the server is.
pub(crate) fn import<T>(
    client: &Client,
    display: &Progress,
    stage: &str,
    name: &str,
    send: impl FnOnce() -> Result<T, ClientError>,
) -> Result<T, ClientError> {
    std::thread::scope(|scope| {
        let (over, ended) = mpsc::channel::<()>();
        scope.spawn(move || {
            while ended.recv_timeout(POLL) == Err(RecvTimeoutError::Timeout) {
                // There is none to be seen before the data has arrived.
                let seen = client.get::<ImportProgressView>(&format!("/api/v1/datasets/{name}/import"));
                if let Ok(ImportProgressView { stage: doing, done, total }) = seen {
                    display.update(stage, done, total, &format!("samples, {doing}"));
                }
            }
        });
        let result = send();
        drop(over);
        result
    })
}

/// A file that shows how much of it was read.
pub(crate) struct Upload<'a> {
    /// The file.
    pub(crate) file: File,
    /// Where it is shown, and under which stage.
    pub(crate) shown: (&'a Progress, &'a str),
    /// Bytes read, and all of them where that is known.
    pub(crate) bytes: (u64, Option<u64>),
}

impl Read for Upload<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.file.read(buffer)?;
        self.bytes.0 += read as u64;
        let ((display, stage), (done, total)) = (self.shown, self.bytes);
        display.update(stage, done, total, "bytes sent");
        Ok(read)
    }
}
