//! One shadow at a time: what the device does, in order.
#![expect(clippy::unwrap_used, reason = "tests fail by panicking")]

use super::*;
use crate::fault::Fault;
use crate::update::{self, Promise, ReleaseFacts};
use flotilla_protocol::message::{EventKind, ProbeReport, ShadowPhase, ShadowRelease};
use flotilla_protocol::{Digest, ErrorCode};

fn release(name: &str) -> Digest {
    Digest::of(name.as_bytes())
}

/// A machine, the last effects, and the model beside it.
struct Desk {
    shadow: Shadow,
    effects: Vec<Effect>,
    ctx: Context,
}

impl Desk {
    fn new(journal: ShadowJournal) -> Self {
        let beside = Beside { release: release("confirmed"), memory_bytes: 30 };
        let ctx = Context {
            now_ms: 0,
            trusted_now_ms: 1_000,
            floor: 3,
            confirmed: Some(beside.release),
            beside: Some(beside),
            coming: None,
            memory_bytes: 100,
            random: 0,
        };
        Self { shadow: Shadow::new("digits".parse().unwrap(), journal), effects: Vec::new(), ctx }
    }

    fn give(&mut self, event: Event) -> &[Effect] {
        let (next, effects) = self.shadow.step(event, &self.ctx);
        (self.shadow, self.effects) = (next, effects);
        &self.effects
    }

    fn want(&mut self, name: &str, attempt: u32) -> &[Effect] {
        let release = release(name);
        self.give(Event::Desired(Some(ShadowRelease {
            release,
            envelope_bytes: 900,
            attempt,
            share_per_mille: 500,
        })))
    }

    fn ticket(&self) -> u64 {
        let of = |effect: &Effect| match effect {
            Effect::FetchRelease { ticket, .. }
            | Effect::FetchFiles { ticket, .. }
            | Effect::VerifyFiles { ticket, .. }
            | Effect::Probe { ticket, .. }
            | Effect::Start { ticket, .. } => Some(*ticket),
            _ => None,
        };
        self.effects.iter().find_map(of).unwrap_or_else(|| panic!("no work in {:?}", self.effects))
    }

    fn envelope(&mut self, memory_bytes: u64) -> &[Effect] {
        let promise = Promise { latency_us: 0, memory_bytes };
        let facts = ReleaseFacts { counter: 7, expires_at_ms: Some(2_000), total_bytes: 10, promise };
        let ticket = self.ticket();
        self.give(Event::Intake(update::Event::EnvelopeFetched { ticket, result: Ok(facts) }))
    }

    fn probe(&mut self, peak_rss_bytes: u64) -> &[Effect] {
        let ticket = self.ticket();
        let report = ProbeReport { vectors: 1, max_abs_error: 0.0, p50_ms: 1.0, p95_ms: 1.0, peak_rss_bytes };
        self.give(Event::Intake(update::Event::ProbeDone { ticket, result: Ok(report) }))
    }

    /// All the way from wanted to started.
    fn started(name: &str) -> Self {
        let mut desk = Self::new(ShadowJournal::default());
        desk.want(name, 0);
        desk.envelope(0);
        let ticket = desk.ticket();
        desk.give(Event::Intake(update::Event::FilesComplete { ticket, result: Ok(()) }));
        let ticket = desk.ticket();
        desk.give(Event::Intake(update::Event::FilesVerified { ticket, result: Ok(()) }));
        desk.probe(20);
        desk
    }

    fn running(name: &str) -> (Self, u64) {
        let mut desk = Self::started(name);
        let ticket = desk.ticket();
        desk.give(Event::Runs { ticket });
        assert_eq!(desk.phase(), ShadowPhase::Running);
        (desk, ticket)
    }

    fn phase(&self) -> ShadowPhase {
        self.shadow.report().unwrap().phase
    }

    fn failure(&self) -> ErrorCode {
        let report = self.shadow.report().unwrap();
        assert_eq!(report.phase, ShadowPhase::Failed);
        report.failure.unwrap().code
    }

    fn does(&self, check: impl Fn(&Effect) -> bool) -> bool {
        self.effects.iter().any(check)
    }
}

#[test]
fn a_shadow_runs_beside_the_confirmed_release_and_makes_way_for_an_update() {
    let (mut desk, _) = Desk::running("new");
    desk.ctx.beside = None;
    desk.give(Event::Model);
    assert!(desk.does(|e| *e == Effect::Stop));
    assert_eq!(desk.phase(), ShadowPhase::Staged);
    // The update failed, or another release was confirmed: it goes on, without a new probe.
    let other = release("other");
    (desk.ctx.confirmed, desk.ctx.beside) = (Some(other), Some(Beside { release: other, memory_bytes: 30 }));
    desk.give(Event::Model);
    assert!(
        desk.does(|e| matches!(e, Effect::Start { against, share_per_mille: 500, .. } if *against == other))
    );
}

#[test]
fn a_promoted_shadow_ends_and_its_place_is_freed() {
    let (mut desk, _) = Desk::running("new");
    let promoted = Beside { release: release("new"), memory_bytes: 20 };
    (desk.ctx.confirmed, desk.ctx.beside) = (Some(promoted.release), Some(promoted));
    desk.give(Event::Model);
    assert!(desk.does(|e| *e == Effect::Stop) && desk.does(|e| *e == Effect::Clear));
    assert_eq!(desk.phase(), ShadowPhase::Promoted);
    // Also from a cold start, before the confirmed release serves.
    let mut desk = Desk::new(ShadowJournal::default());
    (desk.ctx.confirmed, desk.ctx.beside) = (Some(release("new")), None);
    desk.want("new", 0);
    assert!(!desk.does(|e| matches!(e, Effect::FetchRelease { .. })));
    assert_eq!(desk.phase(), ShadowPhase::Promoted);
}

