//! From what is wanted to what is confirmed.

use super::*;

#[test]
fn what_holds_a_candidate_up_is_said_and_what_was_here_already_is_counted() {
    let mut desk = fresh();
    desk.give(wanted("one"));
    let ticket = desk.ticket();
    let missing = Fault::transient(ErrorCode::NotFound, "the cloud does not have it");
    desk.give(Event::EnvelopeFetched { ticket, result: Err(missing) });
    assert_eq!((desk.update.phase(), desk.failure()), (Phase::Downloading, Some(ErrorCode::NotFound)));
    assert!(desk.events().is_empty(), "that is no failure of the release");
    desk.now_ms += 1_000_000;
    desk.give(Event::Tick { health: Health::default() });
    let ticket = desk.ticket();
    desk.give(Event::EnvelopeFetched { ticket, result: Ok(facts(1)) });
    desk.give(Event::FilesReused { ticket, bytes: 5 });
    desk.give(Event::FileProgress { ticket, bytes_done: 7 });
    assert_eq!((desk.update.report().bytes_reused, desk.failure()), (5, None));
    desk.give(wanted("two"));
    assert_eq!(desk.update.report().bytes_reused, 0);
}

#[test]
fn what_a_patch_saved_is_reported_and_one_that_failed_is_an_event_and_no_failure() {
    let mut desk = fresh();
    desk.reach_confirmed("one", 1);
    desk.reach_files("two", 2);
    let ticket = desk.ticket();
    let fault = Fault::lasting(ErrorCode::DigestMismatch, "the base is damaged");
    desk.give(Event::PatchFailed { ticket, fault });
    assert_eq!(desk.events(), [(EventKind::Unpatched, Some(ErrorCode::DigestMismatch))]);
    desk.give(Event::FilesRebuilt { ticket, bytes: 85_000, patch_bytes: 12_000 });
    let report = desk.update.report();
    assert_eq!((report.bytes_rebuilt, report.bytes_patches, report.failure), (85_000, 12_000, None));
    assert_eq!(report.phase, Phase::Downloading);
    // What comes late is not of this attempt.
    desk.give(Event::FilesRebuilt { ticket: ticket - 1, bytes: 1, patch_bytes: 1 });
    assert_eq!(desk.update.report().bytes_rebuilt, 85_000);
    desk.give(wanted("three"));
    assert_eq!((desk.update.report().bytes_rebuilt, desk.update.report().bytes_patches), (0, 0));
}

#[test]
fn an_update_goes_through_every_phase_and_changes_the_slot() {
    let mut desk = fresh();
    desk.reach_confirmed("one", 1);
    assert_eq!(desk.update.report().slot, Some(SlotName::A));
    desk.reach_files("two", 2);
    assert_eq!(desk.update.phase(), Phase::Downloading);
    let ticket = desk.ticket();
    desk.give(Event::FileProgress { ticket, bytes_done: 60 });
    let report = desk.update.report();
    assert_eq!((report.bytes_done, report.bytes_total), (60, 100));
    desk.give(Event::FilesComplete { ticket, result: Ok(()) });
    assert_eq!(desk.update.phase(), Phase::Verifying);
    desk.give(Event::FilesVerified { ticket, result: Ok(()) });
    assert_eq!(desk.update.phase(), Phase::Probing);
    let ticket = desk.ticket();
    desk.give(Event::ProbeDone { ticket, result: Ok(probe_report()) });
    assert_eq!(desk.update.phase(), Phase::Switching);
    assert_eq!(
        desk.update.report().slot,
        Some(SlotName::A),
        "the confirmed release serves until the other does"
    );
    assert_eq!(desk.activated(), Some((SlotName::B, release("two"))));
    let ticket = desk.ticket();
    desk.give(Event::SwitchDone { ticket });
    assert_eq!(desk.update.report().slot, Some(SlotName::B));
    desk.now_ms += PROBATION_MS;
    desk.give(Event::Tick { health: Health::default() });
    let report = desk.update.report();
    assert_eq!((report.phase, report.confirmed), (Phase::Confirmed, Some(release("two"))));
    assert_eq!(report.probe, Some(probe_report()));
    assert_eq!(desk.events(), [(EventKind::Confirmed, None)]);
}

