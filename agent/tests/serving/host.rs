//! The model host: swaps without a gap, bounds, counters.

use crate::support::{fragile, model, name, other_size, png, release};
use flotilla_agent::host::{HostError, ModelHost, QUEUE, Served};
use flotilla_protocol::message::SlotName;
use flotilla_protocol::{ErrorCode, limits};
use flotilla_runtime::{Input, Stream, Values};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

const RAW: Input<'static> = Input::Raw(&[1, 2, 3, 4]);

fn host() -> ModelHost {
    let host = ModelHost::new();
    host.install(name("letters"), release("r0"), SlotName::A, model(0)).unwrap();
    host
}

#[test]
fn an_answer_names_the_release_and_slot_that_made_it() {
    let host = host();
    let answer = host.predict(&name("letters"), RAW).unwrap();
    assert_eq!(
        (answer.prediction.headline().unwrap().label, answer.release, answer.slot),
        ("a", release("r0"), SlotName::A)
    );
    let error = host.predict(&name("numbers"), RAW).unwrap_err();
    assert!(matches!(error, HostError::NotServing { .. }));
    assert_eq!(error.code(), ErrorCode::NotFound);
}

#[test]
fn a_request_that_was_admitted_before_a_swap_ends_on_the_old_release() {
    let host = host();
    let before = host.admit(&name("letters")).unwrap();
    host.install(name("letters"), release("r1"), SlotName::B, model(1)).unwrap();
    assert_eq!(host.served(&name("letters")), Some(Served { release: release("r1"), slot: SlotName::B }));
    assert_eq!(host.predict(&name("letters"), RAW).unwrap().prediction.headline().unwrap().label, "b");
    let answer = before.wait().predict(RAW).unwrap();
    assert_eq!((answer.prediction.headline().unwrap().label, answer.release), ("a", release("r0")));

    let before = host.admit(&name("letters")).unwrap();
    assert!(host.remove(&name("letters")));
    assert!(!host.remove(&name("letters")));
    assert!(host.predict(&name("letters"), RAW).is_err());
    assert_eq!(before.wait().predict(RAW).unwrap().prediction.headline().unwrap().label, "b");
}

#[test]
fn swaps_under_load_fail_no_request() {
    let host = host();
    let (stop, answered) = (AtomicBool::new(false), AtomicUsize::new(0));
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                while !stop.load(Ordering::Relaxed) {
                    let answer = host.predict(&name("letters"), RAW).unwrap();
                    let made_by = release(&format!("r{}", answer.prediction.headline().unwrap().label_index));
                    assert_eq!(answer.release, made_by, "an answer never names another release");
                    answered.fetch_add(1, Ordering::Relaxed);
                }
            });
        }
        for round in 1..=100 {
            let label = round % 3;
            let (release, slot) = (release(&format!("r{label}")), [SlotName::A, SlotName::B][round % 2]);
            host.install(name("letters"), release, slot, model(label)).unwrap();
        }
        while answered.load(Ordering::Relaxed) < 100 {
            std::thread::yield_now();
        }
        stop.store(true, Ordering::Relaxed);
    });
}

#[test]
fn callers_beyond_the_queue_are_told_at_once_and_places_come_back() {
    let host = host();
    let mut tickets: Vec<_> = (0..QUEUE).map(|_| host.admit(&name("letters")).unwrap()).collect();
    let error = host.admit(&name("letters")).unwrap_err();
    assert!(matches!(error, HostError::Busy { .. }));
    assert_eq!(error.code(), ErrorCode::Busy);
    host.install(name("letters"), release("r1"), SlotName::B, model(1)).unwrap();
    assert!(host.admit(&name("letters")).is_err(), "a swap does not double the queue");
    tickets.pop().unwrap().wait().predict(RAW).unwrap();
    drop(tickets.pop());
    assert_eq!(host.predict(&name("letters"), RAW).unwrap().prediction.headline().unwrap().label, "b");
}

