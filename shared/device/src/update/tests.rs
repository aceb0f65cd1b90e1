//! One update at a time: what the device does, in order.
#![expect(clippy::unwrap_used, reason = "tests fail by panicking")]

use super::*;
use crate::fault::Fault;
use flotilla_protocol::message::{DesiredModel, EventKind, Phase, ProbeReport, SlotName};
use flotilla_protocol::{Digest, ErrorCode};

const PROBATION_MS: u64 = 60_000;

fn ctx(now_ms: u64) -> Context {
    Context {
        now_ms,
        trusted_now_ms: 1_000,
        floor: 0,
        probation_ms: PROBATION_MS,
        probation_error_per_mille: 50,
        memory_bytes: 1_000,
        temperature_c: 90,
        random: 0,
    }
}

fn release(name: &str) -> Digest {
    Digest::of(name.as_bytes())
}

fn wanted(name: &str) -> Event {
    wanted_attempt(name, 0)
}

fn wanted_attempt(name: &str, attempt: u32) -> Event {
    Event::Desired(Some(DesiredModel { release: release(name), envelope_bytes: 900, attempt }))
}

fn facts(counter: u64) -> ReleaseFacts {
    ReleaseFacts { counter, expires_at_ms: Some(2_000), total_bytes: 100, promise: Promise::default() }
}

fn served(predictions: u64, failures: u64) -> Health {
    Health { predictions, failures, ..Health::default() }
}

fn probe_report() -> ProbeReport {
    ProbeReport { vectors: 8, max_abs_error: 0.0, p50_ms: 1.0, p95_ms: 2.0, peak_rss_bytes: 3 }
}

/// A machine and the last effects; answers the open effect with what the test says.
struct Desk {
    update: Update,
    effects: Vec<Effect>,
    now_ms: u64,
}

impl Desk {
    fn new(journal: UpdateJournal) -> Self {
        Self::started(journal, false)
    }

    fn started(journal: UpdateJournal, crashed: bool) -> Self {
        let mut desk =
            Self { update: Update::new("digits".parse().unwrap(), journal), effects: Vec::new(), now_ms: 0 };
        desk.give(Event::Started { crashed });
        desk
    }

    fn give(&mut self, event: Event) -> &[Effect] {
        let (next, effects) = self.update.step(event, &ctx(self.now_ms));
        (self.update, self.effects) = (next, effects);
        &self.effects
    }

    fn ticket(&self) -> u64 {
        let of = |effect: &Effect| match effect {
            Effect::FetchRelease { ticket, .. }
            | Effect::FetchFiles { ticket, .. }
            | Effect::VerifyFiles { ticket, .. }
            | Effect::Probe { ticket, .. }
            | Effect::Activate { ticket, .. } => Some(*ticket),
            _ => None,
        };
        self.effects
            .iter()
            .rev()
            .find_map(of)
            .unwrap_or_else(|| panic!("nothing to answer in {:?}", self.effects))
    }

    fn reach_files(&mut self, name: &str, counter: u64) {
        self.give(wanted(name));
        let ticket = self.ticket();
        self.give(Event::EnvelopeFetched { ticket, result: Ok(facts(counter)) });
    }

    fn reach_probe(&mut self, name: &str, counter: u64) {
        self.reach_files(name, counter);
        let ticket = self.ticket();
        self.give(Event::FilesComplete { ticket, result: Ok(()) });
        self.give(Event::FilesVerified { ticket, result: Ok(()) });
    }

    fn reach_switch(&mut self, name: &str, counter: u64) {
        self.reach_probe(name, counter);
        let ticket = self.ticket();
        self.give(Event::ProbeDone { ticket, result: Ok(probe_report()) });
    }

    fn reach_probation(&mut self, name: &str, counter: u64) {
        self.reach_switch(name, counter);
        let ticket = self.ticket();
        self.give(Event::SwitchDone { ticket });
        assert_eq!(self.update.phase(), Phase::Probation);
    }

    fn reach_confirmed(&mut self, name: &str, counter: u64) {
        self.reach_probation(name, counter);
        self.now_ms += PROBATION_MS;
        self.give(Event::Tick { health: served(10, 0) });
        assert_eq!(self.update.phase(), Phase::Confirmed);
    }

    fn persisted(&self) -> &UpdateJournal {
        match self.effects.first() {
            Some(Effect::PersistJournal(journal)) => journal,
            other => panic!("no journal write, but {other:?}"),
        }
    }

    fn failure(&self) -> Option<ErrorCode> {
        self.update.report().failure.map(|failure| failure.code)
    }

    fn events(&self) -> Vec<(EventKind, Option<ErrorCode>)> {
        let of = |effect: &Effect| match effect {
            Effect::EmitEvent(event) => Some((event.kind, event.code)),
            _ => None,
        };
        self.effects.iter().filter_map(of).collect()
    }

    fn activated(&self) -> Option<(SlotName, Digest)> {
        self.effects.iter().find_map(|effect| match effect {
            Effect::Activate { slot, release, .. } => Some((*slot, *release)),
            _ => None,
        })
    }
}

fn fresh() -> Desk {
    Desk::new(UpdateJournal::default())
}

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