#[test]
fn the_switch_is_the_journal_write_before_the_load() {
    let mut desk = fresh();
    desk.reach_switch("one", 1);
    assert_eq!(desk.persisted().candidate.as_ref().map(|c| (c.step, c.starts)), Some((Step::Trial, 1)));
    assert_eq!(desk.activated(), Some((SlotName::A, release("one"))));
}

#[test]
fn faults_of_the_link_are_tried_again_and_never_failures() {
    let mut desk = fresh();
    desk.give(wanted("one"));
    let mut waits = Vec::new();
    for _ in 0..4 {
        let ticket = desk.ticket();
        let fault = Fault::transient(ErrorCode::Network, "gone");
        desk.give(Event::EnvelopeFetched { ticket, result: Err(fault) });
        let Some(Effect::ScheduleTick { at_ms }) = desk.effects.last().cloned() else { panic!("no tick") };
        waits.push(at_ms - desk.now_ms);
        desk.now_ms = at_ms;
        desk.give(Event::Tick { health: Health::default() });
    }
    assert_eq!(waits, [500, 1_000, 2_000, 4_000]);
    assert_eq!((desk.update.phase(), desk.failure()), (Phase::Downloading, Some(ErrorCode::Network)));
    assert_eq!(desk.update.journal().failed, None);
}

#[test]
fn a_refused_release_is_not_tried_again_until_the_attempt_rises() {
    let mut desk = fresh();
    desk.give(wanted("bad"));
    let ticket = desk.ticket();
    let fault = Fault::lasting(ErrorCode::SignatureInvalid, "unsigned");
    desk.give(Event::EnvelopeFetched { ticket, result: Err(fault) });
    assert_eq!((desk.update.phase(), desk.failure()), (Phase::Failed, Some(ErrorCode::SignatureInvalid)));
    assert_eq!(desk.give(wanted("bad")), []);
    let journal = desk.update.journal().clone();
    let mut desk = Desk::new(journal);
    assert_eq!(desk.give(wanted("bad")), [], "a restart is no new attempt");
    desk.give(wanted_attempt("bad", 1));
    assert_eq!(desk.update.phase(), Phase::Downloading);
    assert_eq!(desk.update.report().attempt, 1);
}

#[test]
fn a_failed_release_is_tried_again_after_another_was_wanted() {
    let mut desk = fresh();
    desk.reach_confirmed("one", 1);
    desk.give(wanted("bad"));
    let ticket = desk.ticket();
    desk.give(Event::EnvelopeFetched { ticket, result: Err(Fault::lasting(ErrorCode::BoardMismatch, "")) });
    desk.give(wanted("one"));
    assert_eq!((desk.update.phase(), desk.failure()), (Phase::Confirmed, None));
    desk.give(wanted("bad"));
    assert_eq!(desk.update.phase(), Phase::Downloading);
}

#[test]
fn a_newer_desired_document_cancels_a_download_and_its_late_answers() {
    let mut desk = fresh();
    desk.reach_files("one", 1);
    let old = desk.ticket();
    desk.give(wanted("two"));
    assert!(desk.effects.contains(&Effect::Cancel));
    assert_eq!(desk.persisted().candidate.as_ref().map(|c| c.release), Some(release("two")));
    let before = desk.update.clone();
    for late in [
        Event::FilesComplete { ticket: old, result: Ok(()) },
        Event::FileProgress { ticket: old, bytes_done: 50 },
        Event::EnvelopeFetched { ticket: old, result: Ok(facts(1)) },
    ] {
        assert_eq!(desk.give(late), []);
    }
    assert_eq!(desk.update, before);
}

