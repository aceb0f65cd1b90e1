//! Jobs as their users meet them: real child processes, real crashes, real kills.
#![expect(clippy::unwrap_used, reason = "tests fail by panicking")]

mod support;

use flotilla_identity::{Actor, audit, now_ms};
use flotilla_jobs::{Error, INTERRUPTIONS, JOB_SPEC, JobState, LOG, QUEUED_JOBS};
use flotilla_protocol::{ErrorCode, JobId};
use flotilla_storage::Batch;
use serde_json::{Value, json};
use std::fs;
use std::process::Command;
use std::sync::atomic::Ordering;
use support::{Adder, FIXTURE, House, Pipe, let_go};
use tempfile::TempDir;

#[tokio::test]
async fn a_job_runs_in_a_child_and_publishes_with_its_end() {
    let house = House::new();
    let job = house.run("sum").await;
    assert_eq!((&job.state, job.attempt), (&JobState::Succeeded, 1));
    assert_eq!(job.result, Some(json!({ "sum": 6 })));
    assert_eq!(job.progress.done, 3);
    assert_eq!(job.outputs.keys().collect::<Vec<_>>(), ["sum"]);
    let published = house.published().await;
    assert_eq!(published.len(), 1);
    assert_eq!(published[0].1, "attempt 1: {\"sum\":6}");
    let metrics = house.queue.metrics(&job).await.unwrap();
    let sums: Vec<_> = metrics.iter().map(|point| point.values["sum"]).collect();
    assert_eq!((sums, metrics[0].values.len()), (vec![1.0, 3.0, 6.0], 1));
    assert_eq!(job.metrics, metrics);
    let log = house.log_of(&job).await;
    assert!(log.contains("added everything") && log.contains("a stray line on the standard output"), "{log}");
    assert_eq!(house.job_folders(), 0, "nothing of a finished job stays in the folder");

    let trail = audit::list(&*house.records, audit::Order::OldestFirst, None, 10).await.unwrap();
    let told: Vec<_> = trail.iter().map(|r| (r.action.as_str(), r.actor.id.as_str())).collect();
    assert_eq!(told, [("job:submit", "administrator"), ("job:attempt-end", "system")]);
}

#[tokio::test]
async fn a_job_that_cannot_be_done_fails_with_its_reason_and_is_not_tried_again() {
    let house = House::new();
    let job = house.run("fail").await;
    let detail = "the loss is not a number".to_owned();
    assert_eq!((job.state, job.attempt), (JobState::Failed { code: ErrorCode::TrainingFailed, detail }, 1));
    assert!(house.published().await.is_empty());
}

#[tokio::test]
async fn what_cannot_be_prepared_fails_before_a_child_runs() {
    let house = House::new();
    let working = house.work(Adder::new(&house.records, &house.queue));
    let job = house.submit("sum", json!({ "unpreparable": true })).await;
    let job = house.end_of(&job.id).await;
    assert!(matches!(job.state, JobState::Failed { code: ErrorCode::DatasetTooSmall, .. }));
    assert!(house.log_of(&job).await.is_empty());
    working.stop().await;
}

#[tokio::test]
async fn a_crash_is_tried_again_once() {
    let house = House::new();
    let job = house.run("crash-once").await;
    assert_eq!((job.state, job.attempt, job.crashes), (JobState::Succeeded, 2, 1));
    assert_eq!(house.published().await[0].1, "attempt 2: {\"sum\":6}");
}

#[tokio::test]
async fn a_second_crash_fails_the_job_with_the_end_of_its_log() {
    let house = House::new();
    let job = house.run("crash").await;
    assert_eq!(job.attempt, 2);
    let JobState::Failed { code: ErrorCode::JobCrashed, detail } = &job.state else { panic!("{job:?}") };
    assert!(detail.contains("signal: 6") && detail.contains("about to crash"), "{detail}");
    assert!(house.log_of(&job).await.contains("about to crash"));
}

#[tokio::test]
async fn a_panic_in_a_job_is_a_crash() {
    let house = House::new();
    let job = house.run("panic").await;
    let JobState::Failed { code: ErrorCode::JobCrashed, detail } = &job.state else { panic!("{job:?}") };
    assert!(detail.contains("exit status: 101") && detail.contains("a fault in the job"), "{detail}");
}

#[tokio::test]
async fn a_child_that_says_no_frames_has_crashed() {
    let house = House::new();
    let job = house.run("garbage").await;
    let JobState::Failed { code: ErrorCode::JobCrashed, detail } = &job.state else { panic!("{job:?}") };
    assert!(detail.contains("not made of frames"), "{detail}");
}

