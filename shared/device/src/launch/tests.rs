//! The launcher, one event at a time.
#![expect(clippy::unwrap_used, reason = "tests fail by panicking")]

use super::handover::{self, Handover};
use super::*;
use flotilla_protocol::message::SlotName;
use flotilla_protocol::{Digest, ErrorCode};

const PATIENCE: u64 = 60_000;

fn binary(slot: SlotName, name: &str) -> Binary {
    Binary {
        slot,
        release: Digest::of(name.as_bytes()),
        counter: 1,
        version: name.into(),
        file: "agent".into(),
        bytes: 1,
        crc: 1,
    }
}

fn old() -> Binary {
    binary(SlotName::A, "old")
}

fn new() -> Binary {
    binary(SlotName::B, "new")
}

fn trial(starts: u32) -> LaunchJournal {
    let candidate = Some(Trial { binary: new(), starts, patience_ms: PATIENCE });
    LaunchJournal { confirmed: Some(old()), candidate, ..LaunchJournal::default() }
}

fn settled() -> LaunchJournal {
    LaunchJournal { confirmed: Some(new()), spare: Some(old()), ..LaunchJournal::default() }
}

/// A launcher whose effects are looked at, and a disk that takes what it writes.
struct Bench {
    launcher: Launcher,
    disk: LaunchJournal,
    effects: Vec<Effect>,
    now_ms: u64,
}

impl Bench {
    fn new(disk: LaunchJournal) -> Self {
        let mut bench = Self { launcher: Launcher::default(), disk, effects: Vec::new(), now_ms: 0 };
        bench.give(Event::Started(bench.disk.clone()));
        bench
    }

    fn give(&mut self, event: Event) {
        let (next, effects) = self.launcher.step(event, self.now_ms, 0);
        for effect in &effects {
            if let Effect::Persist(journal) = effect {
                self.disk = journal.clone();
            }
        }
        (self.launcher, self.effects) = (next, effects);
    }

    fn runs(&self) -> Option<Place> {
        self.effects.iter().rev().find_map(|effect| match effect {
            Effect::Run(place, _) => Some(*place),
            _ => None,
        })
    }

    fn exits(&mut self, exit: Exit) {
        self.give(Event::Exited(exit, self.disk.clone()));
    }

    fn passes(&mut self, ms: u64) {
        self.now_ms += ms;
        self.give(Event::Tick(self.disk.clone()));
    }
}

const A: Option<Place> = Some(Place::Slot(SlotName::A));
const B: Option<Place> = Some(Place::Slot(SlotName::B));
const INSTALLED: Option<Place> = Some(Place::Installed);

#[test]
fn without_a_journal_the_installed_binary_runs() {
    assert_eq!(Bench::new(LaunchJournal::default()).runs(), INSTALLED);
}

#[test]
fn a_candidate_is_counted_before_it_is_started_and_given_up_after_its_starts() {
    let mut bench = Bench::new(trial(0));
    for start in 1..=TRIAL_STARTS {
        assert_eq!(bench.runs(), B);
        let counted = bench.effects.iter().position(|e| matches!(e, Effect::Persist(_)));
        let run = bench.effects.iter().position(|e| matches!(e, Effect::Run(..)));
        assert!(counted < run);
        assert_eq!(bench.disk.candidate.as_ref().unwrap().starts, start);
        bench.exits(Exit::Code(101));
        if start < TRIAL_STARTS {
            bench.passes(60_000);
        }
    }
    assert_eq!(bench.runs(), A);
    let given_up = bench.disk.given_up.clone().unwrap();
    assert_eq!((given_up.release, given_up.why.code()), (new().release, ErrorCode::AgentCrashed));
    assert!(given_up.detail.contains("code 101"), "{}", given_up.detail);
    assert_eq!(bench.disk.candidate, None);
}

#[test]
fn a_candidate_that_says_nothing_is_stopped_and_given_up_when_its_time_is_over() {
    let mut bench = Bench::new(trial(0));
    bench.passes(PATIENCE - 1);
    assert!(!bench.effects.contains(&Effect::Ask));
    bench.passes(1);
    assert!(bench.effects.contains(&Effect::Ask));
    bench.passes(KILL_MS);
    assert!(bench.effects.contains(&Effect::Kill));
    bench.exits(Exit::Signal(9));
    assert_eq!(bench.runs(), A);
    assert_eq!(bench.disk.given_up.as_ref().unwrap().why, Why::Late);
}

#[test]
fn a_confirmed_candidate_stays_and_its_crashes_count_as_any_others() {
    let mut bench = Bench::new(trial(0));
    bench.disk = handover::confirm(&bench.disk, Place::Slot(SlotName::B), new().release).unwrap();
    assert_eq!(bench.disk, settled());
    bench.passes(PATIENCE);
    assert_eq!(bench.effects, []);
    bench.exits(Exit::Signal(11));
    bench.passes(60_000);
    assert_eq!((bench.runs(), bench.disk.given_up.as_ref()), (B, None));
}