#[test]
fn floor_and_expiry_are_checked_once_more_at_the_moment_of_activation() {
    for (late, code) in [
        (Context { floor: 9, ..ctx(0) }, ErrorCode::BelowFloor),
        (Context { trusted_now_ms: 2_000, ..ctx(0) }, ErrorCode::Expired),
    ] {
        let mut desk = fresh();
        desk.reach_probe("one", 8);
        let ticket = desk.ticket();
        let (next, effects) =
            desk.update.step(Event::ProbeDone { ticket, result: Ok(probe_report()) }, &late);
        assert_eq!(next.report().failure.map(|f| f.code), Some(code));
        assert!(!effects.iter().any(|e| matches!(e, Effect::Activate { .. })));
    }
}

#[test]
fn a_failed_probe_leaves_the_confirmed_release_alone() {
    let mut desk = fresh();
    desk.reach_confirmed("one", 1);
    desk.reach_probe("two", 2);
    let ticket = desk.ticket();
    desk.give(Event::ProbeDone { ticket, result: Err(Fault::lasting(ErrorCode::ProbeMismatch, "0.5 off")) });
    let report = desk.update.report();
    assert_eq!(
        (report.phase, report.confirmed, report.slot),
        (Phase::Failed, Some(release("one")), Some(SlotName::A))
    );
    assert_eq!(desk.activated(), None);
}

#[test]
fn an_operator_who_goes_back_during_probation_is_obeyed_at_once() {
    let mut desk = fresh();
    desk.reach_confirmed("one", 1);
    desk.reach_probation("two", 2);
    desk.give(wanted("one"));
    assert_eq!(desk.activated(), Some((SlotName::A, release("one"))));
    let ticket = desk.ticket();
    desk.give(Event::SwitchDone { ticket });
    assert_eq!((desk.update.phase(), desk.failure()), (Phase::Confirmed, None));
}

#[test]
fn a_restart_serves_the_confirmed_release_at_once_and_takes_the_download_up_again() {
    let mut desk = fresh();
    desk.reach_confirmed("one", 1);
    desk.reach_files("two", 2);
    let mut desk = Desk::new(desk.update.journal().clone());
    assert_eq!(desk.activated(), Some((SlotName::A, release("one"))));
    desk.give(wanted("two"));
    let fetch = desk.effects.iter().find(|e| matches!(e, Effect::FetchRelease { .. }));
    assert!(matches!(fetch, Some(Effect::FetchRelease { slot: SlotName::B, .. })), "{fetch:?}");
}

#[test]
fn a_model_that_is_not_wanted_any_more_is_removed() {
    let mut desk = fresh();
    desk.reach_confirmed("one", 1);
    desk.reach_files("two", 2);
    desk.give(Event::Desired(None));
    assert!(desk.persisted().is_empty());
    assert!(desk.effects.contains(&Effect::Deactivate));
    assert!(desk.update.is_gone());
    assert_eq!(desk.give(Event::Desired(None)), []);
}

#[test]
fn a_trial_without_a_way_back_comes_to_its_end_before_another_release_is_taken_up() {
    let mut desk = fresh();
    desk.reach_probation("one", 1);
    desk.give(wanted("two"));
    assert_eq!(desk.update.phase(), Phase::Probation);
    desk.now_ms += PROBATION_MS;
    desk.give(Event::Tick { health: Health::default() });
    let report = desk.update.report();
    assert_eq!((report.confirmed, report.candidate), (Some(release("one")), Some(release("two"))));
}

#[test]
fn what_serves_is_loaded_anew_on_demand() {
    let mut desk = fresh();
    desk.reach_confirmed("one", 1);
    desk.give(Event::Reload);
    assert_eq!(desk.activated(), Some((SlotName::A, release("one"))));
    assert_eq!(desk.update.report().slot, Some(SlotName::A));
}
