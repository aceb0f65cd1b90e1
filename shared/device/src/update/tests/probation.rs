//! What a release on probation must not do.

use super::*;

#[test]
fn too_many_failed_predictions_on_probation_revert_early_but_a_few_first_ones_do_not() {
    let mut desk = fresh();
    desk.reach_confirmed("one", 1);
    desk.reach_probation("two", 2);
    desk.give(Event::Tick { health: served(0, MIN_PREDICTIONS - 1) });
    assert_eq!(desk.update.phase(), Phase::Probation);
    desk.give(Event::Tick { health: served(95, 5) });
    assert_eq!(desk.update.phase(), Phase::Probation, "50 per mille are permitted");
    desk.give(Event::Tick { health: served(94, 6) });
    assert_eq!(desk.update.phase(), Phase::Reverting);
    assert_eq!(desk.activated(), Some((SlotName::A, release("one"))));
    assert!(desk.persisted().candidate.is_none());
    assert_eq!(
        desk.events(),
        [
            (EventKind::Failed, Some(ErrorCode::ProbationFailed)),
            (EventKind::Reverted, Some(ErrorCode::ProbationFailed))
        ]
    );
    let ticket = desk.ticket();
    desk.give(Event::SwitchDone { ticket });
    let report = desk.update.report();
    assert_eq!((report.phase, report.slot), (Phase::Failed, Some(SlotName::A)));
    assert_eq!(report.failure.map(|f| f.code), Some(ErrorCode::ProbationFailed));
}

#[test]
fn a_release_that_is_slower_than_it_promised_or_than_its_probe_is_reverted() {
    let slow = |p95_us| Health { p95_us: Some(p95_us), ..served(MIN_PREDICTIONS, 0) };
    for (promised_us, bearable_us, unbearable_us) in [(5_000, 5_000, 5_001), (0, 70_000, 70_001)] {
        let mut desk = fresh();
        desk.reach_confirmed("one", 1);
        desk.give(wanted("two"));
        let ticket = desk.ticket();
        let promise = Promise { latency_us: promised_us, memory_bytes: 0 };
        desk.give(Event::EnvelopeFetched { ticket, result: Ok(ReleaseFacts { promise, ..facts(2) }) });
        desk.give(Event::FilesComplete { ticket, result: Ok(()) });
        desk.give(Event::FilesVerified { ticket, result: Ok(()) });
        desk.give(Event::ProbeDone { ticket, result: Ok(probe_report()) });
        let ticket = desk.ticket();
        desk.give(Event::SwitchDone { ticket });
        desk.give(Event::Tick { health: slow(bearable_us) });
        assert_eq!(desk.update.phase(), Phase::Probation);
        desk.give(Event::Tick { health: Health { p95_us: Some(unbearable_us), ..served(3, 0) } });
        assert_eq!(desk.update.phase(), Phase::Probation, "three predictions say little");
        desk.give(Event::Tick { health: slow(unbearable_us) });
        let ill = Some(ErrorCode::ProbationFailed);
        assert_eq!((desk.update.phase(), desk.failure()), (Phase::Reverting, ill));
        assert_eq!(desk.events()[0], (EventKind::Failed, Some(ErrorCode::ProbationFailed)));
    }
}

#[test]
fn a_release_under_which_memory_grows_or_the_device_heats_up_is_reverted_but_not_for_a_moment_of_it() {
    let vitals =
        |memory, temperature| Vitals { memory_bytes: Some(memory), temperature_c: Some(temperature) };
    for (before, high, ill) in [
        (vitals(500, 40), vitals(1_501, 40), true),
        (vitals(500, 40), vitals(1_500, 40), false),
        (vitals(500, 86), vitals(500, 91), true),
        (vitals(500, 91), vitals(500, 94), false),
        (vitals(500, 40), vitals(400, 90), false),
        (Vitals::default(), Vitals::default(), false),
    ] {
        let mut desk = fresh();
        desk.reach_confirmed("one", 1);
        desk.reach_probation("two", 2);
        let look = |desk: &mut Desk, vitals| {
            desk.now_ms += 1_000;
            desk.give(Event::Tick { health: Health { vitals, ..served(1, 0) } });
        };
        look(&mut desk, before);
        for _ in 0..2 {
            look(&mut desk, high);
            look(&mut desk, high);
            look(&mut desk, before);
            assert_eq!(desk.update.phase(), Phase::Probation);
        }
        look(&mut desk, high);
        look(&mut desk, high);
        look(&mut desk, high);
        let expected = if ill { Phase::Reverting } else { Phase::Probation };
        assert_eq!(desk.update.phase(), expected, "{before:?} {high:?}");
    }
}

#[test]
fn a_release_that_looks_doubtful_at_the_end_of_its_probation_is_not_confirmed_yet() {
    let mut desk = fresh();
    desk.reach_confirmed("one", 1);
    desk.reach_probation("two", 2);
    let memory = |bytes| Vitals { memory_bytes: Some(bytes), temperature_c: None };
    desk.give(Event::Tick { health: Health { vitals: memory(0), ..served(1, 0) } });
    desk.now_ms += PROBATION_MS;
    for phase in [Phase::Probation, Phase::Probation, Phase::Reverting] {
        desk.give(Event::Tick { health: Health { vitals: memory(9_999), ..served(1, 0) } });
        assert_eq!(desk.update.phase(), phase);
        desk.now_ms += 1_000;
    }
}
