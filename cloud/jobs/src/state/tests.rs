//! What the states of a job promise, over all sequences of events.
#![expect(clippy::unwrap_used, reason = "tests fail by panicking")]

use super::*;
use flotilla_identity::Actor;
use proptest::prelude::*;

const NOW: u64 = 1_790_000_000_000;

fn job() -> Job {
    Job {
        id: crate::job::new_id(NOW),
        kind: "train".into(),
        spec: Value::Null,
        state: JobState::Queued,
        attempt: 0,
        crashes: 0,
        interruptions: 0,
        progress: Progress::default(),
        submitted_by: Actor::administrator().id,
        created_at_ms: NOW,
        started_at_ms: None,
        finished_at_ms: None,
        metrics: Vec::new(),
        result: None,
        outputs: BTreeMap::new(),
        series: None,
        log: None,
    }
}

fn after(events: impl IntoIterator<Item = Event>) -> Job {
    events.into_iter().fold(job(), |job, event| step(&job, event, NOW).unwrap())
}

fn crash() -> Event {
    Event::Crash { detail: "signal 11".into() }
}

fn succeed() -> Event {
    Event::Succeed { result: Value::Bool(true), outputs: BTreeMap::new() }
}

fn any_event() -> impl Strategy<Value = Event> {
    prop_oneof![
        4 => Just(Event::Start),
        1 => Just(succeed()),
        1 => Just(Event::Fail(JobFailure::new(ErrorCode::Internal, "x"))),
        2 => Just(crash()),
        2 => Just(Event::Lose),
        1 => Just(Event::Release),
        1 => Just(Event::RequestCancel),
        1 => Just(Event::Stop),
    ]
}

#[test]
fn a_job_runs_and_succeeds() {
    let done = after([Event::Start, succeed()]);
    assert_eq!((done.state, done.attempt, done.result), (JobState::Succeeded, 1, Some(Value::Bool(true))));
    assert_eq!(done.finished_at_ms, Some(NOW));
}

#[test]
fn a_crash_is_tried_again_once() {
    let again = after([Event::Start, crash()]);
    assert_eq!(again.state, JobState::Queued);
    let failed = after([Event::Start, crash(), Event::Start, crash()]);
    assert_eq!(failed.attempt, 2);
    assert_eq!(failed.state, JobState::Failed { code: ErrorCode::JobCrashed, detail: "signal 11".into() });
}

#[test]
fn a_failure_is_final_and_a_restart_of_the_server_is_not() {
    let failure = JobFailure::new(ErrorCode::TrainingFailed, "loss is not a number");
    let known = failure.clone().with_facts(Some(Value::from("nearest")));
    let failed = after([Event::Start, Event::Fail(known)]);
    assert!(failed.state.is_final() && failed.result == Some(Value::from("nearest")));
    let too_much = failure.with_facts(Some(Value::from("x".repeat(4096))));
    assert_eq!(after([Event::Start, Event::Fail(too_much)]).result, None);
    let again = after([Event::Start, Event::Lose, Event::Start, Event::Release, Event::Start]);
    assert_eq!((again.state, again.attempt, again.interruptions), (JobState::Running, 3, 1));
}

#[test]
fn a_waiting_job_is_cancelled_at_once_and_a_running_one_by_its_worker() {
    assert_eq!(after([Event::RequestCancel]).state, JobState::Cancelled);
    let running = after([Event::Start, Event::RequestCancel]);
    assert_eq!(running.state, JobState::Cancelling);
    for end in [Event::Stop, Event::Lose, Event::Release, crash(), succeed()] {
        let ended = step(&running, end, NOW).unwrap();
        assert_eq!((ended.state, ended.result), (JobState::Cancelled, None));
    }
}

proptest! {
    #[test]
    fn every_sequence_keeps_the_promises(events in proptest::collection::vec(any_event(), 0..60)) {
        let mut job = job();
        for event in events {
            let Ok(next) = step(&job, event.clone(), NOW) else { continue };
            if job.state.is_final() {
                prop_assert_eq!(&next, &job, "an ended job never changes");
            }
            prop_assert_eq!(next.state.is_final(), next.finished_at_ms.is_some());
            prop_assert!(next.attempt >= job.attempt);
            prop_assert!(next.crashes <= CRASHES && next.interruptions <= INTERRUPTIONS);
            if next.state == JobState::Succeeded {
                prop_assert!(next.result.is_some());
            }
            if job.state == JobState::Cancelling {
                prop_assert!(matches!(next.state, JobState::Cancelling | JobState::Cancelled));
            }
            job = next;
        }
        // Whatever happened: a job that keeps being started ends.
        for _ in 0..=(CRASHES + INTERRUPTIONS) {
            for event in [Event::Start, crash(), Event::Start, Event::Lose, Event::Stop] {
                if let Ok(next) = step(&job, event, NOW) { job = next; }
            }
        }
        prop_assert!(job.state.is_final());
    }
}
