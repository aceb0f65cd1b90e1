//! Follows long work on stderr until it is over.

use super::client::Client;
use super::exit::Failure;
use crate::http::api::{JobView, RolloutView};
use flotilla_protocol::ErrorCode;
use std::time::Duration;

const POLL: Duration = Duration::from_millis(300);

/// Follows a job; its failure is the command's.
pub(crate) fn job(client: &Client, mut job: JobView) -> Result<JobView, Failure> {
    let mut shown = None;
    while !job.is_over() {
        if job.progress != shown {
            shown = job.progress.clone();
            if let Some(p) = &shown {
                eprintln!("{}  {} {}/{}", job.id, p.stage, p.done, p.total);
            }
        }
        std::thread::sleep(POLL);
        job = client.get(&format!("/api/v1/jobs/{}", job.id))?;
    }
    match &job.failure {
        Some(failure) => {
            Err(Failure::new(ErrorCode::from_text(&failure.code), format!("{}: {}", job.id, failure.detail)))
        }
        None if job.state == "cancelled" => {
            Err(Failure::new(ErrorCode::Cancelled, format!("{} was cancelled", job.id)))
        }
        None => Ok(job),
    }
}

/// Follows a rollout; anything but success is a failure.
pub(crate) fn rollout(client: &Client, mut rollout: RolloutView) -> Result<RolloutView, Failure> {
    let mut shown = String::new();
    while !rollout.is_over() {
        let devices = || rollout.waves.iter().flat_map(|w| &w.devices);
        let confirmed = devices().filter(|d| d.state == "confirmed").count();
        let line = format!("{}  {} {confirmed}/{} confirmed", rollout.id, rollout.state, devices().count());
        if line != shown {
            eprintln!("{line}");
            shown = line;
        }
        std::thread::sleep(POLL);
        rollout = client.get(&format!("/api/v1/rollouts/{}", rollout.id))?;
    }
    if rollout.state == "succeeded" {
        return Ok(rollout);
    }
    Err(Failure::new(
        ErrorCode::WrongState,
        format!("{} ended as {}: {}", rollout.id, rollout.state, rollout.reason),
    ))
}
