//! Releases that do not load, take the agent down, or rot on the disk.

use super::*;

/// Its release one lies in slot A and is the way back, release two in slot B and confirmed.
fn confirmed_twice() -> UpdateJournal {
    let mut desk = fresh();
    desk.reach_confirmed("one", 1);
    desk.reach_confirmed("two", 2);
    desk.update.journal().clone()
}

fn damage() -> Fault {
    Fault::lasting(ErrorCode::DigestMismatch, "model.onnx")
}

#[test]
fn the_release_confirmed_before_is_the_way_back_until_its_slot_is_needed() {
    let journal = confirmed_twice();
    let previous = |journal: &UpdateJournal| journal.previous.as_ref().map(|p| (p.slot, p.release));
    assert_eq!(previous(&journal), Some((SlotName::A, release("one"))));
    let mut desk = Desk::new(journal);
    desk.give(wanted("three"));
    let journal = desk.persisted();
    assert_eq!((previous(journal), journal.candidate.as_ref().map(|c| c.slot)), (None, Some(SlotName::A)));
    assert!(matches!(desk.effects[0], Effect::PersistJournal(_)), "forgotten before the slot is written to");
}

#[test]
fn a_damaged_confirmed_release_gives_way_to_the_one_before_and_is_fetched_anew() {
    for connected in [false, true] {
        let mut desk = Desk::new(confirmed_twice());
        let ticket = desk.ticket();
        if connected {
            desk.give(wanted("two"));
        }
        desk.give(Event::LoadFailed { ticket, fault: damage() });
        assert_eq!(desk.activated(), Some((SlotName::A, release("one"))));
        let kinds: Vec<_> = desk.events();
        assert_eq!(
            kinds,
            [
                (EventKind::Failed, Some(ErrorCode::DigestMismatch)),
                (EventKind::Reverted, Some(ErrorCode::DigestMismatch))
            ]
        );
        let report = desk.update.report();
        assert_eq!(report.confirmed, Some(release("one")));
        assert_eq!(report.candidate, connected.then(|| release("two")));
        assert_eq!(desk.update.journal().failed, None, "the disk failed, not the release");
    }
}

#[test]
fn a_confirmed_release_that_cannot_be_loaded_any_more_gives_way_and_stays_away() {
    let mut desk = Desk::new(confirmed_twice());
    let ticket = desk.ticket();
    desk.give(Event::LoadFailed { ticket, fault: Fault::lasting(ErrorCode::ModelUnsupported, "Einsum") });
    assert_eq!(desk.activated(), Some((SlotName::A, release("one"))));
    let ticket = desk.ticket();
    desk.give(Event::SwitchDone { ticket });
    desk.give(wanted("two"));
    assert_eq!((desk.update.phase(), desk.failure()), (Phase::Failed, Some(ErrorCode::ModelUnsupported)));
    desk.give(wanted_attempt("two", 1));
    assert_eq!(desk.update.phase(), Phase::Downloading);
}

#[test]
fn a_disk_that_cannot_be_read_for_a_moment_costs_no_release() {
    let mut desk = Desk::new(confirmed_twice());
    let ticket = desk.ticket();
    desk.give(Event::LoadFailed { ticket, fault: Fault::transient(ErrorCode::StorageIo, "EIO") });
    assert_eq!(desk.update.journal().confirmed.as_ref().map(|c| c.release), Some(release("two")));
    desk.now_ms = 1_000;
    desk.give(Event::Tick { health: Health::default() });
    assert_eq!(desk.activated(), Some((SlotName::B, release("two"))));
}

#[test]
fn a_confirmed_release_that_takes_the_agent_down_again_and_again_gives_way_without_any_network() {
    let mut journal = confirmed_twice();
    let mut served = Vec::new();
    for _ in 0..CRASHES {
        let mut desk = Desk::started(journal, true);
        served.push(desk.activated().unwrap().1);
        journal = desk.persisted().clone();
        desk.give(wanted("two"));
        assert!(desk.update.journal().candidate.is_none());
    }
    let (one, two) = (release("one"), release("two"));
    assert_eq!(served, [two, two, two, two, one]);
    assert_eq!(journal.failed.map(|f| (f.release, f.code)), Some((two, ErrorCode::ModelCrashed)));
}