#[tokio::test]
async fn a_result_over_the_bound_is_a_failure() {
    let house = House::new();
    let job = house.run("boast").await;
    assert!(matches!(job.state, JobState::Failed { code: ErrorCode::TooLarge, .. }), "{job:?}");
}

#[tokio::test]
async fn a_log_is_bounded_and_its_end_is_kept() {
    let house = House::new();
    let job = house.run("noisy").await;
    assert_eq!(job.state, JobState::Succeeded);
    let log = house.log_of(&job).await;
    assert!(log.len() <= LOG && log.len() > LOG / 4, "{}", log.len());
    assert!(log.contains("fill it soon: 99999"));
}

#[tokio::test]
async fn a_child_that_listens_stops_by_itself_when_the_job_is_cancelled() {
    let house = House::new();
    let working = house.work(Adder::new(&house.records, &house.queue));
    let file = house.dir.path().join("polite");
    let job = house.submit("polite", json!(file)).await;
    let mut watch = house.queue.watch(&job.id);
    while watch.next().await.unwrap().unwrap().progress.stage != "waiting" {}
    let actor = Actor::administrator();
    let cancelling = house.queue.cancel(&actor, &job.id, now_ms()).await.unwrap();
    assert_eq!(cancelling.state, JobState::Cancelling);
    house.queue.cancel(&actor, &job.id, now_ms()).await.unwrap();
    assert_eq!(house.end_of(&job.id).await.state, JobState::Cancelled);
    assert_eq!(fs::read_to_string(file).unwrap(), "stopped politely");
    working.stop().await;
}

#[tokio::test]
async fn a_child_that_does_not_listen_is_ended_with_all_its_processes() {
    for kind in ["deaf", "stubborn"] {
        let house = House::new();
        let working = house.work(Adder::new(&house.records, &house.queue));
        let pipe = Pipe::new(house.dir.path());
        let job = house.submit(kind, json!(pipe.path)).await;
        let held = pipe.held().await;
        house.queue.cancel(&Actor::administrator(), &job.id, now_ms()).await.unwrap();
        assert_eq!(house.end_of(&job.id).await.state, JobState::Cancelled, "{kind}");
        let_go(held).await;
        working.stop().await;
        assert!(house.published().await.is_empty());
    }
}

#[tokio::test]
async fn a_waiting_job_is_cancelled_at_once_and_an_ended_one_not_at_all() {
    let house = House::new();
    let actor = Actor::administrator();
    let job = house.submit("sum", json!({})).await;
    let cancelled = house.queue.cancel(&actor, &job.id, now_ms()).await.unwrap();
    assert_eq!(cancelled.state, JobState::Cancelled);
    let done = house.run("sum").await;
    let error = house.queue.cancel(&actor, &done.id, now_ms()).await.unwrap_err();
    assert_eq!(error.code(), ErrorCode::WrongState);
    assert!(error.to_string().contains("succeeded"), "{error}");
    let missing = house.queue.cancel(&actor, &JobId::new("job-0").unwrap(), now_ms()).await.unwrap_err();
    assert_eq!(missing.code(), ErrorCode::NotFound);
}

#[tokio::test]
async fn a_worker_that_stops_gives_its_job_back_and_another_one_finishes_it() {
    let house = House::new();
    let adder = Adder::new(&house.records, &house.queue);
    let first = house.work(adder.clone());
    let pipe = Pipe::new(house.dir.path());
    let job = house.submit("hold-once", json!(pipe.path)).await;
    let held = pipe.held().await;
    first.stop().await;
    let_go(held).await;
    assert_eq!(house.queue.get(&job.id).await.unwrap().state, JobState::Queued);

    let second = house.work(adder);
    let job = house.end_of(&job.id).await;
    assert_eq!((job.state, job.attempt, job.crashes, job.interruptions), (JobState::Succeeded, 2, 0, 0));
    second.stop().await;
}

#[tokio::test]
async fn a_killed_control_plane_takes_its_children_along_and_the_next_start_finishes_the_job() {
    let dir = TempDir::new().unwrap();
    let house = House::at(dir);
    let pipe = Pipe::new(house.dir.path());
    let job = house.submit("hold-once", json!(pipe.path)).await;
    house.records.close().await.unwrap();
    let House { dir, records, queue } = house;
    drop((records, queue));

    let mut worker = Command::new(FIXTURE).arg("worker").arg(dir.path()).spawn().unwrap();
    let held = pipe.held().await;
    worker.kill().unwrap();
    worker.wait().unwrap();
    let_go(held).await;

    let house = House::at(dir);
    let found = house.queue.get(&job.id).await.unwrap();
    assert_eq!((&found.state, found.attempt), (&JobState::Running, 1));
    let working = house.work(Adder::new(&house.records, &house.queue));
    let job = house.end_of(&job.id).await;
    assert_eq!((job.state, job.attempt, job.interruptions), (JobState::Succeeded, 2, 1));
    working.stop().await;
    assert_eq!(house.job_folders(), 0);
}

