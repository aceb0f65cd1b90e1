//! What has become of a device: its answers to the document that it was sent.

use super::planner::{Observation, due_ms};
use super::state::{Rollout, RolloutState, Sent, Status};
use flotilla_protocol::ErrorCode;
use flotilla_protocol::message::{ModelReport, Phase};

/// What has become of a device that was told to run the release; `None` while that is open.
pub(super) fn judge(rollout: &Rollout, sent: &Sent, seen: &Observation, now_ms: u64) -> Option<Status> {
    let answered = || {
        let model = answer(sent, seen)?;
        if model.confirmed == Some(rollout.wanted.release) && model.candidate.is_none() {
            return Some(Status::Confirmed { at_ms: now_ms });
        }
        failure(rollout, sent, model, now_ms)
    };
    let late = || {
        // While paused nobody is late: the devices may be kept from answering by what the pause is for.
        (rollout.state == RolloutState::Running && now_ms >= due_ms(rollout, sent)).then(|| Status::Failed {
            code: ErrorCode::Timeout,
            detail: format!("no answer within {} s", rollout.deadline_ms / 1000).into(),
            at_ms: now_ms,
        })
    };
    gone(rollout, sent, seen, now_ms).or_else(answered).or_else(late)
}

/// What has become of a device that had confirmed the release; `None` while it still runs it. One that falls back counts
/// as failed, and how long it takes to say so does not matter.
pub(super) fn judge_again(rollout: &Rollout, sent: &Sent, seen: &Observation, now_ms: u64) -> Option<Status> {
    let fallen = || {
        let model = answer(sent, seen)?;
        if model.confirmed == Some(rollout.wanted.release) {
            return None;
        }
        let (code, detail) = match &model.failure {
            Some(failure) => (failure.code, failure.detail.clone()),
            None => (ErrorCode::WrongState, "it does not run the release any more".to_owned()),
        };
        Some(Status::Failed { code, detail: detail.into(), at_ms: now_ms })
    };
    gone(rollout, sent, seen, now_ms).or_else(fallen)
}

/// Whether the device does not count any more: revoked, or given something else to run.
fn gone(rollout: &Rollout, sent: &Sent, seen: &Observation, now_ms: u64) -> Option<Status> {
    let skipped = |code| Some(Status::Skipped { code, at_ms: now_ms });
    if seen.revoked {
        return skipped(ErrorCode::Revoked);
    }
    let release = rollout.wanted.release;
    let ours = seen.desired.as_ref().is_some_and(|d| d.release == release && d.attempt == sent.attempt);
    if ours { None } else { skipped(ErrorCode::WrongState) }
}

/// What the device says of the model in answer to the document that it was sent, or a later one: what it says of its
/// earlier life proves nothing.
fn answer<'a>(sent: &Sent, seen: &'a Observation) -> Option<&'a ModelReport> {
    let report = seen.report.as_ref().filter(|report| report.desired_version >= sent.desired_version)?;
    report.model.as_ref()
}

/// The failure of this attempt.
fn failure(rollout: &Rollout, sent: &Sent, model: &ModelReport, now_ms: u64) -> Option<Status> {
    let failure = model.failure.as_ref().filter(|failure| failure.release == rollout.wanted.release)?;
    (model.phase == Phase::Failed && model.attempt == sent.attempt).then(|| Status::Failed {
        code: failure.code,
        detail: failure.detail.as_str().into(),
        at_ms: now_ms,
    })
}