#[test]
fn one_start_that_was_no_crash_or_a_long_time_of_service_ends_the_row() {
    let mut desk = Desk::started(confirmed_twice(), true);
    let crashes = |desk: &Desk| desk.update.journal().confirmed.as_ref().map(|c| c.crashes);
    assert_eq!(crashes(&desk), Some(1));
    let journal = desk.update.journal().clone();
    assert_eq!(crashes(&Desk::started(journal, false)), Some(0));
    let ticket = desk.ticket();
    desk.give(Event::SwitchDone { ticket });
    assert_eq!(desk.effects.last(), Some(&Effect::ScheduleTick { at_ms: STABLE_MS }));
    desk.now_ms = STABLE_MS;
    desk.give(Event::Tick { health: Health::default() });
    assert_eq!(desk.persisted().confirmed.as_ref().map(|c| c.crashes), Some(0));
}

#[test]
fn a_release_that_takes_the_agent_down_with_no_way_back_is_left_alone_ever_longer() {
    let mut desk = fresh();
    desk.reach_confirmed("one", 1);
    let mut journal = desk.update.journal().clone();
    let mut waits = Vec::new();
    for start in 1..=CRASHES + 2 {
        desk = Desk::started(journal, true);
        assert_eq!(desk.activated().is_some(), start < CRASHES, "start {start}");
        journal = desk.persisted().clone();
        if let (None, Some(Effect::ScheduleTick { at_ms })) = (desk.activated(), desk.effects.last()) {
            waits.push(*at_ms);
        }
    }
    assert_eq!(waits, [30_000, 60_000, 120_000]);
    assert_eq!((desk.update.phase(), desk.failure()), (Phase::Failed, Some(ErrorCode::ModelCrashed)));
    desk.now_ms = 120_000;
    desk.give(Event::Tick { health: Health::default() });
    assert_eq!(desk.activated(), Some((SlotName::A, release("one"))));
}

#[test]
fn a_candidate_whose_files_change_on_the_disk_is_filled_anew_a_few_times() {
    let mut desk = fresh();
    desk.reach_confirmed("one", 1);
    desk.reach_probe("two", 2);
    for _ in 0..REFILLS {
        let ticket = desk.ticket();
        desk.give(Event::ProbeDone { ticket, result: Err(damage()) });
        assert_eq!(desk.update.phase(), Phase::Downloading);
        assert_eq!(desk.events(), [(EventKind::Repaired, Some(ErrorCode::DigestMismatch))]);
        desk.now_ms += 1_000_000;
        desk.give(Event::Tick { health: Health::default() });
        let ticket = desk.ticket();
        desk.give(Event::EnvelopeFetched { ticket, result: Ok(facts(2)) });
        desk.give(Event::FilesComplete { ticket, result: Ok(()) });
        desk.give(Event::FilesVerified { ticket, result: Ok(()) });
        assert_eq!(desk.update.phase(), Phase::Probing);
    }
    let ticket = desk.ticket();
    desk.give(Event::ProbeDone { ticket, result: Err(damage()) });
    assert_eq!((desk.update.phase(), desk.failure()), (Phase::Failed, Some(ErrorCode::DigestMismatch)));
    assert_eq!(desk.update.report().slot, Some(SlotName::A));
}

#[test]
fn a_release_on_trial_whose_files_are_damaged_is_filled_anew_while_the_confirmed_one_serves() {
    let mut desk = fresh();
    desk.reach_confirmed("one", 1);
    desk.reach_switch("two", 2);
    let mut desk = Desk::new(desk.update.journal().clone());
    let ticket = desk.ticket();
    desk.give(Event::LoadFailed { ticket, fault: damage() });
    assert_eq!(desk.activated(), Some((SlotName::A, release("one"))));
    assert_eq!(desk.update.journal().failed, None);
    let ticket = desk.ticket();
    desk.give(Event::SwitchDone { ticket });
    desk.give(wanted("two"));
    desk.now_ms += 1_000_000;
    desk.give(Event::Tick { health: Health::default() });
    assert!(desk.effects.iter().any(|e| matches!(e, Effect::FetchRelease { slot: SlotName::B, .. })));
}