#[tokio::test]
async fn a_worker_that_has_lost_its_lease_publishes_nothing() {
    let house = House::new();
    let adder = Adder::new(&house.records, &house.queue);
    adder.stale.store(1, Ordering::SeqCst);
    let working = house.work(adder);
    let job = house.submit("sum", json!({})).await;
    let job = house.end_of(&job.id).await;
    assert_eq!((job.state, job.attempt, job.interruptions), (JobState::Succeeded, 2, 1));
    let published = house.published().await;
    assert_eq!(published.len(), 1);
    assert_eq!(published[0].1, "attempt 2: {\"sum\":6}", "the first attempt's batch did not happen");
    working.stop().await;
}

#[tokio::test]
async fn publishing_is_repeated_when_somebody_else_changed_a_record_first() {
    let house = House::new();
    let adder = Adder::new(&house.records, &house.queue);
    adder.overtaken.store(2, Ordering::SeqCst);
    let working = house.work(adder);
    let job = house.submit("sum", json!({})).await;
    let job = house.end_of(&job.id).await;
    assert_eq!((job.state, job.attempt), (JobState::Succeeded, 1));
    working.stop().await;
}

#[tokio::test]
async fn a_fault_in_a_handler_costs_an_attempt_and_not_the_worker() {
    let house = House::new();
    let adder = Adder::new(&house.records, &house.queue);
    adder.panics.store(1, Ordering::SeqCst);
    let working = house.work(adder.clone());
    let job = house.submit("sum", json!({})).await;
    let job = house.end_of(&job.id).await;
    assert_eq!((job.state, job.attempt, job.interruptions), (JobState::Succeeded, 2, 1));

    adder.panics.store(INTERRUPTIONS, Ordering::SeqCst);
    let job = house.submit("sum", json!({})).await;
    let job = house.end_of(&job.id).await;
    assert!(matches!(job.state, JobState::Failed { code: ErrorCode::JobCrashed, .. }));
    working.stop().await;
}

#[tokio::test]
async fn jobs_run_in_the_order_in_which_they_came() {
    let house = House::new();
    let mut ids = Vec::new();
    for kind in ["sum", "fail", "sum"] {
        ids.push(house.submit(kind, json!({})).await.id);
    }
    let newest: Vec<_> = house.queue.list(None, 10).await.unwrap().into_iter().map(|job| job.id).collect();
    assert_eq!(newest, ids.iter().rev().cloned().collect::<Vec<_>>());
    assert_eq!(house.queue.list(Some(&newest[0]), 1).await.unwrap()[0].id, newest[1]);
    let working = house.work(Adder::new(&house.records, &house.queue));
    let last = house.end_of(&ids[2]).await;
    for id in &ids[..2] {
        let earlier = house.queue.get(id).await.unwrap();
        assert!(earlier.finished_at_ms.unwrap() <= last.started_at_ms.unwrap());
    }
    working.stop().await;
}

#[tokio::test]
async fn jobs_of_unknown_kinds_wait_for_a_worker_that_knows_them() {
    let house = House::new();
    let other = house.submit("other", json!({})).await;
    house.run("sum").await;
    assert_eq!(house.queue.get(&other.id).await.unwrap().state, JobState::Queued);
}

#[tokio::test]
async fn the_queue_has_bounds() {
    let house = House::new();
    let actor = Actor::administrator();
    let huge = json!("x".repeat(JOB_SPEC));
    let error = house.queue.submit(&actor, "sum", huge, now_ms()).await.unwrap_err();
    assert_eq!(error.code(), ErrorCode::TooLarge);
    for kind in ["", "Sum", "/active", &"x".repeat(65)] {
        let error = house.queue.submit(&actor, kind, Value::Null, now_ms()).await.unwrap_err();
        assert_eq!(error.code(), ErrorCode::InvalidInput);
    }
    // As full as the queue gets, in few commits.
    let mut full = None;
    let mut batch = Batch::new();
    for count in 0..=QUEUED_JOBS {
        match house.queue.submit_in(&mut batch, &actor, "sum", Value::Null, now_ms()).await {
            Ok(_) if count % 50 == 49 => {
                house.records.commit(std::mem::take(&mut batch)).await.unwrap();
            }
            Ok(_) => {}
            Err(error) => full = Some((count, error)),
        }
    }
    let (count, error) = full.unwrap();
    assert_eq!(count, QUEUED_JOBS);
    assert!(matches!(error, Error::QueueFull { .. }) && error.code() == ErrorCode::Busy);
}