#[test]
fn a_release_is_told_only_what_it_did_itself_and_the_same_one_loaded_again_goes_on() {
    let (host, letters) = (ModelHost::new(), name("letters"));
    host.install(letters.clone(), release("r0"), SlotName::A, fragile(0)).unwrap();
    for _ in 0..3 {
        host.predict(&letters, RAW).unwrap();
    }
    let error = host.predict(&letters, Input::Raw(&[255; 4])).unwrap_err();
    assert_eq!(error.code(), ErrorCode::InferenceFailed);
    let health = host.health(&letters).unwrap();
    assert_eq!((health.release, health.predictions, health.failures), (release("r0"), 3, 1));
    assert!(health.p95_us.is_some());

    host.install(letters.clone(), release("r2"), SlotName::B, model(2)).unwrap();
    let health = host.health(&letters).unwrap();
    assert_eq!((health.release, health.predictions, health.failures), (release("r2"), 0, 0));
    assert_eq!(health.p95_us, None);
    host.predict(&letters, RAW).unwrap();

    let telemetry = &host.telemetry()[&letters];
    assert_eq!(telemetry.release, Some(release("r2")));
    assert_eq!((telemetry.predictions, telemetry.failures, telemetry.latency.count()), (1, 0, 1));
    assert_eq!(telemetry.classes, [(2, 1)].into());

    host.install(letters.clone(), release("r2"), SlotName::B, model(2)).unwrap();
    host.predict(&letters, RAW).unwrap();
    assert_eq!(host.telemetry()[&letters].predictions, 2);
    assert_eq!(host.health(&letters).unwrap().predictions, 1, "it is on trial anew");
}

#[test]
fn inputs_that_alone_are_to_blame_do_not_count_against_the_release() {
    let (host, letters) = (ModelHost::new(), name("letters"));
    host.install(letters.clone(), release("r0"), SlotName::A, fragile(0)).unwrap();
    for broken in [&b"no picture"[..], b"\x89PNG\r\n\x1a\nbroken", &png(3, 2)] {
        assert!(host.predict(&letters, Input::Encoded(broken)).is_err());
    }
    for length in [0, 3, 5, 10_000] {
        assert!(host.predict(&letters, Input::Raw(&vec![7; length])).is_err());
        assert!(host.admit(&letters).unwrap().check(Input::Raw(&vec![7; length])).is_err());
    }
    let infer = |tensor: &[f32]| {
        let batch = [vec![Values::Fp32(tensor.to_vec())]];
        host.admit(&letters).unwrap().wait().infer(Stream::default(), &batch).map(drop)
    };
    for tensor in [[3.0; 4], [1e38; 4]] {
        assert!(infer(&tensor).is_err(), "log of a number below zero");
    }
    assert_eq!(host.health(&letters).unwrap().failures, 0);
    assert_eq!(host.telemetry()[&letters].failures, 0);
    infer(&[1.0; 4]).unwrap_err();
    assert_eq!(host.health(&letters).unwrap().failures, 1, "white pixels are what any picture may have");
}

#[test]
fn a_release_that_has_no_answer_where_the_one_before_it_had_one_is_to_blame() {
    let (host, letters) = (host(), name("letters"));
    for slot in [SlotName::B, SlotName::A] {
        // The second time as after its slot was checked: the same release is loaded again.
        host.install(letters.clone(), release("r1"), slot, other_size(3)).unwrap();
        let failures = || host.health(&letters).unwrap().failures;
        host.predict(&letters, Input::Raw(&[1; 3])).unwrap();
        host.admit(&letters).unwrap().check(Input::Raw(&[1; 5])).unwrap_err();
        assert_eq!(failures(), 0, "neither takes that");
        host.admit(&letters).unwrap().check(RAW).unwrap_err();
        assert_eq!(failures(), 1);
        host.predict(&letters, Input::Encoded(&png(2, 2))).unwrap_err();
        assert_eq!(failures(), 2);
    }
}

#[tokio::test]
async fn who_gives_up_waiting_gives_the_place_back_and_holds_up_nobody() {
    let (host, letters) = (host(), name("letters"));
    let turn = host.admit(&letters).unwrap().turn().await;
    let mut waiting: Vec<_> = (1..QUEUE).map(|_| Box::pin(host.admit(&letters).unwrap().turn())).collect();
    for waiting in &mut waiting {
        let now = tokio::time::timeout(Duration::ZERO, waiting).await;
        assert!(now.is_err(), "the model is taken");
    }
    assert!(host.admit(&letters).is_err());
    waiting.drain(..QUEUE / 2);
    assert!(host.admit(&letters).is_ok());
    turn.predict(RAW).unwrap();
    for waiting in waiting {
        assert_eq!(waiting.await.predict(RAW).unwrap().prediction.headline().unwrap().label, "a");
    }
    assert_eq!(host.telemetry()[&letters].predictions, (QUEUE - QUEUE / 2) as u64);
}

#[test]
fn the_number_of_models_is_bounded_but_a_swap_is_always_possible() {
    let host = ModelHost::new();
    for index in 0..limits::DESIRED_MODELS {
        host.install(name(&format!("m{index}")), release("r0"), SlotName::A, model(0)).unwrap();
    }
    let error = host.install(name("more"), release("r0"), SlotName::A, model(0)).unwrap_err();
    assert!(matches!(error, HostError::TooManyModels));
    host.install(name("m0"), release("r1"), SlotName::B, model(1)).unwrap();
    assert_eq!(host.all_served().len(), limits::DESIRED_MODELS);
}