#[test]
fn a_launcher_has_a_way_back_of_its_own() {
    let mut desk =
        Desk { update: Update::of_agent(UpdateJournal::default()), effects: Vec::new(), now_ms: 0 };
    desk.give(Event::Started { crashed: false });
    desk.reach_confirmed("one", 1);
    desk.reach_confirmed("two", 2);
    assert_eq!(desk.update.journal().previous, None);
    desk.reach_switch("three", 3);
    let ticket = desk.ticket();
    desk.give(Event::LoadFailed { ticket, fault: Fault::lasting(ErrorCode::StorageCorrupt, "") });
    assert!(desk.update.journal().candidate.is_none(), "the launcher found it unusable");
}

#[test]
fn a_candidate_that_cannot_be_loaded_reverts() {
    let mut desk = fresh();
    desk.reach_confirmed("one", 1);
    desk.reach_switch("two", 2);
    let ticket = desk.ticket();
    desk.give(Event::LoadFailed { ticket, fault: Fault::lasting(ErrorCode::ModelUnsupported, "Einsum") });
    assert_eq!(desk.activated(), Some((SlotName::A, release("one"))));
    assert_eq!(desk.failure(), Some(ErrorCode::ModelUnsupported));
}

#[test]
fn a_candidate_that_takes_the_device_down_is_reverted_without_any_network() {
    let mut desk = fresh();
    desk.reach_confirmed("one", 1);
    desk.reach_switch("two", 2);
    let mut journal = desk.update.journal().clone();
    let mut served = Vec::new();
    for _ in 0..TRIAL_STARTS {
        let desk = Desk::new(journal);
        served.push(desk.activated().unwrap().1);
        journal = desk.persisted().clone();
    }
    let (two, one) = (release("two"), release("one"));
    assert_eq!(served, [two, two, one]);
    assert_eq!(journal.failed.map(|f| (f.release, f.code)), Some((two, ErrorCode::ProbationFailed)));
}

#[test]
fn a_candidate_whose_probe_takes_the_device_down_is_given_up() {
    let mut desk = fresh();
    desk.reach_probe("one", 1);
    for _ in 1..PROBE_STARTS {
        desk = Desk::new(desk.update.journal().clone());
        desk.reach_files("one", 1);
        assert!(desk.effects.iter().any(|e| matches!(e, Effect::Probe { .. })));
    }
    desk = Desk::new(desk.update.journal().clone());
    desk.reach_files("one", 1);
    assert_eq!(desk.failure(), Some(ErrorCode::ProbeCrashed));
}

#[test]
fn a_damaged_confirmed_release_is_fetched_anew() {
    let mut desk = fresh();
    desk.reach_confirmed("one", 1);
    let mut desk = Desk::new(desk.update.journal().clone());
    let ticket = desk.ticket();
    desk.give(wanted("one"));
    desk.give(Event::LoadFailed { ticket, fault: Fault::lasting(ErrorCode::DigestMismatch, "model.onnx") });
    assert_eq!(desk.update.phase(), Phase::Downloading);
    assert_eq!(desk.failure(), Some(ErrorCode::DigestMismatch));
    let ticket = desk.ticket();
    desk.give(Event::EnvelopeFetched { ticket, result: Ok(facts(1)) });
    desk.give(Event::FilesComplete { ticket, result: Ok(()) });
    desk.give(Event::FilesVerified { ticket, result: Ok(()) });
    desk.give(Event::ProbeDone { ticket, result: Ok(probe_report()) });
    let ticket = desk.ticket();
    desk.give(Event::SwitchDone { ticket });
    assert_eq!((desk.update.phase(), desk.failure()), (Phase::Probation, None));
}

#[test]
fn a_confirmed_release_that_does_not_load_for_another_reason_is_tried_again() {
    let mut desk = fresh();
    desk.reach_confirmed("one", 1);
    let mut desk = Desk::new(desk.update.journal().clone());
    let ticket = desk.ticket();
    desk.give(Event::LoadFailed { ticket, fault: Fault::lasting(ErrorCode::Busy, "no memory") });
    assert_eq!((desk.update.phase(), desk.failure()), (Phase::Failed, Some(ErrorCode::Busy)));
    desk.now_ms = 1_000;
    desk.give(Event::Tick { health: Health::default() });
    let ticket = desk.ticket();
    desk.give(Event::SwitchDone { ticket });
    assert_eq!((desk.update.phase(), desk.failure()), (Phase::Confirmed, None));
}