#[test]
fn a_candidate_whose_start_cannot_be_counted_is_not_started() {
    let mut bench = Bench::new(trial(1));
    bench.disk = trial(1);
    bench.give(Event::NotPersisted);
    assert_eq!(bench.runs(), A);
    // The disk has room again.
    bench.exits(Exit::Signal(9));
    bench.passes(60_000);
    assert_eq!(bench.runs(), B);
    assert_eq!(bench.disk.candidate.as_ref().unwrap().starts, 2);
}

#[test]
fn a_damaged_binary_is_passed_over_for_the_spare_and_then_the_installed_one() {
    let mut bench = Bench::new(settled());
    let damaged = || Event::NotRunning { unusable: true, detail: "damaged".into() };
    assert_eq!(bench.runs(), B);
    bench.give(damaged());
    assert_eq!(bench.runs(), A);
    bench.give(damaged());
    assert_eq!(bench.runs(), INSTALLED);
    assert_eq!(bench.disk, settled(), "what is confirmed stays so: its file may come back");
}

#[test]
fn a_confirmed_binary_that_does_not_stay_up_makes_room_for_something_older() {
    let mut bench = Bench::new(settled());
    let mut places = Vec::new();
    for _ in 0..3 * CRASHES {
        places.push(bench.runs());
        bench.exits(Exit::Signal(6));
        bench.passes(60_000);
    }
    let n = CRASHES as usize;
    assert_eq!(places[..n], vec![B; n]);
    assert!(places.contains(&A) && places.contains(&INSTALLED), "{places:?}");
}

#[test]
fn the_launcher_passes_a_stop_on_and_ends_with_the_agent() {
    let mut bench = Bench::new(settled());
    bench.give(Event::Stop);
    assert!(bench.effects.contains(&Effect::Ask));
    bench.exits(Exit::Code(0));
    assert_eq!(bench.effects, [Effect::Finish]);
    let mut waiting = Bench::new(settled());
    waiting.exits(Exit::Code(1));
    waiting.give(Event::Stop);
    assert_eq!(waiting.effects, [Effect::Finish]);
}

#[test]
fn an_agent_that_asks_for_a_switch_without_one_is_not_obeyed_at_once() {
    let mut bench = Bench::new(settled());
    bench.exits(Exit::Code(EXIT_SWITCH.into()));
    assert_eq!(bench.runs(), None);
    bench.passes(60_000);
    assert_eq!(bench.runs(), B);
}

#[test]
fn the_agent_hands_over_once_and_takes_no_for_an_answer() {
    let place = Place::Slot(SlotName::A);
    let before = LaunchJournal { confirmed: Some(old()), ..LaunchJournal::default() };
    let Handover::Switch(after) = handover::activate(&before, place, new(), Some(PATIENCE)) else { panic!() };
    assert_eq!(after, trial(0));
    assert_eq!(
        handover::activate(&trial(1), Place::Slot(SlotName::B), new(), Some(PATIENCE)),
        Handover::Here
    );
    let Handover::Refused(fault) = handover::activate(&after, place, new(), Some(PATIENCE)) else { panic!() };
    assert_eq!(fault.code, ErrorCode::StorageIo);

    let why = GivenUp { release: new().release, why: Why::Late, starts: 1, detail: "late".into() };
    let given_up = LaunchJournal { given_up: Some(why), ..before.clone() };
    let Handover::Refused(fault) = handover::activate(&given_up, place, new(), Some(PATIENCE)) else {
        panic!()
    };
    assert_eq!((fault.code, fault.transient), (ErrorCode::AgentUnhealthy, false));
    // Once that is noted, a later attempt of the same release is handed over again.
    let noted = handover::forget(&given_up, &handover::recover(&before)).unwrap();
    assert!(matches!(handover::activate(&noted, place, new(), Some(PATIENCE)), Handover::Switch(_)));
}

#[test]
fn a_candidate_that_gives_itself_up_goes_back_to_the_one_before() {
    let place = Place::Slot(SlotName::B);
    let Handover::Switch(back) = handover::activate(&trial(1), place, old(), None) else { panic!() };
    assert_eq!(back, LaunchJournal { confirmed: Some(old()), ..LaunchJournal::default() });
    let first = LaunchJournal { confirmed: None, ..trial(1) };
    assert_eq!(handover::deactivate(&first, place), (LaunchJournal::default(), true));
    assert_eq!(handover::deactivate(&first, Place::Installed), (LaunchJournal::default(), false));
}

#[test]
fn an_agent_that_was_started_in_place_of_a_damaged_one_says_so() {
    let Handover::Refused(fault) = handover::activate(&settled(), Place::Installed, new(), None) else {
        panic!()
    };
    assert_eq!(fault.code, ErrorCode::StorageCorrupt);
    // A launcher that has lost its journal is told again.
    let told = handover::activate(&LaunchJournal::default(), Place::Installed, new(), None);
    assert_eq!(told, Handover::Switch(LaunchJournal { confirmed: Some(new()), ..LaunchJournal::default() }));
}

#[test]
fn a_spare_below_the_floor_or_about_to_be_overwritten_is_dropped() {
    assert_eq!(handover::raise_floor(&settled(), 1), None);
    assert_eq!(handover::raise_floor(&settled(), 2).unwrap().spare, None);
    assert_eq!(handover::refill(&settled(), SlotName::A).unwrap().spare, None);
    assert_eq!(handover::refill(&trial(0), SlotName::B), None);
}