#[test]
fn a_shadow_never_runs_beside_itself_even_if_nobody_could_note_down_that_it_was_promoted() {
    let mut desk = Desk::new(ShadowJournal::default());
    desk.want("new", 0);
    desk.envelope(0);
    let ticket = desk.ticket();
    desk.give(Event::Intake(update::Event::FilesComplete { ticket, result: Ok(()) }));
    let ticket = desk.ticket();
    desk.give(Event::Intake(update::Event::FilesVerified { ticket, result: Ok(()) }));
    // The step for it was lost with a full disk; what comes next is the end of the probe.
    let promoted = Beside { release: release("new"), memory_bytes: 20 };
    (desk.ctx.confirmed, desk.ctx.beside) = (Some(promoted.release), Some(promoted));
    desk.probe(20);
    assert!(!desk.does(|e| matches!(e, Effect::Start { .. })));
    assert_eq!(desk.phase(), ShadowPhase::Promoted);
}

#[test]
fn what_an_update_is_about_to_take_stays_until_it_has_it() {
    let (mut desk, _) = Desk::running("new");
    desk.ctx.coming = Some(release("new"));
    desk.give(Event::Desired(None));
    assert!(desk.does(|e| *e == Effect::Stop) && !desk.does(|e| *e == Effect::Clear));
    (desk.ctx.coming, desk.ctx.confirmed) = (None, Some(release("new")));
    desk.give(Event::Model);
    assert!(desk.does(|e| *e == Effect::Clear) && desk.shadow.is_gone());
}

#[test]
fn a_shadow_that_does_not_fit_beside_the_confirmed_release_is_refused() {
    let mut desk = Desk::new(ShadowJournal::default());
    desk.want("new", 0);
    desk.envelope(71);
    assert!(!desk.does(|e| matches!(e, Effect::FetchFiles { .. })), "before a byte of it is fetched");
    assert_eq!(desk.failure(), ErrorCode::NoRoom);
    desk.want("new", 0);
    assert!(!desk.does(|e| matches!(e, Effect::FetchRelease { .. })), "not again by itself");
    desk.want("new", 1);
    desk.envelope(70);
    assert!(desk.does(|e| matches!(e, Effect::FetchFiles { .. })));
}

#[test]
fn the_second_crash_is_the_last_and_another_attempt_begins_anew() {
    let (mut desk, ticket) = Desk::running("new");
    let crash =
        |ticket| Event::Ended { ticket, end: End::Crashed(Fault::lasting(ErrorCode::Timeout, "no answer")) };
    desk.give(crash(ticket));
    assert_eq!(desk.phase(), ShadowPhase::Staged);
    assert!(matches!(&desk.effects[0], Effect::PersistJournal(j) if j.held.as_ref().unwrap().crashes == 1));
    desk.ctx.now_ms = 1_000;
    desk.give(Event::Tick);
    desk.envelope(0);
    let ticket = desk.ticket();
    desk.give(Event::Runs { ticket });
    desk.give(crash(ticket));
    assert_eq!(desk.failure(), ErrorCode::Timeout);
    let failed = |e: &Effect| matches!(e, Effect::EmitEvent(event) if event.kind == EventKind::Failed);
    assert!(desk.does(failed) && desk.does(|e| *e == Effect::Clear));
    desk.give(crash(ticket));
    assert_eq!(desk.effects, [], "an old ticket");
    desk.want("new", 1);
    assert!(desk.does(|e| matches!(e, Effect::FetchRelease { .. })));
}

#[test]
fn damage_is_fetched_anew_and_tried_anew() {
    let mut desk = Desk::started("new");
    let ticket = desk.ticket();
    let fault = Fault::lasting(ErrorCode::DigestMismatch, "changed");
    desk.give(Event::Ended { ticket, end: End::Refused(fault) });
    assert_eq!(desk.phase(), ShadowPhase::Downloading);
    desk.ctx.now_ms = 1_000;
    desk.give(Event::Tick);
    desk.envelope(0);
    assert!(desk.does(|e| matches!(e, Effect::FetchFiles { .. })));
}

#[test]
fn a_device_that_goes_down_whenever_the_shadow_starts_gives_it_up() {
    let mut journal = Desk::started("new").shadow.journal().clone();
    for start in 1..=STARTS {
        assert_eq!(journal.held.as_ref().map(|held| held.starts), Some(start));
        let mut desk = Desk::new(journal.clone());
        desk.want("new", 0);
        desk.envelope(0);
        journal = desk.shadow.journal().clone();
        if start == STARTS {
            assert_eq!(desk.failure(), ErrorCode::ModelCrashed);
        }
    }
    // One that stays up forgets.
    let (mut desk, _) = Desk::running("new");
    desk.ctx.now_ms = SETTLED_MS;
    desk.give(Event::Tick);
    assert_eq!(desk.shadow.journal().held.as_ref().map(|held| held.starts), Some(0));
}

#[test]
fn another_share_is_no_restart() {
    let (mut desk, _) = Desk::running("new");
    let release = release("new");
    let wanted = ShadowRelease { release, envelope_bytes: 900, attempt: 0, share_per_mille: 7_000 };
    desk.give(Event::Desired(Some(wanted)));
    assert_eq!(
        desk.effects,
        [Effect::Share { share_per_mille: 1_000 }, Effect::ScheduleTick { at_ms: SETTLED_MS }]
    );
}
